"""A thread that notices a blocked event loop: a warning with the stack after a second, then the process exits.

A service whose loop is blocked answers nothing, not even its health check; leaving at once lets a supervisor
start it again, and what it ran is recovered. A workflow that blocks each time is parked in the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

BEAT_S: Final = 0.1
WARN_S: Final = 1.0
EXIT_CODE: Final = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
    """Watches the running loop from `start()` to `stop()`.

    `observe_lag` gets how late each beat was, in seconds. `on_blocked(seconds, stack)` is called from the thread once
    a block; the stack names files, lines and functions, never values. After `stall_s` `on_stalled` gets the task that
    blocks, and the process exits 70.
    """

    def __init__(
        self,
        stall_s: float,
        *,
        observe_lag: Callable[[float], None],
        on_blocked: Callable[[float, list[str]], None],
        on_stalled: Callable[[asyncio.Task[Any] | None], None] = lambda _: None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._stall_s = stall_s
        self._observe_lag = observe_lag
        self._on_blocked = on_blocked
        self._on_stalled = on_stalled
        self._loop = asyncio.get_running_loop()
        self._leave = leave
        self._beaten = time.monotonic()
        self._ended = threading.Event()
        self._loop_thread = threading.get_ident()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._watch, name="agentobs-watchdog", daemon=True)

    def start(self) -> None:
        self._beaten = time.monotonic()
        self._task = asyncio.get_running_loop().create_task(self._beat())
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._task is not None:
            self._task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            now = time.monotonic()
            self._observe_lag(max(now - self._beaten - BEAT_S, 0.0))
            self._beaten = now

    def _watch(self) -> None:
        warned = False
        looked = time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            if (
                now - looked > WARN_S
            ):  # this thread stood still too: the whole process was stopped, not the loop blocked
                self._beaten = max(self._beaten, now - BEAT_S)
            looked = now
            blocked = now - self._beaten
            if blocked < WARN_S:
                warned = False
            elif blocked >= self._stall_s:
                self._on_blocked(blocked, self._stack())
                self._on_stalled(asyncio.current_task(self._loop))
                self._leave(EXIT_CODE)
                return
            elif not warned:
                warned = True
                self._on_blocked(blocked, self._stack())

    def _stack(self) -> list[str]:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 -- the documented way to see another thread
        found = traceback.extract_stack(frame) if frame is not None else []
        return [f"{one.filename}:{one.lineno} {one.name}" for one in found[-12:]]
