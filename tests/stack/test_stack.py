"""The real servers, started with the very files that docker-compose.yml mounts: every signal arrives, every link leads.

Needs the servers (tests/stack/install.sh puts them into $AGENTOBS_STACK_DIR); skipped without them, unless
AGENTOBS_TEST_REQUIRE names stack. One stack serves all tests, in their order: first Alertmanager notifies, later Grafana.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentobs.telemetry import names
from tests.acceptance.books import Books, Line, read_journal, spans_due
from tests.acceptance.harness import until
from tests.acceptance.test_trace_tree import Due
from tests.stack import compose, runner, traffic
from tests.stack.backends import Grafana, Jaeger, Loki, Prometheus, Webhook
from tests.stack.runner import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SERVICES = ("loki", "jaeger", "collector", "alertmanager", "prometheus", "grafana", "simulator", "agentobs")
SECRETS = {
    "agentobs_api_key": "stack-test-key-0123456789abcdef",
    "anthropic_api_key": "sk-ant-stack-test",
    "grafana_admin_password": "stack-test-password",
}


@dataclass
class World:
    """The stack after the traffic, and its servers' APIs."""

    stack: Stack
    client: traffic.Client
    webhook: Webhook
    runs: dict[str, str]

    def __post_init__(self) -> None:
        url = self.stack.url
        self.prometheus = Prometheus(url("prometheus"))
        self.jaeger = Jaeger(url("jaeger"))
        self.loki = Loki(url("loki"))
        self.grafana = Grafana(url("grafana"), SECRETS["grafana_admin_password"])

    @property
    def database(self) -> Path:
        return self.stack.folder / "volumes/agentobs-data/agentobs.db"

    def books(self) -> Books:
        bill = [Line.of(line) for line in self.client.bill()]
        return Books(bill=bill, journal=read_journal(self.database), spans=[], metrics={}, summaries=[])

    def log_lines(self) -> list[str]:
        return (self.stack.folder / "volumes/agentobs-logs/agentobs.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if missing := runner.missing():
        reason = f"tests/stack/install.sh has not put these there: {', '.join(missing)}"
        if "stack" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names stack, but {reason}")
        pytest.skip(reason)
    webhook = Webhook()
    variables = {
        "AGENTOBS_ALERTS_BY": "alertmanager",
        "ANTHROPIC_BASE_URL": "http://simulator:9100",
        "AGENTOBS_WORKFLOWS": "tests.acceptance.flows",  # for tools and parallel branches, which the examples lack
    }
    stack = Stack(
        folder=tmp_path_factory.mktemp("stack"),
        variables=variables,
        secrets={**SECRETS, "alert_webhook_url": webhook.url},
        environ={"agentobs": {"PYTHONPATH": str(compose.ROOT), "ANTHROPIC_API_KEY": SECRETS["anthropic_api_key"]}},
    )
    try:
        stack.start(SERVICES)
        stack.wait_ready([name for name in SERVICES if name != "loki"])  # its start takes 15 s of waiting
        found = World(stack, traffic.Client(stack), webhook, {})
        until(lambda: found.prometheus.query('up{job="agentobs"} == 1'), "a scrape of the service", 30)
        time.sleep(1.5)  # one more: an increase needs a value before it
        found.runs = traffic.run(found.client)
        until(lambda: found.client.spans_pending() == 0, "all spans to be delivered", 30)
        time.sleep(2)  # a scrape, and what recording rules make of it
        stack.wait_ready(["loki"])
        yield found
    finally:
        stack.close()
        webhook.close()


# ---- the servers themselves ----


@pytest.mark.parametrize("service", ["prometheus", "alertmanager", "jaeger", "collector", "loki"])
def test_a_server_is_of_the_version_that_compose_pins(world: World, service: str):
    one = compose.read().services[service]
    program = runner.IMAGES[runner.image_name(one.image)].program
    arguments = ["version"] if service == "jaeger" else ["--version"]
    told = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    assert one.image.rpartition(":")[2].removeprefix("v") in told.stdout + told.stderr


def test_prometheus_scrapes_everything_that_it_is_told_to(world: World):
    targets = world.prometheus.get("targets")["activeTargets"]
    assert {one["labels"]["job"]: one["lastError"] for one in targets} == dict.fromkeys(
        ["agentobs", "prometheus", "alertmanager", "collector", "jaeger", "loki", "grafana"], ""
    )
    assert {one["health"] for one in targets} == {"up"}


def test_prometheus_loads_every_rule_and_none_fails(world: World):
    groups = world.prometheus.get("rules")["groups"]
    assert {Path(group["file"]).name for group in groups} == {"alerts.yml", "recording.yml"}
    rules = [rule for group in groups for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")] == []


def test_the_service_is_reached_by_the_name_that_compose_gives_it(world: World):
    answer = world.client.http.get("/v1/workflows", headers={"Host": "agentobs:8080"})
    assert answer.status_code == 200
    assert world.client.http.get("/v1/workflows", headers={"Host": "evil.example"}).status_code == 421
    assert world.client.http.get("/v1/workflows", headers={"Authorization": ""}).status_code == 401


# ---- traces ----


def test_every_run_is_a_whole_tree_in_jaeger(world: World):
    due = spans_due(read_journal(world.database))
    for name, run in world.runs.items():
        trace_id = run.replace("-", "")
        spans = {(span.trace_id, span.span_id): span for span in world.jaeger.trace(trace_id)}
        wanted = {key: one for key, one in due.items() if key[0] == trace_id}
        assert spans.keys() == wanted.keys(), name
        for key, one in wanted.items():
            span = spans[key]
            assert (span.name, span.parent_id, span.start, span.end) == (one.name, one.parent_id, one.start, one.end)


def test_every_attribute_arrives_in_jaeger(world: World):
    due = Due(world.books())
    for name, run in world.runs.items():
        for span in world.jaeger.trace(run.replace("-", "")):
            if name == "tools" or span.name.startswith("execute_tool"):
                continue  # a turn that calls a tool has attributes of its own; test_traces.py has them
            attributes, client = due.of(span, span.trace_id, span.span_id)
            assert span.attributes == attributes, f"{name}\n{span}"
            assert span.kind == ("CLIENT" if client else "INTERNAL")
            assert span.status == ("ERROR" if "error.type" in attributes else "UNSET")
            assert span.resource["service.name"] == "agentobs"
    (root,) = [span for span in world.jaeger.trace(world.runs["plain"].replace("-", "")) if span.parent_id is None]
    assert root.links == [traffic.CALLER]


def test_a_trace_is_found_in_jaeger_by_run_id_and_by_error_type(world: World):
    for name in ("plain", "recovered"):
        run = world.runs[name]
        assert world.jaeger.search("agentobs", {"agentobs.run.id": run}) == {run.replace("-", "")}
    for name, error in traffic.FAILING.items():
        assert world.runs[name].replace("-", "") in world.jaeger.search("agentobs", {"error.type": error})


# ---- metrics ----


def test_every_counter_in_prometheus_is_what_the_service_says(world: World):
    counters = {metric.name for metric in names.COUNTERS} - {names.SPANS_EXPORTED.name}

    def said() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(world.client.metrics())
        samples = [sample for family in families for sample in family.samples if sample.name in counters]
        return {(one.name, frozenset(one.labels.items())): one.value for one in samples}

    def stored() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        found = world.prometheus.query('{job="agentobs"}')
        return {
            (labels.pop("__name__"), frozenset((k, v) for k, v in labels.items() if k not in {"job", "instance"})): value
            for labels, value in found
            if labels["__name__"] in counters
        }

    assert said() == stored()
    assert {name for (name, _), value in said().items() if value} == counters, "all of them have counted"


def test_every_counter_has_exemplars_that_lead_to_traces_of_its_runs(world: World):
    known = {run.replace("-", "") for run in world.runs.values()}
    seen: dict[str, set[str]] = {}
    for metric in names.METRICS.values():
        if metric.span:
            suffix = "_bucket" if metric.kind == "histogram" else ""
            found = world.prometheus.exemplars(metric.name + suffix)
            assert found, f"{metric.name} has no exemplar"
            for one in found:
                assert one["labels"]["trace_id"] in known, one
                seen.setdefault(one["labels"]["trace_id"], set()).add(one["labels"]["span_id"])
    for trace_id, span_ids in seen.items():
        assert span_ids <= {span.span_id for span in world.jaeger.trace(trace_id)}


# ---- logs ----


def test_the_lines_of_a_run_are_in_loki_by_trace_id(world: World):
    for name in ("plain", "recovered", "nonsense", "tools"):
        trace_id = world.runs[name].replace("-", "")
        written = [line for line in world.log_lines() if f'"trace_id":"{trace_id}"' in line]
        query = f'{{service_name="agentobs"}} | trace_id="{trace_id}"'
        found = until(lambda query=query, n=len(written): len(got := world.loki.lines(query)) >= n and got, query, 30)
        assert Counter(line for _, line in found) == Counter(written), name
        assert all(labels["run_id"] == world.runs[name] for labels, _ in found)
    failed = world.loki.lines(f'{{service_name="agentobs"}} | trace_id="{trace_id}" | event="run.finished"')
    assert len(failed) == 1


def test_a_line_of_loki_has_its_level_and_the_span_that_it_is_about(world: World):
    trace_id = world.runs["nonsense"].replace("-", "")
    found = world.loki.lines(f'{{service_name="agentobs"}} | trace_id="{trace_id}" | event="attempt.failed"')
    ((labels, _),) = found
    spans = {span.span_id: span for span in world.jaeger.trace(trace_id)}
    assert spans[labels["span_id"]].attributes["error.type"] == labels["error_type"] == "invalid_request"
    assert labels["severity_text"] in {"warning", "error"}


def test_no_secret_reaches_a_backend(world: World):
    """The Collector's redaction, on what user code might log."""
    log = world.stack.folder / "volumes/agentobs-logs/agentobs.jsonl"
    with log.open("a") as lines:
        lines.write('{"level":"info","event":"user.line","text":"Bearer abcdefgh12345678 and sk-ant-abcdefgh12345"}\n')
    ((labels, line),) = until(
        lambda: world.loki.lines('{service_name="agentobs"} | event="user.line"'), "the line", 30
    )
    assert "abcdefgh" not in line + str(labels) and "****" in line


# ---- Grafana ----


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if re.search(r"level=(warn|error)", line)]
