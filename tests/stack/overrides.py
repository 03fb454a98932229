"""All that the stack test changes in what docker-compose.yml mounts and runs, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Override:
    """In files of `service` that are mounted at or under `target`: `old`, a regular expression, becomes `new`."""

    service: str
    target: str
    old: str
    new: str
    reason: str


QUICK = "a test waits seconds, not minutes"

FILES = (
    Override("prometheus", "/etc/prometheus/prometheus.yml", r"scrape_interval: 15s", "scrape_interval: 1s", QUICK),
    Override("prometheus", "/etc/prometheus/prometheus.yml", r"scrape_timeout: 10s", "scrape_timeout: 1s", QUICK),
    Override("prometheus", "/etc/prometheus/prometheus.yml", r"evaluation_interval: 15s", "evaluation_interval: 1s", QUICK),
    Override("alertmanager", "/etc/alertmanager", r"group_wait: 10s", "group_wait: 0s", QUICK),
    Override("alertmanager", "/etc/alertmanager", r"group_interval: 1m", "group_interval: 1s", QUICK),
    Override("grafana", "/etc/grafana/provisioning/alerting", r"interval: 30s", "interval: 10s", QUICK),
)  # fmt: skip
# Files of by-grafana hold what those of by-alertmanager do not; and nothing is generated yet in some states of a tree.
ONLY_IN_ONE_MODE = {"/etc/alertmanager", "/etc/grafana/provisioning/alerting"}

ARGUMENTS = {
    # An alert that fires before Alertmanager is found is lost until it is sent again: once a minute.
    "prometheus": ("--rules.alert.resend-delay=1s",),
}
