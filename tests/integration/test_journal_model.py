"""The SQLite journal beside a model of DESIGN.md's text, through random histories with crashes in them.

A longer search: `AGENTOBS_FUZZ=2000 make test ARGS=tests/integration/test_journal_model.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentobs.errors import AgentobsError
from agentobs.journal.protocol import Claim, Fence, Published, RunQuery, Submitted
from agentobs.journal.sampling import EVERY_RUN, Sampling
from agentobs.journal.sqlite import SqliteJournal, open_journal
from agentobs.records import (
    AGENT,
    CANCELLED,
    CLOSED,
    DRAINED,
    EXACT,
    FAILED,
    FUNCTION,
    INTERRUPTED,
    NOTED,
    NS,
    OK,
    OPENED,
    PARTIAL,
    QUEUED,
    RECOVERED,
    SETTLED,
    SUCCEEDED,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
    new_run_id,
)
from tests.integration.journal_model import JournalModel, Refused, Unit, deltas, identity

EXAMPLES = int(os.environ.get("AGENTOBS_FUZZ", "0"))
MAX_RECOVERIES = 2
WORKFLOWS = ("article", "debate")
KEYS = (":a:1", "left:a:1")
STATUSES = st.sampled_from([SUCCEEDED, SUCCEEDED, SUCCEEDED, FAILED, CANCELLED])
TEXT = st.sampled_from(['"x"', '"\\u0000\\ud800"', "null"])
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of commits, each synced
WORK = ("go_on",) * 6 + ("open_step",) * 2 + ("note_attempt",) * 2 + ("note", "end")
NOBODY = "01930000-0000-7abc-8def-0123456789ab"


@dataclass
class Owned:
    """A run as its owner knows it."""

    fence: Fence
    execution: Execution
    run: Run
    next_step: int
    next_seq: int

    def seq(self) -> int:
        self.next_seq += 1
        return self.next_seq - 1


def told(error: BaseException) -> str:
    return type(error).__name__


class JournalMachine(RuleBasedStateMachine):
    template: tempfile.TemporaryDirectory[str] | None = None  # a new journal, made once

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="journal-model-", dir=MEMORY))
        self.now = 1_780_000_000 * NS
        self.model = JournalModel()
        self.owned: dict[str, Owned] = {}
        self.stale: list[Owned] = []
        self.files = 0
        self.requeued_at = [0]
        # Units in hand, not yet given to the journal: who and what, what the model says of it, the model before it.
        self.waiting: list[tuple[Fence, Sequence[Change], str | None, JournalModel]] = []
        self.unpublished: list[str] = []
        path = self.folder / "0.db"
        if JournalMachine.template is None:
            self.journal = self._open(path)
            self._do(self.journal.close())
            JournalMachine.template = tempfile.TemporaryDirectory(prefix="journal-model-", dir=MEMORY)
            shutil.copy(path, Path(JournalMachine.template.name) / "new.db")
        shutil.copy(Path(JournalMachine.template.name) / "new.db", path)
        self.journal = self._open(path)

    def teardown(self) -> None:
        self._do(self.journal.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    # ---- the two sides ----

    def _do(self, work: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await work

        return self.loop.run_until_complete(waited())

    def _all(self, work: Iterable[Awaitable[Any]]) -> list[Any]:
        async def waited() -> list[Any]:
            return await asyncio.gather(*work)

        return self.loop.run_until_complete(waited())

    def _open(self, path: Path) -> SqliteJournal:
        journal = self._do(
            open_journal(
                path,
                worker="w",
                deltas=deltas,
                export_requested=True,
                sampling=self._sampling(),
                wall_ns=lambda: self.now,
            )
        )
        self.published: list[Published] = []
        self.beside = sqlite3.connect(path)
        journal.subscribe(self._hear)
        return journal

    def _sampling(self) -> Sampling:
        return EVERY_RUN

    def _hear(self, batch: Sequence[Published]) -> None:
        """What is published has been committed: another connection sees it, now."""
        for one in batch:
            for verb, found in one.changes:
                table = f"{type(found).__name__.lower()}s"
                column = "seq" if verb == OPENED or isinstance(found, Note) else "end_seq"
                where = {
                    "runs": "id = ?",
                    "notes": "run_id = ? AND seq = ?",
                    "attempts": "run_id = ? AND step = ? AND turn = ? AND number = ?",
                }
                query = f"SELECT {column} FROM {table} WHERE {where.get(table, 'run_id = ? AND number = ?')}"
                row = self.beside.execute(query, identity(found)).fetchone()
                if row is None or (verb == CLOSED and row[0] is None):
                    self.unpublished.append(f"{verb} {table} {identity(found)}")
        self.published.extend(batch)

    def _tick(self, seconds: float = 0.05) -> int:
        self.now += int(seconds * NS)
        return self.now

    def _pick(self, data: st.DataObject, found: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(sorted(found, key=str)))

    def _asked(self, ask: Callable[[], Awaitable[Any]], expect: Callable[[], Any]) -> tuple[Any, Any]:
        """The same question to both; both refuse, or both answer."""
        self._settle()
        try:
            expected, refused = expect(), None
        except Refused as error:
            expected, refused = None, str(error)
        try:
            given, error = self._do(ask()), None
        except AgentobsError as raised:
            given, error = None, told(raised)
        assert error == refused
        self._adopt()
        return given, expected

    def _commit(self, owned: Owned, changes: Sequence[Change], *, wait: bool) -> None:
        """A unit, given to the journal now or later with others of its batch."""
        before, refused = self.model.copied(), None
        try:
            self.model.commit(owned.fence.run_id, owned.fence.epoch, self.journal.owner, changes)
        except Refused as error:
            refused = str(error)
        self.waiting.append((owned.fence, changes, refused, before))
        if wait:
            self._settle()

    def _settle(self) -> None:
        """Give it all that is in hand, at once, and look at the answers."""
        waiting, self.waiting = self.waiting, []

        async def put() -> list[BaseException | None]:
            return await asyncio.gather(
                *(self.journal.commit(fence, changes) for fence, changes, *_ in waiting), return_exceptions=True
            )

        answers = self._do(put())
        assert [told(error) if error else None for error in answers] == [refused for _, _, refused, _ in waiting]
        if waiting:
            self._adopt()

    def _adopt(self) -> None:
        """Published is what the model says, in order. Its numbers and messages are the journal's own to choose."""
        assert not self.unpublished
        units = self.model.units
        published = [one for one in self.published if one.changes]
        assert all(one.deltas[0][0] == "sent" for one in self.published if not one.changes)
        assert len(published) == len(units)
        for one, unit in zip(published[self.checked :], units[self.checked :], strict=True):
            assert [bare(c) for c in one.changes] == [bare(c) for c in unit.changes]
            assert list(one.deltas) == [delta for c in one.changes for delta in deltas(c)]
            self._check_owed(one, unit)
            for (_, ours), (verb, theirs) in zip(unit.changes, one.changes, strict=True):
                self._adopt_numbers(verb, ours, theirs)
        self.checked = len(units)

    checked = 0

    def _check_owed(self, one: Published, unit: Unit) -> None:
        assert (one.owed.id if one.owed else None) == unit.owed
        assert one.traced
        if one.owed:
            assert one.owed.spans == self.model.outbox[unit.owed]
            assert not one.owed.recalled

    def _adopt_numbers(self, verb: str, ours: Any, theirs: Any) -> None:
        run_id = theirs.id if isinstance(theirs, Run) else theirs.run_id
        number = theirs.seq if verb == OPENED or isinstance(theirs, Note) else theirs.end_seq
        if verb in {OPENED, CLOSED}:
            assert number > self.last_seq.get(run_id, 0), f"{verb} {theirs}"
            self.last_seq[run_id] = number
        table, key = self.model.rows[type(theirs)], identity(theirs)
        row = table[key]
        changed = {"seq": theirs.seq} if not isinstance(theirs, Run) else {}
        if verb == CLOSED and not isinstance(theirs, Note):
            changed["end_seq"] = theirs.end_seq
            if isinstance(theirs, Run):
                changed["error_message"] = theirs.error_message
                if row.ended_at is None:  # resumed since
                    changed.pop("error_message")
        table[key] = replace(row, **changed)

    @property
    def last_seq(self) -> dict[str, int]:
        return self.__dict__.setdefault("_last_seq", {})

    # ---- from outside ----

    @initialize()
    def two_runs_of_which_one_is_owned(self) -> None:
        for number in range(2):
            self.submit("article", None, "h1", "{}", 1000, 0.05, bytes([number] * 10))
        self._claim(min(self.model.runs))

    @rule(
        workflow=st.sampled_from(WORKFLOWS),
        key=st.sampled_from([None, None, "k1", "k2"]),
        body=st.sampled_from(["h1", "h2"]),
        tags=st.sampled_from(["{}", '{"a":"b"}']),
        limit=st.sampled_from([2, 5, 1000]),
        later=st.sampled_from([0.05, 2.0]),
        chance=st.binary(min_size=10, max_size=10),
    )
    def submit(
        self, workflow: str, key: str | None, body: str, tags: str, limit: int, later: float, chance: bytes
    ) -> None:
        now = self._tick(later)
        run = Run(
            id=new_run_id(now // 1_000_000, chance),
            workflow=workflow,
            version="1",
            input='"in"',
            tags=tags,
            idempotency_key=key,
            request_hash=body,
            created_at=now,
        )
        self._settle()
        known = {found.idempotency_key for found in self.model.runs.values()} - {None}
        queued = sum(found.status == QUEUED for found in self.model.runs.values())
        requeued = sum(now - at <= NS for at in self.requeued_at)  # a count is good for a second
        try:
            given: Submitted = self._do(self.journal.submit(run, max_queued=limit))
        except AgentobsError as error:
            if told(error) == "QueueFull":
                assert queued >= limit and key not in known
            else:
                with pytest.raises(Refused, match=told(error)):
                    self.model.submit(run)
        else:
            assert key in known or queued - requeued < limit
            expected, created = self.model.submit(run)
            assert given.created == created
            assert given.run == expected
        self._adopt()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id, now = self._pick(data, [*self.model.runs, NOBODY]), self._tick()
        given, _ = self._asked(
            lambda: self.journal.request_cancel(run_id), lambda: self.model.cancel(run_id, self.journal.owner, now)
        )
        assert given is None or given == self.model.runs[run_id]

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        ended = [run.id for run in self.model.runs.values() if run.ended_at is not None]
        run_id, now = (
            self._pick(data, (ended if data.draw(st.booleans()) else []) or [*self.model.runs, NOBODY]),
            self._tick(),
        )
        given, _ = self._asked(lambda: self.journal.request_resume(run_id), lambda: self.model.resume(run_id))
        if given is not None:
            self.requeued_at.append(now)
            assert given == self.model.runs[run_id]
            if data.draw(st.booleans()):
                self._claim(run_id)
                self.end(data, self.owned[run_id], wait=True)

    # ---- owning ----

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        invited = self.model.claimable(WORKFLOWS, 100, "", self.journal.owner)
        self._claim(self._pick(data, invited or [*self.model.runs, NOBODY]))
        self._work(data, data.draw(st.integers(0, 3)))

    @rule(data=st.data())
    def claim_uninvited(self, data: st.DataObject) -> None:
        """An invitation can be doubled, late, or of a run that there is none of."""
        self._claim(self._pick(data, [*self.model.runs, NOBODY]))

    def _claim(self, run_id: str) -> None:
        now = self._tick()
        given: Claim | None
        given, reason = self._asked(
            lambda: self.journal.claim(run_id, worker="w", version="2", max_recoveries=MAX_RECOVERIES),
            lambda: self.model.claim(
                run_id, self.journal.owner, worker="w", version="2", max_recoveries=MAX_RECOVERIES, now=now
            ),
        )
        assert (given is None) == (reason is None)
        if given is None:
            return
        executions = self.model.of(Execution, run_id)
        steps, attempts = self.model.of(Step, run_id), self.model.of(Attempt, run_id)
        assert given.run == self.model.runs[run_id]
        assert given.execution == executions[-1]
        assert given.execution.reason == reason
        assert list(given.history.steps) == steps and all(step.ended_at for step in steps)
        assert list(given.history.attempts) == attempts and all(attempt.ended_at for attempt in attempts)
        notes = self.model.of(Note, run_id) if len(executions) > 1 else []  # the first has no history
        assert list(given.history.notes) == notes
        assert given.history.resumed_from == (given.run.resumed_from if len(executions) > 1 else 0)
        assert given.history.elapsed_ns == sum(e.ended_at - e.started_at for e in executions[:-1])
        assert given.next_step == max((step.number for step in steps), default=0) + 1
        assert given.next_seq == self.last_seq[run_id] + 1
        fence = Fence(run_id, given.run.epoch)
        self.owned[run_id] = Owned(fence, given.execution, given.run, given.next_step, given.next_seq)

    # ---- what an owner writes ----

    def _steps(self, owned: Owned, *, is_open: bool) -> list[Step]:
        return [
            step
            for step in self.model.of(Step, owned.fence.run_id)
            if step.execution == owned.execution.number and (step.ended_at is None) == is_open
        ]

    def _attempts(self, step: Step) -> list[Attempt]:
        return [one for one in self.model.of(Attempt, step.run_id) if one.step == step.number]

    def _new_step(self, owned: Owned, key: str, kind: str) -> Step:
        owned.next_step += 1
        return Step(
            run_id=owned.fence.run_id,
            number=owned.next_step - 1,
            execution=owned.execution.number,
            key=key,
            branch=key.partition(":")[0],
            kind=kind,
            name="writer",
            agent="writer" if kind == AGENT else None,
            model="m" if kind == AGENT else None,
            input='"in"',
            started_at=self._tick(),
            seq=owned.seq(),
            workflow=owned.run.workflow,
            version=owned.execution.version,
            reason=owned.execution.reason,
        )

    def _new_attempt(self, owned: Owned, step: Step, turn: int, number: int) -> Attempt:
        now = self._tick()
        return Attempt(
            run_id=step.run_id,
            step=step.number,
            turn=turn,
            number=number,
            model="m",
            provider="p",
            url="http://model.test",
            started_at=now,
            turn_started_at=now,
            seq=owned.seq(),
            execution=step.execution,
            key=step.key,
            agent=step.agent or "",
            workflow=step.workflow,
            version=step.version,
            reason=step.reason,
        )

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), some=st.integers(1, 6))
    def work(self, data: st.DataObject, some: int) -> None:
        self._work(data, some)

    def _work(self, data: st.DataObject, some: int) -> None:
        for _ in range(some):
            if not self.owned:
                return
            owned, wait = self.owned[self._pick(data, self.owned)], data.draw(st.booleans())
            what = data.draw(st.sampled_from(WORK))
            getattr(self, what)(data, owned, wait)

    def open_step(self, data: st.DataObject, owned: Owned, wait: bool) -> None:
        key, kind = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from([AGENT, AGENT, FUNCTION]))
        step = self._new_step(owned, key, kind)
        attempts = [self._new_attempt(owned, step, 1, 1)] if kind == AGENT else []
        self._commit(owned, [Change(OPENED, one) for one in (step, *attempts)], wait=wait)

    def go_on(self, data: st.DataObject, owned: Owned, wait: bool) -> None:
        """The next thing that can happen to an open step: an attempt begins or ends, and with it perhaps the step."""
        then = data.draw(st.sampled_from(["retry", "turn", "end", "end", "end"]))
        status, output = data.draw(STATUSES), data.draw(TEXT)
        steps = self._steps(owned, is_open=True)
        if not steps:
            self.open_step(data, owned, wait)
            return
        step = self._pick(data, steps)
        attempts = self._attempts(step)
        latest = attempts[-1] if attempts else None
        if latest is not None and latest.ended_at is not None:
            turn, number = (latest.turn + 1, 1) if latest.final else (latest.turn, latest.number + 1)
            if then == "end" and not latest.final:  # given up in the wait before the next attempt
                settled = Change(SETTLED, replace(latest, final=True))
                self._commit(owned, [settled, self._closed(owned, step, CANCELLED, None)], wait=wait)
            else:
                self._commit(owned, [Change(OPENED, self._new_attempt(owned, step, turn, number))], wait=wait)
            return
        changes = []
        if latest is not None:
            changes.append(self._closed_attempt(owned, latest, then))
        if latest is None or then == "end":
            changes.append(self._closed(owned, step, status, output))
        self._commit(owned, changes, wait=wait)

    def _closed_attempt(self, owned: Owned, attempt: Attempt, then: str) -> Change:
        ended = replace(
            attempt,
            ended_at=self._tick(),
            outcome="overloaded" if then == "retry" else OK,
            http_status=200,
            request_id="r",
            usage=EXACT,
            input_uncached=3,
            output=2,
            cost_pico=10**13,
            final=then != "retry",
            not_before=self.now + NS if then == "retry" else None,
            answer='{"text":"t"}' if then == "turn" else None,
            end_seq=owned.seq(),
        )
        return Change(CLOSED, ended)

    def _closed(self, owned: Owned, step: Step, status: str, output: str | None) -> Change:
        error = None if status == SUCCEEDED else "cancelled" if status in {CANCELLED, INTERRUPTED} else "refusal"
        ended = replace(
            step, status=status, output=output, error_type=error, ended_at=self._tick(), end_seq=owned.seq()
        )
        return Change(CLOSED, ended)

    def note_attempt(self, data: st.DataObject, owned: Owned, wait: bool) -> None:
        attempts = [one for step in self._steps(owned, is_open=True) for one in self._attempts(step)]
        if not attempts:
            self.open_step(data, owned, wait)
            return
        attempt = self._pick(data, [one for one in attempts if one.ended_at is None] or attempts)
        began = replace(attempt, first_chunk_at=self._tick(), request_id="r", usage=PARTIAL, input_uncached=3, output=0)
        self._commit(owned, [Change(NOTED, began)], wait=wait)

    def note(self, data: st.DataObject, owned: Owned, wait: bool) -> None:
        self._commit(owned, [self._note(owned, data.draw(st.sampled_from(["now", "rounds"])))], wait=wait)

    def _note(self, owned: Owned, kind: str) -> Change:
        found = Note(
            run_id=owned.fence.run_id,
            execution=owned.execution.number,
            seq=owned.seq(),
            kind=kind,
            key=":now:1",
            value="1",
            at=self._tick(),
            workflow=owned.run.workflow,
        )
        return Change(CLOSED, found)

    def end(self, data: st.DataObject, owned: Owned, wait: bool) -> None:
        """What is outstanding is closed, then the execution and the run; or the run goes back to the queue."""
        status = data.draw(st.sampled_from([SUCCEEDED, SUCCEEDED, FAILED, FAILED, CANCELLED, DRAINED]))
        del self.owned[owned.fence.run_id]
        cut_off = INTERRUPTED if status == DRAINED else CANCELLED
        for step in self._steps(owned, is_open=True):
            changes = []
            for attempt in self._attempts(step)[-1:]:
                if attempt.ended_at is None:
                    changes.append(self._closed_attempt(owned, attempt, "end"))
                elif not attempt.final:
                    changes.append(Change(SETTLED, replace(attempt, final=True)))
            self._commit(owned, [*changes, self._closed(owned, step, cut_off, None)], wait=wait)
        error = None if status == SUCCEEDED else "cancelled" if status == CANCELLED else "refusal"
        gone = replace(
            owned.execution, ended_at=self._tick(), outcome=status, reused=1, diverged=2, end_seq=owned.seq()
        )
        if status == DRAINED:
            last = Change(NOTED, replace(owned.run, status=QUEUED, owner=None, next_reason=RECOVERED))
            self.requeued_at.append(self.now)
        else:
            first = {"first_status": status, "first_ended_at": self.now, "first_error_type": error}
            first = first if owned.run.first_ended_at is None else {}
            ended = replace(
                owned.run, status=status, output='"out"', ended_at=self.now, error_type=error, owner=None, **first
            )
            last = Change(CLOSED, replace(ended, end_seq=owned.seq()))
        self._commit(owned, [Change(CLOSED, gone), last], wait=wait)
        self.stale.append(owned)

    # ---- what an owner must not be able to write ----

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), what=st.sampled_from(["step", "note", "end"]), wait=st.booleans())
    def write_late(self, data: st.DataObject, what: str, wait: bool) -> None:
        """Of an owner that was taken over, has ended or was drained; the run may be ours again at another epoch."""
        again = [one for one in self.stale if one.fence.run_id in self.owned]
        owned = replace(data.draw(st.sampled_from(again or self.stale)))
        if what == "step":
            changes = [Change(OPENED, replace(self._new_step(owned, ":z:1", FUNCTION), number=1000))]
        elif what == "note":
            changes = [self._note(replace(owned, next_seq=5000), "rounds")]
        else:
            changes = [Change(CLOSED, replace(owned.run, status=FAILED, ended_at=self.now, owner=None, end_seq=5001))]
        before = len(self.model.units)
        self._commit(owned, changes, wait=wait)
        assert len(self.model.units) == before  # the model refuses it, too

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), wait=st.booleans())
    def end_twice(self, data: st.DataObject, wait: bool) -> None:
        """The loser of two ends writes nothing of its unit."""
        owned = self.owned[self._pick(data, self.owned)]
        steps = self._steps(owned, is_open=False)
        if steps:
            again = self._closed(owned, self._pick(data, steps), FAILED, '"other"')
            self._commit(owned, [self._note(owned, "rounds"), again], wait=wait)

    # ---- deaths ----

    @rule(data=st.data(), blamed=st.booleans())
    def crash(self, data: st.DataObject, blamed: bool) -> None:
        """The process dies with units in hand: each was committed or was not, in order. Another takes the file over."""
        self._work(data, data.draw(st.integers(0, 5)))
        if blamed and self.owned:
            self._settle()
            guilty = self._pick(data, self.owned)
            assert self.journal.blame(guilty, timeout_s=20)
            self.model.blame(guilty, self.journal.owner)
        committed = data.draw(st.integers(0, len(self.waiting)), "of the units in hand")
        self.model = [*(before for *_, before in self.waiting), self.model][committed]
        del self.waiting[committed:]
        self._settle()
        left = self._copied()
        self._do(self.journal.close())
        self.beside.close()
        self._reopen(left)

    def _copied(self) -> Path:
        self.files += 1
        left = self.folder / f"{self.files}.db"
        source, target = sqlite3.connect(self.journal.path), sqlite3.connect(left)
        with source, target:
            source.backup(target)
        source.close()
        target.close()
        return left

    @precondition(lambda self: not self.waiting)
    @rule()
    def restart(self) -> None:
        """The process ends in order, without draining, and another opens the same file."""
        path = self.journal.path
        self._do(self.journal.close())
        self.beside.close()
        self._reopen(path)

    def _reopen(self, path: Path) -> None:
        self.stale += self.owned.values()
        self.owned = {}
        self.journal = self._open(path)
        self.model.reopened()
        self.checked = 0
        for run in self.model.runs.values():
            self._renumber(run)

    def _renumber(self, run: Run) -> None:
        """Numbers of units in hand that were lost are free again."""
        rows = [run, *(one for kind in (Execution, Step, Attempt, Note) for one in self.model.of(kind, run.id))]
        self.last_seq[run.id] = max(max(one.seq, getattr(one, "end_seq", None) or 0) for one in rows)

    # ---- the outbox and the totals ----

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self._settle()
        ids = data.draw(st.lists(st.sampled_from([*self.model.outbox, 10_000]), max_size=4, unique=True))
        sent = ("sent", ("ok",), len(ids))
        self._do(self.journal.delivered(ids, [sent]))
        self.model.delivered(ids)
        self.model.totals["sent", ("ok",)] += len(ids)

    # ---- what holds after each step ----

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        if self.waiting:
            return
        self.model.check()
        for run_id, detail in zip(self.model.runs, self._all(map(self.journal.detail, self.model.runs)), strict=True):
            assert detail.run == self.model.runs[run_id]
            for kind, rows in (
                (Execution, detail.executions),
                (Step, detail.steps),
                (Attempt, detail.attempts),
                (Note, detail.notes),
            ):
                assert list(rows) == self.model.of(kind, run_id)

    @invariant()
    def sums_and_queues_are_those_of_the_model(self) -> None:
        if self.waiting:
            return
        sweeps = ((WORKFLOWS, 100, ""), (WORKFLOWS[:1], 2, ""), (WORKFLOWS, 3, self._middle()))
        queries = (
            RunQuery(),
            RunQuery(status=QUEUED, limit=2),
            RunQuery(workflow="debate", before=self._middle() or None),
            RunQuery(error_type="parked"),
            RunQuery(tag=("a", "b")),
        )
        totals, queue, *found = self._all(
            [
                self.journal.totals("w"),
                self.journal.queue(),
                *(self.journal.claimable(*sweep) for sweep in sweeps),
                *(self.journal.details(query) for query in queries),
            ]
        )
        assert {key: n for key, n in totals.items() if n} == {key: n for key, n in self.model.totals.items() if n}
        assert {one.workflow: (one.queued, one.oldest_created_at) for one in queue} == self.model.queue()
        for sweep, ids in zip(sweeps, found[: len(sweeps)], strict=True):
            assert ids == self.model.claimable(*sweep, self.journal.owner)
        for query, details in zip(queries, found[len(sweeps) :], strict=True):
            assert [one.run.id for one in details] == self.model.listed(query)

    def _middle(self) -> str:
        ids = sorted(self.model.runs)
        return ids[len(ids) // 2] if ids else ""

    @invariant()
    def the_outbox_holds_what_is_owed(self) -> None:
        if self.waiting:
            return
        pending, (count, _) = self._all([self.journal.pending_spans(0, 10_000), self.journal.pending_span_stats()])
        assert {owed.id: owed.spans for owed, _ in pending} == self.model.outbox
        assert count == sum(map(len, self.model.outbox.values()))
        for owed, changes in pending:
            kinds = [(ref.kind, ref.number, ref.turn, ref.attempt) for ref in owed.spans]
            told_again = {type(change.record).__name__.lower() for change in changes}
            assert told_again == {"attempt" if kind == "turn" else kind for kind, *_ in kinds}
            for _, found in changes:
                assert found.first_ended_at if isinstance(found, Run) else found.ended_at


def bare(change: Change) -> Change:
    """Without what the journal numbers and words itself."""
    names = {"seq", "end_seq", "error_message"} & {one.name for one in dataclasses.fields(change.record)}
    return Change(change.verb, replace(change.record, **dict.fromkeys(names)))


JournalMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 50,
    stateful_step_count=50,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestJournal = pytest.mark.timeout(300 + 2 * EXAMPLES)(JournalMachine.TestCase)
