"""The SQLite journal: one owner, durable units, and patience when the disk refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing

import pytest

from agentobs.drift import Audit
from agentobs.errors import JournalError, JournalLocked, JournalUnavailable, QueueFull, SchemaMismatch, StaleOwner
from agentobs.journal import migrate
from agentobs.journal.protocol import NOT_REQUESTED, Fence, RunQuery
from agentobs.journal.sqlite import open_journal, open_reader
from agentobs.records import CLOSED, OPENED, Change, Run, Step, new_run_id


def a_run(**more) -> Run:
    at = time.time_ns()
    fields = {"id": new_run_id(at // 1_000_000, os.urandom(10)), "workflow": "w", "version": "0", "input": '"x"'}
    return Run(**{**fields, "created_at": at, **more})


def a_step(claim, number=1, **more) -> Step:
    fields = {"key": f":k{number}:1", "kind": "agent", "name": "writer", "seq": claim.next_seq}
    return Step(run_id=claim.run.id, number=number, execution=1, started_at=time.time_ns(), **{**fields, **more})


async def claimed(journal):
    run = a_run()
    await journal.submit(run, max_queued=10)
    claim = await journal.claim(run.id, worker="w", version="0", max_recoveries=3)
    return claim, Fence(run.id, claim.run.epoch)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


# ---- opening ----


async def test_a_new_journal_and_all_its_files_are_for_their_owner_alone(path):
    old = os.umask(0)
    try:
        journal = await open_journal(path, worker="w")
        await journal.submit(a_run(), max_queued=10)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        await journal.close()
    finally:
        os.umask(old)
    assert set(modes) == {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"}
    assert set(modes.values()) == {0o600}


async def test_a_second_owner_is_refused_with_the_name_of_the_first(path):
    first = await open_journal(path, worker="alpha")
    with pytest.raises(JournalLocked, match=rf"process {os.getpid()} \(alpha\).*--server"):
        await open_journal(path, worker="beta")
    await first.close()
    await (await open_journal(path, worker="beta")).close()


def test_a_killed_owner_leaves_no_lock_behind(path):
    code = (
        "import asyncio, os, signal, sys, pathlib\n"
        "from agentobs.journal.sqlite import open_journal\n"
        "async def main():\n"
        "    await open_journal(pathlib.Path(sys.argv[1]), worker='w')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -9

    async def reopen():
        await (await open_journal(path, worker="w")).close()

    asyncio.run(reopen())


async def test_an_older_schema_is_refused_with_the_command_that_mends_it(path, monkeypatch):
    await (await open_journal(path, worker="w")).close()
    known = migrate.known_version()
    monkeypatch.setattr(migrate, "known_version", lambda: known + 1)
    with pytest.raises(
        SchemaMismatch, match=f"schema version {known}, this agentobs needs {known + 1}.*agentobs migrate"
    ):
        await open_journal(path, worker="w")
    with pytest.raises(SchemaMismatch):
        open_reader(path)


def version_1(path, tmp_path, monkeypatch):
    """A journal as the first version of agentobs made it: by its migration alone."""
    shipped = tmp_path / "shipped" / "sqlite"
    shipped.mkdir(parents=True)
    for file in (migrate._FOLDER / "sqlite").glob("0001_*"):
        (shipped / file.name).write_text(file.read_text())
    with monkeypatch.context() as then:
        then.setattr(migrate, "_FOLDER", shipped.parent)
        assert migrate.migrate_sqlite(path) == (0, 1)
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO runs (id, workflow, status, version, tags, request_hash, created_at, epoch, next_reason, "
        "resumed_from, recoveries, seq, input) "
        "VALUES ('r', 'w', 'running', '0', '{}', '', 5, 1, 'recovered', 0, 0, 1, '1')"
    )
    db.execute(
        "INSERT INTO executions VALUES ('r', 1, 'started', 'w', 'o', 1, '0', 5, NULL, NULL, NULL, 0, 0, 2, NULL)"
    )
    db.commit()
    db.close()


async def test_a_journal_of_the_first_version_is_migrated_and_its_runs_go_on(path, tmp_path, monkeypatch):
    version_1(path, tmp_path, monkeypatch)
    with pytest.raises(SchemaMismatch, match="schema version 1, this agentobs needs 4; back it up, then run 'agentobs"):
        await open_journal(path, worker="w")
    assert migrate.migrate_sqlite(path) == (1, 4)
    journal = await open_journal(path, worker="w", export_requested=True)
    claim = await journal.claim("r", worker="w", version="1", max_recoveries=3, workflow_versions={"w": "2"})
    detail = await journal.detail("r")
    assert [one.workflow_version for one in detail.executions] == [None, "2"]
    assert (claim.run.workflow_version, detail.run.workflow_version) == (None, None)
    await journal.close()


async def test_spans_that_an_older_version_was_not_asked_for_are_counted_by_the_migration(path, tmp_path, monkeypatch):
    version_1(path, tmp_path, monkeypatch)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE runs SET first_ended_at = 9")
        db.execute("UPDATE executions SET ended_at = 9")  # the first is the run's own span
        db.execute("INSERT INTO executions VALUES ('r', 2, 'resumed', 'w', 'o', 1, '0', 5, 9, 's', NULL, 0, 0, 3, 4)")
        db.execute(
            "INSERT INTO steps (run_id, number, execution, key, branch, kind, name, status, started_at, ended_at, seq, "
            "input) VALUES ('r', 1, 1, 'k', '', 'agent', 's', 'failed', 5, 9, 5, '1')"
        )
        for number, ended_at, final in ((1, 9, 0), (2, 9, 1), (3, None, 0)):
            db.execute(
                "INSERT INTO attempts (run_id, step, turn, number, model, provider, url, stream, max_tokens, "
                "started_at, ended_at, usage, wait_ns, final, turn_started_at, seq) "
                "VALUES ('r', 1, 1, ?, 'm', 'p', '', 0, 1, 5, ?, 'exact', 0, ?, 5, 6)",
                (number, ended_at, final),
            )
        db.execute("INSERT INTO outbox VALUES (1, 5, 'r', '[[\"step\",1,0,0]]')")
        db.execute("INSERT INTO totals VALUES ('w', 'agentobs_spans_exported_total', '[\"ok\"]', 0, 1)")
        db.execute("INSERT INTO totals VALUES ('w', 'agentobs_spans_exported_total', '[\"error\"]', 0, 7)")
        db.commit()
    migrate.migrate_sqlite(path)
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT value FROM totals WHERE metric = ?", (NOT_REQUESTED,)).fetchall()
    # Due: the run, an execution, a step, two attempts, a turn. One is owed, one was acknowledged.
    assert found == [(4,)]


@pytest.mark.parametrize("requested", [True, False])
async def test_spans_that_are_not_asked_for_are_counted_with_their_records(path, requested):
    journal = await open_journal(path, worker="w", export_requested=requested)
    run = a_run()
    await journal.submit(run, max_queued=10)
    await journal.request_cancel(run.id)
    assert dict(await journal.totals("")).get((NOT_REQUESTED, ()), 0) == (0 if requested else 1)
    await journal.close()


async def test_of_each_kind_the_latest_audit_that_looked_for_it_counts(path):
    journal = await open_journal(path, worker="w")
    assert await journal.drift() == {}
    for drift in ({"totals": 3, "bill_differs": 2}, {"totals": 0, "spans": 1}):
        await journal.record_audit(Audit(at=1, took_ns=2, compared=drift, drift=drift))
    await journal.close()
    again = await open_journal(path, worker="w")
    assert await again.drift() == {"totals": 0, "bill_differs": 2, "spans": 1}
    await again.close()


async def test_a_run_and_its_executions_keep_the_version_of_the_workflow_that_ran_them(path):
    """The root stands for execution 1; steps and attempts have their execution's; what is published is what is kept."""
    published = []
    run = a_run()
    for version in ("1", "2"):
        journal = await open_journal(path, worker="w", export_requested=True)
        journal.subscribe(published.extend)
        if version == "1":
            await journal.submit(run, max_queued=10)
            assert (await journal.run(run.id)).workflow_version is None, "nobody runs it yet"
        claim = await journal.claim(
            run.id, worker="w", version="0", max_recoveries=3, workflow_versions={"w": version, "other": "9"}
        )
        assert (claim.run.workflow_version, claim.execution.workflow_version) == ("1", version)
        step = Step(
            run_id=run.id, number=claim.next_step, execution=claim.execution.number, key=f"k{version}", kind="function",
            name="f", started_at=time.time_ns(), seq=claim.next_seq, workflow="w", version="0",
            workflow_version=claim.execution.workflow_version, reason=claim.execution.reason,
        )  # fmt: skip
        await journal.commit(Fence(run.id, claim.run.epoch), [Change(OPENED, step)])
        closed = dataclasses.replace(step, status="succeeded", ended_at=step.started_at + 1, end_seq=step.seq + 1)
        await journal.commit(Fence(run.id, claim.run.epoch), [Change(CLOSED, closed)])
        detail = await journal.detail(run.id)
        assert detail.steps[-1] == closed
        assert detail.run == claim.run
        pending = await journal.pending_spans(0, 100)
        await journal.close()
    assert [one.workflow_version for one in detail.executions] == ["1", "2"]
    assert [one.workflow_version for one in detail.steps] == ["1", "2"]
    owed = [change.record for unit in published if unit.owed for change in unit.changes if change.verb == CLOSED]
    assert [one.record for _, changes in pending for one in changes] == [one for one in owed if isinstance(one, Step)]


