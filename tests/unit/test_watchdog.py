"""The watchdog on a real event loop that is really blocked."""

from __future__ import annotations

import asyncio
import threading
import time

from agentobs.runtime.watchdog import Watchdog


async def test_a_blocked_loop_is_warned_of_with_the_stack_and_then_left():
    blocked, left = [], threading.Event()
    codes = []
    dog = Watchdog(
        1.6,
        observe_lag=lambda _: None,
        on_blocked=lambda seconds, stack: blocked.append((seconds, stack)),
        leave=lambda code: (codes.append(code), left.set()),
    )
    dog.start()
    await asyncio.sleep(0.2)
    blocks_the_loop(left)
    dog.stop()
    assert codes == [70]
    assert len(blocked) == 2
    assert blocked[0][0] >= 1.0
    assert any("blocks_the_loop" in line for line in blocked[0][1])


async def test_a_loop_that_runs_is_left_alone_and_its_lag_is_measured():
    lags, blocked = [], []
    dog = Watchdog(0.5, observe_lag=lags.append, on_blocked=lambda *_: blocked.append(1), leave=blocked.append)
    dog.start()
    for _ in range(4):
        await asyncio.sleep(0.2)
    dog.stop()
    assert blocked == []
    assert len(lags) >= 3
    assert all(0 <= lag < 0.5 for lag in lags)


def blocks_the_loop(left: threading.Event) -> None:
    until = time.monotonic() + 5
    while not left.is_set() and time.monotonic() < until:
        time.sleep(0.01)
