"""`agentobs traffic` from the inside: what it sends, what it counts, and when it asks for a new proof."""

from __future__ import annotations

import asyncio
import re
from random import Random

import pytest

from agentobs.cli import errands, traffic
from agentobs.cli.http import Client
from agentobs.errors import Refused, Unreachable, UsageError
from agentobs.workflows import REGISTRY


@pytest.fixture
def at_once(monkeypatch) -> None:
    monkeypatch.setattr(traffic, "_LOOK_EVERY_S", 0)
    monkeypatch.setattr(traffic, "_WAIT_S", (0, 0))


SIMULATED = traffic.Plan(
    rate=6, for_s=None, seed=1, simulator="http://localhost:9100", fault_share=0, spend_real_money=False
)


def test_every_errand_is_an_input_that_its_workflow_takes():
    import agentobs.examples  # noqa: F401 -- registers them

    source = errands.errands(Random(1), errands.WORKFLOWS)
    seen = [next(source) for _ in range(500)]
    for name, value in [*seen, errands.SMALLEST]:
        REGISTRY[name].parse(value)
    assert {name for name, _ in seen} == set(errands.WORKFLOWS) == {"article", "report", "release_notes", "triage"}
    assert len({str(one) for one in seen}) > 300  # varied
    again = errands.errands(Random(1), errands.WORKFLOWS)
    assert [next(again) for _ in range(500)] == seen
    fewer = errands.errands(Random(1), {"report", "mine"})
    assert {next(fewer)[0] for _ in range(50)} == {"report"}


async def test_a_line_is_told_each_time_and_counts_from_the_one_before(monkeypatch, capsys):
    monkeypatch.setattr(traffic, "_LINE_EVERY_S", 0.1)
    plan = traffic.Plan(rate=6, for_s=None, seed=1, simulator=None, fault_share=0, spend_real_money=True)
    async with Client("http://127.0.0.1:1") as client:
        sender = traffic.Sender(client, None, plan)
        for what in ("sent", "sent", "succeeded", "failed (refusal)"):
            sender._count(what)
        telling, told = asyncio.create_task(sender.tell()), ""
        while told.count("\n") < 2:
            await asyncio.sleep(0.02)
            told += capsys.readouterr().out
        telling.cancel()
    first, second = told.splitlines()[:2]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  2 sent, 1 succeeded, 1 failed \(refusal\), 0 under way", first), first
    assert second.endswith("0 sent, 0 succeeded, 0 under way")
    assert sender.totals() == "in all: 2 sent, 1 succeeded, 1 failed (refusal), 0 under way"


@pytest.mark.parametrize("billed", [True, False])
@pytest.mark.usefixtures("at_once")
async def test_an_ended_run_that_is_not_on_the_bill_takes_the_proof_away(billed):
    asked: list[str] = []

    class Ended:
        async def run(self, run_id: str):
            attempts = [{"http_status": 529, "span_id": "a"}, {"http_status": 200, "span_id": "b"}]
            unanswered = {"http_status": None, "span_id": "c"}
            return {"status": "succeeded", "error": None, "steps": [{"attempts": [*attempts, unanswered]}]}

    class Bill:
        async def billed(self, span_id: str) -> bool:
            asked.append(span_id)
            return billed

    sender = traffic.Sender(Ended(), Bill(), SIMULATED)
    assert not sender._proven
    sender._proven = True
    await sender._followed("1")
    assert asked == ["b"]
    assert sender._proven is billed


class Away:
    """A service that was restarted while a call was under way: that one breaks off, later ones are answered."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == 1:
            raise Unreachable("the call broke off")

    async def submit(self, workflow: str, value: object, tags: object):
        await self._answer("submit")
        return {"id": "1"}

    async def check(self) -> None:
        await self._answer("check")

    async def run(self, run_id: str):
        await self._answer("run")
        return {"status": "succeeded", "error": None, "steps": []}


@pytest.mark.usefixtures("at_once")
async def test_a_run_that_was_not_accepted_is_not_sent_to_whoever_answers_next():
    service = Away()
    sender = traffic.Sender(service, object(), SIMULATED)
    sender._proven = True
    assert await sender._submit(errands.SMALLEST) is None
    assert service.calls == ["submit", "check"]
    assert not sender._proven
    assert sender.totals() == "in all: 0 sent, 0 succeeded, 0 under way"


@pytest.mark.usefixtures("at_once")
async def test_where_real_money_was_said_it_is_sent_again():
    service = Away()
    sender = traffic.Sender(service, None, SIMULATED)
    assert await sender._submit(errands.SMALLEST) == "1"
    assert service.calls == ["submit", "submit"]


@pytest.mark.usefixtures("at_once")
async def test_a_service_that_only_a_run_under_way_misses_has_to_be_proven_again():
    sender = traffic.Sender(Away(), object(), SIMULATED)
    sender._proven = True
    await sender._followed("1")
    assert not sender._proven


@pytest.mark.usefixtures("at_once")
async def test_runs_under_way_are_cancelled_once_the_service_calls_something_else():
    cancelled = []

    class Elsewhere:
        async def submit(self, workflow: str, value: object, tags: object):
            return {"id": "proof"}

        async def run(self, run_id: str):
            attempt = {"http_status": 200, "span_id": "a"}
            return {"status": "running", "error": None, "steps": [{"attempts": [attempt]}]}

        async def cancel(self, run_id: str):
            cancelled.append(run_id)
            if run_id == "first":
                raise Refused("it has ended", 409, 1)

    class Bill:
        shown = "http://localhost:9100"

        async def begin(self, faults: object) -> None: ...

        async def billed(self, span_id: str) -> bool:
            return False

    sender = traffic.Sender(Elsewhere(), Bill(), SIMULATED)
    for run_id in ("first", "second"):
        sender._follow(run_id)
    with pytest.raises(UsageError, match="may cost money"):
        await sender._prove(errands.SMALLEST)
    await sender.leave()
    assert {"first", "second", "proof"} == set(cancelled)
