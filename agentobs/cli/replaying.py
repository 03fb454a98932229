"""`agentobs replay`: recorded runs against the workflow code of this environment, and what it would pay again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from rich.text import Text

from agentobs.api import views
from agentobs.api.schemas import to_run_id
from agentobs.cli.figures import clean, counted, dollars
from agentobs.cli.reading import JournalFile, checked, journal
from agentobs.cli.terminal import document, note, show
from agentobs.cli.waterfall import DIM
from agentobs.errors import NotFound, UnknownWorkflow, UsageError
from agentobs.journal.protocol import RunDetail
from agentobs.records import AGENT, PICO, QUEUED, RUNNING, WAITING
from agentobs.runtime.compare import Found, Unanswered
from agentobs.runtime.replay import Replay, replay_run
from agentobs.settings import Settings
from agentobs.workflows import REGISTRY

Json: TypeAlias = dict[str, Any]

UNFINISHED: Final = (QUEUED, RUNNING, WAITING)
_PAGE: Final = 200
_DROPPED: Final = "the code no longer asks for it"
_SHOWN: Final = {
    "ended": "ends as recorded",
    "held": "would go on",
    "raised": "raises",
    "blocked": "cannot be told",
    "invalid_input": "cannot begin",
    "unregistered": "cannot begin",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Which runs, and how. Without ids and filters: the unfinished ones."""

    ids: Sequence[str] = ()
    unfinished: bool = False
    workflow: str | None = None
    since: str | None = None
    limit: int
    resumed: bool = False
    timeout_s: float


async def replay(settings: Settings, asked: Asked, *, as_json: bool) -> int:
    """Print what was found; the exit code: 0, or 4 for a difference."""
    if asked.ids and (asked.unfinished or asked.workflow or asked.since):
        raise UsageError("ids name the runs: leave out --unfinished, --workflow and --since, or the ids")
    ids = [to_run_id(one) for one in asked.ids]
    found = []
    async with journal(settings) as file:
        # What workflow modules print is none of the result.
        with contextlib.redirect_stdout(sys.stderr):
            import agentobs.examples  # noqa: F401, PLC0415 -- registers itself

            REGISTRY.load(settings.workflows)
            for run_id in ids or await _chosen(file, asked):
                with contextlib.suppress(*(() if ids else (NotFound,))):
                    found.append(await _replayed(await file.detail(run_id), asked))
    told = report(found)
    if as_json:
        document(told)
    else:
        show(_lines(told, everything=bool(ids)))
    return 4 if told["totals"]["differing"] else 0


async def _replayed(detail: RunDetail, asked: Asked) -> Replay:
    try:
        workflow = REGISTRY[detail.run.workflow]
    except UnknownWorkflow as error:
        return Replay(detail=detail, outcome="unregistered", reason=str(error))
    return await asyncio.to_thread(replay_run, detail, workflow, resumed=asked.resumed, timeout_s=asked.timeout_s)


