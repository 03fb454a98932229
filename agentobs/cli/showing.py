"""The commands that read, and `runs cancel`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentobs.api import views
from agentobs.api.schemas import to_run_id
from agentobs.cli import tables
from agentobs.cli.http import client
from agentobs.cli.reading import checked, journal, source
from agentobs.cli.render import summary
from agentobs.cli.terminal import document, look, note, out, show
from agentobs.errors import Unreachable, UsageError
from agentobs.records import CANCELLED
from agentobs.settings import Settings


async def list_runs(settings: Settings, server: str | None, given: Mapping[str, Any], *, as_json: bool) -> None:
    filters = checked(given)
    async with source(settings, server) as found:
        page = await found.runs(filters)
    if as_json:
        document(page)
        return
    show(tables.runs(page["runs"], out().width if out().is_terminal else None))
    if not page["runs"]:
        note("no runs" + (" that fit" if len(filters) > 1 else ""))
    if page["next_cursor"]:
        note(f"there are more: --cursor {page['next_cursor']}")


async def show_run(settings: Settings, server: str | None, run_id: str, *, as_json: bool) -> None:
    run_id = to_run_id(run_id)
    async with source(settings, server) as found:
        run = await found.run(run_id)
    if as_json:
        document(run)
    else:
        show(summary(run, look(out()), content=True))


async def show_logs(settings: Settings, server: str | None, run_id: str, *, as_json: bool) -> None:
    """From the journal file alone: the API does not tell all that log lines are made of."""
    if server is not None:
        raise UsageError("--logs reads the journal file (AGENTOBS_DATABASE_URL); leave out --server")
    run_id = to_run_id(run_id)
    async with journal(settings) as file:
        detail = await file.detail(run_id)
    from agentobs.offline import log_lines  # noqa: PLC0415

    lines = list(log_lines(detail))
    if as_json:
        document(lines)
    else:
        show(json.dumps(line, separators=(",", ":")) for line in lines)


async def cancel_run(settings: Settings, server: str | None, run_id: str, *, as_json: bool) -> None:
    run_id = to_run_id(run_id)
    async with client(settings, server) as http:
        run = await http.cancel(run_id)
    if as_json:
        document(run)
    else:
        done = (
            "is cancelled" if run["status"] == CANCELLED else "is being cancelled: its spending stops within a second"
        )
        show([f"run {run_id} {done}"])


async def resume_run(settings: Settings, server: str | None, run_id: str, *, as_json: bool) -> None:
    run_id = to_run_id(run_id)
    async with client(settings, server) as http:
        run = await http.resume(run_id)
    if as_json:
        document(run)
    else:
        show([f"run {run_id} is {run['status']} again: what had succeeded is not paid a second time"])


async def fork_run(
    settings: Settings, server: str | None, run_id: str, body: Mapping[str, Any], *, as_json: bool
) -> None:
    run_id = to_run_id(run_id)
    async with client(settings, server) as http:
        run = await http.fork(run_id, body)
    if as_json:
        document(run)
    else:
        show([f"run {run['id']} is forked from {run_id} at step {body['from_step']}"])
        note(f"follow it: agentobs runs tail {run['id']}")


async def list_workflows(settings: Settings, server: str | None, *, as_json: bool) -> None:
    async with client(settings, server) as http:
        try:
            found = await http.workflows()
        except Unreachable:
            if server is not None:
                raise
            found = _registered(settings)
            note(f"no service answers at {http.url}; these are what this environment registers")
    if as_json:
        document(found)
    else:
        show(tables.workflows(found["workflows"], out().width if out().is_terminal else None))


def _registered(settings: Settings) -> dict[str, Any]:
    import agentobs.examples  # noqa: F401, PLC0415 -- registers what ships
    from agentobs.workflows import REGISTRY  # noqa: PLC0415

    REGISTRY.load(settings.workflows)
    return views.workflow_list(REGISTRY)
