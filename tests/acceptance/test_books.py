"""Bill, journal, spans and metrics agree after many runs with every kind of fault (DESIGN.md, "The books").

AGENTOBS_TEST_RUNS says how many runs; 200 unless told otherwise, 1000 for the full claim.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentobs.records import ERROR_TYPES
from agentobs.simulator.faults import FAULTS
from tests.acceptance.books import CLASSES, Books, unique_spans
from tests.acceptance.flows import LOOKUP, QUICK, STREAM, UNPRICED, mixed_input
from tests.acceptance.harness import world

RUNS = int(os.environ.get("AGENTOBS_TEST_RUNS", "200"))

# Every kind of fault, and the variants that decide whether usage is told. The first rule that applies counts; a share
# is of the requests that come to it, so together they are about a fifth.
_QUICK = {"contains": QUICK}  # agents with a short timeout: nobody else could end a request that hangs
_SHARE = 0.0125
RULES: list[dict[str, Any]] = [
    {"fault": "rate_limited", "retry_after_s": 0.1},
    {"fault": "overloaded"},
    {"fault": "server_error"},
    {"fault": "bad_request"},
    {"fault": "unauthorized"},
    {"fault": "reset"},
    {"fault": "cut_stream"},
    {"fault": "cut_stream", "after_usage": True},
    {"fault": "cut_stream", "clean": False, "after_deltas": 1},
    {"fault": "error_in_stream"},
    {"fault": "error_in_stream", "first": True},
    {"fault": "garbage"},
    {"fault": "refusal"},
    {"fault": "max_tokens"},
    {"fault": "misfit", "match": {"contains": LOOKUP}, "probability": 0.08},  # repaired in a further turn
    {"fault": "hang", "match": _QUICK, "probability": 0.025},
    {"fault": "hang", "match": {"contains": STREAM}, "after_deltas": 2, "probability": 0.07},
    {"fault": "slow", "match": _QUICK, "delay_s": 30, "probability": 0.025},
    {"fault": "slow", "delay_s": 0.2},
    {"fault": "low_limits", "left": 0.1},
]

# What each fault can have made of its attempt; any attempt can also be cancelled by a failure beside it.
_OUTCOMES: dict[str | None, set[str]] = {
    None: {"ok"},
    "rate_limited": {"rate_limited"},
    "overloaded": {"overloaded"},
    "server_error": {"server_error"},
    "bad_request": {"invalid_request"},
    "unauthorized": {"authentication"},
    "reset": {"connection_error"},
    "cut_stream": {"stream_truncated"},
    "error_in_stream": {"stream_error", "overloaded"},
    "garbage": {"bad_response"},
    "refusal": {"refusal"},
    "max_tokens": {"max_tokens"},
    "misfit": {"ok"},
    "hang": {"timeout"},
    "slow": {"ok", "timeout"},
    "low_limits": {"ok"},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Books, list[dict[str, Any]]]:
    """The books after `RUNS` runs, of which all have ended, and the log."""
    folder: Path = tmp_path_factory.mktemp("books")
    rules = [{"probability": _SHARE, **rule} for rule in RULES]
    with world(folder, latency_s=0.02, AGENTOBS_MAX_CALLS_IN_FLIGHT="64") as here:
        here.service.submit("article", {"goal": "the model's client is loaded before short timeouts run"})
        here.service.wait_idle()
        here.simulator.faults(*rules)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: here.service.submit(*mixed_input(number)), range(RUNS)))
        here.service.wait_idle(600)
        applied = here.simulator.applied()
        for rule in applied:
            assert rule["applied"], f"too few runs: no request met {rule}"
        return here.close_the_books(), here.service.events()


@pytest.fixture(scope="module")
def books(both: tuple[Books, list[dict[str, Any]]]) -> Books:
    return both[0]


@pytest.fixture(scope="module")
def lines(both: tuple[Books, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return both[1]


pytestmark = pytest.mark.timeout(900)


def test_all_four_books_agree(books: Books):
    assert len(books.journal.runs) == RUNS + 1
    books.check()


def test_a_fifth_of_the_requests_met_a_fault_of_every_kind(books: Books):
    """Else the first test would prove less than it says."""
    met = Counter(line.fault for line in books.bill)
    assert met.keys() == {None, *FAULTS}
    assert 0.15 < 1 - met[None] / len(books.bill) < 0.25, met
    ways = {(attempt["usage"], bool(attempt["stream"])) for attempt in books.journal.attempts}
    assert ways == {(usage, stream) for usage in ("exact", "partial", "unknown") for stream in (True, False)} - {
        ("partial", False)
    }
    for kind in CLASSES:
        assert any(line.usage[kind] for line in books.bill), kind


def test_each_fault_is_told_as_what_it_was(books: Books):
    for line in books.bill:
        attempt = books.journal.attempt[line.client_ref or ""]
        assert attempt["outcome"] in _OUTCOMES[line.fault] | {"cancelled"}, f"\n{line}\n{attempt}"


def test_what_a_stream_had_told_before_it_broke_is_kept(books: Books):
    """Input and first output stand in `message_start`, all of it in `message_delta`: that is money."""
    broken = [
        line
        for line in books.bill
        if line.stream and line.status == 200 and line.fault in {"cut_stream", "error_in_stream", "hang"}
    ]
    attempts = [(line, books.journal.attempt[line.client_ref or ""]) for line in broken]
    told = [(line, one) for line, one in attempts if any(line.usage.values()) and one["outcome"] != "cancelled"]
    assert {attempt["outcome"] for _, attempt in told} == {"stream_truncated", "stream_error", "timeout"}
    for line, attempt in told:
        assert attempt["usage"] in {"partial", "exact"}, f"\n{line}\n{attempt}"
    assert {attempt["usage"] for _, attempt in told} == {"partial", "exact"}


def test_every_attempt_that_was_begun_was_sent(books: Books):
    """Nobody died here: only what was given up before it left has no line on the bill."""
    lines = {line.client_ref for line in books.bill}
    unsent = [attempt for ref, attempt in books.journal.attempt.items() if ref not in lines]
    assert all(attempt["outcome"] == "cancelled" for attempt in unsent), unsent


def test_sums_by_class_and_model_are_the_same_in_journal_spans_and_metrics(books: Books):
    """What `check` says attempt by attempt, once more as the sums that an operator would compare."""
    recorded = Counter[tuple[str, str]]()
    for attempt in books.journal.attempts:
        for kind in CLASSES:
            recorded[attempt["model"], kind] += attempt[kind] or 0
    models = {attempt["span_id"]: attempt["model"] for attempt in books.journal.attempts}
    shown = Counter[tuple[str, str]]()
    for span in unique_spans(books.spans).values():
        for kind in CLASSES:
            if span.name == "POST":
                shown[models[span.span_id], kind] += span.attributes.get(f"agentobs.tokens.{kind}", 0)
    counted = Counter[tuple[str, str]]()
    for labels, value in books.metrics["agentobs_tokens_total"].items():
        counted[dict(labels)["model"], dict(labels)["kind"]] += int(value)
    assert +recorded == +shown == +counted
    assert len(recorded) == 4 * len(CLASSES), "four models, each with its classes"


def test_costs_are_the_same_in_journal_spans_and_metrics(books: Books):
    recorded = sum(attempt["cost_pico"] or 0 for attempt in books.journal.attempts)
    costs = [span.attributes.get("agentobs.cost_usd", 0) for span in unique_spans(books.spans).values()]
    counted = sum(round(value * 10**12) for value in books.metrics["agentobs_cost_usd_total"].values())
    assert recorded == sum(round(cost * 10**12) for cost in costs) == counted > 0
    unpriced = [a for a in books.journal.attempts if a["model"] == UNPRICED and a["output"]]
    assert unpriced and all(attempt["cost_pico"] is None for attempt in unpriced)


def test_log_lines_tell_the_same_story(books: Books, lines: list[dict[str, Any]]):
    """One line an operation; at most once by contract, exactly once where nobody died."""
    by_event = Counter(line["event"] for line in lines)
    steps = Counter((step["kind"], step["status"] != "") for step in books.journal.steps)
    assert by_event["run.accepted"] == by_event["run.started"] == by_event["run.finished"] == len(books.journal.runs)
    assert by_event["agent.call"] == steps["agent", True]
    assert by_event["attempt.failed"] == sum(attempt["outcome"] != "ok" for attempt in books.journal.attempts)
    told = Counter[str]()
    for line in lines:
        if line["event"] == "agent.call":
            told.update(line["tokens"])
    summed = Counter[str]()
    for summary in books.summaries:
        summed.update(summary["tokens"])
    assert told == summed
    for line in lines:
        run = books.journal.run.get(line.get("run_id", ""))
        assert run is None or line["trace_id"] == run["id"].replace("-", ""), line
        assert "message" not in line or line["event"].startswith("library."), line


def test_error_types_are_of_the_closed_set(books: Books):
    for row in [*books.journal.runs, *books.journal.steps, *books.journal.executions]:
        assert row["error_type"] is None or row["error_type"] in ERROR_TYPES, row
    for attempt in books.journal.attempts:
        assert attempt["outcome"] in {"ok", *ERROR_TYPES}, attempt
