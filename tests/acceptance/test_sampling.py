"""With a share of 0.3: traces are whole or absent, and bill, journal and counters are as without sampling.

About a hundred runs with faults, killed and started again while they run; then some of each kind that is kept late,
whatever chance had in store before.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from agentobs.journal.sampling import Sampling
from tests.acceptance import books as checks
from tests.acceptance.books import Books, Journal
from tests.acceptance.harness import World, until, world
from tests.acceptance.test_kill import Load

RUNS = int(os.environ.get("AGENTOBS_TEST_RUNS", "100"))
SHARE = 0.3
SLOW_S = 600.0
SEED = os.environ.get("AGENTOBS_TEST_SEED", "1")
FAULTS = [
    {"fault": "slow", "delay_s": 60, "match": {"contains": "Research: until cancelled"}},
    {"fault": "overloaded", "probability": 0.02},  # retried, and its run succeeds
    {"fault": "cut_stream", "probability": 0.02},
    {"fault": "bad_request", "probability": 0.02},
]
GOALS = ("until cancelled", "once overloaded", "refused")
CERTAIN = [
    FAULTS[0],
    {"fault": "overloaded", "times": 1, "match": {"contains": "Research: once overloaded"}},
    {"fault": "bad_request", "match": {"contains": "Research: refused"}},
]
SETTINGS = {
    "AGENTOBS_TRACE_SAMPLE": str(SHARE),
    "AGENTOBS_TRACE_SLOW_S": str(SLOW_S),
    "AGENTOBS_MAX_RUNS_IN_FLIGHT": "12",  # so that a kill interrupts some, and most are healthy
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Books, set[str]]:
    """The books once all has ended, and the traces that exemplars lead to."""
    chance = random.Random(SEED)
    folder: Path = tmp_path_factory.mktemp("sampled")
    with world(folder, latency_s=0.02, faults=FAULTS, **SETTINGS) as here:
        load = Load(here.service, range(RUNS))
        for number in range(2):
            before = here.simulator.requests
            place = before + chance.randrange(RUNS // 2) + RUNS // 4
            until(lambda place=place: here.simulator.requests >= place, "requests")
            if number:
                here.sink.stop()  # what is kept late has to be read from the journal, and so has the rest
            here.service.kill()
            here.service.launch()
            here.service.wait_listening()
        load.join()
        here.sink.start()
        for goal in GOALS:
            late(here, goal)
        here.service.wait_idle()
        here.wait_delivered()
        text = here.service.call("GET", "/metrics", headers={"Accept": "application/openmetrics-text"}).text
        told = {
            sample.exemplar.labels["trace_id"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.exemplar
        }
        return here.close_the_books(), told


def late(here: World, goal: str) -> None:
    """One run of that kind that the share does not choose; the ids are the service's, so it may take a few."""
    for _ in range(100):
        here.simulator.faults(*CERTAIN)
        run_id = here.service.submit("article", {"goal": goal})["id"]
        if goal == GOALS[0]:
            here.service.cancel(run_id)
        here.service.wait_ended([run_id])
        if not Sampling(SHARE).chooses(run_id):
            return
    raise AssertionError(f"a share of {SHARE} chose 100 runs in a row")


def kept(journal: Journal, share: float = SHARE, slow_s: float = SLOW_S) -> set[str]:
    """The runs whose traces are due, from the tables alone."""
    bad: defaultdict[str, set[str]] = defaultdict(set)
    for row in journal.executions:
        bad[row["run_id"]] |= {row["outcome"]} - {"succeeded"}
    for row in journal.steps:
        bad[row["run_id"]] |= {row["status"]} - {"succeeded", "cancelled"}
    for row in journal.attempts:
        bad[row["run_id"]] |= {row["outcome"]} - {"ok", "cancelled"}
    return {
        run["id"]
        for run in journal.runs
        if bad[run["id"]]
        or run["first_status"] != "succeeded"
        or run["first_ended_at"] - run["created_at"] >= slow_s * 1e9
        or Sampling(share).chooses(run["id"])
    }


