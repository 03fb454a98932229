"""From the journal's outbox to the endpoint: at least once, in a thread, never in the way of a run.

What is committed is offered to a bounded queue. What the queue does not hold (the process just started, the queue
was full, the endpoint is away, sampling kept a run late) is read from the journal; nothing is lost by dropping it from
memory. Only what the endpoint has taken, or refused for good, is reported as delivered.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from agentobs.telemetry.context import suppress_instrumentation
from agentobs.telemetry.delivery import QUICK, SLOW, Backoff, Delivery, Row
from agentobs.telemetry.otlp import Sender
from agentobs.telemetry.published import Delta, Published

BATCH_SPANS: Final = 512
MAX_ROWS: Final = 4096
READ_ROWS: Final = 256
READ_RETRY_S: Final = 1.0


class TraceOutbox:
    """The outbox of one process; `offer` is a subscriber of the journal: subscribe before `start`.

    It is given callables, all of them called in its thread:

    - `read(after, limit)`: rows of the journal's outbox with an id above `after`, oldest first; may block.
    - `measure()`: how many spans are pending in the journal and since when (ns); once, at start; may block.
    - `delivered(rows, deltas)`: take rows off the outbox and count; need not wait (`call_soon_threadsafe`).
    """

    def __init__(
        self,
        sender: Sender,
        *,
        read: Callable[[int, int], Sequence[Row]],
        measure: Callable[[], tuple[int, int | None]],
        delivered: Callable[[Sequence[int], Sequence[Delta]], object],
        batch: int = BATCH_SPANS,
        max_rows: int = MAX_ROWS,
        gather_s: float = 1.0,
        quick: Backoff = QUICK,
        slow: Backoff = SLOW,
    ) -> None:
        self._sender = sender
        self._read = read
        self._measure = measure
        self._delivered = delivered
        self._batch = batch
        self._max_rows = max_rows
        self._gather_s = gather_s
        self._closing = threading.Event()
        self._delivery = Delivery(
            sender,
            closing=self._closing,
            report=self._report,
            on_trouble=self._let_go,
            batch=batch,
            quick=quick,
            slow=slow,
        )
        self._thread = threading.Thread(target=self._work, name="agentobs-traces", daemon=True)
        # The thread's own:
        self._cursor = 0  # the highest row that was taken in hand
        self._catching_up = False  # reading the journal until it meets the queue
        # Guarded by the condition's lock:
        self._changed = threading.Condition()
        self._queue: deque[Row] = deque()  # rows without a gap, the newest ones unless `behind`
        self._queued = 0  # spans in the queue
        self._behind = True  # the journal holds rows after those in the queue; what is offered is not kept
        self._rescan = False
        self._hungry = False  # the thread waits for something to do
        self._pending = 0
        self._sizes: dict[int, int] = {}  # rows in hand: how many spans they have
        self._oldest_in_hand: int | None = None
        self._oldest_dropped: int | None = None
        self._ended = False
        self._abandoned = False
        self._on_end: Callable[[], object] | None = None

    def start(self) -> None:
        self._thread.start()

    def offer(self, batch: Sequence[Published]) -> None:
        """Take note of what was committed: on the event loop, an append under a lock."""
        owing = [(unit.owed, unit.changes) for unit in batch if unit.owed is not None]
        if not owing:
            return
        with self._changed:
            for row in owing:
                owed = row[0]
                self._pending += len(owed.spans)
                # The records of what was recalled are not at hand.
                if not self._behind and not owed.recalled and len(self._queue) < self._max_rows:
                    self._queue.append(row)
                    self._queued += len(owed.spans)
                else:
                    self._behind = True
                    self._oldest_dropped = self._oldest_dropped or owed.at
            if self._hungry or self._queued >= self._batch:
                self._changed.notify()

    def rescan(self) -> None:
        """Read the journal's outbox again from its beginning: rows were added that were not offered (a backfill)."""
        with self._changed:
            self._behind = self._rescan = True
            self._changed.notify()

    def stats(self) -> tuple[int, int | None]:
        """How many spans are pending, and when the oldest of them was committed (ns)."""
        with self._changed:
            queued = self._queue[0][0].at if self._queue else None
            known = [at for at in (self._oldest_in_hand, queued, self._oldest_dropped) if at is not None]
            return max(self._pending, 0), min(known, default=None)

    async def close(self, deadline_s: float) -> int:
        """Deliver what is queued, within the deadline; how many spans are left for the next start.

        An endpoint that fails now is not waited for: the spans are safe in the journal.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        with self._changed:
            if self._ended or not self._thread.is_alive():
                ended.set()
            self._on_end = lambda: loop.call_soon_threadsafe(ended.set)
            self._closing.set()
            self._changed.notify()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await ended.wait()
        with self._changed:
            self._abandoned = True  # nothing is reported from here on: the journal may close
            return max(self._pending, 0)

    # ---- the thread ----

    def _work(self) -> None:
        with suppress_instrumentation():
            try:
                self._count_what_is_there()
                while rows := self._next():
                    undone = self._delivery.deliver(rows)
                    if undone is not None:
                        if self._closing.is_set():
                            break
                        self._cursor = undone - 1
                        self._let_go()
            finally:
                self._sender.close()
                with self._changed:
                    self._ended = True
                    if self._on_end is not None:
                        with suppress(RuntimeError):  # the loop is closed
                            self._on_end()

    def _count_what_is_there(self) -> None:
        with self._changed:
            offered = self._pending
        try:
            count, oldest = self._measure()
        except Exception:  # noqa: BLE001 -- the gauges then begin at 0, and are right once all is delivered
            return
        with self._changed:
            self._pending += count - offered
            self._oldest_dropped = oldest

    def _next(self) -> Sequence[Row]:
        """Rows to deliver; waits for them. Empty when closing and nothing is left."""
        while True:
            with self._changed:
                self._oldest_in_hand = None
                if not self._catching_up and not self._await_rows():
                    return ()
                if not self._catching_up:
                    if rows := self._from_queue():
                        return rows
                    continue
            try:
                rows = self._read(self._cursor, READ_ROWS)
            except Exception:  # noqa: BLE001 -- the journal cannot be read now
                if self._closing.wait(READ_RETRY_S):
                    return ()
                continue
            with self._changed:
                self._take(rows)
                if not rows or (self._queue and self._queue[0][0].id <= self._cursor + 1):
                    self._catching_up = False
                    self._oldest_dropped = None
            if rows:
                return rows

    def _await_rows(self) -> bool:
        """Wait until the queue holds rows or the journal is to be read. False when closing and nothing is left."""
        if not self._queue and not self._behind:
            self._pending = 0
            self._sizes.clear()
            self._hungry = True
            self._changed.wait_for(lambda: self._queue or self._behind or self._closing.is_set())
            self._hungry = False
        if self._queue:
            self._changed.wait_for(lambda: self._queued >= self._batch or self._closing.is_set(), self._gather_s)
        elif self._behind:
            self._catching_up, self._behind = True, False  # from here on the queue is kept again
            if self._rescan:
                self._cursor, self._rescan = 0, False
        else:
            return False
        return True

    def _from_queue(self) -> Sequence[Row]:
        rows: list[Row] = []
        count = 0
        while self._queue and count < self._batch:
            row = self._queue.popleft()
            self._queued -= len(row[0].spans)
            if row[0].id > self._cursor:  # else it was read from the journal
                rows.append(row)
                count += len(row[0].spans)
        self._take(rows)
        return rows

    def _take(self, rows: Sequence[Row]) -> None:
        for owed, _ in rows:
            self._sizes[owed.id] = len(owed.spans)
        if rows:
            self._cursor = rows[-1][0].id
            self._oldest_in_hand = rows[0][0].at

    def _let_go(self) -> None:
        """The endpoint is away: hold no more in memory than the batch in hand; the journal has it all."""
        with self._changed:
            if self._queue:
                self._oldest_dropped = self._oldest_dropped or self._queue[0][0].at
                self._queue.clear()
                self._queued = 0
            self._behind = True

    def _report(self, rows: Sequence[int], deltas: Sequence[Delta]) -> None:
        with self._changed:
            if self._abandoned:
                return
            self._pending -= sum(self._sizes.pop(row, 0) for row in rows)
        with suppress(Exception):  # nobody to tell: the rows stay pending and go again
            self._delivered(rows, deltas)