@pytest.mark.parametrize(("ahead", "accepted"), [(1, True), (2, False)])
async def test_the_next_schema_is_accepted_and_one_beyond_it_is_not(path, ahead, accepted):
    await (await open_journal(path, worker="w")).close()
    db = sqlite3.connect(path)
    known = migrate.known_version()
    for version in range(known + 1, known + ahead + 1):
        db.execute(
            "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) VALUES (?, ?, datetime())",
            (str(version), f"{version:04}_later"),
        )
    db.commit()
    db.close()
    if accepted:
        await (await open_journal(path, worker="w")).close()
    else:
        with pytest.raises(SchemaMismatch, match=f"schema version {known + 2}.*upgrade agentobs"):
            await open_journal(path, worker="w")


async def test_a_file_that_is_no_journal_is_refused_untouched(path):
    path.write_bytes(b"these are notes of mine" * 100)
    with pytest.raises(JournalUnavailable, match="cannot be read as a journal"):
        await open_journal(path, worker="w")
    assert path.read_bytes() == b"these are notes of mine" * 100
    other = path.with_name("other.db")
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(SchemaMismatch, match="not a journal of agentobs"):
        await open_journal(other, worker="w")


async def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(JournalUnavailable, match=r"cannot be opened .*AGENTOBS_DATABASE_URL"):
        await open_journal(tmp_path / "no" / "journal.db", worker="w")


