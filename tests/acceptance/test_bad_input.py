"""User code that goes wrong, a provider that cannot be reached, a full disk, a second process: the service goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.harness import TERMINAL, Service, SimulatorThread, World, environment, until, world
from tests.otlp_sink import OtlpSink

FLOWS = {"AGENTOBS_WORKFLOWS": "tests.acceptance.flows_bad"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("bad"), **FLOWS) as found:
        yield found
        found.close_the_books().check()


def still_well(here: World) -> None:
    assert here.service.readyz() == (200, [])
    run = here.service.submit("polite", "tea")
    assert here.service.wait_ended([run["id"]])[run["id"]]["status"] == "succeeded"


# ---- user code ----


@pytest.mark.parametrize(
    ("workflow", "error_type", "said"),
    [
        ("raises", "workflow_error", "raised ValueError at flows_bad.py:"),
        ("unserialisable", "workflow_error", "cannot be stored as JSON"),
        ("undeclared", "workflow_error", "without declaring it"),
        ("step_raises", "workflow_error", "step 1 (explode) failed"),
        ("forever", "timeout", "deadline of 1 s"),
    ],
)
def test_a_workflow_that_goes_wrong_fails_by_itself(here: World, workflow: str, error_type: str, said: str):
    run = here.service.submit(workflow, "tea")
    ended = here.service.wait_ended([run["id"]], 60)[run["id"]]
    assert (ended["status"], ended["error"]["type"]) == ("failed", error_type)
    assert said in ended["error"]["message"], ended["error"]
    assert "never show this" not in str(ended) and "exploded" not in str(ended)
    still_well(here)


def test_a_workflow_that_exits_fails_by_itself(tmp_path: Path):
    """`sys.exit()` somewhere under a workflow (an argument parser, say) is its failure, not the service's end."""
    with world(tmp_path, **FLOWS) as here:
        run = here.service.submit("exits", "tea")["id"]

        def over() -> str:
            try:
                return "ended" * (here.service.summary(run)["status"] in TERMINAL)
            except httpx2.TransportError:
                return "gone"

        if until(over, "an end", 60) == "gone":
            code = here.service.wait_exit(10)
            pytest.fail(f"the service exited with {code}\n{here.service.tail(3)}")
        ended = here.service.summary(run)
        assert (ended["status"], ended["error"]["type"]) == ("failed", "workflow_error")
        still_well(here)


def test_requests_that_cannot_be_served_are_problems(here: World):
    call = here.service.call
    many = {"workflow": "polite", "input": "x" * (2**20 + 1)}
    problems: list[tuple[int, str, Any]] = [
        (404, "unknown-workflow", call("POST", "/v1/runs", json={"workflow": "nobody", "input": None})),
        (422, "invalid-request", call("POST", "/v1/runs", json={"workflow": "polite", "colour": "red"})),
        (
            400,
            "malformed-json",
            call("POST", "/v1/runs", content=b"{nope", headers={"Content-Type": "application/json"}),
        ),
        (413, "too-large", call("POST", "/v1/runs", json=many)),
        (404, "not-found", call("GET", "/v1/runs/00000000-0000-7000-8000-000000000000")),
        (404, "not-found", call("GET", "/v1/runs/nonsense")),
        (400, "bad-request", call("GET", "/v1/runs", params={"cursor": "nonsense"})),
        (421, "host-not-allowed", call("GET", "/v1/runs", headers={"Host": "evil.example"})),
        (403, "origin-not-allowed", call("POST", "/v1/runs", json={}, headers={"Origin": "http://evil.example"})),
    ]
    for status, slug, answer in problems:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].endswith(f":{slug}"), answer.text
        assert answer.json()["status"] == status and answer.json()["detail"]
    still_well(here)


@pytest.mark.parametrize(("where", "allowed"), [("itself", 3), ("in a task", 1)])
def test_a_workflow_that_blocks_the_loop_is_parked_and_the_others_succeed(tmp_path: Path, where: str, allowed: int):
    """Each time the process exits 70 and a supervisor starts it again; only who blocks it pays for that."""
    settings = {"AGENTOBS_LOOP_STALL_S": "2", "AGENTOBS_MAX_RECOVERIES": str(allowed)}
    with world(tmp_path, latency_s=0.3, **settings, **FLOWS) as here:
        service = here.service
        others = [service.submit("polite", f"tea {number}")["id"] for number in range(5)]
        blocker = service.submit("blocks", where)["id"]
        exits = 0
        while True:
            code = until(lambda: service.returncode, "the watchdog", 60)
            assert code == 70, service.tail()
            assert "flows_bad.py" in str(service.events("loop.blocked")[-1]), "the log names the place"
            service.wait_exit()
            exits += 1
            service.launch()
            service.wait_listening()
            if exits == allowed + 1:
                break
        summaries = service.wait_ended([blocker, *others], 60)
        books = here.close_the_books()
    books.check()
    parked = summaries[blocker]
    assert (parked["status"], parked["error"]["type"]) == ("failed", "parked")
    assert "AGENTOBS_MAX_RECOVERIES" in parked["error"]["message"]
    ends = [(summaries[other]["status"], (summaries[other]["error"] or {}).get("type")) for other in others]
    assert ends == [("succeeded", None)] * 5
    assert books.journal.run[blocker]["recoveries"] == allowed + 1