def only(journal: Journal, runs: set[str]) -> Journal:
    def of(rows: list[checks.Row]) -> list[checks.Row]:
        return [row for row in rows if row["run_id"] in runs]

    return replace(
        journal,
        runs=[run for run in journal.runs if run["id"] in runs],
        executions=of(journal.executions),
        steps=of(journal.steps),
        attempts=of(journal.attempts),
    )


def test_traces_that_are_kept_are_whole_and_the_others_are_absent(sampled: tuple[Books, set[str]]):
    books, _ = sampled
    due = only(books.journal, kept(books.journal))
    checks.check_spans(books.spans, due)
    checks.check_span_tokens(books.spans, due)


def test_bill_journal_and_counters_are_not_sampled(sampled: tuple[Books, set[str]]):
    books, _ = sampled
    ours = [{"goal": goal} for goal in GOALS]
    assert sum(json.loads(run["input"]) not in ours for run in books.journal.runs) == RUNS
    checks.check_ended(books.journal)
    checks.check_bill(books.bill, books.journal)
    checks.check_totals(books.bill, books.journal)
    checks.check_counters(books.metrics, books.journal)
    checks.check_paid_once(books.bill, books.journal)
    checks.check_summaries(books.summaries, books.journal)


def test_nothing_is_pending_though_runs_were_left_out(sampled: tuple[Books, set[str]]):
    books, _ = sampled
    assert books.metrics["agentobs_spans_pending"] == {frozenset(): 0}
    assert books.metrics["agentobs_spans_oldest_pending_seconds"] == {frozenset(): 0}


def test_every_exemplar_leads_to_a_trace(sampled: tuple[Books, set[str]]):
    books, told = sampled
    assert len(told) > 3
    assert told <= {span.trace_id for span in books.spans}


def test_there_was_something_to_decide(sampled: tuple[Books, set[str]]):
    """Else the tests above would prove less than they say."""
    books, _ = sampled
    runs, left_out = books.journal.run, books.journal.run.keys() - kept(books.journal)
    assert len(left_out) > RUNS / 5, len(left_out)
    assert all(runs[one]["status"] == "succeeded" for one in left_out)
    late = {one for one in kept(books.journal) if not Sampling(SHARE).chooses(one)}
    assert {runs[one]["status"] for one in late} == {"succeeded", "failed", "cancelled"}
    executions = Counter(row["run_id"] for row in books.journal.executions)
    assert any(executions[one] > 1 for one in late), "none was recovered"
    retried = {row["run_id"] for row in books.journal.attempts if row["outcome"] == "overloaded"}
    assert any(runs[one]["status"] == "succeeded" and executions[one] == 1 for one in late & retried), "none retried"


def test_slow_runs_are_kept_and_their_trace_begins_before_they_end(tmp_path: Path):
    """Of a run that is slow already, everything goes at once."""
    slow = {"fault": "slow", "delay_s": 4, "match": {"contains": "Write about: slow"}}
    last = {"fault": "slow", "delay_s": 4, "match": {"contains": "Edit: "}}
    settings = {"AGENTOBS_TRACE_SAMPLE": "0", "AGENTOBS_TRACE_SLOW_S": "3"}
    with world(tmp_path, latency_s=0.02, **settings) as here:
        quick = [here.service.submit("article", {"goal": f"quick {number}"})["id"] for number in range(3)]
        here.service.wait_ended(quick)
        here.simulator.faults(slow, last)
        run_id = here.service.submit("article", {"goal": "slow"})["id"]
        until(lambda: here.sink.spans, "the first spans of a slow run")
        assert here.service.summary(run_id)["status"] == "running"
        assert {"POST", "invoke_agent researcher"} <= {span.name for span in here.sink.spans}
        books = here.close_the_books()
    due = kept(books.journal, 0, 3)
    assert run_id in due
    checks.check_spans(books.spans, only(books.journal, due))