# ---- units ----


async def test_units_of_one_run_commit_in_order_and_are_published_before_their_callers_are_told(path):
    journal = await open_journal(path, worker="w")
    seen, told = [], []
    claim, fence = await claimed(journal)
    journal.subscribe(lambda batch: seen.extend(c.record.number for one in batch for c in one.changes))
    futures = [journal.commit(fence, [Change(OPENED, a_step(claim, n))]) for n in range(1, 6)]
    for future in futures:
        future.add_done_callback(lambda _: told.append(list(seen)))
    await asyncio.gather(*futures)
    assert seen == [1, 2, 3, 4, 5]
    assert all(len(one) >= n for n, one in enumerate(told, 1))
    await journal.close()


async def test_a_unit_that_fails_is_rolled_back_alone(path):
    journal = await open_journal(path, worker="w", deltas=lambda _: [("m", ("a",), 1)])
    claim, fence = await claimed(journal)
    good = journal.commit(fence, [Change(OPENED, a_step(claim, 1))])
    half = journal.commit(fence, [Change(OPENED, a_step(claim, 2)), Change(OPENED, a_step(claim, 1))])
    odd = journal.commit(fence, [Change(OPENED, a_step(claim, 3, input=object()))])  # no column holds that
    after = journal.commit(fence, [Change(OPENED, a_step(claim, 4))])
    results = await asyncio.gather(good, half, odd, after, return_exceptions=True)
    assert [type(one) for one in results] == [type(None), JournalError, JournalError, type(None)]
    assert "object" not in str(results[2])
    detail = await journal.detail(claim.run.id)
    assert [step.number for step in detail.steps] == [1, 4]
    assert await journal.totals("w") == {("m", ("a",)): 4}  # run, execution, two steps
    await journal.close()


async def test_an_older_epoch_writes_nothing(path):
    journal = await open_journal(path, worker="w")
    claim, fence = await claimed(journal)
    await journal.commit(fence, [Change(OPENED, a_step(claim, 1))])
    with pytest.raises(StaleOwner, match="taken over"):
        await journal.commit(Fence(fence.run_id, fence.epoch - 1), [Change(OPENED, a_step(claim, 2))])
    assert len((await journal.detail(claim.run.id)).steps) == 1
    await journal.close()


async def test_the_first_end_counts_and_the_second_is_refused(path):
    journal = await open_journal(path, worker="w")
    claim, fence = await claimed(journal)
    step = a_step(claim)
    await journal.commit(fence, [Change(OPENED, step)])
    ended = dataclasses.replace(step, status="succeeded", ended_at=5, end_seq=9, output='"first"')
    await journal.commit(fence, [Change(CLOSED, ended)])
    with pytest.raises(StaleOwner, match="ended already"):
        await journal.commit(fence, [Change(CLOSED, dataclasses.replace(ended, output='"second"'))])
    assert (await journal.detail(claim.run.id)).steps[0].output == '"first"'
    await journal.close()


