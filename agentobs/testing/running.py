"""A workflow run to its end in this process, and through the death of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from agentobs.agents import Agent
from agentobs.errors import UsageError
from agentobs.journal.protocol import Published
from agentobs.models.protocol import Message, Progress, Reply, Schema
from agentobs.records import CLOSED, OPENED, Run, Step
from agentobs.telemetry.reprint import printed
from agentobs.telemetry.traces import spans
from agentobs.testing.result import Result
from agentobs.testing.script import ScriptedModel
from agentobs.testing.stage import QuickClock, Stage, memory_journal, open_stage
from agentobs.workflows import REGISTRY, Registry, Workflow, WorkflowFunction

_ALL: Final = 2**31  # outbox rows: those of one run
_FLUSH_S: Final = 10.0


async def run_workflow(
    workflow: WorkflowFunction | str,
    input: object = None,  # noqa: A002 -- the word of the API
    *,
    model: ScriptedModel,
    crash_at: int | None = None,
    tags: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
    registry: Registry = REGISTRY,
) -> Result:
    """Run a registered workflow, its function or its name, on the scripted model until it has ended.

    `input` is what a submit would send: JSON's values, or a pydantic model or dataclass. `crash_at=n` lets the process
    die while the n-th call of the model waits for its answer; a second process then recovers the run from what was
    committed. Steps of functions run for real.

    A run that fails is a result like another (`result.status`). Raises `UsageError` for a workflow that is not
    registered, a script without an answer, or a crash that never came; `InvalidInput` as a submit would;
    `TimeoutError` after `timeout_s` seconds of real time; and what a function of the script raised.
    """
    declared = _declared(workflow, registry)
    if crash_at is not None and crash_at < 1:
        raise UsageError(f"crash_at is {crash_at!r:.40}; expected the number of a model call, from 1")
    model.broken = None
    clock = QuickClock()
    with memory_journal() as path:
        if crash_at is None:
            async with open_stage(path, registry, model, clock=clock) as stage:
                watch = _Watch(stage)
                await stage.engine.submit(declared.name, input, tags=tags)
                return await _to_the_end(stage, watch, model, timeout_s)
        left = path.with_name("left.db")
        mortal = _Mortal(model, crash_at)
        async with open_stage(path, registry, mortal, clock=clock) as stage:
            watch = _Watch(stage)
            mortal.die = lambda: _die(stage, watch, left)
            await stage.engine.submit(declared.name, input, tags=tags)
            await watch.until(lambda: mortal.dead, model, timeout_s)
            if watch.ended is not None:
                raise UsageError(
                    f"crash_at={crash_at}, and the run {watch.ended.status} after {mortal.received} model calls; "
                    "expected the number of a call that it makes"
                )
        async with open_stage(left, registry, model, clock=clock) as stage:
            return await _to_the_end(stage, _Watch(stage), model, timeout_s)


async def _to_the_end(stage: Stage, watch: _Watch, model: ScriptedModel, timeout_s: float) -> Result:
    await watch.until(lambda: False, model, timeout_s)
    assert watch.ended is not None
    detail = await stage.journal.detail(watch.ended.id)
    assert detail is not None
    owed = await stage.journal.pending_spans(0, _ALL)
    made = [span for row, changes in owed for span in spans(changes, row.spans)[0]]
    lines = printed((detail.run, *detail.executions, *detail.steps, *detail.attempts))
    return Result(detail, made, stage.metrics, list(lines))


class _Watch:
    """What became of a process's one run, and of its steps; made before the event loop turns again."""

    def __init__(self, stage: Stage) -> None:
        self.run_id = ""
        self.ended: Run | None = None
        self.changed = asyncio.Event()
        self._open: dict[int, str] = {}  # steps by number
        stage.journal.subscribe(self._observe)

    def _observe(self, batch: Sequence[Published]) -> None:
        for verb, record in (change for unit in batch for change in unit.changes):
            match record:
                case Run():
                    self.run_id = record.id
                    self.ended = record if verb == CLOSED else None
                case Step() if verb == OPENED:
                    self._open[record.number] = record.name
                case Step() if verb == CLOSED:
                    self._open.pop(record.number, None)
        self.changed.set()

    async def until(self, reached: Callable[[], bool], model: ScriptedModel, timeout_s: float) -> None:
        """Wait for that, or the run's end. What is wrong with the script ends it at once."""
        try:
            async with asyncio.timeout(timeout_s):
                while not reached() and self.ended is None and model.broken is None:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            doing = f"it is in {', '.join(self._open.values())}" if self._open else "it is in no step"
            raise TimeoutError(f"the run has not ended after {timeout_s:g} s: {doing}") from None
        if model.broken is not None:
            raise model.broken


class _Mortal:
    """The scripted model as a process reaches it that dies of its n-th call: it is sent, and never answered."""

    def __init__(self, model: ScriptedModel, crash_at: int) -> None:
        self._model = model
        self._crash_at = crash_at
        self.die: Callable[[], None] = lambda: None
        self.dead = False
        self.received = 0
        self.url = model.url
        self.ready = model.ready
        self.close = model.close

    async def send(
        self,
        agent: Agent,
        messages: tuple[Message, ...],
        *,
        schema: Schema | None = None,
        reference: str,
        progress: Progress,
    ) -> Reply:
        if self.dead:  # what other branches do now never happened
            await asyncio.Event().wait()
        self.received += 1
        if self.received == self._crash_at:
            self._model.received(agent, messages, schema=schema, reference=reference)
            self.dead = True
            self.die()
            await asyncio.Event().wait()
        return await self._model.send(agent, messages, schema=schema, reference=reference, progress=progress)


def _die(stage: Stage, watch: _Watch, left: Path) -> None:
    """With the event loop stopped, what was handed to the journal is committed, and kept: the same each time."""
    if not stage.journal.blame(watch.run_id, timeout_s=_FLUSH_S):
        raise TimeoutError(f"the journal committed nothing for {_FLUSH_S:g} s: {stage.journal.trouble or 'no reason'}")
    stage.crash_copy(left)
    watch.changed.set()


def _declared(workflow: WorkflowFunction | str, registry: Registry) -> Workflow:
    if isinstance(workflow, str):
        return registry[workflow]
    for declared in registry.values():
        if declared.function is workflow:
            return declared
    raise UsageError(
        f"{getattr(workflow, '__qualname__', workflow)!r:.80} is not registered as a workflow; decorate it with "
        f"@workflow(…); registered: {', '.join(registry) or 'none'}"
    )
