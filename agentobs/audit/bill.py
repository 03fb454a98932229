"""The simulator's bill, line by line: it and the journal differ only on lines whose attempt is inexact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agentobs.audit.tally import Tally
from agentobs.errors import UsageError
from agentobs.records import EXACT, NS, PARTIAL, Attempt, attempt_span_id

UNKNOWN_KIND: Final = "bill_unknown"
TWICE: Final = "bill_twice"
DIFFERS: Final = "bill_differs"
MISSING: Final = "bill_missing"
# Our classes, and what the bill calls them.
CLASSES: Final = {
    "input_uncached": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
}


@dataclass(frozen=True, slots=True)
class Line:
    request_id: str
    client_ref: str | None
    at: int
    model: str | None
    usage: tuple[int, ...]  # in the order of CLASSES


@dataclass(frozen=True, kw_only=True)
class Bill:
    """`taken_at`: what ended later (ns) can be missing from it, or not yet be whole."""

    lines: Sequence[Line]
    taken_at: int


def read_lines(requests: Sequence[Mapping[str, Any]], taken_at: int) -> Bill:
    """Raises `UsageError` for what is no line of the simulator's bill."""
    lines = []
    for number, told in enumerate(requests, 1):
        try:
            usage = tuple(int(told["usage"][name]) for name in CLASSES.values())
            at = int(datetime.fromisoformat(told["at"]).timestamp() * 10**6) * (NS // 10**6)
            lines.append(Line(str(told["request_id"]), told["client_ref"], at, told["model"], usage))
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"request {number} of the bill is none that the simulator wrote; expected request_id, client_ref, at, "
                "model and usage, as in GET /_bill"
            ) from None
    return Bill(lines=lines, taken_at=taken_at)


class BillCheck:
    def __init__(self, tally: Tally, bill: Bill) -> None:
        self._tally = tally
        self._taken_at = bill.taken_at
        self._begins_at = min((line.at for line in bill.lines), default=0)
        self._lines: defaultdict[str | None, list[Line]] = defaultdict(list)
        for line in bill.lines:
            self._lines[line.client_ref].append(line)
        self._before = 0
        self._inexact = 0
        tally.look_at(UNKNOWN_KIND, TWICE, DIFFERS, MISSING)

    def see(self, attempt: Attempt) -> None:
        lines = self._lines.pop(attempt_span_id(attempt), [])
        for kind in (UNKNOWN_KIND, TWICE):
            self._tally.compare(kind, len(lines))
        if len(lines) > 1:
            ids = ", ".join(line.request_id for line in lines)
            self._tally.differ(TWICE, f"{_place(attempt)} is on the bill {len(lines)} times: {ids}", [attempt.run_id])
        if attempt.ended_at is None or attempt.ended_at > self._taken_at:
            return
        if not lines:
            self._see_unbilled(attempt)
            return
        self._tally.compare(MISSING)
        self._tally.compare(DIFFERS, len(lines))
        self._inexact += attempt.usage != EXACT
        # Of several lines the one that was answered is the attempt's own.
        own = next((line for line in lines if line.request_id == attempt.request_id), lines[0])
        if why := _difference(attempt, own):
            self._tally.differ(DIFFERS, f"{_place(attempt)}, request {own.request_id}: {why}", [attempt.run_id])

    def _see_unbilled(self, attempt: Attempt) -> None:
        if attempt.started_at < self._begins_at:
            self._before += 1
            return
        self._tally.compare(MISSING)
        if attempt.request_id is not None or attempt.http_status is not None or any(_held(attempt)):
            text = f"{_place(attempt)} holds {sum(_held(attempt))} tokens and is on no line of the bill"
            self._tally.differ(MISSING, f"{text} (request {attempt.request_id})", [attempt.run_id])

    def close(self) -> None:
        """What is left are lines of no attempt."""
        for ref, lines in self._lines.items():
            for line in lines:
                self._tally.compare(UNKNOWN_KIND)
                told = f"attempt {ref}, which the journal does not know" if ref else "no attempt: it is not agentobs'"
                self._tally.differ(
                    UNKNOWN_KIND, f"request {line.request_id} ({line.model}, {sum(line.usage)} tokens) names {told}"
                )
        if self._inexact:
            self._tally.remark(f"bill: {self._inexact} of its lines are of attempts whose usage was not told in full")
        if self._before:
            self._tally.remark(f"bill: {self._before} attempts are older than its first line; not looked for")


def _held(attempt: Attempt) -> list[int]:
    return [getattr(attempt, name) or 0 for name in CLASSES]


def _difference(attempt: Attempt, line: Line) -> str | None:
    if line.model != attempt.model:
        return f"the bill is for {line.model}, the attempt asked {attempt.model}"
    if attempt.request_id is not None and attempt.request_id != line.request_id:
        return f"the attempt was answered as {attempt.request_id}"
    for name, held, billed in zip(CLASSES, _held(attempt), line.usage, strict=True):
        if held != billed if attempt.usage == EXACT else (attempt.usage == PARTIAL and held > billed):
            return f"{name} {billed} on the bill, {held} in the journal ({attempt.usage})"
    return None


def _place(attempt: Attempt) -> str:
    return f"step {attempt.step}, turn {attempt.turn}, attempt {attempt.number}"
