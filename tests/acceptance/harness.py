"""What the acceptance tests share: the service as a process of its own, driven from outside, and its surroundings.

    with world(tmp_path) as here:                      # a simulator, an OTLP sink, a running service
        run = here.service.submit("article", {"goal": "tea"})
        here.service.wait_ended([run["id"]])
        books = here.close_the_books()                 # bill, journal, spans, metrics: see books.py

The process gets an environment of its own, a free port and a folder; it is stopped by SIGTERM, killed by SIGKILL, and
found by the URL that it says. `AGENTOBS_TEST_PYTHONPATH` puts a folder in front of the code under test: that is how
a mutated copy of it is tried against these tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from agentobs.simulator.server import Simulator
from tests.acceptance.books import Books, Journal, Line, read_journal
from tests.otlp_sink import OtlpSink

ROOT = Path(__file__).parents[2]
START_S = 60.0  # other jobs may have the machine
END_S = 120.0
FLOWS = "tests.acceptance.flows"
TERMINAL = {"succeeded", "failed", "cancelled"}
_URL = re.compile(r"agentobs at (http://127\.0\.0\.1:\d+)")


def until(condition: Callable[[], Any], what: str, timeout_s: float = END_S, every_s: float = 0.02) -> Any:
    """What `condition()` returns once that is true; fails after `timeout_s` and says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(every_s)
    return found


