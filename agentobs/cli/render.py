"""A run as people read it: a waterfall of its steps and attempts, what its errors mean, its totals.

Everything is made from the JSON of `GET /v1/runs/{id}`, so a run looks the same wherever it was read from.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from rich.text import Text

from agentobs.cli.bars import FAILED, STYLES
from agentobs.cli.figures import clean, count, counted, dollars, duration, pairs, shortened
from agentobs.cli.waterfall import DIM, STATUS_STYLES, Json, Look, waterfall
from agentobs.records import ERROR_TYPES, TERMINAL

_NAMES: Final = 8


def totals(run: Json, look: Look, *, content: bool = False) -> list[Text]:
    """Who, how it ended, and what it took; with `content` the beginning of its input and output."""
    ended = f" after {duration(run['total_ms'])}" if run["status"] in TERMINAL else ""
    rows = [
        ("run", run["id"], ""),
        ("status", f"{run['status']}{ended}", STATUS_STYLES.get(run["status"], "")),
        ("steps", f"{_steps(run)}, {counted(run['attempts'], 'attempt')}, {_retries(run)}", ""),
        ("tokens", _tokens(run), ""),
        ("cost", _cost(run), ""),
    ]
    if run["tags"]:
        rows.append(("tags", pairs(run["tags"]), ""))
    if run["error"]:
        rows.append(("error", _error(run["error"]), STYLES[FAILED]))
    if content:
        room = look.width - _NAMES
        told = [(name, run[name]) for name in ("input", "output") if run[name] is not None]
        rows += [(name, shortened(_written(value), room, ellipsis=look.ellipsis), "") for name, value in told]
    return [Text.assemble((name.ljust(_NAMES), DIM), (clean(value), style)) for name, value, style in rows]


def _steps(run: Json) -> str:
    return counted(len(run["step_names"]), "step")  # distinct ones: a step cut off and run again has two rows


def _tokens(run: Json) -> str:
    tokens, inexact = run["tokens"], run["usage_inexact"]
    cached = [
        f"{count(tokens[name])} {name.replace('_', ' ')}" for name in ("cache_read", "cache_write") if tokens[name]
    ]
    asked = f"{count(tokens['input'])} in{' (' + ', '.join(cached) + ')' if cached else ''}"
    untold = f"; of {counted(inexact, 'attempt')} not all was told" if inexact else ""
    return f"{_least(run)}{asked}, {count(tokens['output'])} out{untold}"


def _cost(run: Json) -> str:
    if run["cost_usd"] is None:
        return "unknown: a model has no known price"
    return _least(run) + dollars(run["cost_usd"])


def _least(run: Json) -> str:
    return "at least " if run["usage_inexact"] else ""


def _retries(run: Json) -> str:
    return counted(run["retries"], "retry", "retries") if run["retries"] else "no retries"


def _error(error: Json) -> str:
    where = f" in step {error['step']}" if error["step"] else ""
    agent = f" ({error['agent']})" if error["agent"] else ""
    return f"{error['type']}{where}{agent}"


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def meanings(run: Json) -> list[Text]:
    """What each error of the run and of its attempts means, in words."""
    found = dict.fromkeys(attempt["outcome"] for step in run["steps"] for attempt in step["attempts"])
    found |= {run["error"]["type"]: None} if run["error"] else {}
    told = [name for name in found if name in ERROR_TYPES]
    width = max((len(name) for name in told), default=0)
    return [Text.assemble((name.ljust(width), STYLES[FAILED]), (f"  {ERROR_TYPES[name]}", DIM)) for name in told]


def summary(run: Json, look: Look, *, content: bool = False, now: datetime | None = None) -> list[Text]:
    """All of it: waterfall, meanings of errors, totals."""
    blocks = (waterfall(run, look, now=now), meanings(run), totals(run, look, content=content))
    lines: list[Text] = []
    for block in filter(None, blocks):
        lines += [Text(), *block] if lines else block
    return lines
