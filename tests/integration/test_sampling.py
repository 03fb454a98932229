"""Sampling by run: a run's spans are all owed or none is, as its own committed records say, whatever happens between.

The histories are those of test_journal_model.py, with their crashes, drains, cancellations and resumes. Without
sampling its model owes every span: what it says of a run is what is due of one that is kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import invariant, rule

from agentobs.journal.protocol import Fence, Published, SpanRef
from agentobs.journal.rows import owed_spans
from agentobs.journal.sampling import Sampling
from agentobs.journal.sqlite import open_journal
from agentobs.records import (
    CANCELLED,
    CLOSED,
    DRAINED,
    ERROR_TYPES,
    FAILED,
    INTERRUPTED,
    NS,
    OK,
    OPENED,
    SETTLED,
    SUCCEEDED,
    Attempt,
    Change,
    Execution,
    Note,
    Record,
    Run,
    Step,
    new_run_id,
)
from tests.factories import RUN_ID, T0, attempt, execution, note, run, seconds, step
from tests.integration.journal_model import Unit
from tests.integration.test_journal_model import EXAMPLES, JournalMachine

SLOW_S = 4.0


# ---- the decision ----


def ids(count: int) -> list[str]:
    """As one process makes them, many within a millisecond."""
    return [new_run_id(1_780_000_000_000 + n // 50, n.to_bytes(2) * 5) for n in range(count)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.9, 1.0])
def test_the_share_is_kept_whatever_the_ids_are_made_of(share: float) -> None:
    found = sum(Sampling(share).chooses(run_id) for run_id in ids(5000))
    assert abs(found / 5000 - share) < 0.025
    assert found == {0.0: 0, 1.0: 5000}.get(share, found)


def test_a_larger_share_has_the_runs_of_a_smaller_one() -> None:
    shares = [0.0, 0.01, 0.3, 0.5, 1.0]
    chosen = [{run_id for run_id in ids(2000) if Sampling(share).chooses(run_id)} for share in shares]
    assert all(less < more for less, more in pairwise(chosen))


def test_the_choice_is_the_same_in_every_version() -> None:
    """Processes of two versions share a journal during an upgrade."""
    assert [n for n, run_id in enumerate(ids(12)) if Sampling(0.5).chooses(run_id)] == [1, 5, 11]


def kept(*changes: Change, slow_s: float = 60) -> bool:
    return Sampling(0, round(slow_s * NS)).keeps(changes, T0)


def test_what_succeeds_in_time_is_healthy() -> None:
    for record in (attempt(), step(), execution(), run(), note("rounds", "1")):
        assert not kept(Change(CLOSED, record)), record
    assert not kept(Change(OPENED, step(status="running", ended_at=None)))
    assert not kept(Change(SETTLED, attempt()))


def test_steps_and_attempts_that_a_workflow_cancels_itself_are_healthy() -> None:
    assert not kept(Change(CLOSED, attempt(outcome=CANCELLED)), Change(CLOSED, step(status=CANCELLED)))


@pytest.mark.parametrize("outcome", sorted(set(ERROR_TYPES) - {"cancelled"}))
def test_an_attempt_that_failed_keeps_its_run_though_a_retry_succeeds(outcome: str) -> None:
    assert kept(Change(CLOSED, step()), Change(CLOSED, attempt(outcome=outcome)))


@pytest.mark.parametrize(
    "record",
    [
        step(status=FAILED, error_type="tool_error"),
        step(status=INTERRUPTED),
        execution(outcome=FAILED),
        execution(outcome=CANCELLED),
        execution(outcome=INTERRUPTED),
        execution(outcome=DRAINED),
        run(status=FAILED, error_type="parked"),
        run(status=CANCELLED),
    ],
)
def test_what_failed_was_cancelled_or_is_to_be_recovered_keeps_its_run(record: Record) -> None:
    assert kept(Change(CLOSED, record))


@pytest.mark.parametrize(
    "change",
    [
        Change(CLOSED, attempt(ended_at=seconds(30))),
        Change(CLOSED, step(ended_at=seconds(30))),
        Change(CLOSED, execution(ended_at=seconds(30))),
        Change(CLOSED, run(ended_at=seconds(30))),
        Change(CLOSED, note("rounds", "1", at=seconds(30))),
        Change(OPENED, step(status="running", started_at=seconds(30), ended_at=None)),
        Change(OPENED, execution(started_at=seconds(30), ended_at=None, outcome=None)),
    ],
)
def test_a_run_is_slow_from_the_first_record_on_that_is_late_enough(change: Change) -> None:
    assert kept(change, slow_s=30)
    assert not kept(change, slow_s=30.000001)


# ---- histories ----


class SampledMachine(JournalMachine):
    """Nothing is delivered, so that the outbox and the model's keep all that was ever owed."""

    def _sampling(self) -> Sampling:
        return Sampling(0.3, round(SLOW_S * NS))

    def _check_owed(self, one: Published, unit: Unit) -> None:
        if one.owed is None:
            assert unit.owed is None or not one.traced, "an exemplar would lead to nothing"
            return
        assert one.traced
        at_hand = {ref for change in one.changes if change.verb != OPENED for ref in refs(change)}
        assert one.owed.recalled or set(one.owed.spans) <= at_hand
        assert one.owed.recalled == (len(one.owed.spans) > len(owed_spans(one.changes)))

    @rule()
    def deliver(self) -> None:  # type: ignore[override]
        pass

    def owed(self) -> dict[str, Counter[SpanRef]]:
        pending = self._do(self.journal.pending_spans(0, 100_000))
        found: dict[str, Counter[SpanRef]] = {}
        for owed, changes in pending:
            made = {ref for change in changes for ref in refs(change)}
            assert made >= set(owed.spans), "each span can be made again from the journal"
            turns, attempts = ({ref[2:] for ref in owed.spans if ref.kind == kind} for kind in ("turn", "attempt"))
            settled = [one.record for one in changes if one.verb == SETTLED and isinstance(one.record, Attempt)]
            assert {(one.step, one.turn, one.number) for one in settled} == turns - attempts
            for ref in owed.spans:
                found.setdefault(ref.run_id, Counter())[ref] += 1
        return found

    def due(self) -> dict[str, Counter[SpanRef]]:
        found: dict[str, Counter[SpanRef]] = {}
        for spans in self.model.outbox.values():
            for ref in spans:
                found.setdefault(ref.run_id, Counter())[ref] += 1
        return found

    def must_be_kept(self, found: Run) -> bool:
        """From the rows alone, in other words than the code's."""
        if Sampling(0.3).chooses(found.id) or found.first_status in (FAILED, CANCELLED):
            return True
        executions = self.model.of(Execution, found.id)
        steps, attempts = self.model.of(Step, found.id), self.model.of(Attempt, found.id)
        if any(one.outcome not in (None, SUCCEEDED) for one in executions):
            return True
        if any(one.status in (FAILED, INTERRUPTED) for one in steps):
            return True
        if any(one.outcome not in (None, OK, CANCELLED) for one in attempts):
            return True
        times = [time for one in (*executions, *steps, *attempts) for time in (one.started_at, one.ended_at or 0)]
        times += [one.at for one in self.model.of(Note, found.id)] + [found.ended_at or 0]
        return max(times) - found.created_at >= SLOW_S * NS

    @invariant()
    def the_outbox_holds_what_is_owed(self) -> None:
        """All of a run's spans up to now, or none, and which of the two its rows say."""
        if self.waiting:
            return
        owed, due = self.owed(), self.due()
        for found in self.model.runs.values():
            expected = due.get(found.id, Counter()) if self.must_be_kept(found) else Counter()
            assert owed.get(found.id, Counter()) == expected, found


