"""`agentobs traffic` as a process, against a service and a simulator that are processes too."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from agentobs.cli import errands, traffic
from agentobs.cli.http import Client
from tests.acceptance.harness import Service, SimulatorThread, environment, until, world

AGENTOBS = Path(sys.executable).with_name("agentobs")
PORT = re.compile(r":(\d+)$")


class Sending:
    """A running `agentobs traffic`, its lines as they come."""

    def __init__(self, service: Service, *options: str, **environ: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [AGENTOBS, "traffic", *options],
            env=service.environ | {"AGENTOBS_URL": service.url} | environ,
            cwd=service.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Where these tests are a shell's background job, SIGINT is ignored, and what they start inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- it only sets a flag
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and all that it said."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        code = self.process.wait(60)
        self._reader.join(10)
        return code, "\n".join(self.lines)


@contextmanager
def sending(service: Service, *options: str, **environ: str):
    found = Sending(service, *options, **environ)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(10)


def test_runs_of_all_four_workflows_are_sent_and_how_they_ended_is_told(tmp_path):
    key = tmp_path / "key"
    key.write_text("a-key-of-sixteen-characters\n")
    key.chmod(0o600)
    headers = {"Authorization": "Bearer a-key-of-sixteen-characters"}
    with SimulatorThread() as simulator:
        service = Service(
            tmp_path, environment(tmp_path, simulator=simulator.url, sink=None, AGENTOBS_API_KEY_FILE=str(key))
        )

        def listed(**params: str):
            answer = httpx2.get(f"{service.url}/v1/runs", params={"limit": 200} | params, headers=headers, timeout=60)
            return answer.json()["runs"]

        try:
            service.start()
            with sending(service, "--simulator", simulator.url, "--rate", "300", "--seed", "3") as sent:
                until(lambda: len({run["workflow"] for run in listed(status="succeeded")}) == 4, "one of each")
                until(lambda: len(listed(status="succeeded")) > 20, "some more, whose ends are seen while these run")
                time.sleep(2)  # each end is seen within a second
                code, told = sent.end()
            assert code == 0, told
            found = re.fullmatch(r"in all: (\d+) sent, (\d+) succeeded, (\d+) under way", told)
            assert found, told
            runs = listed()
        finally:
            service.end()
    assert len(runs) - 1 <= int(found[1]) <= len(runs)  # it may be stopped between the call and its answer
    assert 4 <= int(found[2]) <= int(found[1])
    assert all(run["tags"] == {"sent-by": "traffic"} for run in runs)
    assert runs[-1]["workflow"] == "triage"  # the proof came first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_when_it_is_stopped_and_takes_its_faults_back(tmp_path, number):
    with world(tmp_path) as here:
        options = ("--rate", "300", "--fault-share", "0.1")
        with sending(here.service, "--simulator", here.simulator.url, *options) as sent:
            until(lambda: len(here.service.summaries()) > 3, "some runs")
            rules = here.simulator.applied()
            code, told = sent.end(number)
        assert code == 0, told
        assert re.search(r"^in all: \d+ sent", told, re.MULTILINE), told
        assert "Traceback" not in told
        assert {rule["fault"] for rule in rules} == {
            "overloaded", "rate_limited", "slow", "server_error", "cut_stream", "reset", "refusal", "max_tokens",
        }  # fmt: skip
        assert sum(rule["probability"] for rule in rules) == pytest.approx(0.1)
        assert here.simulator.applied() == []


def test_fault_rules_of_somebody_else_stay(tmp_path):
    mine = {"fault": "slow", "delay_s": 0.1}
    with world(tmp_path, faults=[mine]) as here:
        options = ("--rate", "60", "--for", "10", "--fault-share", "0.1")
        with sending(here.service, "--simulator", here.simulator.url, *options) as sent:
            code, told = sent.wait()
        assert code == 0, told
        assert "has fault rules already; they stay" in told
        assert [{name: rule[name] for name in mine} for rule in here.simulator.applied()] == [mine]


def test_it_goes_on_when_the_service_was_away(tmp_path):
    with world(tmp_path) as here:
        with sending(here.service, "--simulator", here.simulator.url, "--rate", "300") as sent:
            until(lambda: len(here.service.summaries()) > 3, "some runs")
            here.service.environ["AGENTOBS_PORT"] = PORT.search(here.service.url)[1]
            here.service.kill()
            time.sleep(4)
            here.service.start()
            until(lambda: any("answered again after" in line for line in sent.lines), "it to be told")
            before = len(here.service.summaries())
            until(lambda: len(here.service.summaries()) > before + 3, "further runs")
            code, told = sent.end()
        assert code == 0, told
        assert re.findall(r"(no service answers at|broke off) .*; it is tried again$", told, re.MULTILINE), told
        assert told.count("it is tried again") == 1, told


# ---- money ----


@contextmanager
def paid_api():
    """Another model API than the simulator that is named: counts the requests that it gets."""
    calls: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            body = b'{"type": "error", "error": {"type": "authentication_error", "message": "no"}}'
            self.send_response(401)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()


def test_a_service_that_calls_something_else_than_the_simulator_is_sent_one_small_run_and_no_more(tmp_path):
    with paid_api() as (url, calls), world(tmp_path, ANTHROPIC_BASE_URL=url) as here:
        with sending(here.service, "--simulator", here.simulator.url, "--rate", "6000") as sent:
            code, told = sent.wait()
        assert code == 2, told
        assert "which may cost money. Nothing more is sent" in told
        assert len(calls) == 1
        assert [run["workflow"] for run in here.service.summaries()] == ["triage"]


def test_a_run_that_is_not_on_the_bill_any_more_asks_for_a_new_proof(tmp_path):
    """The service starts again between two runs, with another model API, and nobody sees it away."""
    with paid_api() as (url, calls), world(tmp_path) as here:
        with sending(here.service, "--simulator", here.simulator.url, "--rate", "10", "--seed", "1") as sent:
            until(lambda: here.simulator.requests, "the proof")
            here.service.wait_idle()
            here.service.environ["AGENTOBS_PORT"] = PORT.search(here.service.url)[1]
            here.service.environ["ANTHROPIC_BASE_URL"] = url
            here.service.stop()
            here.service.start()
            code, told = sent.wait()
        assert code == 2, told
        assert "which may cost money. Nothing more is sent" in told
        assert len(calls) <= 4, calls  # a run or two before it was seen, and the proof


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "name the simulator that it calls with --simulator URL, or say --spend-real-money"),
        (["--simulator", "http://127.0.0.1:1", "--spend-real-money"], "exclude each other"),
        (["--spend-real-money", "--fault-share", "0.1"], "--fault-share needs --simulator"),
        (["--simulator", "localhost:9100"], "--simulator is 'localhost:9100'; expected a URL"),
        (["--spend-real-money", "--rate", "0"], "--rate is 0; expected runs a minute"),
        (["--spend-real-money", "--rate", "nan"], "--rate is nan"),
        (["--spend-real-money", "--rate", "inf"], "--rate is inf"),
        (["--spend-real-money", "--for", "-1"], "--for is -1"),
        (["--simulator", "http://127.0.0.1:1", "--fault-share", "nan"], "--fault-share is nan"),
        (["--simulator", "http://127.0.0.1:1", "--fault-share", "0.9"], "--fault-share is 0.9"),
    ],
)
def test_what_makes_no_sense_or_could_spend_unasked_is_refused(tmp_path, options, said):
    env = environment(tmp_path, simulator="http://127.0.0.1:1", sink=None, AGENTOBS_URL="http://127.0.0.1:1")
    done = subprocess.run(
        [AGENTOBS, "traffic", *options], env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_simulator_is_refused_before_anything_is_sent(tmp_path):
    with world(tmp_path) as here:
        with sending(here.service, "--simulator", here.service.url) as sent:
            code, told = sent.wait()
        assert code == 2
        assert "is not 'agentobs simulate'" in told
        assert here.service.summaries() == []


def test_real_money_is_spent_when_that_is_said(tmp_path):
    with world(tmp_path) as here:
        with sending(here.service, "--spend-real-money", "--rate", "300") as sent:
            until(lambda: len(here.service.summaries()) > 3, "some runs")
            code, told = sent.end()
        assert code == 0
        assert "every run is paid for: 300 a minute" in told


# ---- in this process ----


async def test_a_full_queue_is_asked_again_when_it_said(monkeypatch, capsys):
    asked: list[float] = []

    class Full(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(time.monotonic())
            self.rfile.read(int(self.headers["content-length"]))
            full = len(asked) < 2
            body = (
                b'{"type": "urn:agentobs:problem:queue-full", "detail": "the queue is full"}'
                if full
                else b'{"id": "1"}'
            )
            self.send_response(429 if full else 202)
            if full:
                self.send_header("retry-after", "2")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    plan = traffic.Plan(rate=6, for_s=None, seed=1, simulator=None, fault_share=0, spend_real_money=True)
    async with Client(f"http://127.0.0.1:{server.server_port}") as client:
        sender = traffic.Sender(client, None, plan)
        assert await sender._submit(errands.SMALLEST) == "1"
    await asyncio.to_thread(server.shutdown)
    server.server_close()
    assert asked[1] - asked[0] >= 2
    assert "the queue is full" in capsys.readouterr().err
