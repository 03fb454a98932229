"""Claims on the committed dashboards: what they ask exists, where they lead exists, and each panel explains itself."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from agentobs.records import AGENT, CANCELLED, ERROR_TYPES, FAILED, FUNCTION, INTERRUPTED, REASONS, SUCCEEDED, TOOL
from agentobs.telemetry import names
from dashboards.alert import RUNBOOKS_URL
from dashboards.colours import COLOURS
from dashboards.ids import UIDS, VARIABLES
from tests.boards import BOARDS, OTHERS, Query, grouped, made, panels, plain, queries, selectors
from tests.promtool import promtool

IDS = {uid: {int(panel): panel.name for panel in kind} for kind, uid in UIDS.items()}
PANELS = [pytest.param(panel, id=f"{name}/{panel['id']}") for name in BOARDS for panel in panels(name)]
QUERIES = [pytest.param(query, id=query.where) for query in queries()]
TARGET_LABELS = {"job", "instance"}
VALUES = {
    ("agentobs_runs_total", "outcome"): {SUCCEEDED, FAILED, CANCELLED},
    ("agentobs_steps_total", "outcome"): {SUCCEEDED, FAILED, CANCELLED, INTERRUPTED},
    ("agentobs_steps_total", "kind"): {AGENT, TOOL, FUNCTION},
    ("agentobs_attempts_total", "outcome"): set(names.ATTEMPT_OUTCOMES),
    ("agentobs_cost_usd_total", "outcome"): set(names.PAID_OUTCOMES),
    ("agentobs_tokens_total", "kind"): set(names.TOKEN_KINDS),
    ("agentobs_executions_total", "reason"): set(REASONS),
    ("agentobs_attempt_usage_inexact_total", "usage"): {"partial", "unknown"},
    ("agentobs_debate_rounds_count", "converged"): {"true", "false"},
}


def metric(name: str) -> names.Metric | None:
    """The metric of ours that a name is of; parts of histograms have more letters."""
    whole = names.METRICS.get(name)
    if whole is not None:
        return None if whole.kind == "histogram" else whole
    histogram = names.METRICS.get(re.sub(r"_(bucket|count|sum)$", "", name))
    return histogram if histogram is not None and histogram.kind == "histogram" else None


def labels(name: str) -> set[str]:
    found = metric(name)
    if found is None:
        assert name in OTHERS, f"{name} is no metric"
        return OTHERS[name]
    return {*found.labels, *TARGET_LABELS, *(["le"] if name.endswith("_bucket") else [])}


# ---- panels ----


def test_there_is_a_board_for_each_uid_with_the_panels_of_ids():
    assert {board["uid"]: {panel["id"] for panel in board["panels"]} for board in BOARDS.values()} == {
        uid: set(ids) for uid, ids in IDS.items()
    }
    for board in BOARDS.values():
        assert len(board["panels"]) == len({panel["id"] for panel in board["panels"]})
        assert board["schemaVersion"] == 42


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_in_one_sentence_what_a_bad_value_means(panel: dict[str, Any]):
    about = panel["description"]
    assert about[0].isupper()
    assert about.endswith(".")
    assert not re.search(r"[.!?] ", about)
    assert 60 < len(about) < 250
    assert panel["title"] and not panel["title"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap_and_fill_their_rows(name: str):
    places = [panel["gridPos"] for panel in panels(name)]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    widths: dict[int, int] = {}
    for place in places:
        widths[place["y"]] = widths.get(place["y"], 0) + place["w"]
    assert set(widths.values()) == {24}


def test_each_outcome_has_a_colour_of_its_own():
    closed = {SUCCEEDED, FAILED, *names.ATTEMPT_OUTCOMES, *ERROR_TYPES, *names.EXPORT_OUTCOMES}
    assert set(COLOURS) == closed
    for shown in (names.ATTEMPT_OUTCOMES, tuple(ERROR_TYPES), names.EXPORT_OUTCOMES, (SUCCEEDED, FAILED, CANCELLED)):
        assert len({COLOURS[outcome] for outcome in shown}) == len(shown)


# ---- queries ----


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_exist(query: Query):
    asked = selectors(query.expr)
    assert asked
    known = made(query.expr).union(*(labels(name) for name, _ in asked))
    for name, matchers in asked:
        assert set(matchers) <= labels(name), name
    assert grouped(query.expr) <= known
    told = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert told <= known


@pytest.mark.parametrize("query", QUERIES)
def test_series_are_called_by_labels_that_they_keep(query: Query):
    """A label that is summed over is an empty word in the legend."""
    told = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    outermost = re.search(r"\b(?:sum|max|min|count)(?: by \(([^)]*)\))? \(", query.expr)
    if outermost:
        kept = {label.strip() for label in (outermost[1] or "").split(",")}
        assert told <= kept


@pytest.mark.parametrize("query", QUERIES)
def test_values_that_are_asked_for_are_of_the_closed_sets(query: Query):
    for name, matchers in selectors(query.expr):
        for label, (operator, value) in matchers.items():
            if value.startswith("$") or name in OTHERS or label in {"job", "le"}:
                continue
            asked = set(value.split("|")) if "~" in operator else {value}
            assert asked <= VALUES[name, label], (name, label)


@pytest.mark.parametrize("query", [query for query in QUERIES if "$" not in query.id])
def test_processes_are_combined_as_the_metrics_help_says(query: Query):
    for name, _ in selectors(query.expr):
        found = metric(name)
        if found is None:
            continue
        how = re.search(r"Processes: (\w+)\.", found.help)
        before = re.findall(rf"(\w+)(?: by \([^)]*\))? \((?:\w+ ?\()?{name}\b", query.expr)
        if found.kind != "gauge":
            assert set(before) <= {"sum", "resets"}, before
            assert re.search(rf"(rate|increase|resets)\({name}", query.expr)
        elif how and found is not names.BUILD_INFO:
            assert set(before) == {how[1]}


def test_exemplars_are_asked_for_where_there_are_some():
    """A metric without a span has none; one with has its dots somewhere."""
    shown = set()
    for query in queries():
        found = {each for name, _ in selectors(query.expr) if (each := metric(name))}
        if query.exemplar:
            assert any(each.span for each in found), query.where
            assert not re.search(r"_(count|sum)\b", query.expr), query.where  # a histogram has them on its buckets
            shown |= found
    assert {names.RUNS, names.RUN_SECONDS, names.ATTEMPTS, names.COST, names.FIRST_CHUNK_SECONDS} <= shown


def test_every_metric_of_ours_is_on_a_board_or_listed():
    asked = {found.name for query in queries() for name, _ in selectors(query.expr) if (found := metric(name))}
    # The conventions' token counts are those of agentobs_tokens_total without retries; no shipped agent has tools.
    assert set(names.METRICS) - asked == {
        names.GEN_AI_INPUT.name,
        names.GEN_AI_OUTPUT.name,
        names.GEN_AI_CACHE_READ.name,
        names.GEN_AI_CACHE_WRITE.name,
        names.TOOL_SECONDS.name,
    }


def test_promtool_takes_every_query(tmp_path):
    rules = "".join(
        f"  - record: query:{place}\n    expr: |\n      {plain(query.expr)}\n" for place, query in enumerate(queries())
    )
    file = tmp_path / "queries.yml"
    file.write_text(f"groups:\n- name: boards\n  rules:\n{rules}")
    done = subprocess.run([promtool(), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- variables, links, data sources ----


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_that_is_shown_is_used_and_one_that_is_not_is_hidden(name: str):
    variables = {each["name"]: each for each in BOARDS[name]["templating"]["list"]}
    assert tuple(variables) == VARIABLES
    text = "\n".join(target.get("expr", "") for panel in panels(name) for target in panel["targets"])
    for variable, each in variables.items():
        assert (each["hide"] == 0) == (f'=~"${variable}"' in text), variable
        assert (each["multi"], each["includeAll"], each["allValue"]) == (True, True, ".*")


def found_links(node: Any, inside: str = "") -> Iterator[tuple[str, str]]:
    """Every URL in a board, with the key of what it stands in."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "url" and value:
                yield inside, value
            yield from found_links(value, key)
    elif isinstance(node, list):
        for each in node:
            yield from found_links(each, inside)


