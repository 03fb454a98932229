"""What the runtime, the API and the trace exporter ask of a journal, whatever its backend.

Writes go through one path: a unit of changes, fenced by the run's epoch, committed whole or refused whole. The
commit is published to the subscribers in order before its caller is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

from agentobs.records import Attempt, Change, Execution, Note, Run, Step

Labels: TypeAlias = tuple[str, ...]  # label values in the order that the metric declares
Delta: TypeAlias = tuple[str, Labels, int]  # metric, label values, what to add (in the metric's integer unit)
Deltas: TypeAlias = Callable[[Change], Sequence[Delta]]


class Fence(NamedTuple):
    """A write of this run is valid while the run's row stands at this epoch."""

    run_id: str
    epoch: int


class SpanRef(NamedTuple):
    """A span that a committed change calls for: kind run, execution, step, turn or attempt, and which."""

    kind: str
    run_id: str
    number: int = 0  # of the execution, or of the step
    turn: int = 0
    attempt: int = 0


class Owed(NamedTuple):
    """One row of the outbox: the spans that one unit owes to the backend. An owner numbers its rows without gaps."""

    id: int
    at: int  # committed at, ns
    spans: tuple[SpanRef, ...]
    recalled: bool = False  # among them are spans of records that earlier units committed


class Published(NamedTuple):
    """One committed unit, as subscribers get it.

    `deltas` are those that went into the totals with it; `owed` is set when the unit has spans to deliver and
    trace export was requested. `traced` is False while sampling withholds the run's trace, perhaps for good.
    """

    changes: tuple[Change, ...]
    deltas: tuple[Delta, ...]
    owed: Owed | None
    traced: bool = True


Subscriber: TypeAlias = Callable[[Sequence[Published]], None]


