"""A run as people read it: a waterfall of its steps and attempts, what its errors mean, its totals.

Everything is made from the JSON of `GET /v1/runs/{id}`, so a run looks the same wherever it was read from.
"""

from __future__ import annotations

import json
import re
import textwrap
from datetime import datetime
from typing import Final

from rich.text import Text

from agentobs.cli.bars import FAILED, STYLES
from agentobs.cli.figures import clean, count, counted, dollars, duration, pairs, shortened
from agentobs.cli.waterfall import DIM, STATUS_STYLES, Json, Look, failed, named, turns, waterfall
from agentobs.records import ERROR_TYPES, TERMINAL

_NAMES: Final = 8
_MOST_FAILURES: Final = 5  # steps whose own words are shown
_MOST_LINES: Final = 10  # of each
_LONGEST_LINE: Final = 400
_FRAME: Final = '  File "'
_OURS: Final = re.compile(r"[/\\]agentobs[/\\](runtime[/\\]|encoding\.py|functions\.py|patterns\.py)")
_IN_DETAIL: Final = "; its text is in the run's error_detail"  # how a run's message ends whose traceback is kept


def totals(run: Json, look: Look, *, content: bool = False) -> list[Text]:
    """Who, how it ended, and what it took; with `content` the beginning of its input and output."""
    ended = f" after {duration(run['total_ms'])}" if run["status"] in TERMINAL else ""
    rows = [
        ("run", run["id"], ""),
        ("status", f"{run['status']}{ended}", STATUS_STYLES.get(run["status"], "")),
        ("steps", _steps(run), ""),
        ("tokens", _tokens(run), ""),
        ("cost", _cost(run), ""),
    ]
    if run["tags"]:
        rows.append(("tags", pairs(run["tags"]), ""))
    if run["error"]:
        told_in = max(look.width - _NAMES, 20)
        first, *more = textwrap.wrap(clean(_error(run)), told_in, break_long_words=False, break_on_hyphens=False)
        rows += [("error", first, STYLES[FAILED]), *(("", line, STYLES[FAILED]) for line in more)]
    if content:
        room = look.width - _NAMES
        told = [(name, run[name]) for name in ("input", "output") if run[name] is not None]
        rows += [(name, shortened(_written(value), room, ellipsis=look.ellipsis), "") for name, value in told]
    return [Text.assemble((name.ljust(_NAMES), DIM), (clean(value), style)) for name, value, style in rows]


def _steps(run: Json) -> str:
    """A further turn, which tools or a repair ask for, is no retry."""
    parts = [counted(len(run["step_names"]), "step")]  # distinct ones: a step cut off and run again has two rows
    several = any(turns(step) > 1 for step in run["steps"])
    if several:
        parts.append(counted(sum(map(turns, run["steps"])), "turn"))
    if run["retries"] or not several:
        parts.append(counted(run["attempts"], "attempt"))
    return ", ".join([*parts, _retries(run)])


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


def _error(run: Json) -> str:
    error = run["error"]
    step = next((step for step in run["steps"] if step["number"] == error["step"]), None)
    if error["step"]:  # its message says the same, and the step's own words are shown above
        name = named(step) if step else error["agent"]
        return f"{error['type']} in step {error['step']}{f' ({name})' if name else ''}"
    message = str(error["message"] or "").removesuffix(_IN_DETAIL if run.get("error_detail") else "")
    return f"{error['type']}: {message}" if message else str(error["type"])


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def meanings(run: Json) -> list[Text]:
    """What each error of the run, of its steps and of its attempts means, in words."""
    found: dict[str | None, None] = {}
    for step in run["steps"]:
        found |= dict.fromkeys(attempt["outcome"] for attempt in step["attempts"])
        found |= {step["error_type"]: None} if failed(step) else {}
    found |= {run["error"]["type"]: None} if run["error"] else {}
    told = [name for name in found if name in ERROR_TYPES]
    width = max((len(name) for name in told), default=0)
    return [Text.assemble((name.ljust(width), STYLES[FAILED]), (f"  {ERROR_TYPES[name]}", DIM)) for name in told]


def ended(run: Json) -> str:
    """Its end in one line."""
    spent = f"{_retries(run)}, {_tokens(run)}, {_cost(run)}"
    why = f": {clean(_error(run))}" if run["error"] else ""
    return f"run {run['id']} {run['status']} after {duration(run['total_ms'])}, {spent}{why}"


def failures(run: Json, look: Look) -> list[Text]:
    """In their own words (content): the end of a traceback, or what of an answer did not fit."""
    told = [
        (f"{step['error_type']} in step {step['number']} ({named(step)})", _words(str(step["error_detail"])))
        for step in run["steps"]
        if failed(step) and step.get("error_detail")
    ]
    error = run["error"]
    if error and not error["step"] and run.get("error_detail"):
        words = _words(str(run["error_detail"]), already=str(error["message"]))
        told += [(f"{error['type']} in the workflow", words)] if words else []
    shown = told if len(told) <= _MOST_FAILURES else [*told[: _MOST_FAILURES - 1], told[-1]]
    lines: list[Text] = []
    for head, words in shown:
        cut = [*words[:_MOST_LINES], look.ellipsis] if len(words) > _MOST_LINES else words
        lines.append(Text(clean(head), STYLES[FAILED]))
        lines += [Text(f"  {shortened(line, _LONGEST_LINE, ellipsis=look.ellipsis)}", DIM) for line in cut]
    if len(shown) < len(told):
        lines.append(Text(f"and {len(told) - len(shown)} more: 'agentobs runs show {run['id']} --json'", DIM))
    return lines


def _words(detail: str, already: str = "") -> list[str]:
    """Of a traceback its last frame that is not ours, and the exception unless that was told; of all else all."""
    lines = detail.rstrip().splitlines()
    frames = [at for at, line in enumerate(lines) if line.startswith(_FRAME)]
    if not frames or not lines[0].startswith("Traceback"):
        return lines
    after = next((at for at in range(frames[-1], len(lines)) if not lines[at].startswith("  ")), len(lines))
    theirs = next((at for at in reversed(frames) if not _OURS.search(lines[at])), None)
    shown: list[str] = []
    if theirs is not None:
        end = next((at for at in [*frames, after] if at > theirs), after)
        shown = [line.removeprefix("  ") for line in lines[theirs:end]]
    exception = lines[after:]
    return shown if already and already in "\n".join(exception) else shown + exception


def summary(run: Json, look: Look, *, content: bool = False, now: datetime | None = None) -> list[Text]:
    """All of it: waterfall, meanings of errors, what failed in its own words, totals."""
    blocks = (waterfall(run, look, now=now), meanings(run), failures(run, look), totals(run, look, content=content))
    lines: list[Text] = []
    for block in filter(None, blocks):
        lines += [Text(), *block] if lines else block
    return lines
