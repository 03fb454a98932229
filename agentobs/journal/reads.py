"""Reading a SQLite journal: short read-only transactions in a few threads of their own."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from agentobs.journal.events import EMPTY, PREVIEWED, events_between
from agentobs.journal.protocol import EVENTS, Events, Labels, Owed, QueueState, RunDetail, RunQuery
from agentobs.journal.rows import CARRY, R, owed_from_row, record
from agentobs.records import CLOSED, SETTLED, Attempt, Change, Execution, Note, Record, Run, Step

T = TypeVar("T")

THREADS: Final = 2
_RUNS: Final = (
    "SELECT *, (SELECT workflow_version FROM executions WHERE run_id = id AND number = 1) AS workflow_version, "
    "(SELECT source FROM forks WHERE run_id = id) AS forked_from, "
    "(SELECT step FROM forks WHERE run_id = id) AS forked_step FROM runs"
)
_IDS: Final = "SELECT id FROM runs"


class SqliteReader:
    """The `Reader` of a SQLite file; `connect` opens a read-only connection."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], sql: Any) -> None:
        self._connect = connect
        self._sql = sql
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="agentobs-read")

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._in_transaction, query)

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._open:
            connection.close()
        self._open.clear()

    async def run(self, run_id: str) -> Run | None:
        return await self.read(lambda db: _first(self._records(db, Run, self._sql.run_by_id.sql, {"id": run_id})))

    async def detail(self, run_id: str, *, content: bool = True) -> RunDetail | None:
        return await self.read(lambda db: _first(self._details(db, "WHERE id = :id", {"id": run_id}, content=content)))

    async def details(self, query: RunQuery) -> Sequence[RunDetail]:
        where, params = _filter(query)
        return await self.read(lambda db: self._details(db, where, params, content=False))

    async def ids(self, query: RunQuery) -> Sequence[str]:
        where, params = _filter(query)
        return await self.read(lambda db: [row[0] for row in db.execute(f"{_IDS} {where}", params)])

    async def events(self, run_id: str, after: int, *, limit: int = EVENTS) -> Events | None:
        return await self.read(lambda db: self._events(db, run_id, after, limit))

    async def queue(self) -> Sequence[QueueState]:
        return await self.read(lambda db: [QueueState(*row) for row in db.execute(self._sql.queue_state.sql)])

    async def totals(self, worker: str) -> Mapping[tuple[str, Labels], int]:
        rows = await self.read(lambda db: db.execute(self._sql.totals_of.sql, {"worker": worker}).fetchall())
        return {(metric, tuple(json.loads(labels))): carry * CARRY + value for metric, labels, carry, value in rows}

    async def drift(self) -> Mapping[str, int]:
        """Of each kind of difference, how many the latest audit found that looked for it; empty before the first."""
        return await self.read(lambda db: dict(db.execute(self._sql.latest_drift.sql).fetchall()))

    async def claimable(self, workflows: Sequence[str], limit: int, after: str, owner: str) -> Sequence[str]:
        params = {"workflows": json.dumps(list(workflows)), "limit": limit, "after": after, "owner": owner}
        return await self.read(lambda db: [row[0] for row in db.execute(self._sql.claimable.sql, params)])

    async def pending_spans(self, after: int, limit: int) -> Sequence[tuple[Owed, tuple[Change, ...]]]:
        return await self.read(lambda db: self._pending(db, after, limit))

    async def pending_span_stats(self) -> tuple[int, int | None]:
        row = await self.read(lambda db: db.execute(self._sql.owed_stats.sql).fetchone())
        return row[0], row[1]

    # ---- in a reader thread ----

    def _in_transaction(self, query: Callable[[sqlite3.Connection], T]) -> T:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            self._open.append(db)
        db.execute("BEGIN")
        try:
            return query(db)
        finally:
            db.execute("COMMIT")

    def _records(
        self,
        db: sqlite3.Connection,
        kind: type[R],
        sql: str,
        params: Mapping[str, object],
        *,
        instead: Mapping[type, Mapping[str, str]] | None = None,
    ) -> list[R]:
        """`instead`: expressions that are read in place of columns."""
        if instead is not None:  # the columns are named by the table itself, so that new ones are not forgotten
            star = "*" if kind is Run else f"{kind.__name__[0].lower()}.*"
            sql = sql.replace(star, self._columns(db, kind, instead.get(kind, {})), 1)
        cursor = db.execute(sql, params)
        names = [column[0] for column in cursor.description]
        return [record(kind, names, row) for row in cursor]

    def _details(
        self, db: sqlite3.Connection, where: str, params: Mapping[str, object], *, content: bool
    ) -> list[RunDetail]:
        details = []
        instead = None if content else EMPTY
        for run in self._records(db, Run, f"{_RUNS} {where}", params, instead=instead):
            key = {"run_id": run.id}
            details.append(
                RunDetail(
                    run=run,
                    executions=tuple(self._records(db, Execution, self._sql.executions_of.sql, key)),
                    steps=tuple(self._records(db, Step, self._sql.steps_of.sql, key, instead=instead)),
                    attempts=tuple(self._records(db, Attempt, self._sql.attempts_of.sql, key, instead=instead)),
                    notes=tuple(self._records(db, Note, self._sql.notes_of.sql, key)) if content else (),
                    forks=tuple(row[0] for row in db.execute(self._sql.forks_of.sql, key)) if content else (),
                )
            )
        return details

    def _columns(self, db: sqlite3.Connection, kind: type[R], instead: Mapping[str, str]) -> str:
        alias = "" if kind is Run else f"{kind.__name__[0].lower()}."
        known: dict[type, list[str]] | None = getattr(self._local, "columns", None)
        if known is None:
            known = self._local.columns = {}
        if kind not in known:
            known[kind] = [row[1] for row in db.execute(f"PRAGMA table_info({kind.__name__.lower()}s)")]
        return ", ".join(
            f"{instead[name].format(alias + name)} AS {name}" if name in instead else f"{alias}{name}"
            for name in known[kind]
        )

    def _events(self, db: sqlite3.Connection, run_id: str, after: int, limit: int) -> Events | None:
        run = _first(self._records(db, Run, self._sql.run_by_id.sql, {"id": run_id}, instead=EMPTY))
        if run is None:
            return None
        key = {"run_id": run_id}
        last: int = db.execute(self._sql.last_seq.sql, key).fetchone()[0]
        over = run.ended_at is not None
        until = db.execute(self._sql.events_until.sql, {**key, "after": after, "limit": limit}).fetchone()[0]
        if until is None:
            return Events(over=over, last_seq=last)
        part = {**key, "after": after, "until": until}
        items = events_between(
            after,
            until,
            run=run,
            executions=self._records(db, Execution, self._sql.executions_of.sql, key),
            steps=self._records(db, Step, self._sql.steps_between.sql, part, instead=PREVIEWED),
            attempts=self._records(db, Attempt, self._sql.attempts_between.sql, part, instead=EMPTY),
            notes=self._records(db, Note, self._sql.notes_of.sql, key),
            detail=lambda: self._details(db, "WHERE id = :id", {"id": run_id}, content=False)[0],
        )
        return Events(items=items, over=over and until >= (run.end_seq or 0), last_seq=last)

    def _pending(self, db: sqlite3.Connection, after: int, limit: int) -> list[tuple[Owed, tuple[Change, ...]]]:
        rows = db.execute(self._sql.owed_after.sql, {"after": after, "limit": limit}).fetchall()
        found = [owed_from_row(dict(zip(("id", "at", "run_id", "spans"), row, strict=True))) for row in rows]
        details: dict[str, RunDetail] = {}
        pending = []
        for owed in found:
            run_id = owed.spans[0].run_id
            if run_id not in details:
                loaded = self._details(db, "WHERE id = :id", {"id": run_id}, content=False)
                if not loaded:
                    continue
                details[run_id] = loaded[0]
            pending.append((owed, _changes(owed, details[run_id])))
        return pending


