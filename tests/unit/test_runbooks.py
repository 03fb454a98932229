"""What the runbooks tell to ask and to type exists: nobody should find out at 3 a.m. that it does not."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer
import yaml

from agentobs.cli.main import app
from agentobs.records import AGENT, ERROR_TYPES, FUNCTION, TOOL
from agentobs.settings import Settings
from agentobs.telemetry import names
from dashboards import alerts, recording, thresholds
from dashboards.alerts import ALERTS
from dashboards.promql import TARGET_LABELS
from tests.promtool import GENERATED, promtool
from tests.unit.test_alert_names import VALUES

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
RUNBOOKS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("Agentobs*.md"))}
PAGES = {**RUNBOOKS, "README": (FOLDER / "README.md").read_text()}
SECTIONS = (
    "What it means",
    "How urgent",
    "Likely causes",
    "What to do",
    "How to confirm that it is over",
    "How to change its threshold",
)

pages = pytest.mark.parametrize("page", PAGES)
alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda one: one.name)


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", PAGES[page], re.MULTILINE | re.DOTALL)
    return [dedent(text).strip() for _, kind, text in found if kind == language]


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", PAGES[page], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ---- which there are, and what is in each ----


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert RUNBOOKS.keys() == {one.name for one in ALERTS}


def test_the_index_lists_each_once_by_its_severity():
    listed = []
    for part in re.split(r"^\*\*(?=\w+\*\* )", PAGES["README"], flags=re.MULTILINE)[1:]:
        severity = part.split("**")[0]
        listed += [(severity, name) for name in re.findall(r"^- \[(\w+)\]\(\1\.md\): \S", part, re.MULTILINE)]
    assert sorted(listed) == sorted((one.severity, one.name) for one in ALERTS)


@alert
def test_a_runbook_has_every_section_in_the_same_order(alert):
    found = sections(alert.name)
    assert tuple(found) == SECTIONS
    assert not [title for title, text in found.items() if len(text.split()) < 4]
    assert PAGES[alert.name].startswith(f"# {alert.name}\n")


def panels(found: list[dict[str, Any]]) -> dict[int, str]:
    """Titles by id, those in rows too."""
    every = [*found, *(inner for one in found for inner in one.get("panels", []))]
    return {one["id"]: one["title"] for one in every}


@alert
def test_a_runbook_tells_the_severity_and_the_panel_of_its_alert(alert):
    boards = [json.loads(path.read_text()) for path in GENERATED.parent.glob("*.json")]
    (board,) = (one for one in boards if one["uid"] == alert.dashboard)
    panel = panels(board["panels"])[alert.panel]
    told = f"Severity: {alert.severity}. Dashboard: {board['title']}, panel “{panel}”."
    assert told in PAGES[alert.name].splitlines()


@alert
def test_causes_are_told_apart_and_the_end_is_confirmed_by_something_to_ask(alert):
    found = sections(alert.name)
    assert re.search(r"```(promql|logql|sh)\n", found["Likely causes"])
    confirmed = found["How to confirm that it is over"]
    assert "```promql" in confirmed or alert.name == "AgentobsWatchdog"


@alert
def test_the_threshold_that_is_told_is_a_constant_with_that_value(alert):
    told = re.findall(r"`([A-Z][A-Z_]+)`(?: \(([^)]*)\))?", sections(alert.name)["How to change its threshold"])
    assert told or alert.name == "AgentobsWatchdog"
    for name, words in told:
        value = next(getattr(module, name) for module in (thresholds, recording, alerts) if hasattr(module, name))
        number = re.match(r"[\d.]+", words)
        if number:
            factor = {"GiB": 2**30, "h": 3600}.get(words.split()[1] if " " in words else "", 1)
            assert float(number[0]) * factor == value, f"{name} is {value}"


# ---- PromQL ----

QUERIES = [(page, query) for page in PAGES for query in blocks(page, "promql")]
OTHERS = {  # metrics that are not ours
    "up": TARGET_LABELS,
    "scrape_samples_scraped": TARGET_LABELS,
    "ALERTS": ("alertname", "alertstate", "severity"),
}
KNOWN = {**VALUES, "kind": {*names.TOKEN_KINDS, AGENT, TOOL, FUNCTION}}  # of labels in matchers
WORDS = {"and", "or", "unless", "offset", "bool"}
CLAUSE = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def labels_of(metric: str) -> tuple[str, ...] | None:
    """None: there is no such metric."""
    if metric in OTHERS:
        return OTHERS[metric]
    if metric in {rule.record for _, _, rules in recording.GROUPS for rule in rules}:
        return ("workflow",) if metric.startswith("workflow:") else ()
    base = re.sub(r"_(bucket|count|sum)$", "", metric)
    for known in (names.METRICS.get(metric), names.METRICS.get(base)):
        if known is not None and (known.kind == "histogram") == (known.name != metric):
            return (*known.labels, *TARGET_LABELS, *(("le",) if metric.endswith("_bucket") else ()))
    return None


def faults(query: str) -> list[str]:
    """Metrics, labels and values in a query that do not exist."""
    found = []
    known: set[str] = set()
    for metric, matchers in re.findall(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}", query):
        for label, values in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label not in (labels_of(metric) or ()):
                found.append(f"{metric} has no label {label}")
            if label in KNOWN:
                found += [f"no {label} {one}" for one in values.split("|") if one not in KNOWN[label]]
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+", " ", query)
    for metric in re.findall(r"(?<![\w:])([a-zA-Z_][\w:]*)(?![\w:]|\s*\()", CLAUSE.sub(" ", bare)):
        labels = labels_of(metric)
        if metric not in WORDS and labels is None:
            found.append(f"there is no metric {metric}")
        known |= set(labels or ())
    told = {label.strip() for clause in CLAUSE.findall(bare) for label in clause.split(",") if label.strip()}
    return [*found, *(f"no metric here has a label {label}" for label in sorted(told - known))]


@pytest.mark.parametrize(("page", "query"), QUERIES)
def test_a_query_names_only_metrics_and_labels_that_exist(page, query):
    assert not faults(query)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(agentobs_run_total)", "there is no metric agentobs_run_total"),
        ("rate(agentobs_debate_rounds[5m])", "there is no metric agentobs_debate_rounds"),
        ("sum by (model) (agentobs_runs_total)", "no metric here has a label model"),
        ('agentobs_runs_total{agent="x"}', "agentobs_runs_total has no label agent"),
        ('agentobs_attempts_total{outcome=~"ok|overload"}', "no outcome overload"),
    ],
)
def test_a_query_with_a_wrong_name_is_found(query, fault):
    assert faults(query) == [fault]


def test_promtool_takes_every_query(tmp_path):
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(QUERIES)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    done = subprocess.run([promtool(), "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


# ---- log events, settings, error types ----


@pages
def test_the_log_events_that_are_named_exist(page):
    for query in blocks(page, "logql"):
        assert query.startswith('{service_name="agentobs"} | event=')
        for value in re.findall(r'event=~?"([^"]*)"', query):
            assert set(value.split("|")) <= names.EVENTS
        for value in re.findall(r'error_type=~?"([^"]*)"', query):
            assert set(value.split("|")) <= ERROR_TYPES.keys()
    dotted = re.findall(
        r"`((?:run|agent|tool|step|attempt|service|journal|loop|export|log|library|dispatch|request)\.\w+)`",
        PAGES[page],
    )
    assert set(dotted) - {"error.message"} <= names.EVENTS


@pages
def test_the_settings_that_are_named_exist(page):
    known = {alias for field in Settings.model_fields.values() if (alias := field.alias or field.validation_alias)}
    known |= {name.upper() for name in Settings.model_fields} | {f"AGENTOBS_{name.upper()}" for name in known}
    told = set(re.findall(r"\b((?:AGENTOBS|OTEL|ANTHROPIC)_[A-Z_]+)\b", PAGES[page]))
    documented = (FOLDER.parent / "settings.md").read_text()
    assert not [name for name in told if f"| {name} |" not in documented]


# ---- commands ----


def typed(page: str) -> list[list[str]]:
    """The words of each agentobs command in blocks and in the text."""
    fences = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", fences.sub("", PAGES[page]))
    told = [*blocks(page, "sh"), *(" ".join(span.split()) for span in spans)]
    return [
        shlex.split(words.removeprefix("agentobs "))  # after: docker compose exec agentobs
        for text in told
        for words in re.findall(r"\bagentobs ([a-z][^|\n]*)", text.replace("\\\n", " "))
    ]


@pages
def test_the_commands_and_options_that_are_told_exist(page):
    for words in typed(page):
        command = typer.main.get_command(app)
        rest = list(words)
        while rest and (below := getattr(command, "commands", {}).get(rest[0])) is not None:
            command, rest = below, rest[1:]
        assert not hasattr(command, "commands"), f"there is no command agentobs {shlex.join(words)}"
        known = {option for parameter in command.params for option in parameter.opts}
        told = {word.split("=")[0] for word in rest if word.startswith("-")}
        assert told <= known, f"agentobs {shlex.join(words)}"
        if "--error-type" in rest:
            value = rest[rest.index("--error-type") + 1]
            assert value in {*ERROR_TYPES, "ERROR_TYPE"}


def test_the_text_tells_commands_and_the_test_above_sees_them():
    assert sum(len(typed(page)) for page in PAGES) > 60


# ---- links ----


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_every_link_leads_to_a_page_and_a_title_there(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        file = (FOLDER / path).resolve() if path else FOLDER / f"{page}.md"
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
    for name in re.findall(r"\bAgentobs[A-Z]\w+", PAGES[page]):
        assert name in RUNBOOKS
