"""`runs cancel` and `runs resume` by filters: count what fits, ask, then page by page through the service."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer

from agentobs.api.selection import CancelRequest, ResumeRequest
from agentobs.cli.figures import counted
from agentobs.cli.http import Client, client
from agentobs.cli.reading import checked
from agentobs.cli.terminal import document, note, show
from agentobs.errors import UsageError
from agentobs.settings import Settings


@dataclass(frozen=True)
class Verb:
    name: str
    request: type[CancelRequest | ResumeRequest]
    done: str


CANCEL: Final = Verb("cancel", CancelRequest, "cancelled")
RESUME: Final = Verb("resume", ResumeRequest, "queued again: what had succeeded is not paid a second time")


async def act(
    settings: Settings,
    server: str | None,
    verb: Verb,
    given: Mapping[str, Any],
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Raises `typer.Exit` (1) when the answer was no."""
    body = checked(given, verb.request)
    if not (yes or dry_run) and not sys.stdin.isatty():
        raise UsageError(
            f"there is no terminal to ask at; say --yes to {verb.name} what fits, or --dry-run to count it"
        )
    async with client(settings, server) as http:
        found: dict[str, Any] = {"matched": 0, "acted": 0, "run_ids": []}
        if dry_run or not yes:
            found = await _swept(http, verb, {**body, "dry_run": True})
            if found["matched"] and not dry_run:
                _confirm(f"{counted(found['matched'], 'run')} fit: {verb.name} them?")
        if not dry_run and (yes or found["matched"]):
            found = await _swept(http, verb, body)
    if as_json:
        document(found)
    elif dry_run:
        show([f"{counted(found['matched'], 'run')} would be {verb.done.partition(':')[0]}"])
    else:
        show([f"{counted(found['acted'], 'run')} {verb.done}"])
        if left := found["matched"] - found["acted"]:
            note(f"{counted(left, 'run')} more had fitted, but changed meanwhile")


async def _swept(http: Client, verb: Verb, body: Mapping[str, Any]) -> dict[str, Any]:
    """All pages as one. Each run is come upon once, also where one that was resumed fails again meanwhile."""
    total: dict[str, Any] = {"matched": 0, "acted": 0, "run_ids": []}
    cursor: str | None = None
    while True:
        page = await http.bulk(verb.name, {**body, "cursor": cursor} if cursor else body)
        total = {name: total[name] + page[name] for name in total}
        cursor = page["next_cursor"]
        if cursor is None:
            return total


def _confirm(question: str) -> None:
    if not typer.confirm(question, err=True):
        note("nothing was done")
        raise typer.Exit(1)
