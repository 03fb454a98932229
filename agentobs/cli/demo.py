"""`agentobs demo`: three runs, and what can be seen of them."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentobs.cli.terminal import look, out, prose, show
from agentobs.errors import UsageError
from agentobs.records import OK

if TYPE_CHECKING:
    from agentobs.cli.stage import Stage

T = TypeVar("T")

WORKFLOW: Final = "article"
GOAL: Final = "Best practices for remote team communication"


@dataclass(frozen=True)
class Act:
    """A run of the demo, and how it has to end."""

    title: str
    input: Mapping[str, str]
    status: str = "succeeded"
    error_type: str | None = None
    faults: tuple[tuple[str, str], ...] = ()  # a fault, and the agent whose next request it befalls
    failures: tuple[str, ...] = field(default=())  # outcomes of attempts that were tried again


ACTS: Final = (
    Act("right the first time", {"goal": GOAL}),
    Act(
        "through an overloaded API, and an answer that is cut off",
        {"goal": GOAL},
        faults=(("overloaded", "researcher"), ("cut_stream", "writer")),
        failures=("overloaded", "stream_truncated"),
    ),
    Act(
        "failing on an invalid message: empty notes, which the API refuses",
        {"notes": "", "goal": GOAL},
        status="failed",
        error_type="invalid_request",
    ),
)


def demo(*, real: bool) -> int:
    """Play it; the exit code: 0 when every run ended as announced."""
    if real and not any(os.environ.get(f"ANTHROPIC_API_KEY{end}", "").strip() for end in ("", "_FILE")):
        raise UsageError(
            "--real needs a key: ANTHROPIC_API_KEY is not set; set it, or leave --real out to use a simulated API"
        )
    folder = Path(tempfile.mkdtemp(prefix="agentobs-demo-"))
    # At once: the imports take some seconds.
    show(
        [
            "agentobs demo: a service on this machine, calling the real Anthropic API"
            if real
            else "agentobs demo: a service calling a simulated Anthropic API; it costs nothing",
            "",
        ]
    )
    with out().status("starting …"):
        import agentobs.models.wire  # noqa: F401, PLC0415 -- the SDK, lest the first run waits for it
        from agentobs.models import pricing  # noqa: PLC0415
        from agentobs.runtime.loop import run_loop  # noqa: PLC0415

        pricing.load()
    play = _real(folder) if real else _simulated(folder)
    problems = run_loop(play)
    for problem in problems:
        show([f"NOT as announced: {problem}"])
    return 1 if problems else 0


async def _simulated(folder: Path) -> Sequence[str]:
    from agentobs.cli import evidence  # noqa: PLC0415
    from agentobs.cli.stage import stage  # noqa: PLC0415

    async with stage(folder) as on:
        _introduce(on, folder)
        runs: list[Mapping[str, Any]] = []
        problems: list[str] = []
        scrapes = [await evidence.scrape(on)]
        for number, act in enumerate(ACTS, 1):
            run = await _play(on, act, number)
            runs.append(run)
            problems += [f"run {number} {problem}" for problem in _differences(act, run)]
            scrapes.append(await evidence.settled(on, run, ended=number))
        retried = 1
        bill = await on.bill()
        show(["", *evidence.side_by_side(on, runs[retried], retried + 1, scrapes[retried], scrapes[retried + 1], bill)])
        lines, wrong = evidence.agreement(runs, scrapes[-1], bill)
        show(["", *lines, "", *await evidence.trace(on, runs[retried]), "", *_going_on(folder)])
        return [*problems, *wrong]


async def _real(folder: Path) -> Sequence[str]:
    from agentobs.cli import evidence  # noqa: PLC0415
    from agentobs.cli.ceiling import most_usd  # noqa: PLC0415
    from agentobs.cli.stage import stage  # noqa: PLC0415

    async with stage(folder, real=True) as on:
        _introduce(on, folder)
        act = Act("on the real API", {"goal": GOAL})
        bound = "were every answer as long as it may be, and every attempt used up and billed"
        show(["", *prose(f"It costs {most_usd(GOAL)} at most, {bound}.")])
        run = await _play(on, act, 1)
        await evidence.settled(on, run, ended=1)
        show(["", *await evidence.trace(on, run), "", *_going_on(folder)])
        return [f"the run {problem}" for problem in _differences(act, run)]


def _introduce(on: Stage, folder: Path) -> None:
    rows = [("service", on.service.url), ("simulator", on.simulator), ("folder", f"{folder}  (journal and log; kept)")]
    show([f"  {name:<11}{value}" for name, value in rows if value])


async def _play(on: Stage, act: Act, number: int) -> Mapping[str, Any]:
    """Submit the run over HTTP, show its progress and its summary."""
    from rich.text import Text  # noqa: PLC0415

    from agentobs.cli.figures import shortened  # noqa: PLC0415
    from agentobs.cli.progress import follow  # noqa: PLC0415
    from agentobs.cli.render import summary  # noqa: PLC0415
    from agentobs.cli.waterfall import DIM  # noqa: PLC0415

    show(["", Text(f"{number}. A run {act.title}", "bold")])
    if act.faults:
        await on.put_faults(_rules(act))
        told = ", ".join(f"{fault} ({agent})" for fault, agent in act.faults)
        show([Text(f"   PUT /_faults   once each: {told}", DIM)])
    accepted = await on.service.submit(WORKFLOW, act.input)
    body = json.dumps({"workflow": WORKFLOW, "input": act.input})
    told = f"   POST /v1/runs  {body}"
    show([Text(shortened(told, out().width) if out().is_terminal else told, DIM)])
    run = await _unless_stopped(on, follow(lambda: on.service.run(accepted["id"]), out()))
    show(["", *summary(run, look(out()))])
    return run


def _rules(act: Act) -> list[dict[str, Any]]:
    """A request is told by its agent's system prompt. A cut that comes after the usage leaves that exactly known."""
    from agentobs.examples.article import editor, researcher, writer  # noqa: PLC0415

    systems = {agent.name: agent.system for agent in (researcher, writer, editor)}
    options = {"cut_stream": {"after_usage": True}}
    return [
        {"fault": fault, "match": {"contains": systems[agent]}, "times": 1, **options.get(fault, {})}
        for fault, agent in act.faults
    ]


