"""Forks: what is reused of the source, what is paid, and that neither a crash nor the source's own way changes it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from pydantic import BaseModel

from agentobs.agents import Agent
from agentobs.api import views
from agentobs.errors import Conflict, InvalidInput, NotFound, UnknownWorkflow
from agentobs.functions import step
from agentobs.journal.protocol import RunDetail
from agentobs.journal.sqlite import SQL
from agentobs.records import CANCELLED, FAILED, SUCCEEDED, Run, Step, span_id, trace_id
from agentobs.telemetry.traces import run_span, spans
from agentobs.workflows import Registry, declare
from tests.engine_kit import Kit, QuickClock, ScriptedModel, engine_on, failed, ok

writer = Agent(name="writer", model="claude-x", attempts=1)
counted: list[str] = []


class Order(BaseModel, extra="forbid"):
    goal: str
    tone: str = "dry"


@step()
def look_up(goal: str) -> str:
    counted.append(goal)
    return f"facts of {goal}"


async def article(run, order: Order) -> list[str]:
    facts = await run.step(look_up, order.goal)
    first = await run.call(writer, f"outline {facts} {run.random()}")
    second = await run.call(writer, f"{order.tone} draft {len(first)}")
    return [first, second, await run.call(writer, f"polish {second}")]


async def mixed(run, order: Order) -> list[str]:
    return [await run.call(writer, f"a {order.tone}"), await run.call(writer, "b"), await run.call(writer, "c")]


async def parallel(run, order: Order) -> list[str]:
    async def one(name: str) -> str:
        return await run.branch(name).call(writer, name)

    return [*await asyncio.gather(one("quick"), one("slow")), await run.call(writer, "last")]


@pytest.fixture
def registry() -> Registry:
    counted.clear()
    found = Registry()
    found.add(declare(article, agents=[writer], steps=[look_up]))
    found.add(declare(mixed, agents=[writer]))
    found.add(declare(parallel, agents=[writer]))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def rows(detail: RunDetail) -> list[tuple[str, bool]]:
    return [(one.name, one.reused) for one in detail.steps]


def due(kit: Kit, run_id: str) -> set[str]:
    """Ids of the spans that the outbox owes for the run."""
    found: set[str] = set()
    for one in kit.published:
        if one.owed is not None and one.owed.spans[0].run_id == run_id:
            made, lost = spans(one.changes, one.owed.spans)
            assert lost == 0
            found |= {span.span_id for span in made}
    return found


async def test_what_succeeded_before_the_step_is_reused_and_the_rest_is_paid(path, registry):
    model = ScriptedModel()
    async with engine_on(path, registry, model) as kit:
        source = await kit.run("article", {"goal": "tea"}, tags={"team": "docs"})
        assert [one.number for one in source.steps] == [1, 2, 3, 4]
        model.calls.clear()
        submitted = await kit.engine.fork(source.run.id, 3)
        fork = await kit.ended(submitted.run.id)
        assert fork.run.id != source.run.id and fork.run.trace_id != source.run.trace_id
        assert (fork.run.status, fork.run.output, fork.run.tags) == (SUCCEEDED, source.run.output, source.run.tags)
        assert rows(fork) == [("look_up", True), ("writer", True), ("writer", False), ("writer", False)]
        assert counted == ["tea"] and len(model.calls) == 2
        assert {one.step for one in fork.attempts} == {3, 4}
        shown = views.run_detail(fork)
        assert [(one["reused"], one["cost_usd"], len(one["attempts"])) for one in shown["steps"]] == [
            (True, "0", 0),
            (True, "0", 0),
            (False, "0.000000001", 1),
            (False, "0.000000001", 1),
        ]
        assert (shown["cost_usd"], shown["tokens"]["total"], shown["steps"][1]["output_preview"]) == (
            "0.000000002",
            30,
            views.run_detail(source)["steps"][1]["output_preview"],
        )
        assert shown["forked_from"] == {"run_id": source.run.id, "step": 3}
        again = await kit.journal.detail(source.run.id)
        assert views.run_detail(again)["forked_to"] == [fork.run.id] and again.steps == source.steps
        # What was reused has no span, and what was paid has one; the root names the source's.
        expected = {span_id("step", fork.run.id, 1, one.key) for one in fork.steps if not one.reused}
        owed = due(kit, fork.run.id)
        assert expected <= owed and not owed & {span_id("step", fork.run.id, 1, s.key) for s in fork.steps if s.reused}
        with sqlite3.connect(path) as db:  # what sampling would recall
            recalled = list(db.execute(SQL.spans_of.sql, {"run_id": fork.run.id}))
        assert [number for kind, number, *_ in recalled if kind == "step"] == [3, 4]
        assert [(link.trace_id, link.span_id) for link in run_span(fork.run).links] == [
            (trace_id(source.run.id), span_id("run", source.run.id))
        ]
        text = kit.metrics.render("")[0].decode()
        assert 'agentobs_steps_reused_total{name="look_up",workflow="article"} 1.0' in text
        assert 'agentobs_steps_reused_total{name="writer",workflow="article"} 1.0' in text
        assert 'agentobs_saved_usd_total{name="writer",workflow="article"} 1e-09' in text
        assert 'agentobs_steps_total{kind="function",name="look_up",outcome="succeeded",workflow="article"} 1.0' in text
        events = (await kit.journal.events(fork.run.id, 0)).items
        assert [event.seq for event in events] == sorted({event.seq for event in events})


async def test_another_input_reuses_what_it_does_not_change(path, registry):
    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("article", {"goal": "tea"})
        fork = await kit.ended(
            (await kit.engine.fork(source.run.id, 4, given=({"goal": "tea", "tone": "warm"},))).run.id
        )
        assert rows(fork) == [("look_up", True), ("writer", True), ("writer", False), ("writer", False)]
        assert '"warm"' in fork.run.input and fork.executions[0].diverged == 0
        other = await kit.ended((await kit.engine.fork(source.run.id, 4, given=({"goal": "ale"},))).run.id)
        assert [reused for _, reused in rows(other)][:2] == [False, False]
        assert other.run.status == SUCCEEDED


async def test_a_step_that_ended_after_the_other_began_is_paid_again(path, registry):
    """`slow` ends after `last`'s forerunners; from step `slow` on, `quick` had not ended when it began."""
    quick_may_end = asyncio.Event()

    async def script(call, _):
        if call.prompt == "quick":
            await quick_may_end.wait()
        return ok(call.prompt)

    model = ScriptedModel(script)
    async with engine_on(path, registry, model) as kit:
        running = await kit.engine.submit("parallel", {"goal": "x"})
        await kit.until(lambda: len(model.calls) == 2)
        with pytest.raises(Conflict, match="has not got to step 3 yet: the steps that it has begun are 1 to 2"):
            await kit.engine.fork(running.run.id, 3)
        early = await kit.engine.fork(running.run.id, 2)  # of a run that goes on
        await kit.until(lambda: len(model.calls) == 4)
        quick_may_end.set()
        source, fork = await kit.ended(running.run.id), await kit.ended(early.run.id)
        assert [reused for _, reused in rows(fork)] == [False, False, False]
        late = await kit.ended((await kit.engine.fork(source.run.id, 3)).run.id)
        assert sorted(rows(late)) == [("writer", False), ("writer", True), ("writer", True)]
        after = await kit.ended((await kit.engine.fork(source.run.id, 2)).run.id)
        assert [reused for _, reused in rows(after)] == [False, False, False]