async def test_a_run_has_at_most_one_succeeded_row_a_step_key(path):
    journal = await open_journal(path, worker="w")
    claim, fence = await claimed(journal)
    for number in (1, 2):
        step = a_step(claim, number, key="same")
        await journal.commit(fence, [Change(OPENED, step)])
        ended = dataclasses.replace(step, status="succeeded", ended_at=5, end_seq=9)
        future = journal.commit(fence, [Change(CLOSED, ended)])
        if number == 1:
            await future
        else:
            with pytest.raises(JournalError):
                await future
    await journal.close()


async def test_more_queued_runs_than_allowed_are_refused(path):
    journal = await open_journal(path, worker="w")
    await journal.submit(a_run(), max_queued=2)
    await journal.submit(a_run(), max_queued=2)
    with pytest.raises(QueueFull, match="2 runs are queued"):
        await journal.submit(a_run(), max_queued=2)
    await journal.close()


async def test_a_subscriber_that_raises_fails_nothing(path):
    journal = await open_journal(path, worker="w")

    def broken(_):
        raise ValueError

    seen = []
    journal.subscribe(broken)
    journal.subscribe(seen.extend)
    await journal.submit(a_run(), max_queued=2)
    assert len(seen) == 1
    await journal.close()


# ---- the disk ----


async def test_a_full_disk_pauses_commits_loses_nothing_and_says_why(path):
    """RLIMIT_FSIZE makes the kernel refuse growth of the file: the same errors as a full disk, and it can be undone."""
    journal = await open_journal(path, worker="w")
    claim, fence = await claimed(journal)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (path.parent / "journal.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        futures = [
            journal.commit(fence, [Change(OPENED, a_step(claim, n, input='"' + "x" * 5000 + '"'))]) for n in range(1, 4)
        ]
        async with asyncio.timeout(10):
            while journal.trouble is None:
                await asyncio.sleep(0.01)
        assert journal.trouble in {"the disk is full", "the disk reports an error"}
        assert not any(future.done() for future in futures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert journal.trouble is None
    assert journal.errors > 0
    assert len((await journal.detail(claim.run.id)).steps) == 3
    await journal.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of our own: mount says {mounted.stderr.decode().strip()[:80]}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler) -> None:
    with filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_disk_that_is_really_full_pauses_and_room_ends_the_pause(small_disk):
    journal = await open_journal(small_disk / "journal.db", worker="w")
    claim, fence = await claimed(journal)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    future = journal.commit(fence, [Change(OPENED, a_step(claim, input='"' + "x" * 100_000 + '"'))])
    async with asyncio.timeout(10):
        while journal.trouble is None:
            await asyncio.sleep(0.01)
    assert journal.trouble == "the disk is full"
    filler.unlink()
    await asyncio.wait_for(future, 10)
    assert journal.trouble is None
    await journal.close()


# ---- reading ----


async def test_others_read_while_the_owner_writes_and_after_it_died(path):
    journal = await open_journal(path, worker="w")
    run = a_run(tags='{"team":"docs"}')
    await journal.submit(run, max_queued=10)
    reader = open_reader(path)
    assert (await reader.run(run.id)).id == run.id
    await reader.close()
    await journal.close()
    reader = open_reader(path)
    assert [d.run.id for d in await reader.details(RunQuery(tag=("team", "docs")))] == [run.id]
    assert await reader.details(RunQuery(tag=("team", "ops"))) == []
    await reader.close()


async def test_pages_are_newest_first_and_neither_repeat_nor_miss(path):
    journal = await open_journal(path, worker="w")
    runs = [a_run(id=new_run_id(1_700_000_000_000 + n, bytes(10)), workflow=f"w{n % 2}") for n in range(7)]
    for run in runs:
        await journal.submit(run, max_queued=10)
    pages, before = [], None
    while page := await journal.details(RunQuery(limit=3, before=before)):
        pages.append([d.run.id for d in page])
        before = pages[-1][-1]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [run_id for page in pages for run_id in page] == [run.id for run in reversed(runs)]
    some = await journal.details(RunQuery(workflow="w1", since_ms=1_700_000_000_002, until_ms=1_700_000_000_005))
    assert [d.run.id for d in some] == [runs[3].id]
    await journal.close()


async def test_a_summary_read_leaves_content_unread(path):
    journal = await open_journal(path, worker="w")
    claim, fence = await claimed(journal)
    await journal.commit(fence, [Change(OPENED, a_step(claim, input='"prompt"'))])
    lean = await journal.detail(claim.run.id, content=False)
    whole = await journal.detail(claim.run.id)
    assert (lean.run.input, lean.steps[0].input) == ("null", "null")
    assert (whole.run.input, whole.steps[0].input) == ('"x"', '"prompt"')
    assert dataclasses.replace(lean.steps[0], input='"prompt"') == whole.steps[0]
    await journal.close()
