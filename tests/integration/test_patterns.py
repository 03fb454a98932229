"""The patterns on a real engine: what they ask, what they count, and that a crash anywhere swaps and repays nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from pathlib import Path

import pytest

from agentobs import Agent, RunContext, UsageError
from agentobs.models.protocol import Reply
from agentobs.patterns import debate, orchestrate, pipeline
from agentobs.records import FAILED, SUCCEEDED, Note
from agentobs.telemetry.metrics import Metrics
from agentobs.workflows import Registry, workflow
from tests.engine_kit import Call, Kit, ScriptedModel, engine_on, failed, ok

lead = Agent(name="lead", model="claude-opus-4-5", system="Plan.")
digger = Agent(name="digger", model="claude-haiku-4-5", system="Digs up facts.")
scribe = Agent(name="scribe", model="claude-haiku-4-5", system="Writes.")


def by_agent(**answers: list[str | Reply]) -> ScriptedModel:
    """Each agent's answers, one after the other."""
    left = {name: list(given) for name, given in answers.items()}

    def script(call: Call, n: int) -> Reply:
        answer = left[call.agent].pop(0)
        return ok(answer) if isinstance(answer, str) else answer

    return ScriptedModel(script)


def plan(*tasks: tuple[str, str]) -> str:
    return json.dumps({"tasks": [{"agent": agent, "instruction": text} for agent, text in tasks]})


# ---- orchestrate ----


def orchestrated(**options: object) -> Registry:
    registry = Registry()

    @workflow(agents=[lead, digger, scribe], registry=registry)
    async def delegated(run: RunContext, goal: str) -> list[str]:
        done = await orchestrate(run, lead, [digger, scribe], goal, **options)  # type: ignore[arg-type]
        assert done.output == done.results[-1].output
        return [f"{each.task.agent}: {each.output}" for each in done.results]

    return registry


async def test_a_lead_plans_and_each_worker_gets_the_results_before_its_own(tmp_path: Path) -> None:
    model = by_agent(
        lead=[plan(("digger", "find it"), ("digger", "find more"), ("scribe", "write it up"))],
        digger=["gold", "silver"],
        scribe=["a story"],
    )
    async with engine_on(tmp_path / "j.db", orchestrated(), model) as kit:
        detail = await kit.run("delegated", "wealth")
    assert json.loads(detail.run.output or "") == ["digger: gold", "digger: silver", "scribe: a story"]
    asked = [call.prompt for call in model.calls]
    assert "Goal: wealth" in asked[0]
    assert "- digger: Digs up facts." in asked[0]
    assert asked[1] == "find it"
    assert asked[2] == "find more\n\nResult of digger:\ngold"
    assert asked[3] == "write it up\n\nResult of digger:\ngold\n\nResult of digger:\nsilver"
    assert [one.branch for one in detail.steps] == ["plan", "task-1", "task-2", "task-3"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (plan(("cook", "a meal")), "tasks.0.agent: Input should be 'digger' or 'scribe'"),
        (plan(), "tasks: List should have at least 1 item"),
        (plan(*[("digger", "dig")] * 4), "tasks: List should have at most 3 items"),
        (plan(("digger", "")), "tasks.0.instruction: String should have at least 1 character"),
        ("First I would dig.", "the answer: Invalid JSON"),
    ],
)
async def test_a_bad_plan_is_repaired_in_a_further_turn(tmp_path: Path, bad: str, told: str) -> None:
    model = by_agent(lead=[bad, plan(("scribe", "write"))], scribe=["text"])
    async with engine_on(tmp_path / "j.db", orchestrated(max_tasks=3), model) as kit:
        detail = await kit.run("delegated", "x")
    assert json.loads(detail.run.output or "") == ["scribe: text"]
    assert told in model.calls[1].prompt
    assert [a.turn for a in detail.attempts if a.agent == "lead"] == [1, 2]


