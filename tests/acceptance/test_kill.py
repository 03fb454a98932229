"""kill -9 at any moment loses no accepted run, no span and no count, and pays no finished step twice.

AGENTOBS_TEST_KILLS says how many rounds; 4 unless told otherwise, 20 for the full claim. AGENTOBS_TEST_SEED chooses the
moments, which are places on the bill and not times, so that they are as random on a slow machine.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.books import Books
from tests.acceptance.flows import mixed_input
from tests.acceptance.harness import Service, World, until, world
from tests.otlp_sink import OtlpSink

KILLS = int(os.environ.get("AGENTOBS_TEST_KILLS", "4"))
SEED = os.environ.get("AGENTOBS_TEST_SEED", "1")
RUNS = 200  # a round
REQUESTS = 900  # that a round makes at least
FAULTS = [
    {"fault": "overloaded", "probability": 0.03},
    {"fault": "rate_limited", "retry_after_s": 1, "probability": 0.02},  # a wait to be kept through a recovery
    {"fault": "cut_stream", "probability": 0.03},
    {"fault": "refusal", "probability": 0.01},
]
# What the sink is like, one a round: well; away; taking everything and answering too late; never answering; refusing.
SINK = ("well", "away", "late", "hanging", "refusing")

pytestmark = pytest.mark.timeout(1800)


class Load:
    """Submits runs from a few threads, through whatever happens to the service."""

    def __init__(self, service: Service, numbers: range) -> None:
        self.accepted: dict[int, str] = {}  # number: run id, once 200 or 202 was read
        self.gone_wrong: list[str] = []
        self._service = service
        self._numbers = iter(numbers)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        with httpx2.Client(timeout=30) as http:
            while (number := self._next()) is not None:
                self._submit(http, number)

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _submit(self, http: httpx2.Client, number: int) -> None:
        workflow, given = mixed_input(number)
        while True:
            url = self._service.url
            try:
                answer = http.post(
                    f"{url}/v1/runs",
                    json={"workflow": workflow, "input": given},
                    headers={"Idempotency-Key": f"number-{number}"},
                )
            except (httpx2.TransportError, httpx2.UnsupportedProtocol):  # killed, or not yet there again
                time.sleep(0.02)
                continue
            if answer.status_code in {200, 202}:
                self.accepted[number] = answer.json()["id"]
                return
            if answer.status_code != 503:
                self.gone_wrong.append(f"{answer.status_code} {answer.text}")
                return
            time.sleep(0.05)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive(), "submitting does not end"


class Weather:
    """What the sink is like."""

    def __init__(self, sink: OtlpSink) -> None:
        self._sink = sink
        self._state = "well"
        self._seen = 0  # requests before this state

    def become(self, state: str) -> None:
        if self._state == "late":  # the same spans twice at least, before it is well again
            until(lambda: len(self._sink.requests) >= self._seen + 2, "spans to be taken late", 60)
        if self._state == "away":
            self._sink.start()
        self._sink.heal()
        self._state, self._seen = state, len(self._sink.requests)
        if state == "away":
            self._sink.stop()
        elif state == "late":
            self._sink.delay_s = 3.0  # the exporter gives up after 2
        elif state == "hanging":
            self._sink.hang()
        elif state == "refusing":
            self._sink.answer(503)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Books, dict[int, str]]:
    """The books after all rounds, the last metrics being those of a process that did none of it; what was accepted."""
    chance = random.Random(SEED)
    folder: Path = tmp_path_factory.mktemp("killed")
    accepted: dict[int, str] = {}
    settings = {"AGENTOBS_MAX_RECOVERIES": "1000", "AGENTOBS_MAX_CALLS_IN_FLIGHT": "64"}
    with world(folder, latency_s=0.05, faults=FAULTS, **settings) as here:
        weather = Weather(here.sink)
        for number in range(KILLS):
            weather.become(SINK[number % len(SINK)])
            load = Load(here.service, range(number * RUNS, (number + 1) * RUNS))
            _kill_at(here, chance.randrange(REQUESTS), chance.random() * 0.05)
            if chance.random() < 0.5:  # and again while it recovers
                _kill_at(here, 0, chance.random() * 2)
            load.join()
            assert not load.gone_wrong, load.gone_wrong[:3]
            accepted |= load.accepted
        weather.become("well")
        here.service.wait_idle(300)
        here.wait_delivered()
        here.service.kill()  # with nothing to do: what the next process shows comes from the journal alone
        here.service.start()
        for number, run_id in accepted.items():
            again = here.service.submit(*mixed_input(number), Idempotency_Key=f"number-{number}")
            assert again["id"] == run_id
        return here.close_the_books(), accepted


def _kill_at(here: World, requests: int, then_s: float) -> None:
    before = here.simulator.requests
    until(lambda: here.simulator.requests >= before + requests, f"{requests} requests\n{here.service.tail()}", 120)
    time.sleep(then_s)
    here.service.kill()
    here.service.launch()
    here.service.wait_listening()


def test_every_accepted_run_ends(killed: tuple[Books, dict[int, str]]):
    books, accepted = killed
    assert len(accepted) == KILLS * RUNS
    assert set(accepted.values()) == books.journal.run.keys()  # and no request made two runs of itself


def test_the_books_balance_spans_are_whole_and_counters_are_right(killed: tuple[Books, dict[int, str]]):
    killed[0].check()


def test_there_was_something_to_lose(killed: tuple[Books, dict[int, str]]):
    """Else the tests above would prove less than they say."""
    books, _ = killed
    outcomes = Counter(row["outcome"] for row in books.journal.executions)
    assert outcomes["interrupted"] >= 20 * KILLS, outcomes
    recovered = [row for row in books.journal.executions if row["reason"] == "recovered"]
    assert sum(row["reused"] for row in recovered) >= 20 * KILLS, "finished steps were answered from the journal"
    cut_off = [row for row in books.journal.attempts if row["outcome"] == "interrupted"]
    assert cut_off and {row["usage"] for row in cut_off} <= {"unknown", "partial"}
    if KILLS >= 3:
        copies = Counter(span.span_id for span in books.spans)
        assert any(count > 1 for count in copies.values()), "no span was sent twice"
    statuses = Counter(row["status"] for row in books.journal.runs)
    assert statuses["succeeded"] > 0.8 * len(books.journal.runs), statuses
    assert not any(row["error_type"] in {"parked", "interrupted"} for row in books.journal.runs)


def test_sigterm_drains_and_what_is_left_is_resumed_without_counting_as_a_death(tmp_path: Path):
    with world(tmp_path, latency_s=1.0, AGENTOBS_DRAIN_TIMEOUT_S="1.5") as here:
        service = here.service
        load = Load(service, range(100))
        load.join()
        until(lambda: here.simulator.requests > 150, "runs to be under way")
        asked = time.monotonic()
        service.terminate()
        until(lambda: service.events("service.draining"), "the drain to begin")
        code = service.wait_exit(30)
        took = time.monotonic() - asked
        assert code == 0
        assert took < 15, f"a drain of 1.5 s took {took:.1f} s"
        left = service.journal()
        assert not [row for row in left.steps + left.attempts + left.executions if row["ended_at"] is None]
        assert all(row["owner"] is None and row["status"] != "running" for row in left.runs)
        drained = [row for row in left.executions if row["outcome"] == "drained"]
        assert len(drained) > 20, "nothing was left to resume"
        requests = here.simulator.requests
        time.sleep(0.3)
        assert here.simulator.requests == requests
        service.start()
        books = here.close_the_books()
    books.check()
    assert {row["status"] for row in books.journal.runs} == {"succeeded"}
    assert not any(row["recoveries"] for row in books.journal.runs)
    assert Counter(row["outcome"] for row in books.journal.executions) == {"drained": len(drained), "succeeded": 100}
    assert not any(row["reason"] == "recovered" and row["number"] == 1 for row in books.journal.executions)
