"""A run's events out of its rows: each record as it stood when it was opened, and when it was closed.

What a row tells now is more than was known when it was opened; an event must be the same whenever it is read, so the
rest is taken off again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from agentobs.journal.protocol import Event, RunDetail
from agentobs.journal.rows import CONTENT
from agentobs.records import (
    CLOSED,
    ENDED,
    OPENED,
    QUEUED,
    RUNNING,
    UNKNOWN,
    Attempt,
    Execution,
    Note,
    Run,
    Step,
)

# SQL read in place of columns; {} is the column.
EMPTY: Final = {
    kind: {name: "NULL" if value is None else f"'{value}'" for name, value in absent.items()}
    for kind, absent in CONTENT.items()
}
# The beginning of a text is enough for its preview (200 characters, each at most two escapes of six); of anything
# else all is, because it must be read as JSON.
_BEGINNING: Final = "CASE WHEN substr({0}, 1, 1) = '\"' THEN substr({0}, 1, 2500) ELSE {0} END"
PREVIEWED: Final[dict[type, dict[str, str]]] = {
    Step: {"input": _BEGINNING, "output": _BEGINNING, "error_detail": "NULL"}
}

# What requeue_run takes off a run's row; started_at is that of a run which had not begun.
_KEPT: Final = (
    *("status", "started_at", "ended_at", "end_seq"),
    *("error_type", "error_message", "error_step", "error_agent"),
)
_NEVER: Final[dict[str, Any]] = {"ended_at": None, "end_seq": None, "error_type": None}
_UNKNOWN_YET: Final = (
    *("first_chunk_at", "ended_at", "outcome", "http_status", "error_class", "request_id", "response_id"),
    *("response_model", "stop_reason", "input_uncached", "output", "cache_read", "cache_write", "reasoning"),
    *("cost_pico", "price_version", "not_before", "answer", "end_seq"),
)
_NEVER_OF_ATTEMPT: Final[dict[str, Any]] = {**dict.fromkeys(_UNKNOWN_YET), "usage": UNKNOWN, "final": False}


def end_note(run: Run, executions: int) -> Note:
    """What is kept of a run's end when the run is resumed: its later end is another event."""
    assert run.end_seq is not None
    assert run.ended_at is not None
    kept = {name: getattr(run, name) for name in _KEPT}
    return Note(
        run_id=run.id,
        execution=executions,
        seq=run.end_seq,
        kind=ENDED,
        value=json.dumps(kept),
        at=run.ended_at,
        workflow=run.workflow,
    )


def events_between(
    after: int,
    until: int,
    *,
    run: Run,
    executions: Iterable[Execution],
    steps: Iterable[Step],
    attempts: Sequence[Attempt],
    notes: Iterable[Note],
    detail: Callable[[], RunDetail],
) -> tuple[Event, ...]:
    """Those numbered above `after`, up to `until`, in order. `detail` is called for the end of a run alone."""
    found = [Event(run.seq, OPENED, opened := _opened_run(run), detail=RunDetail(run=opened))]
    ends = [_ended_run(run, note) for note in notes if note.kind == ENDED and after < note.seq <= until]
    if run.ended_at is not None and run.end_seq is not None and after < run.end_seq <= until:
        ends.append(run)
    found += [Event(end.end_seq or 0, CLOSED, end, detail=_as_of(end, detail())) for end in ends]
    for execution in executions:
        opened_execution = dataclasses.replace(execution, **_NEVER, outcome=None, reused=0, diverged=0)
        found += _both(execution, opened_execution, execution.seq, execution.end_seq)
    for step in steps:
        opened_step = dataclasses.replace(step, **_NEVER, status=RUNNING, output=None, error_detail=None)
        of_step = tuple(one for one in attempts if one.step == step.number)
        found += _both(step, opened_step, step.seq, step.end_seq, of_step)
    for attempt in attempts:
        found += _both(attempt, dataclasses.replace(attempt, **_NEVER_OF_ATTEMPT), attempt.seq, attempt.end_seq)
    return tuple(sorted((event for event in found if after < event.seq <= until), key=lambda event: event.seq))


def _both(now: Any, then: Any, seq: int, end_seq: int | None, attempts: tuple[Attempt, ...] = ()) -> Iterator[Event]:
    yield Event(seq, OPENED, then)
    if end_seq is not None:
        yield Event(end_seq, CLOSED, now, attempts)


def _opened_run(run: Run) -> Run:
    return Run(
        id=run.id,
        workflow=run.workflow,
        status=QUEUED,
        version=run.version,
        input=run.input,
        tags=run.tags,
        created_at=run.created_at,
        seq=run.seq,
    )


def _ended_run(run: Run, note: Note) -> Run:
    return dataclasses.replace(run, output=None, error_detail=None, **json.loads(note.value))


def _as_of(end: Run, detail: RunDetail) -> RunDetail:
    """What had been recorded when the run ended that time."""
    until = end.end_seq or 0
    return RunDetail(
        run=end,
        steps=tuple(step for step in detail.steps if step.seq < until),
        attempts=tuple(attempt for attempt in detail.attempts if attempt.seq < until),
    )
