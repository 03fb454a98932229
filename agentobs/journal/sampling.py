"""Which runs have their trace exported: sampling by run (docs/adr/0009-sampling-by-run.md).

A run that the share chooses owes each span when its record is committed, as without sampling. Every other run is
withheld: it owes nothing until one of its own records shows that it is worth a look. Then, in the transaction that
commits that record, it owes all its spans so far, and from there on each as it is committed. A run is never half
exported, and what was decided cannot be lost.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from agentobs.journal.protocol import SpanRef
from agentobs.journal.rows import owed_spans
from agentobs.records import (
    CANCELLED,
    CLOSED,
    NS,
    OK,
    OPENED,
    SUCCEEDED,
    Attempt,
    Change,
    Execution,
    Note,
    Record,
    Run,
    Step,
)


class Sampling(NamedTuple):
    """`share` (0 to 1) of the healthy runs, and every run that is not, or lasts `slow_ns` or longer."""

    share: float = 1.0
    slow_ns: int = 60 * NS

    def chooses(self, run_id: str) -> bool:
        """Whether the run is among the share, whatever becomes of it. A larger share has the runs of a smaller one.

        By a hash: the bits of run ids themselves are not uniform.
        """
        if self.share >= 1:
            return True
        digest = hashlib.blake2b(f"sample\0{run_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64

    def keeps(self, changes: Sequence[Change], created_at: int) -> bool:
        """Whether a unit shows that its run, created at `created_at`, is not healthy or is slow already."""
        return any(
            (verb == CLOSED and not _healthy(record)) or _at(record) - created_at >= self.slow_ns
            for verb, record in changes
        )


EVERY_RUN: Final = Sampling()


class Judged(NamedTuple):
    """What a unit owes. `traced`: its run's trace is exported. `recalled`: spans of earlier units are among them."""

    spans: tuple[SpanRef, ...]
    traced: bool = True
    recalled: bool = False


class Sampler:
    """Decides inside the unit's transaction, in the writer thread."""

    def __init__(self, sql: Any, sampling: Sampling) -> None:
        self._sampling: Final = sampling
        self._withheld: Final[str] = sql.withheld_since.sql
        self._withhold: Final[str] = sql.withhold.sql
        self._release: Final[str] = sql.release_withheld.sql
        self._spans_of: Final[str] = sql.spans_of.sql

    def judge(self, db: sqlite3.Connection, run_id: str, changes: Sequence[Change]) -> Judged:
        key = {"run_id": run_id}
        withheld = db.execute(self._withheld, key).fetchone()
        if withheld is None:
            if not _submitted(changes) or self._sampling.chooses(run_id):
                return Judged(owed_spans(changes))
            db.execute(self._withhold, key)
            return Judged((), traced=False)
        # Chosen and withheld all the same: the share was smaller when the run was submitted.
        if not self._sampling.keeps(changes, withheld[0]) and not self._sampling.chooses(run_id):
            return Judged((), traced=False)
        db.execute(self._release, key)
        spans = tuple(SpanRef(kind, run_id, *place) for kind, *place in db.execute(self._spans_of, key))
        return Judged(spans, recalled=len(spans) > len(owed_spans(changes)))


def _submitted(changes: Sequence[Change]) -> bool:
    return any(verb == OPENED and isinstance(record, Run) for verb, record in changes)


def _healthy(record: Record) -> bool:
    """Of what has ended. Steps and attempts that a workflow which succeeds has cancelled are its own affair."""
    match record:
        case Attempt():
            return record.outcome in (OK, CANCELLED)
        case Step():
            return record.status in (SUCCEEDED, CANCELLED)
        case Execution():
            return record.outcome == SUCCEEDED
        case Run():
            return record.status == SUCCEEDED
        case Note():
            return True


def _at(record: Record) -> int:
    match record:
        case Note():
            return record.at
        case Run():
            return record.ended_at or record.created_at
        case _:
            return record.ended_at or record.started_at
