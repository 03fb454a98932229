"""From a claim to the run's end: the workflow function, what may stop it, and the unit that ends it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentobs.encoding import decode, encode
from agentobs.errors import AgentobsError, InvalidInput, StaleOwner, StepFailed
from agentobs.records import (
    CANCELLED,
    CLOSED,
    DRAINED,
    ERROR_TYPES,
    FAILED,
    NOTED,
    QUEUED,
    RECOVERED,
    SUCCEEDED,
    Change,
    Run,
    changed,
)
from agentobs.runtime.clock import end
from agentobs.runtime.function_step import check_size
from agentobs.runtime.live import Live, shielded
from agentobs.runtime.run import RunContext

GRACE_S: Final = 1.0  # for a workflow's own cleanup after it was cancelled
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an execution ended. `message` holds no content; `detail` may, and stays in the journal."""

    status: str
    output: str | None = None
    error_type: str | None = None
    message: str | None = None
    step: int | None = None
    agent: str | None = None
    detail: str | None = None


async def execute(live: Live) -> None:
    """Run the workflow function once and commit how the execution ended. Raises nothing."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(workflow_output(live))
    either: set[asyncio.Future[Any]] = {task, live.stopped}
    await asyncio.wait(either, timeout=max(live.seconds_left(), 0), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        live.stop("deadline")  # unless it was stopped for another reason
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)
    ending = ending_of(live, task)
    await live.settle()
    if not task.done():
        _log.warning("run.ignored_cancellation", extra={"run_id": live.run.id, "workflow": live.run.workflow})
    if live.cause == "stale":
        return
    try:
        await shielded(live.commit(*_last_changes(live, ending)))
    except StaleOwner:
        return  # another end came first, and counts
    except AgentobsError:
        failed = Ending(
            status=FAILED, error_type="workflow_error", message="the run's end could not be written as it was"
        )
        await shielded(live.commit(*_last_changes(live, failed)))


async def workflow_output(live: Live) -> str:
    """The workflow's output as stored JSON."""
    workflow = live.workflow
    try:
        given = workflow.parse(decode(live.run.input))
    except InvalidInput as error:
        raise InvalidInput(f"the recorded input no longer fits the workflow as it is now: {error}") from None
    with live.shared.step_context(live.execution):
        try:
            value = await workflow.function(RunContext(live), given)
        except (SystemExit, KeyboardInterrupt) as error:  # out of a task they would end the process
            raise _LeftError(error) from None
    output = encode(value, f"what workflow {workflow.name!r} returned")
    check_size(live, output, f"workflow {workflow.name!r}")
    return output


class _LeftError(Exception):
    """The workflow's code tried to end the process."""

    def __init__(self, original: BaseException) -> None:
        super().__init__(type(original).__name__)
        self.original = original


def ending_of(live: Live, task: asyncio.Task[str]) -> Ending:
    """What the end of `workflow_output`'s task, or what stopped it, makes of the run."""
    match live.cause:
        case "cancel":
            return Ending(status=CANCELLED, error_type="cancelled", message="cancelled on request")
        case "deadline":
            message = f"the run used up its deadline of {live.workflow.deadline_s:g} s inside its executions"
            return Ending(status=FAILED, error_type="timeout", message=message)
        case "drain" | "stale":
            return Ending(status=DRAINED)
    if task.cancelled():
        return _raised(live, asyncio.CancelledError())
    error = task.exception()
    if error is None:
        return Ending(status=SUCCEEDED, output=task.result())
    return _raised(live, error.original if isinstance(error, _LeftError) else error)


def _raised(live: Live, error: BaseException) -> Ending:
    detail = encode("".join(traceback.format_exception(error)), "a traceback")
    if isinstance(error, StepFailed):
        agents = {agent.name for agent in live.workflow.agents}
        message = f"{error}: {ERROR_TYPES.get(error.error_type, '')}".removesuffix(": ")
        return Ending(
            status=FAILED,
            error_type=error.error_type,
            message=message,
            step=error.step or None,
            agent=error.name if error.name in agents else None,
            detail=detail,
        )
    if isinstance(error, AgentobsError):  # its text is ours: it names what to do and quotes no content
        return Ending(status=FAILED, error_type="workflow_error", message=str(error), detail=detail)
    where = _where(live, error)
    message = (
        f"workflow {live.workflow.name!r} raised {type(error).__name__}{where}; its text is in the run's error_detail"
    )
    return Ending(status=FAILED, error_type="workflow_error", message=message, detail=detail)


def _where(live: Live, error: BaseException) -> str:
    """The innermost line of the workflow's own module that the error passed."""
    module = inspect.getsourcefile(live.workflow.function)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _last_changes(live: Live, ending: Ending) -> list[Change]:
    """The unit that ends the execution, and with it the run, unless somebody is to go on."""
    ended_at = end(live.shared.clock, live.started)
    changes = [
        live.note("reused", {"count": count, "saved_pico": live.memo.saved_pico[name]}, key=f"reused:{name}")
        for name, count in live.memo.reused.items()
    ]
    changes.append(Change(CLOSED, live.ended_execution(ending.status, ending.error_type, ended_at)))
    if ending.status == DRAINED:
        released = changed(live.run, status=QUEUED, owner=None, next_reason=RECOVERED)
        return [*changes, Change(NOTED, released)]
    return [*changes, Change(CLOSED, _ended_run(live, ending, ended_at))]


def _ended_run(live: Live, ending: Ending, ended_at: int) -> Run:
    run = live.run
    first: dict[str, Any] = {}
    if run.first_ended_at is None:
        first = {"first_status": ending.status, "first_ended_at": ended_at, "first_error_type": ending.error_type}
    return changed(
        run,
        status=ending.status,
        output=ending.output,
        ended_at=ended_at,
        error_type=ending.error_type,
        error_message=ending.message,
        error_step=ending.step,
        error_agent=ending.agent,
        error_detail=ending.detail,
        owner=None,
        end_seq=live.seq(),
        **first,
    )
