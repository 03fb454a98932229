"""`agentobs traffic`: mixed runs for a running service, from a seed, until it is stopped.

Runs cost money unless the service calls a simulator. That is proven before they are sent and again whenever it could
have changed: one small run alone, whose first attempt has to stand on the simulator's bill. Each run that ends has to,
too; one that does not (a new simulator, an emptied bill, a service that calls something else by now) asks for a new
proof.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import TypeAdapter, ValidationError

from agentobs.cli.errands import SMALLEST, WORKFLOWS, Errand, errands
from agentobs.cli.figures import clean, duration
from agentobs.cli.http import Client
from agentobs.cli.terminal import note, show
from agentobs.errors import Refused, Unreachable, UsageError
from agentobs.records import SUCCEEDED, TERMINAL
from agentobs.setting_types import WebUrl, is_loopback, masked

T = TypeVar("T")

_LINE_EVERY_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0
_WAIT_S: Final = (1.0, 30.0)  # before a call is tried again: first, and at most
_FASTEST: Final = 6000.0  # runs a minute
_FOLLOWED: Final = 200  # runs under way beyond which none is added: what does not end must not pile up
_TAG: Final = {"sent-by": "traffic"}
# Shares of the requests that go wrong: most are tried again and heal, some end their run.
_MIXTURE: Final[tuple[tuple[float, Mapping[str, Any]], ...]] = (
    (0.30, {"fault": "overloaded"}),
    (0.20, {"fault": "rate_limited", "retry_after_s": 2}),
    (0.20, {"fault": "slow", "delay_s": 4}),
    (0.10, {"fault": "server_error"}),
    (0.08, {"fault": "cut_stream"}),
    (0.05, {"fault": "reset"}),
    (0.04, {"fault": "refusal"}),
    (0.03, {"fault": "max_tokens"}),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send. Raises `UsageError` where that makes no sense, or could spend without being asked to."""

    rate: float  # runs a minute
    for_s: float | None
    seed: int | None
    simulator: str | None
    fault_share: float
    spend_real_money: bool

    def __post_init__(self) -> None:
        if not 0 < self.rate <= _FASTEST:
            raise UsageError(f"--rate is {self.rate:g}; expected runs a minute, more than 0 and at most {_FASTEST:g}")
        if self.for_s is not None and not self.for_s > 0:
            raise UsageError(f"--for is {self.for_s:g}; expected seconds, more than 0")
        if not 0 <= self.fault_share <= 0.5:
            raise UsageError(f"--fault-share is {self.fault_share:g}; expected a share of the requests, from 0 to 0.5")
        if self.spend_real_money == (self.simulator is not None):
            raise UsageError(
                "--simulator and --spend-real-money exclude each other"
                if self.simulator
                else "runs cost money where the service calls a real model: name the simulator that it calls with "
                "--simulator URL, or say --spend-real-money"
            )
        if self.fault_share and not self.simulator:
            raise UsageError("--fault-share needs --simulator: nothing else fails on request")
        try:
            TypeAdapter(WebUrl | None).validate_python(self.simulator)
        except ValidationError:
            raise UsageError(
                f"--simulator is {self.simulator!r:.200}; expected a URL that begins with http:// or https://"
            ) from None

    def faults(self) -> list[dict[str, Any]]:
        share = self.fault_share
        return [{**fault, "probability": round(part * share, 6)} for part, fault in _MIXTURE] if share else []


