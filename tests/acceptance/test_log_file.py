"""The log file of a running service: rotated as logrotate does it, and what its first line tells."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentobs import __version__
from tests.acceptance.harness import until, world

pytestmark = pytest.mark.timeout(120)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_line_of_a_run_is_lost_when_the_file_is_moved_and_sighup_sent(tmp_path: Path):
    path = tmp_path / "agentobs.log"
    moved = [tmp_path / f"agentobs.log.{number}" for number in (1, 2)]
    with world(tmp_path, latency_s=0.02, AGENTOBS_LOG_FILE=str(path)) as here:
        runs = [here.service.submit("article", {"goal": f"tea {number}"})["id"] for number in range(10)]
        until(lambda: "run.finished" in path.read_text(), "a line of a run that ended")
        path.rename(moved[0])
        os.kill(here.service.pid, signal.SIGHUP)
        runs += [here.service.submit("article", {"goal": f"more {number}"})["id"] for number in range(10)]
        until(path.exists, "a new file after SIGHUP", 10)
        here.service.wait_ended(runs)
        path.rename(moved[1])  # and once without a word: a line that comes a second later finds out

        def noticed() -> bool:
            runs.append(here.service.submit("article", {"goal": f"last {len(runs)}"})["id"])
            return path.exists()

        until(noticed, "a new file once the old one was missed", 20, every_s=0.3)
        here.service.wait_ended(runs)
        here.service.stop()
    told = [line for file in (*moved, path) for line in lines(file)]
    for event in ("run.accepted", "run.started", "run.finished"):
        found = sorted(line["run_id"] for line in told if line["event"] == event)
        assert found == sorted(runs), event
    assert all(lines(file) for file in (*moved, path))
    assert lines(path)[-1]["event"] == "service.stopped"


def test_a_start_is_told_with_the_versions_that_an_annotation_shows(tmp_path: Path):
    with world(tmp_path) as here:
        (started,) = here.service.events("service.started")
        metrics = here.service.metrics()
        workflows = here.service.json("/v1/workflows")["workflows"]
    assert started.keys() == {"timestamp", "level", "event", "version", "worker", "runs", "workflow_versions"}
    assert (started["version"], started["worker"], started["runs"]) == (__version__, "acceptance", True)
    versions = started["workflow_versions"]
    assert versions == {one["name"]: one["version"] for one in workflows}
    assert (versions["sequence"], versions["fanout"]) == ("2026.11", None)
    told = {dict(labels)["workflow"]: dict(labels).get("version") for labels in metrics["agentobs_workflow_info"]}
    assert told == {name: version or "" for name, version in versions.items()}
    assert set(metrics["agentobs_workflow_info"].values()) == {1}
