"""`agentobs bench`: what agentobs costs on this machine, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentobs.bench.figures import Line, machine
from agentobs.bench.rows import QUICK, Size
from agentobs.bench.run import chosen, measure
from agentobs.cli.terminal import document, note, show


def bench(*, names: str | None, quick: bool, pairs: int, runs: int, as_json: bool) -> None:
    """Measure and print; a table in Markdown, so that it can go into a document as it is."""
    wanted = chosen(names)
    size = QUICK if quick else Size(pairs=pairs, runs=runs)
    about = {"at": datetime.now(UTC).isoformat(timespec="minutes"), **machine()}
    lines: list[Line] = []
    for line in measure(wanted, size, lambda name: note(f"measuring {name} …")):
        lines.append(line)
        if not as_json:
            note(f"  {line.what}: {_figure(line)}")
    if as_json:
        document({"machine": about, "lines": [dataclasses.asdict(line) | {"met": line.met} for line in lines]})
        return
    show(table(lines, about))
    if quick:
        show(["", "--quick: a smoke test; its figures mean nothing."])


def table(lines: Sequence[Line], about: Mapping[str, str]) -> list[str]:
    rows = [
        f"| {line.row} | {line.what} | {_figure(line)} | {_spread(line)} | {_goal(line)} | {line.details} |"
        for line in lines
    ]
    facts = "; ".join(f"{name} {value}" for name, value in about.items())
    return [f"Measured {facts}.", "", "| row | what | measured | spread | goal | |", "|-|-|-|-|-|-|", *rows]


def _figure(line: Line) -> str:
    return f"{_number(line.value)} {line.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(line: Line) -> str:
    return "" if line.spread is None else " to ".join(_number(end) for end in line.spread)


def _goal(line: Line) -> str:
    if line.goal is None:
        return ""
    return f"{line.goal:g} {line.unit}: {'met' if line.met else 'MISSED'}"
