"""A system under test, in a process of its own: `python -m agentobs.bench.subject SYSTEM`.

It reads one `Order` a line from standard input, does that many runs, and answers a line with what they took. CPU is
that of this whole process, all its threads, user and system.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

from agentobs.bench import flows

LAG_S: Final = 0.01
FLUSH_S: Final = 0.1

Do: TypeAlias = Callable[[str, bool], Awaitable[None]]  # one run: its topic, whether it streams
Flush: TypeAlias = Callable[[], Awaitable[None]]  # what is still owed for the runs is done


@dataclass(frozen=True, kw_only=True)
class Order:
    """So many runs, so many at once; begun over `ramp_s` seconds."""

    runs: int
    at_once: int
    stream: bool = False
    ramp_s: float = 0.0
    flush: bool = True
    watch: bool = False  # the event loop's lag too


@dataclass(frozen=True, kw_only=True)
class Took:
    """What an order took. `calls_s` holds every call's time, `lags_s` how late a 10 ms timer came."""

    runs: int
    cpu_s: float
    wall_s: float
    rss_bytes: int  # the highest since the process began
    calls_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)


async def carry_out(order: Order, do: Do, flush: Flush) -> Took:
    flows.took.clear()
    lags: list[float] = []
    watching = asyncio.create_task(_watch(lags)) if order.watch else None
    left = iter(range(order.runs))

    async def one_after_the_other(wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        for number in left:
            await do(f"{flows.TOPIC}, {number}", order.stream)

    wall, cpu = time.perf_counter(), time.process_time()
    at_once = min(order.at_once, order.runs)
    await asyncio.gather(*(one_after_the_other(order.ramp_s * n / at_once) for n in range(at_once)))
    wall_s = time.perf_counter() - wall
    if order.flush:
        await flush()
    cpu_s = time.process_time() - cpu
    if watching is not None:
        watching.cancel()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Took(runs=order.runs, cpu_s=cpu_s, wall_s=wall_s, rss_bytes=peak, calls_s=list(flows.took), lags_s=lags)


async def _watch(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LAG_S)
        lags.append(max(time.perf_counter() - began - LAG_S, 0.0))


# ---- the systems ----


@asynccontextmanager
async def bare(*, aiohttp: bool = False) -> AsyncIterator[tuple[Do, Flush]]:
    """The SDK as it comes: no telemetry, nothing durable. `aiohttp`: its other transport."""
    import anthropic  # noqa: PLC0415

    made = anthropic.DefaultAioHttpClient() if aiohttp else None
    async with anthropic.AsyncAnthropic(http_client=made, open_telemetry=False) as client:

        async def do(topic: str, stream: bool) -> None:
            text = ""
            for number, system in enumerate(flows.SYSTEMS, 1):
                began = time.perf_counter()
                asked: dict[str, Any] = {
                    "model": flows.MODEL,
                    "max_tokens": flows.MAX_TOKENS,
                    "system": system,
                    "messages": [{"role": "user", "content": flows.prompt(number, topic, text)}],
                }
                if stream:
                    async with client.messages.stream(**asked) as answer:
                        message: Any = await answer.get_final_message()
                else:
                    message = await client.messages.create(**asked)
                text = message.content[0].text
                flows.took.append(time.perf_counter() - began)

        yield do, _nothing


async def _nothing() -> None: ...


@asynccontextmanager
async def agentobs() -> AsyncIterator[tuple[Do, Flush]]:
    """The service with everything on, in this process, set up by the environment as users do."""
    from agentobs.journal.protocol import Published  # noqa: PLC0415
    from agentobs.journal.sqlite import SqliteJournal  # noqa: PLC0415
    from agentobs.records import CLOSED, SUCCEEDED, Run  # noqa: PLC0415
    from agentobs.service import open_service  # noqa: PLC0415
    from agentobs.settings import Settings  # noqa: PLC0415

    waiting: dict[str, asyncio.Future[str]] = {}

    def ended(batch: Sequence[Published]) -> None:
        for unit in batch:
            for verb, record in unit.changes:
                if verb == CLOSED and isinstance(record, Run) and record.id in waiting:
                    waiting.pop(record.id).set_result(record.status)

    flows.opened = time.monotonic()
    async with open_service(Settings.load()) as service:
        journal = service.reader
        assert isinstance(journal, SqliteJournal)
        journal.subscribe(ended)

        async def do(topic: str, stream: bool) -> None:
            submitted = await service.submit("bench_stream" if stream else "bench_plain", topic)
            end = waiting[submitted.run.id] = asyncio.get_running_loop().create_future()
            status = await end
            if status != SUCCEEDED:
                raise RuntimeError(f"a run of the bench ended as {status}; expected {SUCCEEDED}")

        async def flush() -> None:
            while (await journal.pending_span_stats())[0]:  # noqa: ASYNC110 -- nobody is told of it
                await asyncio.sleep(FLUSH_S)

        yield do, flush


SYSTEMS: Final[dict[str, Callable[[], Any]]] = {
    "agentobs": agentobs,
    "bare": bare,
    "bare-aiohttp": lambda: bare(aiohttp=True),
}


async def take_orders(system: str) -> None:
    async with SYSTEMS[system]() as (do, flush):
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(asdict(await carry_out(Order(**json.loads(line)), do, flush)))


async def recover() -> None:
    """Start on a journal that a killed process left; say how long it took until so many functions were entered."""
    async with agentobs():
        due: int = json.loads(await asyncio.to_thread(sys.stdin.readline))["entered"]
        while len(flows.entered) < due:  # noqa: ASYNC110 -- nobody is told of it
            await asyncio.sleep(LAG_S)
        _say({"seconds": flows.entered[due - 1] - flows.opened})
        await asyncio.to_thread(sys.stdin.read)


async def over_http() -> None:
    """Serve; to each line answer what this process has used and done so far."""
    from agentobs.service import serve_http  # noqa: PLC0415
    from agentobs.settings import Settings  # noqa: PLC0415

    stop = asyncio.Event()
    ready = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(Settings.load(), ready=ready.set_result, stop=stop))
    _say({"url": await ready})
    while await asyncio.to_thread(sys.stdin.readline):
        _say({"cpu_s": time.process_time(), "calls": len(flows.took)})
    stop.set()
    await serving


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(system: str) -> None:
    """The SDK on the event loop that Python starts by default, ours on the one that `agentobs serve` runs on."""
    if system.startswith("bare"):
        asyncio.run(take_orders(system))
        return
    from agentobs.runtime.loop import run_loop  # noqa: PLC0415

    if system == "recover":  # as a service starts: the SDK is imported beside the recovery
        run_loop(recover())
        return
    import agentobs.models.wire  # noqa: F401, PLC0415 -- the SDK, so that no order waits for it

    run_loop(over_http() if system == "http" else take_orders(system))


if __name__ == "__main__":
    main(sys.argv[1])
