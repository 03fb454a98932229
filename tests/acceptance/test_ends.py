"""After a run's end nothing more is paid, and a cancel stops the spending within a second."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.books import CLASSES, Line
from tests.acceptance.harness import World, until, world

FLOWS = {"AGENTOBS_WORKFLOWS": "tests.acceptance.flows_bad"}
SLOW_S = 1.5  # what an answer takes at least; `fails_beside` asks for six at once
NOTICE_S = 0.5  # for the provider to notice that its caller has hung up

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("ends"), latency_s=SLOW_S, **FLOWS) as found:
        warm = found.service.submit("waits", "the model's client to be loaded")
        found.service.wait_ended([warm["id"]])
        yield found
        found.close_the_books().check()


def total(lines: list[Line]) -> dict[str, int]:
    return {kind: sum(line.usage[kind] for line in lines) for kind in CLASSES}


def nothing_is_paid_after(here: World, run_id: str, before: int) -> list[Line]:
    """The run has just ended: its lines are of the time before, and what is billed does not change any more."""
    ended_at = here.service.journal().run[run_id]["ended_at"]
    time.sleep(NOTICE_S)
    at_end = here.simulator.bill()[before:]
    time.sleep(SLOW_S + 0.5)  # whatever goes on would have answered by now
    later = here.simulator.bill()[before:]
    assert later == at_end, "the bill grew after the run's end"
    assert total(later) == total(at_end)
    for line in later:
        assert line.at_ns <= ended_at, f"asked after the run's end: {line}"
    return later


def begun(here: World, workflow: str, given: Any, requests: int) -> tuple[str, int]:
    """A new run of which so many requests are on the bill, and how long the bill was before."""
    before = here.simulator.requests
    run = here.service.submit(workflow, given)
    until(lambda: here.simulator.requests >= before + requests, f"{requests} requests", 60)
    return run["id"], before


def test_no_money_after_a_deadline_with_parallel_branches(here: World):
    here.simulator.faults()
    run_id, before = begun(here, "late", None, 6)
    ended = here.service.wait_ended([run_id], 10)[run_id]
    assert (ended["status"], ended["error"]["type"]) == ("failed", "timeout")
    assert 1200 <= ended["total_ms"] < 2200
    lines = nothing_is_paid_after(here, run_id, before)
    assert len(lines) == 6 and all(line.aborted for line in lines)


@pytest.mark.parametrize(
    ("how", "error_type"), [("step", "workflow_error"), ("agent", "invalid_request"), ("own", "workflow_error")]
)
def test_no_money_after_a_failure_with_parallel_branches(here: World, how: str, error_type: str):
    here.simulator.faults({"fault": "bad_request", "match": {"contains": "FAIL"}})
    run_id, before = begun(here, "fails_beside", {"how": how, "after_s": 0.9}, 6)
    ended = here.service.wait_ended([run_id], 10)[run_id]
    assert (ended["status"], ended["error"]["type"]) == ("failed", error_type)
    lines = nothing_is_paid_after(here, run_id, before)
    cut_off = [line for line in lines if line.aborted]
    assert len(cut_off) == 6, "all branches were under way"
    assert total(cut_off)["output"] > 0, "they had cost something already"


def test_no_money_after_a_cancel_with_parallel_branches(here: World):
    run_id, before = begun(here, "fails_beside", {"how": "own", "after_s": 60}, 6)
    time.sleep(0.9)  # streams have begun
    asked = time.time_ns()
    here.service.cancel(run_id)
    ended = here.service.wait_ended([run_id], 10)[run_id]
    assert ended["status"] == "cancelled"
    journal = here.service.journal()
    assert journal.run[run_id]["ended_at"] - asked < 10**9, "a cancel takes effect within a second"
    lines = nothing_is_paid_after(here, run_id, before)
    assert len(lines) == 6 and all(line.aborted for line in lines)
    streamed = [journal.attempt[line.client_ref or ""] for line in lines if line.stream]
    assert [one["usage"] for one in streamed] == ["partial"] * 3, "what a stream had told is kept"
    assert all(one["outcome"] == "cancelled" for one in journal.attempts if one["run_id"] == run_id)


def test_a_cancel_stops_a_workflow_that_ignores_it(here: World):
    run_id, before = begun(here, "stubborn", None, 1)
    asked = time.time_ns()
    here.service.cancel(run_id)
    ended = here.service.wait_ended([run_id], 10)[run_id]
    assert ended["status"] == "cancelled"
    lines = nothing_is_paid_after(here, run_id, before)
    assert len(lines) == 1 and lines[0].aborted
    assert all(line.at_ns < asked + 10**9 for line in lines)
    stopped = [a["ended_at"] for a in here.service.journal().attempts if a["run_id"] == run_id]
    assert max(stopped) - asked < 10**9, "the spending stops within a second"


def test_a_cancelled_homemade_retry_loop_does_not_take_the_process_with_it(tmp_path: Path):
    """`except BaseException: continue` around a call must not become a loop that never lets go of the event loop."""
    with world(tmp_path, latency_s=SLOW_S, AGENTOBS_LOOP_STALL_S="3", **FLOWS) as here:
        run_id, before = begun(here, "retries_itself", None, 1)
        here.service.cancel(run_id)
        ended = here.service.wait_ended([run_id], 10)[run_id]
        assert ended["status"] == "cancelled"
        used = here.service.cpu_s()
        time.sleep(3.5)
        used = here.service.cpu_s() - used
        assert used < 2, f"it goes round and round: {used:.1f} s of CPU in 3.5 s"
        assert here.service.running, f"it exited with {here.service.returncode}\n{here.service.tail(3)}"
        assert here.service.readyz() == (200, [])
        assert here.simulator.requests == before + 1


def test_a_cancel_ends_a_run_that_waits_for_a_retry(here: World):
    here.simulator.faults({"fault": "rate_limited", "retry_after_s": 2, "match": {"contains": "a retry"}})
    run_id, before = begun(here, "waits", "a retry", 1)
    until(lambda: here.service.detail(run_id)["steps"][0]["attempts"][0]["outcome"], "the first answer", 10)
    asked = time.time_ns()
    here.service.cancel(run_id)
    ended = here.service.wait_ended([run_id], 10)[run_id]
    assert (ended["status"], ended["attempts"]) == ("cancelled", 1)
    assert here.service.journal().run[run_id]["ended_at"] - asked < 10**9
    assert len(nothing_is_paid_after(here, run_id, before)) == 1
    here.simulator.faults()


def test_a_cancelled_run_in_the_queue_is_never_asked_for(tmp_path: Path):
    with world(tmp_path, latency_s=1.0, AGENTOBS_MAX_RUNS_IN_FLIGHT="1", **FLOWS) as here:
        first, _ = begun(here, "waits", "the first", 1)
        queued = here.service.submit("waits", "its turn")["id"]
        assert here.service.summary(queued)["status"] == "queued"
        asked = time.time_ns()
        told = here.service.cancel(queued)
        assert told["status"] == "cancelled"
        assert here.service.wait_ended([first])[first]["status"] == "succeeded"
        last = here.service.submit("waits", "the last")["id"]
        here.service.wait_ended([last])
        books = here.close_the_books()
    books.check()
    assert books.journal.run[queued]["ended_at"] - asked < 10**9
    assert not [row for row in [*books.journal.executions, *books.journal.steps] if row["run_id"] == queued]
    assert len(books.bill) == 2


def test_a_cancel_holds_when_the_service_dies_at_once(tmp_path: Path):
    """202 was sent for the cancel: the next process does not go on with the run."""
    with world(tmp_path, latency_s=20.0, **FLOWS) as here:
        run_id, _ = begun(here, "waits", "the end", 1)
        os.kill(here.service.pid, signal.SIGSTOP)  # so that the cancel and its death come together
        answers: list[int] = []
        # On a connection of its own: one that was kept may be closed as idle just when the process goes on.
        url = f"{here.service.url}/v1/runs/{run_id}/cancel"
        told = threading.Thread(target=lambda: answers.append(httpx2.post(url, timeout=60).status_code))
        told.start()
        time.sleep(0.2)
        os.kill(here.service.pid, signal.SIGCONT)
        told.join(60)
        here.service.kill()
        assert answers == [202]
        here.service.start()
        assert here.service.wait_ended([run_id], 60)[run_id]["status"] == "cancelled"
        books = here.close_the_books()
    books.check()
    assert len(books.bill) == 1


def test_a_second_cancel_and_a_late_one(here: World):
    here.simulator.faults()
    run_id, _ = begun(here, "waits", "nothing", 1)
    here.service.cancel(run_id)
    here.service.wait_ended([run_id])
    assert here.service.cancel(run_id)["status"] == "cancelled"
    done = here.service.submit("step_raises", "tea")["id"]
    here.service.wait_ended([done])
    refused = here.service.call("POST", f"/v1/runs/{done}/cancel")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_stuck_client_does_not_hold_up_a_drain(tmp_path: Path):
    """From SIGTERM on nothing more is claimed, whoever hangs on the line."""
    with world(tmp_path, latency_s=0.3, AGENTOBS_MAX_RUNS_IN_FLIGHT="2", AGENTOBS_DRAIN_TIMEOUT_S="5", **FLOWS) as here:
        host, port = here.service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stuck:
            stuck.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            for number in range(20):
                here.service.submit("waits", f"run {number}")
            asked = time.monotonic()
            here.service.terminate()
            assert here.service.wait_exit(60) == 0
            assert time.monotonic() - asked < 45  # for as long as the client stays it would not end at all
        started = len(here.service.events("run.started"))
        assert started < 20, "runs were claimed while it waited for the client"
        assert sum(1 for run in here.service.journal().run.values() if run["status"] == "queued") == 20 - started


def test_a_failed_run_is_resumed_and_pays_only_for_what_failed(tmp_path: Path):
    """In a world of its own: the counter of ends counts both, and the journal's row tells only the last."""
    fault = {"fault": "bad_request", "times": 1, "match": {"contains": "Edit:"}}
    with world(tmp_path, faults=[fault]) as here:
        run_id = here.service.submit("article", {"goal": "resuming"})["id"]
        assert here.service.wait_ended([run_id])[run_id]["status"] == "failed"
        assert here.simulator.requests == 3
        answer = here.service.call("POST", f"/v1/runs/{run_id}/resume")
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        until(lambda: here.service.summary(run_id)["status"] == "succeeded", "the resumed run")
        assert here.simulator.requests == 4
        detail = here.service.detail(run_id)
        assert [(e["reason"], e["outcome"]) for e in detail["executions"]] == [
            ("started", "failed"),
            ("resumed", "succeeded"),
        ]
        assert here.service.call("POST", f"/v1/runs/{run_id}/resume").status_code == 409
