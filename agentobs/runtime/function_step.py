"""A function step: plain code whose result is recorded. At least once: it is given its key to be idempotent by."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import inspect
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from agentobs.encoding import decode, encode
from agentobs.errors import StepFailed, UsageError
from agentobs.records import CLOSED, FAILED, FUNCTION, OPENED, SUCCEEDED, Change, Step
from agentobs.runtime.clock import end
from agentobs.runtime.live import CUT_OFF, Live
from agentobs.workflows import FunctionStep


async def run_function(
    live: Live, declared: FunctionStep, args: Sequence[Any], kwargs: dict[str, Any], *, branch: str, key: str
) -> Any:
    """Run the function once, commit what it returned, and return that as decoded from the committed JSON.

    Sync functions run in a thread. Raises `StepFailed`; the exception's text stays in the journal.
    """
    clock = live.shared.clock
    started = clock.now()
    step = Step(
        run_id=live.run.id,
        number=live.step_number(),
        execution=live.execution.number,
        key=key,
        branch=branch,
        kind=FUNCTION,
        name=declared.name,
        input=encode([list(args), kwargs], f"an argument of step {declared.name!r}"),
        started_at=started.wall,
        seq=live.seq(),
        workflow=live.run.workflow,
        version=live.execution.version,
        reason=live.execution.reason,
    )

    def closed(status: str, error_type: str | None = None, **more: Any) -> Change:
        ended = dataclasses.replace(
            step, status=status, error_type=error_type, ended_at=end(clock, started), end_seq=live.seq(), **more
        )
        return Change(CLOSED, ended)

    try:
        await live.committed(Change(OPENED, step))
        given = {**kwargs, "idempotency_key": f"{live.run.id}:{key}"} if declared.takes_key else kwargs
        with live.shared.step_context(step):
            value = await _call(declared, args, given)
        output = encode(value, f"what step {declared.name!r} returned")
        check_size(live, output, f"step {declared.name!r}")
    except asyncio.CancelledError:
        if live.cause != "stale":
            await live.committed(closed(*CUT_OFF[live.cause]))
        raise
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 -- whatever user code raises is this step's failure
        detail = encode(traceback.format_exc(), "a traceback")
        await live.committed(closed(FAILED, "workflow_error", error_detail=detail))
        raise StepFailed("workflow_error", step.number, declared.name) from None
    await live.committed(closed(SUCCEEDED, output=output))
    return decoded(declared, output)


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
