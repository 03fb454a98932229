"""Memoising by content, on the real engine, through random workflows, timings, crashes and resumes.

A workflow is data: a list of nodes, run by `interpret`. The scripted model gives an answer of its own for each paid
call, so that a wrong reuse shows. Every execution is recorded from the workflow's side, and judged in the end against
what DESIGN.md's "Resuming" says. A new kind of step is one more node, and one more case in `interpret` and
`key_of`.

A longer search: `AGENTOBS_FUZZ=2000 make test ARGS=tests/integration/test_memo_model.py`.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agentobs.agents import Agent
from agentobs.encoding import decode
from agentobs.errors import StepFailed
from agentobs.journal.protocol import RunDetail
from agentobs.models.protocol import Reply
from agentobs.records import AGENT, EXACT, FAILED, OK, RECOVERED, RESUMED, SUCCEEDED, TERMINAL, Step, attempt_span_id
from agentobs.runtime.engine import Limits
from agentobs.runtime.run import RunContext
from agentobs.workflows import Registry, declare
from tests.engine_kit import Call, Kit, ScriptedModel, engine_on, failed, ok

EXAMPLES = int(os.environ.get("AGENTOBS_FUZZ", "0"))
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
AGENTS = {name: Agent(name=name, model="m", attempts=20) for name in ("ann", "bob")}
PAID_FAILURE, PLAIN_FAILURE = "refusal", "invalid_request"

Content: TypeAlias = tuple[str, str, str]  # kind, name, what is asked
Key: TypeAlias = tuple[str, Content, int]  # branch, content, occurrence
Result: TypeAlias = tuple[str, Any]  # "ok" and the value, or "failed" and the error type


# ---- workflows as data ----


@dataclass(frozen=True)
class Ask:
    agent: str
    prompt: str
    caught: bool


@dataclass(frozen=True)
class Compute:
    argument: str
    caught: bool


@dataclass(frozen=True)
class Chance:
    pass


@dataclass(frozen=True)
class Parallel:
    named: bool
    parts: tuple[tuple[Any, ...], ...]


asks = st.builds(Ask, st.sampled_from(sorted(AGENTS)), st.sampled_from("pq"), st.booleans())
leaves = st.one_of(asks, asks, st.builds(Compute, st.sampled_from("xy"), st.booleans()), st.just(Chance()))


def blocks(depth: int, named: st.SearchStrategy[bool]) -> st.SearchStrategy[tuple[Any, ...]]:
    nodes = leaves
    if depth:
        parts = st.lists(blocks(depth - 1, named), min_size=2, max_size=3).map(tuple)
        nodes = st.one_of(leaves, leaves, st.builds(Parallel, named, parts))
    return st.lists(nodes, min_size=1, max_size=4).map(tuple)


@dataclass(frozen=True)
class World:
    """What does not change through a history: which contents fail until they are mended, and which at first."""

    broken: frozenset[Content]
    paid_failures: frozenset[Content]
    flaky: frozenset[Content]
    strict: bool


@dataclass(frozen=True)
class Life:
    """One process: the seed of its timings, and after how many moments it crashes."""

    seed: int
    crash_at: int | None


CONTENTS = [
    *(("agent", name, prompt) for name in sorted(AGENTS) for prompt in "pq"),
    *(("function", "compute", argument) for argument in "xy"),
]
some = st.frozensets(st.sampled_from(CONTENTS), max_size=2)
lives = st.lists(st.builds(Life, st.integers(0, 99), st.integers(1, 40)), max_size=3)


# ---- one execution, seen from inside the workflow ----


@dataclass
class Recorder:
    asked: list[Key] = field(default_factory=list)
    results: dict[Key, Result] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)  # by the place in the program, where that is certain
    chances: list[tuple[int, float, str]] = field(default_factory=list)  # asked before it, value, place
    occurrences: Counter[tuple[str, Content]] = field(default_factory=Counter)
    output: Any = None
    crashed: bool = False

    def key(self, branch: str, content: Content) -> Key:
        self.occurrences[branch, content] += 1
        return branch, content, self.occurrences[branch, content]


@dataclass
class History:
    """All that outlives a process, and the process that lives now."""

    world: World
    folder: Path
    mended: bool = False
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    executions: list[Recorder] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)  # of processes that are gone
    chance: random.Random = field(default_factory=random.Random)
    moment: Callable[[], None] = lambda: None

    def fails(self, content: Content) -> bool:
        return content in self.world.broken and not self.mended

    async def pause(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 3, 9))):
            await asyncio.sleep(0)

    async def answer(self, call: Call, n: int) -> Reply:
        self.moment()
        await self.pause()
        content = ("agent", call.agent, call.prompt)
        text = f"{call.agent} on {call.prompt}, answer {next(self.serial)}"
        if self.fails(content):
            paid = content in self.world.paid_failures
            return Reply(outcome=PAID_FAILURE, text=text) if paid else failed(PLAIN_FAILURE)
        if content in self.world.flaky and n % 2:
            return failed("overloaded", retry_after_s=0.1)
        return ok(text)


async def interpret(run: RunContext, nodes: tuple[Any, ...], place: str, certain: bool, here: History) -> list[Any]:
    found = []
    for number, node in enumerate(nodes):
        await here.pause()
        at = f"{place}.{number}"
        match node:
            case Ask():
                content = ("agent", node.agent, node.prompt)
                work = lambda node=node: run.call(AGENTS[node.agent], node.prompt)  # noqa: E731
                found.append(await ask(run, content, work, node.caught, at if certain else "", here))
            case Compute():
                content = ("function", "compute", node.argument)
                work = lambda node=node: run.step(here.compute, node.argument)  # type: ignore[attr-defined]  # noqa: E731
                found.append(await ask(run, content, work, node.caught, at if certain else "", here))
            case Chance():
                found.append(run.random())
                here.executions[-1].chances.append((len(here.executions[-1].asked), found[-1], at if certain else ""))
            case Parallel():
                parts = [
                    interpret(
                        run.branch(f"b{side}") if node.named else run,
                        part,
                        f"{at}/{side}",
                        certain and node.named,
                        here,
                    )
                    for side, part in enumerate(node.parts)
                ]
                found.append(await asyncio.gather(*parts))
    return found


async def ask(run: RunContext, content: Content, work: Any, caught: bool, at: str, here: History) -> Any:
    recorder = here.executions[-1]
    if run._live.closing:  # it has failed elsewhere: nothing more begins
        raise asyncio.CancelledError
    key = recorder.key(run.branch_name, content)
    recorder.asked.append(key)
    try:
        result: Result = ("ok", as_json(await work()))
    except StepFailed as error:
        result = ("failed", error.error_type)
        if not caught:
            _saw(recorder, key, at, result)
            raise
    _saw(recorder, key, at, result)
    here.moment()
    return list(result)


def _saw(recorder: Recorder, key: Key, at: str, result: Result) -> None:
    recorder.results[key] = result
    if at:
        recorder.seen[at] = result


# ---- a history: processes one after the other ----


async def live(here: History, programs: tuple[Any, Any], first: list[Life], resumes: list[list[Life]]) -> RunDetail:
    """Run a workflow through all these processes to its end, and resume it when it has failed."""
    path, run_id, files = here.folder / "0.db", "", itertools.count(1)
    for attempt, crashes in enumerate([first, *resumes]):
        here.mended = attempt > 0
        wish = "submit" if attempt == 0 else "resume"
        for life in [*crashes, Life(seed=attempt, crash_at=None)]:
            here.chance = random.Random(life.seed)
            model = ScriptedModel(here.answer)
            left = here.folder / f"{next(files)}.db"
            registry = _registry(here, programs[bool(here.executions)])
            async with engine_on(path, registry, model, limits=Limits(max_recoveries=100), start=False) as kit:
                crashed = _crash_at(kit, life.crash_at, left, here)
                if wish == "resume":
                    await kit.engine.resume(run_id)
                elif wish == "submit":
                    run_id = (await kit.engine.submit("random", None)).run.id
                wish = ""
                kit.engine.start()
                ended = asyncio.ensure_future(_ended(kit, run_id))
                await asyncio.wait({ended, crashed}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
                if crashed.done():
                    ended.cancel()
                    here.executions, calls = crashed.result()
                    here.calls += calls
                else:
                    detail = ended.result()
                    here.calls += model.calls
            if not crashed.done():
                break
            path = left
        if detail.run.status == SUCCEEDED:
            break
    return detail


async def _ended(kit: Kit, run_id: str) -> RunDetail:
    return await kit.ended(run_id, timeout_s=60)


def _registry(here: History, program: tuple[Any, ...]) -> Registry:
    def compute(argument: str) -> tuple[str, int]:
        if here.fails(("function", "compute", argument)):
            raise ValueError(argument)
        return argument, next(here.serial)

    async def function(run: RunContext, input: Any) -> Any:
        here.executions.append(Recorder())
        found = await interpret(run, program, "", certain=True, here=here)
        here.executions[-1].output = found
        return found

    here.compute = compute  # type: ignore[attr-defined]
    registry = Registry()
    registry.add(declare(function, name="random", agents=[*AGENTS.values()], steps=[compute], strict=here.world.strict))
    return registry


def _crash_at(kit: Kit, moments: int | None, left: Path, here: History) -> asyncio.Future[Any]:
    """After so many moments: what is committed then, and what the workflow and the model knew.

    A moment is a published unit, a request that the model gets, or a result that the workflow gets.
    """
    crashed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    counted, before = itertools.count(1), len(here.executions)

    def moment() -> None:
        if moments is None or next(counted) < moments or crashed.done() or len(here.executions) == before:
            return
        kit.crash_copy(left)
        executions = copy.deepcopy(here.executions)
        executions[-1].crashed = True
        crashed.set_result((executions, list(kit.model.calls)))

    here.moment = moment
    kit.journal.subscribe(lambda _: moment())
    return crashed


# ---- what must be so ----


def key_of(step: Step) -> Key:
    given = decode(step.input)
    asked = given if step.kind == AGENT else given[0][0]
    return step.branch, (step.kind, step.name, asked), int(step.key.rpartition(":")[2])


def result_of(step: Step) -> Result:
    if step.status == SUCCEEDED:
        return "ok", decode(step.output or "null")
    return "failed", step.error_type


def finished_before(detail: RunDetail, number: int) -> dict[Key, Result]:
    """What an execution does not pay again: successes, and failures committed since the latest resume."""
    resumed = max(
        (one.number for one in detail.executions if one.reason == RESUMED and one.number <= number), default=1
    )
    found = {}
    for step in detail.steps:
        if step.execution < number and (
            step.status == SUCCEEDED or (step.status == FAILED and step.execution >= resumed)
        ):
            found[key_of(step)] = result_of(step)
    return found


def check(here: History, detail: RunDetail, *, same_program: bool) -> None:
    # A crash between the claim and the function's first line leaves an execution of which the workflow knows nothing.
    numbers = sorted({step.execution for step in detail.steps} | {detail.executions[-1].number})
    assert len(here.executions) <= len(detail.executions)
    recorded = dict(zip(_numbers(here, detail), here.executions, strict=True))
    assert set(numbers) <= set(recorded)
    for execution in detail.executions:
        if execution.number in recorded:
            check_execution(here, detail, execution.number, recorded[execution.number])
    succeeded = Counter(key_of(step) for step in detail.steps if step.status == SUCCEEDED)
    assert max(succeeded.values(), default=0) <= 1
    if same_program:
        check_places(detail, recorded)
    if detail.run.status == SUCCEEDED:
        assert decode(detail.run.output or "null") == as_json(here.executions[-1].output)
    check_books(here, detail)


def _numbers(here: History, detail: RunDetail) -> list[int]:
    return [one.number for one in detail.executions][: len(here.executions)]


def as_json(value: Any) -> Any:
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value


def check_execution(here: History, detail: RunDetail, number: int, recorder: Recorder) -> None:
    execution = detail.executions[number - 1]
    finished = finished_before(detail, number)
    opened = {key_of(step): step for step in detail.steps if step.execution == number}
    refused = refused_as_diverged(recorder, finished) if here.world.strict else set()
    asked = set(recorder.asked)
    assert not opened.keys() & finished.keys(), "a finished step was begun again"
    assert opened.keys() <= asked - refused, "something was paid that was not asked for"
    for key, result in recorder.results.items():
        if key in finished:
            assert result == finished[key], "not what was recorded"
        elif key in refused:
            assert result == ("failed", "diverged")
        else:
            assert result == result_of(opened[key]), "not what was committed"
    if not recorder.crashed:
        assert execution.reused == len(asked & finished.keys())
        assert all(step.ended_at for step in opened.values())
    # Recorded chance is not waited for, and is committed before anything that comes after it.
    noted = {decode(note.value) for note in detail.notes if note.kind == "random"}
    for before, value, at in recorder.chances:
        if any(key in opened for key in recorder.asked[before:]) or not recorder.crashed:
            assert value in noted
        if value in noted and at:
            recorder.seen[at] = ("ok", value)
    if execution.outcome == SUCCEEDED:
        assert opened.keys() == asked - finished.keys() - refused
        assert execution.diverged == len(finished.keys() - asked)
    for key, step in opened.items():
        if step.status == FAILED:
            assert key[1] in here.world.broken


def refused_as_diverged(recorder: Recorder, finished: dict[Key, Result]) -> set[Key]:
    """Strict: an unrecorded call, made while its branch has a finished recorded step that nobody asked for yet."""
    found, asked = set(), set()
    for key in recorder.asked:
        asked.add(key)
        if key not in finished and any(other[0] == key[0] and other not in asked for other in finished):
            found.add(key)
    return found


def check_places(detail: RunDetail, recorded: dict[int, Recorder]) -> None:
    """A place that has seen an answer sees it again in every later execution; a failure until the next resume."""
    known: dict[str, Result] = {}
    for number, recorder in sorted(recorded.items()):
        if detail.executions[number - 1].reason == RESUMED:
            known = {at: result for at, result in known.items() if result[0] == "ok"}
        else:
            assert number == 1 or detail.executions[number - 1].reason == RECOVERED
        for at, result in recorder.seen.items():
            assert known.get(at, result) == result, "a place in the workflow sees another answer than before"
        known |= recorder.seen


def check_books(here: History, detail: RunDetail) -> None:
    """Each request has its attempt, each attempt that ended its request; the journal sums up what it was told."""
    rows = {attempt_span_id(attempt): attempt for attempt in detail.attempts}
    made = Counter(call.reference for call in here.calls)
    assert max(made.values(), default=0) <= 1
    assert made.keys() <= rows.keys(), "a request of which the journal knows nothing"
    for reference, attempt in rows.items():
        if reference not in made:
            assert attempt.outcome in {"interrupted", "cancelled"}
        assert (attempt.usage == EXACT) == (attempt.outcome in {OK, PAID_FAILURE} or reference not in made) or (
            attempt.outcome in {"interrupted", "cancelled"}
        )
    told = [one for one in detail.attempts if one.outcome in {OK, PAID_FAILURE}]
    assert sum(one.input_uncached or 0 for one in detail.attempts) == 10 * len(told)
    assert sum(one.output or 0 for one in detail.attempts) == 5 * len(told)
    paid = Counter((one.step, one.turn) for one in told)
    assert max(paid.values(), default=0) <= 1, "a turn was paid twice in one step"
    assert detail.run.status in TERMINAL


@settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
@pytest.mark.timeout(300 + 2 * EXAMPLES)
def test_what_is_finished_is_seen_again_and_never_paid_again(data: st.DataObject) -> None:
    strict = data.draw(st.booleans(), "strict")
    named = st.just(True) if strict else st.booleans()
    program = data.draw(blocks(2, named), "program")
    edited = st.sampled_from([(Ask("ann", "new", True), *program), program[1:], (*program[1:], program[0])])
    changed = data.draw(st.none() | edited | blocks(1, named), "program from the second process on")
    world = World(
        broken=data.draw(some, "broken until resumed"),
        paid_failures=data.draw(some, "whose failures are paid"),
        flaky=data.draw(some, "flaky"),
        strict=strict,
    )
    first, resumes = data.draw(lives, "lives"), data.draw(st.lists(lives, min_size=1, max_size=2), "after resuming")
    with tempfile.TemporaryDirectory(prefix="memo-model-", dir=MEMORY) as folder:
        here = History(world, Path(folder))
        detail = asyncio.run(live(here, (program, changed or program), first, resumes))
        event(f"{len(detail.executions)} executions, {detail.run.status}")
        check(here, detail, same_program=changed is None)
