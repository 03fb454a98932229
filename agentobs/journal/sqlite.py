"""The journal on a SQLite file: one owner, one writer thread, readers beside it (WAL)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiosql

from agentobs.drift import Audit
from agentobs.errors import JournalUnavailable
from agentobs.journal import migrate
from agentobs.journal.ownership import LockFile
from agentobs.journal.protocol import Claim, Delta, Deltas, Fence, Submitted, Subscriber
from agentobs.journal.reads import SqliteReader
from agentobs.journal.sampling import EVERY_RUN, Sampling
from agentobs.journal.units import Units
from agentobs.journal.writer import Writer
from agentobs.records import Change, Run

SQL: Final[Any] = aiosql.from_path(Path(__file__).parent / "sql" / "sqlite.sql", "sqlite3", mandatory_parameters=False)

# FULL: a commit has reached the disk before anyone is told of it (invariant 1).
_WRITER_PRAGMAS: Final = ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 2000", "temp_store = MEMORY")


def open_reader(path: Path) -> SqliteReader:
    """Read a journal that some other process may own. Raises as `migrate.check` does, and for a missing file."""
    return SqliteReader(read_only(path), SQL)


def read_only(path: Path) -> Callable[[], sqlite3.Connection]:
    """What opens the journal for reading; raises as `open_reader` does."""
    if not path.exists():
        raise JournalUnavailable(
            f"there is no journal at {path}; start 'agentobs serve' or name it in AGENTOBS_DATABASE_URL"
        )
    migrate.check(path)
    return partial(_connect, path, "ro")


class SqliteJournal:
    """See `protocol.Journal`. Made by `open_journal`, closed by `close`."""

    def __init__(self, path: Path, lock: LockFile, writer: Writer, *, wall_ns: Callable[[], int], owner: str) -> None:
        self.path = path
        self.owner = owner
        self._lock = lock
        self._writer = writer
        self._units = Units(SQL, owner)
        self._wall_ns = wall_ns
        self._reader = SqliteReader(partial(_connect, path, "ro"), SQL)
        # reading is the reader's
        self.run = self._reader.run
        self.detail = self._reader.detail
        self.details = self._reader.details
        self.ids = self._reader.ids
        self.events = self._reader.events
        self.queue = self._reader.queue
        self.totals = self._reader.totals
        self.drift = self._reader.drift
        self.pending_spans = self._reader.pending_spans
        self.pending_span_stats = self._reader.pending_span_stats

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble

    @property
    def errors(self) -> int:
        """Failed commits and units since the start of this process."""
        return self._writer.errors

    def size_bytes(self) -> int:
        """Of the database and its write-ahead log."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def subscribe(self, subscriber: Subscriber) -> None:
        self._writer.subscribe(subscriber)

    def commit(self, fence: Fence, changes: Sequence[Change]) -> asyncio.Future[None]:
        unit = tuple(changes)

        def apply(db: sqlite3.Connection) -> tuple[None, Sequence[Change], Sequence[Delta]]:
            self._units.apply(db, fence, unit)
            return None, unit, ()

        return self._writer.put(apply, fence.run_id)

    async def submit(self, run: Run, *, max_queued: int) -> Submitted:
        def apply(db: sqlite3.Connection) -> tuple[Submitted, Sequence[Change], Sequence[Delta]]:
            submitted, changes = self._units.submit(db, run, max_queued)
            return submitted, changes, ()

        return await self._writer.put(apply, run.id)

    async def claimable(self, workflows: Sequence[str], limit: int, after: str = "") -> Sequence[str]:
        return await self._reader.claimable(workflows, limit, after, self.owner)

    def claim(
        self,
        run_id: str,
        *,
        worker: str,
        version: str,
        max_recoveries: int,
        workflow_versions: Mapping[str, str | None] = {},
    ) -> asyncio.Future[Claim | None]:
        def apply(db: sqlite3.Connection) -> tuple[Claim | None, Sequence[Change], Sequence[Delta]]:
            claim, changes = self._units.claim(
                db,
                run_id,
                worker=worker,
                version=version,
                max_recoveries=max_recoveries,
                workflow_versions=workflow_versions,
                now=self._wall_ns(),
            )
            return claim, changes, ()

        return self._writer.put(apply, run_id)

    async def request_cancel(self, run_id: str) -> Run:
        def apply(db: sqlite3.Connection) -> tuple[Run, Sequence[Change], Sequence[Delta]]:
            run, changes = self._units.cancel(db, run_id, self._wall_ns())
            return run, changes, ()

        return await self._writer.put(apply, run_id)

    async def request_resume(self, run_id: str) -> Run:
        def apply(db: sqlite3.Connection) -> tuple[Run, Sequence[Change], Sequence[Delta]]:
            return self._units.resume(db, run_id), (), ()

        return await self._writer.put(apply, run_id)

    def blame(self, run_id: str, *, timeout_s: float) -> bool:
        def apply(db: sqlite3.Connection) -> tuple[None, Sequence[Change], Sequence[Delta]]:
            db.execute(SQL.pardon.sql, {"owner": self.owner, "guilty": run_id})
            return None, (), ()

        committed = threading.Event()
        self._writer.put(apply, committed=committed)
        return committed.wait(timeout_s)

    def delivered(self, rows: Sequence[int], deltas: Sequence[Delta]) -> asyncio.Future[None]:
        gone, counted = [{"id": row} for row in rows], tuple(deltas)

        def apply(db: sqlite3.Connection) -> tuple[None, Sequence[Change], Sequence[Delta]]:
            db.executemany(SQL.delivered.sql, gone)
            return None, (), counted

        return self._writer.put(apply)

    async def record_audit(self, audit: Audit) -> int:
        """Its number among the audits."""
        told = dataclasses.asdict(audit)
        row = {name: value if isinstance(value, int) else json.dumps(value) for name, value in told.items()}

        def apply(db: sqlite3.Connection) -> tuple[int, Sequence[Change], Sequence[Delta]]:
            return db.execute(SQL.insert_audit.sql, row).lastrowid or 0, (), ()

        return await self._writer.put(apply)

    async def close(self, timeout_s: float = 10.0) -> None:
        await self._reader.close()  # first: the last connection to close takes the write-ahead log in
        await self._writer.close(timeout_s)
        self._lock.release()


