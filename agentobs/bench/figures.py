"""Figures of interleaved rounds: medians, ratios pair by pair, and their spread."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table. `value` is what `goal` bounds from above; `spread` its least and greatest, where known."""

    row: str
    what: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    goal: float | None = None
    details: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


def ratio(row: str, what: str, ours: Sequence[float], theirs: Sequence[float], goal: float | None, each: str) -> Line:
    """The median of the ratios of each round's pair; both sides' medians are told beside it."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return Line(
        row=row,
        what=what,
        value=statistics.median(ratios),
        unit="x",
        spread=(ratios[0], ratios[-1]),
        goal=goal,
        details=f"{statistics.median(ours):.2f} against {statistics.median(theirs):.2f} {each}, {len(ratios)} pairs",
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


_LIBRARIES: Final = ("anthropic", "aiohttp", "httpx2", "uvloop", "protobuf")


def machine() -> dict[str, str]:
    """Facts without which no figure means anything."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0,)
    return {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in _LIBRARIES},
        "load before": f"{load[0]:.1f} in the last minute",
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
