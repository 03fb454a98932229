"""A run's steps and attempts on a common time axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from rich.text import Text

from agentobs import records
from agentobs.cli.bars import BETWEEN, DONE, FAILED, RUNNING, STYLES, WAIT, Segment, bar, sign
from agentobs.cli.figures import NONE, UNKNOWN, clean, count, dollars, duration, shortened
from agentobs.records import EXACT, INTERRUPTED, OK, PARTIAL, SUCCEEDED, TOOL

Json: TypeAlias = Mapping[str, Any]

DIM: Final = "dim"
STATUS_STYLES: Final = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "interrupted": "yellow"}
_MIN_BAR: Final = 10
_MAX_BAR: Final = 72
_MAX_LABEL: Final = 32
_HEADS: Final = ("time", "in", "out", "cost")
_WORDS: Final = (
    *((DONE, "answered"), (FAILED, "failed"), (WAIT, "waiting"), (BETWEEN, "between turns"), (RUNNING, "running")),
)


@dataclass(frozen=True)
class Look:
    """What the terminal can show."""

    width: int = 80
    unicode: bool = True

    @property
    def ellipsis(self) -> str:
        return "…" if self.unicode else "..."


@dataclass(frozen=True)
class _Row:
    """A row of the waterfall. One without segments has the room of the bar for its label."""

    label: str
    figures: tuple[str, ...] = ("", "", "", "")  # as _HEADS
    segments: tuple[Segment, ...] | None = None
    style: str = ""


def waterfall(run: Json, look: Look, *, now: datetime | None = None) -> list[Text]:
    """One row a step on a common time axis, one for each attempt of a step that has several, and why one failed."""
    axis = _Axis(run, now or datetime.now(UTC))
    rows = list(_rows(run, axis))
    if not rows:
        return []
    # A workflow of plain functions has no tokens to show.
    kept = [at for at in range(len(_HEADS)) if at == 0 or any(row.figures[at] not in {"", NONE} for row in rows)]
    widths = [max(len(_HEADS[at]), *(len(row.figures[at]) for row in rows)) for at in kept]
    labels = max(4, *(len(row.label) for row in rows if row.segments is not None))
    label_width = min(labels, _MAX_LABEL, max(8, look.width // 3))
    room = look.width - label_width - 1 - sum(width + 2 for width in widths)
    bar_width = min(max(room, _MIN_BAR), _MAX_BAR)
    lines = [_head(label_width, bar_width, axis, [(_HEADS[at], width) for at, width in zip(kept, widths, strict=True)])]
    kinds: set[str] = set()
    for row in rows:
        line = Text()
        if row.segments is None:
            space = label_width + 1 + bar_width
            line.append(shortened(row.label, space, ellipsis=look.ellipsis).ljust(space), row.style)
        else:
            line.append(shortened(row.label, label_width, ellipsis=look.ellipsis).ljust(label_width + 1), row.style)
            for cells in bar(row.segments, axis.total_ms, bar_width, unicode=look.unicode):
                line.append(cells.text, STYLES.get(cells.kind, ""))
                kinds.add(cells.kind)
        for at, width in zip(kept, widths, strict=True):
            line.append("  " + row.figures[at].rjust(width), DIM if row.segments is None else "")
        line.rstrip()
        lines.append(line)
    if kinds - {DONE, ""}:
        told = "   ".join(f"{sign(kind, unicode=look.unicode)} {word}" for kind, word in _WORDS if kind in kinds)
        lines.append(Text(" " * (label_width + 1) + told, DIM))
    return lines


def _head(label_width: int, bar_width: int, axis: _Axis, heads: Sequence[tuple[str, int]]) -> Text:
    end = duration(axis.total_ms)
    scale = "0" + end.rjust(bar_width - 1) if bar_width > len(end) + 1 else " " * bar_width
    figures = "".join("  " + head.rjust(width) for head, width in heads)
    return Text("step".ljust(label_width + 1) + scale + figures, DIM)


class _Axis:
    """Milliseconds since the run was created, up to its end or now."""

    def __init__(self, run: Json, now: datetime) -> None:
        self.start = _instant(run["created_at"])
        ends = [self.at(step["started_at"]) + (step["duration_ms"] or 0.0) for step in run["steps"]]
        end = self.at(run["ended_at"]) if run["ended_at"] else self.since(now)
        self.total_ms = max([end, *ends])

    def seen(self, ms: float, *, short: bool) -> bool:
        """Whether a stretch without an attempt is drawn: one that begins by design, or one that is long."""
        return ms > (self.total_ms / _MAX_BAR if short else max(100.0, self.total_ms / 50))

    def at(self, text: str) -> float:
        return self.since(_instant(text))

    def since(self, when: datetime) -> float:
        return (when - self.start).total_seconds() * 1000


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _rows(run: Json, axis: _Axis) -> Iterator[_Row]:
    began = axis.at(run["started_at"]) if run["started_at"] else axis.total_ms
    if run["steps"] and axis.seen(began, short=False):
        yield _Row("(queued)", (duration(began), NONE, NONE, NONE), (Segment(0, began, WAIT),), DIM)
    executions = {execution["number"]: execution for execution in run["executions"]}
    current = 1
    for step in run["steps"]:
        if step["execution"] != current:
            current = step["execution"]
            yield _execution_row(executions.get(current, {"number": current}))
        # An owner that died has not told when: what it left open is closed as of its last commit.
        died = executions.get(current, {}).get("outcome") == INTERRUPTED
        yield _step_row(step, axis, died=died)
        attempts, indent = step["attempts"], "  " * (_depth(step) + 1)
        if len(attempts) > 1:
            yield from (_attempt_row(attempt, attempts, indent, died=died) for attempt in attempts)
        if failed(step) and (len(attempts) < 2 or attempts[-1]["outcome"] != step["error_type"]):
            yield _Row(f"{indent}failed: {why(step)}", style=STYLES[FAILED])


def _execution_row(execution: Json) -> _Row:
    reason = f" ({execution['reason']})" if "reason" in execution else ""
    worker = f" by {execution['worker']}" if "worker" in execution else ""
    return _Row(f"execution {execution['number']}{reason}{worker}", style=DIM)


def _depth(step: Json) -> int:
    branches = len(str(step["branch"]).split("/")) if step["branch"] else 0
    return branches + int(step["kind"] == TOOL)  # a tool call belongs to the agent's step above it


def named(step: Json) -> str:
    """A step's name after its branch."""
    return clean(f"{step['branch']}: {step['name']}" if step["branch"] else step["name"])