async def open_journal(
    path: Path,
    *,
    worker: str,
    deltas: Deltas = lambda _: (),
    export_requested: bool = False,
    sampling: Sampling = EVERY_RUN,
    observe_commit: Callable[[float], None] = lambda _: None,
    wall_ns: Callable[[], int] = time.time_ns,
) -> SqliteJournal:
    """Own the journal at `path`, made anew (mode 0600) where there is none.

    Raises `JournalLocked`, `SchemaMismatch` (an older schema is not migrated unasked), `JournalUnavailable`.
    """
    owner = str(uuid.uuid4())
    path = _real(path)
    lock = LockFile(path)
    lock.acquire(worker)
    try:
        await asyncio.to_thread(_prepare, path)
        writer = Writer(
            partial(_connect_writer, path),
            sql=SQL,
            worker=worker,
            deltas=deltas,
            requested=export_requested,
            sampling=sampling,
            observe_commit=observe_commit,
        )
    except BaseException:
        lock.release()
        raise
    writer.start()
    return SqliteJournal(path, lock, writer, wall_ns=wall_ns, owner=owner)


def _real(path: Path) -> Path:
    """Where the file is: a journal reached through a link has the same one lock file."""
    return path.resolve()


def _prepare(path: Path) -> None:
    """Create or check the file, and try that it can be written, before anything depends on it."""
    try:
        if not path.exists() or not path.stat().st_size:
            _create(path)
        migrate.check(path)
        db = _connect_writer(path)
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute(SQL.add_total.sql, {"worker": "", "metric": "opened", "labels": "[]", "carry": 0, "value": 1})
            db.execute("COMMIT")
        finally:
            db.close()
    except (OSError, sqlite3.Error) as error:
        raise JournalUnavailable(
            f"{path} cannot be written ({error}); expected a file in a folder that this user may write to, on a disk "
            "with room. Mend that, or set AGENTOBS_DATABASE_URL to another place"
        ) from error


def _create(path: Path) -> None:
    """Make the file beside its place and move it there whole: a first start can be killed at any moment."""
    made = path.with_name(path.name + ".new")
    for left in (made, made.with_name(made.name + "-journal")):
        left.unlink(missing_ok=True)
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        migrate.migrate_sqlite(made)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    made.replace(path)


def _connect_writer(path: Path) -> sqlite3.Connection:
    db = _connect(path, "rw")
    for pragma in _WRITER_PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # isolation_level=None: transactions are ours; check_same_thread: a closing service closes its readers' too.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
