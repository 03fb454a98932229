"""Rows to records, whatever the backend."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from agentobs.journal.protocol import Owed, SpanRef
from agentobs.records import CLOSED, SETTLED, Attempt, Change, Execution, Note, Run, Step

R = TypeVar("R", Run, Execution, Step, Attempt, Note)

CARRY: Final = 10**18  # a total is carry * CARRY + value: exact, whatever it grows to

_FIELDS: Final = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (Run, Execution, Step, Attempt, Note)}
# Content: what a reader of summaries and totals leaves unread.
CONTENT: Final[dict[type, dict[str, str | None]]] = {
    Run: {"input": "null", "output": None, "error_detail": None},
    Step: {"input": "null", "output": None, "error_detail": None},
    Attempt: {"answer": None},
}


def record(kind: type[R], names: Sequence[str], row: Sequence[Any]) -> R:
    """A record from a row's column names and values; columns that the record does not have are passed over."""
    known = _FIELDS[kind]
    values = {name: value for name, value in zip(names, row, strict=True) if name in known}
    if kind is Attempt:
        values["final"] = bool(values["final"])
        values["stream"] = bool(values["stream"])
    return kind(**values)


def storable(text: str) -> str:
    """`text` with what UTF-8 cannot hold (lone surrogates) escaped; for columns that are not JSON."""
    return text.encode("utf-8", "backslashreplace").decode()


def parameters(found: Run | Execution | Step | Attempt | Note) -> Mapping[str, Any]:
    """A record's columns with every text storable: providers put anything into their ids."""
    return {name: storable(value) if isinstance(value, str) else value for name, value in vars(found).items()}


def owed_spans(changes: Iterable[Change]) -> tuple[SpanRef, ...]:
    """The spans that a unit's changes call for: one for each run (first end), later execution, step, turn, attempt."""
    refs: list[SpanRef] = []
    for verb, found in changes:
        if isinstance(found, Attempt):
            if verb == CLOSED:
                refs.append(SpanRef("attempt", found.run_id, found.step, found.turn, found.number))
            if verb == SETTLED or (verb == CLOSED and found.final):
                refs.append(SpanRef("turn", found.run_id, found.step, found.turn, found.number))
        elif verb != CLOSED:
            continue
        elif isinstance(found, Step):
            if not found.reused:
                refs.append(SpanRef("step", found.run_id, found.number))
        elif isinstance(found, Execution):
            if found.number > 1:
                refs.append(SpanRef("execution", found.run_id, found.number))
        elif isinstance(found, Run) and found.first_ended_at == found.ended_at:
            refs.append(SpanRef("run", found.id))
    return tuple(refs)


def spans_to_text(refs: Sequence[SpanRef]) -> str:
    """All refs of an outbox row belong to its run, so the id is left out."""
    return json.dumps([[ref.kind, ref.number, ref.turn, ref.attempt] for ref in refs], separators=(",", ":"))


def owed_from_row(row: Mapping[str, Any]) -> Owed:
    return Owed(
        id=row["id"],
        at=row["at"],
        spans=tuple(SpanRef(kind, row["run_id"], *numbers) for kind, *numbers in json.loads(row["spans"])),
    )
