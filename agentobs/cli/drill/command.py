"""What `agentobs drill` does: see that everything answers, play, print what became of each alert."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from agentobs.cli import tables
from agentobs.cli.drill import faults, scenarios, sources
from agentobs.cli.drill.play import PASSED, Drill, Result
from agentobs.cli.drill.sources import Alerts, Api
from agentobs.cli.figures import NONE, duration
from agentobs.cli.http import Client, client
from agentobs.cli.terminal import document, fail, note, prose, show
from agentobs.errors import Unreachable, UsageError
from agentobs.runtime.clock import SystemClock
from agentobs.setting_types import WebUrl
from agentobs.settings import Settings

T = TypeVar("T")

DIFFERENCE: Final = 4
_WORDS: Final[dict[Result, str]] = {"fired before": "fired before the drill, and did not end"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options."""

    alerts: str | None
    secret: Path | None
    listen: str | None
    simulator: str
    prometheus: str | None
    only: tuple[str, ...]
    slow: bool
    keep_going: bool
    timeout_s: float
    server: str | None


async def drill(settings: Settings, asked: Asked, *, as_json: bool) -> int:
    """Play it; the exit code: 0, 3 where something does not answer, 4 for a difference, 128 and the signal's number."""
    _check_names(asked.only)
    if asked.alerts is None and asked.listen is None:
        raise UsageError(
            "--alerts names Alertmanager or Grafana, --listen a webhook of the drill's own; give one of them"
        )
    waves = scenarios.chosen(asked.only, slow=asked.slow)
    async with AsyncExitStack() as stack:
        webhook = (
            await stack.enter_async_context(sources.listening(*sources.address(asked.listen))) if asked.listen else None
        )
        service = await stack.enter_async_context(client(settings, asked.server))
        simulator = await _api(stack, "the simulator", "--simulator", asked.simulator)
        found = await _reach(stack, asked, service, simulator, scenarios.workflows(waves))
        if found is None:
            return Unreachable.exit_code
        state, loaded = found
        await faults.check_is_asked(service, simulator)
        note(f"simulator: has the requests of the service at {service.url}")
        judged = webhook or state
        assert judged is not None
        play = Drill(
            service=service,
            put=partial(faults.put, simulator),
            source=judged,
            state=state or judged,
            clock=SystemClock(),
            tell=note,
            timeout_s=asked.timeout_s,
        )
        began = datetime.now(UTC)
        with _stopped_by_signals() as stopped:
            try:
                async with faults.put_back(simulator):
                    await play.play(waves, only=asked.only, loaded=loaded, keep_going=asked.keep_going)
            except Unreachable as error:
                fail(str(error))
                code = error.exit_code
            except asyncio.CancelledError:
                if not stopped:
                    raise
                note("stopped: the simulator has the rules that it had before")
                code = 128 + stopped[0]
            else:
                code = 0 if play.passed else DIFFERENCE
    not_provoked = {} if asked.only else scenarios.NOT_PROVOKED
    if as_json:
        document(report(play, not_provoked, began))
    else:
        show(["", *_lines(play, not_provoked)])
    return code


def _check_names(only: Sequence[str]) -> None:
    for name in only:
        if name in scenarios.NOT_PROVOKED:
            raise UsageError(f"{name} cannot be drilled: {scenarios.NOT_PROVOKED[name]}")
        if name not in scenarios.provoked():
            raise UsageError(
                f"--only {name!r:.60}: no such alert; those that can be drilled: {', '.join(scenarios.provoked())}"
            )


async def _api(stack: AsyncExitStack, what: str, option: str, url: str, secret: str | None = None) -> Api:
    try:
        TypeAdapter(WebUrl).validate_python(url)
    except ValidationError:
        raise UsageError(
            f"{option} is {url!r:.200}; expected a URL that begins with http:// or https:// and names a host"
        ) from None
    api = Api(what, url, secret)
    stack.push_async_callback(api.close)
    return api


