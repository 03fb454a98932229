"""What a committed change adds to the counters that restart from the journal's totals.

Pure and total: called by the journal's writer inside the transaction, where an exception would undo the unit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from agentobs.records import (
    CANCELLED,
    CLOSED,
    EXACT,
    OPENED,
    SETTLED,
    UNKNOWN,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
)
from agentobs.telemetry import names
from agentobs.telemetry.published import Delta, Labels
from agentobs.telemetry.text import clean, provider_name

_NONE: Final[tuple[Delta, ...]] = ()
_TOO_MUCH: Final = 2**62  # what a database's integer could not add up


def deltas(change: Change) -> Sequence[Delta]:
    """`(metric, label values, integer)` for each counter that the change moves; zeros are left out."""
    try:
        return [delta for delta in _deltas(change) if 0 < delta[2] < _TOO_MUCH]
    except Exception:  # noqa: BLE001 -- telemetry never fails a commit
        return _NONE


def spans_exported(outcome: str, count: int) -> Delta:
    """What the outbox counts: spans sent (`ok`), tried in vain (`error`) or refused for good (`rejected`)."""
    return names.SPANS_EXPORTED.name, (outcome,), count


def run_labels(run: Run) -> Labels:
    return run.workflow, run.status, run.error_type or (CANCELLED if run.status == CANCELLED else "")


def _deltas(change: Change) -> Sequence[Delta]:
    verb, record = change
    if isinstance(record, Attempt):
        if verb == CLOSED:
            return _attempt(record)
        return _turn(record) if verb == SETTLED else _NONE
    if isinstance(record, Step):
        if verb != CLOSED or record.reused:
            return _NONE
        return ((names.STEPS.name, (record.workflow, record.kind, record.name, record.status), 1),)
    if isinstance(record, Execution):
        return ((names.EXECUTIONS.name, (record.workflow, record.reason), 1),) if verb == OPENED else _NONE
    if isinstance(record, Run):
        return ((names.RUNS.name, run_labels(record), 1),) if verb == CLOSED else _NONE
    return _reused(record) if record.kind == names.NOTE_REUSED else _NONE


def _attempt(attempt: Attempt) -> Sequence[Delta]:
    model = clean(attempt.model)
    who = (attempt.workflow, attempt.agent, model)
    outcome = attempt.outcome or UNKNOWN
    found: list[Delta] = [
        (names.ATTEMPTS.name, (*who, outcome), 1),
        (names.RETRY_WAIT_SECONDS.name, who, attempt.wait_ns),
    ]
    if attempt.usage != EXACT:
        found.append((names.INEXACT.name, (*who, attempt.usage), 1))
    if attempt.usage != UNKNOWN:
        used = 0
        for kind in names.TOKEN_KINDS:
            count: int = getattr(attempt, kind) or 0
            used += count
            found.append((names.TOKENS_TOTAL.name, (*who, kind), count))
        if attempt.cost_pico is not None:
            found.append((names.COST.name, (*who, outcome), attempt.cost_pico))
        elif used:
            found.append((names.UNPRICED.name, (model,), 1))
    if attempt.final:
        found += _turn(attempt)
    return found


def _turn(attempt: Attempt) -> Sequence[Delta]:
    """Usage of the logical call: that of its last attempt, as the semantic conventions have it."""
    if attempt.usage == UNKNOWN:
        return _NONE
    labels = (names.CHAT, provider_name(attempt.provider), clean(attempt.model), names.MODALITY)
    read, write = attempt.cache_read or 0, attempt.cache_write or 0
    return (
        (names.GEN_AI_INPUT.name, labels, (attempt.input_uncached or 0) + read + write),
        (names.GEN_AI_OUTPUT.name, labels, attempt.output or 0),
        (names.GEN_AI_CACHE_READ.name, labels, read),
        (names.GEN_AI_CACHE_WRITE.name, labels, write),
    )


def _reused(note: Note) -> Sequence[Delta]:
    value = json.loads(note.value)
    labels = (note.workflow, note.key.removeprefix(f"{names.NOTE_REUSED}:"))
    return (
        (names.STEPS_REUSED.name, labels, int(value.get("count", 0))),
        (names.SAVED.name, labels, int(value.get("saved_pico", 0))),
    )