async def _chosen(file: JournalFile, asked: Asked) -> list[str]:
    """Ids of the runs that the filters leave, newest first, at most `asked.limit`."""
    given = {"workflow": asked.workflow, "since": asked.since}
    unfinished = asked.unfinished or not (asked.workflow or asked.since)
    ids: list[str] = []
    for status in UNFINISHED if unfinished else (None,):
        cursor: str | None = None
        while len(ids) <= asked.limit:
            page = await file.runs(checked({**given, "status": status, "limit": _PAGE, "cursor": cursor}))
            ids += [run["id"] for run in page["runs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    ids.sort(reverse=True)
    if len(ids) > asked.limit:
        note(f"note: the newest {asked.limit} runs; for more of them --limit")
    return ids[: asked.limit]


# ---- as JSON ----


def report(found: Iterable[Replay]) -> Json:
    runs = [_run(one) for one in found]
    return {
        "runs": runs,
        "totals": {
            "runs": len(runs),
            "differing": sum(run["differs"] for run in runs),
            **{name: _total([run[name] for run in runs]) for name in ("paid_again_usd", "at_stake_usd", "dropped_usd")},
        },
    }


def _run(found: Replay) -> Json:
    changed = [call.recorded for call in found.calls if call.recorded is not None]
    # What follows a changed answer is most likely asked in other words.
    later = [] if found.diverged or not found.differs else found.unasked
    return {
        "id": found.detail.run.id,
        "workflow": found.detail.run.workflow,
        "status": found.detail.run.status,
        "outcome": found.outcome,
        "differs": found.differs,
        "reason": found.reason,
        "reused": found.reused,
        "calls": [_call(call) for call in found.calls],
        "diverged": [_recorded(one) for one in found.diverged],
        "not_reached": [_recorded(one) for one in (() if found.diverged else found.unasked)],
        "paid_again_usd": _cost(changed),
        "at_stake_usd": _cost([*changed, *later]),
        "dropped_usd": _cost(found.diverged),
    }


def _call(call: Unanswered) -> Json:
    told = {"verdict": call.verdict, "why": call.why, "kind": call.step.kind, "name": call.step.name}
    recorded = None if call.recorded is None else _recorded(call.recorded)
    return {**told, "branch": call.step.branch, "recorded": recorded}


def _recorded(found: Found) -> Json:
    step = found.step
    cost = None if found.cost_pico is None else views.dollars(found.cost_pico)
    return {"step": step.number, "kind": step.kind, "name": step.name, "branch": step.branch, "cost_usd": cost}


def _cost(steps: Iterable[Found]) -> str | None:
    """What they had cost; null when that of one is not known."""
    costs = [one.cost_pico for one in steps]
    return None if None in costs else views.dollars(sum(cost for cost in costs if cost is not None))


def _total(costs: Sequence[str | None]) -> str | None:
    pico = [None if cost is None else int(Decimal(cost) * PICO) for cost in costs]
    return None if None in pico else views.dollars(sum(cost for cost in pico if cost is not None))


# ---- for people ----


def _lines(told: Mapping[str, Any], *, everything: bool) -> Iterator[Text | str]:
    for run in told["runs"]:
        if run["differs"] or everything:
            yield from _run_lines(run)
    totals = told["totals"]
    if not totals["runs"]:
        yield "no run to replay"
        return
    runs = counted(totals["runs"], "run")
    if not totals["differing"]:
        yield f"{runs}: nothing recorded would be paid again, nothing diverges"
        return
    again, stake, dropped = (dollars(totals[name]) for name in ("paid_again_usd", "at_stake_usd", "dropped_usd"))
    yield f"{totals['differing']} of {runs} {'differs' if totals['differing'] == 1 else 'differ'} from this code"
    yield f"  {again} of recorded steps would be paid again, {stake} with what follows them"
    if totals["dropped_usd"] != "0":
        yield f"  {dropped} was paid for steps that are no longer asked for"


def _run_lines(run: Mapping[str, Any]) -> Iterator[Text]:
    shown = "differs" if run["differs"] and run["outcome"] in {"ended", "held"} else _SHOWN[run["outcome"]]
    yield Text.assemble(
        (run["id"], "bold"),
        f"  {clean(run['workflow'])}  {run['status']}  ",
        (shown, "red" if run["differs"] else "green"),
        (f"  {counted(run['reused'], 'step')} answered from the journal", DIM),
    )
    if run["reason"]:
        yield Text(f"  {clean(run['reason'])}")
    rows = [(_VERDICTS[call["verdict"]], call, call["recorded"], call["why"]) for call in run["calls"]]
    rows += [("dropped", one, one, _DROPPED) for one in run["diverged"]]
    rows += [("not reached", one, one, "") for one in run["not_reached"] if run["differs"]]
    for verdict, call, recorded, why in rows:
        where = f" in {clean(call['branch'])}" if call["branch"] else ""
        cost = ""
        if recorded is not None:
            paid = f", {dollars(recorded['cost_usd'])}" if call["kind"] == AGENT else ""
            cost = f"  (step {recorded['step']}{paid})"
        style = DIM if verdict in {"due", "next", "not reached"} else "yellow"
        line = f"{clean(call['name'])}{where}{cost}"
        yield Text.assemble("  ", (f"{verdict:<11}", style), f"  {line}", f"  {why}" if why else "")


_VERDICTS: Final = {"changed": "paid again", "added": "added", "due": "due", "next": "next"}
