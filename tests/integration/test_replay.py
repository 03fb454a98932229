"""`agentobs replay`: runs recorded by the real engine, replayed with the same and with changed code."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from agentobs import Agent, RunContext, StepFailed, step
from agentobs.journal.protocol import RunDetail
from agentobs.journal.sqlite import open_reader
from agentobs.runtime.replay import Replay, replay_run
from agentobs.workflows import Registry, Workflow, declare
from tests.engine_kit import ScriptedModel, engine_on, failed, ok

writer = Agent(name="writer", model="claude-haiku-5-5", system="Write.")
critic = Agent(name="critic", model="claude-opus-5-5")
COST = 1000  # what each answer of the scripted model costs, pico-dollars


class Order(BaseModel):
    goal: str


sent: list[str] = []  # bodies of function steps that ran


def fetch(what: str) -> str:
    sent.append(what)
    return f"[{what}]"


def code(
    *, prompt: str = "write", writer: Agent = writer, critic: Agent = critic, extra: bool = False, judged: bool = True
) -> Workflow:
    """fetch -> writers in two branches -> critic, with one thing or another changed."""

    async def story(run: RunContext, given: str) -> str:
        facts = await run.step(fetch, given)
        stamp = f"{run.now():%Y} {run.uuid()} {run.random()}"
        parts = await asyncio.gather(
            *(run.branch(name).call(writer, f"{prompt} {name} of {facts} {stamp}") for name in ("left", "right"))
        )
        text = "\n".join(parts)
        if extra:
            text = await run.call(writer, f"shorten {text}")
        return await run.call(critic, f"judge {text}") if judged else text

    return declare(story, agents=[writer, critic], steps=[fetch])


def registered(*found: Workflow) -> Registry:
    registry = Registry()
    for one in found:
        registry.add(one)
    return registry


async def recorded(path: Path, workflow: Workflow, given: object = "tea", script: Callable | None = None) -> RunDetail:
    async with engine_on(path, registered(workflow), ScriptedModel(script)) as kit:
        return await kit.run(workflow.name, given)


async def read(path: Path, run_id: str) -> RunDetail:
    reader = open_reader(path)
    try:
        found = await reader.detail(run_id)
    finally:
        await reader.close()
    assert found is not None
    return found


async def unfinished(path: Path, tmp_path: Path, workflow: Workflow) -> RunDetail:
    """A run of which every step is recorded and the end is not, as if its owner had died just then."""
    async with engine_on(path, registered(workflow), ScriptedModel()) as kit:
        run_id = (await kit.run(workflow.name, "tea")).run.id
        copy = kit.crash_copy(tmp_path / "copy.db")
    with sqlite3.connect(copy) as db:
        db.execute("UPDATE runs SET status = 'running', ended_at = NULL, output = NULL, first_ended_at = NULL")
    db.close()
    return await read(copy, run_id)


async def replayed(detail: RunDetail, workflow: Workflow, **how: object) -> Replay:
    sent.clear()
    found = await asyncio.to_thread(replay_run, detail, workflow, **how)  # type: ignore[arg-type]
    assert sent == [], "a step's body ran"
    left = [thread.name for thread in threading.enumerate() if thread.name == f"replay-{detail.run.id}"]
    assert not left or found.outcome == "blocked" or "swallows" in str(workflow.description), "it left a thread behind"
    return found


def verdicts(found: Replay) -> list[tuple[str, str, str]]:
    return [(call.verdict, call.step.name, call.step.branch) for call in found.calls]


def again(found: Replay) -> list[int]:
    return [call.recorded.step.number for call in found.calls if call.recorded is not None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


# ---- runs that had succeeded ----


async def test_unchanged_code_pays_nothing_again(path):
    found = await replayed(await recorded(path, code()), code())
    assert (found.outcome, found.differs, found.reused) == ("ended", False, 4)
    assert found.calls == found.unasked == ()


async def test_timeouts_retries_deadlines_and_caching_are_no_difference(path):
    detail = await recorded(path, code())
    other = code(writer=replace(writer, timeout_s=7, attempts=9, cache="1h", stream=True))
    assert not (await replayed(detail, replace(other, deadline_s=5, strict=True))).differs


async def test_a_changed_prompt_is_told_with_the_steps_that_would_be_paid_again_and_what_they_cost(path):
    found = await replayed(await recorded(path, code()), code(prompt="compose"))
    assert (found.outcome, found.differs) == ("held", True)
    assert verdicts(found) == [("changed", "writer", "left"), ("changed", "writer", "right")]
    assert again(found) == [2, 3]
    assert {call.why for call in found.calls} == {"its prompt changed"}
    assert [call.recorded.cost_pico for call in found.calls] == [COST, COST]
    assert [left.step.name for left in found.unasked] == ["critic"]
    assert found.diverged == ()  # what follows was not reached: nobody can tell


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "claude-sonnet-5-5"}, "its model changed from claude-haiku-5-5 to claude-sonnet-5-5"),
        (
            {"system": "Sing."},
            "its system prompt, its tools, its output schema, or another part of what is sent, changed",
        ),
        ({"max_tokens": 77}, "its max_tokens changed from 4096 to 77"),
        ({"effort": "low"}, "its effort changed from None to low"),
    ],
)
async def test_what_changed_of_an_agent_is_named(path, change, why):
    found = await replayed(await recorded(path, code()), code(writer=replace(writer, **change)))
    assert [call.why for call in found.calls] == [why, why]


async def test_an_added_call_is_told(path):
    found = await replayed(await recorded(path, code()), code(extra=True))
    assert verdicts(found) == [("added", "writer", "")]
    assert found.differs


async def test_a_call_added_at_the_very_end_of_a_run_that_had_succeeded_is_told(path):
    found = await replayed(await recorded(path, code(judged=False)), code())
    assert verdicts(found) == [("added", "critic", "")]
    assert found.differs


async def test_a_call_added_before_recorded_steps_of_an_unfinished_run_is_told(path, tmp_path):
    detail = await unfinished(path, tmp_path, code())
    found = await replayed(detail, code(extra=True))
    assert verdicts(found) == [("added", "writer", "")]
    assert found.calls[0].why == "not on record, while step 4 (critic) is no longer asked for"


async def test_a_removed_call_has_diverged(path):
    found = await replayed(await recorded(path, code()), code(judged=False))
    assert (found.outcome, found.differs, verdicts(found)) == ("ended", True, [])
    assert [(one.step.name, one.cost_pico) for one in found.diverged] == [("critic", COST)]


async def test_parallel_branches_in_another_order_are_no_difference_and_renamed_ones_are(path):
    def sides(*names: str) -> Workflow:
        async def ordered(run: RunContext, given: str) -> None:
            await asyncio.gather(*(run.branch(name).call(writer, given) for name in names))

        return declare(ordered, agents=[writer])

    detail = await recorded(path, sides("a", "b", "c"))
    assert not (await replayed(detail, sides("c", "a", "b"))).differs
    found = await replayed(detail, sides("a", "b", "z"))
    assert verdicts(found) == [("changed", "writer", "z")]
    assert found.calls[0].why == "its branch changed from 'c' to 'z'"


async def test_a_branch_that_cannot_go_on_does_not_hide_the_others(path):
    def sides(middle: str) -> Workflow:
        async def chains(run: RunContext, given: str) -> None:
            async def chain(name: str, first: str) -> None:
                branch = run.branch(name)
                await asyncio.sleep(0.02)
                text = await branch.call(writer, first)
                await asyncio.to_thread(time.sleep, 0.01)  # nothing to do for the event loop meanwhile
                await branch.call(critic, text)

            await asyncio.gather(chain("a", "one"), chain("b", middle), chain("c", "three"))

        return declare(chains, agents=[writer, critic])

    found = await replayed(await recorded(path, sides("two")), sides("zwei"))
    assert verdicts(found) == [("changed", "writer", "b")]
    assert found.reused == 4  # both steps of a and of c
    assert [(left.step.name, left.step.branch) for left in found.unasked] == [("critic", "b")]


async def test_a_bumped_step_version_runs_the_step_again(path):
    def versioned(version: str) -> Workflow:
        @step(name="load", version=version)
        def load(what: str) -> str:
            sent.append(what)
            return what

        async def loading(run: RunContext, given: str) -> str:
            return await run.call(writer, await run.step(load, given))

        return declare(loading, agents=[writer], steps=[load])

    detail = await recorded(path, versioned("1"))
    assert not (await replayed(detail, versioned("1"))).differs
    found = await replayed(detail, versioned("2"))
    assert verdicts(found) == [("changed", "load", "")]
    assert found.calls[0].why == "its version changed"


async def test_a_replay_says_the_same_each_time_even_of_values_that_are_not_on_record(path):
    async def before(run: RunContext, given: str) -> str:
        return await run.call(writer, given)

    async def after(run: RunContext, given: str) -> str:
        chosen = run.branch(f"{run.random():.12f}")
        return await chosen.call(writer, f"{run.uuid()} {run.now()}")

    detail = await recorded(path, declare(before, agents=[writer], name="before"))
    found = [await replayed(detail, declare(after, agents=[writer], name="before")) for _ in range(3)]
    assert len({one.calls[0].step.key for one in found}) == 1


# ---- runs that had not ended ----


async def test_unchanged_code_is_no_difference_wherever_an_unfinished_run_was_cut_off(path, tmp_path):
    copies: list[Path] = []
    async with engine_on(path, registered(code()), ScriptedModel(), start=False) as kit:
        kit.journal.subscribe(lambda _: copies.append(kit.crash_copy(tmp_path / f"cut-{len(copies)}.db")))
        kit.engine.start()
        run_id = (await kit.run("story", "tea")).run.id
    assert len(copies) > 8
    seen = set()
    for copy in copies:
        detail = await read(copy, run_id)
        found = await replayed(detail, code())
        assert not found.differs, (copy, found.calls, found.unasked)
        assert found.unasked == ()
        seen |= {(verdict, name) for verdict, name, _ in verdicts(found)}
        finished = sum(one.status == "succeeded" for one in detail.steps)
        assert found.reused == finished
        changed = await replayed(detail, code(prompt="compose"))
        paid = {one.number for one in detail.steps if one.status == "succeeded" and one.name == "writer"}
        assert set(again(changed)) == paid
        assert changed.differs == bool(paid)
    assert {("next", "fetch"), ("due", "writer"), ("next", "critic"), ("due", "critic")} <= seen


async def test_a_prompt_changed_after_the_cut_is_no_difference(path, tmp_path):
    found = await replayed(await unfinished(path, tmp_path, code(judged=False)), code())
    assert verdicts(found) == [("next", "critic", "")]
    assert not found.differs


async def test_the_paid_turns_of_a_step_that_was_cut_off_are_paid_again_under_another_prompt(path):
    def asking(prompt: str) -> Workflow:
        async def turns(run: RunContext, given: str) -> str:
            return await run.call(writer, prompt)

        return declare(turns, agents=[writer])

    hanging = asyncio.Event()

    def script(call, n):
        if len(call.messages) == 1:
            return ok("half", stop_reason="pause_turn")
        hanging.set()
        return asyncio.sleep(60)

    async with engine_on(path, registered(asking("one")), ScriptedModel(script)) as kit:
        run_id = (await kit.engine.submit("turns", "tea")).run.id
        await hanging.wait()
        detail = await read(path, run_id)
    same, other = await replayed(detail, asking("one")), await replayed(detail, asking("two"))
    assert (verdicts(same), same.differs) == ([("due", "writer", "")], False)
    assert (verdicts(other), other.differs) == ([("changed", "writer", "")], True)
    assert other.calls[0].recorded.cost_pico == COST  # of the turn that was answered


# ---- failures ----


def tolerant() -> Workflow:
    async def tolerating(run: RunContext, given: str) -> str:
        try:
            text = await run.call(writer, given)
        except StepFailed as error:
            text = f"without: {error.error_type}"
        return await run.call(critic, text)

    return declare(tolerating, agents=[writer, critic])


def refusing(call, n):
    return failed("invalid_request") if call.agent == "writer" else ok("fine")


async def test_a_recorded_failure_is_raised_again_and_is_owed_in_a_resumed_execution(path):
    detail = await recorded(path, tolerant(), script=refusing)
    assert not (await replayed(detail, tolerant())).differs
    found = await replayed(detail, tolerant(), resumed=True)
    assert (verdicts(found), found.differs) == ([("due", "writer", "")], False)
    assert found.calls[0].why == "it had failed, and runs again"
    assert [left.step.name for left in found.unasked] == ["critic"]  # what it says may depend on the failed step


async def test_a_run_that_failed_ends_as_recorded_and_goes_on_when_resumed(path):
    async def failing(run: RunContext, given: str) -> str:
        first = await run.call(critic, given)
        return await run.call(writer, first)

    workflow = declare(failing, agents=[writer, critic])
    detail = await recorded(path, workflow, script=refusing)
    assert detail.run.status == "failed"
    assert (await replayed(detail, workflow)).outcome == "ended"
    found = await replayed(detail, workflow, resumed=True)
    assert (verdicts(found), found.reused) == ([("due", "writer", "")], 1)


# ---- code that cannot be replayed ----


async def test_code_that_raises_where_the_record_went_on_is_told_without_its_text(path):
    async def story(run: RunContext, given: str) -> str:
        raise ValueError("canary-7f3a")

    found = await replayed(await recorded(path, code()), declare(story, agents=[writer]))
    assert (found.outcome, found.differs) == ("raised", True)
    assert "raised ValueError at test_replay.py:" in found.reason
    assert "canary" not in found.reason
    assert len(found.diverged) == 4


@pytest.mark.parametrize("how", ["waits", "blocks"])
async def test_code_that_gets_nowhere_is_given_up(path, how):
    async def story(run: RunContext, given: str) -> str:
        if how == "waits":
            await asyncio.Event().wait()
        time.sleep(6)
        return ""

    found = await replayed(await recorded(path, code()), declare(story, agents=[writer]), timeout_s=0.2)
    assert (found.outcome, found.differs) == ("blocked", True)


async def test_code_that_swallows_its_cancellation_does_not_hold_up_the_replay(path):
    async def story(run: RunContext, given: str) -> str:
        """It swallows its cancellation."""
        while True:
            try:
                await run.call(critic, "never asked before")
            except asyncio.CancelledError:
                await asyncio.sleep(0)

    found = await replayed(await recorded(path, code()), declare(story, agents=[critic]), timeout_s=5)
    assert (found.outcome, verdicts(found)) == ("held", [("changed", "critic", "")])


async def test_an_input_that_no_longer_fits_is_told_by_its_fields(path):
    async def story(run: RunContext, given: Order) -> str:
        return given.goal

    found = await replayed(await recorded(path, code(), "canary-7f3a"), declare(story))
    assert (found.outcome, found.differs) == ("invalid_input", True)
    assert "does not fit workflow 'story'" in found.reason and "canary" not in found.reason


async def test_a_replay_beside_the_owner_writes_and_sends_nothing(path):
    model = ScriptedModel()
    async with engine_on(path, registered(code()), model) as kit:
        run_id = (await kit.run("story", "tea")).run.id
        await asyncio.sleep(0.05)
        before, asked = digest(path), len(model.calls)
        for workflow in (code(), code(prompt="compose"), code(extra=True)):
            await replayed(await read(path, run_id), workflow)
        assert (digest(path), len(model.calls)) == (before, asked)


def digest(path: Path) -> list[str]:
    files = [path, path.with_name(path.name + "-wal")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
