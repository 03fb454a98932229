"""The run engine on a real journal: what is paid, what is replayed, and how runs end."""

from __future__ import annotations

import asyncio
import gc
import json
from datetime import datetime

import pytest
from pydantic import BaseModel

from agentobs import Agent, RunContext, StepFailed, step, workflow
from agentobs.errors import Conflict, InvalidInput, NotFound, UnknownWorkflow
from agentobs.records import CLOSED, Attempt, Run, Usage
from agentobs.runtime.agent_step import AgentStep
from agentobs.runtime.clock import SystemClock
from agentobs.runtime.engine import Limits
from agentobs.runtime.live import Live
from agentobs.workflows import Registry
from tests.engine_kit import QuickClock, ScriptedModel, engine_on, failed, ok

writer = Agent(name="writer", model="claude-haiku-4-5")
critic = Agent(name="critic", model="claude-opus-4-5", accept={"max_tokens"})
SECRET = "canary-7f3a"


class Point(BaseModel):
    x: int


class Given(BaseModel):
    goal: str


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


def outcomes(detail):
    return [(a.step, a.turn, a.number, a.outcome) for a in detail.attempts]


async def forever(*_):
    await asyncio.Event().wait()


# ---- steps and their results ----


async def test_a_run_records_its_steps_in_order_and_its_output(path, registry):
    @workflow(agents=[writer, critic], registry=registry)
    async def two(run: RunContext, given: str) -> str:
        draft = await run.call(writer, f"write {given}")
        return await run.call(critic, f"judge {draft}")

    async with engine_on(path, registry, ScriptedModel()) as kit:
        detail = await kit.run("two", "cats", tags={"team": "docs"})
    assert detail.run.status == "succeeded"
    assert json.loads(detail.run.output) == "<critic: judge <writer: write cats>>"
    assert [(s.number, s.name, s.status, json.loads(s.output)) for s in detail.steps] == [
        (1, "writer", "succeeded", "<writer: write cats>"),
        (2, "critic", "succeeded", "<critic: judge <writer: write cats>>"),
    ]
    assert outcomes(detail) == [(1, 1, 1, "ok"), (2, 1, 1, "ok")]
    assert all(a.final and a.cost_pico == 1000 and a.input_uncached == 10 for a in detail.attempts)


