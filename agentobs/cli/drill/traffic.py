"""Runs that are sent at a rate, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, Protocol

from agentobs.cli.drill.scenarios import Traffic
from agentobs.errors import ClientError
from agentobs.records import NS
from agentobs.runtime.clock import Clock

TAGS: Final = {"drill": "traffic"}
GROWS_EACH_S: Final = 60
_number = count(1)


class Service(Protocol):
    async def submit(self, workflow: str, value: object, tags: Any = None) -> dict[str, Any]: ...


def growth(seconds: float, patience_s: float, most: int) -> float:
    """By how much a rate has grown after so long; for `patience_s` it does not."""
    return min(most, 2 ** max(0, (seconds - patience_s) // GROWS_EACH_S))


@contextmanager
def sending(
    service: Service, traffic: Traffic, clock: Clock, *, patience_s: float = 0, trouble: Callable[[str], None]
) -> Iterator[asyncio.Task[None]]:
    """While inside. A run that is not accepted is told as `trouble`; the next is sent all the same."""
    task = asyncio.create_task(_send(service, traffic, clock, patience_s, trouble))
    try:
        yield task
    finally:
        task.cancel()


async def _send(
    service: Service, traffic: Traffic, clock: Clock, patience_s: float, trouble: Callable[[str], None]
) -> None:
    began = clock.now().mono
    while True:
        try:
            await service.submit(traffic.workflow, traffic.input(next(_number)), TAGS)
        except ClientError as error:
            trouble(f"a run of {traffic.workflow} was not accepted: {error}")
        rate = traffic.per_s * growth((clock.now().mono - began) / NS, patience_s, traffic.most)
        await clock.sleep(1 / rate)
