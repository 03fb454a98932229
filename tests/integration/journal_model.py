"""The journal as DESIGN.md's text has it ("Records", "Ownership", "Writing", "Resuming", "Traces"), in plain Python.

Written from the text and not from the code: one dictionary a table, one function a rule. `test_journal_model.py`
drives it beside the real one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentobs.journal.protocol import RunQuery, SpanRef
from agentobs.records import (
    CANCELLED,
    CLOSED,
    DRAINED,
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
    Attempt,
    Change,
    Execution,
    Note,
    Record,
    Run,
    Step,
)


class Refused(Exception):
    """The model's word for an error of the journal; its text names the error."""


BIG = 36 * 10**17  # three of them are beyond 64 bits


def deltas(change: Change) -> list[tuple[str, tuple[str, ...], int]]:
    """A count of each kind of change, and one that soon is beyond 64 bits."""
    kind = type(change.record).__name__
    return [("changes", (change.verb, kind), 1), *([("big", (), BIG)] if change.verb == CLOSED else [])]


def identity(found: Record) -> tuple[Any, ...]:
    """A record's key in its table."""
    match found:
        case Run():
            return (found.id,)
        case Execution() | Step():
            return (found.run_id, found.number)
        case Attempt():
            return (found.run_id, found.step, found.turn, found.number)
    return (found.run_id, found.seq)


@dataclass
class Unit:
    """What one committed unit was: its changes, and the outbox row that it left."""

    changes: tuple[Change, ...]
    owed: int | None