async def _unless_stopped(on: Stage, work: Coroutine[Any, Any, T]) -> T:
    """Ctrl-C is taken by the service, which then stops: so does the demo."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(on.stopped.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
        raise KeyboardInterrupt
    return working.result()


def _differences(act: Act, run: Mapping[str, Any]) -> list[str]:
    found = {
        "ended as": (run["status"], act.status),
        "has the error": ((run["error"] or {}).get("type"), act.error_type),
        "was tried again after": (
            sorted(
                attempt["outcome"]
                for step in run["steps"]
                for attempt in step["attempts"]
                if attempt["outcome"] not in {OK, act.error_type}
            ),
            sorted(act.failures),
        ),
    }
    return [f"{what} {is_!r}, announced was {due!r}" for what, (is_, due) in found.items() if is_ != due]


def _going_on(folder: Path) -> list[str]:
    agentobs = "agentobs" if shutil.which("agentobs") else os.path.relpath(sys.argv[0])
    database = shlex.quote(f"sqlite:///{folder / 'agentobs.db'}")
    body = json.dumps({"workflow": WORKFLOW, "input": {"goal": "Tea"}}, separators=(",", ":"))
    return [
        "To go on:",
        f"  AGENTOBS_DATABASE_URL={database} {agentobs} runs list",
        f"  ANTHROPIC_API_KEY=sk-... {agentobs} serve     # or without a key:",
        f"  {agentobs} simulate --port 9100 &",
        f"  ANTHROPIC_BASE_URL=http://127.0.0.1:9100 ANTHROPIC_API_KEY=any {agentobs} serve",
        "and in a second shell:",
        f"  curl http://127.0.0.1:8080/v1/runs -H 'Content-Type: application/json' -d '{body}'",
        f"  {agentobs} runs list",
    ]
