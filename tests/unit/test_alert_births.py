"""What alerts take an increase of is there before it increases: a service that has just started tells zeros."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from agentobs.records import CLOSED, Change
from agentobs.telemetry import names
from agentobs.telemetry.labels import AgentLabels, WorkflowLabels
from agentobs.telemetry.metrics import Metrics
from tests.factories import MODEL, note
from tests.promtool import only, promtool, rules
from tests.unit.test_metrics import unit

WORKFLOW = WorkflowLabels(name="article", agents=(AgentLabels(name="writer", model=MODEL),), steps=("fetch",))
RANGES = sorted({
    found
    for group in rules()
    for rule in group["rules"]
    for found in re.findall(r"(?:increase|rate|changes)\((\w+)(?:\{([^}]*)\})?\[", rule["expr"])
})  # fmt: skip


def started() -> Metrics:
    metrics = Metrics(version="1")
    metrics.create_at_zero([WORKFLOW])
    return metrics


def samples(metrics: Metrics) -> list[Sample]:
    return [sample for family in metrics.registry.collect() for sample in family.samples]


@pytest.mark.parametrize(("name", "matchers"), RANGES)
def test_every_series_that_an_alert_takes_an_increase_of_is_there_at_the_start(name, matchers):
    wanted = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers)

    def matches(sample: Sample) -> bool:
        told = {"job": "agentobs", **sample.labels}
        operators = {"=": str.__eq__, "!=": str.__ne__, "=~": lambda here, those: here in those.split("|")}
        return sample.name == name and all(operators[how](told[label], value) for label, how, value in wanted)

    values = [sample.value for sample in samples(started()) if matches(sample)]
    assert values and set(values) == {0}
    for label, how, value in wanted:  # each of several, too
        for one in value.split("|") if how == "=~" else ():
            assert [s for s in samples(started()) if s.name == name and s.labels[label] == one], one


def test_the_very_first_debates_are_seen_not_to_converge(tmp_path: Path):
    metrics = started()
    [zero] = _undecided(metrics)
    metrics.observe([unit(Change(CLOSED, note("debate", '{"rounds":4,"converged":false}'))) for _ in range(3)])
    [three] = _undecided(metrics)
    labels = ",".join(f'{label}="{value}"' for label, value in three.labels.items())
    series = [
        # A scrape each 15 seconds: two of the new service, then its first three debates have ended.
        {"series": f'{three.name}{{{labels},instance="a"}}', "values": f"{zero.value}x1 {three.value}x60"},
        {"series": f'{three.name}{{workflow="article",converged="true",instance="a"}}', "values": "0x62"},
    ]
    alert = "AgentobsDebateNotConverging"
    fires = {"exp_labels": {"severity": "warning", "workflow": "article"}}
    tests = [
        {"eval_time": "5m", "alertname": alert, "exp_alerts": []},
        {"eval_time": "6m", "alertname": alert, "exp_alerts": [fires]},
    ]
    [group] = only(alert, rules())
    for rule in group["rules"]:
        rule["annotations"] = {}
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [group]}))
    scenario = {"interval": "15s", "input_series": series, "alert_rule_test": tests}
    text = json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [scenario]})
    (tmp_path / "test.yml").write_text(text)
    done = subprocess.run(
        [promtool(), "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _undecided(metrics: Metrics) -> list[Sample]:
    name = f"{names.DEBATE_ROUNDS.name}_count"
    return [sample for sample in samples(metrics) if sample.name == name and sample.labels["converged"] == "false"]
