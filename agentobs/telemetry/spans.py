"""A span in plain values, and what all spans of ours have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from agentobs.records import Attempt, Execution, Run, Step, trace_id
from agentobs.telemetry import names

Value: TypeAlias = str | int | float | bool | tuple[str, ...]

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_PORTS: Final = {"https": 443, "http": 80}


class Link(NamedTuple):
    """A span in another trace: a caller's, or of the run that this one was forked from."""

    trace_id: str
    span_id: str
    flags: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanData:
    """A span in plain values. `client`: kind CLIENT, else INTERNAL; `error`: status ERROR (never with a text)."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: int
    end: int
    attributes: Mapping[str, Value]
    client: bool = False
    error: bool = False
    links: tuple[Link, ...] = ()


def common(record: Run | Execution | Step | Attempt, execution: int = 1) -> dict[str, Value | None]:
    found: dict[str, Value | None] = {
        names.RUN_ID: record.id if isinstance(record, Run) else record.run_id,
        names.WORKFLOW: record.workflow,
        names.VERSION: record.version,
        names.WORKFLOW_VERSION: record.workflow_version,
    }
    if not isinstance(record, Run) and execution > 1:  # the root stands for execution 1
        found |= {names.EXECUTION_NUMBER: execution, names.EXECUTION_REASON: record.reason}
    return found


def made(
    name: str,
    run_id: str,
    own_id: str,
    parent_id: str | None,
    times: tuple[int, int | None],
    attributes: Mapping[str, Value | None],
    *,
    client: bool = False,
    links: tuple[Link, ...] = (),
) -> SpanData:
    start, end = times
    return SpanData(
        name=name,
        trace_id=trace_id(run_id),
        span_id=own_id,
        parent_id=parent_id,
        start=start,
        end=start if end is None else max(start, end),
        attributes={key: value for key, value in attributes.items() if value is not None},
        client=client,
        error=attributes.get(names.ERROR_TYPE) is not None,
        links=links,
    )


def caller(traceparent: str | None) -> Link | None:
    """The span that a W3C traceparent header names, or None."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return Link(found[1], found[2], int(found[3], 16)) if found else None


@lru_cache(maxsize=256)
def server(url: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None, None
