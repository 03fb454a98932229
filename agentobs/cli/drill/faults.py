"""The simulator behind a service: its fault rules, put back in the end, and the bill that proves who is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from agentobs.cli.drill.sources import Api
from agentobs.cli.http import Client
from agentobs.errors import AgentobsError, Unreachable, UsageError

Rules = Sequence[Mapping[str, Any]]

PROBE: Final = {"tickets": ["agentobs-drill:probe"]}
_PROBE_S: Final = 30.0
_LOOKS: Final = 4
_ENDED: Final = ("succeeded", "failed", "cancelled")


async def check_is_simulator(api: Api) -> None:
    """Raises `Unreachable` for anything else."""
    if not isinstance(await api.get("/_faults"), list):
        raise Unreachable(f"what answers at {api.url} is not the simulator")


async def check_is_asked(service: Client, simulator: Api) -> None:
    """One small run, whose requests must be on the simulator's bill. Raises `UsageError` else: it could cost money.

    Its first request is enough.
    """
    run_id = (await service.submit("triage", PROBE, {"drill": "probe"}))["id"]
    attempts: set[str] = set()
    ended = False
    with suppress(TimeoutError):
        async with asyncio.timeout(_PROBE_S):
            while not attempts and not ended:
                await asyncio.sleep(0.1)
                run = await service.run(run_id)
                attempts = {one["span_id"] for step in run["steps"] for one in step["attempts"]}
                ended = run["status"] in _ENDED
    for _ in range(_LOOKS if attempts else 0):  # an attempt is written down before it is sent
        bill = await simulator.get(f"/_bill?client_ref={next(iter(attempts))}")
        if attempts & {line["client_ref"] for line in bill["requests"]}:
            return
        await asyncio.sleep(0.3)
    with suppress(AgentobsError):
        await service.cancel(run_id)  # it may have gone to the real API
    found = "is not on the bill of" if attempts else f"was not sent within {_PROBE_S:g} s to"
    raise UsageError(
        f"the first request of run {run_id} {found} the simulator at {simulator.url}: the drill runs only where that "
        "simulator stands in for the API; start the service with ANTHROPIC_BASE_URL set to it, and any key"
    )


def as_put(listed: Rules) -> list[dict[str, Any]]:
    """Rules as listed, so that putting them again leaves as much of them as there was."""
    kept = []
    for rule in listed:
        applied = rule["applied"]
        own = {name: value for name, value in rule.items() if name != "applied"}
        if "times" in own:
            if own["times"] <= applied:
                continue
            own["times"] -= applied
        kept.append(own)
    return kept


async def put(simulator: Api, rules: Rules) -> None:
    if rules:
        await simulator.send("PUT", "/_faults", list(rules))
    else:
        await simulator.send("DELETE", "/_faults")


@asynccontextmanager
async def put_back(simulator: Api) -> AsyncIterator[None]:
    """However it ends: the rules that were there before."""
    before = as_put(await simulator.get("/_faults"))
    try:
        yield
    finally:
        await put(simulator, before)