def _changes(owed: Owed, detail: RunDetail) -> tuple[Change, ...]:
    """The changes behind an outbox row, made again from the columns."""
    executions = {found.number: found for found in detail.executions}
    steps = {found.number: found for found in detail.steps}
    attempts = {(found.step, found.turn, found.number): found for found in detail.attempts}
    whole = {ref[2:] for ref in owed.spans if ref.kind == "attempt"}
    changes: list[Change] = []
    for ref in owed.spans:
        found: Record | None = None
        match ref.kind:
            case "run":
                found = detail.run
            case "execution":
                found = executions.get(ref.number)
            case "step":
                found = steps.get(ref.number)
            case "attempt":
                found = attempts.get(ref[2:])
            case "turn" if ref[2:] not in whole:  # else the attempt's own change stands for both
                found = attempts.get(ref[2:])
        if found is not None:
            changes.append(Change(SETTLED if ref.kind == "turn" else CLOSED, found))
    return tuple(changes)


def _filter(query: RunQuery) -> tuple[str, dict[str, object]]:
    """WHERE … ORDER … LIMIT of fixed pieces; everything the caller gave is a parameter.

    Run ids are UUIDv7: their order is the order of creation, and a time is a bound on them.
    """
    pieces = {
        # Of several statuses, those of few runs are asked for: "+" keeps SQLite from walking all of the workflow's.
        "workflow": ("+workflow = :workflow" if query.statuses else "workflow = :workflow", query.workflow),
        "status": ("status = :status", query.status),
        "statuses": (
            "status IN (SELECT value FROM json_each(:statuses))",
            json.dumps(query.statuses) if query.statuses else None,
        ),
        "error_type": ("error_type = :error_type", query.error_type),
        "before": ("id < :before", query.before),
        "since": ("id >= :since", None if query.since_ms is None else _bound(query.since_ms)),
        "until": ("id < :until", None if query.until_ms is None else _bound(query.until_ms)),
        "tag": (
            "id IN (SELECT run_id FROM run_tags WHERE key = :tag_key AND value = :tag)",
            None if query.tag is None else query.tag[1],
        ),
    }
    chosen = {name: piece for name, piece in pieces.items() if piece[1] is not None}
    params: dict[str, object] = {name: piece[1] for name, piece in chosen.items()} | {"limit": query.limit}
    if query.tag is not None:
        params["tag_key"] = query.tag[0]
    where = " AND ".join(piece[0] for piece in chosen.values())
    return f"{'WHERE ' + where if where else ''} ORDER BY id DESC LIMIT :limit", params


def _bound(unix_ms: int) -> str:
    digits = f"{max(unix_ms, 0):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _first(found: Sequence[T]) -> T | None:
    return found[0] if found else None
