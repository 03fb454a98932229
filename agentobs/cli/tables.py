"""Lists: runs, workflows, settings, and any other rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.text import Text

from agentobs.cli.figures import NONE, clean, count, dollars, duration
from agentobs.cli.waterfall import DIM, STATUS_STYLES

_GAP: Final = 2


class _Column(NamedTuple):
    head: str
    right: bool = False


_ID: Final = _Column("id")
_WORKFLOW: Final = _Column("workflow")
_STATUS: Final = _Column("status")
_CREATED: Final = _Column("created (UTC)")
_TIME: Final = _Column("time", right=True)
_RETRIES: Final = _Column("retries", right=True)
_TOKENS: Final = _Column("tokens", right=True)
_COST: Final = _Column("cost", right=True)
_ERROR: Final = _Column("error")
_SHOWN: Final = (_ID, _WORKFLOW, _STATUS, _CREATED, _TIME, _RETRIES, _TOKENS, _COST, _ERROR)
# Which columns are kept where there is no room for all: these first.
_PRIORITY: Final = (_ID, _STATUS, _WORKFLOW, _ERROR, _TIME, _COST, _CREATED, _TOKENS, _RETRIES)


def runs(found: Sequence[Mapping[str, Any]], width: int | None) -> list[Text]:
    """One row a run. `width` None: every column, for those who cut their own."""
    rows = [{column: _cell(column, run) for column in _SHOWN} for run in found]
    sizes = {column: max([len(column.head), *(len(row[column]) for row in rows)]) for column in _SHOWN}
    kept = [column for column in _SHOWN if column in _fitting(sizes, width)]
    lines = (
        [Text((" " * _GAP).join(_padded(column.head, column, sizes) for column in kept).rstrip(), DIM)] if rows else []
    )
    for row in rows:
        line = Text((" " * _GAP).join(_padded(row[column], column, sizes) for column in kept).rstrip())
        style = STATUS_STYLES.get(row[_STATUS], "")
        at = sum(sizes[column] + _GAP for column in kept[: kept.index(_STATUS)])
        line.stylize(style, at, at + len(row[_STATUS]))
        lines.append(line)
    return lines


def _cell(column: _Column, run: Mapping[str, Any]) -> str:
    if column is _CREATED:
        return str(run["created_at"])[:19].replace("T", " ")
    if column is _TIME:
        return duration(run["total_ms"])
    if column is _TOKENS:
        return count(run["tokens"]["total"])
    if column is _COST:
        return dollars(run["cost_usd"])
    if column is _ERROR:
        return clean(run["error"]["type"]) if run["error"] else ""
    return clean(run[column.head])


def _fitting(sizes: Mapping[_Column, int], width: int | None) -> set[_Column]:
    kept: set[_Column] = set()
    used = 0
    for column in _PRIORITY:
        size = sizes.get(column, 0) + _GAP
        if width is None or used + size <= width + _GAP or column in {_ID, _STATUS}:
            kept.add(column)
            used += size
    return kept


def _padded(text: str, column: _Column, sizes: Mapping[_Column, int]) -> str:
    return text.rjust(sizes[column]) if column.right else text.ljust(sizes[column])


def workflows(found: Iterable[Mapping[str, Any]], width: int | None) -> list[Text]:
    """Name, purpose, agents, input. `width` None: lines are not broken."""
    lines: list[Text] = []
    for workflow in found:
        first = clean(workflow["description"].partition("\n")[0])
        lines += [Text()] if lines else []
        lines.append(Text.assemble((clean(workflow["name"]), "bold"), f"  {first}" if first else ""))
        agents = ", ".join(f"{agent['name']} ({agent['model']})" for agent in workflow["agents"])
        for name, told in (("agents", agents or NONE), ("input", _fields(workflow["input_schema"]))):
            broken = [clean(told)] if width is None else textwrap.wrap(clean(told), width - 10, break_on_hyphens=False)
            lines += [
                Text.assemble((f"  {name if at == 0 else '':<8}", DIM), part) for at, part in enumerate(broken or [""])
            ]
    return lines


def _fields(schema: Mapping[str, Any]) -> str:
    """The fields of an object, or the schema's type; optional ones in brackets."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return str(schema.get("type", "any JSON"))
    required = schema.get("required", [])
    shown = [f"{name}: {_type(field)}" for name, field in properties.items()]
    return (
        ", ".join(field if name in required else f"[{field}]" for name, field in zip(properties, shown, strict=True))
        or "{}"
    )


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        kinds = [_type(one) for one in field["anyOf"]]
        return " | ".join(kind for kind in kinds if kind != "null")
    return str(field.get("type") or str(field.get("$ref", "any")).rpartition("/")[2])


def settings(rows: Sequence[tuple[str, str, str]]) -> list[Text]:
    """Name, origin, value; what the environment set stands out."""
    names = max(len(name) for name, _, _ in rows)
    origins = max(len(origin) for _, _, origin in rows)
    return [
        Text.assemble(
            (name.ljust(names), "" if origin == "default" else "bold"),
            (f"  {origin.ljust(origins)}", DIM),
            f"  {clean(value or NONE)}",
        )
        for name, value, origin in rows
    ]


def grid(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[str] = (), styles: Sequence[str]
) -> list[Text]:
    """Any rows under their heads, which the columns named in `right` end at; the last cell is styled by row."""
    columns = [_Column(name, name in set(right)) for name in head]
    shown = [[clean(cell) for cell in row] for row in rows]
    sizes = {
        column: max(len(row[at]) for row in ([column.head for column in columns], *shown))
        for at, column in enumerate(columns)
    }
    gap = " " * _GAP
    lines = [Text(gap.join(_padded(column.head, column, sizes) for column in columns).rstrip(), DIM)]
    for row, style in zip(shown, styles, strict=True):
        cells = [_padded(cell, column, sizes) for cell, column in zip(row, columns, strict=True)]
        lines.append(Text.assemble(gap.join(cells[:-1]) + gap, (cells[-1].rstrip(), style)))
    return lines