def test_a_process_that_was_stopped_for_a_while_is_not_blocked(tmp_path: Path):
    """A laptop that slept, a debugger, a frozen container: the loop did not block, nothing is to be left."""
    with world(tmp_path, latency_s=0.5, AGENTOBS_LOOP_STALL_S="2", **FLOWS) as here:
        runs = [here.service.submit("polite", f"tea {number}")["id"] for number in range(5)]
        os.kill(here.service.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(here.service.pid, signal.SIGCONT)
        ended = here.service.wait_ended(runs)
        assert {one["status"] for one in ended.values()} == {"succeeded"}
        assert not here.service.events("loop.blocked")
        here.close_the_books().check()


SLOW_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "anthropic":
            time.sleep(3)

sys.meta_path.insert(0, Slow())
"""


def test_the_first_call_after_a_start_has_all_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An agent's timeout is from request to last byte: loading the client, slow on a cold disk, is no part of it."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_IMPORT)
    before = os.environ.get("AGENTOBS_TEST_PYTHONPATH", "")
    monkeypatch.setenv("AGENTOBS_TEST_PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path / "slow"), before))))
    with world(tmp_path, **FLOWS) as here:
        run = here.service.submit("hurries", "please")["id"]
        ended = here.service.wait_ended([run])[run]
        assert (ended["status"], ended["error"]) == ("succeeded", None)
        here.close_the_books().check()


# ---- the provider ----


def test_no_network_to_the_model(tmp_path: Path):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = reserved.getsockname()[1]
        with OtlpSink() as sink:
            service = Service(
                tmp_path, environment(tmp_path, simulator=f"http://127.0.0.1:{port}", sink=sink.url, **FLOWS)
            )
            try:
                service.start()
                run = service.submit("polite", "tea")["id"]
                ended = service.wait_ended([run], 60)[run]
                assert (ended["status"], ended["error"]["type"]) == ("failed", "connection_error")
                assert (ended["attempts"], ended["usage_inexact"]) == (3, 3)
                assert service.readyz() == (200, [])
                reserved.close()
                with SimulatorThread(port=port):
                    run = service.submit("polite", "tea")["id"]
                    assert service.wait_ended([run], 60)[run]["status"] == "succeeded"
            finally:
                service.end()


def test_a_wrong_key(here: World):
    here.simulator.faults({"fault": "unauthorized"})
    run = here.service.submit("polite", "a wrong key")["id"]
    ended = here.service.wait_ended([run], 60)[run]
    here.simulator.faults()
    assert (ended["status"], ended["error"]["type"], ended["attempts"]) == ("failed", "authentication", 1)
    attempt = here.service.detail(run)["steps"][0]["attempts"][0]
    assert (attempt["http_status"], attempt["usage"], attempt["cost_usd"]) == (401, "exact", "0")
    still_well(here)


def test_no_key_at_all(tmp_path: Path):
    with world(tmp_path, ANTHROPIC_API_KEY="", **FLOWS) as here:
        run = here.service.submit("polite", "no key")["id"]
        ended = here.service.wait_ended([run], 60)[run]
        assert (ended["status"], ended["error"]["type"], ended["attempts"]) == ("failed", "authentication", 1)
        assert here.simulator.requests == 0, "nothing was sent"
        here.close_the_books().check()


# ---- the disk ----


def test_a_full_disk_pauses_and_nothing_is_lost(tmp_path: Path):
    """Nothing can be written to any file for a while, as seen by the process; then again."""
    with world(tmp_path, latency_s=0.4, **FLOWS) as here:
        service = here.service
        warm = service.submit("polite", "tea")["id"]
        service.wait_ended([warm])
        accepted = [service.submit("polite", f"tea {number}")["id"] for number in range(40)]
        until(lambda: here.simulator.requests > 10, "runs to be under way")
        service.limit_file_size(1)
        reasons = until(lambda: service.readyz()[0] == 503 and service.readyz()[1], "a reason why not", 60)
        assert any("journal" in reason for reason in reasons), reasons
        refused = service.post("polite", "too late", Idempotency_Key="while-full")
        assert refused.status_code == 503, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) > 0
        assert service.call("GET", "/healthz").status_code == 200
        assert service.metrics()["agentobs_journal_errors_total"][frozenset()] > 0
        until(lambda: _quiet(here), "answers on their way to come in", 60)
        before = here.simulator.requests
        time.sleep(1.5)
        assert here.simulator.requests == before, "no new attempt starts while nothing can be committed"
        assert service.summary(accepted[-1])["id"] == accepted[-1], "reading goes on"
        service.limit_file_size(None)
        until(lambda: service.readyz() == (200, []), "ready again", 60)
        again = service.submit("polite", "too late", Idempotency_Key="while-full")["id"]
        ended = service.wait_ended([*accepted, again])
        assert {one["status"] for one in ended.values()} == {"succeeded"}
        assert "reason" in service.events("journal.paused")[0] and service.events("journal.resumed")
        books = here.close_the_books()
    books.check()
    assert not [one for one in books.journal.attempts if one["usage"] != "exact"], "the answers in hand were kept"
    assert len(books.journal.runs) == 42


def _quiet(here: World) -> bool:
    return all(line.status is not None for line in here.simulator.bill())


def test_killed_while_the_disk_is_full(tmp_path: Path):
    with world(tmp_path, latency_s=0.4, **FLOWS) as here:
        service = here.service
        accepted = [service.submit("polite", f"tea {number}")["id"] for number in range(40)]
        until(lambda: here.simulator.requests > 10, "runs to be under way")
        service.limit_file_size(1)
        until(lambda: service.readyz()[0] == 503, "the pause", 60)
        time.sleep(0.5)
        service.kill()
        service.start()
        ended = service.wait_ended(accepted)
        assert {one["status"] for one in ended.values()} == {"succeeded"}
        here.close_the_books().check()


# ---- the process ----


def launched(service: Service) -> tuple[int, str]:
    """Of a process that is expected to end by itself: exit code and what it said."""
    service.launch()
    code = service.wait_exit(60)
    said = "\n".join(service.output)
    assert "Traceback" not in said, said
    return code, said


def test_a_second_process_on_the_same_journal_is_turned_away(here: World):
    second = Service(here.service.folder, here.service.environ | {"AGENTOBS_WORKER_NAME": "second"})
    code, said = launched(second)
    assert code == 1
    assert f"process {here.service.pid} (acceptance)" in said, said
    assert str(here.service.database) in said
    still_well(here)


def test_a_port_that_is_taken(here: World, tmp_path: Path):
    port = here.service.url.rpartition(":")[2]
    sent = environment(tmp_path, simulator=here.simulator.url, sink=None, AGENTOBS_PORT=port, **FLOWS)
    code, said = launched(Service(tmp_path, sent))
    assert code == 2
    assert "AGENTOBS_PORT" in said and port in said, said
    assert not list(tmp_path.glob("agentobs.db*")), "nothing was begun"


def test_settings_and_modules_that_cannot_be_used(tmp_path: Path):
    for name, value, said in [
        ("AGENTOBS_WORKFLOWS", "no.such.module", "no.such.module"),
        ("AGENTOBS_LEASE_S", "soon", "AGENTOBS_LEASE_S"),
        ("AGENTOBS_DATABASE_URL", f"sqlite:///{tmp_path}/no/such/folder/a.db", "no/such/folder"),
    ]:
        sent = environment(tmp_path, simulator="http://127.0.0.1:9", sink=None, **{**FLOWS, name: value})
        code, heard = launched(Service(tmp_path, sent))
        assert code in {1, 2}, (name, code)
        assert said in heard, heard


def test_a_journal_that_may_not_be_written(tmp_path: Path):
    if os.geteuid() == 0 and not _immutable(tmp_path / "probe"):
        pytest.skip("root may write anywhere, and this file system knows no immutable files")
    database = tmp_path / "agentobs.db"
    with world(tmp_path, **FLOWS) as here:
        here.service.stop()
        for file in tmp_path.glob("agentobs.db*"):
            file.unlink() if file.suffix in {".db-wal", ".db-shm"} else None
        database.chmod(0o400)
        _immutable(database)
        try:
            code, said = launched(here.service)
        finally:
            subprocess.run(["chattr", "-i", str(database)], check=False, capture_output=True)
            database.chmod(0o600)
    assert code == 1
    assert "agentobs.db" in said, said


def _immutable(path: Path) -> bool:
    path.touch()
    done = subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True).returncode == 0
    if path.name == "probe":
        subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)
    return done
