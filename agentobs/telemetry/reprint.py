"""A run's log lines, made again from its records: what was logged at most once can be printed any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agentobs.records import CLOSED, OPENED, Attempt, Change, Execution, Run, Step
from agentobs.telemetry.loglines import Lines
from agentobs.telemetry.logs import timestamp


def printed(records: Iterable[Run | Execution | Step | Attempt]) -> Iterator[dict[str, Any]]:
    """The lines of one run's records as JSON objects, in the order of its sequence numbers."""
    lines = Lines()
    for change in _changes(records):
        for line in lines.of(change):
            yield {"timestamp": timestamp(line.at), "level": line.level, "event": line.event, **line.fields}


def _changes(records: Iterable[Run | Execution | Step | Attempt]) -> Iterator[Change]:
    found: list[tuple[int, Change]] = []
    for record in records:
        found.append((record.seq, Change(OPENED, record)))
        # A resumed run has no end, though its numbers go on after the earlier one.
        if record.ended_at is not None and record.end_seq is not None:
            found.append((record.end_seq, Change(CLOSED, record)))
    for _, change in sorted(found, key=lambda item: item[0]):
        yield change