class ChangedMachine(SampledMachine):
    """Each process has another share than the one before it."""

    SHARES = (0.3, 0.0, 1.0, 0.6, 0.1, 1.0)

    def _sampling(self) -> Sampling:
        self.opened = getattr(self, "opened", -1) + 1
        return Sampling(self.SHARES[self.opened % len(self.SHARES)], round(SLOW_S * NS))

    @invariant()
    def the_outbox_holds_what_is_owed(self) -> None:
        if self.waiting:
            return
        owed, due = self.owed(), self.due()
        for found in self.model.runs.values():
            whole = due.get(found.id, Counter())
            assert owed.get(found.id, Counter()) in (Counter(), whole), found
            if found.first_status in (FAILED, CANCELLED):
                assert owed[found.id] == whole


def refs(change: Change) -> set[SpanRef]:
    """The spans that can be made of a change's record."""
    match change.record:
        case Run() as found:
            return {SpanRef("run", found.id)}
        case Execution() as found:
            return {SpanRef("execution", found.run_id, found.number)} if found.number > 1 else set()
        case Step() as found:
            return {SpanRef("step", found.run_id, found.number)}
        case Attempt() as found:
            place = (found.run_id, found.step, found.turn, found.number)
            return {SpanRef("attempt", *place), SpanRef("turn", *place)}
        case _:
            return set()


for machine in (SampledMachine, ChangedMachine):  # not shrunk: that takes minutes, and the history is told anyway
    machine.TestCase.settings = settings(
        JournalMachine.TestCase.settings, max_examples=EXAMPLES or 25, phases=[Phase.generate]
    )
TestSampled = pytest.mark.timeout(300 + 2 * EXAMPLES)(SampledMachine.TestCase)
TestChanged = pytest.mark.timeout(300 + 2 * EXAMPLES)(ChangedMachine.TestCase)


# ---- a share that changes ----


async def test_a_run_that_waited_while_the_share_was_raised_is_exported(tmp_path: Path) -> None:
    """It was withheld when it was submitted; with a share of 1 every trace is exported, and whole."""
    found = Run(id=RUN_ID, workflow="w", version="1", input="1", created_at=T0)
    published: list[Published] = []
    for sampling in (Sampling(0), Sampling(1)):
        journal = await open_journal(
            tmp_path / "j.db", worker="w", export_requested=True, sampling=sampling, wall_ns=lambda: T0 + NS
        )
        journal.subscribe(published.extend)
        if sampling.share == 0:
            await journal.submit(found, max_queued=10)
        else:
            claim = await journal.claim(RUN_ID, worker="w", version="1", max_recoveries=3)
            assert claim is not None
            ends = [
                Change(CLOSED, dataclasses.replace(claim.execution, ended_at=seconds(2), outcome=SUCCEEDED, end_seq=4)),
                Change(CLOSED, run(status=SUCCEEDED, ended_at=seconds(2), end_seq=5)),
            ]
            await journal.commit(Fence(RUN_ID, claim.run.epoch), ends)
        await journal.close()
    assert [unit.traced for unit in published] == [False, True, True]
    owed = published[-1].owed
    assert owed is not None
    assert owed.spans == (SpanRef("run", RUN_ID),)
