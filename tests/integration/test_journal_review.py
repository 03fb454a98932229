"""Claims of DESIGN.md about the journal that a review found broken, each with the test that shows it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentobs.errors import Conflict, JournalError, JournalLocked
from agentobs.journal import sqlite as journal_module
from agentobs.journal import writer as writer_module
from agentobs.journal.protocol import Claim, Fence, Published
from agentobs.journal.sqlite import SqliteJournal, open_journal
from agentobs.models import pricing
from agentobs.models.usage import MAX_TOKENS, read_bill
from agentobs.offline import log_lines
from agentobs.records import (
    CANCELLED,
    CLOSED,
    EXACT,
    FAILED,
    FUNCTION,
    NOTED,
    OPENED,
    PARTIAL,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Change,
    Run,
    Step,
    new_run_id,
)

MS = 10**6
T0 = 1_800_000_000 * 10**9
PATIENCE_S = 3.0  # a commit that takes longer is never coming


@asynccontextmanager
async def journal_at(path: Path, **options: Any) -> AsyncIterator[SqliteJournal]:
    clock = iter(range(T0 + MS, T0 + 10**15, MS))
    journal = await open_journal(path, worker="w", wall_ns=lambda: next(clock), **options)
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def a_run(number: int = 1, **fields: Any) -> Run:
    run_id = new_run_id(T0 // MS + number, number.to_bytes(10, "big"))
    return Run(id=run_id, workflow="article", version="1", input="{}", created_at=T0, **fields)


def a_step(claim: Claim, **fields: Any) -> Step:
    values: dict[str, Any] = {
        "run_id": claim.run.id, "number": claim.next_step, "execution": claim.execution.number, "key": "k",
        "kind": FUNCTION, "name": "fetch", "started_at": T0 + 100 * MS, "seq": claim.next_seq,
    }  # fmt: skip
    return Step(**values | fields)


def an_attempt(claim: Claim, **fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "run_id": claim.run.id, "step": claim.next_step, "turn": 1, "number": 1, "model": "m", "provider": "p",
        "url": "http://localhost", "started_at": T0 + 100 * MS, "turn_started_at": T0 + 100 * MS,
        "seq": claim.next_seq + 1,
    }  # fmt: skip
    return Attempt(**values | fields)


async def claimed(journal: SqliteJournal, run_id: str) -> Claim:
    claim = await journal.claim(run_id, worker="w", version="1", max_recoveries=3)
    assert claim is not None
    return claim


async def started(journal: SqliteJournal, run: Run | None = None) -> Claim:
    run = run or a_run()
    await journal.submit(run, max_queued=10)
    return await claimed(journal, run.id)


def fence_of(claim: Claim) -> Fence:
    return Fence(claim.run.id, claim.run.epoch)


def ended(claim: Claim, status: str, seq: int) -> tuple[Change, Change]:
    """The execution's and the run's end, as one unit."""
    at = T0 + 200 * MS
    error = None if status == SUCCEEDED else "workflow_error"
    execution = dataclasses.replace(claim.execution, ended_at=at, outcome=status, error_type=error, end_seq=seq)
    run = dataclasses.replace(
        claim.run, status=status, ended_at=at, error_type=error, end_seq=seq + 1, first_status=status,
        first_ended_at=at, first_error_type=error,
    )  # fmt: skip
    return Change(CLOSED, execution), Change(CLOSED, run)


# ---- the numbers of a run's events ----


async def test_a_resumed_execution_does_not_take_the_number_of_the_runs_earlier_end(path: Path) -> None:
    """Else a reader that resumes with Last-Event-ID at the end never sees the new execution."""
    async with journal_at(path) as journal:
        claim = await started(journal)
        last = claim.next_seq + 1
        await journal.commit(fence_of(claim), ended(claim, FAILED, claim.next_seq))
        await journal.request_resume(claim.run.id)
        resumed = await claimed(journal, claim.run.id)
        assert resumed.execution.seq > last


async def test_a_run_that_cannot_be_resumed_says_what_became_of_it(path: Path) -> None:
    async with journal_at(path) as journal:
        claim = await started(journal)
        with pytest.raises(Conflict, match=f"run {claim.run.id} is running; only a failed"):
            await journal.request_resume(claim.run.id)
        await journal.commit(fence_of(claim), ended(claim, SUCCEEDED, claim.next_seq))
        with pytest.raises(Conflict, match=f"run {claim.run.id} has succeeded; only a failed"):
            await journal.request_resume(claim.run.id)


async def test_a_run_cancelled_before_its_start_and_resumed_numbers_on(path: Path) -> None:
    async with journal_at(path) as journal:
        run = a_run()
        await journal.submit(run, max_queued=10)
        cancelled = await journal.request_cancel(run.id)
        assert cancelled.end_seq is not None
        await journal.request_resume(run.id)
        claim = await claimed(journal, run.id)
        assert claim.execution.seq > cancelled.end_seq


# ---- takeover ----


async def test_a_dead_execution_ends_at_its_last_commit_also_when_that_was_the_start_of_a_stream(path: Path) -> None:
    async with journal_at(path) as journal:
        claim = await started(journal)
        attempt = an_attempt(claim, stream=True)
        await journal.commit(fence_of(claim), [Change(OPENED, a_step(claim)), Change(OPENED, attempt)])
        began = dataclasses.replace(
            attempt, first_chunk_at=T0 + 5_000 * MS, usage=PARTIAL, input_uncached=10, output=1, request_id="r"
        )
        await journal.commit(fence_of(claim), [Change(NOTED, began)])
    async with journal_at(path) as journal:
        recovered = await claimed(journal, claim.run.id)
        (kept,) = recovered.history.attempts
        assert kept.request_id == "r"
        assert kept.first_chunk_at == began.first_chunk_at
        assert kept.ended_at is not None
        assert kept.ended_at >= T0 + 5_000 * MS


async def test_the_claimed_run_is_the_stored_run(path: Path) -> None:
    """`claim.run` is what the engine makes its later records of; the row's `next_reason` has moved on."""
    async with journal_at(path) as journal:
        claim = await started(journal)
        assert claim.run == await journal.run(claim.run.id)


