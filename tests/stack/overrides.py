"""All that the stack test changes in what docker-compose.yml mounts and runs, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Override:
    """In what is mounted from `source` the regular expression `old` becomes `new`; it must be there."""

    source: str
    old: str
    new: str
    reason: str


QUICK = "a test waits seconds, not minutes"

FILES = (
    Override("./deploy/prometheus/prometheus.yml", r"scrape_interval: 15s", "scrape_interval: 1s", QUICK),
    Override("./deploy/prometheus/prometheus.yml", r"scrape_timeout: 10s", "scrape_timeout: 1s", QUICK),
    Override("./deploy/prometheus/prometheus.yml", r"evaluation_interval: 15s", "evaluation_interval: 1s", QUICK),
    Override("./dashboards/generated/prometheus", r"interval: 1m", "interval: 1s", QUICK),
    Override("./deploy/alertmanager/by-alertmanager.yml", r"group_wait: 10s", "group_wait: 0s", QUICK),
    Override("./deploy/alertmanager/by-alertmanager.yml", r"group_interval: 1m", "group_interval: 1s", QUICK),
    Override("./dashboards/generated/grafana-alerting/by-grafana", r"interval: 30s", "interval: 10s", QUICK),
)

ARGUMENTS = {
    # An alert that fires before Alertmanager is found is lost until it is sent again: once a minute.
    "prometheus": ("--rules.alert.resend-delay=1s",),
}


def of(source: str) -> tuple[Override, ...]:
    return tuple(one for one in FILES if one.source == source)
