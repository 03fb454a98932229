"""`agentobs runs tail` as its users meet it: at a service, through its death, in the file, on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import World, until, world
from tests.acceptance.test_cli import AGENTOBS

pytestmark = pytest.mark.timeout(180)
NAMES = ("run", "execution", "step", "attempt")


class Tail:
    """A running `agentobs runs tail … --json`, and the events it has printed."""

    def __init__(self, here: World, run_id: str, *more: str) -> None:
        env = here.service.environ | {"AGENTOBS_URL": here.service.url}
        self.process = subprocess.Popen(
            [AGENTOBS, "runs", "tail", run_id, *more],
            env=env,
            cwd=here.service.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines) if line.endswith("\n")]

    def wait(self) -> tuple[int, str]:
        """Exit code and stderr."""
        code = self.process.wait(120)
        self.thread.join(10)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        yield found


def run_tail(here: World, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AGENTOBS, "runs", "tail", *args],
        env=here.service.environ | {"AGENTOBS_URL": here.service.url} | env,
        cwd=here.service.folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_tail_outlives_the_service_and_misses_nothing(here: World) -> None:
    here.simulator.faults({"fault": "slow", "delay_s": 1.0, "times": 12})
    run_id = here.service.submit("fanout", {"topic": "tails"})["id"]
    tail = Tail(here, run_id, "--json")
    until(lambda: any(one["event"] == "attempt.started" for one in tail.events), "an attempt on the tail")
    here.service.environ["AGENTOBS_PORT"] = here.service.url.rpartition(":")[2]  # where the tail looks for it
    here.service.kill()
    here.service.start()
    code, stderr = tail.wait()
    assert code == 0, stderr
    assert "trying again" in stderr
    again = run_tail(here, run_id, "--json")
    assert [json.loads(line) for line in again.stdout.splitlines()] == tail.events
    names = [one["event"] for one in tail.events]
    assert names[0] == "run.accepted"
    assert names[-1] == "run.ended"
    assert names.count("execution.started") == 2
    ids = [one["id"] for one in tail.events]
    assert ids == sorted(set(ids))


def test_lines_where_it_is_piped_and_1_for_a_run_that_failed(here: World) -> None:
    here.simulator.faults(
        {"fault": "overloaded", "times": 1}, {"fault": "bad_request", "match": {"contains": "Doomed"}}
    )
    good = here.service.submit("article", {"goal": "Tea"})["id"]
    bad = here.service.submit("article", {"goal": "Doomed"})["id"]
    done = run_tail(here, bad)
    assert done.returncode == 1, done.stderr
    assert f"run {bad} failed after" in done.stdout
    assert done.stdout.rstrip().endswith(": invalid_request in step 1 (researcher)")
    assert "trying again" not in done.stdout  # it was not
    done = run_tail(here, good)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "editor" in done.stdout
    assert f"run {good} succeeded after" in done.stdout
    assert done.stdout.count("attempt 1: 529 overloaded, trying again") == 1
    assert re.search(r"1 retry, [\d,]+ in, [\d,]+ out, \$[\d.]+$", done.stdout.rstrip())
    done = run_tail(here, "01930000-0000-7abc-8def-0123456789ab")
    assert done.returncode == 2
    assert done.stderr == "agentobs: there is no run 01930000-0000-7abc-8def-0123456789ab\n"


def test_the_journal_file_tells_the_same(here: World) -> None:
    run_id = here.service.submit("article", {"goal": "Tea"})["id"]
    live = run_tail(here, run_id, "--json")
    assert live.returncode == 0, live.stderr
    here.service.stop()
    file = run_tail(here, run_id, "--json")
    assert file.returncode == 0, file.stderr
    assert "read from the journal" in file.stderr
    assert file.stdout == live.stdout


def test_a_waterfall_that_grows_on_a_terminal(here: World) -> None:
    run_id = here.service.submit("article", {"goal": "Tea"})["id"]
    ours, theirs = pty.openpty()
    env = here.service.environ | {"AGENTOBS_URL": here.service.url, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [AGENTOBS, "runs", "tail", run_id], env=env, cwd=here.service.folder, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the end of a terminal on Linux
        pass
    assert process.wait(60) == 0
    text = said.decode()
    assert "\x1b[2K" in text  # drawn again
    last = text[text.rindex("\x1b[2K") :]
    assert "researcher" in last
    assert "succeeded" in last


def test_ctrl_c_leaves_the_waterfall_and_says_that_the_run_goes_on(here: World) -> None:
    here.simulator.faults({"fault": "slow", "delay_s": 30.0, "match": {"contains": "Write"}})
    run_id = here.service.submit("article", {"goal": "Tea"})["id"]
    ours, theirs = pty.openpty()
    env = here.service.environ | {"AGENTOBS_URL": here.service.url, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [AGENTOBS, "runs", "tail", run_id], env=env, cwd=here.service.folder, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    said = b""
    while b"\xe2\x96\x93" not in said:  # a bar of what runs
        said += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:
        pass
    assert process.wait(60) not in {0, 1}
    left = said.decode()
    left = left[left.rindex(f"run {run_id}") :]
    assert "▓ running" in left
    assert "\x1b[2K" not in left  # it is not wiped
    assert process.stderr is not None
    told = process.stderr.read().decode()
    assert f"the run goes on: 'agentobs runs tail {run_id}'" in told
    assert "Traceback" not in told
    assert here.service.summary(run_id)["status"] == "running"
    here.service.cancel(run_id)


def test_a_stop_of_the_service_does_not_wait_for_those_who_follow(tmp_path: Path) -> None:
    with world(tmp_path, faults=[{"fault": "hang"}], AGENTOBS_DRAIN_TIMEOUT_S="1") as here:
        _stop_while_followed(here)


def _stop_while_followed(here: World) -> None:
    run_id = here.service.submit("article", {"goal": "Tea"})["id"]
    tails = [Tail(here, run_id, "--json") for _ in range(2)]
    until(lambda: all(tail.events for tail in tails), "both tails to follow")
    here.service.stop()
    assert "graceful shutdown exceeded" not in here.service.tail(200)  # what the server says when it cuts off
    assert here.service.events("service.stopped")
    for tail in tails:
        tail.process.kill()
        tail.wait()
