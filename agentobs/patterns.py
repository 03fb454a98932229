"""Three ways for agents to work together, as functions that a workflow calls.

    orchestrate   a lead plans, and hands its tasks to workers one after the other
    debate        an author writes, a critic judges, the author revises, until the critic accepts
    pipeline      stages over many items at once, a failure of one item is that item's alone

Each puts its calls into named branches, so that a run that goes on after a crash gives every call its own answer,
whatever the order in which branches were ready. A pattern that is used twice in one run goes into a branch each:
`debate(run.branch("title"), …)`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from agentobs.agents import Agent
from agentobs.errors import StepFailed, UsageError
from agentobs.runtime.run import RunContext

T = TypeVar("T")

_LEAST_MEASURED: Final = 3  # items, below which the slowest against the median says nothing


# ---- orchestrate ----


class Task(BaseModel):
    """One task of a plan."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field(description="Who does it.")
    instruction: str = Field(min_length=1, description="What to do, in full: the worker sees nothing of the plan.")


@dataclass(frozen=True)
class Done:
    """A task and what its worker answered."""

    task: Task
    output: str


@dataclass(frozen=True)
class Orchestration:
    """What a lead planned and its workers did, in order."""

    results: tuple[Done, ...]

    @property
    def output(self) -> str:
        """The last worker's answer."""
        return self.results[-1].output


async def orchestrate(
    run: RunContext, lead: Agent, workers: Sequence[Agent], goal: str, *, max_tasks: int = 8
) -> Orchestration:
    """Let `lead` plan up to `max_tasks` tasks for `workers`, and do them one after the other.

    Each worker is given its instruction and the results of the tasks before it. A plan that names nobody, too many
    tasks or a worker who is not there is sent back to the lead in a further turn (`Agent.repairs`). The workers'
    `system` prompts tell the lead what they are good for.

    Raises `StepFailed`: `output_invalid` when no usable plan came, or what ended a worker's call.
    """
    names = tuple(worker.name for worker in workers)
    if not names or len(set(names)) < len(names) or max_tasks < 1:
        raise UsageError(
            f"orchestrate has workers {', '.join(names) or 'none'} and max_tasks={max_tasks}; expected at least one "
            "worker, names that differ, and at least one task"
        )
    staff = "\n".join(f"- {worker.name}: {worker.system or 'no description'}" for worker in workers)
    plan: Any = await run.branch("plan").call(
        lead,
        f"Goal: {goal}\n\nYou lead these workers:\n{staff}\n\nPlan at most {max_tasks} tasks that reach the goal, in "
        "the order in which they are to be done. Each worker sees its own instruction and the earlier results.",
        output=_plan(names, max_tasks),
    )
    by_name = dict(zip(names, workers, strict=True))
    results: list[Done] = []
    for number, planned in enumerate(plan.tasks, 1):
        task = Task(agent=planned.agent, instruction=planned.instruction)
        earlier = "\n\n".join(f"Result of {done.task.agent}:\n{done.output}" for done in results)
        prompt = f"{task.instruction}\n\n{earlier}".rstrip()
        output = await run.branch(f"task-{number}").call(by_name[task.agent], prompt)
        results.append(Done(task, output))
    return Orchestration(tuple(results))


@lru_cache(maxsize=256)
def _plan(names: tuple[str, ...], max_tasks: int) -> type[BaseModel]:
    """A plan's schema, in which only these workers can be named."""
    who: Any = Literal[names]
    task: Any = create_model("Task", __base__=Task, agent=(who, Field(description="Who does it.")))
    tasks = Annotated[list[task], Field(min_length=1, max_length=max_tasks)]
    return create_model("Plan", __config__=ConfigDict(extra="forbid"), tasks=(tasks, ...))


# ---- debate ----


class Verdict(BaseModel):
    """What a critic says of a draft."""

    model_config = ConfigDict(extra="forbid")

    accepted: bool = Field(description="Whether the draft is good enough as it is.")
    critique: str = Field(description="What is wrong with it, and how to mend it; empty if nothing is.")


@dataclass(frozen=True)
class Debate:
    """How a debate ended: the last draft, how many drafts were judged, and whether the critic accepted the last."""

    output: str
    rounds: int
    converged: bool
    critiques: tuple[str, ...] = field(default=())


async def debate(run: RunContext, author: Agent, critic: Agent, task: str, *, rounds: int = 3) -> Debate:
    """Have `author` write, `critic` judge and `author` revise until the critic accepts, for at most `rounds` drafts.

    How many rounds it took, and whether it converged, is counted (`agentobs_debate_rounds`). Raises `StepFailed` for
    a call that fails.
    """
    if rounds < 1:
        raise UsageError(f"debate has rounds={rounds}; expected at least 1")
    draft, accepted = "", False
    critiques: list[str] = []
    for number in range(1, rounds + 1):
        here = run.branch(f"round-{number}")
        wanted = task
        if critiques:
            wanted = f"{task}\n\nYour draft:\n{draft}\n\nIts critique:\n{critiques[-1]}\n\nRevise the draft."
        draft = await here.call(author, wanted)
        verdict = await here.call(critic, f"Task: {task}\n\nDraft:\n{draft}", output=Verdict)
        accepted = verdict.accepted
        if accepted:
            break
        critiques.append(verdict.critique)
    run.note("debate", {"rounds": number, "converged": accepted})
    return Debate(draft, number, accepted, tuple(critiques))


# ---- pipeline ----


@dataclass(frozen=True)
class Item(Generic[T]):
    """What became of one item: its value after the last stage, or what failed at which stage (from 1)."""

    index: int
    value: T | None = None
    failure: StepFailed | None = None
    stage: int | None = None


async def pipeline(
    run: RunContext, items: Sequence[Any], *stages: Callable[[RunContext, Any], Awaitable[Any]], at_once: int = 8
) -> tuple[Item[Any], ...]:
    """Take each item through all `stages`, at most `at_once` items at a time; results in the order of the items.

    A stage is an async function of a run and the value so far; the run is a branch of the item's own. An item whose
    stage raises `StepFailed` is reported as failed, and the others go on; any other error is the workflow's own code
    and ends it (put what may fail into a step). How much slower the slowest item was than the median is counted
    (`agentobs_branch_straggler_ratio`), unless some of it was answered from the journal.
    """
    if not stages or at_once < 1:
        raise UsageError(
            f"pipeline has {len(stages)} stages and at_once={at_once}; expected at least one stage, one at a time"
        )
    places = asyncio.Semaphore(at_once)
    reused = run.reused
    seconds: list[float] = []

    async def through(index: int, value: Any) -> Item[Any]:
        async with places:
            begun = run.monotonic()
            for number, stage in enumerate(stages, 1):
                try:
                    value = await stage(run.branch(f"item-{index}"), value)
                except StepFailed as failure:
                    return Item(index, failure=failure, stage=number)
            seconds.append(run.monotonic() - begun)
            return Item(index, value)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(through(index, item)) for index, item in enumerate(items)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if len(seconds) >= _LEAST_MEASURED and run.reused == reused:
        run.note("straggler", {"ratio": max(seconds) / max(statistics.median(seconds), 1e-9)})
    return tuple(task.result() for task in tasks)
