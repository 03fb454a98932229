"""What a scrape asks of the journal: kept fresh beside it, so that no scrape waits for the disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from agentobs.journal.protocol import QueueState
from agentobs.journal.sqlite import SqliteJournal
from agentobs.telemetry import names
from agentobs.telemetry.metrics import Sources
from agentobs.telemetry.outbox import TraceOutbox

QUEUE_REFRESH_S: Final = 1.0


class Shown:
    """The readings behind gauges; `journal` and `outbox` are set once they are there."""

    def __init__(self) -> None:
        self.journal: SqliteJournal | None = None
        self.outbox: TraceOutbox | None = None
        self._queue: Sequence[QueueState] = ()
        self._spans: tuple[int, int | None] = (0, None)
        self._drift: Mapping[str, int] = {}

    def audited(self, drift: Mapping[str, int]) -> None:
        """An audit found this; what it did not look for stays as an earlier one had it, and 0 before any."""
        if drift:
            self._drift = {kind: drift.get(kind, self._drift.get(kind, 0)) for kind in names.DRIFTS}

    def sources(self) -> Sources:
        return Sources(
            queue=lambda: self._queue,
            spans=lambda: self._spans if self.outbox is None else self.outbox.stats(),
            drift=lambda: self._drift,
            journal_errors=lambda: 0 if self.journal is None else self.journal.errors,
            journal_bytes=lambda: 0 if self.journal is None else self.journal.size_bytes(),
            disk_free_bytes=lambda: 0 if self.journal is None else shutil.disk_usage(self.journal.path.parent).free,
        )

    async def refresh(self) -> None:
        assert self.journal is not None
        self._spans = await self.journal.pending_span_stats()
        while True:
            # The next reading may work. Until then the latest stands: ages go on, and no alert on them starts anew.
            with suppress(Exception):
                self._queue = await self.journal.queue()
            await asyncio.sleep(QUEUE_REFRESH_S)