@dataclass
class JournalModel:
    rows: dict[type, dict[tuple[Any, ...], Any]] = field(
        default_factory=lambda: {kind: {} for kind in (Run, Execution, Step, Attempt, Note)}
    )
    totals: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    outbox: dict[int, tuple[SpanRef, ...]] = field(default_factory=dict)
    last_owed: int = 0
    units: list[Unit] = field(default_factory=list)  # as published, since this owner began

    def copied(self) -> JournalModel:
        """As it is now; what stands in it never changes."""
        return JournalModel(
            {kind: dict(table) for kind, table in self.rows.items()},
            Counter(self.totals),
            dict(self.outbox),
            self.last_owed,
            list(self.units),
        )

    # ---- reading ----

    @property
    def runs(self) -> dict[str, Run]:
        return {key[0]: run for key, run in self.rows[Run].items()}

    def of(self, kind: type, run_id: str) -> list[Any]:
        return [found for key, found in sorted(self.rows[kind].items()) if key[0] == run_id]

    def claimable(self, workflows: Sequence[str], limit: int, after: str, owner: str) -> list[str]:
        """Runs that nobody living owns and that should run, oldest first; on this file only the owner lives."""
        return sorted(
            run.id
            for run in self.runs.values()
            if run.status in {QUEUED, RUNNING} and run.owner != owner and run.workflow in workflows and run.id > after
        )[:limit]

    def queue(self) -> dict[str, tuple[int, int]]:
        queued = [run for run in self.runs.values() if run.status == QUEUED]
        return {
            name: (len(own), min(run.created_at for run in own))
            for name in {run.workflow for run in queued}
            if (own := [run for run in queued if run.workflow == name])
        }

    def listed(self, query: RunQuery) -> list[str]:
        return sorted(
            (
                run.id
                for run in self.runs.values()
                if query.workflow in (None, run.workflow)
                and query.status in (None, run.status)
                and query.error_type in (None, run.error_type)
                and (query.tag is None or json.loads(run.tags).get(query.tag[0]) == query.tag[1])
                and (query.before is None or run.id < query.before)
            ),
            reverse=True,
        )[: query.limit]

    # ---- writing: one unit, whole or not at all ----

    def commit(self, run_id: str, epoch: int, owner: str, changes: Sequence[Change]) -> None:
        """An owner's unit: refused as a whole at an older epoch, or where it ends what has ended."""
        run = self.runs.get(run_id)
        if run is None or run.epoch != epoch or run.owner != owner:
            raise Refused("StaleOwner")
        self._check(changes)
        self.write(changes)

    def _check(self, changes: Sequence[Change]) -> None:
        ended: set[tuple[Any, ...]] = set()
        for verb, found in changes:
            table, key = self.rows[type(found)], identity(found)
            if verb == OPENED or isinstance(found, Note):
                if key in table:
                    raise Refused("JournalError")
            elif verb == CLOSED:
                if table[key].ended_at is not None or (type(found), *key) in ended:
                    raise Refused("StaleOwner")
                ended.add((type(found), *key))
            succeeded = {(s.run_id, s.key) for s in self.rows[Step].values() if s.status == SUCCEEDED}
            if isinstance(found, Step) and found.status == SUCCEEDED and (found.run_id, found.key) in succeeded:
                raise Refused("JournalError")

    def write(self, changes: Sequence[Change]) -> None:
        spans: list[SpanRef] = []
        for change in changes:
            spans += self._spans(change)
            self._write(change)
            for metric, labels, value in deltas(change):
                self.totals[metric, labels] += value
        if spans:
            self.last_owed += 1
            self.outbox[self.last_owed] = tuple(spans)
        self.units.append(Unit(tuple(changes), self.last_owed if spans else None))

    def _write(self, change: Change) -> None:
        verb, found = change
        table, key = self.rows[type(found)], identity(found)
        if isinstance(found, Run) and verb == CLOSED:
            table[key] = ended(table[key], found)
        elif isinstance(found, Run) and verb == NOTED:
            table[key] = replace(table[key], status=QUEUED, owner=None, next_reason=found.next_reason)
        elif verb == NOTED and table[key].ended_at is not None:
            pass  # it came too late to matter
        else:
            table[key] = found

    def _spans(self, change: Change) -> Iterable[SpanRef]:
        """Every committed run (at its first end), later execution, step, turn and attempt has one span."""
        verb, found = change
        match found:
            case Run() if verb == CLOSED and self.rows[Run][found.id,].first_ended_at is None:
                yield SpanRef("run", found.id)
            case Execution() if verb == CLOSED and found.number > 1:
                yield SpanRef("execution", found.run_id, found.number)
            case Step() if verb == CLOSED:
                yield SpanRef("step", found.run_id, found.number)
            case Attempt():
                if verb == CLOSED:
                    yield SpanRef("attempt", found.run_id, found.step, found.turn, found.number)
                if verb in {CLOSED, SETTLED} and found.final:
                    yield SpanRef("turn", found.run_id, found.step, found.turn, found.number)

    # ---- what is asked of it from outside ----

    def submit(self, run: Run) -> tuple[Run, bool]:
        if run.idempotency_key is not None:
            for known in self.runs.values():
                if known.idempotency_key == run.idempotency_key:
                    if known.request_hash != run.request_hash:
                        raise Refused("Conflict")
                    return known, False
        self.write([Change(OPENED, run)])
        return run, True

    def claim(self, run_id: str, owner: str, *, worker: str, version: str, max_recoveries: int, now: int) -> str | None:
        """Takeover: raise the epoch, close what the dead one left, begin anew. Returns the reason, or None.

        A wish to cancel, or too many deaths, end the run instead.
        """
        run = self.runs.get(run_id)
        if run is None or run.status not in {QUEUED, RUNNING} or run.owner == owner:
            return None
        executions = self.of(Execution, run_id)
        died = bool(executions) and executions[-1].ended_at is None
        changes = self._interrupted(executions[-1]) if died else []
        reason = RECOVERED if died else run.next_reason
        number = len(executions) + 1
        taken = replace(
            run,
            epoch=run.epoch + 1,
            owner=owner,
            status=RUNNING,
            started_at=run.started_at or now,
            recoveries=run.recoveries + died,  # a drain does not count
            resumed_from=number if reason == RESUMED else run.resumed_from,
            next_reason=RECOVERED,
        )
        self.rows[Run][run_id,] = taken
        if run.cancel_requested_at is not None:
            end = replace(taken, status=CANCELLED, error_type="cancelled", ended_at=now)
        elif taken.recoveries > max_recoveries:
            end = replace(taken, status=FAILED, error_type="parked", ended_at=now)
        else:
            end = None
            begun = Execution(
                run_id=run_id,
                number=number,
                reason=reason,
                worker=worker,
                owner=owner,
                epoch=taken.epoch,
                version=version,
                started_at=now,
                seq=0,
                workflow=run.workflow,
            )
            changes.append(Change(OPENED, begun))
        if end is not None:
            changes.append(Change(CLOSED, ended(taken, end)))
        self.write(changes)
        return reason if end is None else None

    def _interrupted(self, dead: Execution) -> list[Change]:
        """What was open is closed as ended at the dead execution's last commit; a turn's last attempt is final."""
        steps = [s for s in self.of(Step, dead.run_id) if s.execution == dead.number]
        numbers = {s.number for s in steps}
        attempts = [a for a in self.of(Attempt, dead.run_id) if a.step in numbers]
        notes = [n for n in self.of(Note, dead.run_id) if n.execution == dead.number]
        times = [dead.started_at, *(n.at for n in notes)]
        for found in (*steps, *attempts):
            times += [found.started_at, found.ended_at or 0, getattr(found, "first_chunk_at", 0) or 0]
        last = max(times)
        changes = []
        for attempt in attempts:
            is_last = not any(
                a.step == attempt.step and (a.turn, a.number) > (attempt.turn, attempt.number) for a in attempts
            )
            step_open = next(s for s in steps if s.number == attempt.step).ended_at is None
            if attempt.ended_at is None:
                changes.append(Change(CLOSED, replace(attempt, ended_at=last, outcome=INTERRUPTED, final=True)))
            elif is_last and step_open and not attempt.final:
                changes.append(Change(SETTLED, replace(attempt, final=True)))
        changes += [
            Change(CLOSED, replace(s, status=INTERRUPTED, error_type=INTERRUPTED, ended_at=last))
            for s in steps
            if s.ended_at is None
        ]
        gone = replace(dead, ended_at=last, outcome=INTERRUPTED, error_type=INTERRUPTED)
        return [*changes, Change(CLOSED, gone)]

    def cancel(self, run_id: str, owner: str, now: int) -> None:
        run = self.runs.get(run_id)
        if run is None:
            raise Refused("NotFound")
        if run.status in {SUCCEEDED, FAILED}:
            raise Refused("Conflict")
        if run.status == CANCELLED:
            return
        run = self.rows[Run][run_id,] = replace(run, cancel_requested_at=run.cancel_requested_at or now)
        if run.owner == owner:
            return  # its owner is told
        if run.status == RUNNING:
            self.claim(run_id, owner, worker="", version=run.version, max_recoveries=0, now=now)
        else:
            end = replace(run, status=CANCELLED, error_type="cancelled", ended_at=now)
            self.write([Change(CLOSED, ended(run, end))])

    def resume(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is None:
            raise Refused("NotFound")
        if run.status not in {FAILED, CANCELLED}:
            raise Refused("Conflict")
        self.rows[Run][run_id,] = replace(
            run,
            status=QUEUED,
            next_reason=RESUMED,
            output=None,
            ended_at=None,
            error_type=None,
            error_message=None,
            error_step=None,
            error_agent=None,
            error_detail=None,
            cancel_requested_at=None,
            recoveries=0,
        )

    def blame(self, guilty: str, owner: str) -> None:
        """The process is about to die of one run: the death shall not count for the others."""
        for key, run in self.rows[Run].items():
            if run.owner == owner and run.status == RUNNING and run.id != guilty:
                self.rows[Run][key] = replace(run, recoveries=run.recoveries - 1)

    def delivered(self, ids: Iterable[int]) -> None:
        for one in ids:
            self.outbox.pop(one, None)

    def reopened(self) -> None:
        """A new owner numbers its outbox rows on from what is left."""
        self.last_owed = max(self.outbox, default=0)
        self.units = []

    # ---- what always holds ----

    def check(self) -> None:
        succeeded = Counter((s.run_id, s.key) for s in self.rows[Step].values() if s.status == SUCCEEDED)
        assert max(succeeded.values(), default=0) <= 1
        for run in self.runs.values():
            executions = self.of(Execution, run.id)
            still_open = [e for e in executions if e.ended_at is None]
            assert len(still_open) == (run.status == RUNNING)
            assert run.status != DRAINED
            assert (run.ended_at is not None) == (run.status in TERMINAL)
            assert run.first_ended_at is not None or run.ended_at is None


def ended(row: Run, end: Run) -> Run:
    """The run's row after its end; what was written at its first end stays for good."""
    first = {}
    if row.first_ended_at is None:
        first = {"first_status": end.status, "first_ended_at": end.ended_at, "first_error_type": end.error_type}
    return replace(
        row,
        status=end.status,
        output=end.output,
        ended_at=end.ended_at,
        end_seq=end.end_seq,
        owner=None,
        error_type=end.error_type,
        error_message=end.error_message,
        error_step=end.error_step,
        error_agent=end.error_agent,
        error_detail=end.error_detail,
        **first,
    )
