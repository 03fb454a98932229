"""Alerts speak of metrics, labels and values that exist, and in both files of the same."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from agentobs.records import ERROR_TYPES, REASONS, TERMINAL
from agentobs.telemetry import names
from dashboards import ids
from dashboards.__main__ import GENERATED
from dashboards.alerts import ALERTS
from dashboards.grafana_rules import uid
from dashboards.recording import GROUPS
from tests.promtool import rules

RECORDED = {rule.record for _, _, group in GROUPS for rule in group}
OTHERS = {"up": ("job", "instance")}  # Prometheus's own
TARGET = ("job", "instance")
VALUES = {  # of labels in matchers; None: any
    "outcome": {*TERMINAL, *names.ATTEMPT_OUTCOMES, *names.EXPORT_OUTCOMES},
    "reason": set(REASONS),
    "converged": {"true", "false"},
    "error_type": {"", *ERROR_TYPES},
    "job": {"agentobs"},
}
EXPRESSIONS = [(rule.get("alert", rule.get("record")), rule["expr"]) for group in rules() for rule in group["rules"]]


def metric(name: str) -> names.Metric | None:
    return names.METRICS.get(name) or names.METRICS.get(re.sub("_(bucket|count|sum)$", "", name))


@pytest.mark.parametrize(("of", "expr"), EXPRESSIONS)
def test_every_metric_label_and_value_exists(of, expr):
    quoted = re.sub(r'"[^"]*"', '""', expr)
    found = re.findall(r"\b(?:agentobs_\w+|gen_ai_\w+|up|(?:agentobs|workflow):[\w:]+)\b(?=[{\[)\s]|$)", quoted)
    for name in found:
        assert metric(name) or name in RECORDED or name in OTHERS, name
    assert found or expr == "vector(1)"
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expr):
        known = metric(name)
        labels = (*known.labels, *TARGET) if known else OTHERS[name]
        for label, values in re.findall(r'(\w+)[=!~]+"([^"]*)"', matchers):
            assert label in labels, f"{name} has no label {label}"
            assert set(values.split("|")) <= VALUES[label], values


def test_grafana_compares_what_prometheus_compares():
    text = (GENERATED / "grafana-alerting" / "by-grafana" / "rules.yaml").read_text()
    [group] = yaml.safe_load(text)["groups"]
    assert [rule["title"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
    for rule, alert in zip(group["rules"], ALERTS, strict=True):
        query, condition = (part["model"] for part in rule["data"])
        evaluator = condition["conditions"][0]["evaluator"]
        [threshold] = evaluator["params"]
        operator = {"gt": ">", "lt": "<"}[evaluator["type"]]
        expected = (">", -1) if alert.threshold is None else (alert.op, alert.threshold)
        assert (operator, threshold) == expected
        assert alert.expr in query["expr"] and alert.guard in query["expr"]
        assert (rule["for"], rule["labels"]) == (alert.for_, {"severity": alert.severity})
        assert rule["noDataState"] == "OK"
    assert [rule["title"] for rule in group["rules"] if rule["execErrState"] != "OK"] == ["AgentobsMetricsAbsent"]
    assert "$" not in text, "provisioning expands variables"


def test_what_is_removed_is_what_was_provisioned():
    text = (GENERATED / "grafana-alerting" / "by-alertmanager" / "rules.yaml").read_text()
    assert [rule["uid"] for rule in yaml.safe_load(text)["deleteRules"]] == [uid(alert) for alert in ALERTS]
    assert all(len(uid(alert)) <= 40 for alert in ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_links_to_its_panel_with_its_labels(alert):
    notes = alert.annotations("{{ .Value }}")
    url = urlsplit(notes["dashboard_url"])
    asked = parse_qs(url.query)
    assert url.path == f"/d/{ids.UIDS[type(alert.panel)]}" == f"/d/{notes['__dashboardUid__']}"
    assert asked.pop("viewPanel") == [str(int(alert.panel))] == [notes["__panelId__"]]
    assert set(asked) == {f"var-{label}" for label in alert.by if label in ids.VARIABLES}
    assert notes["runbook_url"].endswith(f"/docs/runbooks/{alert.name}.md")
    assert "{value}" in alert.summary or alert.unit == "count"
    assert not re.search(r"[{]\w", notes["summary"]), "a name that was not filled in"
