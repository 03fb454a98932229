"""One execution of a run while it lives: its place in the journal, its deadline, and the tasks it owns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from agentobs.errors import StaleOwner
from agentobs.journal.protocol import Claim, Fence, Journal
from agentobs.models.protocol import Model
from agentobs.records import (
    CANCELLED,
    CLOSED,
    INTERRUPTED,
    NS,
    OPENED,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
    changed,
)
from agentobs.runtime.clock import Clock, seconds_left
from agentobs.runtime.memo import Finished, Memo
from agentobs.workflows import Workflow

T = TypeVar("T")

StepContext: TypeAlias = Callable[[Run | Execution | Step | Attempt], AbstractContextManager[Any]]

# Why an execution stops before its function has ended by itself.
Cause = Literal["cancel", "deadline", "drain", "stale"]

# What a cause makes of the steps and attempts it cuts off: (status of the step, error type of both).
CUT_OFF: Final[dict[Cause | None, tuple[str, str]]] = {
    "cancel": (CANCELLED, "cancelled"),
    "deadline": (CANCELLED, "timeout"),
    "drain": (INTERRUPTED, INTERRUPTED),
    "stale": (INTERRUPTED, INTERRUPTED),
    None: (CANCELLED, "cancelled"),  # the workflow's own code gave it up
}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every execution in this process shares."""

    journal: Journal
    models: dict[str, Model]  # by provider
    clock: Clock
    calls: asyncio.Semaphore  # model requests at once
    step_context: StepContext
    max_output_bytes: int


class Live:
    """The state of one execution. Every record it makes is numbered and committed through here."""

    def __init__(self, claim: Claim, workflow: Workflow, shared: Surroundings) -> None:
        self.run = claim.run
        self.execution = claim.execution
        self.workflow = workflow
        self.shared = shared
        self.memo = Memo(claim.history)
        self.started = shared.clock.now()
        self.deadline_mono = self.started.mono + int(workflow.deadline_s * NS) - claim.history.elapsed_ns
        self.cause: Cause | None = None
        self.closing = False  # no further step begins
        self._fence = Fence(claim.run.id, claim.run.epoch)
        self._next_step = claim.next_step
        self._next_seq = claim.next_seq
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refusals = 0

    # ---- numbering and committing ----

    def step_number(self) -> int:
        self._next_step += 1
        return self._next_step - 1

    def seq(self) -> int:
        self._next_seq += 1
        return self._next_seq - 1

    def commit(self, *changes: Change) -> asyncio.Future[None]:
        """Queue a unit. A `StaleOwner` in answer stops the execution at once: another owner goes on."""
        future = self.shared.journal.commit(self._fence, changes)
        future.add_done_callback(self._committed)
        return future

    def _committed(self, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        error = future.exception()  # also marks it as seen: not every commit is waited for
        if isinstance(error, StaleOwner):
            self.stop("stale")

    async def committed(self, *changes: Change) -> None:
        """Commit and wait, even through a cancellation, which is raised again once the commit has ended."""
        await shielded(self.commit(*changes))

    def note(self, kind: str, value: object, key: str = "") -> Change:
        return Change(
            CLOSED,
            Note(
                run_id=self.run.id,
                execution=self.execution.number,
                seq=self.seq(),
                kind=kind,
                key=key,
                value=json.dumps(value),
                at=self.shared.clock.now().wall,
                workflow=self.run.workflow,
            ),
        )

    def reused(self, found: Finished) -> tuple[Change, Change]:
        """The row of a step that the source of this fork answers: no attempts, no cost, no time."""
        now = self.shared.clock.now().wall
        opened = changed(
            found.step,
            run_id=self.run.id,
            number=self.step_number(),
            execution=self.execution.number,
            status=RUNNING,
            output=None,
            started_at=now,
            ended_at=None,
            seq=self.seq(),
            end_seq=None,
            version=self.execution.version,
            workflow_version=self.execution.workflow_version,
            reason=self.execution.reason,
            saved_pico=found.cost_pico,
        )
        closed = changed(opened, status=SUCCEEDED, output=found.step.output, ended_at=now, end_seq=self.seq())
        return Change(OPENED, opened), Change(CLOSED, closed)

    # ---- time ----

    def seconds_left(self) -> float:
        """Until the run's deadline, which counts the time inside its executions."""
        return seconds_left(self.shared.clock, self.deadline_mono)

    # ---- tasks and the end ----

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a step's task; it is awaited before the run's end is committed, whoever else awaits it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a step that nobody awaited is on record all the same

    def refused(self) -> asyncio.Task[Any]:
        """What a call gets once the execution is ending: a cancellation, and nothing begins, whatever the code does.

        It is raised from a wait that grows: a homemade loop that swallows it and asks again holds up nobody.
        """
        self._refusals += 1

        async def cancelled() -> Any:
            await asyncio.sleep(min(2.0**self._refusals / 1024, 3600))
            raise asyncio.CancelledError

        return asyncio.get_running_loop().create_task(cancelled())

    def stop(self, cause: Cause) -> None:
        """End the execution for an outside reason; the first one counts."""
        if self.cause is None and not self.closing:
            self.cause = cause
            self.closing = True
            self.stopped.set_result(None)
            self._cancel_tasks()

    async def settle(self) -> None:
        """Cancel what is outstanding and wait until each has committed its end. Nothing is paid after this."""
        self.closing = True
        while self._tasks:
            self._cancel_tasks()
            await asyncio.wait(set(self._tasks))

    def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def ended_execution(self, outcome: str, error_type: str | None, ended_at: int) -> Execution:
        return changed(
            self.execution,
            ended_at=ended_at,
            outcome=outcome,
            error_type=error_type,
            reused=self.memo.reused.total(),
            diverged=0 if self.cause else self.memo.unasked(),
            end_seq=self.seq(),
        )


async def shielded(future: asyncio.Future[T]) -> T:
    """Wait for `future` to its end even when cancelled meanwhile; a cancellation is then raised afterwards."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not future.cancelled():
            future.exception()
        raise asyncio.CancelledError
    return future.result()


def names(found: Sequence[Any]) -> str:
    return ", ".join(repr(one.name) for one in found) or "none"