async def _reach(
    stack: AsyncExitStack, asked: Asked, service: Client, simulator: Api, workflows: frozenset[str]
) -> tuple[Alerts | None, frozenset[str] | None] | None:
    """Where alerts are seen, and which are loaded where that can be told. Says of each whether it answers; None: no."""
    alerts_api = prometheus = None
    if asked.alerts is not None:
        secret = sources.read_secret(asked.secret)
        alerts_api = await _api(stack, "Alertmanager or Grafana", "--alerts", asked.alerts, secret)
    if asked.prometheus is not None:
        prometheus = await _api(stack, "Prometheus", "--prometheus", asked.prometheus)
    missing = False

    async def answers(work: Awaitable[T], name: str, where: str) -> T | None:
        nonlocal missing
        try:
            found = await work
        except Unreachable as error:
            missing = True
            fail(str(error))
            return None
        note(f"{name}: answers at {where}")
        return found

    await answers(service.check(), "service", service.url)
    await answers(faults.check_is_simulator(simulator), "simulator", simulator.url)
    state = await answers(sources.find(alerts_api), "alerts", alerts_api.url) if alerts_api else None
    loaded = (
        await answers(sources.loaded(prometheus, "Prometheus"), "prometheus", prometheus.url) if prometheus else None
    )
    if missing:
        return None
    if loaded is None and state is not None and state.kind == "Grafana":
        loaded = await sources.loaded(state.api, state.kind)
    known = {workflow["name"] for workflow in (await service.workflows())["workflows"]}
    if lacking := sorted(workflows - known):
        raise UsageError(f"the service at {service.url} does not have the shipped workflows {', '.join(lacking)}")
    return state, loaded


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM cancel this task, once, so that the faults are taken away; which one it was."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    caught: list[int] = []

    def stop(number: int) -> None:
        if not caught:
            caught.append(number)
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield caught
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


# ---- what is printed ----


def report(play: Drill, not_provoked: Mapping[str, str], began: datetime) -> dict[str, Any]:
    return {
        "began_at": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "passed": play.passed,
        "alerts": [
            {
                "alert": scene.expected.alert,
                "labels": dict(scene.expected.labels),
                "scenario": scene.scenario,
                "fired_after_s": _rounded(scene.fired_s),
                "ended_after_s": _rounded(scene.resolved_s),
                "result": scene.result,
            }
            for scene in play.scenes
        ]
        + [
            {
                "alert": one.alert.alert,
                "labels": dict(sorted(one.alert.labels)),
                "scenario": one.during,
                "fired_after_s": _rounded(one.fired_s),
                "ended_after_s": None,
                "result": "unrelated",
            }
            for one in play.unrelated
        ],
        "not_provoked": [{"alert": alert, "reason": reason} for alert, reason in not_provoked.items()],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _lines(play: Drill, not_provoked: Mapping[str, str]) -> Iterator[Any]:
    rows = [
        (scene.expected.alert, scene.expected.about, scene.scenario, scene.fired_s, scene.resolved_s, scene.result)
        for scene in play.scenes
    ]
    rows += [(one.alert.alert, one.alert.about, one.during, one.fired_s, None, "unrelated") for one in play.unrelated]
    cells = [
        (alert, about, during, _seconds(fired), _seconds(ended), _WORDS.get(result, result))
        for alert, about, during, fired, ended, result in rows
    ]
    styles = ["green" if row[-1] == PASSED else "dim" if row[-1] == "not tried" else "red" for row in rows]
    head = ("alert", "about", "fault", "fired after", "ended after", "result")
    yield from tables.grid(head, cells, right=("fired after", "ended after"), styles=styles)
    if not_provoked:
        yield ""
        yield "Not provoked:"
        for alert, reason in not_provoked.items():
            yield from prose(f"{alert}: {reason}", "  ")


def _seconds(value: float | None) -> str:
    return NONE if value is None else duration(value * 1000)
