"""The beginning and the end of the process's event loop.

Workflows are user code: one that swallows its cancellation for ever must not keep a drained process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final, NoReturn, TypeVar

import uvloop

T = TypeVar("T")

PATIENCE_S: Final = 1.0  # for tasks to end once everything they could do has been taken from them
_log = logging.getLogger(__name__)
_left_behind: list[int] = []


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on uvloop. Tasks that ignore their cancellation are left behind: end the process by `leave`."""
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
