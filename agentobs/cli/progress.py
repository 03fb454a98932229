"""A run's progress, line by line as its steps start, fail, are tried again and finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from agentobs.cli.figures import UNKNOWN, clean, count, counted, dollars, duration
from agentobs.cli.terminal import look
from agentobs.cli.waterfall import DIM, STATUS_STYLES, named, turns, why
from agentobs.records import AGENT, FAILED, INTERRUPTED, OK, QUEUED, SUCCEEDED, TERMINAL

_FIRST_S: Final = 0.05
_SLOWEST_S: Final = 0.5
_INDENT: Final = "  "
_AT_ONCE: Final = 4  # running steps that are named in the last line


class Progress:
    """`with Progress(console) as progress: progress.see(run)` with each reading of the run.

    On a terminal what runs now stands in a last line that changes; elsewhere a start is a line of its own.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        unicode = look(console).unicode
        self._marks = ("→", "✓", "✗", "↻") if unicode else (">", "+", "x", "~")
        spinner = "dots" if unicode else "line"
        self._status = Status("", console=console, spinner=spinner) if console.is_terminal else None
        self._running = False
        self._width = 0  # of the longest name so far
        self._started: set[int] = set()
        self._failed: set[tuple[int, int, int]] = set()
        self._ended: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show("")

    def see(self, run: Mapping[str, Any]) -> None:
        """Print what is new."""
        self._width = max([self._width, *(len(named(step)) for step in run["steps"])])
        for step in run["steps"]:
            self._see_step(step)
        if run["status"] in TERMINAL:
            self._show("")
            return
        active = [named(step) for step in run["steps"] if step["duration_ms"] is None]
        if len(active) > _AT_ONCE:
            active[_AT_ONCE:] = [f"and {len(active) - _AT_ONCE} more"]
        waiting = "queued" if run["status"] == QUEUED else str(run["status"])
        self._show(", ".join(active) or waiting)

    def _see_step(self, step: Mapping[str, Any]) -> None:
        start, good, bad, again = self._marks
        number, name = step["number"], named(step).ljust(self._width)
        if number not in self._started:
            self._started.add(number)
            if self._status is None and step["duration_ms"] is None:
                self._print(Text(f"{_INDENT}{start} {name}  started", DIM))
        last = step["attempts"][-1] if step["attempts"] else None
        for attempt in step["attempts"]:
            key = (number, attempt["turn"], attempt["number"])
            failed = attempt["outcome"] not in {OK, None}
            if key in self._failed or not failed or (attempt is last and step["duration_ms"] is not None):
                continue  # the last failure of a step is told with its end
            self._failed.add(key)
            status = f"{attempt['http_status']} " if attempt["http_status"] else ""
            turn = f"turn {attempt['turn']}, " if attempt["turn"] > 1 else ""
            told = f"{turn}attempt {attempt['number']}: {status}{clean(attempt['outcome'])}, trying again"
            self._print(Text.assemble((f"{_INDENT}{again} ", "yellow"), f"{name}  {told}"))
        if step["duration_ms"] is None or number in self._ended:
            return
        self._ended.add(number)
        fine = step["status"] == SUCCEEDED
        mark = (f"{_INDENT}{good if fine else bad} ", STATUS_STYLES.get(step["status"], ""))
        self._print(Text.assemble(mark, f"{name}  {_told(step)}"))

    def _print(self, line: Text) -> None:
        self._console.print(line)

    def _show(self, text: str) -> None:
        if self._status is None:
            return
        if text:
            self._status.update(Text(text, DIM))
            if not self._running:
                self._status.start()
        elif self._running:
            self._status.stop()
        self._running = bool(text)


def _told(step: Mapping[str, Any]) -> str:
    # An owner that died has not told when.
    parts = [f"{UNKNOWN if step['status'] == INTERRUPTED else duration(step['duration_ms']):>6}"]
    if step["status"] != SUCCEEDED:
        parts.append(why(step) if step["status"] == FAILED else clean(step["status"]))
    if step["kind"] == AGENT and step["status"] == SUCCEEDED:
        tokens = step["tokens"]
        parts.append(f"{count(tokens['input'])} in, {count(tokens['output'])} out, {dollars(step['cost_usd'])}")
    asked, attempts = turns(step), len(step["attempts"])
    if asked > 1:
        parts.append(counted(asked, "turn"))
    if attempts > asked:
        parts.append(counted(attempts, "attempt"))
    return "  ".join(parts)


async def follow(read: Callable[[], Awaitable[Mapping[str, Any]]], console: Console) -> Mapping[str, Any]:
    """Read the run again and again, ever more seldom while nothing changes, until it has ended."""
    with Progress(console) as progress:
        pause, before = _FIRST_S, (0, 0, "")
        while True:
            run = await read()
            progress.see(run)
            if run["status"] in TERMINAL:
                return run
            state = (len(run["steps"]), run["attempts"], str(run["status"]))
            pause = _FIRST_S if state != before else min(pause * 1.2, _SLOWEST_S)
            before = state
            await asyncio.sleep(pause)
