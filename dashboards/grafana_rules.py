"""The same alerts for Grafana, which evaluates them itself and notifies; and what removes them again.

`by-grafana/` is mounted where Grafana notifies, `by-alertmanager/` where Alertmanager does (docs/adr/0008). No `$` may
stand in these files but for `$__file`: provisioning expands variables.
"""

from __future__ import annotations

from typing import Any, Final

from dashboards.alert import Alert
from dashboards.alerts import ALERTS
from dashboards.yaml_files import text

ORG: Final = 1
FOLDER: Final = "agentobs"
INTERVAL: Final = "30s"  # a multiple of 10 s
CONTACT: Final = "agentobs-webhook"
NEVER: Final = "never"
# Annotations are made for a rule without series too, and one without a value would be an error in the log each time.
VALUE: Final = "{{ with .Values.A }}{{ .Value | {unit} }}{{ else }}?{{ end }}"
# Values are never negative: this holds for whatever a query returns.
ANYTHING: Final = {"type": "gt", "params": [-1]}


def files() -> dict[str, str]:
    group = {"orgId": ORG, "name": "agentobs", "folder": FOLDER, "interval": INTERVAL}
    rules = {"apiVersion": 1, "groups": [{**group, "rules": [_rule(alert) for alert in ALERTS]}]}
    removed = {"apiVersion": 1, "deleteRules": [{"orgId": ORG, "uid": uid(alert)} for alert in ALERTS]}
    return {
        "grafana-alerting/by-grafana/rules.yaml": text("Every alert of agentobs, evaluated by Grafana.", rules),
        "grafana-alerting/by-grafana/contact-points.yaml": text("Where alerts are sent.", _contacts()),
        "grafana-alerting/by-grafana/policies.yaml": text("Which alert goes where, and how often.", _policies()),
        "grafana-alerting/by-alertmanager/rules.yaml": text(
            "Alertmanager notifies: Grafana's rules of before are removed.", removed
        ),
    }


def uid(alert: Alert) -> str:
    """At most 40 characters, and the same for ever: Grafana knows a rule by it."""
    return alert.name.lower()


def _rule(alert: Alert) -> dict[str, Any]:
    evaluator = ANYTHING
    if alert.threshold is not None:
        evaluator = {"type": {">": "gt", "<": "lt"}[alert.op], "params": [alert.threshold]}
    return {
        "uid": uid(alert),
        "title": alert.name,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": "prometheus",
                "model": {"refId": "A", "expr": alert.query, "instant": True, "range": False},
            },
            {
                "refId": "C",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "C",
                    "type": "threshold",
                    "expression": "A",
                    "conditions": [{"evaluator": evaluator}],
                },
            },
        ],
        # No series is the healthy state of most; that metrics are missing is told by one alert.
        "noDataState": "OK",
        "execErrState": alert.on_error,
        "for": alert.for_,
        "dashboardUid": alert.dashboard,
        "panelId": int(alert.panel),
        "annotations": alert.annotations(VALUE),
        "labels": {"severity": alert.severity},
    }


def _contacts() -> dict[str, Any]:
    webhook = {"url": "$__file{/run/secrets/alert_webhook_url}", "httpMethod": "POST"}
    receivers = [{"uid": CONTACT, "type": "webhook", "settings": webhook}]
    return {"apiVersion": 1, "contactPoints": [{"orgId": ORG, "name": CONTACT, "receivers": receivers}]}


def _policies() -> dict[str, Any]:
    watchdog = {
        "receiver": CONTACT,
        "object_matchers": [["severity", "=", "none"]],
        "mute_time_intervals": [NEVER],
    }
    policy = {
        "orgId": ORG,
        "receiver": CONTACT,
        "group_by": ["grafana_folder", "alertname"],
        "group_wait": "5s",
        "group_interval": "1m",
        "repeat_interval": "4h",
        "routes": [watchdog],
    }
    always = [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]
    return {
        "apiVersion": 1,
        "policies": [policy],
        "muteTimes": [{"orgId": ORG, "name": NEVER, "time_intervals": always}],
    }
