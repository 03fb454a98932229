"""The work that every system does: three model calls, one after the other, each with the answer before it."""

from __future__ import annotations

import time
from typing import Final

from agentobs.agents import Agent
from agentobs.runtime.run import RunContext
from agentobs.workflows import workflow

CALLS: Final = 3
MODEL: Final = "claude-haiku-4-5"
MAX_TOKENS: Final = 1024
SYSTEMS: Final = (
    "Research topics thoroughly. Provide facts and examples.",
    "Write clear, engaging content from research notes.",
    "Edit for clarity and impact. Return the improved version.",
)
TOPIC: Final = "Best practices for remote team communication"

# What this process has seen: how long each call took (s), and when the service was opened and functions entered.
took: Final[list[float]] = []
entered: Final[list[float]] = []
opened = 0.0


def prompt(number: int, topic: str, before: str) -> str:
    return f"{number}. {topic}\n\nSo far: {before}"


def _agents(kind: str, *, stream: bool) -> tuple[Agent, ...]:
    return tuple(
        Agent(name=f"{kind}{n}", model=MODEL, system=text, max_tokens=MAX_TOKENS, stream=stream)
        for n, text in enumerate(SYSTEMS, 1)
    )


_PLAIN: Final = _agents("plain", stream=False)
_STREAM: Final = _agents("stream", stream=True)


@workflow(agents=_PLAIN)
async def bench_plain(run: RunContext, topic: str) -> str:
    """Three plain calls."""
    return await _three(run, topic, _PLAIN)


@workflow(agents=_STREAM)
async def bench_stream(run: RunContext, topic: str) -> str:
    """Three streamed calls."""
    return await _three(run, topic, _STREAM)


async def _three(run: RunContext, topic: str, agents: tuple[Agent, ...]) -> str:
    entered.append(time.monotonic())
    text = ""
    for number, agent in enumerate(agents, 1):
        began = time.perf_counter()
        text = await run.call(agent, prompt(number, topic, text))
        took.append(time.perf_counter() - began)
    return text
