"""The real servers, started with the very files that docker-compose.yml mounts: every signal arrives, every link leads.

Needs the servers (tests/stack/install.sh puts them into $AGENTOBS_STACK_DIR); skipped without them, unless
AGENTOBS_TEST_REQUIRE names stack. One stack serves all tests, in their order: first Alertmanager notifies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentobs.telemetry import names
from agentobs.telemetry.logs import timestamp
from dashboards.alerts import ALERTS
from tests.acceptance.books import read_journal, spans_due
from tests.acceptance.harness import until
from tests.acceptance.test_trace_tree import Due
from tests.stack import compose, queries, runner, traffic
from tests.stack.backends import has_data
from tests.stack.world import World, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if missing := runner.missing():
        reason = f"tests/stack/install.sh has not put these there: {', '.join(missing)}"
        if "stack" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names stack, but {reason}")
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("stack")) as found:
        yield found


# ---- the servers themselves ----


@pytest.mark.parametrize("service", ["prometheus", "alertmanager", "jaeger", "collector", "loki"])
def test_a_server_is_of_the_version_that_compose_pins(world: World, service: str):
    one = compose.read().services[service]
    program = runner.IMAGES[runner.image_name(one.image)].program
    arguments = ["version"] if service == "jaeger" else ["--version"]
    told = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    assert one.image.rpartition(":")[2].removeprefix("v") in told.stdout + told.stderr


@pytest.mark.parametrize("service", [one.name for one in compose.read().services.values() if one.health])
def test_a_health_check_tells_the_well_from_the_dead(world: World, service: str):
    command = world.stack.health_command(service)
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here; what it asks is asked before the tests begin")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    port, _ = compose.read().services[service].health or (0, "")
    dead = [one.replace(str(world.stack.ports.local(service, port)), "9") for one in command]
    assert subprocess.run(dead, capture_output=True, check=False).returncode != 0


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
            end = max(one.end, one.start + 1)  # Jaeger's least duration is a nanosecond
            assert (span.name, span.parent_id, span.start, span.end) == (one.name, one.parent_id, one.start, end)


def test_every_attribute_arrives_in_jaeger(world: World):
    due = Due(world.books())
    for name, run in world.runs.items():
        for span in world.jaeger.trace(run.replace("-", "")):
            if name == "tools" or span.name.startswith("execute_tool"):
                continue  # a turn that calls a tool has attributes of its own; test_traces.py has them
            attributes, client = due.of(span, span.trace_id, span.span_id)
            lists = {key: json.dumps(value) for key, value in attributes.items() if isinstance(value, list)}
            told = {
                key: value for key, value in span.attributes.items() if not key.startswith("@jaeger@")
            }  # its remarks
            assert told == attributes | lists, f"{name}\n{span}"  # Jaeger keeps a list as its JSON
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
        # To Prometheus an empty label is none.
        return {(one.name, frozenset((k, v) for k, v in one.labels.items() if v)): one.value for one in samples}

    def stored() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        found = world.prometheus.query('{job="agentobs"}')
        return {
            (
                labels.pop("__name__"),
                frozenset((k, v) for k, v in labels.items() if k not in {"job", "instance"}),
            ): value
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
    for name in ("plain", "recovered", "tools", "nonsense"):
        trace_id = world.runs[name].replace("-", "")
        written = [line for line in world.log_lines() if f'"trace_id":"{trace_id}"' in line]
        query = f'{{service_name="agentobs"}} | trace_id="{trace_id}"'
        found = until(
            lambda query=query, due=written: len(got := world.loki.lines(query)) >= len(due) and got, query, 30
        )
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
        text = "Bearer abcdefgh12345678 and sk-ant-abcdefgh12345"
        lines.write(
            json.dumps({"timestamp": timestamp(time.time_ns()), "level": "info", "event": "user.line", "text": text})
            + "\n"
        )
    ((labels, line),) = until(lambda: world.loki.lines('{service_name="agentobs"} | event="user.line"'), "the line", 30)
    assert "abcdefgh" not in line + str(labels) and "****" in line


# ---- rules ----


def test_every_rule_reads_metrics_that_are_there_and_has_a_value(world: World):
    """A value even while nothing is wrong: an alert that would never fire has none."""
    groups = world.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    selectors = {one for rule in rules for one in world.prometheus.selectors(rule["query"])}
    empty = {one for one in selectors if not world.prometheus.query(f"last_over_time({one}[1h])")}
    assert empty == set(queries.SELECTORS_WITHOUT_DATA), "listed, and no others"
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not world.prometheus.query(name)] == []
    values = {alert.name: alert.expr for alert in ALERTS if alert.threshold is not None}
    assert {name for name, expr in values.items() if not world.prometheus.query(expr)} == set(
        queries.ALERTS_WITHOUT_VALUE
    )
    assert {alert.name for alert in ALERTS} == {rule["name"] for rule in rules if rule["type"] == "alerting"}


# ---- Grafana ----


def test_grafana_has_every_data_source_and_reaches_it(world: World):
    assert {one["uid"] for one in world.grafana.get("/api/datasources")} == {
        "prometheus",
        "jaeger",
        "loki",
        "alertmanager",
    }
    assert world.grafana.get("/api/datasources/uid/prometheus/health")["status"] == "OK"
    labels = world.grafana.get("/api/datasources/proxy/uid/loki/loki/api/v1/labels")["data"]
    assert "service_name" in labels
    assert world.grafana.get("/api/datasources/proxy/uid/jaeger/api/services")["data"] == ["agentobs"]
    assert world.grafana.get("/api/datasources/proxy/uid/alertmanager/api/v2/status")["cluster"]["status"] == "disabled"


def test_grafanas_alert_list_shows_what_prometheus_and_alertmanager_hold(world: World):
    groups = world.grafana.get("/api/prometheus/prometheus/api/v1/rules")["data"]["groups"]
    rules = {rule["name"] for group in groups for rule in group["rules"]}
    assert {alert.name for alert in ALERTS} <= rules
    assert world.grafana.get("/api/datasources/uid/prometheus")["jsonData"]["manageAlerts"] is True
    active = world.grafana.get("/api/datasources/proxy/uid/alertmanager/api/v2/alerts")
    assert "AgentobsWatchdog" in {one["labels"]["alertname"] for one in active}


def test_grafana_has_every_dashboard_as_it_was_generated(world: World):
    wanted = queries.dashboards()
    found = {one["uid"]: one for one in world.grafana.get("/api/search?type=dash-db")}
    assert found.keys() == wanted.keys() and len(wanted) == 5
    assert {one["folderTitle"] for one in found.values()} == {"agentobs"}
    for uid, dashboard in wanted.items():
        told = world.grafana.get(f"/api/dashboards/uid/{uid}")
        assert told["meta"]["provisioned"] and told["dashboard"]["title"] == dashboard["title"]
        assert told["dashboard"]["panels"] == json.loads(
            world.stack.translate(json.dumps(dashboard["panels"]), "grafana")
        )


def returns_data(world: World, query: queries.Query) -> bool:
    asked = query.asked()
    if query.source == "jaeger":
        # Grafana 13 asks Jaeger from the server; the one here leaves it to the browser, by way of the proxy.
        tags = dict(pair.split("=", 1) for pair in asked.get("tags", "").split())
        return bool(world.jaeger.search(asked["service"], tags))
    result = world.grafana.ask([asked], over_s=600)[query.ref]
    assert "error" not in result, f"{query.key} {query.title}: {result['error']}\n{asked}"
    return has_data(result)


def test_every_panels_query_returns_data_through_grafana(world: World):
    every = queries.queries()
    assert {one.dashboard for one in every} == queries.dashboards().keys()
    empty = [one for one in every if not returns_data(world, one)]

    def as_listed() -> bool:
        empty[:] = [one for one in empty if not returns_data(world, one)]
        return {one.key for one in empty} <= queries.PANELS_WITHOUT_DATA.keys()

    # A panel with a step of a minute has a point once the next one begins.
    with suppress(AssertionError):
        until(as_listed, "every panel", 70, every_s=2)
    told = "\n".join(f"{one.key} {one.title}: {one.asked()}" for one in empty)
    assert {one.key for one in empty} == queries.PANELS_WITHOUT_DATA.keys(), f"listed, and no others\n{told}"


def test_every_variable_of_a_dashboard_lists_values(world: World):
    for dashboard, name, query in queries.variable_queries():
        found = re.fullmatch(r"label_values\((?:(.+), *)?(\w+)\)", query)
        assert found, f"{dashboard}: {query}"
        values = world.prometheus.get(f"label/{found[2]}/values", **({"match[]": found[1]} if found[1] else {}))
        assert values, f"{dashboard}: ${name}"


# ---- alerts: first by Alertmanager ----

BURN = "AgentobsRunSuccessBurnFast"


def test_from_a_fault_to_alertmanagers_webhook_within_ten_seconds(world: World):
    assert not world.webhook.firing(BURN), "most runs have succeeded so far"
    world.client.faults(traffic.EVERYTHING_FAILS)
    began = time.monotonic()
    # Enough to outweigh what went well within the hour.
    runs = [world.client.submit("article", {"goal": f"the drill {number}"}) for number in range(120)]
    at, alert = until(lambda: next(iter(world.webhook.firing(BURN)), None), "the webhook", 60)
    # Ten seconds of a machine that does not do much else.
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert at - began < 10 * load, f"{at - began:.1f} s at {load:.1f} times what the machine can do"
    assert alert["labels"]["severity"] == "critical"
    assert re.match(r"\d+(\.\d+)?% of runs fail", alert["annotations"]["summary"])
    world.runs |= {f"drill {number}": run for number, run in enumerate(runs)}
    for run in runs:
        world.client.ended(run)


def test_four_clicks_from_the_alert_to_the_error_of_the_guilty_attempt(world: World):
    (_, alert), *_ = world.webhook.firing(BURN)
    # 1: the alert's link, to the panel that it is about.
    link = urlsplit(alert["annotations"]["dashboard_url"])
    assert f"http://{link.netloc}" == world.stack.url("grafana")
    uid, panel_id = link.path.split("/")[2], int(dict(parse_qsl(link.query))["viewPanel"])
    dashboard = world.grafana.get(f"/api/dashboards/uid/{uid}")["dashboard"]
    panel = next(one for one in queries.panels(dashboard) if one["id"] == panel_id)
    assert panel["title"] and panel_id == int(alert["annotations"]["__panelId__"])
    # 2: an exemplar drawn in it, the newest; its link is the data source's.
    target = next(one for one in panel["targets"] if one.get("exemplar"))
    query = next(one for one in queries.queries() if one.key == (uid, panel_id, target["refId"])).asked()["expr"]
    path = "/api/datasources/uid/prometheus/resources/api/v1/query_exemplars"
    now = time.time()
    query = query.replace("$__rate_interval", "1m")
    answer = world.grafana.http.get(path, params={"query": query, "start": now - 600, "end": now})
    series = [one for one in answer.json()["data"] if one["seriesLabels"]["outcome"] == "failed"]  # told on hovering
    exemplars = [one for failed in series for one in failed["exemplars"]]
    prometheus = world.grafana.get("/api/datasources/uid/prometheus")
    (to,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    newest = max(exemplars, key=lambda one: float(one["timestamp"]))
    trace_id = newest["labels"][to["name"]]
    # 3: its trace, in the data source that the link names.
    path = f"/api/datasources/proxy/uid/{to['datasourceUid']}/api/traces/{trace_id}"

    # 4: the span in it that is red.
    def red() -> list[str]:
        answer = world.grafana.http.get(path)
        traces = answer.json()["data"] if answer.status_code == 200 else []
        spans = [span for trace in traces for span in trace["spans"] if span["operationName"] == "POST"]
        return [tag["value"] for span in spans for tag in span["tags"] if tag["key"] == "error.type"]

    # The newest of a hundred traces may still be on its way.
    assert until(red, f"the trace {trace_id}", 30) == ["invalid_request"]


def test_the_way_from_a_span_to_its_log_lines_and_back(world: World):
    jaeger = world.grafana.get("/api/datasources/uid/jaeger")["jsonData"]["tracesToLogsV2"]
    trace_id = world.runs["nonsense"].replace("-", "")
    query = jaeger["query"].replace("${__trace.traceId}", trace_id)
    asked = {"refId": "A", "expr": query, "queryType": "range", "maxLines": 100}
    result = world.grafana.ask([{**asked, "datasource": {"uid": jaeger["datasourceUid"], "type": "loki"}}], over_s=600)
    assert has_data(result["A"]), query
    (derived,) = world.grafana.get("/api/datasources/uid/loki")["jsonData"]["derivedFields"]
    assert derived["datasourceUid"] == "jaeger" and derived["matcherRegex"] == "trace_id"
    ui = json.loads((compose.ROOT / "deploy/jaeger/ui.json").read_text())["linkPatterns"][0]["url"]
    panes = json.loads(
        dict(parse_qsl(urlsplit(world.stack.translate(ui, "jaeger").replace("#{traceID}", trace_id)).query))["panes"]
    )
    assert panes["logs"]["datasource"] == "loki" and panes["logs"]["queries"][0]["expr"] == query


# ---- then by Grafana's own rules ----


def complaints(world: World) -> str:
    """Of what Grafana loads and evaluates; the rest is about itself (it is older than docker-compose.yml's).

    On a busy machine that one's own SQLite file is locked now and then, and it tries again.
    """
    lines = world.stack.processes["grafana"].log.read_text().splitlines()
    ours = re.compile(r"logger=(provisioning|dashboard|datasources|ngalert)\S* .*level=(warn|error)")
    return "\n".join(line for line in lines if ours.match(line) and "database is locked" not in line)


def test_grafanas_own_rules_notify_once_it_is_their_turn(world: World):
    assert complaints(world) == ""
    assert world.grafana.get("/api/v1/provisioning/alert-rules") == []
    assert set(world.stack.switch(AGENTOBS_ALERTS_BY="grafana")) == {"alertmanager", "grafana"}
    switched = time.monotonic()
    rules = {rule["title"] for rule in world.grafana.get("/api/v1/provisioning/alert-rules")}
    assert rules == {alert.name for alert in ALERTS}
    points = {one["name"] for one in world.grafana.get("/api/v1/provisioning/contact-points")}
    assert world.grafana.get("/api/v1/provisioning/policies")["receiver"] in points
    assert world.grafana.get("/api/datasources/uid/prometheus")["jsonData"]["manageAlerts"] is False, "shown once"
    _, alert = until(lambda: next(iter(world.webhook.firing(BURN, since=switched)), None), "the webhook", 90)
    assert "generatorURL" in alert and "/alerting/" in alert["generatorURL"], "from Grafana"
    assert alert["labels"]["severity"] == "critical"
    assert re.match(r"\d+(\.\d+)?% of runs fail", alert["annotations"]["summary"])
    assert alert["dashboardURL"].split("?")[0].endswith("/d/agentobs-overview")
    firing = world.prometheus.get("alerts")["alerts"]
    assert BURN in {one["labels"]["alertname"] for one in firing if one["state"] == "firing"}
    senders = {"grafana" if "orgId" in body else "alertmanager" for at, body in world.webhook.posts if at > switched}
    assert senders == {"grafana"}, "exactly one of the two"
    assert complaints(world) == ""


def test_grafana_gives_up_its_rules_when_alertmanager_notifies_again(world: World):
    world.stack.switch(AGENTOBS_ALERTS_BY="alertmanager")
    switched = time.monotonic()
    assert world.grafana.get("/api/v1/provisioning/alert-rules") == []
    alerts = "/api/datasources/proxy/uid/alertmanager/api/v2/alerts"

    def receivers() -> dict[str, str]:
        return {one["labels"]["alertname"]: one["receivers"][0]["name"] for one in world.grafana.get(alerts)}

    # It has told of this alert before and remembers: it sends again after repeat_interval.
    until(lambda: receivers().get(BURN) == "webhook", "Prometheus to tell Alertmanager", 30)
    assert receivers()["AgentobsWatchdog"] == "nobody"
    assert all("orgId" not in body for at, body in world.webhook.posts if at > switched)


# ---- outages ----


def test_spans_arrive_after_jaeger_was_down_and_the_collector_was_killed(world: World):
    world.client.faults([])
    world.stack.stop("jaeger", signal.SIGKILL)
    first = world.client.submit("article", {"goal": "while Jaeger is down"})
    assert world.client.ended(first)["status"] == "succeeded"
    until(lambda: world.client.spans_pending() == 0, "the Collector to hold the spans", 20)
    world.stack.stop("collector", signal.SIGKILL)
    second = world.client.submit("article", {"goal": "while the Collector is down, too"})
    assert world.client.ended(second)["status"] == "succeeded"
    assert world.client.spans_pending() > 0
    world.stack.restart("jaeger")
    world.stack.restart("collector")
    due = spans_due(read_journal(world.database))
    for run in (first, second, world.runs["plain"]):
        wanted = {key for key in due if key[0] == run.replace("-", "")}

        def there(run: str = run, wanted: set[tuple[str, str]] = wanted) -> bool:
            with suppress(httpx2.TransportError):  # it is still starting
                return {(span.trace_id, span.span_id) for span in world.jaeger.trace(run.replace("-", ""))} == wanted
            return False

        until(there, f"the trace of {run}", 40, every_s=0.2)
