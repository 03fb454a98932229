"""What a unit does to the database: applying changes, taking a run over, submitting, cancelling.

Plain functions of a connection, called in the writer thread inside a savepoint. Each may run again when its batch
has to be redone, so nothing here remembers anything.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentobs.errors import Conflict, NotFound, QueueFull, StaleOwner
from agentobs.journal.events import end_note
from agentobs.journal.protocol import Claim, Fence, History, Submitted
from agentobs.journal.rows import R, parameters, record, storable
from agentobs.records import (
    CANCELLED,
    CLOSED,
    FAILED,
    INTERRUPTED,
    NOTED,
    OPENED,
    QUEUED,
    RECOVERED,
    RESUMED,
    RUNNING,
    SETTLED,
    SUCCEEDED,
    TERMINAL,
    UNKNOWN,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
    changed,
)

_STATEMENTS: Final[dict[tuple[str, type], str]] = {
    (OPENED, Run): "insert_run",
    (NOTED, Run): "release_run",
    (CLOSED, Run): "close_run",
    (OPENED, Execution): "insert_execution",
    (CLOSED, Execution): "close_execution",
    (OPENED, Step): "insert_step",
    (CLOSED, Step): "close_step",
    (OPENED, Attempt): "insert_attempt",
    (NOTED, Attempt): "note_attempt",
    (CLOSED, Attempt): "close_attempt",
    (SETTLED, Attempt): "settle_attempt",
    (CLOSED, Note): "insert_note",
}

_COUNT_NS: Final = 10**9  # how long a count of the queue is good for
_FEW: Final = 10_000  # rows that are quickly counted


class Units:
    """The units, bound to the named SQL and to this process's identity."""

    def __init__(self, sql: Any, owner: str) -> None:
        self._sql = sql
        self._owner = owner
        self._text: dict[tuple[str, type], str] = {key: getattr(sql, name).sql for key, name in _STATEMENTS.items()}
        self._epoch_of: str = sql.epoch_of.sql
        self._queued = 0
        self._counted_at = 0

    def apply(self, db: sqlite3.Connection, fence: Fence, changes: Sequence[Change]) -> None:
        """Write `changes` if the fence stands. A close of what has ended is refused: the first end counts."""
        row = db.execute(self._epoch_of, {"run_id": fence.run_id}).fetchone()
        if row is None or row[0] != fence.epoch or row[1] != self._owner:
            raise StaleOwner(
                f"run {fence.run_id} stands at epoch {row and row[0]}, this owner's is {fence.epoch}: "
                "it was taken over, released or ended"
            )
        self.write(db, changes)

    def write(self, db: sqlite3.Connection, changes: Sequence[Change]) -> None:
        for verb, found in changes:
            statement = self._text[verb, type(found)]
            try:  # a record's fields are the statement's parameters; further fields are passed over
                written = db.execute(statement, vars(found)).rowcount
            except UnicodeEncodeError:
                written = db.execute(statement, parameters(found)).rowcount
            if verb == OPENED and isinstance(found, Step) and found.reused:
                db.execute(self._sql.insert_reused_step.sql, vars(found))
            if written != 1 and verb != NOTED:
                raise StaleOwner(f"a {type(found).__name__.lower()} of {_run_id(found)} had ended already")

    def submit(self, db: sqlite3.Connection, run: Run, max_queued: int) -> tuple[Submitted, list[Change]]:
        if run.idempotency_key is not None:
            known = self._one(db, Run, self._sql.run_by_idempotency_key, idempotency_key=run.idempotency_key)
            if known is not None:
                if known.request_hash != run.request_hash:
                    raise Conflict(
                        "this Idempotency-Key was used before with another body; use a new key for a new request"
                    )
                return Submitted(known, created=False), []
        queued = self._count_queued(db, max_queued, run.created_at)
        if queued >= max_queued:
            raise QueueFull(f"{queued} runs are queued and AGENTOBS_MAX_QUEUED_RUNS is {max_queued}; try again later")
        changes = [Change(OPENED, run)]
        self.write(db, changes)
        if run.forked_from is not None:
            db.execute(self._sql.insert_fork.sql, vars(run))
        for key, value in json.loads(run.tags).items():
            db.execute(self._sql.insert_tag.sql, {"key": storable(key), "value": storable(value), "run_id": run.id})
        return Submitted(run, created=True), changes

    def claim(
        self,
        db: sqlite3.Connection,
        run_id: str,
        *,
        worker: str,
        version: str,
        max_recoveries: int,
        workflow_versions: Mapping[str, str | None] = {},
        now: int,
    ) -> tuple[Claim | None, list[Change]]:
        """Takeover in one transaction. The lock file proves that any other owner on this file is dead."""
        run = self._one(db, Run, self._sql.run_by_id, id=run_id)
        if run is None or run.status not in {QUEUED, RUNNING} or run.owner == self._owner:
            return None, []
        changes: list[Change] = []
        executions: list[Execution] = []
        dead: Execution | None = None
        if run.epoch:
            executions = self._all(db, Execution, self._sql.executions_of, run_id=run_id)
            dead = executions[-1] if executions and executions[-1].ended_at is None else None
        if dead is not None:
            closing = self._interrupt(db, dead)
            self.write(db, closing)
            changes += closing
        reason = RECOVERED if dead is not None else run.next_reason
        number = len(executions) + 1
        workflow_version = workflow_versions.get(run.workflow)
        taken = changed(
            run,
            workflow_version=run.workflow_version if executions else workflow_version,
            epoch=run.epoch + 1,
            owner=self._owner,
            status=RUNNING,
            started_at=run.started_at or now,
            recoveries=run.recoveries + (dead is not None),
            resumed_from=number if reason == RESUMED else run.resumed_from,
            next_reason=RECOVERED,
        )
        if db.execute(self._sql.take_run.sql, {**vars(taken), "now": now}).rowcount != 1:
            raise StaleOwner(f"run {run_id} was taken by another owner")
        fresh = not run.epoch and run.end_seq is None  # not cancelled before it ever began, and then resumed
        seq = run.seq + 1 if fresh else self._next_seq(db, run_id, changes)
        ending = _ending(taken, max_recoveries, now, seq)
        if ending is not None:
            changes.append(Change(CLOSED, ending))
            self.write(db, changes[-1:])
            return None, changes
        execution = Execution(
            run_id=run_id,
            number=number,
            reason=reason,
            worker=worker,
            owner=self._owner,
            epoch=taken.epoch,
            version=version,
            workflow_version=workflow_version,
            started_at=now,
            seq=seq,
            workflow=run.workflow,
        )
        changes.append(Change(OPENED, execution))
        self.write(db, changes[-1:])
        history = self._history(db, taken, executions, dead, changes) if executions else History()
        if run.forked_from is not None:
            history = dataclasses.replace(history, source=self._source(db, run))
        claim = Claim(
            run=taken,
            execution=execution,
            history=history,
            next_step=history.steps[-1].number + 1 if history.steps else 1,
            next_seq=seq + 1,
        )
        return claim, changes

    def cancel(self, db: sqlite3.Connection, run_id: str, now: int) -> tuple[Run, list[Change]]:
        run = self._existing(db, run_id)
        if run.status in TERMINAL:
            if run.status == CANCELLED:
                return run, []
            raise Conflict(f"run {run_id} has {run.status} already and cannot be cancelled")
        db.execute(self._sql.ask_cancel.sql, {"id": run_id, "now": now})
        run = self._existing(db, run_id)
        if run.owner == self._owner:
            return run, []
        if run.status == RUNNING:  # its owner is dead: the takeover sees the wish, and ends it
            _, changes = self.claim(db, run_id, worker="", version=run.version, max_recoveries=0, now=now)
            return self._existing(db, run_id), changes
        ended = _end(run, CANCELLED, "cancelled", "cancelled while it was queued", now, self._next_seq(db, run_id, []))
        self.write(db, changes := [Change(CLOSED, ended)])
        return ended, changes

    def resume(self, db: sqlite3.Connection, run_id: str) -> Run:
        run = self._existing(db, run_id)
        if db.execute(self._sql.requeue_run.sql, {"id": run_id}).rowcount != 1:
            verb = "has" if run.status == SUCCEEDED else "is"
            raise Conflict(f"run {run_id} {verb} {run.status}; only a failed or cancelled run can be resumed")
        executions = self._all(db, Execution, self._sql.executions_of, run_id=run_id)
        self.write(db, [Change(CLOSED, end_note(run, len(executions)))])
        return self._existing(db, run_id)

    def _count_queued(self, db: sqlite3.Connection, limit: int, now: int) -> int:
        """How many runs are queued: counted once a second, and when the limit is near.

        Counting 100,000 rows takes milliseconds that a submit need not spend. In between, submits only add, so the
        limit is never passed by more than was drained back.
        """
        age = now - self._counted_at
        self._queued += 1
        if not 0 <= age < _COUNT_NS or (self._queued > limit and (limit < _FEW or age > _COUNT_NS // 10)):
            self._queued, self._counted_at = db.execute(self._sql.count_queued.sql).fetchone()[0] + 1, now
        return self._queued - 1

    # ---- reading inside the transaction ----

    def _existing(self, db: sqlite3.Connection, run_id: str) -> Run:
        run = self._one(db, Run, self._sql.run_by_id, id=run_id)
        if run is None:
            raise NotFound(f"there is no run {run_id!r:.60}")
        return run

    def _interrupt(self, db: sqlite3.Connection, dead: Execution) -> list[Change]:
        """Close what a dead execution left open, as ended at its last commit."""
        steps = [s for s in self._all(db, Step, self._sql.steps_of, run_id=dead.run_id) if s.execution == dead.number]
        attempts = [
            a for a in self._all(db, Attempt, self._sql.attempts_of, run_id=dead.run_id) if a.execution == dead.number
        ]
        notes = [n for n in self._all(db, Note, self._sql.notes_of, run_id=dead.run_id) if n.execution == dead.number]
        last = max(
            dead.started_at,
            *(s.ended_at or s.started_at for s in steps),
            *(a.ended_at or a.first_chunk_at or a.started_at for a in attempts),
            *(n.at for n in notes),
            0,
        )
        seq = self._next_seq(db, dead.run_id, [])
        changes: list[Change] = []
        open_steps = {s.number for s in steps if s.ended_at is None}
        latest = {a.step: a for a in attempts if a.step in open_steps}  # rows come in order: the last one stays
        for attempt in attempts:
            if attempt.ended_at is None:
                ended = dataclasses.replace(
                    attempt, ended_at=last, outcome=INTERRUPTED, usage=attempt.usage or UNKNOWN, final=True, end_seq=seq
                )
                changes.append(Change(CLOSED, ended))
                seq += 1
            elif latest.get(attempt.step) is attempt and not attempt.final:  # died in the wait for the next attempt
                changes.append(Change(SETTLED, dataclasses.replace(attempt, final=True)))
        for step in steps:
            if step.ended_at is None:
                closed = dataclasses.replace(
                    step, status=INTERRUPTED, error_type=INTERRUPTED, ended_at=last, end_seq=seq
                )
                changes.append(Change(CLOSED, closed))
                seq += 1
        closed_execution = dataclasses.replace(
            dead, ended_at=last, outcome=INTERRUPTED, error_type=INTERRUPTED, end_seq=seq
        )
        changes.append(Change(CLOSED, closed_execution))
        return changes

    def _history(
        self,
        db: sqlite3.Connection,
        run: Run,
        executions: list[Execution],
        dead: Execution | None,
        closing: list[Change],
    ) -> History:
        ended = [e for e in executions if e is not dead]
        ended += [c.record for c in closing if isinstance(c.record, Execution) and c.verb == CLOSED]
        return History(
            steps=tuple(self._all(db, Step, self._sql.steps_of, run_id=run.id)),
            attempts=tuple(self._all(db, Attempt, self._sql.attempts_of, run_id=run.id)),
            notes=tuple(self._all(db, Note, self._sql.notes_of, run_id=run.id)),
            resumed_from=run.resumed_from,
            elapsed_ns=sum((e.ended_at or e.started_at) - e.started_at for e in ended),
        )

    def _source(self, db: sqlite3.Connection, fork: Run) -> History:
        """What the fork may reuse: of its source, what had ended before that step of it began.

        The same at every claim, though the source goes on: a run's numbers are committed in their order. What tools
        did is part of a conversation that stands or falls with its agent's step.
        """
        key = {"run_id": fork.forked_from}
        steps = self._all(db, Step, self._sql.steps_of, **key)
        before = next((step.seq for step in steps if step.number == fork.forked_step), 0)
        kept = {
            step.number: step
            for step in steps
            if step.status == SUCCEEDED and step.parent is None and (step.end_seq or before) < before
        }
        return History(
            steps=tuple(kept.values()),
            attempts=tuple(one for one in self._all(db, Attempt, self._sql.attempts_of, **key) if one.step in kept),
            notes=tuple(
                note for note in self._all(db, Note, self._sql.notes_of, **key) if note.key and note.seq < before
            ),
        )

    def _next_seq(self, db: sqlite3.Connection, run_id: str, unwritten: Sequence[Change]) -> int:
        written: int = db.execute(self._sql.last_seq.sql, {"run_id": run_id}).fetchone()[0]
        return max([written, *((c.record.end_seq or 0) for c in unwritten if not isinstance(c.record, Note))]) + 1

    def _one(self, db: sqlite3.Connection, kind: type[R], query: Any, **params: object) -> R | None:
        found = self._all(db, kind, query, **params)
        return found[0] if found else None

    def _all(self, db: sqlite3.Connection, kind: type[R], query: Any, **params: object) -> list[R]:
        cursor = db.execute(query.sql, params)
        names = [column[0] for column in cursor.description]
        return [record(kind, names, row) for row in cursor]


def _ending(run: Run, max_recoveries: int, now: int, seq: int) -> Run | None:
    """The end of a run that shall not be executed again, or None."""
    if run.cancel_requested_at is not None:
        return _end(run, CANCELLED, "cancelled", "cancelled; its owner had died or drained", now, seq)
    if run.recoveries > max_recoveries:
        message = (
            f"its owner died {run.recoveries} times while it ran (AGENTOBS_MAX_RECOVERIES is {max_recoveries}); "
            "find out what it does to its process, then resume it"
        )
        return _end(run, FAILED, "parked", message, now, seq)
    return None


def _end(run: Run, status: str, error_type: str, message: str, now: int, seq: int) -> Run:
    first = run.first_ended_at is None
    return dataclasses.replace(
        run,
        status=status,
        ended_at=now,
        end_seq=seq,
        error_type=error_type,
        error_message=message,
        owner=None,
        first_status=status if first else run.first_status,
        first_ended_at=now if first else run.first_ended_at,
        first_error_type=error_type if first else run.first_error_type,
    )


def _run_id(found: Run | Execution | Step | Attempt | Note) -> str:
    return found.id if isinstance(found, Run) else found.run_id
