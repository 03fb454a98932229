"""The one writer thread: group commit, a savepoint for each unit, and patience when the disk is full.

Jobs are queued from the event loop and run in order. When the writer is idle a job is committed at once; while
it is busy, jobs gather for at most `GATHER_S`, so that under load one fsync serves many. A job that fails (a
fence, a constraint, an encoding) is rolled back alone. When the database itself refuses (full, read-only, gone)
the batch stays in memory, `trouble` says why, and the commit is tried again until it succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from agentobs.errors import AgentobsError, JournalError, JournalUnavailable
from agentobs.journal.protocol import NOT_REQUESTED, Delta, Deltas, Labels, Owed, Published, Subscriber
from agentobs.journal.rows import CARRY, owed_spans, spans_to_text
from agentobs.journal.sampling import Judged, Sampler, Sampling
from agentobs.records import Change

T = TypeVar("T")

GATHER_S: Final = 0.002
RETRY_S: Final = 0.5  # between commits that the database refused
_log = logging.getLogger(__name__)

# The database, not the unit, is at fault: primary result codes (https://www.sqlite.org/rescode.html).
_DATABASE_FAULTS: Final = {
    sqlite3.SQLITE_BUSY: "another process holds a lock on the database",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_NOMEM: "SQLite is out of memory",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "the database's locks do not work",
    sqlite3.SQLITE_PERM: "the database file may not be accessed",
    sqlite3.SQLITE_NOTADB: "the file is no longer a database",
}


def database_fault(error: BaseException) -> str | None:
    """What is wrong with the database itself, or None when only the unit is."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _DATABASE_FAULTS.get(code & 0xFF)


@dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """One unit. `apply` runs in the writer thread inside a savepoint, possibly again after a failed batch."""

    apply: Callable[[sqlite3.Connection], tuple[T, Sequence[Change], Sequence[Delta]]]
    run_id: str
    future: asyncio.Future[T]
    committed: threading.Event | None = None  # set in the writer thread, for who cannot wait on the event loop


@dataclass(frozen=True)
class _Done:
    job: Job[Any]
    result: Any
    published: Published | None
    error: BaseException | None = None


class _Refused(Exception):
    """The transaction no longer stands after a unit's error: the batch has to be done again without it."""


