"""A recorded run, executed again offline: what the workflow code of now would ask for that the journal cannot answer.

It is the engine's own execution on a journal that takes nothing in. The engine commits a start row before it sends a
request or runs a function step, so a start row that never commits holds the call there: nothing is sent, no step's
body runs, nothing is written. Whatever does not depend on such a call goes on, until nothing moves any more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from agentobs.encoding import decode
from agentobs.errors import InvalidInput
from agentobs.journal.protocol import Claim, History, Journal, RunDetail
from agentobs.records import (
    FAILED,
    QUEUED,
    RECOVERED,
    RESUMED,
    STARTED,
    SUCCEEDED,
    Attempt,
    Execution,
    Run,
    Step,
)
from agentobs.runtime.compare import Found, Unanswered, judge
from agentobs.runtime.execute import GRACE_S, Ending, ending_of, workflow_output
from agentobs.runtime.live import Live, Surroundings
from agentobs.runtime.offline import Nobody, RestingSelector, StoppedClock, TakesNothing, Watched
from agentobs.workflows import Workflow

DEFAULT_TIMEOUT_S: Final = 30.0
_UNHEARD_S: Final = 2.0  # beyond the timeout, for a loop that a workflow's own code has blocked

Outcome = Literal["ended", "held", "raised", "blocked", "invalid_input", "unregistered"]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay of one run found.

    `outcome`: the function `ended` as the run had, or is `held` at calls that the journal cannot answer, or `raised`
    where the recorded run had not, or `blocked` (no end within the timeout); or it could not begin: `invalid_input`,
    `unregistered`. `reason` says more, without content. `unasked` are the finished recorded steps that the code did
    not ask for: no longer part of it where it came to its end, else perhaps only not reached.
    """

    detail: RunDetail
    outcome: Outcome
    reason: str = ""
    reused: int = 0
    calls: tuple[Unanswered, ...] = ()
    unasked: tuple[Found, ...] = ()

    @property
    def diverged(self) -> tuple[Found, ...]:
        """Finished recorded steps that the code came to its end without."""
        return self.unasked if self.outcome in {"ended", "raised"} else ()

    @property
    def differs(self) -> bool:
        """Whether this code and that record disagree: something is paid again, dropped, added, or cannot run."""
        told = any(call.differs for call in self.calls) or bool(self.diverged)
        return told or self.outcome not in {"ended", "held"}


def replay_run(
    detail: RunDetail, workflow: Workflow, *, resumed: bool = False, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Replay:
    """Execute `workflow` against what `detail` (with content) has on record. Sends, writes and raises nothing.

    `resumed`: as if someone had asked for it to be resumed, when failed steps run again; else as the next execution
    would begin. The workflow function runs for real, in a thread of its own: what it does outside of its calls and
    steps is done.
    """
    try:
        workflow.parse(decode(detail.run.input))
    except InvalidInput as error:
        return Replay(detail=detail, outcome="invalid_input", reason=str(error))
    told: queue.SimpleQueue[Replay] = queue.SimpleQueue()
    work = _Replaying(detail, workflow, resumed=resumed, timeout_s=timeout_s, tell=told.put)
    thread = threading.Thread(target=work.run, name=f"replay-{detail.run.id}", daemon=True)
    thread.start()
    try:
        found = told.get(timeout=timeout_s + _UNHEARD_S)
    except queue.Empty:
        return Replay(detail=detail, outcome="blocked", reason="its code held up the event loop")
    thread.join(GRACE_S * 2)
    return found


class _Replaying:
    """One replay: an execution, and what surrounds it."""

    def __init__(
        self, detail: RunDetail, workflow: Workflow, *, resumed: bool, timeout_s: float, tell: Callable[[Replay], None]
    ) -> None:
        self.detail = detail
        # Not strict: a call that strictness refuses is held as any other, so that what follows is still looked at.
        self.workflow = dataclasses.replace(workflow, strict=False)
        self.timeout_s = timeout_s
        self.tell = tell
        self.claim = _claim(detail, resumed=resumed)
        self.journal = TakesNothing()
        self.memo = Watched(self.claim.history)

    def run(self) -> None:
        self.selector = RestingSelector(lambda: bool(self.journal.held))
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self.selector)) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        live = Live(self.claim, self.workflow, self._surroundings())
        live.memo = self.memo
        task = asyncio.create_task(workflow_output(live))
        quiet = asyncio.create_task(self.selector.quiet.wait())
        await asyncio.wait({task, quiet}, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self.tell(self._found(live, task, quiet=quiet.done()))
        quiet.cancel()
        live.closing = True
        self.journal.let_go()
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)
        await live.settle()
        if task.done() and not task.cancelled():
            task.exception()

    def _surroundings(self) -> Surroundings:
        nobody: Any = defaultdict(Nobody)
        return Surroundings(
            journal=cast(Journal, self.journal),
            models=nobody,
            clock=StoppedClock(_last_moment(self.detail)),
            calls=asyncio.Semaphore(sys.maxsize),
            step_context=lambda _: nullcontext(),
            max_output_bytes=sys.maxsize,
        )

    def _found(self, live: Live, task: asyncio.Task[str], *, quiet: bool) -> Replay:
        calls, unasked = judge(self.journal.unanswered, self.memo.left(), self.detail)
        ending = ending_of(live, task) if task.done() else None
        if ending is not None:
            outcome: Outcome = "ended" if _as_recorded(ending, self.detail.run) else "raised"
        else:
            outcome = "held" if quiet else "blocked"
        return Replay(
            detail=self.detail,
            outcome=outcome,
            reason=_reason(outcome, ending, self.timeout_s),
            reused=self.memo.reused.total(),
            calls=calls,
            unasked=unasked,
        )


def _as_recorded(ending: Ending, run: Run) -> bool:
    """Whether the record led to this end, or it is new: a recorded failure raised again is no news."""
    if ending.status == SUCCEEDED:
        return True
    replayed = ending.step is not None and run.status != SUCCEEDED
    return replayed or (run.status == FAILED and run.error_type == ending.error_type)


def _reason(outcome: Outcome, ending: Ending | None, timeout_s: float) -> str:
    if outcome == "raised" and ending is not None:
        return (ending.message or "").removesuffix("; its text is in the run's error_detail")
    return f"it neither ended nor asked for anything within {timeout_s:g} s" if outcome == "blocked" else ""


def _claim(detail: RunDetail, *, resumed: bool) -> Claim:
    """The claim that a new owner would be given; an execution that is still open counts as dead."""
    run = detail.run
    number = len(detail.executions) + 1
    resumed = resumed or (run.status == QUEUED and run.next_reason == RESUMED)
    reason = RESUMED if resumed else RECOVERED if detail.executions else STARTED
    return Claim(
        run=run,
        execution=Execution(
            run_id=run.id,
            number=number,
            reason=reason,
            worker="",
            owner="",
            epoch=run.epoch + 1,
            version="",
            started_at=run.created_at,
            seq=0,
            workflow=run.workflow,
        ),
        history=History(
            steps=detail.steps,
            attempts=detail.attempts,
            notes=detail.notes,
            resumed_from=number if resumed else run.resumed_from,
        ),
        next_step=max((step.number for step in detail.steps), default=0) + 1,
    )


def _last_moment(detail: RunDetail) -> int:
    """The latest time on record, so that a replay's own "now" is the same each time, ns."""
    rows: list[Execution | Step | Attempt] = [*detail.executions, *detail.steps, *detail.attempts]
    return max([detail.run.created_at, *(one.ended_at or one.started_at for one in rows)])
