"""Each pattern's example survives kill -9 at any moment: the same output as undisturbed, nothing paid twice.

The simulator gives one answer to one request, so an answer that reached another branch than its own would show in the
output. What is slow, and how slow, is drawn anew before and after each kill, so that branches are ready in another
order. AGENTOBS_TEST_KILLS says how many moments a pattern (4 unless told otherwise, 50 for the full claim);
AGENTOBS_TEST_SEED draws others.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import World, until, world

KILLS = int(os.environ.get("AGENTOBS_TEST_KILLS", "4"))
SEED = os.environ.get("AGENTOBS_TEST_SEED", "1")
LATENCY_S = 0.05

TICKETS = [f"Ticket {n}: {text}" for n, text in enumerate(["It crashes", "Where is my invoice", "How to export"] * 4)]
EXAMPLES: dict[str, Any] = {
    "report": {"question": "Should a small team keep an on-call rota?", "max_tasks": 6},
    "release_notes": {"version": "2.4.0", "changes": ["Faster start", "Dropped an old format", "A new command"]},
    "triage": {"tickets": TICKETS, "at_once": 5},
}

pytestmark = pytest.mark.timeout(1800)


def weather(chance: random.Random) -> list[dict[str, Any]]:
    """Calls that are slow now, and some failures that are retried."""
    return [
        {"fault": "slow", "delay_s": chance.random() * 0.2, "probability": chance.random() * 0.6},
        {"fault": "overloaded", "probability": 0.05},
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_killed_at_any_moment_ends_as_if_undisturbed_and_is_paid_once(tmp_path: Path, name: str) -> None:
    chance = random.Random(f"{SEED}-{name}")
    with world(tmp_path, latency_s=LATENCY_S, AGENTOBS_MAX_RECOVERIES="1000", AGENTOBS_WORKFLOWS="") as here:
        undisturbed, requests = _run_alone(here, name)
        run_ids = [undisturbed["id"]]
        for _ in range(KILLS):
            here.simulator.faults(*weather(chance))
            before = here.simulator.requests
            run_ids.append(here.service.submit(name, EXAMPLES[name])["id"])
            moment = chance.randrange(requests)
            until(lambda moment=moment, before=before: here.simulator.requests >= before + moment, "requests")
            time.sleep(chance.random() * 2 * LATENCY_S)
            here.service.kill()
            here.simulator.faults(*weather(chance))
            here.service.start()
            here.service.wait_ended(run_ids[-1:])
        here.simulator.faults()
        details = [here.service.detail(run_id) for run_id in run_ids]
        books = here.close_the_books()
    for detail in details:
        assert detail["status"] == "succeeded", detail["error"]
        assert detail["output"] == undisturbed["output"]
        assert {one["branch"] for one in detail["steps"]} == {one["branch"] for one in undisturbed["steps"]}
    books.check()
    outcomes = Counter(row["outcome"] for row in books.journal.executions)
    assert outcomes["interrupted"] >= KILLS // 2, "most kills met a run that was under way"
    assert any(row["reused"] for row in books.journal.executions), "finished steps were answered from the journal"


def _run_alone(here: World, name: str) -> tuple[dict[str, Any], int]:
    """The run that nothing disturbs, and how many requests it takes."""
    run = here.service.submit(name, EXAMPLES[name])
    here.service.wait_ended([run["id"]])
    return here.service.detail(run["id"]), here.simulator.requests