async def test_a_fork_that_dies_reuses_still_and_pays_nothing_twice(path, tmp_path, registry):
    asked = asyncio.Event()

    async def hangs(call, _):
        if call.prompt.startswith("polish"):
            asked.set()
            await asyncio.sleep(3600)
        return ok(call.prompt)

    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("article", {"goal": "tea"})
    model = ScriptedModel(hangs)
    async with engine_on(path, registry, model) as kit:
        fork = (await kit.engine.fork(source.run.id, 3)).run
        await asyncio.wait_for(asked.wait(), 10)
        copy = kit.crash_copy(tmp_path / "after.db")
    registry_again, model = registry, ScriptedModel()
    async with engine_on(copy, registry_again, model) as kit:
        ended = await kit.ended(fork.id)
        assert (ended.run.status, len(ended.executions)) == (SUCCEEDED, 2)
        assert [call.prompt.partition(" ")[0] for call in model.calls] == ["polish"]
        assert [(one.name, one.reused, one.status, one.execution) for one in ended.steps] == [
            ("look_up", True, SUCCEEDED, 1),
            ("writer", True, SUCCEEDED, 1),
            ("writer", False, SUCCEEDED, 1),
            ("writer", False, "interrupted", 1),
            ("writer", False, SUCCEEDED, 2),
        ]
        assert counted == ["tea"]


