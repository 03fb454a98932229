"""What surrounds an execution that is only replayed: a journal, a model, a clock and a memo that reach nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import selectors
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from agentobs.agents import Agent
from agentobs.journal.protocol import Fence, History
from agentobs.records import OPENED, Attempt, Change, Note, Step
from agentobs.runtime.clock import Instant
from agentobs.runtime.compare import Found, Held
from agentobs.runtime.memo import Finished, Memo

QUIET_S: Final = 0.1  # calls are held, and the loop had nothing to do for that long: nothing more will come


class TakesNothing:
    """The journal of a replay: start rows never commit, everything else is forgotten at once."""

    def __init__(self) -> None:
        self.unanswered: list[Held] = []
        self.held: list[asyncio.Future[None]] = []
        self._ending = False

    def commit(self, fence: Fence, changes: Sequence[Change]) -> asyncio.Future[None]:
        del fence
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        opened = [found for verb, found in changes if verb == OPENED]
        if not opened or self._ending:
            future.set_result(None)
            return future
        self.held.append(future)
        attempt = next((found for found in opened if isinstance(found, Attempt)), None)
        self.unanswered += [Held(found, attempt) for found in opened if isinstance(found, Step)]
        return future

    def let_go(self) -> None:
        """The end: what was held is cut off before it began."""
        self._ending = True
        for future in self.held:
            future.cancel()


class Nobody:
    """The model of a replay. Nothing gets as far as sending: the attempt's start row never commits."""

    def url(self, _: Agent) -> str:
        return ""

    async def ready(self) -> None: ...


class StoppedClock:
    """Waits pass at once, and time stands still."""

    def __init__(self, wall: int) -> None:
        self._now = Instant(wall, 0)

    def now(self) -> Instant:
        return self._now

    async def sleep(self, seconds: float) -> None:
        del seconds


class Watched(Memo):
    """A memo that remembers what was asked for, and makes up new values for the record that are always the same."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._history = history
        self._asked: set[str] = set()

    def finished(self, branch: str, key: str) -> Finished | None:
        self._asked.add(key)
        return super().finished(branch, key)

    def noted(self, key: str) -> Note | None:
        found = super().noted(key)
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        made: dict[str, Any] = {
            "uuid": str(uuid.UUID(bytes=digest, version=4)),
            "random": int.from_bytes(digest[:6], "big") / 2**48,
        }
        kind = key.rsplit(":", 2)[-2] if found is None else ""
        if kind not in made:
            return found
        return Note(run_id="", execution=0, seq=0, kind=kind, key=key, value=json.dumps(made[kind]), at=0)

    def left(self) -> list[Found]:
        """What could have been answered and was not asked for, in order of number."""
        first: dict[int, Attempt] = {}
        costs: defaultdict[int, list[int | None]] = defaultdict(list)
        turns: defaultdict[str, list[int | None]] = defaultdict(list)
        for attempt in self._history.attempts:
            first.setdefault(attempt.step, attempt)
            costs[attempt.step].append(attempt.cost_pico)
            if attempt.answer is not None:
                turns[attempt.key].append(attempt.cost_pico)
        whole = [
            Found(one.step, _sum(costs[one.step.number]), attempt=first.get(one.step.number)) for one in self._unused()
        ]
        latest = {step.key: step for step in self._history.steps if step.key not in self._finished}
        parts = [
            Found(step, _sum(turns[key]), finished=False, attempt=first.get(step.number))
            for key, step in latest.items()
            if key in turns and key not in self._asked and step.parent is None
        ]
        return sorted([*whole, *parts], key=lambda found: found.step.number)

    def _unused(self) -> list[Finished]:
        return [self._finished[key] for keys in self._unasked.values() for key in keys]


def _sum(costs: Sequence[int | None]) -> int | None:
    return None if None in costs else sum(cost for cost in costs if cost is not None)


class RestingSelector(selectors.DefaultSelector):
    """Tells when the event loop has come to rest: calls are held, and nothing was ready for `QUIET_S`."""

    def __init__(self, held: Callable[[], bool]) -> None:
        super().__init__()
        self.quiet = asyncio.Event()
        self._held = held

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._held() or (timeout is not None and timeout < QUIET_S):
            return super().select(timeout)
        events = super().select(QUIET_S)
        if not events:
            self.quiet.set()
        return events
