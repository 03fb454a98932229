"""The fire drill on the real Prometheus and Alertmanager, with the rules as committed and as they could break."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.harness import until
from tests.stack import compose, runner
from tests.stack.backends import Prometheus
from tests.stack.runner import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

AGENTOBS = Path(sys.executable).with_name("agentobs")
SERVICES = ("alertmanager", "prometheus", "simulator", "agentobs")
SECRETS = {
    "agentobs_api_key": "drill-test-key-0123456789abcdef",
    "anthropic_api_key": "sk-ant-drill-test",
    "grafana_admin_password": "drill-test-password",
}
BEFORE = [{"fault": "slow", "delay_s": 0.01, "match": {"contains": "nobody says this"}}]


@dataclass
class World:
    stack: Stack
    listen: str

    def argv(self, *more: str) -> list[str]:
        url = self.stack.url
        return [
            str(AGENTOBS),
            "drill",
            *("--server", url("agentobs"), "--simulator", url("simulator"), "--alerts", url("alertmanager")),
            *more,
        ]

    @property
    def environ(self) -> dict[str, str]:
        key = self.stack.at(self.stack.root("agentobs"), "/run/secrets/agentobs_api_key")
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.stack.folder),
            "PYTHONPATH": str(compose.ROOT),
            "AGENTOBS_API_KEY_FILE": str(key),
        }

    def drill(self, *more: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the report, and what was said meanwhile."""
        done = subprocess.run(
            self.argv("--json", *more), env=self.environ, capture_output=True, text=True, timeout=200, check=False
        )
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def faults(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx2.get(f"{self.stack.url('simulator')}/_faults").json()
        return found

    def reloaded(self) -> float:
        """When Prometheus last read its configuration."""
        text = httpx2.get(f"{self.stack.url('prometheus')}/metrics").text
        (told,) = re.findall(r"^prometheus_config_last_reload_success_timestamp_seconds (\S+)$", text, re.MULTILINE)
        return float(told)

    @contextmanager
    def broken(self, old: str, new: str) -> Iterator[None]:
        """While inside, Prometheus has other alert rules."""
        file = self.stack.at(self.stack.root("prometheus"), "/etc/prometheus/rules/alerts.yml")
        good = file.read_text()
        bad, count = re.subn(old, new, good, flags=re.DOTALL)
        assert count == 1
        process = self.stack.processes["prometheus"].popen
        assert process is not None
        for text in (bad, good):
            file.write_text(text)
            before = self.reloaded()
            process.send_signal(signal.SIGHUP)
            until(lambda before=before: self.reloaded() > before, "Prometheus to read its rules again", 30)
            if text is bad:
                yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = [runner.IMAGES[name].program for name in ("prom/prometheus", "prom/alertmanager")]
    if missing := [str(program) for program in wanted if not program.exists()]:
        reason = f"tests/stack/install.sh has not put these there: {', '.join(missing)}"
        if "stack" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names stack, but {reason}")
        pytest.skip(reason)
    ports = runner.Ports()
    listen = f"127.0.0.1:{ports.local('drill', 9099)}"
    stack = Stack(
        ports=ports,
        folder=tmp_path_factory.mktemp("drill"),
        variables={"AGENTOBS_ALERTS_BY": "alertmanager", "ANTHROPIC_BASE_URL": "http://simulator:9100"},
        secrets={**SECRETS, "alert_webhook_url": f"http://{listen}/"},
        environ={name: {"PYTHONPATH": str(compose.ROOT)} for name in ("agentobs", "simulator")},
    )
    try:
        stack.start(SERVICES)
        stack.wait_ready(SERVICES)
        found = World(stack, listen)
        httpx2.put(f"{stack.url('simulator')}/_faults", json=BEFORE).raise_for_status()
        Prometheus(stack.url("prometheus")).scraped()  # an increase needs a value before it
        yield found
    finally:
        stack.close()


def test_alerts_that_fire_are_delivered_and_end(world: World):
    code, told, said = world.drill(
        *("--listen", world.listen, "--only", "AgentobsRefusalsRising", "--only", "AgentobsStreamsCut"),
        *("--prometheus", world.stack.url("prometheus"), "--timeout", "90"),
    )
    assert (code, told["passed"]) == (0, True), said
    rows = {row["alert"]: row for row in told["alerts"]}
    assert rows.keys() == {"AgentobsRefusalsRising", "AgentobsStreamsCut"}
    assert all(row["result"] == "passed" and row["fired_after_s"] > 0 for row in rows.values())
    assert [{**rule, "applied": 0} for rule in world.faults()] == [{**rule, "applied": 0} for rule in BEFORE]


def test_a_drill_that_is_stopped_takes_its_faults_away(world: World):
    # Of an alert that takes its time: one minute at least.
    argv = world.argv("--only", "AgentobsWorkflowFailing")
    with subprocess.Popen(
        argv, env=world.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: [rule["fault"] for rule in world.faults()] == ["bad_request"], "the fault", 60)
        process.send_signal(signal.SIGTERM)
        told, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "the simulator has the rules that it had before" in said
    assert re.search(r"AgentobsWorkflowFailing +triage +runs fail .* not tried$", told, re.MULTILINE)
    assert [rule["fault"] for rule in world.faults()] == ["slow"]


def test_an_alert_that_reads_something_else_than_it_should_is_found(world: World):
    with world.broken(
        re.escape("agentobs_journal_errors_total[10m]"), 'agentobs_attempts_total{outcome="refusal"}[10s]'
    ):
        code, told, said = world.drill("--only", "AgentobsRefusalsRising", "--timeout", "90")
    assert code == 4, said
    results = {row["alert"]: row["result"] for row in told["alerts"]}
    assert results == {"AgentobsRefusalsRising": "passed", "AgentobsJournalErrors": "unrelated"}


def test_an_alert_that_was_deleted_stays_silent(world: World):
    with world.broken(r"  - alert: AgentobsRefusalsRising\n.*?(?=  - alert: )", ""):
        code, told, said = world.drill("--only", "AgentobsRefusalsRising", "--timeout", "15")
        assert code == 4, said
        assert [(row["alert"], row["result"]) for row in told["alerts"]] == [
            ("AgentobsRefusalsRising", "stayed silent")
        ]
        code, told, _ = world.drill("--only", "AgentobsRefusalsRising", "--prometheus", world.stack.url("prometheus"))
        assert code == 4
        assert [(row["alert"], row["result"]) for row in told["alerts"]] == [("AgentobsRefusalsRising", "not loaded")]