class SimulatorThread:
    """The simulator in a thread of this process; read and told what to do over HTTP, as anybody would."""

    def __init__(self, *, seed: int = 1, latency_s: float = 0.0, port: int = 0) -> None:
        self._simulator = Simulator(seed=seed, latency_s=latency_s, port=port)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self._http: httpx2.Client | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._simulator.start(), self._loop).result(20)
        self._http = httpx2.Client(base_url=self.url, timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._http is not None
        self._http.close()
        asyncio.run_coroutine_threadsafe(self._simulator.stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    @property
    def url(self) -> str:
        return self._simulator.url

    @property
    def requests(self) -> int:
        """How many lines the bill has; cheap enough to be asked all the time."""
        return len(self._simulator.bill)

    def bill(self) -> list[Line]:
        assert self._http is not None
        return [Line.of(line) for line in self._http.get("/_bill").raise_for_status().json()["requests"]]

    def faults(self, *rules: Mapping[str, Any]) -> None:
        assert self._http is not None
        answer = self._http.put("/_faults", json=list(rules))
        assert answer.status_code == 200, answer.text

    def applied(self) -> list[dict[str, Any]]:
        """The rules in force, each with how often it was `applied`."""
        assert self._http is not None
        return list(self._http.get("/_faults").raise_for_status().json())


class Service:
    """`agentobs serve` as a process. `environ` is on top of what it needs to find simulator, sink and workflows."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = dict(environ)
        self.output: list[str] = []  # lines of stdout and stderr, over all starts
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._http: httpx2.Client | None = None

    # ---- the process ----

    def launch(self) -> None:
        """Start it and return at once."""
        assert self._process is None, "it runs already"
        self.url = ""
        self._process = process = subprocess.Popen(
            [Path(sys.executable).with_name("agentobs"), "serve"],
            env=self.environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            if not self.url and (found := _URL.match(line)):
                self.url = found[1]
            self.output.append(line.rstrip("\n"))

    def start(self, timeout_s: float = START_S) -> Self:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_listening(timeout_s)
        until(lambda: self.readyz()[0] == 200, f"ready\n{self.tail()}", timeout_s)
        return self

    def wait_listening(self, timeout_s: float = START_S) -> None:
        def listening() -> bool:
            assert self.running, f"it ended with {self.returncode}\n{self.tail()}"
            return bool(self.url)

        until(listening, f"listening\n{self.tail()}", timeout_s)
        self._http = httpx2.Client(base_url=self.url, timeout=60)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_exit(self, timeout_s: float = END_S) -> int:
        """Its exit code; afterwards it can be started again."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(10)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process = None
        if self._http is not None:
            self._http.close()
            self._http = None
        return code

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait_exit() == -signal.SIGKILL

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def stop(self, timeout_s: float = END_S) -> None:
        """SIGTERM, and a clean end."""
        self.terminate()
        code = self.wait_exit(timeout_s)
        assert code == 0, f"it ended with {code}\n{self.tail()}"

    def end(self) -> None:
        """Whatever its state: gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self.wait_exit()

    def limit_file_size(self, limit: int | None) -> None:
        """From outside: no file may be written beyond `limit` bytes, as on a full disk; None lifts it."""
        value = resource.RLIM_INFINITY if limit is None else limit
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (value, hard))

    def cpu_s(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.output[-lines:])

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Log lines, all or those of one event."""
        found = [json.loads(line) for line in list(self.output) if line.startswith("{")]
        return [one for one in found if name is None or one.get("event") == name]

    # ---- HTTP ----

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        assert self._http is not None, "it was not started"
        return self._http.request(method, path, **more)

    def json(self, path: str, **params: Any) -> Any:
        answer = self.call("GET", path, params=params)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def submit(self, workflow: str, input: object = None, **headers: str) -> dict[str, Any]:
        """The summary of an accepted run."""
        answer = self.post(workflow, input, **headers)
        assert answer.status_code in {200, 202}, f"{answer.status_code} {answer.text}"
        return dict(answer.json())

    def post(self, workflow: str, input: object = None, **headers: str) -> httpx2.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", "/v1/runs", json={"workflow": workflow, "input": input}, headers=sent)

    def cancel(self, run_id: str) -> dict[str, Any]:
        answer = self.call("POST", f"/v1/runs/{run_id}/cancel")
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def summary(self, run_id: str) -> dict[str, Any]:
        return dict(self.json(f"/v1/runs/{run_id}/summary"))

    def detail(self, run_id: str) -> dict[str, Any]:
        return dict(self.json(f"/v1/runs/{run_id}"))

    def summaries(self) -> list[dict[str, Any]]:
        """All runs, page by page."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 200}
        while True:
            page = self.json("/v1/runs", **params)
            found += page["runs"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]

    def wait_ended(self, run_ids: Iterable[str], timeout_s: float = END_S) -> dict[str, dict[str, Any]]:
        """Summaries by id, once all have ended."""
        ended: dict[str, dict[str, Any]] = {}
        for run_id in run_ids:

            def has_ended(run_id: str = run_id) -> bool:
                found = self.summary(run_id)
                if found["status"] in TERMINAL:
                    ended[run_id] = found
                return run_id in ended

            until(has_ended, f"run {run_id} to end", timeout_s, every_s=0.03)
        return ended

    def wait_idle(self, timeout_s: float = END_S) -> None:
        """Until no run is queued, running or waiting."""

        def idle() -> bool:
            return not any(
                self.json("/v1/runs", status=status, limit=1)["runs"] for status in ("queued", "running", "waiting")
            )

        until(idle, "all runs to end", timeout_s, every_s=0.1)

    def readyz(self) -> tuple[int, list[str]]:
        """The status, and the reasons why not."""
        try:
            answer = self.call("GET", "/readyz")
        except httpx2.TransportError:
            return 0, []
        return answer.status_code, answer.json().get("reasons", [])

    def metrics(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """Samples by name and label set."""
        answer = self.call("GET", "/metrics", headers={"Accept": "text/plain"})
        assert answer.status_code == 200
        found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    # ---- the journal, beside the process ----

    @property
    def database(self) -> Path:
        return self.folder / "agentobs.db"

    def journal(self) -> Journal:
        return read_journal(self.database)


class World:
    """A service and what it talks to."""

    def __init__(self, service: Service, simulator: SimulatorThread, sink: OtlpSink) -> None:
        self.service = service
        self.simulator = simulator
        self.sink = sink

    def wait_delivered(self, timeout_s: float = END_S) -> None:
        """Until the journal owes no span to the sink."""
        until(lambda: self.service.journal().owed == 0, "the outbox to be empty", timeout_s, every_s=0.1)

    def close_the_books(self) -> Books:
        """Once all runs have ended: stop the service, and take down what each of the four says."""
        self.service.wait_idle()
        self.wait_delivered()
        metrics = self.service.metrics()
        summaries = self.service.summaries()
        self.service.stop()
        return Books(
            bill=self.simulator.bill(),
            journal=self.service.journal(),
            spans=list(self.sink.spans),
            metrics=metrics,
            summaries=summaries,
        )


def environment(folder: Path, *, simulator: str, sink: str | None, **settings: str) -> dict[str, str]:
    """All that the process gets to see; a setting given as "" is left out, `{simulator}` is its URL."""
    before = os.environ.get("AGENTOBS_TEST_PYTHONPATH", "")
    found = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, (before, str(ROOT)))),
        "ANTHROPIC_API_KEY": "sk-acceptance",
        "ANTHROPIC_BASE_URL": simulator,
        "AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}",
        "AGENTOBS_WORKFLOWS": FLOWS,
        "AGENTOBS_PORT": "0",
        "AGENTOBS_WORKER_NAME": "acceptance",
        "AGENTOBS_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink or "",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2000",
        **{name: value for name, value in os.environ.items() if name.startswith("COV")},
        **{name: value.replace("{simulator}", simulator) for name, value in settings.items()},
    }
    return {name: value for name, value in found.items() if value}


@contextmanager
def world(
    folder: Path, *, latency_s: float = 0.0, seed: int = 1, faults: Sequence[Mapping[str, Any]] = (), **settings: str
) -> Iterator[World]:
    """A simulator, a sink and a started service in `folder`, which is gone in the end whatever its state."""
    with SimulatorThread(seed=seed, latency_s=latency_s) as simulator, OtlpSink() as sink:
        simulator.faults(*faults)
        service = Service(folder, environment(folder, simulator=simulator.url, sink=sink.url, **settings))
        try:
            yield World(service.start(), simulator, sink)
        finally:
            service.end()
