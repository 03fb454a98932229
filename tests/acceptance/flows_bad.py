"""Workflows that go wrong in every way that user code can, and some that are slow on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from agentobs import Agent, RunContext, workflow
from tests.acceptance.flows import HAIKU, OPUS

slow = Agent(name="slow", model=HAIKU, max_tokens=512, timeout_s=60, attempts=3)
slow_stream = Agent(name="slow_stream", model=OPUS, max_tokens=512, timeout_s=60, stream=True)
hasty = Agent(name="hasty", model=HAIKU, max_tokens=512, timeout_s=0.5, attempts=1)
plain = Agent(name="plain", model=HAIKU, max_tokens=512, timeout_s=30, attempts=3)


def explode(text: str) -> str:
    raise RuntimeError(f"exploded over {text}")


async def linger(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "lingered"


@workflow(agents=[plain])
async def raises(run: RunContext, input: Any) -> str:
    await run.call(plain, "before it raises")
    raise ValueError(f"never show this: {input}")


@workflow(agents=[plain])
async def exits(run: RunContext, input: Any) -> str:
    await run.call(plain, "before it exits")
    raise SystemExit(3)


@workflow(agents=[plain])
async def unserialisable(run: RunContext, input: Any) -> Any:
    await run.call(plain, "before it returns an object")
    return {"lock": asyncio.Lock()}


@workflow(agents=[plain])
async def undeclared(run: RunContext, input: Any) -> str:
    return await run.call(slow, "nobody declared me")


@workflow(steps=[explode])
async def step_raises(run: RunContext, input: Any) -> str:
    return str(await run.step(explode, str(input)))


@workflow(agents=[plain], deadline_s=1.0)
async def forever(run: RunContext, input: Any) -> None:
    await run.call(plain, "before it waits for ever")
    await asyncio.get_running_loop().create_future()


@workflow(agents=[plain])
async def blocks(run: RunContext, input: Any) -> None:
    """By itself, or in a task of its own beside others, as `gather` makes them."""
    await run.call(plain, "before it blocks")
    if input == "in a task":
        await asyncio.gather(asyncio.sleep(0), _block())
    await _block()


async def _block() -> None:
    time.sleep(600)


@workflow(agents=[hasty])
async def hurries(run: RunContext, input: Any) -> str:
    return await run.call(hasty, f"quick, {input}")


@workflow(agents=[plain])
async def polite(run: RunContext, input: Any) -> str:
    """What goes on beside the others."""
    first = await run.call(plain, f"say something about {input}")
    return await run.call(plain, f"and about {first[:60]}")


@workflow(agents=[slow])
async def waits(run: RunContext, input: Any) -> str:
    return await run.call(slow, f"take your time with {input}")


@workflow(agents=[slow, slow_stream, plain], steps=[explode, linger])
async def fails_beside(run: RunContext, input: Any) -> str:
    """Slow calls in branches, plain and streamed; beside them something fails after a moment."""

    async def failing() -> str:
        await run.step(linger, input["after_s"])
        if input["how"] == "step":
            return str(await run.step(explode, "the branches"))
        if input["how"] == "agent":
            return await run.branch("failing").call(plain, "FAIL at once")
        raise ValueError("the workflow's own failure")

    calls = [run.branch(f"branch {n}").call(agent, f"slowly, {n}") for n in range(3) for agent in (slow, slow_stream)]
    await asyncio.gather(failing(), *calls)
    return "not reached"


@workflow(agents=[slow, slow_stream], deadline_s=1.2)
async def late(run: RunContext, input: Any) -> str:
    calls = [run.branch(f"branch {n}").call(agent, f"slowly, {n}") for n in range(3) for agent in (slow, slow_stream)]
    await asyncio.gather(*calls)
    return "not reached"


@workflow(agents=[slow, slow_stream])
async def stubborn(run: RunContext, input: Any) -> str:
    """Does not take no for an answer: asks again whenever it is cancelled."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await run.branch("a").call(slow, "slowly")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(run.branch("b").call(slow_stream, "slowly"), run.branch("c").call(slow, "slowly"))
        await asyncio.sleep(0.01)


@workflow(agents=[slow])
async def retries_itself(run: RunContext, input: Any) -> str:
    """The homemade retry loop that one finds everywhere, and that catches a cancellation too."""
    while True:
        try:
            return await run.call(slow, "slowly")
        except BaseException:
            continue
