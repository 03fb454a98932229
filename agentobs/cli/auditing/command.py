"""One audit: read the bill, then the journal; hand the result to who owns the journal; show it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from rich.text import Text

from agentobs.audit.journal import Statement
from agentobs.cli import tables
from agentobs.cli.auditing.statement import read_statement
from agentobs.cli.figures import clean, count, duration
from agentobs.cli.http import client
from agentobs.cli.terminal import document, fail, prose, show
from agentobs.cli.waterfall import DIM
from agentobs.drift import DRIFT_KINDS, Audit
from agentobs.errors import AgentobsError, JournalLocked, Unreachable
from agentobs.journal.sqlite import open_journal
from agentobs.settings import Settings

DRIFT: Final = 4


async def audit(settings: Settings, bill: str | None, server: str | None, *, as_json: bool) -> int:
    """The exit code. Raises `Unreachable` without a journal or a bill."""
    path = settings.sqlite_path
    if not path.exists():
        raise Unreachable(f"there is no journal at {path.absolute()}; name it in AGENTOBS_DATABASE_URL")
    from agentobs.service import audit_file  # noqa: PLC0415 -- a second and a half of imports

    def audited() -> Audit:
        # The bill first: each of its requests then has its row in the journal that is read after it.
        statement: Statement = None if bill is None else read_statement(bill)
        return audit_file(path, statement)

    found = await asyncio.to_thread(audited)
    number: int | None = None
    untaken: AgentobsError | None = None
    try:
        number = await _record(settings, server, found)
    except AgentobsError as error:
        untaken = error
    told = {"id": number, "differences": found.differences, **_told(found)}
    if as_json:
        document(told)
    else:
        show(_lines(found))
        show(prose(f"audit {number} of the journal" if number is not None else "not recorded"))
    if untaken is not None:
        fail(f"the result is not recorded: {untaken}")
    if found.differences:
        return DRIFT
    return 0 if untaken is None else untaken.exit_code


async def _record(settings: Settings, server: str | None, found: Audit) -> int:
    """Write it as the owner for a moment, or let the owner write it."""
    try:
        journal = await open_journal(settings.sqlite_path, worker=settings.worker_name)
    except JournalLocked:
        async with client(settings, server) as http:
            return await http.record_audit(_told(found))
    try:
        return await journal.record_audit(found)
    finally:
        await journal.close()


def _told(found: Audit) -> dict[str, Any]:
    return dataclasses.asdict(found)


def _lines(found: Audit) -> Iterator[Text | str]:
    kinds = [kind for kind in DRIFT_KINDS if kind in found.drift]
    rows = [(kind, count(found.compared[kind]), count(found.drift[kind]), _verdict(found, kind)) for kind in kinds]
    styles = ["red" if found.drift[kind] else "green" for kind in kinds]
    yield from tables.grid(("kind", "compared", "differ", ""), rows, right=("compared", "differ"), styles=styles)
    for kind in kinds:
        told = [one for one in found.findings if one.kind == kind]
        if not told:
            continue
        yield ""
        yield Text.assemble((kind, "bold"), f"  {DRIFT_KINDS[kind]}")
        for one in told:
            yield from prose(clean(one.text), "  ")
            if one.run_ids:
                yield Text(f"    runs {' '.join(clean(run_id) for run_id in one.run_ids)}", DIM)
        yield from prose(_left_out(found.drift[kind], len(told)), "  ")
    yield ""
    for remark in found.remarks:
        yield from prose(clean(remark))
    total = f"{count(found.differences)} differences" if found.differences else "the books agree"
    yield Text(f"{total}; read in {duration(found.took_ns / 10**6)}", "red" if found.differences else "green")


def _left_out(differences: int, told: int) -> str:
    return f"{count(differences)} in all" if differences > told else ""


def _verdict(found: Audit, kind: str) -> str:
    return "differs" if found.drift[kind] else "agrees"
