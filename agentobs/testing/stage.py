"""An engine on a journal of its own, wired as the service wires it, and crashes that are exact."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentobs.journal.migrate import migrate_sqlite
from agentobs.journal.protocol import Published
from agentobs.journal.sqlite import SqliteJournal, open_journal
from agentobs.models.protocol import Model
from agentobs.records import NS
from agentobs.runtime.clock import Clock, Instant, SystemClock
from agentobs.runtime.dispatch import LocalDispatcher
from agentobs.runtime.engine import Engine, Limits
from agentobs.runtime.live import Surroundings
from agentobs.telemetry.context import step_context
from agentobs.telemetry.deltas import deltas
from agentobs.telemetry.metrics import Metrics
from agentobs.version import __version__
from agentobs.workflows import Registry

WORKER: Final = "test"
MAX_OUTPUT_BYTES: Final = 4 * 2**20  # the setting's default
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- a folder of one's own is made in it


class QuickClock(SystemClock):
    """Real time, but sleeps pass at once, and the clock with them. `slept` is what was asked for, in seconds."""

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


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One process of a test. `published` is all that its journal committed."""

    engine: Engine
    journal: SqliteJournal
    metrics: Metrics
    published: list[Published] = field(default_factory=list)

    def crash_copy(self, target: Path) -> Path:
        """What a crash at this moment would leave behind: everything committed, nothing else."""
        source, copy = sqlite3.connect(self.journal.path), sqlite3.connect(target)
        with source, copy:
            source.backup(copy)
        source.close()
        copy.close()
        return target


@asynccontextmanager
async def open_stage(
    path: Path,
    registry: Registry,
    model: Model,
    *,
    clock: Clock,
    limits: Limits | None = None,
    calls: int = 1000,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    start: bool = True,
) -> AsyncIterator[Stage]:
    """Own the journal at `path` and run what is in it, as `service.open_service` does. Every agent gets `model`."""
    journal = await open_journal(path, worker=WORKER, deltas=deltas, export_requested=True)
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    try:
        metrics = Metrics(version=__version__)
        metrics.restore(await journal.totals(WORKER))
        providers = {agent.provider for workflow in registry.values() for agent in workflow.agents}
        shared = Surroundings(
            journal=journal,
            models=dict.fromkeys(providers, model),
            clock=clock,
            calls=asyncio.Semaphore(calls),
            step_context=step_context,
            max_output_bytes=max_output_bytes,
        )
        dispatcher = LocalDispatcher(journal)
        engine = Engine(shared, registry, dispatcher, limits=limits or Limits(), worker=WORKER, version=__version__)
        stage = Stage(engine=engine, journal=journal, metrics=metrics)
        journal.subscribe(metrics.observe)
        journal.subscribe(stage.published.extend)
        if start:
            engine.start()
        try:
            yield stage
        finally:
            await engine.drain(0)
    finally:
        await journal.close()
        loop.set_task_factory(factory)  # the loop may be the test runner's


@contextmanager
def memory_journal() -> Iterator[Path]:
    """An empty journal that is gone afterwards: in memory where the system has a folder for that, else on disk."""
    in_memory = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="agentobs-test-", dir=_MEMORY if in_memory else None) as folder:
        path = Path(folder) / "journal.db"
        path.write_bytes(_empty_journal())
        yield path


@functools.cache
def _empty_journal() -> bytes:
    """Migrating takes a tenth of a second, a copy none."""
    with tempfile.TemporaryDirectory(prefix="agentobs-test-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # yoyo's, from Python 3.12 on; not the tests' affair
        path = Path(folder) / "journal.db"
        migrate_sqlite(path)
        return path.read_bytes()
