"""`agentobs drill` from outside: what it refuses, what it says does not answer, and what it leaves behind.

The source of alerts is a double here; tests/stack has the drill on real servers.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.acceptance.harness import Service, SimulatorThread, environment
from tests.acceptance.test_cli import BUILT_IN, NOBODY, agentobs, is_one_sentence

pytestmark = pytest.mark.timeout(120)

SLOW = {"fault": "slow", "delay_s": 0.0, "match": {"contains": "nobody says this"}}
ALERT = {"alertname": "AgentobsRefusalsRising", "workflow": "triage", "agent": "sorter", "model": "claude-haiku-5-5"}


class AlertServer:
    """Answers as Alertmanager or as Grafana (which wants a password); `fires` says whether the one alert does."""

    def __init__(self, kind: str = "alertmanager") -> None:
        self.fires = lambda: False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = server.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(401 if found == "unauthorized" else 404 if found is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.kind = kind
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str) -> object:
        alerts = [{"labels": ALERT}] if self.fires() else []
        if self.kind == "alertmanager":
            return {"/api/v2/status": {"cluster": {"status": "disabled"}}, "/api/v2/alerts": alerts}.get(path)
        if path == "/api/health":
            return {"database": "ok"}
        if authorization != "Basic YWRtaW46c2VjcmV0LXdvcmQ=":  # admin:secret-word
            return "unauthorized"
        rules = {"data": {"groups": [{"rules": [{"name": "AgentobsRefusalsRising", "type": "alerting"}]}]}}
        return {
            "/api/alertmanager/grafana/api/v2/alerts": alerts,
            "/api/prometheus/grafana/api/v1/rules": rules,
        }.get(path)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Here:
    """A folder with a service that calls `simulator`."""

    def __init__(self, path: Path, simulator: SimulatorThread) -> None:
        self.path, self.simulator = path, simulator
        self.env = environment(path, simulator=simulator.url, sink=None, **BUILT_IN)
        self.service = Service(path, self.env)

    def drill(self, *args: str, simulator: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        url = simulator or self.simulator.url
        return agentobs("drill", "--simulator", url, *args, env=self.env | env, cwd=self.path)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with SimulatorThread() as simulator:
        found = Here(tmp_path_factory.mktemp("drill"), simulator)
        try:
            found.env["AGENTOBS_URL"] = found.service.start().url
            yield found
        finally:
            found.service.end()


@pytest.fixture(params=["alertmanager", "grafana"])
def alerts(request: pytest.FixtureRequest) -> Iterator[AlertServer]:
    server = AlertServer(request.param)
    yield server
    server.close()


@pytest.fixture
def alertmanager() -> Iterator[AlertServer]:
    server = AlertServer()
    yield server
    server.close()


def options(alerts: AlertServer, folder: Path) -> list[str]:
    if alerts.kind == "alertmanager":
        return ["--alerts", alerts.url]
    secret = folder / "secret"
    secret.write_text("secret-word\n")
    return ["--alerts", f"http://admin@127.0.0.1:{alerts.port}", "--alerts-secret", str(secret)]


def test_an_alert_seen_at_either_server_passes(here: Here, alerts: AlertServer) -> None:
    here.simulator.faults(SLOW)
    alerts.fires = lambda: [rule["fault"] for rule in here.simulator.applied()] == ["refusal"]
    done = here.drill(*options(alerts, here.path), "--only", "AgentobsRefusalsRising")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.strip().splitlines()
    assert head.split() == ["alert", "about", "fault", "fired", "after", "ended", "after", "result"]
    assert row.startswith("AgentobsRefusalsRising  triage sorter  refusals ") and row.endswith(" passed")
    assert [rule["fault"] for rule in here.simulator.applied()] == ["slow"]


def test_an_alert_that_stays_silent_is_exit_4_and_the_rules_are_put_back(here: Here, alerts: AlertServer) -> None:
    here.simulator.faults(SLOW)
    done = here.drill(*options(alerts, here.path), "--only", "AgentobsRefusalsRising", "--timeout", "2")
    assert done.returncode == 4
    assert done.stdout.strip().splitlines()[-1].endswith(" stayed silent")
    assert [rule["fault"] for rule in here.simulator.applied()] == ["slow"]


def test_grafana_tells_which_alerts_are_loaded_at_all(here: Here) -> None:
    server = AlertServer("grafana")
    try:
        done = here.drill(*options(server, here.path), "--only", "AgentobsStreamsCut", "--json")
    finally:
        server.close()
    assert done.returncode == 4
    assert [row["result"] for row in json.loads(done.stdout)["alerts"]] == ["not loaded"]


def test_whatever_does_not_answer_is_told_before_anything_is_done(here: Here) -> None:
    before = here.simulator.requests
    done = here.drill("--alerts", NOBODY, "--prometheus", NOBODY, simulator=NOBODY, AGENTOBS_URL=NOBODY)
    assert (done.returncode, done.stdout) == (3, "")
    told = done.stderr.splitlines()
    assert len(told) == 4 and all(line.startswith("agentobs: ") for line in told)
    for what in (
        "no service answers",
        "the simulator does not answer",
        "Alertmanager or Grafana does",
        "Prometheus does",
    ):
        assert any(what in line for line in told), what
    assert here.simulator.requests == before


@pytest.mark.parametrize("wrong", ["alerts", "simulator"])
def test_something_else_at_an_address_is_told(here: Here, alertmanager: AlertServer, wrong: str) -> None:
    given = {"alerts": alertmanager.url, "simulator": here.simulator.url} | {wrong: here.service.url}
    done = here.drill("--alerts", given["alerts"], simulator=given["simulator"])
    assert done.returncode == 3
    assert f"what answers at {here.service.url} is n" in done.stderr


def test_a_wrong_password_is_told_and_never_shown(here: Here) -> None:
    server = AlertServer("grafana")
    try:
        done = here.drill("--alerts", f"http://admin:wrong-word@127.0.0.1:{server.port}")
    finally:
        server.close()
    assert done.returncode == 3
    assert "status 401" in done.stderr and "wrong-word" not in done.stderr


def test_a_service_that_does_not_call_this_simulator_is_refused(here: Here, alertmanager: AlertServer) -> None:
    with SimulatorThread() as other:
        done = here.drill("--alerts", alertmanager.url, simulator=other.url)
        assert done.returncode == 2
        assert "is not on the bill of the simulator" in done.stderr
        assert other.applied() == []
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "--alerts names Alertmanager or Grafana"),
        (["--alerts", "localhost"], "expected a URL that begins with http"),
        (["--only", "AgentobsNoSuch"], "those that can be drilled: AgentobsRunSuccessBurnFast, "),
        (["--only", "AgentobsDiskLow"], "cannot be drilled: the journal's disk would have to be filled"),
        (["--listen", "9099"], "expected HOST:PORT"),
        (["--alerts", NOBODY, "--alerts-secret", "/no/such/file"], "No such file"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_use_is_one_sentence(here: Here, args: list[str], told: str) -> None:
    done = here.drill(*args)
    assert done.returncode == 2
    assert told in done.stderr and is_one_sentence(done.stderr)
