"""What the demo plays on: a service of its own over real HTTP, and the simulated API it calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from agentobs.cli.http import Client
from agentobs.service import serve_http
from agentobs.settings import Settings
from agentobs.simulator import Simulator

LATENCY_S: Final = 0.2
WORKER: Final = "demo"
DATABASE: Final = "agentobs.db"
_LOG: Final = "agentobs.log"


@dataclass(frozen=True)
class Stage:
    """A running service, and the simulator behind it."""

    service: Client
    settings: Settings
    simulator: str | None
    log_file: Path
    stopped: asyncio.Event  # set by Ctrl-C too

    async def put_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        async with httpx2.AsyncClient(trust_env=False) as http:
            (await http.put(f"{self.simulator}/_faults", json=list(rules))).raise_for_status()

    async def bill(self) -> list[dict[str, Any]]:
        """Every request that the simulator took, in order."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            found: list[dict[str, Any]] = (await http.get(f"{self.simulator}/_bill")).json()["requests"]
            return found


@asynccontextmanager
async def stage(folder: Path, *, real: bool = False) -> AsyncIterator[Stage]:
    """Both on free ports of this machine, in this process; `real` leaves the simulator out."""
    async with AsyncExitStack() as stack:
        simulator = None if real else await stack.enter_async_context(Simulator(latency_s=LATENCY_S))
        _set_environment(folder, simulator.url if simulator else None)
        settings = Settings.load()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stopped = asyncio.Event()
        serving = asyncio.create_task(serve_http(settings, ready=listening.set_result, stop=stopped))
        either: set[asyncio.Future[Any]] = {serving, listening}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            await serving  # raises why it did not come to listen
            raise asyncio.CancelledError
        async with Client(listening.result()) as client:
            try:
                yield Stage(client, settings, simulator.url if simulator else None, folder / _LOG, stopped)
            finally:
                stopped.set()
                await serving


def _set_environment(folder: Path, simulator: str | None) -> None:
    """Make this process's environment the demo's: of the user's, only what is meant for other programs too remains."""
    ours = ("AGENTOBS_",) if simulator is None else ("AGENTOBS_", "ANTHROPIC_")
    for name in [name for name in os.environ if name.startswith(ours)]:
        del os.environ[name]
    os.environ |= {
        "AGENTOBS_DATABASE_URL": f"sqlite:///{folder / DATABASE}",
        "AGENTOBS_LOG_FILE": str(folder / _LOG),
        "AGENTOBS_LOG_FORMAT": "json",
        "AGENTOBS_PORT": "0",
        "AGENTOBS_WORKER_NAME": WORKER,
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost"))),
    }
    if simulator is not None:
        os.environ |= {"ANTHROPIC_API_KEY": "simulated", "ANTHROPIC_BASE_URL": simulator}
