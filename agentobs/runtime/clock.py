"""Time as a parameter: wall clock for timestamps, monotonic for durations, and tests that never sleep."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Protocol

from agentobs.records import NS


class Instant(NamedTuple):
    """One moment on both clocks, in nanoseconds."""

    wall: int
    mono: int


class Clock(Protocol):
    def now(self) -> Instant: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> Instant:
        return Instant(time.time_ns(), time.monotonic_ns())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def end(clock: Clock, start: Instant) -> int:
    """The wall time that ends what began at `start`: its start plus the monotonic time since."""
    return start.wall + max(clock.now().mono - start.mono, 0)


def seconds_left(clock: Clock, until_mono: int) -> float:
    return (until_mono - clock.now().mono) / NS
