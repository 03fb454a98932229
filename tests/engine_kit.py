"""An engine on a real journal with a scripted model, and crashes that are exact: a copy of what was committed.

Used by tests of the runtime. Nothing here asserts.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from agentobs.agents import Agent
from agentobs.journal.protocol import Published, RunDetail
from agentobs.journal.sqlite import SqliteJournal, open_journal
from agentobs.models.protocol import Message, Price, Progress, Reply, Schema
from agentobs.records import NS, TERMINAL, Change, Usage
from agentobs.runtime.clock import Instant, SystemClock
from agentobs.runtime.dispatch import LocalDispatcher
from agentobs.runtime.engine import Engine, Limits
from agentobs.runtime.live import Surroundings
from agentobs.workflows import Registry


@dataclass(frozen=True)
class Call:
    agent: str
    prompt: str
    messages: tuple[Message, ...]
    reference: str
    schema: Schema | None = None


class ScriptedModel:
    """Answers as `script(call, n)` says, where n counts the calls of the same prompt from 1."""

    def __init__(self, script: Callable[[Call, int], Reply | Awaitable[Reply]] | None = None) -> None:
        self.script = script or (lambda call, _: ok(f"<{call.agent}: {call.prompt}>"))
        self.calls: list[Call] = []
        self.usage: Usage = Usage(input_uncached=10, output=5, state="exact")

    def url(self, agent: Agent) -> str:
        return "http://model.test/v1/messages"

    async def ready(self) -> None: ...

    async def send(
        self,
        agent: Agent,
        messages: tuple[Message, ...],
        *,
        schema: Schema | None = None,
        reference: str,
        progress: Progress,
    ) -> Reply:
        prompt = messages[-1]["content"]
        call = Call(agent.name, prompt if isinstance(prompt, str) else repr(prompt), messages, reference, schema)
        self.calls.append(call)
        n = sum(1 for one in self.calls if (one.agent, one.prompt) == (call.agent, call.prompt))
        reply = self.script(call, n)
        if not isinstance(reply, Reply):
            reply = await reply
        if reply.outcome in {"ok", "max_tokens", "refusal"}:
            progress.usage, progress.http_status = self.usage, 200
            progress.price = Price(pico=1_000, version="test")
        return reply

    async def close(self) -> None: ...


def ok(text: str, stop_reason: str = "end_turn") -> Reply:
    return Reply(outcome="ok", text=text, content=({"type": "text", "text": text},), stop_reason=stop_reason)


def failed(outcome: str, **hints: object) -> Reply:
    return Reply(outcome=outcome, error_class="ScriptedError", **hints)  # type: ignore[arg-type]


class QuickClock(SystemClock):
    """Real time, but sleeps pass at once, and the clock with them."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._skipped = 0

    def now(self) -> Instant:
        wall, mono = super().now()
        return Instant(wall + self._skipped, mono + self._skipped)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._skipped += int(seconds * NS)
        await asyncio.sleep(0)


@dataclass
class Kit:
    engine: Engine
    journal: SqliteJournal
    model: ScriptedModel
    clock: SystemClock
    published: list[Published] = field(default_factory=list)

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

    def crash_copy(self, target: Path) -> Path:
        """What a crash at this moment would leave behind: everything committed, nothing else."""
        source, copy = sqlite3.connect(self.journal.path), sqlite3.connect(target)
        with source, copy:
            source.backup(copy)
        source.close()
        copy.close()
        return target


@asynccontextmanager
async def engine_on(
    path: Path,
    registry: Registry,
    model: ScriptedModel,
    *,
    clock: SystemClock | None = None,
    limits: Limits | None = None,
    calls: int = 1000,
    start: bool = True,
) -> AsyncIterator[Kit]:
    clock = clock or QuickClock()
    journal = await open_journal(path, worker="test", export_requested=True)
    shared = Surroundings(
        journal=journal,
        models={"anthropic": model},
        clock=clock,
        calls=asyncio.Semaphore(calls),
        step_context=lambda _: nullcontext(),
        max_output_bytes=1_000_000,
    )
    engine = Engine(shared, registry, LocalDispatcher(journal), limits=limits or Limits(), worker="test", version="0")
    kit = Kit(engine, journal, model, clock)
    journal.subscribe(kit.published.extend)
    if start:
        engine.start()
    try:
        yield kit
    finally:
        await engine.drain(0)
        await journal.close()