def turns(step: Json) -> int:
    return len({attempt["turn"] for attempt in step["attempts"]})


def failed(step: Json) -> bool:
    """It was not cut off from outside."""
    return bool(step["status"] == records.FAILED)


def why(step: Json) -> str:
    """A failed step's error type, after the HTTP status of the answer that it came with."""
    error = clean(step["error_type"] or step["status"])
    last = step["attempts"][-1] if step["attempts"] else None
    of_last = last is not None and last["outcome"] == step["error_type"] and last["http_status"]
    return f"{last['http_status']} {error}" if last is not None and of_last else error


def _step_row(step: Json, axis: _Axis, *, died: bool) -> _Row:
    start = axis.at(step["started_at"])
    ms, status = step["duration_ms"], step["status"]
    end = axis.total_ms if ms is None else start + ms
    branch = str(step["branch"]).rpartition("/")[2]
    label = "  " * _depth(step) + (f"{branch}: " if branch else "") + str(step["name"])
    if step["reused"]:
        return _Row(f"{label} (reused)", (NONE, NONE, NONE, NONE), (), DIM)
    kind = RUNNING if ms is None else DONE if status == SUCCEEDED else FAILED
    segments = tuple(_segments(step, start, end, kind, axis))
    shown = UNKNOWN if died and status == INTERRUPTED else duration(end - start if ms is None else ms)
    ended = [attempt for attempt in step["attempts"] if attempt["outcome"] is not None]
    figures = (NONE, NONE, NONE)
    if ended:
        inexact = any(attempt["usage"] != EXACT for attempt in ended)
        told = any(attempt["tokens"] is not None for attempt in ended)
        figures = _figures(step if told else None, inexact=inexact)
    return _Row(label, (shown, *figures), segments, STATUS_STYLES.get(status, "") if kind == FAILED else "")


def _figures(spent: Json | None, *, inexact: bool) -> tuple[str, str, str]:
    """Tokens in and out and cost of a step or attempt; a plus says at least, None is what nobody knows."""
    if spent is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    more = "+" if inexact else ""
    tokens = spent["tokens"]
    return count(tokens["input"]) + more, count(tokens["output"]) + more, dollars(spent["cost_usd"])


def _segments(step: Json, start: float, end: float, kind: str, axis: _Axis) -> Iterator[Segment]:
    """Attempts stand where they were; before one of them, or after the last, is waiting or what an answer asked for."""
    attempts = step["attempts"]
    if not attempts:
        yield Segment(start, end, kind)
        return
    at, over = start, []  # a short attempt is seen over a long wait
    for attempt in attempts:
        begin = min(max(axis.at(attempt["started_at"]), at), end)
        gap = BETWEEN if attempt["turn"] > 1 and not attempt["wait_ms"] else WAIT
        if axis.seen(begin - at, short=bool(attempt["wait_ms"]) or gap == BETWEEN):
            yield Segment(at, begin, gap)
            at = begin
        running = attempt["duration_ms"] is None
        until = end if running else max(at, min(begin + attempt["duration_ms"], end))
        last = attempt is attempts[-1]
        if last and not axis.seen(end - until, short=False):
            until = end
        bad = attempt["outcome"] != OK or (last and kind == FAILED)
        over.append(Segment(at, until, RUNNING if running else FAILED if bad else DONE))
        at = until
    if at < end:
        yield Segment(at, end, BETWEEN if attempts[-1]["outcome"] == OK else WAIT)
    yield from over


def _attempt_row(attempt: Json, attempts: Sequence[Json], indent: str, *, died: bool) -> _Row:
    """A turn is named where there are several, an attempt where its turn has several."""
    outcome = attempt["outcome"]
    several = len({one["turn"] for one in attempts}) > 1
    retried = sum(one["turn"] == attempt["turn"] for one in attempts) > 1
    parts = [f"turn {attempt['turn']}"] if several else []
    parts += [f"attempt {attempt['number']}"] if retried or not several else []
    status = f"{attempt['http_status']} " if attempt["http_status"] else ""
    wait = f", after {duration(attempt['wait_ms'])}" if attempt["wait_ms"] else ""
    figures = (NONE, NONE, NONE)
    if outcome is not None:
        figures = _figures(attempt if attempt["tokens"] is not None else None, inexact=attempt["usage"] == PARTIAL)
    label = f"{indent}{', '.join(parts)}: {status}{clean(outcome or 'running')}{wait}"
    took = UNKNOWN if died and outcome == INTERRUPTED else duration(attempt["duration_ms"])
    return _Row(label, (took, *figures), style=DIM if outcome in {OK, None} else STYLES[FAILED])
