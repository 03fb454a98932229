"""`agentobs.testing`'s doubles as tests of the runtime use them: scripts of replies, and the engine left running.

Nothing here asserts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentobs.journal.protocol import RunDetail
from agentobs.models.protocol import Price, Reply
from agentobs.records import NO_USAGE, TERMINAL, Change, Usage
from agentobs.runtime.clock import SystemClock
from agentobs.testing import Answer, Call
from agentobs.testing import ScriptedModel as _ScriptedModel
from agentobs.testing.stage import QuickClock, Stage, open_stage
from agentobs.workflows import Registry

__all__ = ["Call", "Kit", "QuickClock", "ScriptedModel", "engine_on", "failed", "ok"]


class ScriptedModel(_ScriptedModel):
    """Answers as `script(call, n)` says, where n counts the calls of the same prompt from 1."""

    def __init__(self, script: Callable[[Call, int], Reply | Awaitable[Reply]] | None = None) -> None:
        super().__init__(self._by_prompt)
        self.script = script or (lambda call, _: ok(f"<{call.agent}: {call.prompt}>"))
        self.usage: Usage = Usage(input_uncached=10, output=5, state="exact")

    async def _by_prompt(self, call: Call) -> Answer:
        n = sum(1 for one in self.calls if (one.agent, one.prompt) == (call.agent, call.prompt))
        reply = self.script(call, n)
        if not isinstance(reply, Reply):
            reply = await reply
        if reply.outcome not in {"ok", "max_tokens", "refusal"}:
            return Answer(reply=reply, usage=NO_USAGE, price=Price(pico=None, version=None), http_status=None)
        return Answer(reply=reply, usage=self.usage, price=Price(pico=1_000, version="test"), http_status=200)


def ok(text: str, stop_reason: str = "end_turn") -> Reply:
    return Reply(outcome="ok", text=text, content=({"type": "text", "text": text},), stop_reason=stop_reason)


def failed(outcome: str, **hints: object) -> Reply:
    return Reply(outcome=outcome, error_class="ScriptedError", **hints)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Kit(Stage):
    model: ScriptedModel
    clock: SystemClock

    @property
    def changes(self) -> list[Change]:
        return [change for one in self.published for change in one.changes]

    async def run(self, workflow: str, given: object = None, **more: object) -> RunDetail:
        """Submit and wait for the end."""
        submitted = await self.engine.submit(workflow, given, **more)  # type: ignore[arg-type]
        return await self.ended(submitted.run.id)

    async def ended(self, run_id: str, timeout_s: float = 20) -> RunDetail:
        async with asyncio.timeout(timeout_s):
            while True:
                run = await self.journal.run(run_id)
                if run is not None and run.status in TERMINAL:
                    detail = await self.journal.detail(run_id)
                    assert detail is not None
                    return detail
                await asyncio.sleep(0.002)

    async def until(self, reached: Callable[[], bool], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not reached():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def engine_on(
    path: Path, registry: Registry, model: ScriptedModel, *, clock: SystemClock | None = None, **more: Any
) -> AsyncIterator[Kit]:
    """`more`: as `open_stage` takes it."""
    clock = clock or QuickClock()
    async with open_stage(path, registry, model, clock=clock, **{"max_output_bytes": 1_000_000, **more}) as stage:
        yield Kit(**vars(stage), model=model, clock=clock)