@pytest.mark.parametrize("name", BOARDS)
def test_each_link_leads_to_a_board_a_panel_or_the_runbooks(name: str):
    links = list(found_links(BOARDS[name]))
    for _, url in links:
        if url.startswith(RUNBOOKS_URL):
            continue
        uid, _, query = url.removeprefix("/d/").partition("?")
        assert uid in IDS, url
        for variable in re.findall(r"var-(\w+)=", query):
            assert variable in VARIABLES
        for panel in re.findall(r"viewPanel=(\d+)", query):
            assert int(panel) in IDS[uid]
    others = {link["url"]: link for link in BOARDS[name]["links"] if link["url"] != RUNBOOKS_URL}
    assert set(others) == {f"/d/{uid}" for uid in IDS if uid != BOARDS[name]["uid"]}
    assert all(link["includeVars"] and link["keepTime"] and "placement" not in link for link in others.values())
    assert RUNBOOKS_URL in {url for _, url in links}


def test_a_firing_alert_leads_to_its_runbook():
    (panel,) = (panel for panel in panels("overview") if IDS["agentobs-overview"][panel["id"]] == "FIRING")
    assert f"{RUNBOOKS_URL}/${{__value.raw}}.md" in {url for _, url in found_links(panel)}


def found_sources(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if isinstance(source := node.get("datasource"), dict):
            yield source["type"], source["uid"]
        for value in node.values():
            yield from found_sources(value)
    elif isinstance(node, list):
        for each in node:
            yield from found_sources(each)


def test_data_sources_are_those_that_are_provisioned():
    assert {source for board in BOARDS.values() for source in found_sources(board)} == {
        ("prometheus", "prometheus"),
        ("jaeger", "jaeger"),
    }
    for board in BOARDS.values():
        assert all(target["datasource"] for panel in board["panels"] for target in panel["targets"])
