"""A run's events: the same whenever and from wherever they are read, and sent as they are committed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import aclosing, asynccontextmanager

import pytest
from pydantic import TypeAdapter

from agentobs.agents import Agent
from agentobs.api import schemas, views
from agentobs.api.live import Hub
from agentobs.functions import step
from agentobs.journal.protocol import Event, Events
from agentobs.journal.sqlite import open_reader
from agentobs.records import CLOSED, OPENED, Attempt, Note, Run, Step
from agentobs.runtime.engine import Limits
from agentobs.workflows import Registry, declare
from tests.engine_kit import ScriptedModel, engine_on, failed, ok

AGENTS = [Agent(name=name, model="m", attempts=3) for name in ("a", "b", "c")]
A, B, C = AGENTS


@step()
async def collect(topic: str) -> dict[str, str]:
    return {"topic": topic}


async def busy(run, given) -> str:
    """Steps beside each other, retries, a function, notes; then a call that may fail."""
    run.uuid()
    await run.step(collect, "tea")

    async def side(name: str, agent: Agent) -> str:
        branch = run.branch(name)
        await branch.call(agent, f"{name} 1")
        return await branch.call(agent, f"{name} 2")

    await asyncio.gather(*(side(f"side{n}", AGENTS[n % 3]) for n in range(6)))
    return await run.call(A, "last")


def registry() -> Registry:
    found = Registry()
    found.add(declare(busy, agents=AGENTS, steps=[collect]))
    return found


def flaky(call, n):
    if call.prompt.endswith("2") and n == 1:
        return failed("overloaded")
    return ok("fine")


def fails_at_last(call, n):
    return failed("invalid_request") if call.prompt == "last" and n == 1 else flaky(call, n)


async def read_all(reader, run_id: str, after: int = 0, limit: int = 100) -> tuple[list[Event], bool]:
    found: list[Event] = []
    while True:
        page = await reader.events(run_id, after, limit=limit)
        found += page.items
        if len(page.items) < limit:
            return found, page.over
        after = found[-1].seq


def shown(events: list[Event]) -> list[str]:
    return [json.dumps([event.seq, *views.event(event)]) for event in events]


def published(kit, run_id: str) -> list[tuple[int, str]]:
    """What the subscribers were told: (number, name), in the order of the commits."""
    told = []
    for verb, record in kit.changes:
        if isinstance(record, Note) or verb not in {OPENED, CLOSED}:
            continue
        if (record.id if isinstance(record, Run) else record.run_id) == run_id:
            seq = record.seq if verb == OPENED else record.end_seq
            told.append((seq, views.event(Event(seq, verb, record))[0]))
    return told


class Follower:
    """Follows as a client does, and is cut off after `cut` events at a time; begins again after the last it has."""

    def __init__(self, kit, hub: Hub, run_id: str, cut: int) -> None:
        self.kit, self.hub, self.run_id, self.cut = kit, hub, run_id, cut
        self.events: list[Event] = []

    async def follow(self) -> list[Event]:
        while True:
            after = self.events[-1].seq if self.events else 0
            first = await self.kit.journal.events(self.run_id, after)
            got = 0
            async with aclosing(self.hub.events(self.run_id, first, after)) as stream:
                async for event in stream:
                    self.events.append(event)
                    got += 1
                    if got == self.cut:
                        break
                else:
                    return self.events


@asynccontextmanager
async def hub_on(tmp_path, script, **more):
    async with engine_on(tmp_path / "journal.db", registry(), ScriptedModel(script), **more) as kit:
        hub = Hub(kit.journal)
        kit.journal.subscribe(hub.observe)
        yield kit, hub


@pytest.mark.parametrize("calls", [1, 2, 1000])
async def test_events_are_numbered_in_the_order_of_their_commits(tmp_path, calls):
    async with hub_on(tmp_path, flaky, calls=calls) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        told = published(kit, run_id)
        events, over = await read_all(kit.journal, run_id)
    assert [seq for seq, _ in told] == sorted({seq for seq, _ in told})
    assert [(event.seq, views.event(event)[0]) for event in events] == told
    assert over


async def test_a_client_cut_off_anywhere_misses_nothing_and_gets_nothing_twice(tmp_path):
    async with hub_on(tmp_path, flaky, calls=2) as (kit, hub):
        run_id = (await kit.engine.submit("busy", None)).run.id
        followers = [Follower(kit, hub, run_id, cut) for cut in (1, 2, 3, 5, 7, 1000)]
        async with asyncio.timeout(60):
            live = await asyncio.gather(*(one.follow() for one in followers))
        events, _ = await read_all(kit.journal, run_id)
        expected = shown(events)
        assert len(events) > 50
        for got in live:
            assert shown(got) == expected
        for event in events:
            rest, over = await read_all(kit.journal, run_id, event.seq)
            assert over
            assert shown(rest) == expected[expected.index(shown([event])[0]) + 1 :]
        assert not hub._watches


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_pages_add_up(tmp_path, limit):
    async with hub_on(tmp_path, fails_at_last) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        whole, _ = await read_all(kit.journal, run_id, limit=10_000)
        parts, over = await read_all(kit.journal, run_id, limit=limit)
    assert shown(parts) == shown(whole)
    assert over


async def test_a_resumed_run_goes_on_where_it_had_ended_and_keeps_that_end(tmp_path):
    async with hub_on(tmp_path, fails_at_last) as (kit, hub):
        run_id = (await kit.run("busy")).run.id
        before = await Follower(kit, hub, run_id, 1000).follow()
        assert views.event(before[-1])[0] == "run.ended"
        assert views.event(before[-1])[1]["error"]["type"] == "invalid_request"
        client = Follower(kit, hub, run_id, 3)
        client.events = list(before)
        await kit.engine.resume(run_id)
        after = await client.follow()
        await kit.ended(run_id)
        events, over = await read_all(kit.journal, run_id)
    assert over
    assert shown(events) == shown(after)
    assert shown(events)[: len(before)] == shown(before)
    ends = [views.event(event)[1]["status"] for event in events if views.event(event)[0] == "run.ended"]
    assert ends == ["failed", "succeeded"]


async def test_a_run_cancelled_again_while_it_waits_to_be_resumed_keeps_both_ends(tmp_path):
    async with hub_on(tmp_path, flaky, start=False) as (kit, hub):
        run_id = (await kit.engine.submit("busy", None)).run.id
        await kit.engine.cancel(run_id)
        first = await Follower(kit, hub, run_id, 1000).follow()
        await kit.engine.resume(run_id)
        page = await kit.journal.events(run_id, 0)
        assert shown(list(page.items)) == shown(first)
        assert not page.over
        await kit.engine.cancel(run_id)
        events, over = await read_all(kit.journal, run_id)
    assert over
    assert shown(events)[: len(first)] == shown(first)
    assert [views.event(event)[0] for event in events] == ["run.accepted", "run.ended", "run.ended"]


async def test_a_crash_leaves_no_gap(tmp_path):
    """The owner dies at some moment; who had followed it goes on at the next owner."""
    stuck = asyncio.Event()

    async def hangs(call, n):
        if call.prompt == "last":
            await stuck.wait()
        return flaky(call, n)

    async with hub_on(tmp_path, hangs) as (kit, _):
        run_id = (await kit.engine.submit("busy", None)).run.id
        await kit.until(lambda: any(call.prompt == "last" for call in kit.model.calls))
        copy = kit.crash_copy(tmp_path / "copy.db")
        seen, over = await read_all(kit.journal, run_id)
        assert not over
    async with engine_on(copy, registry(), ScriptedModel(flaky)) as kit:
        await kit.ended(run_id)
        events, over = await read_all(kit.journal, run_id)
    assert over
    assert shown(events)[: len(seen)] == shown(seen)
    names = [views.event(event)[0] for event in events]
    assert names.count("execution.started") == 2
    assert names[-1] == "run.ended"


async def test_what_a_started_record_shows_is_what_was_known_then(tmp_path):
    async with hub_on(tmp_path, flaky) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        events, _ = await read_all(kit.journal, run_id)
        detail = await kit.journal.detail(run_id)
    for event in events:
        name, data = views.event(event)
        if name == "attempt.started":
            assert (data["outcome"], data["tokens"], data["duration_ms"], data["http_status"]) == (None,) * 4
        if name == "step.started":
            assert (data["status"], data["output_preview"], data["attempts"]) == ("running", None, [])
        if name == "run.accepted":
            assert (data["status"], data["started_at"], data["steps"]) == ("queued", None, 0)
    full = views.run_detail(detail)
    ended = [views.event(event)[1] for event in events if isinstance(event.record, Step) and event.verb == CLOSED]
    assert sorted(ended, key=lambda one: one["number"]) == [
        {name: value for name, value in one.items() if name != "error_detail"} for one in full["steps"]
    ]
    assert views.event(events[-1])[1] == views.summary(detail)


async def test_every_event_is_as_the_openapi_document_says(tmp_path):
    shapes = {
        "run": schemas.Summary,
        "execution": schemas.ExecutionView,
        "step": schemas.StepView,
        "attempt": schemas.AttemptEvent,
    }
    async with hub_on(tmp_path, fails_at_last) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        events, _ = await read_all(kit.journal, run_id)
    seen = set()
    for event in events:
        name, data = views.event(event)
        shape = shapes[name.partition(".")[0]]
        TypeAdapter(shape).validate_json(json.dumps(data))
        assert set(data) == set(shape.model_fields)
        seen.add(name)
    assert seen == {
        *("run.accepted", "run.ended", "execution.started", "execution.ended"),
        *("step.started", "step.ended", "attempt.started", "attempt.ended"),
    }


async def test_a_journal_without_its_owner_tells_the_same(tmp_path):
    async with hub_on(tmp_path, flaky) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        reader = open_reader(tmp_path / "journal.db")
        try:
            assert shown((await read_all(reader, run_id))[0]) == shown((await read_all(kit.journal, run_id))[0])
            assert await reader.events("01930000-0000-7abc-8def-0123456789ab", 0) is None
        finally:
            await reader.close()


async def test_long_texts_are_not_read_for_their_previews(tmp_path):
    async def shouts(call, n):
        return ok("\N{PILE OF POO}" * 100_000)

    async with hub_on(tmp_path, shouts) as (kit, _):
        run_id = (await kit.run("busy")).run.id
        events, _ = await read_all(kit.journal, run_id)
        detail = await kit.journal.detail(run_id)
    steps = [event for event in events if isinstance(event.record, Step) and event.verb == CLOSED]
    assert max(len(event.record.output or "") for event in steps) < 5000
    assert max(len(event.record.answer or "") for event in events if isinstance(event.record, Attempt)) == 0
    assert [views.event(event)[1]["output_preview"] for event in steps if event.record.name == "a"] == [
        "\N{PILE OF POO}" * 200 for one in detail.steps if one.name == "a"
    ]


# ---- waking ----


async def test_without_wakes_a_follower_finds_the_events_by_itself(tmp_path):
    """As with a run that another process executes: nothing is published here."""
    async with engine_on(tmp_path / "journal.db", registry(), ScriptedModel(flaky)) as kit:
        hub = Hub(kit.journal)  # subscribes to nothing
        run_id = (await kit.engine.submit("busy", None)).run.id
        async with asyncio.timeout(30):
            live = await Follower(kit, hub, run_id, 1000).follow()
        assert shown(live) == shown((await read_all(kit.journal, run_id))[0])


async def test_commits_wake_without_the_poll(tmp_path, monkeypatch):
    monkeypatch.setattr("agentobs.api.live.POLL_S", 10_000)
    async with hub_on(tmp_path, flaky, calls=2) as (kit, hub):
        run_id = (await kit.engine.submit("busy", None)).run.id
        async with asyncio.timeout(60):
            live, ended = await asyncio.gather(Follower(kit, hub, run_id, 1000).follow(), hub.ended(run_id))
        assert ended
        assert shown(live) == shown((await read_all(kit.journal, run_id))[0])


async def test_a_stop_ends_every_stream_and_every_wait(tmp_path):
    async with hub_on(tmp_path, flaky, start=False) as (kit, hub):
        run_id = (await kit.engine.submit("busy", None)).run.id
        following = asyncio.create_task(Follower(kit, hub, run_id, 1000).follow())
        waiting = asyncio.create_task(hub.ended(run_id))
        await kit.until(lambda: sum(map(len, hub._watches.values())) == 2)
        await asyncio.sleep(0.1)
        hub.stop()
        async with asyncio.timeout(10):
            assert [views.event(one)[0] for one in await following] == ["run.accepted"]
            assert await waiting is False
            assert [views.event(one)[0] for one in await Follower(kit, hub, run_id, 1000).follow()] == ["run.accepted"]
        assert not hub._watches
        assert hub._rounds is None


async def test_a_follower_that_is_slow_holds_one_page_at_most(tmp_path):
    pages: list[int] = []

    async with hub_on(tmp_path, flaky, limits=Limits()) as (kit, hub):
        run_id = (await kit.engine.submit("busy", None)).run.id
        first = await kit.journal.events(run_id, 0, limit=1)
        read = kit.journal.events

        async def counting(run_id: str, after: int) -> Events:
            found = await read(run_id, after, limit=5)
            pages.append(len(found.items))
            return found

        hub._reader.events = counting
        async with aclosing(hub.events(run_id, first, 0)) as stream:
            await anext(stream)
            asking = asyncio.create_task(anext(stream))
            await asking
            reads = len(pages)
            await kit.ended(run_id)
            await asyncio.sleep(0.2)
            assert len(pages) == reads  # nothing is read for one that does not ask


async def test_a_read_that_fails_ends_its_own_streams_alone(tmp_path):
    """One run that cannot be read is nobody else's trouble, now or later."""
    async with engine_on(tmp_path / "j.db", registry(), ScriptedModel(flaky), start=False) as kit:
        good = (await kit.engine.submit("busy", 1)).run.id
        bad = (await kit.engine.submit("busy", 2)).run.id

        class Torn:
            async def events(self, run_id: str, after: int, **more: int):
                if run_id == bad and after:
                    raise sqlite3.OperationalError("disk I/O error")
                return await kit.journal.events(run_id, after, **more)

        hub = Hub(Torn())
        kit.journal.subscribe(hub.observe)
        seen = [asyncio.create_task(_collected(hub, kit, run_id)) for run_id in (bad, good)]
        await asyncio.sleep(0.05)
        kit.engine.start()
        torn, whole = await asyncio.wait_for(asyncio.gather(*seen, return_exceptions=True), 20)
        assert isinstance(torn, sqlite3.OperationalError)
        assert shown(whole) == shown((await read_all(kit.journal, good))[0])
        assert await asyncio.wait_for(hub.ended(good), 5)  # and later followers are served


async def _collected(hub: Hub, kit, run_id: str) -> list[Event]:
    found = await kit.journal.events(run_id, 0)
    return [event async for event in hub.events(run_id, found, 0)]
