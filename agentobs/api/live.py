"""Who follows which run, and what wakes them. A commit only wakes; what is sent is read from the journal.

So a run that another process executes is followed in the same way, a little later: each second its followers look by
themselves. Reads are shared and gathered: however fast a run commits, it is read some twenty times a second at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from agentobs.errors import NotFound
from agentobs.journal.protocol import EVENTS, Event, Events, Published, Reader
from agentobs.records import CLOSED, Run

GATHER_S: Final = 0.05  # between two rounds of reads
POLL_S: Final = 1.0
_AT_ONCE: Final = 8  # reads handed to the journal together; others want its threads too
_THE_END: Final = 2**62  # beyond every event


class Watch:
    """One follower of one run. It asks when it is ready for more, so nothing gathers for one that is slow."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.behind = True  # something was committed since the last read that it had part in
        self.asking: asyncio.Future[Events | None] | None = None

    def answer(self, found: Events | None) -> None:
        if self.asking is not None and not self.asking.done():
            self.asking.set_result(found)

    def fail(self, error: BaseException) -> None:
        if self.asking is not None and not self.asking.done():
            self.asking.set_exception(error)


class Hub:
    """Subscribes to the commits of this process. Everything here belongs to the event loop's thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._watches: dict[str, set[Watch]] = {}
        self._wake = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None
        self._stopped = False

    def observe(self, batch: Sequence[Published]) -> None:
        """A subscriber of the journal. A unit is about one run, and costs one look into a dict."""
        if not self._watches:
            return
        for published in batch:
            if not published.changes:
                continue
            first = published.changes[0].record
            watches = self._watches.get(first.id if isinstance(first, Run) else first.run_id, ())
            ended = any(isinstance(record, Run) and verb == CLOSED for verb, record in published.changes)
            for watch in watches:
                if ended or watch.after != _THE_END:
                    watch.behind = True
                    self._wake.set()

    def stop(self) -> None:
        """Every stream and every wait ends now; so do later ones once they have told what there is."""
        self._stopped = True
        for watches in self._watches.values():
            for watch in watches:
                watch.answer(None)

    async def events(self, run_id: str, found: Events, after: int) -> AsyncIterator[Event]:
        """What is in `found`, then what follows, until the run has ended or this process is about to stop."""
        with self._watching(run_id, after) as watch:
            while True:
                for event in found.items:
                    yield event
                    watch.after = event.seq
                if found.over:
                    return
                more = await self._next(watch)
                if more is None:
                    return
                found = more

    async def ended(self, run_id: str) -> bool:
        """Wait until the run has ended; False when this process is about to stop."""
        with self._watching(run_id, _THE_END) as watch:
            return await self._next(watch) is not None

    @contextmanager
    def _watching(self, run_id: str, after: int) -> Iterator[Watch]:
        watch = Watch(after)
        self._watches.setdefault(run_id, set()).add(watch)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._serve())
        try:
            yield watch
        finally:
            left = self._watches[run_id]
            left.discard(watch)
            if not left:
                del self._watches[run_id]
            if not self._watches and self._rounds is not None:
                self._rounds.cancel()
                self._rounds = None

    async def _next(self, watch: Watch) -> Events | None:
        if self._stopped:
            return None
        watch.asking = asyncio.get_running_loop().create_future()
        if watch.behind:
            self._wake.set()
        try:
            return await watch.asking
        finally:
            watch.asking = None

    # ---- the one task that reads ----

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        look_at = loop.time() + POLL_S
        while True:
            try:
                async with asyncio.timeout_at(look_at):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            every = loop.time() >= look_at
            if every:
                look_at = loop.time() + POLL_S
            due = [run_id for run_id, watches in self._watches.items() if any(_is_due(one, every) for one in watches)]
            for at in range(0, len(due), _AT_ONCE):
                await asyncio.gather(*(self._read(run_id) for run_id in due[at : at + _AT_ONCE]))
            await asyncio.sleep(GATHER_S)

    async def _read(self, run_id: str) -> None:
        asking = [watch for watch in self._watches.get(run_id, ()) if watch.asking is not None]
        if not asking:
            return
        for watch in asking:
            watch.behind = False
        after = min(watch.after for watch in asking)
        try:
            found = await self._reader.events(run_id, after)
        except Exception as error:  # noqa: BLE001 -- one run that cannot be read must not stop the others' streams
            for watch in asking:
                watch.fail(error)
            return
        if found is None:
            for watch in asking:
                watch.fail(NotFound(f"run {run_id} is no longer in the journal"))
            return
        for watch in asking:
            items = tuple(event for event in found.items if event.seq > watch.after)
            if items or found.over:
                watch.answer(Events(items=items, over=found.over, last_seq=found.last_seq))
            if len(found.items) >= EVENTS:  # a full page: there may be more
                watch.behind = True
                self._wake.set()


def _is_due(watch: Watch, every: bool) -> bool:
    return watch.asking is not None and (watch.behind or every)
