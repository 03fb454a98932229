"""Function steps and tool calls: plain code whose result is recorded. At least once: it is given its key to be
idempotent by.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import inspect
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from agentobs.encoding import decode, encode
from agentobs.errors import StepFailed, UsageError
from agentobs.functions import FunctionStep, Tool
from agentobs.records import CLOSED, FAILED, FUNCTION, OPENED, SUCCEEDED, TOOL, Change, Step
from agentobs.runtime.clock import end
from agentobs.runtime.live import CUT_OFF, Live
from agentobs.runtime.output import misfits

_MAX_FAILURE: Final = 2000  # characters of an exception that a model is told


async def run_function(
    live: Live, declared: FunctionStep, args: Sequence[Any], kwargs: dict[str, Any], *, branch: str, key: str
) -> Any:
    """Run the function once, commit what it returned, and return that as decoded from the committed JSON.

    Sync functions run in a thread. Raises `StepFailed`; the exception's text stays in the journal.
    """
    given = encode([list(args), kwargs], f"an argument of step {declared.name!r}")
    place = {"kind": FUNCTION, "branch": branch, "key": key}
    return await _recorded(live, declared, lambda: (args, kwargs), given, "workflow_error", place)


async def run_tool(live: Live, tool: Tool, given: object, *, parent: Step, key: str, call_id: str | None) -> Any:
    """Run a tool for a model as a step of its own below `parent`.

    Raises `StepFailed` as `tool_error`, whose `text` says what went wrong: that is for the model, to go on from.
    """
    place = {
        "kind": TOOL,
        "branch": parent.branch,
        "key": key,
        "agent": parent.agent,
        "parent": parent.number,
        "parent_key": parent.key,
        "tool_call_id": call_id,
    }
    recorded = encode(given, f"the input of tool {tool.name!r}")
    return await _recorded(live, tool.step, lambda: ((), tool.bind(given)), recorded, "tool_error", place)


async def _recorded(
    live: Live,
    declared: FunctionStep,
    bind: Callable[[], tuple[Sequence[Any], dict[str, Any]]],
    given: str,
    error_type: str,
    place: Mapping[str, Any],
) -> Any:
    clock = live.shared.clock
    started = clock.now()
    step = Step(
        run_id=live.run.id,
        number=live.step_number(),
        execution=live.execution.number,
        name=declared.name,
        input=given,
        started_at=started.wall,
        seq=live.seq(),
        workflow=live.run.workflow,
        version=live.execution.version,
        workflow_version=live.execution.workflow_version,
        reason=live.execution.reason,
        **place,
    )

    def closed(status: str, error_type: str | None = None, **more: Any) -> Change:
        ended = dataclasses.replace(
            step, status=status, error_type=error_type, ended_at=end(clock, started), end_seq=live.seq(), **more
        )
        return Change(CLOSED, ended)

    try:
        await live.committed(Change(OPENED, step))
        try:
            args, kwargs = bind()
        except ValidationError as error:
            raise _Misfit(error) from error
        if declared.takes_key:
            kwargs = {**kwargs, "idempotency_key": f"{live.run.id}:{step.key}"}
        with live.shared.step_context(step):
            value = await _call(declared, args, kwargs)
        output = encode(value, f"what step {declared.name!r} returned")
        check_size(live, output, f"step {declared.name!r}")
        value = decoded(declared, output)  # what does not fit its own annotation is a failure, not a success
    except asyncio.CancelledError:
        if live.cause != "stale":
            await live.committed(closed(*CUT_OFF[live.cause]))
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 -- whatever user code raises is this step's failure
        detail = encode(traceback.format_exc(), "a traceback")
        text = _for_the_model(error) if step.kind == TOOL else ""
        told = encode(text, "a tool's failure") if text else None
        await live.committed(closed(FAILED, error_type, output=told, error_detail=detail))
        raise StepFailed(error_type, step.number, declared.name, text) from None
    await live.committed(closed(SUCCEEDED, output=output))
    return value


class _Misfit(Exception):
    def __init__(self, found: ValidationError) -> None:
        super().__init__("the input does not fit")
        self.found = found


def _for_the_model(error: BaseException) -> str:
    """A tool's failure in the model's conversation: enough to try otherwise, bounded."""
    if isinstance(error, _Misfit):
        return f"the input does not fit the tool's schema: {'; '.join(misfits(error.found, 'input'))}"
    try:
        return f"{type(error).__name__}: {error}"[:_MAX_FAILURE]
    except Exception:  # noqa: BLE001 -- its own text cannot be had
        return type(error).__name__


def check_size(live: Live, output: str, what: str) -> None:
    """Raise `UsageError` for an output beyond AGENTOBS_MAX_OUTPUT_BYTES."""
    if len(output) > live.shared.max_output_bytes:
        raise UsageError(
            f"{what} returned {len(output)} bytes; AGENTOBS_MAX_OUTPUT_BYTES is {live.shared.max_output_bytes}"
        )


def decoded(declared: FunctionStep, output: str) -> Any:
    """The committed result, as the function's return annotation has it."""
    return decode(output) if declared.returns is None else declared.returns.validate_json(output)


async def _call(declared: FunctionStep, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(declared.function):
        return await declared.function(*args, **kwargs)
    return await _in_thread(declared, args, kwargs)


async def _in_thread(declared: FunctionStep, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A daemon thread of its own: one that hangs takes no place in a pool, and cannot keep the process from ending."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(declared.function, *args, **kwargs)
        except BaseException as raised:  # noqa: BLE001 -- handed to the step, which knows what to make of it
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=f"step-{declared.name}", daemon=True).start()
    value, error = await ended
    if error is not None:
        raise error
    return value
