"""The bench as a whole: its rows by name, and what comes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from agentobs.bench import rows, rows_service
from agentobs.bench.figures import Line
from agentobs.bench.rows import Row, Size
from agentobs.errors import UsageError

ROWS: Final[Mapping[str, Row]] = {
    "plain-50": rows.cpu("plain-50", at_once=50, stream=False, goal=0.8),
    "plain-500": rows.cpu("plain-500", at_once=500, stream=False, goal=0.5),
    "stream-50": rows.cpu("stream-50", at_once=50, stream=True, goal=0.8),
    "stream-500": rows.cpu("stream-500", at_once=500, stream=True, goal=0.5),
    "latency": rows.latency,
    "collector": rows.collector,
    "http": rows_service.submit,
    "journal": rows_service.journal,
    "start": rows_service.start,
    "restart": rows_service.restart,
    "in-flight": rows.in_flight,
    "list": rows_service.listing,
}


def chosen(names: str | None) -> list[str]:
    """Row names of a list with commas; all without one. Raises `UsageError` for an unknown one."""
    found = [name.strip() for name in names.split(",")] if names else list(ROWS)
    for name in found:
        if name not in ROWS:
            raise UsageError(f"--rows names {name!r:.80}; expected some of {', '.join(ROWS)}")
    return found


def measure(names: Iterable[str], size: Size, tell: Callable[[str], None]) -> Iterator[Line]:
    """Measure the rows one after the other; `tell` is called with the name of each before it begins."""
    with tempfile.TemporaryDirectory(prefix="agentobs-bench-") as folder:
        for name in names:
            tell(name)
            place = Path(folder) / name
            place.mkdir()
            yield from ROWS[name](place, size)