async def test_sequence_numbers_of_a_run_are_unique_and_end_with_its_end(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def wide(run: RunContext, given: None) -> None:
        run.now()
        await asyncio.gather(*(run.branch(str(n)).call(writer, "same") for n in range(5)))

    async with engine_on(path, registry, ScriptedModel()) as kit:
        detail = await kit.run("wide")
    records = [detail.run, *detail.executions, *detail.steps, *detail.attempts]
    seqs = [r.seq for r in records] + [r.end_seq for r in records] + [n.seq for n in detail.notes]
    assert len(set(seqs)) == len(seqs)
    assert detail.run.end_seq == max(seqs)


async def test_the_caller_gets_what_was_committed_not_what_the_function_returned(path, registry):
    def untyped():
        return (1, 2)

    def typed() -> Point:
        return Point(x=3)

    got = []

    @workflow(steps=[untyped, typed], registry=registry)
    async def points(run: RunContext, given: None) -> None:
        got.extend([await run.step(untyped), await run.step(typed)])

    async with engine_on(path, registry, ScriptedModel()) as kit:
        await kit.run("points")
    assert got == [[1, 2], Point(x=3)]


async def test_text_with_nul_and_lone_surrogates_survives_the_journal(path, registry):
    odd = "a\x00b\ud800c\u2028"

    @workflow(agents=[writer], registry=registry)
    async def odd_text(run: RunContext, given: str) -> str:
        return await run.call(writer, given)

    async with engine_on(path, registry, ScriptedModel(lambda call, _: ok(call.prompt))) as kit:
        detail = await kit.run("odd_text", "x\x00y")
        assert json.loads(detail.run.output) == "x\x00y"

    @workflow(agents=[writer], registry=registry)
    async def odder(run: RunContext, given: None) -> str:
        return await run.call(writer, odd)

    async with engine_on(path, registry, ScriptedModel(lambda call, _: ok(call.prompt))) as kit:
        detail = await kit.run("odder")
    assert json.loads(detail.run.output) == odd


async def test_parallel_calls_are_in_flight_together_up_to_the_call_limit(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def wide(run: RunContext, given: None) -> list[str]:
        return await asyncio.gather(*(run.call(writer, f"{n}") for n in range(6)))

    busy, most = 0, 0

    async def slow(call, _):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return ok(call.prompt)

    async with engine_on(path, registry, ScriptedModel(slow), calls=3) as kit:
        detail = await kit.run("wide")
    assert json.loads(detail.run.output) == [str(n) for n in range(6)]
    assert most == 3


# ---- retries ----


async def test_retryable_failures_are_retried_and_the_waits_are_on_record(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    clock = QuickClock()
    model = ScriptedModel(
        lambda _, n: [failed("overloaded"), failed("rate_limited", retry_after_s=7.0), ok("done")][n - 1]
    )
    async with engine_on(path, registry, model, clock=clock) as kit:
        detail = await kit.run("one")
    assert detail.run.status == "succeeded"
    assert outcomes(detail) == [(1, 1, 1, "overloaded"), (1, 1, 2, "rate_limited"), (1, 1, 3, "ok")]
    assert [a.final for a in detail.attempts] == [False, False, True]
    assert 0.5 <= clock.slept[0] <= 1.0
    assert clock.slept[1] == 7.0
    assert detail.attempts[2].wait_ns >= 7e9
    assert detail.attempts[1].not_before - detail.attempts[1].ended_at == 7_000_000_000
    assert len({call.reference for call in model.calls}) == 3


@pytest.mark.parametrize(
    ("reply", "calls"),
    [
        (failed("overloaded"), 3),
        (failed("timeout"), 3),
        (failed("stream_truncated"), 3),
        (failed("bad_response"), 3),
        (failed("invalid_request"), 1),
        (failed("authentication"), 1),
        (failed("rate_limited", should_retry=False), 1),
        (failed("server_error", should_retry=False), 1),
        (failed("invalid_request", should_retry=True), 3),
        (failed("refusal"), 1),
    ],
)
async def test_only_what_may_succeed_later_is_tried_again(path, registry, reply, calls):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    model = ScriptedModel(lambda *_: reply)
    async with engine_on(path, registry, model) as kit:
        detail = await kit.run("one")
    assert len(model.calls) == calls
    assert (detail.run.status, detail.run.error_type, detail.run.error_step, detail.run.error_agent) == (
        "failed",
        reply.outcome,
        1,
        "writer",
    )


async def test_a_wait_beyond_the_deadline_fails_now(path, registry):
    @workflow(agents=[writer], registry=registry, deadline_s=30)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    clock = QuickClock()
    model = ScriptedModel(lambda *_: failed("rate_limited", retry_after_s=31.0))
    async with engine_on(path, registry, model, clock=clock) as kit:
        detail = await kit.run("one")
    assert detail.run.error_type == "rate_limited"
    assert len(model.calls) == 1
    assert clock.slept == []


async def test_an_answer_that_cannot_be_stored_closes_the_attempt_and_fails_the_step(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    model = ScriptedModel()
    model.usage = Usage(input_uncached=10**30, output=5, state="exact")  # no column holds that
    async with engine_on(path, registry, model) as kit:
        detail = await kit.run("one")
    assert (detail.run.status, detail.run.error_type) == ("failed", "bad_response")
    assert outcomes(detail) == [(1, 1, 1, "bad_response")]
    assert (detail.attempts[0].usage, detail.attempts[0].input_uncached) == ("unknown", None)


# ---- finished failures ----


async def test_a_finished_failure_carries_the_paid_text_and_can_be_caught(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        try:
            return await run.call(writer, "x")
        except StepFailed as error:
            return f"{error.error_type}:{error.step}:{error.text}"

    reply = ok("half an ans")
    model = ScriptedModel(
        lambda *_: reply.__class__(outcome="max_tokens", text="half an ans", stop_reason="max_tokens")
    )
    async with engine_on(path, registry, model) as kit:
        detail = await kit.run("one")
    assert json.loads(detail.run.output) == "max_tokens:1:half an ans"
    assert (detail.steps[0].status, detail.steps[0].error_type, json.loads(detail.steps[0].output)) == (
        "failed",
        "max_tokens",
        "half an ans",
    )


async def test_an_agent_that_accepts_a_finished_failure_gets_its_text(path, registry):
    @workflow(agents=[critic], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(critic, "x")

    reply = ok("half", stop_reason="max_tokens").__class__(outcome="max_tokens", text="half", stop_reason="max_tokens")
    async with engine_on(path, registry, ScriptedModel(lambda *_: reply)) as kit:
        detail = await kit.run("one")
    assert (detail.run.status, json.loads(detail.run.output)) == ("succeeded", "half")
    assert (detail.attempts[0].outcome, detail.attempts[0].stop_reason) == ("ok", "max_tokens")


# ---- what goes wrong in a workflow's own code ----


async def test_a_workflow_that_raises_fails_without_telling_its_text(path, registry):
    @workflow(registry=registry)
    async def broken(run: RunContext, given: str) -> None:
        raise ValueError(f"about {given}")

    async with engine_on(path, registry, ScriptedModel()) as kit:
        detail = await kit.run("broken", SECRET)
        again = await kit.run("broken", SECRET)
    assert (detail.run.status, detail.run.error_type) == ("failed", "workflow_error")
    assert "ValueError" in detail.run.error_message
    assert "test_engine.py:" in detail.run.error_message
    assert SECRET not in detail.run.error_message
    assert SECRET in json.loads(detail.run.error_detail)
    assert again.run.status == "failed"


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object()])
async def test_an_output_that_is_not_json_fails_the_run_with_the_reason(path, registry, value):
    @workflow(registry=registry)
    async def odd(run: RunContext, given: None) -> object:
        return value if not isinstance(value, set) else {"a": object()}

    async with engine_on(path, registry, ScriptedModel()) as kit:
        detail = await kit.run("odd")
    assert detail.run.error_type == "workflow_error"
    assert "cannot be stored as JSON" in detail.run.error_message


async def test_system_exit_in_a_workflow_ends_the_run_not_the_service(path, registry):
    def leave():
        raise SystemExit(3)

    @workflow(steps=[leave], registry=registry)
    async def leaving(run: RunContext, given: None) -> None:
        await run.step(leave)

    async with engine_on(path, registry, ScriptedModel()) as kit:
        detail = await kit.run("leaving")
    assert (detail.run.status, detail.run.error_type, detail.steps[0].status) == ("failed", "workflow_error", "failed")


async def test_a_workflow_that_awaits_for_ever_ends_at_its_deadline(path, registry):
    @workflow(agents=[writer], registry=registry, deadline_s=0.1)
    async def stuck(run: RunContext, given: None) -> None:
        await run.call(writer, "x")

    async with engine_on(path, registry, ScriptedModel(forever), clock=SystemClock()) as kit:
        detail = await kit.run("stuck")
    assert (detail.run.status, detail.run.error_type) == ("failed", "timeout")
    assert outcomes(detail) == [(1, 1, 1, "timeout")]
    assert detail.steps[0].status == "cancelled"


async def test_an_undeclared_agent_or_step_is_refused_before_anything_is_paid(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def wrong_agent(run: RunContext, given: None) -> None:
        await run.call(critic, "x")

    @workflow(registry=registry)
    async def wrong_step(run: RunContext, given: None) -> None:
        await run.step(len, "x")

    model = ScriptedModel()
    async with engine_on(path, registry, model) as kit:
        details = [await kit.run("wrong_agent"), await kit.run("wrong_step")]
    assert [d.run.error_type for d in details] == ["workflow_error"] * 2
    assert "'critic' without declaring it; declared: 'writer'" in details[0].run.error_message
    assert "'len' without declaring it; declared: none" in details[1].run.error_message
    assert model.calls == []


# ---- submit ----


async def test_the_same_key_and_body_is_the_same_run_and_another_body_a_conflict(path, registry):
    @workflow(registry=registry)
    async def echo(run: RunContext, given: str) -> str:
        return given

    async with engine_on(path, registry, ScriptedModel()) as kit:
        first = await kit.engine.submit("echo", "a", idempotency_key="k")
        second = await kit.engine.submit("echo", "a", idempotency_key="k")
        with pytest.raises(Conflict, match="another body"):
            await kit.engine.submit("echo", "b", idempotency_key="k")
    assert (first.created, second.created) == (True, False)
    assert first.run.id == second.run.id


async def test_wrong_input_is_refused_with_the_field_and_without_its_value(path, registry):
    @workflow(registry=registry)
    async def typed(run: RunContext, given: Given) -> str:
        return given.goal

    async with engine_on(path, registry, ScriptedModel(), limits=Limits(max_input_bytes=50)) as kit:
        with pytest.raises(InvalidInput, match="goal: expected text") as error:
            await kit.engine.submit("typed", {"goal": [SECRET]})
        with pytest.raises(InvalidInput, match="at most 50"):
            await kit.engine.submit("typed", {"goal": "x" * 60})
        with pytest.raises(UnknownWorkflow, match="registered: typed"):
            await kit.engine.submit("nope", {})
    assert SECRET not in str(error.value)


async def test_runs_beyond_the_limit_wait_as_queued_in_order(path, registry):
    order, gate = [], asyncio.Event()

    @workflow(registry=registry)
    async def gated(run: RunContext, given: int) -> None:
        order.append(given)
        await gate.wait()

    async with engine_on(path, registry, ScriptedModel(), limits=Limits(max_runs_in_flight=2)) as kit:
        runs = [(await kit.engine.submit("gated", n)).run.id for n in range(5)]
        await kit.until(lambda: len(order) == 2)
        assert [q.queued for q in await kit.journal.queue()] == [3]
        gate.set()
        for run_id in runs:
            assert (await kit.ended(run_id)).run.status == "succeeded"
    assert order == [0, 1, 2, 3, 4]


# ---- cancel: no money after the end ----


async def test_cancel_ends_every_attempt_then_the_run_and_nothing_is_asked_afterwards(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def wide(run: RunContext, given: None) -> None:
        await asyncio.gather(*(run.branch(str(n)).call(writer, "x") for n in range(4)))

    model = ScriptedModel(forever)
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("wide", None)).run.id
        await kit.until(lambda: len(model.calls) == 4)
        await kit.engine.cancel(run_id)
        detail = await kit.ended(run_id)
        await asyncio.sleep(0.05)
        with_end = [c.record for c in kit.changes if c.verb == CLOSED]
    assert detail.run.status == "cancelled"
    assert [a.outcome for a in detail.attempts] == ["cancelled"] * 4
    assert [s.status for s in detail.steps] == ["cancelled"] * 4
    assert isinstance(with_end[-1], Run)  # the run's end is the last thing on record
    assert len(model.calls) == 4


async def test_a_failing_branch_cancels_the_others_before_the_run_ends(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def race(run: RunContext, given: None) -> None:
        await asyncio.gather(run.call(writer, "slow"), run.call(writer, "bad"))

    def script(call, _):
        return failed("invalid_request") if call.prompt == "bad" else forever()

    async with engine_on(path, registry, ScriptedModel(script)) as kit:
        detail = await kit.run("race")
    assert (detail.run.status, detail.run.error_type) == ("failed", "invalid_request")
    assert sorted(a.outcome for a in detail.attempts) == ["cancelled", "invalid_request"]
    assert all(a.ended_at <= detail.run.ended_at for a in detail.attempts)


async def test_a_workflow_that_ignores_its_cancellation_cannot_spend_any_more(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def stubborn(run: RunContext, given: None) -> None:
        while not done:
            try:
                await run.call(writer, "again")
            except asyncio.CancelledError:
                await asyncio.sleep(0)

    done = False
    model = ScriptedModel(forever)
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("stubborn", None)).run.id
        await kit.until(lambda: len(model.calls) == 1)
        await kit.engine.cancel(run_id)
        detail = await kit.ended(run_id)
        assert len(model.calls) == 1
    done = True
    assert detail.run.status == "cancelled"


async def test_cancel_in_the_wait_for_a_retry_settles_the_turn(path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> None:
        await run.call(writer, "x")

    model = ScriptedModel(lambda *_: failed("overloaded", retry_after_s=60.0))
    async with engine_on(path, registry, model, clock=SystemClock()) as kit:
        run_id = (await kit.engine.submit("one", None)).run.id
        await kit.until(lambda: any(isinstance(c.record, Attempt) and c.verb == CLOSED for c in kit.changes))
        await kit.engine.cancel(run_id)
        detail = await kit.ended(run_id)
    assert outcomes(detail) == [(1, 1, 1, "overloaded")]
    assert detail.attempts[0].final
    assert detail.steps[0].status == "cancelled"
    spans = [ref.kind for one in kit.published if one.owed for ref in one.owed.spans]
    assert sorted(spans) == ["attempt", "run", "step", "turn"]


async def test_a_queued_run_is_cancelled_at_once_and_an_ended_one_is_a_conflict(path, registry):
    @workflow(registry=registry)
    async def echo(run: RunContext, given: None) -> None: ...

    async with engine_on(path, registry, ScriptedModel(), start=False) as kit:
        run_id = (await kit.engine.submit("echo", None)).run.id
        assert (await kit.engine.cancel(run_id)).status == "cancelled"
        assert (await kit.engine.cancel(run_id)).status == "cancelled"
        with pytest.raises(NotFound):
            await kit.engine.cancel("01890000-0000-7000-8000-000000000000")
        kit.engine.start()
        done = await kit.run("echo")
        with pytest.raises(Conflict, match="succeeded already"):
            await kit.engine.cancel(done.run.id)


# ---- crashes and recovery ----


async def test_a_finished_step_is_never_paid_twice(path, tmp_path, registry):
    @workflow(agents=[writer, critic], registry=registry)
    async def two(run: RunContext, given: str) -> list[str]:
        first = await run.call(writer, "first")
        second = await run.call(critic, f"second after {first}")
        return [first, second]

    model = ScriptedModel(lambda call, _: ok("one") if call.prompt == "first" else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("two", "x")).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    after = ScriptedModel()
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert [call.prompt for call in after.calls] == ["second after one"]
    assert json.loads(detail.run.output) == ["one", "<critic: second after one>"]
    assert [(e.number, e.reason, e.outcome, e.reused) for e in detail.executions] == [
        (1, "started", "interrupted", 0),
        (2, "recovered", "succeeded", 1),
    ]
    assert [(s.number, s.execution, s.status) for s in detail.steps] == [
        (1, 1, "succeeded"),
        (2, 1, "interrupted"),
        (3, 2, "succeeded"),
    ]
    assert outcomes(detail) == [(1, 1, 1, "ok"), (2, 1, 1, "interrupted"), (3, 1, 1, "ok")]
    assert detail.run.recoveries == 1
    dead = detail.executions[0]
    assert dead.ended_at == detail.steps[1].ended_at == detail.attempts[1].ended_at == detail.attempts[1].started_at


async def test_a_recovered_execution_raises_a_committed_failure_again(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def fallback(run: RunContext, given: None) -> str:
        try:
            await run.call(writer, "bad")
        except StepFailed as error:
            return await run.call(writer, f"after {error.error_type} of step {error.step}")
        return "unreached"

    def script(call, _):
        return failed("invalid_request") if call.prompt == "bad" else forever()

    model = ScriptedModel(script)
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("fallback", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    after = ScriptedModel()
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert [call.prompt for call in after.calls] == ["after invalid_request of step 1"]
    assert detail.run.status == "succeeded"


async def test_a_resumed_execution_reuses_successes_and_runs_failures_again(path, registry):
    @workflow(agents=[writer, critic], registry=registry)
    async def two(run: RunContext, given: None) -> str:
        first = await run.call(writer, "first")
        return await run.call(critic, first)

    broken = True

    def script(call, _):
        return failed("invalid_request") if broken and call.agent == "critic" else ok("fine")

    model = ScriptedModel(script)
    async with engine_on(path, registry, model) as kit:
        first = await kit.run("two")
        assert first.run.status == "failed"
        broken = False
        await kit.engine.resume(first.run.id)
        second = await kit.ended(first.run.id)
    assert [call.agent for call in model.calls] == ["writer", "critic", "critic"]
    assert [(e.reason, e.outcome, e.reused) for e in second.executions] == [
        ("started", "failed", 0),
        ("resumed", "succeeded", 1),
    ]
    # The root span is made of these, and they were written once.
    assert (second.run.first_status, second.run.first_ended_at) == ("failed", first.run.ended_at)
    kinds = [ref.kind for one in kit.published if one.owed for ref in one.owed.spans]
    assert kinds.count("run") == 1
    assert kinds.count("execution") == 1


async def test_interrupted_attempts_use_up_no_retry_and_failed_ones_do(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    model = ScriptedModel(lambda _, n: failed("overloaded") if n == 1 else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("one", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    after = ScriptedModel(lambda *_: failed("overloaded"))
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert len(after.calls) == 2  # one of three was used before the crash, the interrupted one does not count
    assert detail.run.error_type == "overloaded"


async def test_a_committed_wait_holds_after_a_recovery(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    model = ScriptedModel(lambda *_: failed("rate_limited", retry_after_s=300.0))
    async with engine_on(path, registry, model, clock=SystemClock()) as kit:
        run_id = (await kit.engine.submit("one", None)).run.id
        await kit.until(lambda: any(isinstance(c.record, Attempt) and c.verb == CLOSED for c in kit.changes))
        copy = kit.crash_copy(tmp_path / "crash.db")
    clock = QuickClock()
    async with engine_on(copy, registry, ScriptedModel(), clock=clock) as kit:
        detail = await kit.ended(run_id)
    assert 290 < clock.slept[0] <= 300
    assert detail.run.status == "succeeded"
    assert [a.final for a in detail.attempts] == [True, True]


async def test_a_turn_that_asks_to_go_on_is_replayed_and_the_next_is_paid(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> str:
        return await run.call(writer, "x")

    model = ScriptedModel(lambda call, _: ok("part 1, ", "pause_turn") if len(call.messages) == 1 else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("one", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    after = ScriptedModel(lambda call, _: ok("part 2"))
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert json.loads(detail.run.output) == "part 1, part 2"
    assert [len(call.messages) for call in after.calls] == [2]
    assert outcomes(detail) == [(1, 1, 1, "ok"), (1, 2, 1, "interrupted"), (2, 2, 1, "ok")]


async def test_recorded_time_and_chance_are_the_same_again(path, tmp_path, registry):
    seen = []

    @workflow(agents=[writer], registry=registry)
    async def chance(run: RunContext, given: None) -> None:
        seen.append((run.now(), run.uuid(), run.random(), run.random()))
        await run.call(writer, "x")

    model = ScriptedModel(forever)
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("chance", None)).run.id
        await kit.until(lambda: len(model.calls) == 1)
        copy = kit.crash_copy(tmp_path / "crash.db")
    async with engine_on(copy, registry, ScriptedModel()) as kit:
        await kit.ended(run_id)
    assert seen[0] == seen[1]
    assert isinstance(seen[0][0], datetime)
    assert seen[0][2] != seen[0][3]


async def test_branches_do_not_take_each_others_answers_when_timing_changes(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def branches(run: RunContext, given: None) -> list[str]:
        async def work(name: str) -> str:
            await asyncio.sleep(0.001 if (name == "a") is first_time else 0.01)
            return await run.branch(name).call(writer, "same prompt")

        done = await asyncio.gather(work("a"), work("b"))
        await run.call(writer, "end")
        return done

    first_time = True
    answers = iter(["first", "second"])
    model = ScriptedModel(lambda call, _: ok(next(answers)) if call.prompt != "end" else forever())
    async with engine_on(path, registry, model, clock=SystemClock()) as kit:
        run_id = (await kit.engine.submit("branches", None)).run.id
        await kit.until(lambda: len(model.calls) == 3)
        copy = kit.crash_copy(tmp_path / "crash.db")
    first_time = False
    async with engine_on(copy, registry, ScriptedModel(), clock=SystemClock()) as kit:
        detail = await kit.ended(run_id)
    assert json.loads(detail.run.output) == ["first", "second"]


async def test_a_run_whose_owner_dies_too_often_is_parked(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> None:
        await run.call(writer, "x")

    at = path
    run_id = None
    for death in range(4):
        model = ScriptedModel(forever)
        async with engine_on(at, registry, model) as kit:
            if run_id is None:
                run_id = (await kit.engine.submit("one", None)).run.id
            await kit.until(lambda model=model: len(model.calls) == 1)
            at = kit.crash_copy(tmp_path / f"crash{death}.db")
    model = ScriptedModel()
    async with engine_on(at, registry, model) as kit:
        detail = await kit.ended(run_id)
    assert (detail.run.status, detail.run.error_type) == ("failed", "parked")
    assert model.calls == []
    assert [e.outcome for e in detail.executions] == ["interrupted"] * 4


async def test_a_drain_hands_running_work_back_and_counts_as_no_death(path, registry):
    @workflow(agents=[writer, critic], registry=registry)
    async def two(run: RunContext, given: None) -> str:
        await run.call(writer, "first")
        return await run.call(critic, "second")

    model = ScriptedModel(lambda call, _: ok("one") if call.agent == "writer" else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("two", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        await kit.engine.drain(0.01)
        drained = await kit.journal.detail(run_id)
    assert (drained.run.status, drained.run.owner, drained.run.ended_at) == ("queued", None, None)
    assert [a.outcome for a in drained.attempts] == ["ok", "interrupted"]
    assert drained.executions[0].outcome == "drained"
    after = ScriptedModel()
    async with engine_on(path, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert [call.agent for call in after.calls] == ["critic"]
    assert (detail.run.recoveries, detail.executions[1].reason) == (0, "recovered")


async def test_a_cancel_asked_before_a_crash_holds_after_it(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: None) -> None:
        await run.call(writer, "x")

    model = ScriptedModel(forever)
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("one", None)).run.id
        await kit.until(lambda: len(model.calls) == 1)
        await kit.journal.request_cancel(run_id)  # durable, but the owner dies before it hears of it
        copy = kit.crash_copy(tmp_path / "crash.db")
    after = ScriptedModel()
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert detail.run.status == "cancelled"
    assert after.calls == []


async def test_time_inside_earlier_executions_counts_towards_the_deadline(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry, deadline_s=100)
    async def two(run: RunContext, given: None) -> None:
        await run.call(writer, "long")
        await run.call(writer, "second")

    clock = QuickClock()

    async def long_answer(call, _):
        if call.prompt == "second":
            await forever()
        await clock.sleep(90)
        return ok("at last")

    model = ScriptedModel(long_answer)
    async with engine_on(path, registry, model, clock=clock) as kit:
        run_id = (await kit.engine.submit("two", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    model = ScriptedModel(lambda *_: failed("overloaded", retry_after_s=20.0))
    async with engine_on(copy, registry, model) as kit:
        detail = await kit.ended(run_id)
    assert len(model.calls) == 1  # 10 s are left: a wait of 20 s would end after the deadline
    assert detail.run.error_type == "overloaded"


async def test_what_the_changed_code_no_longer_asks_for_is_counted_as_diverged(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry)
    async def changing(run: RunContext, given: None) -> None:
        await run.call(writer, "old" if before else "new")
        await run.call(writer, "end")

    before = True
    model = ScriptedModel(lambda call, _: ok("x") if call.prompt != "end" else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("changing", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    before = False
    async with engine_on(copy, registry, ScriptedModel()) as kit:
        detail = await kit.ended(run_id)
    assert detail.run.status == "succeeded"
    assert detail.executions[1].diverged == 1


async def test_under_strict_a_diverging_call_fails_before_it_is_paid(path, tmp_path, registry):
    @workflow(agents=[writer], registry=registry, strict=True)
    async def changing(run: RunContext, given: None) -> None:
        await run.call(writer, "old" if before else "new")
        await run.call(writer, "end")

    before = True
    model = ScriptedModel(lambda call, _: ok("x") if call.prompt != "end" else forever())
    async with engine_on(path, registry, model) as kit:
        run_id = (await kit.engine.submit("changing", None)).run.id
        await kit.until(lambda: len(model.calls) == 2)
        copy = kit.crash_copy(tmp_path / "crash.db")
    before = False
    after = ScriptedModel()
    async with engine_on(copy, registry, after) as kit:
        detail = await kit.ended(run_id)
    assert (detail.run.status, detail.run.error_type) == ("failed", "diverged")
    assert after.calls == []


async def test_a_function_step_runs_again_after_a_crash_with_the_same_idempotency_key(path, tmp_path, registry):
    keys = []
    gate = asyncio.Event()

    @step(name="charge", version="2")
    async def charge(amount: int, idempotency_key: str) -> int:
        keys.append(idempotency_key)
        if len(keys) == 1:
            await gate.wait()
        return amount

    @workflow(steps=[charge], registry=registry)
    async def pay(run: RunContext, given: None) -> int:
        return await run.step(charge, 5)

    async with engine_on(path, registry, ScriptedModel()) as kit:
        run_id = (await kit.engine.submit("pay", None)).run.id
        await kit.until(lambda: len(keys) == 1)
        copy = kit.crash_copy(tmp_path / "crash.db")
    async with engine_on(copy, registry, ScriptedModel()) as kit:
        detail = await kit.ended(run_id)
    assert keys[0] == keys[1]
    assert [(s.kind, s.name, s.status) for s in detail.steps] == [
        ("function", "charge", "interrupted"),
        ("function", "charge", "succeeded"),
    ]


async def test_a_run_that_has_ended_is_freed_without_pythons_collector(path, registry):
    """A process that serves collects rarely: what each run left in circles would be its memory."""

    @workflow(agents=[writer], registry=registry)
    async def one(run: RunContext, given: str) -> str:
        return await run.call(writer, given)

    async with engine_on(path, registry, ScriptedModel()) as kit:
        gc.collect()
        gc.disable()
        try:
            await kit.run("one", "cats")
            await asyncio.sleep(0.05)  # the engine lets go of it
            assert [found for found in gc.get_objects() if isinstance(found, Live | AgentStep)] == []
        finally:
            gc.enable()