# ---- cancelling ----


async def test_a_cancelled_runs_record_is_the_stored_one_in_the_answer_and_as_published(path: Path) -> None:
    async with journal_at(path) as journal:
        published: list[Published] = []
        journal.subscribe(published.extend)
        run = a_run()
        await journal.submit(run, max_queued=10)
        answer = await journal.request_cancel(run.id)
        stored = await journal.run(run.id)
        assert answer == stored
        assert published[-1].changes[-1].record == stored


async def test_cancelling_a_run_whose_owner_is_dead_ends_it_here_and_now(path: Path) -> None:
    """protocol.py: "A run that nobody owns ends here and now". Its claim may be hours away: the process is full."""
    async with journal_at(path) as journal:
        claim = await started(journal)
    async with journal_at(path) as journal:
        assert (await journal.request_cancel(claim.run.id)).status == CANCELLED


# ---- the owner ----


async def test_a_journal_reached_through_a_link_has_one_owner_too(path: Path) -> None:
    link = path.with_name("link.db")
    async with journal_at(path):
        os.symlink(path, link)
        with pytest.raises(JournalLocked):
            async with journal_at(link):
                pass


# ---- the writer ----


async def test_a_histogram_that_raises_does_not_stop_the_journal(path: Path) -> None:
    """Invariant 5: telemetry never fails, blocks or slows a run."""

    def broken(_seconds: float) -> None:
        raise RuntimeError

    async with journal_at(path, observe_commit=broken) as journal:
        for number in (1, 2):
            async with asyncio.timeout(PATIENCE_S):
                await journal.submit(a_run(number), max_queued=10)


async def test_totals_that_cannot_be_stored_do_not_stop_the_journal(path: Path) -> None:
    """A provider can claim any number of tokens. Whatever becomes of the sum, the writer thread lives."""
    async with journal_at(path) as journal:
        batch = [journal.delivered([], [("tokens", ("m",), 2**62)]) for _ in range(8)]
        with contextlib.suppress(JournalError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*batch)
        async with asyncio.timeout(PATIENCE_S):
            await journal.submit(a_run(), max_queued=10)


