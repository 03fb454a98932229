"""Recording and alerting rules for Prometheus."""

from __future__ import annotations

from typing import Any

from dashboards.alert import Alert
from dashboards.alerts import ALERTS
from dashboards.recording import GROUPS
from dashboards.yaml_files import text


def files() -> dict[str, str]:
    recording = [
        {"name": name, **({"interval": interval} if interval else {}), "rules": [vars(rule) for rule in rules]}
        for name, interval, rules in GROUPS
    ]
    alerting = [{"name": "agentobs-alerts", "rules": [_rule(alert) for alert in ALERTS]}]
    return {
        "prometheus/recording.yml": text(
            "What alerts and panels ask often, over windows that are dear.", {"groups": recording}
        ),
        "prometheus/alerts.yml": text(
            "Every alert of agentobs; the thresholds and their reasons are in dashboards/thresholds.py.",
            {"groups": alerting},
        ),
    }


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.rule,
        "for": alert.for_,
        "labels": {"severity": alert.severity},
        "annotations": alert.annotations("{{ .Value | {unit} }}"),
    }
