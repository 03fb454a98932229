"""Bars on a common time axis, in cells of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

DONE: Final = "done"
FAILED: Final = "failed"
WAIT: Final = "wait"
BETWEEN: Final = "between"
RUNNING: Final = "running"

_BLOCKS: Final = {DONE: "█", FAILED: "▒", WAIT: "·", BETWEEN: "─", RUNNING: "▓"}
_ASCII: Final = {DONE: "#", FAILED: "x", WAIT: ".", BETWEEN: "-", RUNNING: ">"}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_SHORTEST_MS: Final = 1e-6  # a nanosecond, as the journal counts; below it no axis can be drawn
STYLES: Final = {DONE: "cyan", FAILED: "red", WAIT: "yellow", BETWEEN: "dim", RUNNING: "green"}


class Segment(NamedTuple):
    """A stretch of time, from its start to its end in milliseconds of the axis."""

    start: float
    end: float
    kind: str


class Cells(NamedTuple):
    """Neighbouring cells of one kind."""

    text: str
    kind: str  # "" where nothing is


def sign(kind: str, *, unicode: bool) -> str:
    return (_BLOCKS if unicode else _ASCII)[kind]


def bar(segments: Sequence[Segment], total_ms: float, width: int, *, unicode: bool) -> list[Cells]:
    """The cells of one row; a later segment lies over an earlier one. Whatever happened is at least seen."""
    row: list[tuple[str, str]] = [(" ", "")] * width
    scale = width / total_ms if total_ms > _SHORTEST_MS else 0.0
    for start, end, kind in segments:
        first = min(max(start, 0.0) * scale, width - 1)
        last = max(min(end * scale, width), first)
        whole = int(last)
        for cell in range(int(first), whole):
            row[cell] = (sign(kind, unicode=unicode), kind)
        if whole < width and (rest := _rest(last - whole, kind, unicode=unicode, alone=whole <= int(first))):
            row[whole] = (rest, kind)
    return _joined(row)


def _rest(share: float, kind: str, *, unicode: bool, alone: bool) -> str:
    """How the last, partly filled cell looks; "" for one that is left as it is."""
    if unicode and kind == DONE:
        eighths = max(int(share * 8), 1) if alone else int(share * 8)
        return _EIGHTHS[eighths] if eighths else ""
    return sign(kind, unicode=unicode) if alone or share >= 0.5 else ""


def _joined(row: Sequence[tuple[str, str]]) -> list[Cells]:
    found: list[Cells] = []
    for text, kind in row:
        if found and found[-1].kind == kind:
            found[-1] = Cells(found[-1].text + text, kind)
        else:
            found.append(Cells(text, kind))
    return found
