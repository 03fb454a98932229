"""The bill: every request in the order it was accepted, with the usage that a provider would charge.

A line is opened when a request has been read and kept up to date until its answer is over, always before
the bytes that tell the caller the same leave: who has read an answer finds it on the bill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in the API's own sense: input without cache, output with thinking."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0

    def as_json(self) -> dict[str, int]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
        }


NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Line:
    """One request to `/v1/messages`."""

    request_id: str
    client_ref: str | None
    """The caller's `x-agentobs-attempt` header."""
    at: float
    """When it was accepted, seconds since the epoch."""
    model: str | None = None
    """As the request names it; None when it could not be read."""
    status: int | None = None
    """The HTTP status that was sent; None when none was."""
    stream: bool = False
    fault: str | None = None
    aborted: bool = False
    """The caller hung up before the whole answer was written."""
    usage: Usage = NOTHING

    def as_json(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "client_ref": self.client_ref,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "model": self.model,
            "status": self.status,
            "stream": self.stream,
            "fault": self.fault,
            "aborted": self.aborted,
            "usage": self.usage.as_json(),
        }


class Bill:
    """Lines that can be replaced but never move, and their running sum."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._next = 0
        self._lines: dict[int, Line] = {}
        self._totals = NOTHING

    def open(self, request_id: str, client_ref: str | None) -> int:
        """Add a line for a request just accepted; returns its number, for `note`."""
        number = self._next
        self._next += 1
        self._lines[number] = Line(request_id, client_ref, self._wall_clock())
        return number

    def note(self, number: int, **changes: Any) -> None:
        """Replace fields of a line. A line that `clear` took away stays away."""
        line = self._lines.get(number)
        if line is None:
            return
        self._lines[number] = replace(line, **changes)
        usage = changes.get("usage")
        if usage is not None:
            self._totals = _sum(_sum(self._totals, line.usage, -1), usage, 1)

    def clear(self) -> None:
        """Empty it. Requests still under way are forgotten too."""
        self._lines.clear()
        self._totals = NOTHING

    def snapshot(self) -> tuple[tuple[Line, ...], Usage]:
        """All lines and their sum, at one moment."""
        return tuple(self._lines.values()), self._totals

    def of(self, client_ref: str | None) -> tuple[tuple[Line, ...], Usage]:
        """The lines of one caller's reference and their sum, at one moment; None: all."""
        lines, totals = self.snapshot()
        if client_ref is None:
            return lines, totals
        own = tuple(line for line in lines if line.client_ref == client_ref)
        return own, reduce(lambda total, line: _sum(total, line.usage, 1), own, NOTHING)

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(self._lines.values())

    @property
    def totals(self) -> Usage:
        return self._totals

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self._lines)

    def report(self) -> dict[str, Any]:
        """What `GET /_bill` answers."""
        lines, totals = self.snapshot()
        return {"requests": [line.as_json() for line in lines], "totals": totals.as_json()}


def _sum(left: Usage, right: Usage, sign: int) -> Usage:
    return Usage(
        left.input_tokens + sign * right.input_tokens,
        left.output_tokens + sign * right.output_tokens,
        left.cache_read_input_tokens + sign * right.cache_read_input_tokens,
        left.cache_creation_input_tokens + sign * right.cache_creation_input_tokens,
    )