async def test_what_a_recovered_fork_asks_for_later_is_reused_too(path, tmp_path, registry):
    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("mixed", {"goal": "x"})
    asked = asyncio.Event()

    async def hangs(*_):
        asked.set()
        await asyncio.sleep(3600)

    async with engine_on(path, registry, ScriptedModel(hangs)) as kit:
        fork = (await kit.engine.fork(source.run.id, 3, given=({"goal": "x", "tone": "warm"},))).run
        await asyncio.wait_for(asked.wait(), 10)
        copy = kit.crash_copy(tmp_path / "after.db")
    model = ScriptedModel()
    async with engine_on(copy, registry, model) as kit:
        ended = await kit.ended(fork.id)
        assert [call.prompt for call in model.calls] == ["a warm", "c"]
        assert [(one.execution, one.reused) for one in ended.steps] == [(1, False), (2, False), (2, True), (2, False)]


async def test_a_fork_killed_before_it_began_reuses_all(path, tmp_path, registry):
    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("article", {"goal": "tea"})
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit:
        fork = (await kit.engine.fork(source.run.id, 4)).run
        copy = kit.crash_copy(tmp_path / "after.db")
    model = ScriptedModel()
    async with engine_on(copy, registry, model) as kit:
        assert [reused for _, reused in rows(await kit.ended(fork.id))] == [True, True, True, False]
        assert len(model.calls) == 1


async def test_a_fork_of_a_failed_run_and_a_fork_of_a_fork(path, registry):
    down = True
    model = ScriptedModel(
        lambda call, _: failed("overloaded") if down and call.prompt.startswith("polish") else ok("x")
    )
    async with engine_on(path, registry, model, clock=QuickClock()) as kit:
        source = await kit.run("article", {"goal": "tea"})
        assert source.run.status == FAILED
        down = False
        fork = await kit.ended((await kit.engine.fork(source.run.id, 4)).run.id)
        assert [reused for _, reused in rows(fork)] == [True, True, True, False]
        again = await kit.ended((await kit.engine.fork(fork.run.id, 4)).run.id)
        assert [one.saved_pico for one in again.steps] == [0, 1000, 1000, None]
        assert again.run.status == SUCCEEDED
        unchanged = await kit.journal.detail(source.run.id)
        assert unchanged.run.status == FAILED


async def test_a_fork_that_failed_is_resumed_and_reuses_both(path, registry):
    down = True
    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("article", {"goal": "tea"})
    model = ScriptedModel(
        lambda call, _: failed("overloaded") if down and call.prompt.startswith("polish") else ok("x")
    )
    async with engine_on(path, registry, model, clock=QuickClock()) as kit:
        fork = await kit.ended((await kit.engine.fork(source.run.id, 3)).run.id)
        assert fork.run.status == FAILED
        down = False
        model.calls.clear()
        await kit.engine.resume(fork.run.id)
        resumed = await kit.ended(fork.run.id)
        assert resumed.run.status == SUCCEEDED and len(model.calls) == 1
        assert sum(one.reused for one in resumed.steps) == 2


async def test_what_cannot_be_forked_is_told(path, registry):
    async with engine_on(path, registry, ScriptedModel()) as kit:
        source = await kit.run("article", {"goal": "tea"})
        with pytest.raises(NotFound, match=r"has no step 5: the steps that it has begun are 1 to 4"):
            await kit.engine.fork(source.run.id, 5)
        with pytest.raises(NotFound, match="there is no run"):
            await kit.engine.fork("00000000-0000-7000-8000-000000000000", 1)
        with pytest.raises(InvalidInput, match="goal"):
            await kit.engine.fork(source.run.id, 2, given=({"tone": "dry"},))
        with pytest.raises(InvalidInput):
            await kit.engine.fork(source.run.id, 2, given=(None,))
        first = await kit.engine.fork(source.run.id, 2, idempotency_key="k")
        same = await kit.engine.fork(source.run.id, 2, idempotency_key="k")
        assert (same.run.id, same.created) == (first.run.id, False)
        for other in (
            kit.engine.fork(source.run.id, 3, idempotency_key="k"),
            kit.engine.fork(source.run.id, 2, given=({"goal": "tea"},), idempotency_key="k"),
            kit.engine.submit("article", {"goal": "tea"}, idempotency_key="k"),
        ):
            with pytest.raises(Conflict, match="Idempotency-Key"):
                await other
        await kit.ended(first.run.id)
        queued = await kit.engine.submit("parallel", {"goal": "x"})
        await kit.engine.cancel(queued.run.id)
        assert (await kit.ended(queued.run.id)).run.status == CANCELLED
    async with engine_on(path, Registry(), ScriptedModel()) as kit:
        with pytest.raises(UnknownWorkflow):
            await kit.engine.fork(source.run.id, 2)


def test_a_record_of_a_reused_step_says_so():
    made = Step(run_id="r", number=1, execution=1, key="k", kind="agent", name="a", started_at=1, seq=1)
    assert not made.reused
    assert Run(id="r", workflow="w", version="1", input="1", created_at=1).forked_from is None