async def test_a_lead_without_a_usable_plan_fails_the_run_before_any_worker_is_paid(tmp_path: Path) -> None:
    model = by_agent(lead=["no"] * 3)
    async with engine_on(tmp_path / "j.db", orchestrated(), model) as kit:
        detail = await kit.run("delegated", "x")
    assert (detail.run.status, detail.run.error_type, detail.run.error_agent) == (FAILED, "output_invalid", "lead")
    assert len(model.calls) == 3


async def test_patterns_refuse_what_cannot_work_before_anything_is_paid() -> None:
    run = None
    for work in (
        orchestrate(run, lead, [], "x"),  # type: ignore[arg-type]
        orchestrate(run, lead, [digger, digger], "x"),  # type: ignore[arg-type]
        orchestrate(run, lead, [digger], "x", max_tasks=0),  # type: ignore[arg-type]
        debate(run, scribe, lead, "x", rounds=0),  # type: ignore[arg-type]
        pipeline(run, [1]),  # type: ignore[arg-type]
        pipeline(run, [1], lambda run, x: x, at_once=0),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="expected"):
            await work


# ---- debate ----


def debated(rounds: int = 3) -> Registry:
    registry = Registry()

    @workflow(agents=[scribe, lead], registry=registry)
    async def argued(run: RunContext, task: str) -> list[object]:
        ended = await debate(run, scribe, lead, task, rounds=rounds)
        return [ended.output, ended.rounds, ended.converged, list(ended.critiques)]

    return registry


def judged(accepted: bool, critique: str = "") -> str:
    return json.dumps({"accepted": accepted, "critique": critique})


async def test_a_debate_revises_by_the_critique_until_the_critic_accepts(tmp_path: Path) -> None:
    model = by_agent(scribe=["one", "two"], lead=[judged(False, "too short"), judged(True)])
    async with engine_on(tmp_path / "j.db", debated(), model) as kit:
        detail = await kit.run("argued", "write")
        shown = _metrics(kit)
    assert json.loads(detail.run.output or "") == ["two", 2, True, ["too short"]]
    assert "Your draft:\none" in model.calls[2].prompt
    assert "Its critique:\ntoo short" in model.calls[2].prompt
    assert model.calls[3].prompt == "Task: write\n\nDraft:\ntwo"
    assert [one.branch for one in detail.steps] == ["round-1", "round-1", "round-2", "round-2"]
    assert 'agentobs_debate_rounds_sum{converged="true",workflow="argued"} 2.0' in shown


async def test_a_debate_that_does_not_converge_ends_with_its_rounds_and_says_so(tmp_path: Path) -> None:
    model = by_agent(scribe=["one", "two"], lead=[judged(False, "a"), judged(False, "b")])
    async with engine_on(tmp_path / "j.db", debated(2), model) as kit:
        detail = await kit.run("argued", "write")
        shown = _metrics(kit)
    assert json.loads(detail.run.output or "") == ["two", 2, False, ["a", "b"]]
    assert len(model.calls) == 4
    assert 'agentobs_debate_rounds_sum{converged="false",workflow="argued"} 2.0' in shown


def _metrics(kit: Kit) -> str:
    metrics = Metrics(version="test")
    metrics.observe(kit.published)
    return metrics.render("")[0].decode()


# ---- pipeline ----


def piped(at_once: int = 2, *, fail: bool = False) -> Registry:
    registry = Registry()

    @workflow(agents=[digger, scribe], registry=registry)
    async def staged(run: RunContext, items: list[str]) -> list[object]:
        async def first(here: RunContext, item: str) -> str:
            if fail and item == "bug":
                raise LookupError("ours")
            return await here.call(digger, f"dig {item}")

        async def second(here: RunContext, found: str) -> str:
            return await here.call(scribe, f"write {found}")

        ended = await pipeline(run, items, first, second, at_once=at_once)
        return [[one.index, one.value, one.failure and one.failure.error_type, one.stage] for one in ended]

    return registry


