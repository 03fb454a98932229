"""Workflows that take any input, for the fuzzer: they answer it, fail, or go on until cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from agentobs import Agent, RunContext, workflow

clerk = Agent(name="clerk", model="claude-haiku-5-5", max_tokens=64)


def same(value: Any) -> Any:
    return value


@workflow(agents=[clerk], steps=[same])
async def echo(run: RunContext, input: Any) -> Any:
    await run.call(clerk, "Hello")
    return await run.step(same, input)


@workflow(steps=[same])
async def fails(run: RunContext, input: Any) -> Any:
    raise ValueError(await run.step(same, input))


@workflow()
async def endless(run: RunContext, input: Any) -> Any:
    await asyncio.sleep(3600)
