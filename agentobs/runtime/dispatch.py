"""Who is invited to claim which run. An invitation is a hint: lost, doubled or late, it harms nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from agentobs.journal.protocol import Journal

SWEEP_S: Final = 1.0
_log = logging.getLogger(__name__)
MAX_INVITED: Final = 10_000  # kept in memory; what is beyond it the sweep finds


class Dispatcher(Protocol):
    """Local today; an engine that spans hosts can stand behind the same three calls."""

    def invite(self, run_id: str) -> None:
        """A run may be claimed."""
        ...

    def slot_free(self) -> None:
        """A run has ended: one more can be taken."""
        ...

    def invitations(self, free_slots: Callable[[], int], workflows: Sequence[str]) -> AsyncIterator[str]:
        """Run ids to claim, no more at a time than `free_slots()`."""
        ...


class LocalDispatcher:
    """Invitations inside one process, and a sweep of the journal that finds what nobody was invited to."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._invited: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._sweep_now = True  # at start: unfinished runs of a dead owner, and what was queued

    def invite(self, run_id: str) -> None:
        if len(self._invited) < MAX_INVITED:
            self._invited[run_id] = None
        else:
            self._sweep_now = True
        self._wake.set()

    def slot_free(self) -> None:
        self._wake.set()

    async def invitations(self, free_slots: Callable[[], int], workflows: Sequence[str]) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        swept = -SWEEP_S
        while True:
            free = free_slots()
            if free > 0 and not self._invited and (self._sweep_now or loop.time() - swept >= SWEEP_S):
                swept = loop.time()
                found = await self._swept(workflows)
                self._sweep_now = len(found) == MAX_INVITED
                self._invited.update(dict.fromkeys(found))
            while self._invited and free_slots() > 0:
                run_id = next(iter(self._invited))
                del self._invited[run_id]
                yield run_id
            self._wake.clear()
            if self._invited and free_slots() > 0:
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), SWEEP_S)
            except TimeoutError:
                continue

    async def _swept(self, workflows: Sequence[str]) -> Sequence[str]:
        try:
            return await self._journal.claimable(workflows, MAX_INVITED)
        except Exception as error:  # noqa: BLE001 -- the journal cannot be read now; the next sweep tries again
            _log.warning("dispatch.sweep_failed", extra={"error_class": type(error).__name__})
            return ()
