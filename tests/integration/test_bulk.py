"""Cancelling and resuming by filter: what is hit, how much at a time, and what else goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from agentobs.agents import Agent
from agentobs.api.app import create_app
from agentobs.api.live import Hub
from agentobs.errors import Conflict, JournalUnavailable
from agentobs.journal.protocol import RunQuery
from agentobs.records import CANCELLED, FAILED, QUEUED, SUCCEEDED
from agentobs.runtime.engine import BATCH
from agentobs.workflows import Registry, declare
from tests.engine_kit import Kit, QuickClock, ScriptedModel, engine_on, failed, ok

MANY = 2_000
writer = Agent(name="writer", model="claude-x", attempts=1)
other = Agent(name="other", model="claude-x", attempts=1)


async def asks(run, goal: str) -> str:
    return await run.call(writer, goal)


async def asks_another(run, goal: str) -> str:
    return await run.call(other, goal)


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    found.add(declare(asks, agents=[writer]))
    found.add(declare(asks_another, agents=[other]))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@asynccontextmanager
async def api_of(kit: Kit, registry: Registry) -> AsyncIterator[httpx2.AsyncClient]:
    port = SimpleNamespace(
        reader=kit.journal,
        live=Hub(kit.journal),
        registry=registry,
        cancel_all=kit.engine.cancel_all,
        resume_all=kit.engine.resume_all,
    )
    transport = httpx2.ASGITransport(app=create_app(port))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def submitted(kit: Kit, workflow: str, count: int, **more: object) -> list[str]:
    one_by_one = [await kit.engine.submit(workflow, f"{workflow} {n}", **more) for n in range(min(count, 10))]
    rest = await asyncio.gather(*(kit.engine.submit(workflow, f"{n}", **more) for n in range(count - len(one_by_one))))
    return sorted([one.run.id for one in (*one_by_one, *rest)], reverse=True)


async def statuses(kit: Kit) -> dict[str, int]:
    found = [d.run.status for d in await kit.journal.details(RunQuery(limit=100_000))]
    return {status: found.count(status) for status in sorted(set(found))}


async def swept(api: httpx2.AsyncClient, verb: str, **body: object) -> dict[str, int]:
    total = {"calls": 0, "matched": 0, "acted": 0}
    cursor: dict[str, str] = {}
    while True:
        answer = await api.post(f"/v1/runs/{verb}", json={**body, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        total["calls"] += 1
        total["matched"] += page["matched"]
        total["acted"] += page["acted"]
        if page["next_cursor"] is None:
            return total
        cursor = {"cursor": page["next_cursor"]}


async def test_only_what_fits_is_cancelled_and_a_dry_run_does_nothing(path, registry):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        ours = await submitted(kit, "asks", 5, tags={"team": "docs"})
        await submitted(kit, "asks_another", 4)
        looked = (await api.post("/v1/runs/cancel", json={"tag": "team:docs", "dry_run": True})).json()
        assert (looked["matched"], looked["acted"], looked["run_ids"]) == (5, 0, ours)
        assert await statuses(kit) == {QUEUED: 9}
        done = (await api.post("/v1/runs/cancel", json={"workflow": "asks", "limit": 3})).json()
        assert (done["matched"], done["acted"], done["run_ids"]) == (3, 3, ours[:3])
        again = (await api.post("/v1/runs/cancel", json={"workflow": "asks"})).json()
        assert (again["matched"], again["run_ids"], again["next_cursor"]) == (2, ours[3:], None)
        repeated = (await api.post("/v1/runs/cancel", json={"workflow": "asks"})).json()
        assert repeated == {"matched": 0, "acted": 0, "run_ids": [], "next_cursor": None}
        assert await statuses(kit) == {CANCELLED: 5, QUEUED: 4}
        assert (await swept(api, "cancel", all=True))["acted"] == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "should have a filter"),
        ({"all": False}, "should have a filter"),
        ({"limit": 5}, "should have a filter"),
        ({"workflow": None}, "leave the field out"),
        ({"status": "succeeded"}, "one of queued, running, waiting"),
        ({"all": True, "limit": 1001}, "less than or equal to 1000"),
        ({"all": True, "limit": "5"}, "whole number"),
        ({"all": 1}, "valid boolean"),
        ({"all": True, "ids": []}, "unknown"),
    ],
)
async def test_a_selection_that_is_none_is_refused(path, registry, body, said):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        await submitted(kit, "asks", 1)
        answer = await api.post("/v1/runs/cancel", json=body)
        assert answer.status_code == 422 and said in answer.json()["detail"]
        assert await statuses(kit) == {QUEUED: 1}


async def test_what_has_its_own_path_allows_what_it_takes(path, registry):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        for verb in ("cancel", "resume"):
            for method in ("GET", "PUT"):
                answer = await api.request(method, f"/v1/runs/{verb}")
                assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
        assert (await api.get("/v1/runs/cancelled")).status_code == 404


async def test_all_overloaded_runs_are_resumed_and_no_others(path, registry):
    outcomes = {"asks 0": "overloaded", "asks 1": "overloaded", "asks 2": "authentication", "asks 3": "overloaded"}
    down = True
    model = ScriptedModel(
        lambda call, _: failed(outcomes[call.prompt]) if down and call.prompt in outcomes else ok("fine")
    )
    async with engine_on(path, registry, model, clock=QuickClock()) as kit, api_of(kit, registry) as api:
        ids = await submitted(kit, "asks", 6)
        ended = {(await kit.ended(run_id)).run.input: run_id for run_id in ids}
        cancelled = await kit.engine.submit("asks", "later")
        await kit.ended(cancelled.run.id)
        assert await statuses(kit) == {FAILED: 4, SUCCEEDED: 3}
        down = False
        since = "1970-01-01T00:00:00Z"
        assert await swept(api, "resume", error_type="overloaded", until=since) == {
            "calls": 1,
            "matched": 0,
            "acted": 0,
        }
        done = await swept(api, "resume", error_type="overloaded", since=since, limit=2)
        assert done == {"calls": 2, "matched": 3, "acted": 3}
        for run_id in ids:
            await kit.ended(run_id)
        assert await statuses(kit) == {FAILED: 1, SUCCEEDED: 6}
        left = await kit.journal.detail(ended['"asks 2"'])
        assert left is not None and left.run.status == FAILED and len(left.executions) == 1


async def test_a_cancelled_run_is_resumed_only_where_that_is_said(path, registry):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        await submitted(kit, "asks", 2)
        await swept(api, "cancel", all=True)
        assert (await swept(api, "resume", all=True))["matched"] == 0
        assert (await swept(api, "resume", status="cancelled"))["acted"] == 2
        assert await statuses(kit) == {QUEUED: 2}


async def test_a_run_that_fails_again_meanwhile_is_resumed_once_a_sweep(path, registry):
    model = ScriptedModel(lambda *_: failed("overloaded"))
    async with engine_on(path, registry, model, clock=QuickClock()) as kit, api_of(kit, registry) as api:
        ids = await submitted(kit, "asks", 7)
        for run_id in ids:
            await kit.ended(run_id)
        assert await swept(api, "resume", status="failed", limit=2) == {"calls": 4, "matched": 7, "acted": 7}
        for run_id in ids:
            assert len((await kit.ended(run_id)).executions) == 2


async def test_thousands_share_commits_and_others_come_in_between(path, registry):
    """Bounded by work, whatever the machine: commits, not seconds."""
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        await submitted(kit, "asks", MANY)
        commits, turns, places = 0, 0, []

        def count(batch):
            nonlocal commits
            commits += 1
            ended = sum(change.record.status == CANCELLED for one in batch for change in one.changes)
            assert ended <= BATCH, "more than a batch in one commit: what runs beside it waits for all"
            places.append(ended)

        kit.journal.subscribe(count)

        async def beside() -> None:
            """What a running run would commit meanwhile; and the event loop has to turn for it."""
            nonlocal turns
            while True:
                before = commits
                await kit.engine.submit("asks_another", "beside")
                assert commits - before <= 2, "it waited for more than the commit under way and its own"
                turns += 1

        task = asyncio.create_task(beside())
        done = await swept(api, "cancel", workflow="asks")
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled(), task.exception()
        assert done == {"calls": MANY // 1000, "matched": MANY, "acted": MANY}
        assert sum(places) == MANY
        batches = [ended for ended in places if ended]
        assert len(batches) <= 2 * MANY // BATCH, "each run had a commit of its own"
        assert turns >= MANY // BATCH // 2, "nothing else came in between"


async def test_thousands_are_resumed_in_batches(path, registry):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit, api_of(kit, registry) as api:
        await submitted(kit, "asks", MANY)
        assert (await swept(api, "cancel", workflow="asks"))["acted"] == MANY
        commits: list[float] = []
        kit.journal._writer._observe_commit = commits.append
        assert (await swept(api, "resume", status="cancelled"))["acted"] == MANY
        assert await statuses(kit) == {QUEUED: MANY}
        assert MANY // BATCH <= len(commits) <= 2 * MANY // BATCH


async def test_what_changed_meanwhile_is_passed_over_and_a_journal_in_trouble_is_told(path, registry):
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit:
        first, second, third = await submitted(kit, "asks", 3)
        await kit.engine.cancel(second)
        assert await kit.engine.resume_all([first, second, third, "0" * 36]) == [second]
        with pytest.raises(Conflict):
            await kit.engine.resume(first)
        kit.journal._writer.trouble = "the disk is full"
        with pytest.raises(JournalUnavailable, match="0 of 2 runs are done, then: the disk is full"):
            await kit.engine.cancel_all([first, third])
        kit.journal._writer.trouble = None


async def test_running_runs_stop_spending(path, registry):
    asked = asyncio.Event()

    async def hangs(call, _):
        asked.set()
        await asyncio.sleep(3600)

    model = ScriptedModel(hangs)
    async with engine_on(path, registry, model) as kit, api_of(kit, registry) as api:
        ids = await submitted(kit, "asks", 20)
        await kit.until(lambda: len(model.calls) == 20)
        started = time.monotonic()
        assert (await swept(api, "cancel", status="running"))["acted"] == 20
        assert [(await kit.ended(run_id)).run.status for run_id in ids] == [CANCELLED] * 20
        assert time.monotonic() - started < 10