class _Simulator:
    """The simulator that the service is said to call."""

    def __init__(self, url: str) -> None:
        self.shown = masked("AGENTOBS_URL", url).rstrip("/")
        self._http = httpx2.AsyncClient(
            base_url=url, timeout=10, trust_env=not is_loopback(urlsplit(url).hostname or "")
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def billed(self, span_id: str) -> bool:
        """Whether that attempt stands on the bill."""
        bill = await self._json("GET", "/_bill", params={"client_ref": span_id})
        with suppress(KeyError, TypeError):
            return any(line["client_ref"] == span_id for line in bill["requests"])
        raise self._foreign()

    async def begin(self, faults: list[dict[str, Any]]) -> None:
        """Put the faults in force. Those of somebody else stay."""
        there = await self.faults()
        if faults and there and there != faults:
            note(f"the simulator at {self.shown} has fault rules already; they stay, --fault-share is not applied")
        elif faults and not there:
            await self._json("PUT", "/_faults", json=faults)

    async def end(self, faults: list[dict[str, Any]]) -> None:
        """Take them back, if they are still the ones in force."""
        if faults and await self.faults() == faults:
            await self._http.delete("/_faults")

    async def faults(self) -> list[dict[str, Any]]:
        with suppress(TypeError, AttributeError):
            return [
                {name: value for name, value in rule.items() if name != "applied"}
                for rule in await self._json("GET", "/_faults")
            ]
        raise self._foreign()

    async def _json(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = await self._http.request(method, path, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(f"no simulator answers at {self.shown} ({type(error).__name__})") from None
        try:
            if answer.is_success:
                return answer.json()
        except ValueError:
            pass
        raise self._foreign()

    def _foreign(self) -> UsageError:
        return UsageError(f"what answers at {self.shown} is not 'agentobs simulate'; name that with --simulator")


async def traffic(service: Client, plan: Plan) -> None:
    """Send until `--for` is over or SIGTERM or SIGINT arrives."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if plan.spend_real_money:
        note(f"every run is paid for: {plan.rate:g} a minute at {service.url}, whatever its models cost")
    async with service, _simulator(plan) as simulator:
        sender = Sender(service, simulator, plan)
        sending, stopping = asyncio.create_task(sender.send()), asyncio.create_task(stopped.wait())
        telling = asyncio.create_task(sender.tell())
        await asyncio.wait({sending, stopping}, timeout=plan.for_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, stopping, telling):
            task.cancel()
        sent, _, _ = await asyncio.gather(sending, stopping, telling, return_exceptions=True)
        await sender.leave()
        show([sender.totals()])
        if isinstance(sent, Exception):
            raise sent


@asynccontextmanager
async def _simulator(plan: Plan) -> AsyncIterator[_Simulator | None]:
    if plan.simulator is None:
        yield None
        return
    simulator = _Simulator(plan.simulator)
    try:
        yield simulator
    finally:
        with suppress(Unreachable, UsageError, httpx2.HTTPError):
            await simulator.end(plan.faults())
        await simulator.close()


class Sender:
    """Sends runs and follows each to its end."""

    def __init__(self, service: Client, simulator: _Simulator | None, plan: Plan) -> None:
        self._service = service
        self._simulator = simulator
        self._plan = plan
        self._random = Random(plan.seed)  # noqa: S311 -- made to be repeatable
        self._proven = simulator is None
        self._following: dict[str, asyncio.Task[None]] = {}
        self._new: Counter[str] = Counter()  # since the last line
        self._all: Counter[str] = Counter()

    async def send(self) -> None:
        """For ever. Raises `UsageError` where the service calls something else than the simulator."""
        served = {one["name"] for one in (await self._answered(self._service.workflows))["workflows"]}
        if not served.intersection(WORKFLOWS):
            raise UsageError(f"the service at {self._service.url} serves none of {', '.join(WORKFLOWS)}")
        todo = errands(self._random, served)
        smallest = SMALLEST if SMALLEST[0] in served else next(todo)
        due = time.monotonic()
        while True:
            while not self._proven:
                await self._prove(smallest)
                due = time.monotonic()
            due = max(due, time.monotonic() - 1) + self._random.expovariate(self._plan.rate / 60)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self._following) >= _FOLLOWED:
                self._count("held back")
            elif self._proven and (run_id := await self._submit(next(todo))):
                self._follow(run_id)

    async def tell(self) -> None:
        """A line a minute."""
        while True:
            await asyncio.sleep(_LINE_EVERY_S)
            show([f"{datetime.now(UTC):%H:%M:%S}  {self._told(self._new)}"])
            self._new.clear()

    def totals(self) -> str:
        return f"in all: {self._told(self._all)}"

    async def leave(self) -> None:
        """Stop following; what runs goes on at the service."""
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)

    # ---- runs ----

    async def _submit(self, errand: Errand) -> str | None:
        """The run's id. None where the proof was lost before it was accepted: then it is not sent again."""

        async def accepted() -> dict[str, Any] | None:
            if self._proven:
                return await self._service.submit(*errand, _TAG)
            await self._service.check()
            return None

        run = await self._answered(accepted)
        return None if run is None else self._sent(run)

    def _sent(self, run: Mapping[str, Any]) -> str:
        self._count("sent")
        return str(run["id"])

    def _follow(self, run_id: str) -> None:
        self._following[run_id] = task = asyncio.create_task(self._followed(run_id))
        task.add_done_callback(lambda _: self._following.pop(run_id, None))

    async def _followed(self, run_id: str) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                run = await self._service.run(run_id)
            except Unreachable:  # told of by who sends
                self._away()
            except Refused as error:
                if error.status == 404:  # another journal
                    return
            else:
                if run["status"] in TERMINAL:
                    break
        ended = run["status"] if run["error"] is None else f"{run['status']} ({run['error']['type']})"
        self._count(ended)
        answered = [attempt for attempt in _attempts(run) if attempt["http_status"] is not None]
        if self._simulator and answered:
            try:
                billed = await self._simulator.billed(answered[-1]["span_id"])
            except (Unreachable, UsageError):
                billed = False
            self._proven = self._proven and billed

    async def _prove(self, errand: Errand) -> None:
        """One run alone; the service calls the simulator when the run's first attempt is on its bill."""
        simulator = self._simulator
        assert simulator is not None
        await self._answered(lambda: simulator.begin(self._plan.faults()))
        run_id = self._sent(await self._answered(lambda: self._service.submit(*errand, _TAG)))
        began, told, over = time.monotonic(), False, False
        try:
            while not self._proven and not over:
                await asyncio.sleep(_LOOK_EVERY_S / 5)
                run = await self._answered(lambda: self._service.run(run_id))
                tried = list(_attempts(run))
                answered = [one for one in tried if one["http_status"] is not None]
                over = run["status"] in TERMINAL or bool(answered)
                # The bill is read after the run: by then an answered attempt is on it, whoever asks.
                for one in (answered or tried)[-1:]:
                    self._proven = await self._answered(partial(simulator.billed, str(one["span_id"])))
                if not told and time.monotonic() - began > 30:
                    told = True
                    note(f"run {run_id} has called no model yet; no other is sent until it has")
        finally:
            if not self._proven:
                with suppress(Unreachable, Refused):
                    await self._service.cancel(run_id)
        self._follow(run_id)
        if self._proven:
            return
        if (run["error"] or {}).get("type") in {"connection_error", "timeout"}:
            note(f"run {run_id} reached no model API; another is tried in {_WAIT_S[1]:g} s")
            await asyncio.sleep(_WAIT_S[1])
            return
        under_way = map(self._service.cancel, self._following)
        await asyncio.gather(*under_way, return_exceptions=True)
        raise UsageError(
            f"run {run_id} called a model, and the simulator at {simulator.shown} knows nothing of it: the service "
            "calls something else, which may cost money. Nothing more is sent, what was under way is cancelled; see "
            "the service's ANTHROPIC_BASE_URL"
        )

    async def _answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer, however long it takes to get one. Raises what asking again cannot mend."""
        wait_s, most_s = _WAIT_S
        began: float | None = None
        while True:
            try:
                found = await call()
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.status < 500 and error.status != 429:
                    raise
                if began is None:
                    began = time.monotonic()
                    note(f"{clean(error)}; it is tried again")
                asked_s = error.retry_after_s if isinstance(error, Refused) else None
                if isinstance(error, Unreachable):
                    self._away()
            else:
                if began is not None:
                    note(f"answered again after {duration((time.monotonic() - began) * 1000)}")
                return found
            await asyncio.sleep(min(asked_s, 10 * most_s) if asked_s is not None else wait_s)
            wait_s = min(2 * wait_s, most_s)

    def _away(self) -> None:
        """Something did not answer: whoever answers next may have other settings."""
        self._proven = self._simulator is None

    # ---- figures ----

    def _count(self, what: str) -> None:
        self._new[what] += 1
        self._all[what] += 1

    def _told(self, counts: Counter[str]) -> str:
        def parts() -> Iterator[str]:
            yield f"{counts['sent']:,} sent"
            yield f"{counts[SUCCEEDED]:,} succeeded"
            for what in sorted(counts.keys() - {"sent", SUCCEEDED}):
                yield f"{counts[what]:,} {what}"
            yield f"{len(self._following):,} under way"

        return ", ".join(parts())


def _attempts(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for step in run["steps"]:
        yield from step["attempts"]