class Writer:
    """Owns the read-write connection. Public methods are for the event loop's thread, `put` for any."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        sql: Any,
        worker: str,
        deltas: Deltas,
        requested: bool,
        sampling: Sampling,
        observe_commit: Callable[[float], None],
    ) -> None:
        self._connect = connect
        self._insert_owed: str = sql.owe.sql
        self._add_total: str = sql.add_total.sql
        self._last_owed: str = sql.last_owed.sql
        self._unfinished_withheld: str = sql.unfinished_withheld.sql
        self._worker = worker
        self._deltas = deltas
        self._requested = requested
        self._sampling = sampling
        self._sampler: Sampler | None = None  # None: every run's trace is exported
        self._sql = sql
        self._observe_commit = observe_commit
        self._subscribers: list[Subscriber] = []
        self._queue: deque[Job[Any]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._give_up_at = math.inf
        self._owed_id = 0
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="agentobs-journal", daemon=True)
        self.trouble: str | None = None
        self.errors = 0

    def start(self) -> None:
        self._thread.start()

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def put(
        self,
        apply: Callable[[sqlite3.Connection], tuple[T, Sequence[Change], Sequence[Delta]]],
        run_id: str = "",
        committed: threading.Event | None = None,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        with self._wake:
            if self._closing:
                future.set_exception(JournalUnavailable("the journal is closed"))
                return future
            self._queue.append(Job(apply, run_id, future, committed))
            self._wake.notify()
        return future

    async def close(self, timeout_s: float) -> None:
        """Commit what is queued, then stop. What a refused commit still holds after `timeout_s` is given up."""
        with self._wake:
            self._closing = True
            self._give_up_at = time.monotonic() + timeout_s
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_s + RETRY_S)

    # ---- the writer thread ----

    def _run(self) -> None:
        batch: list[Job[Any]] = []
        try:
            db = self._connect()
            self._owed_id = db.execute(self._last_owed).fetchone()[0]
            if self._sampling.share < 1 or db.execute(self._unfinished_withheld).fetchone():
                self._sampler = Sampler(self._sql, self._sampling)
            while batch := self._next_batch():
                self._deliver(self._commit(db, batch))
            db.close()
        except BaseException as error:  # noqa: BLE001 -- nobody must wait for a thread that is gone
            self._die(batch, error)

    def _die(self, batch: list[Job[Any]], error: BaseException) -> None:
        """Something that cannot happen did: refuse everything from here on, and let `readyz` say so."""
        self.errors += 1
        self.trouble = f"the journal's writer has stopped ({type(error).__name__}); restart this process"
        _log.error("journal.paused")
        with self._wake:
            self._closing = True
            left = [*batch, *self._queue]
            self._queue.clear()
        self._deliver([_Done(job, None, None, JournalUnavailable(self.trouble)) for job in left])

    def _next_batch(self) -> list[Job[Any]]:
        if self._queue and not self._closing:  # busy: jobs came while the last batch was committed
            time.sleep(GATHER_S)  # not waiting on the condition: each put would wake this thread
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            batch = list(self._queue)
            self._queue.clear()
            return batch

    def _commit(self, db: sqlite3.Connection, jobs: list[Job[Any]]) -> list[_Done]:
        """Commit the batch, however long it takes; says what became of each job."""
        refused: list[_Done] = []
        while True:
            first_owed_id = self._owed_id
            started = time.perf_counter()
            try:
                db.execute("BEGIN IMMEDIATE")
                done = self._apply_all(db, jobs, refused)
                db.execute("COMMIT")
            except _Refused:
                self._owed_id = first_owed_id
                jobs = [job for job in jobs if all(job is not one.job for one in refused)]
                continue
            except sqlite3.Error as error:
                self._owed_id = first_owed_id
                self._give_up_transaction(db)
                if not self._pause(database_fault(error) or f"SQLite says {type(error).__name__}"):
                    lost = JournalUnavailable(f"closed before this could be committed: {self.trouble}")
                    return refused + [_Done(job, None, None, lost) for job in jobs]
                continue
            if self.trouble is not None:
                self.trouble = None
                _log.warning("journal.resumed")
            with contextlib.suppress(Exception):  # telemetry never fails a run
                self._observe_commit(time.perf_counter() - started)
            return refused + done

    def _apply_all(self, db: sqlite3.Connection, jobs: list[Job[Any]], refused: list[_Done]) -> list[_Done]:
        done: list[_Done] = []
        sums: dict[tuple[str, Labels], int] = {}
        not_requested = 0
        for job in jobs:
            db.execute("SAVEPOINT unit")
            try:
                result, changes, extra = job.apply(db)
                deltas = [*extra, *(delta for change in changes for delta in self._deltas(change))]
                owed, traced = self._owe(db, job.run_id, changes) if changes and self._requested else (None, True)
            except Exception as error:
                if isinstance(error, sqlite3.Error) and database_fault(error):
                    raise
                if not isinstance(error, AgentobsError):
                    self.errors += 1
                failed = _Done(job, None, None, _as_journal_error(error))
                if not db.in_transaction:  # SQLite rolled the whole transaction back
                    refused.append(failed)
                    raise _Refused from error
                db.execute("ROLLBACK TO unit")
                db.execute("RELEASE unit")
                done.append(failed)
                continue
            db.execute("RELEASE unit")
            not_requested += 0 if self._requested else len(owed_spans(changes))
            for metric, labels, value in deltas:
                sums[metric, labels] = sums.get((metric, labels), 0) + value
            published = Published(tuple(changes), tuple(deltas), owed, traced) if changes or deltas else None
            done.append(_Done(job, result, published))
        for (metric, labels), value in sums.items():
            self._add(db, self._worker, metric, labels, value)
        if not_requested:
            self._add(db, "", NOT_REQUESTED, (), not_requested)
        return done

    def _add(self, db: sqlite3.Connection, worker: str, metric: str, labels: Labels, value: int) -> None:
        carry, rest = divmod(value, CARRY)
        row = {"worker": worker, "metric": metric, "labels": json.dumps(labels), "carry": carry, "value": rest}
        db.execute(self._add_total, row)

    def _owe(self, db: sqlite3.Connection, run_id: str, changes: Sequence[Change]) -> tuple[Owed | None, bool]:
        sampler = self._sampler
        refs, traced, recalled = sampler.judge(db, run_id, changes) if sampler else Judged(owed_spans(changes))
        if not refs:
            return None, traced
        owed = Owed(self._owed_id + 1, time.time_ns(), refs, recalled)
        db.execute(self._insert_owed, {"id": owed.id, "at": owed.at, "run_id": run_id, "spans": spans_to_text(refs)})
        self._owed_id = owed.id
        return owed, traced

    def _give_up_transaction(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:
            try:
                db.execute("ROLLBACK")
            except sqlite3.Error:
                _log.warning("journal.rollback_failed")

    def _pause(self, reason: str) -> bool:
        """Wait before the next try; False when closing has taken too long."""
        self.errors += 1
        if self.trouble != reason:
            self.trouble = reason
            _log.warning("journal.paused", extra={"reason": reason})
        was_closing = self._closing
        with self._wake:
            if was_closing:
                self._wake.wait(RETRY_S)
            else:
                self._wake.wait_for(lambda: self._closing, RETRY_S)
        return time.monotonic() < self._give_up_at

    def _deliver(self, done: list[_Done]) -> None:
        for one in done:
            if one.job.committed is not None and one.error is None:
                one.job.committed.set()
        try:
            self._loop.call_soon_threadsafe(self._publish, done)
        except RuntimeError:  # the loop has ended; what was committed stands
            _log.debug("journal: nobody left to tell")

    # ---- the event loop ----

    def _publish(self, done: list[_Done]) -> None:
        batch = [one.published for one in done if one.published is not None]
        if batch:
            for subscriber in self._subscribers:
                try:
                    subscriber(batch)
                except Exception as error:  # noqa: BLE001 -- a projection never fails a run
                    _log.warning("journal.subscriber_failed", extra={"error_class": type(error).__name__})
        for one in done:
            if one.job.future.cancelled():
                continue
            if one.error is None:
                one.job.future.set_result(one.result)
            else:
                one.job.future.set_exception(one.error)


def _as_journal_error(error: BaseException) -> AgentobsError:
    if isinstance(error, AgentobsError):
        return error
    # Only the class: the text of an encoding or constraint error can quote what was to be stored.
    return JournalError(f"a unit could not be written ({type(error).__name__}); its run must end")