async def test_a_total_above_nine_million_dollars_stays_exact(path: Path) -> None:
    """2**63 pico-dollars are 9.2 million dollars: SQLite goes on in floating point, PostgreSQL refuses."""
    million = 10**6 * 10**12
    async with journal_at(path) as journal:
        for _ in range(11):
            await journal.delivered([], [("cost", ("m",), million)])
        await journal.delivered([], [("cost", ("m",), 1)])
        assert (await journal.totals("w"))["cost", ("m",)] == 11 * million + 1


async def test_closing_goes_on_trying_until_its_timeout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close`: "What a refused commit still holds after `timeout_s` is given up", not after one more try."""
    pragmas = tuple(p if "busy" not in p else "busy_timeout = 20" for p in journal_module._WRITER_PRAGMAS)
    monkeypatch.setattr(journal_module, "_WRITER_PRAGMAS", pragmas)
    monkeypatch.setattr(writer_module, "RETRY_S", 0.05)
    journal = await open_journal(path, worker="w")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        paid = asyncio.ensure_future(journal.submit(a_run(), max_queued=10))
        await until(lambda: journal.trouble is not None)
        closing = asyncio.ensure_future(journal.close(timeout_s=PATIENCE_S))
        await asyncio.sleep(0.3)
    finally:
        other.execute("ROLLBACK")
        other.close()
    await closing
    assert (await paid).created


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)


# ---- text ----


@pytest.mark.parametrize("escaped", [r"\ud800", r"a\u0000b"])
async def test_a_tag_may_hold_what_other_stored_text_may_hold(path: Path, escaped: str) -> None:
    async with journal_at(path) as journal:
        submitted = await journal.submit(a_run(tags=f'{{"team":"{escaped}"}}'), max_queued=10)
        assert (await journal.run(submitted.run.id)) == submitted.run


@pytest.mark.parametrize("name", ["100%41.db", "a#b.db", "a?b.db"])
async def test_a_journals_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    async with journal_at(tmp_path / name) as journal:
        claim = await started(journal)
        assert (await journal.run(claim.run.id)).status == RUNNING  # type: ignore[union-attr]
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix == ".db") == [name]


@pytest.mark.parametrize("field", ["response_id", "response_model", "stop_reason"])
async def test_an_attempts_end_is_on_the_books_whatever_text_the_provider_sent(path: Path, field: str) -> None:
    """They come out of the answer's JSON as they are. A unit refused for one leaves a paid attempt open."""
    async with journal_at(path) as journal:
        claim = await started(journal)
        attempt = an_attempt(claim)
        await journal.commit(fence_of(claim), [Change(OPENED, a_step(claim)), Change(OPENED, attempt)])
        ended = dataclasses.replace(
            attempt, ended_at=T0 + 200 * MS, outcome="ok", usage="exact", input_uncached=10, output=5,
            **{field: "odd \ud800"},
        )  # fmt: skip
        await journal.commit(fence_of(claim), [Change(CLOSED, ended)])
        detail = await journal.detail(claim.run.id)
        assert detail is not None
        assert detail.attempts[0].output == 5


def test_whatever_usage_is_believed_can_be_stored() -> None:
    """The largest count that is read costs 2.7e23 pico-dollars: no column holds it, so the attempt's end is refused."""
    most = {"input_tokens": MAX_TOKENS - 1, "output_tokens": MAX_TOKENS - 1}
    bill = read_bill(most, EXACT)
    assert bill is None or (pricing.price(bill, "claude-opus-4-5", provider="anthropic").pico or 0) < 2**63


# ---- what follows from keeping a resumed run's end_seq ----


async def test_a_resumed_run_that_runs_has_not_finished_in_its_printed_lines(path: Path) -> None:
    async with journal_at(path) as journal:
        claim = await started(journal)
        await journal.commit(fence_of(claim), ended(claim, FAILED, claim.next_seq))
        await journal.request_resume(claim.run.id)
        await claimed(journal, claim.run.id)
        detail = await journal.detail(claim.run.id)
        assert detail is not None
        assert "run.finished" not in [line["event"] for line in log_lines(detail)]