async def test_items_go_through_all_stages_in_branches_of_their_own(tmp_path: Path) -> None:
    async with engine_on(tmp_path / "j.db", piped(), ScriptedModel()) as kit:
        detail = await kit.run("staged", ["a", "b", "c"])
    assert json.loads(detail.run.output or "") == [
        [n, f"<scribe: write <digger: dig {item}>>", None, None] for n, item in enumerate("abc")
    ]
    assert {(one.branch, one.name) for one in detail.steps} == {
        (f"item-{n}", name) for n in range(3) for name in ("digger", "scribe")
    }


async def test_one_items_failure_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    def script(call: Call, n: int) -> Reply:
        return failed("refusal") if "write <digger: dig b>" in call.prompt else ok(f"<{call.agent}: {call.prompt}>")

    async with engine_on(tmp_path / "j.db", piped(), ScriptedModel(script)) as kit:
        detail = await kit.run("staged", ["a", "b", "c"])
    assert detail.run.status == SUCCEEDED
    a, b, c = json.loads(detail.run.output or "")
    assert b == [1, None, "refusal", 2]
    assert a[1] and c[1]


async def test_an_error_of_the_workflows_own_code_ends_it_under_its_own_name(tmp_path: Path) -> None:
    async with engine_on(tmp_path / "j.db", piped(fail=True), ScriptedModel()) as kit:
        detail = await kit.run("staged", ["a", "bug", "c"])
    assert detail.run.error_type == "workflow_error"
    assert "raised LookupError" in (detail.run.error_message or "")


@pytest.mark.parametrize("at_once", [1, 3])
async def test_no_more_items_than_allowed_are_worked_on_at_once(tmp_path: Path, at_once: int) -> None:
    busy, most = 0, 0

    def script(call: Call, n: int):
        async def answer() -> Reply:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.005)
            busy -= 1
            return ok("x")

        return answer()

    async with engine_on(tmp_path / "j.db", piped(at_once), ScriptedModel(script)) as kit:
        await kit.run("staged", [str(n) for n in range(7)])
    assert most == at_once


async def test_how_far_the_slowest_item_straggles_is_counted(tmp_path: Path) -> None:
    def script(call: Call, n: int):
        async def answer() -> Reply:
            await kit.clock.sleep(9 if call.prompt == "dig slow" else 1)
            return ok("x")

        return answer()

    async with engine_on(tmp_path / "j.db", piped(1), ScriptedModel(script)) as kit:
        detail = await kit.run("staged", ["a", "slow", "b"])
        shown = _metrics(kit)
    (note,) = [one for one in detail.notes if one.kind == "straggler"]
    assert json.loads(note.value)["ratio"] == pytest.approx(5, rel=0.1)  # 10 s over 2 s
    assert 'agentobs_branch_straggler_ratio_count{workflow="staged"} 1.0' in shown


async def test_nothing_is_counted_of_items_that_the_journal_answered(tmp_path: Path) -> None:
    model = ScriptedModel(lambda call, n: failed("invalid_request") if call.prompt == "dig c" else ok("x"))
    registry = Registry()

    @workflow(agents=[digger], registry=registry)
    async def strictly(run: RunContext, items: list[str]) -> int:
        async def only(here: RunContext, item: str) -> str:
            return await here.call(digger, f"dig {item}")

        ended = await pipeline(run, items, only)
        return sum(one.failure is None for one in ended)

    registry_ended = [ended async for ended in _recover_at_each_commit(tmp_path, registry, model, "strictly", "abcd")]
    assert any(kit_notes == 0 for kit_notes in registry_ended)


