"""The beginning and the end of the process's event loop.

Workflows are user code: one that swallows its cancellation for ever must not keep a drained process from ending.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, Final, NoReturn, TypeVar

import uvloop

T = TypeVar("T")

PATIENCE_S: Final = 1.0  # for tasks to end once everything they could do has been taken from them
# Python's collector looks for cycles after each 700 new objects, and a run makes thousands: a quarter of all CPU went
# there (docs/adr/0005). What a run leaves behind is freed without it: a test holds that no circle keeps it.
COLLECT_AFTER: Final = (10_000, 10, 100)
_log = logging.getLogger(__name__)
_left_behind: list[int] = []


_PREFIX: Final = "run "
_name: ContextVar[str | None] = ContextVar("agentobs_task_name", default=None)


def named_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> asyncio.Task[T]:
    """A task factory: every task that is made inside a run, by whatever code, is named after it."""
    context: Context | None = options.get("context")
    name = _name.get() if context is None else context.get(_name)
    return asyncio.Task(coro, loop=loop, **{"name": name, **options})


def name_tasks_after(run_id: str) -> None:
    """The tasks that are made from here on in this context belong to that run."""
    _name.set(_PREFIX + run_id)


def run_of(task: asyncio.Task[Any]) -> str | None:
    """The run that a task belongs to, by its name: this can be read from another thread."""
    name = task.get_name()
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on uvloop. Tasks that ignore their cancellation are left behind: end the process by `leave`."""
    gc.set_threshold(*COLLECT_AFTER)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        return runner.run(main)
    finally:
        left = _still_running(runner.get_loop())
        if left:
            _left_behind.append(left)
            _log.warning("run.ignored_cancellation", extra={"tasks": left})
        else:
            runner.close()


def all_imported() -> None:
    """What exists by now stays: the collector need not look at it again. Only in a process that is `run_loop`'s."""
    if gc.get_threshold() == COLLECT_AFTER:
        gc.freeze()


def leave(code: int | None) -> NoReturn:
    """Exit, at once where tasks were left behind: the interpreter would ask them to end once more, for ever."""
    if _left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _still_running(loop: asyncio.AbstractEventLoop) -> int:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE_S))
    return sum(1 for task in tasks if not task.done())