@dataclass(frozen=True, kw_only=True)
class History:
    """What earlier executions of a run recorded; empty for its first."""

    steps: tuple[Step, ...] = ()  # all ended, in order of number
    attempts: tuple[Attempt, ...] = ()  # all ended, in order of step, turn, number
    notes: tuple[Note, ...] = ()
    resumed_from: int = 0  # failures of executions before this one are run again
    elapsed_ns: int = 0  # time spent inside earlier executions
    source: History | None = None  # of a fork: what it may reuse of the run that it was forked from


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that is now ours, its new execution, and what came before."""

    run: Run
    execution: Execution
    history: History
    next_step: int = 1
    next_seq: int = 1


class Submitted(NamedTuple):
    run: Run
    created: bool  # False: the idempotency key had been used with the same body


class QueueState(NamedTuple):
    workflow: str
    queued: int
    oldest_created_at: int  # ns


# A total of no worker and no metric: spans of records that were committed while no trace export was requested.
NOT_REQUESTED: Final = "spans_not_requested"

DEFAULT_LIMIT: Final = 50  # runs a page
EVENTS: Final = 100  # events a page


@dataclass(frozen=True, kw_only=True)
class RunQuery:
    """Filters of a list of runs, newest first; `before` is the id after which the page begins (keyset)."""

    workflow: str | None = None
    status: str | None = None
    statuses: tuple[str, ...] = ()  # any of these; empty: whatever the status
    error_type: str | None = None
    tag: tuple[str, str] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    before: str | None = None
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, kw_only=True)
class RunDetail:
    """A run with everything recorded under it."""

    run: Run
    executions: tuple[Execution, ...] = ()
    steps: tuple[Step, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[Note, ...] = field(default=())
    forks: tuple[str, ...] = ()  # ids of the runs that were forked from it


class Event(NamedTuple):
    """One committed change of a run, with its record as it stood then. The same whenever it is read.

    Runs, executions, steps and attempts have two each, OPENED and CLOSED. What happened in between (NOTED), or turned
    out later (SETTLED), has no number of its own and is no event; nor is a note.
    """

    seq: int
    verb: str
    record: Run | Execution | Step | Attempt
    attempts: tuple[Attempt, ...] = ()  # of a step that ended
    detail: RunDetail | None = (
        None  # of the run that was accepted or ended: what its summary is made of, without content
    )


@dataclass(frozen=True, kw_only=True)
class Events:
    """The next events of a run in their order. `over`: the run has ended, and nothing comes after these."""

    items: tuple[Event, ...] = ()
    over: bool = False
    last_seq: int = 0  # the run's highest number so far


class Reader(Protocol):
    """Reading a journal needs no ownership. Every call is a short transaction off the event loop."""

    async def run(self, run_id: str) -> Run | None: ...

    async def detail(self, run_id: str, *, content: bool = True) -> RunDetail | None:
        """With `content=False`, inputs, outputs and answers are left out (empty), which summaries need not read."""
        ...

    async def details(self, query: RunQuery) -> Sequence[RunDetail]:
        """One page, newest first, without content."""
        ...

    async def ids(self, query: RunQuery) -> Sequence[str]:
        """The ids of one page, newest first."""
        ...

    async def events(self, run_id: str, after: int, *, limit: int = EVENTS) -> Events | None:
        """The events numbered above `after`, at most `limit`; None when there is no such run.

        A run's numbers are committed in their order: who has read up to one of them has missed nothing below it. Of
        texts, only what a preview needs is read.
        """
        ...

    async def queue(self) -> Sequence[QueueState]: ...

    async def totals(self, worker: str) -> Mapping[tuple[str, Labels], int]: ...

    async def close(self) -> None: ...


class Journal(Reader, Protocol):
    """The owner's side. Errors: `JournalUnavailable` (at open), `StaleOwner`, `Conflict`, `QueueFull`, `NotFound`."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be committed now (disk full, …), or None. Commits wait meanwhile; nothing is lost."""
        ...

    @property
    def owner(self) -> str:
        """The UUID of this process."""
        ...

    def subscribe(self, subscriber: Subscriber) -> None:
        """Called on the event loop with each committed batch, in order. What it raises is logged, nothing else."""
        ...

    def commit(self, fence: Fence, changes: Sequence[Change]) -> asyncio.Future[None]:
        """Queue a unit and return at once; the future ends when it is durable, or with `StaleOwner`.

        Units of one run commit in the order of these calls. A close is compare-and-set: where the row has already
        ended, the future ends with `StaleOwner` and nothing of the unit is written.
        """
        ...

    async def submit(self, run: Run, *, max_queued: int) -> Submitted: ...

    async def claimable(self, workflows: Sequence[str], limit: int, after: str = "") -> Sequence[str]:
        """Ids after `after` of runs that nobody living owns and that should run, oldest first."""
        ...

    def claim(
        self,
        run_id: str,
        *,
        worker: str,
        version: str,
        max_recoveries: int,
        workflow_versions: Mapping[str, str | None] = {},
    ) -> asyncio.Future[Claim | None]:
        """Take the run over: one transaction as DESIGN.md's "Ownership" has it.

        `workflow_versions`: by the workflow's name, what the code calls itself that would run it.

        None: another living owner has it, it has ended, or it was ended here (parked after too many recoveries,
        cancelled while nobody owned it).
        """
        ...

    async def request_cancel(self, run_id: str) -> Run:
        """Make the wish durable. A run that nobody owns ends here and now; of an owned one the owner must be told.

        `NotFound`; `Conflict` when it has succeeded or failed already.
        """
        ...

    async def request_resume(self, run_id: str) -> Run:
        """Queue a failed or cancelled run for an execution with reason `resumed`. `NotFound`, `Conflict`."""
        ...

    def blame(self, run_id: str, *, timeout_s: float) -> bool:
        """Any thread, with the event loop blocked: this process is about to die of that run.

        The deaths of the other runs it holds will then not count towards `max_recoveries`. Whether it was committed.
        """
        ...

    async def pending_spans(self, after: int, limit: int) -> Sequence[tuple[Owed, tuple[Change, ...]]]:
        """Outbox rows with an id above `after`, oldest first, each with its changes as they were published."""
        ...

    async def pending_span_stats(self) -> tuple[int, int | None]:
        """How many spans are pending, and when the oldest was committed (ns)."""
        ...

    def delivered(self, rows: Sequence[int], deltas: Sequence[Delta]) -> asyncio.Future[None]:
        """Take rows off the outbox, and count in the same transaction what became of their spans."""
        ...
