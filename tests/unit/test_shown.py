import asyncio
from contextlib import suppress

from agentobs import shown as shown_module
from agentobs.journal.protocol import QueueState


class Fails:
    """A journal of which some readings of the queue fail, by their number."""

    def __init__(self, *failing: int) -> None:
        self.readings, self.failing = 0, failing
        self.state = QueueState(*([1] * len(QueueState._fields)))

    async def pending_span_stats(self):
        return (0, None)

    async def queue(self):
        self.readings += 1
        if self.readings in self.failing:
            raise OSError("locked")
        return [self.state]


async def shown_after(readings: int, journal: Fails):
    shown = shown_module.Shown()
    shown.journal = journal
    task = asyncio.create_task(shown.refresh())
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while journal.readings <= readings:
                await asyncio.sleep(0.001)
    task.cancel()
    assert journal.readings > readings, "it goes on"
    return shown.sources().queue()


async def test_one_failing_reading_of_the_queue_does_not_end_all_later_ones(monkeypatch):
    monkeypatch.setattr(shown_module, "QUEUE_REFRESH_S", 0)
    journal = Fails(1)
    assert await shown_after(2, journal) == [journal.state]


async def test_while_the_queue_cannot_be_read_it_is_not_told_to_be_empty(monkeypatch):
    """An alert on its age would start anew."""
    monkeypatch.setattr(shown_module, "QUEUE_REFRESH_S", 0)
    journal = Fails(*range(2, 10_000))
    assert await shown_after(5, journal) == [journal.state]
