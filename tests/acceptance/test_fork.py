"""A fork through the service: killed in the middle it reuses still, and bill, journal, spans and metrics agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import World, environment, until, world

pytestmark = pytest.mark.timeout(180)


def fork(here: World, run_id: str, body: dict[str, Any], **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return here.service.call("POST", f"/v1/runs/{run_id}/fork", json=body, headers=sent)


def test_a_fork_that_is_killed_pays_only_its_own_and_the_books_balance(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        source = here.service.submit("sequence", {"topic": "tea"})
        here.service.wait_ended([source["id"]])
        shown = here.service.detail(source["id"])
        assert [one["name"] for one in shown["steps"]] == ["collect", "planner", "scribe", "clerk", "publish"]
        billed = len(here.simulator.bill())
        here.simulator.faults({"fault": "hang", "match": {"contains": "Check"}})
        answer = fork(here, source["id"], {"from_step": 4}, Idempotency_Key="once")
        assert answer.status_code == 202 and answer.headers["Location"] == f"/v1/runs/{answer.json()['id']}"
        again = fork(here, source["id"], {"from_step": 4}, Idempotency_Key="once")
        assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
        own = answer.json()["id"]
        until(lambda: len(here.simulator.bill()) > billed, "its first request", 20, every_s=0.02)
        here.service.kill()
        here.simulator.faults()
        here.service.start()
        ended = here.service.wait_ended([own])[own]
        detail = here.service.detail(own)
        assert ended["status"] == "succeeded", ended
        assert [(one["name"], one["reused"], one["execution"], one["status"]) for one in detail["steps"]] == [
            ("collect", True, 1, "succeeded"),
            ("planner", True, 1, "succeeded"),
            ("scribe", True, 1, "succeeded"),
            ("clerk", False, 1, "interrupted"),
            ("clerk", False, 2, "succeeded"),
            ("publish", False, 2, "succeeded"),
        ]
        assert detail["forked_from"] == {"run_id": source["id"], "step": 4}
        assert here.service.detail(source["id"])["forked_to"] == [own]
        for body, status in (({"from_step": 9}, 404), ({"from_step": 0}, 422), ({"from_step": "4"}, 422), ({}, 422)):
            assert fork(here, source["id"], body).status_code == status, body
        assert fork(here, source["id"], {"from_step": 5}, Idempotency_Key="once").status_code == 409
        books = here.close_the_books()
        audited = subprocess.run(
            [Path(sys.executable).with_name("agentobs"), "audit"],
            env=environment(tmp_path, simulator=here.simulator.url, sink=None),
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert audited.returncode == 0, audited.stdout + audited.stderr
    books.check()
    paid = [line for line in books.bill if books.journal.attempt[line.client_ref or ""]["run_id"] == own]
    assert len(paid) == 2 and len(books.bill) == billed + 2
    root = next(one for one in books.spans if one.parent_id is None and one.trace_id == own.replace("-", ""))
    assert [trace for trace, _ in root.links] == [source["trace_id"]]
    reused = {labels: value for labels, value in books.metrics["agentobs_steps_reused_total"].items() if value}
    assert {dict(labels)["name"] for labels in reused} == {"collect", "planner", "scribe"}
    assert sum(books.metrics["agentobs_saved_usd_total"].values()) > 0


def test_a_run_is_forked_from_the_command_line(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        source = here.service.submit("sequence", {"topic": "tea"})
        here.service.wait_ended([source["id"]])

        def typed(*args: str) -> subprocess.CompletedProcess[str]:
            command = [Path(sys.executable).with_name("agentobs"), "runs", "fork", *args, "--server", here.service.url]
            env = environment(tmp_path, simulator=here.simulator.url, sink=None)
            return subprocess.run(
                command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )

        done = typed(source["id"], "--from-step", "2", "--input", '{"topic": "ale"}', "--json")
        assert done.returncode == 0, done.stderr
        own = json.loads(done.stdout)["id"]
        assert here.service.wait_ended([own])[own]["status"] == "succeeded"
        detail = here.service.detail(own)
        assert detail["input"] == {"topic": "ale"} and not any(one["reused"] for one in detail["steps"])
        wrong = typed(source["id"], "--from-step", "9")
        assert wrong.returncode == 2 and "has no step 9: the steps that it has begun are 1 to 5" in wrong.stderr