async def _recover_at_each_commit(tmp_path, registry, model, name, items):
    """How many straggler notes each recovery left."""
    copies: list[Path] = []
    async with engine_on(tmp_path / "j.db", registry, model) as kit:
        kit.journal.subscribe(lambda _: copies.append(kit.crash_copy(tmp_path / f"{len(copies)}.db")))
        whole = await kit.run(name, list(items))
    for path in copies:
        async with engine_on(path, registry, model) as kit:
            detail = await kit.ended(whole.run.id)
            reused = any(one.kind == "reused" for one in detail.notes)
            stragglers = [one for one in detail.notes if one.kind == "straggler"]
            assert len(stragglers) <= 1
            if reused and len(stragglers) == 1:  # noted before the crash
                assert stragglers[0].execution == 1
            yield len(stragglers)


# ---- crashes ----

ALIKE = ["same"] * 4  # equal calls: only their branches tell them apart


class Unique(ScriptedModel):
    """Never the same answer twice, after a time that the seed decides."""

    def __init__(self, seed: object) -> None:
        chance = random.Random(f"{seed}")
        count = itertools.count(1)
        wait = [chance.random() * 0.004 for _ in range(200)]
        label = f"{seed}"

        def script(call: Call, n: int):
            number = next(count)

            async def answer() -> Reply:
                await asyncio.sleep(wait[number % len(wait)])
                return ok(_answer(call, f"{label}-{number}"))

            return answer()

        super().__init__(script)


def _answer(call: Call, unique: str) -> str:
    if call.schema is None:
        return unique
    if "tasks" in call.schema["properties"]:
        return plan(*[("digger" if n % 2 else "scribe", f"task {unique}") for n in range(3)])
    return judged("two" in call.prompt, unique)


PATTERNS = {
    "delegated": (orchestrated(), "x"),
    "argued": (debated(3), "x"),
    "staged": (piped(3), ALIKE),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("seed", range(3))
async def test_a_crash_after_any_commit_swaps_no_answers_and_pays_nothing_twice(
    tmp_path: Path, name: str, seed: int
) -> None:
    registry, given = PATTERNS[name]
    copies: list[Path] = []
    async with engine_on(tmp_path / "j.db", registry, Unique(f"first-{seed}")) as kit:
        kit.journal.subscribe(lambda _: copies.append(kit.crash_copy(tmp_path / f"{len(copies)}.db")))
        whole = await kit.run(name, given)
    assert whole.run.status == SUCCEEDED
    for path in copies:
        async with engine_on(path, registry, ScriptedModel(), start=False) as kit:
            before = await kit.journal.detail(whole.run.id)
            assert before is not None
        had = {one.key: one.output for one in before.steps if one.status == SUCCEEDED}
        model = Unique(f"again-{seed}-{path.name}")
        async with engine_on(path, registry, model) as kit:
            after = await kit.ended(whole.run.id)
        assert after.run.status == SUCCEEDED
        got = {one.key: one.output for one in after.steps if one.status == SUCCEEDED}
        assert {key: got[key] for key in had} == had
        assert len(model.calls) == len(got) - len(had)
        _each_branch_has_its_own(name, after)


def _each_branch_has_its_own(name: str, detail) -> None:
    """The output is made of the answers that stand under each branch."""
    answers: dict[str, list[str]] = {}
    for one in detail.steps:
        if one.status == SUCCEEDED:
            answers.setdefault(one.branch, []).append(json.loads(one.output or ""))
    output = json.loads(detail.run.output or "")
    if name == "staged":
        assert [one[1] for one in output] == [answers[f"item-{n}"][-1] for n in range(len(ALIKE))]
        assert len({one[1] for one in output}) == len(ALIKE)
    elif name == "argued":
        assert output[0] == answers[f"round-{output[1]}"][0]
        assert [one.kind for one in detail.notes if one.kind != "reused"] == ["debate"]
    else:
        assert [one.split(": ")[1] for one in output] == [answers[f"task-{n}"][0] for n in range(1, len(output) + 1)]


def test_notes_are_what_the_metrics_read() -> None:
    """The words stand in two modules that do not import each other."""
    from agentobs.telemetry import names

    assert (names.NOTE_DEBATE, names.NOTE_STRAGGLER) == ("debate", "straggler")
    assert Note.__dataclass_fields__["kind"]
