"""A run's input and tags, from what was typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentobs import misfits
from agentobs.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from agentobs.workflows import Workflow


def run_input(given: str | None, assignments: Sequence[str]) -> Any:
    """The JSON of `--input` (text, `@file`, or `-` for standard input) with every `--set` laid over it.

    Raises `UsageError`.
    """
    value = None if given is None else _parsed(given)
    if not assignments:
        return value
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise UsageError(f"--set needs an object to set fields of; --input is {_kind(value)}")
    for assignment in assignments:
        _assign(value, assignment)
    return value


def tags(given: Sequence[str]) -> dict[str, str]:
    """From `key=value` each. Raises `UsageError`."""
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--tag is {text!r:.80}; expected key=value, such as --tag team=docs")
        found[key] = value
    return found


def check(workflow: Workflow, value: object) -> None:
    """Raises `InvalidInput` with how such an input is given on the command line."""
    try:
        workflow.parse(value)
    except InvalidInput as error:
        how = misfits.how_to_give(workflow.schema())
        advice = f"; give it with {how}" if how else ""
        raise InvalidInput(on_the_command_line(f"{error}", advice), error.fields) from None


def on_the_command_line(told: str, advice: str = "") -> str:
    """What the API says of an input, for who has commands."""
    return f"{told.removesuffix('. ' + misfits.SEE)}{advice}; see 'agentobs workflows'" if misfits.SEE in told else told


def _parsed(given: str) -> Any:
    name, text = "--input", given
    try:
        if given == "-":
            name, text = "--input - (standard input)", sys.stdin.read()
        elif given.startswith("@"):
            name, text = f"--input {given}", Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{name} cannot be read ({why}); expected a file that holds JSON") from None
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(
            f"""{name} is not JSON{where}; expected an object such as '{{"goal": "…"}}', text in """
            """quotes of its own such as '"tea"', @file, or - for standard input"""
        ) from None


def _assign(target: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UsageError(
            f"--set is {assignment!r:.80}; expected key=value, such as --set goal='…' or --set style.tone=dry"
        )
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise UsageError(
                f"--set {path}: {key!r:.80} is {_kind(target)} already, expected an object to set fields of"
            )
    try:
        target[keys[-1]] = _loads(text)
    except (ValueError, RecursionError):
        target[keys[-1]] = text


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_not_json)


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # NaN and Infinity, which Python would take


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
