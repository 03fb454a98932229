"""`agentobs runs tail`: a run's events as they come, through lost connections, to the run's end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Any, Final, Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from agentobs.api.schemas import to_run_id
from agentobs.cli.figures import clean
from agentobs.cli.progress import Progress
from agentobs.cli.reading import Source, source
from agentobs.cli.render import ended, failures, summary
from agentobs.cli.terminal import look, note, out, show
from agentobs.cli.waterfall import DIM, waterfall
from agentobs.errors import Unreachable
from agentobs.records import SUCCEEDED, TERMINAL
from agentobs.settings import Settings

_PATIENCE_S: Final = 30.0  # for a service that was there and is gone
_AGAIN_S: Final = 0.5


async def tail(settings: Settings, server: str | None, run_id: str, *, as_json: bool) -> int:
    """The exit code: 0 when the run succeeded, 1 when it did not."""
    run_id = to_run_id(run_id)
    async with source(settings, server) as found:
        events = Unbroken(found, run_id)
        view: _View = _Json() if as_json else _Waterfall() if out().is_terminal else _Lines()
        try:
            with view:
                async with aclosing(events.follow()) as stream:
                    async for name, data, seq in stream:
                        view.see(name, data, seq)
        except asyncio.CancelledError:  # Ctrl-C: of the tail, not of the run
            note(
                f"the run goes on: 'agentobs runs tail {run_id}' follows it again, 'agentobs runs cancel {run_id}' "
                "stops it"
            )
            raise
    run = events.run
    if not as_json:
        if out().is_terminal:
            show(summary(run, look(out()), content=True))
        else:
            show([*failures(run, look(out())), ended(run)])
    return 0 if run["status"] == SUCCEEDED else 1


class Unbroken:
    """The events of a run without gap or repetition, whatever becomes of the connection. `run` is set at the end."""

    def __init__(self, found: Source, run_id: str) -> None:
        self._source = found
        self._run_id = run_id
        self.run: Mapping[str, Any] = {}

    async def follow(self) -> AsyncGenerator[tuple[str, dict[str, Any], int]]:
        """Raises `Unreachable` once the service has been silent for too long."""
        loop = asyncio.get_running_loop()
        after, last, lost_at = 0, "", 0.0
        while True:
            try:
                async with aclosing(self._source.events(self._run_id, after)) as stream:
                    async for name, data, seq in stream:
                        after, last, lost_at = seq, name, 0.0
                        yield name, data, seq
                if last == "run.ended":
                    self.run = await self._source.run(self._run_id)
                    if self.run["status"] in TERMINAL:  # else it was resumed, and goes on
                        return
            except Unreachable as error:
                if lost_at and loop.time() - lost_at > _PATIENCE_S:
                    raise Unreachable(f"{error}. 'agentobs runs tail {self._run_id}' goes on once it is back") from None
            if not lost_at:
                lost_at = loop.time()
                note("the stream broke off; trying again")
            await asyncio.sleep(_AGAIN_S)


class Seen:
    """A run as far as its events have told it, in the shape of `GET /v1/runs/{id}` without input and output."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {}
        self._steps: dict[int, dict[str, Any]] = {}
        self._executions: dict[int, dict[str, Any]] = {}

    def take(self, name: str, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Add an event; the steps that it is about."""
        match name.partition(".")[0]:
            case "run":
                self.run |= data
            case "execution":
                self._executions[data["number"]] = data
                self.run |= {"status": "running", "ended_at": None}
                self.run["started_at"] = self.run["started_at"] or data["started_at"]
            case "step":
                self._steps[data["number"]] = data
            case "attempt" if data["step"] in self._steps:
                step = self._steps[data["step"]]
                if step["duration_ms"] is None:
                    _add(step, data)
                return [step]
        return [self._steps[data["number"]]] if name.startswith("step.") else []

    def whole(self) -> dict[str, Any]:
        return self.run | {"steps": list(self._steps.values()), "executions": list(self._executions.values())}


def _add(step: dict[str, Any], attempt: dict[str, Any]) -> None:
    """An attempt, begun or ended, to a step that runs; and what its attempts have used so far."""
    mine = (attempt["turn"], attempt["number"])
    others = [one for one in step["attempts"] if (one["turn"], one["number"]) != mine]
    step["attempts"] = [*others, attempt]
    told = [one for one in step["attempts"] if one["tokens"] is not None]
    step["tokens"] = {kind: sum(one["tokens"][kind] for one in told) for kind in step["tokens"]}
    costs = [one["cost_usd"] for one in told]
    step["cost_usd"] = None if None in costs else str(sum(map(Decimal, costs), Decimal(0)))


class _View(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def see(self, name: str, data: dict[str, Any], seq: int) -> None: ...


class _Json:
    """One JSON object a line, as soon as it is known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def see(self, name: str, data: dict[str, Any], seq: int) -> None:
        line = json.dumps({"id": seq, "event": name, "data": data}, separators=(",", ":"))
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class _Lines:
    """A line for each start, failed attempt and end of a step, for whoever reads a pipe."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._progress = Progress(out())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def see(self, name: str, data: dict[str, Any], seq: int) -> None:
        del seq
        if name == "execution.started" and data["number"] > 1:
            show([Text(f"  execution {data['number']} ({clean(data['reason'])}) by {clean(data['worker'])}")])
        changed = self._seen.take(name, data)
        if name == "attempt.ended":  # whether it is tried again is told by what follows
            return
        self._progress.see({"status": self._seen.run["status"], "steps": changed})
        sys.stdout.flush()


class _Waterfall:
    """The run's waterfall, drawn again as it grows; as many of its last lines as the terminal has room for."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._live = Live(console=out(), get_renderable=self._draw, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._live.transient = not any(raised)  # else nothing follows that is more complete
        self._live.stop()

    def see(self, name: str, data: dict[str, Any], seq: int) -> None:
        del seq
        self._seen.take(name, data)

    def _draw(self) -> Group:
        run = self._seen.whole()
        if "id" not in run:
            return Group()
        head, *rows = waterfall(run, look(out())) or [Text("no step yet", DIM)]
        room = max(out().height - 4, 3)
        return Group(Text(f"run {run['id']}  {run['status']}", "bold"), head, *rows[-room:])
