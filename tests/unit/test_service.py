import asyncio
from contextlib import suppress

from agentobs import service
from agentobs.journal.protocol import QueueState


class FailsOnce:
    """A journal whose first reading of the queue fails."""

    def __init__(self) -> None:
        self.readings = 0
        self.state = QueueState(*([1] * len(QueueState._fields)))

    async def pending_span_stats(self):
        return (0, None)

    async def queue(self):
        self.readings += 1
        if self.readings == 1:
            raise OSError("locked")
        return [self.state]


async def test_one_failing_reading_of_the_queue_does_not_end_all_later_ones(monkeypatch):
    monkeypatch.setattr(service, "QUEUE_REFRESH_S", 0)
    shown = service._Shown()
    shown.journal = journal = FailsOnce()
    task = asyncio.create_task(shown.refresh())
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while not shown.sources().queue():
                await asyncio.sleep(0.001)
    assert shown.sources().queue() == [journal.state]
    task.cancel()
