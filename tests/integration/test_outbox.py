"""Spans reach the endpoint at least once, identical, whatever happens to it; a run is never held up."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY, get_value

from agentobs.journal.protocol import Delta, Fence, Owed, Published, SpanRef
from agentobs.journal.rows import owed_spans
from agentobs.journal.sqlite import open_journal
from agentobs.records import CLOSED, FAILED, OPENED, RUNNING, SETTLED, Change, Step, step_span_id
from agentobs.telemetry import logs
from agentobs.telemetry.delivery import Backoff
from agentobs.telemetry.deltas import deltas
from agentobs.telemetry.otlp import OtlpSender, Sent
from agentobs.telemetry.outbox import TraceOutbox
from agentobs.telemetry.spans import SpanData
from tests.factories import MODEL, RUN_ID, TRACE_ID, attempt, execution, failed_attempt, run, step
from tests.otlp_sink import OtlpSink, SinkSpan

RESOURCE = {"service.name": "agentobs", "deployment.environment.name": "test"}
SECOND = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Target:
    endpoint: str
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 0.5
    compression: Any = "none"
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None


class FakeJournal:
    """The outbox of a journal, in memory: rows are there until they are reported as delivered."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Owed, tuple[Change, ...]]] = {}
        self.counted: Counter[str] = Counter()
        self.reads = 0
        self.forgetful = False  # a crash between the endpoint's answer and the commit that marks it
        self.subscriber: Callable[[Sequence[Published]], None] = lambda _: None
        self._last = 0
        self._lock = threading.Lock()

    def publish(self, *changes: Change, at: int | None = None, earlier: Sequence[Change] = ()) -> None:
        """`earlier`: changes of units that owed nothing, whose spans this one owes too."""
        with self._lock:
            self._last += 1
            whole = (*earlier, *changes)
            owed = Owed(self._last, time.time_ns() if at is None else at, owed_spans(whole), recalled=bool(earlier))
            self.rows[owed.id] = (owed, whole)
        self.subscriber([Published(changes, (), owed)])

    def read(self, after: int, limit: int) -> Sequence[tuple[Owed, tuple[Change, ...]]]:
        with self._lock:
            self.reads += 1
            return [self.rows[key] for key in sorted(self.rows) if key > after][:limit]

    def measure(self) -> tuple[int, int | None]:
        with self._lock:
            rows = list(self.rows.values())
        return sum(len(owed.spans) for owed, _ in rows), min((owed.at for owed, _ in rows), default=None)

    def delivered(self, rows: Sequence[int], found: Sequence[Delta]) -> None:
        if self.forgetful:
            return
        with self._lock:
            for row in rows:
                del self.rows[row]  # KeyError: reported twice
            for name, (outcome,), value in found:
                assert name == "agentobs_spans_exported_total"
                self.counted[outcome] += value


@asynccontextmanager
async def exporting(journal: FakeJournal, sink: OtlpSink, **options: Any) -> AsyncIterator[TraceOutbox]:
    target = Target(endpoint=sink.endpoint, **options.pop("target", {}))
    outbox = made(journal, OtlpSender(target, RESOURCE), **options)
    outbox.start()
    try:
        yield outbox
    finally:
        sink.heal()
        await outbox.close(5)


def made(journal: FakeJournal, sender: Any, **options: Any) -> TraceOutbox:
    quick = {"gather_s": 0.01, "quick": Backoff(0.02, 0.1), "slow": Backoff(0.05, 0.2)}
    outbox = TraceOutbox(
        sender, read=journal.read, measure=journal.measure, delivered=journal.delivered, **(quick | options)
    )
    journal.subscriber = outbox.offer
    return outbox


def numbered(number: int) -> Step:
    return step(number=number, key=f"key-{number}", name=f"agent-{number}")


def publish(journal: FakeJournal, count: int, first: int = 1) -> list[str]:
    """That many units of one step each; the span ids they owe."""
    steps = [numbered(number) for number in range(first, first + count)]
    for one in steps:
        journal.publish(Change(CLOSED, one))
    return [step_span_id(one) for one in steps]


def taken(sink: OtlpSink) -> set[str]:
    return {span.span_id for span in sink.spans}


@pytest.fixture
def sink() -> Any:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture
def journal() -> FakeJournal:
    return FakeJournal()


@pytest.fixture
def log() -> Any:
    stream = StringIO()
    logs.configure(level="info", stream=stream)

    def events() -> list[dict[str, Any]]:
        logs.flush()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield events
    logs.reset()


# ---- what arrives ----


async def test_a_run_arrives_as_one_tree(sink: OtlpSink, journal: FakeJournal) -> None:
    retried = attempt(number=2, started_at=attempt().started_at + SECOND)
    async with exporting(journal, sink):
        journal.publish(Change(CLOSED, failed_attempt()))
        journal.publish(Change(CLOSED, retried), Change(CLOSED, step()))
        journal.publish(Change(CLOSED, run(traceparent=f"00-{'a' * 32}-{'b' * 16}-01")))
        await sink.until(lambda: not journal.rows)
    assert sink.tree(TRACE_ID) == (
        "invoke_workflow article",
        [("invoke_agent writer", [(f"chat {MODEL}", [("POST", []), ("POST", [])])])],
    )
    assert sink.orphans(TRACE_ID) == []
    root = sink.root(TRACE_ID)
    assert (root.kind, root.status, root.status_message, root.links) == (
        "INTERNAL",
        "UNSET",
        "",
        [("a" * 32, "b" * 16)],
    )
    first, second = sink.children(sink.children(sink.children(root)[0])[0])
    assert (first.kind, first.status, first.status_message, first.events) == ("CLIENT", "ERROR", "", [])
    assert second.attributes["http.request.resend_count"] == 1
    assert journal.counted == {"ok": 5}


async def test_the_scope_has_no_version_and_the_resource_nothing_of_the_process(
    sink: OtlpSink, journal: FakeJournal
) -> None:
    async with exporting(journal, sink):
        publish(journal, 1)
        await sink.until(lambda: sink.spans)
    assert sink.spans[0].scope == ("agentobs", "")
    assert sink.spans[0].resource == RESOURCE | {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
    }


async def test_headers_and_compression_are_the_exporters(sink: OtlpSink, journal: FakeJournal) -> None:
    async with exporting(journal, sink, target={"headers": {"x-token": "t"}, "compression": "gzip"}):
        wanted = publish(journal, 3)
        await sink.until(lambda: taken(sink) == set(wanted))
    assert sink.requests[0].headers["x-token"] == "t"
    assert sink.requests[0].headers["content-encoding"] == "gzip"


async def test_what_is_committed_together_goes_together(sink: OtlpSink, journal: FakeJournal) -> None:
    async with exporting(journal, sink, gather_s=0.3):
        publish(journal, 700)
        await sink.until(lambda: len(sink.spans) == 700)
    assert [len(request.spans) for request in sink.requests] == [512, 188]


async def test_a_unit_that_owes_nothing_is_not_kept(sink: OtlpSink, journal: FakeJournal) -> None:
    async with exporting(journal, sink) as outbox:
        outbox.offer([Published((Change(OPENED, step()),), (), None)])
        assert outbox.stats() == (0, None)
    assert sink.requests == []


# ---- outages ----


async def test_an_outage_delays_spans_and_loses_none(sink: OtlpSink, journal: FakeJournal, log: Any) -> None:
    async with exporting(journal, sink) as outbox:
        before = publish(journal, 3)
        await sink.until(lambda: taken(sink) == set(before))
        sink.stop()
        during = publish(journal, 50, first=4)
        await until(lambda: journal.counted["error"] > 50)
        assert outbox.stats()[0] == 50
        sink.start()
        await sink.until(lambda: taken(sink) == {*before, *during})
        await until(lambda: not journal.rows)
        assert outbox.stats() == (0, None)
    assert journal.counted["ok"] == 53
    events = [(line["event"], line.get("reason")) for line in log()]
    assert events == [("export.failing", "connection_error"), ("export.recovered", None)]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_status_that_passes_is_tried_again(sink: OtlpSink, journal: FakeJournal, status: int) -> None:
    sink.answer(status, times=3)
    async with exporting(journal, sink, slow=Backoff(60, 60)):
        wanted = publish(journal, 2)
        await sink.until(lambda: taken(sink) == set(wanted))
    assert [request.status for request in sink.requests] == [status] * 3 + [200]
    assert journal.counted == {"error": 6, "ok": 2}


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
async def test_a_misconfigured_endpoint_is_tried_slowly_and_loses_nothing(
    sink: OtlpSink, journal: FakeJournal, log: Any, status: int
) -> None:
    sink.answer(status, location=f"{sink.url}/elsewhere")
    async with exporting(journal, sink, quick=Backoff(60, 60)):
        wanted = publish(journal, 5)
        await sink.until(lambda: len(sink.requests) > 3)
        assert len(journal.rows) == 5
        sink.heal()
        await sink.until(lambda: taken(sink) == set(wanted))
    assert journal.counted["rejected"] == 0
    failing = [line["reason"] for line in log() if line["event"] == "export.failing"]
    assert failing == [f"http_{status}"]


async def test_a_login_page_is_no_delivery(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.answer(200, body=b"<html>sign in", content_type="text/html; charset=utf-8")
    async with exporting(journal, sink):
        publish(journal, 2)
        await sink.until(lambda: len(sink.requests) > 2)
        assert len(journal.rows) == 2
        sink.heal()
        await until(lambda: not journal.rows)
    assert journal.counted["ok"] == 2


async def test_retry_after_is_honoured(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.answer(503, times=1, retry_after="1")
    async with exporting(journal, sink):
        publish(journal, 1)
        await sink.until(lambda: sink.spans)
    first, second = sink.requests
    assert 0.95 < second.at - first.at < 3


async def test_one_try_is_one_request(sink: OtlpSink, journal: FakeJournal) -> None:
    # The exporter's own retry would come after a second, and a second time at once after a broken connection.
    sink.answer(503)
    async with exporting(journal, sink, quick=Backoff(30, 30), target={"timeout_s": 5.0}):
        publish(journal, 1)
        await sink.until(lambda: sink.requests)
        await asyncio.sleep(1.6)
        assert len(sink.requests) == 1
    sink.requests.clear()
    sink.drop()
    journal.rows.clear()
    async with exporting(journal, sink, quick=Backoff(30, 30), target={"timeout_s": 5.0}):
        publish(journal, 1, first=2)
        await sink.until(lambda: sink.requests)
        await asyncio.sleep(1.6)
        assert len(sink.requests) == 1


@pytest.mark.parametrize("fault", ["hang", "drop"])
async def test_an_endpoint_that_never_answers_is_left_and_tried_again(
    sink: OtlpSink, journal: FakeJournal, log: Any, fault: str
) -> None:
    getattr(sink, fault)()
    async with exporting(journal, sink):
        wanted = publish(journal, 2)
        await sink.until(lambda: len(sink.requests) > 2)
        sink.heal()
        await sink.until(lambda: taken(sink) == set(wanted))
    reason = {"hang": "timeout", "drop": "connection_error"}[fault]
    assert next(line["reason"] for line in log() if line["event"] == "export.failing") == reason


async def test_backoff_grows_and_is_bounded() -> None:
    waits = [Backoff(0.5, 10).wait_s(failures) for failures in (1, 2, 3, 5, 6, 50, 10**6)]
    for wait, expected in zip(waits, (0.5, 1, 2, 8, 10, 10, 10), strict=True):
        assert expected * 0.8 <= wait <= expected * 1.2


# ---- spans that are refused ----


async def test_a_span_that_makes_a_request_fail_is_rejected_alone(
    sink: OtlpSink, journal: FakeJournal, log: Any
) -> None:
    sink.reject(lambda span: span.name == "invoke_agent agent-7", how="400")
    async with exporting(journal, sink, gather_s=0.2):
        wanted = publish(journal, 20)
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted) - {wanted[6]}
    assert journal.counted == {"ok": 19, "rejected": 1}
    rejected = [line for line in log() if line["event"] == "export.rejected"]
    assert [(line["span_id"], line["trace_id"], line["reason"]) for line in rejected] == [
        (wanted[6], TRACE_ID, "http_400")
    ]


async def test_a_poison_span_alone_is_told_from_a_bad_endpoint(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.reject(lambda span: True, how="400")
    async with exporting(journal, sink):
        publish(journal, 1)
        await until(lambda: not journal.rows)
    # The span, then an empty request, which is taken, then the span again: so it is the span.
    assert [(request.status, len(request.spans)) for request in sink.requests] == [(400, 1), (200, 0), (400, 1)]
    assert journal.counted == {"rejected": 1}


async def test_an_endpoint_that_refuses_everything_loses_nothing(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.answer(400)  # a plain request to a TLS port, say
    async with exporting(journal, sink):
        wanted = publish(journal, 8)
        await sink.until(lambda: len(sink.requests) > 12)
        assert len(journal.rows) == 8
        wanted += publish(journal, 4, first=9)
        sink.heal()
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted)
    assert journal.counted["rejected"] == 0
    assert journal.counted["ok"] == 12


async def test_partial_success_rejects_what_it_names_by_number_only(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.reject(lambda span: span.name in {"invoke_agent agent-3", "invoke_agent agent-16"})
    async with exporting(journal, sink, gather_s=0.2):
        wanted = publish(journal, 16)
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted) - {wanted[2], wanted[15]}
    assert journal.counted == {"ok": 14, "rejected": 2}
    assert len(sink.spans) > 14  # taken spans went again,
    assert set(sink.by_trace(TRACE_ID)) == taken(sink)  # and their copies are identical


async def test_a_partial_success_that_rejects_nothing_is_a_success(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.answer(
        200, body=b'{"partialSuccess":{"rejectedSpans":"0","errorMessage":"soon"}}', content_type="application/json"
    )
    async with exporting(journal, sink):
        publish(journal, 3)
        await until(lambda: not journal.rows)
    assert len(sink.requests) == 1
    assert journal.counted == {"ok": 3}


async def test_an_all_rejecting_json_answer_is_understood(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.answer(200, body=b'{"partialSuccess":{"rejectedSpans":"3"}}', content_type="application/json")
    async with exporting(journal, sink, gather_s=0.2):
        publish(journal, 3)
        await until(lambda: not journal.rows)
    assert journal.counted == {"rejected": 3}


async def test_requests_that_are_too_large_are_split(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.limit(spans=3)
    async with exporting(journal, sink, gather_s=0.2):
        wanted = publish(journal, 16)
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted)
    assert journal.counted == {"ok": 16}
    assert max(len(request.spans) for request in sink.requests if request.status == 200) <= 3


async def test_a_span_that_cannot_be_made_is_counted_and_holds_up_nothing(sink: OtlpSink, journal: FakeJournal) -> None:
    publish(journal, 1)
    owed, _ = journal.rows[1]
    journal.rows[1] = (owed._replace(spans=(SpanRef("step", RUN_ID, 99),)), ())
    wanted = publish(journal, 1, first=2)
    async with exporting(journal, sink):
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted)
    assert journal.counted == {"ok": 1, "rejected": 1}


# ---- memory, restarts ----


async def test_what_the_queue_cannot_hold_is_read_from_the_journal(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.hang()
    async with exporting(journal, sink, max_rows=5, target={"timeout_s": 30.0}) as outbox:
        wanted = publish(journal, 1)
        await sink.until(lambda: sink.requests)
        wanted += publish(journal, 300, first=2)
        assert len(outbox._queue) == 5
        assert outbox.stats()[0] == 301
        sink.heal()
        await until(lambda: not journal.rows)
        reads = journal.reads
        more = publish(journal, 5, first=500)
        await until(lambda: not journal.rows)
        assert journal.reads == reads  # the queue is in use again
    assert taken(sink) == {*wanted, *more}
    assert journal.counted["ok"] == 306


async def test_in_an_outage_nothing_is_held_in_memory_but_the_batch_in_hand(
    sink: OtlpSink, journal: FakeJournal
) -> None:
    sink.answer(503)
    async with exporting(journal, sink) as outbox:
        publish(journal, 10)
        await sink.until(lambda: len(sink.requests) > 3)
        publish(journal, 100, first=11)
        await asyncio.sleep(0.2)
        assert len(outbox._queue) == 0
        assert outbox.stats()[0] == 110
        sink.heal()
        await until(lambda: not journal.rows)
    assert journal.counted["ok"] == 110
    assert len(sink.spans) == 110


async def test_nothing_is_lost_or_doubled_while_the_thread_catches_up_under_load(
    sink: OtlpSink, journal: FakeJournal
) -> None:
    publish(journal, 400)
    ended = asyncio.Event()

    async def load() -> None:
        for number in range(1000, 1600):
            publish(journal, 1, first=number)
            if number % 10 == 0:
                await asyncio.sleep(0.002)
            if number == 1300:
                sink.answer(503, times=3)
        ended.set()

    async with exporting(journal, sink, max_rows=20, target={"timeout_s": 60.0}):
        task = asyncio.create_task(load())
        await ended.wait()
        await until(lambda: not journal.rows)
        await task
    assert len(sink.spans) == len(taken(sink)) == 1000
    assert journal.counted["ok"] == 1000


async def test_a_restart_sends_what_was_pending(sink: OtlpSink, journal: FakeJournal) -> None:
    wanted = publish(journal, 600)  # by an earlier process
    async with exporting(journal, sink) as outbox:
        await until(lambda: not journal.rows)
        assert outbox.stats() == (0, None)
    assert taken(sink) == set(wanted)
    assert len(sink.spans) == 600


async def test_a_crash_before_the_mark_sends_copies_that_are_identical(sink: OtlpSink, journal: FakeJournal) -> None:
    journal.forgetful = True
    async with exporting(journal, sink):
        journal.publish(Change(CLOSED, attempt()), Change(CLOSED, step()))
        journal.publish(
            Change(CLOSED, execution(number=2, reason="recovered")),
            Change(CLOSED, run(status=FAILED, error_type="parked")),
        )
        await sink.until(lambda: len(sink.spans) == 5)
    journal.forgetful = False
    async with exporting(journal, sink, target={"compression": "gzip"}):
        await until(lambda: not journal.rows)
    for span in sink.spans:
        assert len(sink.copies(span.span_id)) == 2
    assert len(sink.by_trace(TRACE_ID)) == 5  # (which compares the copies byte for byte)


async def test_rows_added_without_an_offer_are_found_on_request(sink: OtlpSink, journal: FakeJournal) -> None:
    async with exporting(journal, sink) as outbox:
        first = publish(journal, 1)
        await until(lambda: not journal.rows)
        subscriber, journal.subscriber = journal.subscriber, lambda _: None
        filled = publish(journal, 3, first=2)
        journal.subscriber = subscriber
        outbox.rescan()
        await until(lambda: not journal.rows)
    assert taken(sink) == {*first, *filled}


async def test_spans_that_earlier_units_owed_nothing_for_are_read_from_the_journal(
    sink: OtlpSink, journal: FakeJournal
) -> None:
    """Sampling kept a run late: of the unit that shows it, the journal alone has all the records."""
    withheld = Change(CLOSED, attempt())
    async with exporting(journal, sink) as outbox:
        first = publish(journal, 2, first=7)
        await until(lambda: not journal.rows)
        reads = journal.reads
        journal.publish(Change(CLOSED, step(status=FAILED, error_type="tool_error")), earlier=[withheld])
        assert outbox.stats()[0] == 3
        then = publish(journal, 2, first=9)
        await until(lambda: not journal.rows)
        assert journal.reads > reads
        await until(lambda: outbox.stats() == (0, None))
        reads = journal.reads
        last = publish(journal, 1, first=11)
        await until(lambda: not journal.rows)
        assert journal.reads == reads, "from then on from memory again"
    assert len(sink.spans) == 8
    assert taken(sink) > {*first, *then, *last}
    assert journal.counted == {"ok": 8}


async def test_a_journal_that_cannot_be_read_is_asked_again(
    sink: OtlpSink, journal: FakeJournal, monkeypatch: Any
) -> None:
    monkeypatch.setattr("agentobs.telemetry.outbox.READ_RETRY_S", 0.01)
    wanted = publish(journal, 2)
    real, failures = journal.read, iter([OSError("gone"), OSError("gone")])

    def read(after: int, limit: int) -> Any:
        for error in failures:
            raise error
        return real(after, limit)

    journal.read = read  # type: ignore[method-assign]
    async with exporting(journal, sink):
        await until(lambda: not journal.rows)
    assert taken(sink) == set(wanted)


# ---- never in the way ----


async def test_offering_never_waits_for_the_endpoint(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.hang()
    async with exporting(journal, sink, target={"timeout_s": 30.0}):
        publish(journal, 1)
        await sink.until(lambda: sink.requests)
        began = time.perf_counter()
        publish(journal, 2000, first=2)
        assert time.perf_counter() - began < 10  # of the 30 that it takes to give up


async def test_closing_delivers_what_is_queued_without_waiting_to_gather(sink: OtlpSink, journal: FakeJournal) -> None:
    async with exporting(journal, sink, gather_s=60) as outbox:
        wanted = publish(journal, 30)
        began = time.perf_counter()
        assert await outbox.close(5) == 0
        assert time.perf_counter() - began < 2
    assert taken(sink) == set(wanted)
    assert not journal.rows


async def test_closing_keeps_its_deadline_and_says_what_is_left(sink: OtlpSink, journal: FakeJournal) -> None:
    sink.hang()
    async with exporting(journal, sink, target={"timeout_s": 30.0}) as outbox:
        publish(journal, 3)
        await sink.until(lambda: sink.requests)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        began = time.perf_counter()
        assert await outbox.close(0.5) == 3
        assert 0.4 < time.perf_counter() - began < 1.5
        assert ticks > 20  # the loop was not blocked
        ticking.cancel()
        sink.heal()
        await asyncio.sleep(0.2)
        assert journal.counted == {}  # the journal may be closed by now: nothing is reported
    assert len(journal.rows) == 3


@pytest.mark.parametrize("how", ["refused", "busy"])
async def test_closing_does_not_wait_for_an_endpoint_that_is_away(
    sink: OtlpSink, journal: FakeJournal, how: str
) -> None:
    sink.answer(503, retry_after="60")
    async with exporting(journal, sink, quick=Backoff(60, 60)) as outbox:
        publish(journal, 3)
        await sink.until(lambda: sink.requests)
        if how == "refused":
            sink.stop()
        began = time.perf_counter()
        assert await outbox.close(30) == 3
        assert time.perf_counter() - began < 5
        if how == "refused":
            sink.start()
    assert len(journal.rows) == 3


async def test_the_gauges_tell_how_much_waits_and_since_when(sink: OtlpSink, journal: FakeJournal) -> None:
    for number in (1, 2):
        journal.publish(Change(CLOSED, numbered(number)), at=number * SECOND)
    sink.answer(503)
    async with exporting(journal, sink) as outbox:
        await sink.until(lambda: len(sink.requests) > 2)
        journal.publish(Change(CLOSED, attempt()), at=3 * SECOND)
        assert outbox.stats() == (4, SECOND)
        sink.heal()
        await until(lambda: not journal.rows)
        await until(lambda: outbox.stats() == (0, None))


class Scripted:
    """A sender that answers as it is told, then takes everything."""

    def __init__(self, *answers: Sent) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    def send(self, spans: Sequence[SpanData]) -> Sent:
        self.asked.append(len(spans))
        return self.answers.pop(0) if self.answers else Sent("ok")

    def close(self) -> None: ...


async def test_an_endpoint_mended_just_after_it_refused_a_span_gets_it(journal: FakeJournal) -> None:
    sender = Scripted(Sent("refused", "http_400"))
    outbox = made(journal, sender)
    outbox.start()
    publish(journal, 1)
    await outbox.close(5)
    assert sender.asked == [1, 0, 1]
    assert journal.counted == {"ok": 1}


class Recorder:
    """A sender that notes in which context it was called."""

    def __init__(self) -> None:
        self.suppressed: list[Any] = []

    def send(self, spans: Sequence[SpanData]) -> Sent:
        keys = (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation")
        self.suppressed.append([get_value(key) for key in keys])
        return Sent("ok")

    def close(self) -> None: ...


async def test_its_own_requests_are_not_instrumented(journal: FakeJournal) -> None:
    sender = Recorder()
    outbox = made(journal, sender)
    outbox.start()
    publish(journal, 1)
    await outbox.close(5)
    assert sender.suppressed == [[True, True, True]]


async def test_the_exporters_own_log_lines_are_kept_out(sink: OtlpSink, journal: FakeJournal, caplog: Any) -> None:
    sink.answer(503)
    with caplog.at_level(logging.DEBUG):
        async with exporting(journal, sink):
            publish(journal, 1)
            await sink.until(lambda: len(sink.requests) > 3)
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


# ---- on a real journal ----


async def test_spans_read_back_from_the_journal_are_identical_to_those_published(
    sink: OtlpSink, tmp_path: Path
) -> None:
    journal = await open_journal(tmp_path / "j.db", worker="w", deltas=deltas, export_requested=True)
    fake = FakeJournal()
    published: list[Published] = []
    journal.subscribe(published.extend)
    queued = run(status="queued", first_status=None, first_ended_at=None, ended_at=None, output=None, started_at=None)
    await journal.submit(queued, max_queued=10)
    claim = await journal.claim(RUN_ID, worker="w", version="0.1.0", max_recoveries=3)
    assert claim is not None
    fence = Fence(RUN_ID, claim.run.epoch)
    tool = step(
        number=2,
        key="tool",
        kind="tool",
        name="search",
        agent="writer",
        parent=1,
        parent_key=step().key,
        tool_call_id="t",
    )
    retried = {"number": 2, "wait_ns": SECOND, "seq": 5, "end_seq": 7, "reasoning": 3}
    unended = {"ended_at": None, "outcome": None, "final": False}
    for changes in (
        [Change(OPENED, step(status=RUNNING, ended_at=None)), Change(OPENED, attempt(**unended))],
        [Change(CLOSED, failed_attempt(end_seq=5))],
        [Change(OPENED, attempt(**retried, **unended))],
        [Change(CLOSED, failed_attempt(**retried, stream=False))],
        [Change(SETTLED, failed_attempt(**retried, final=True))],
        [Change(OPENED, tool), Change(CLOSED, step(end_seq=8)), Change(CLOSED, tool)],
        [Change(CLOSED, claim.execution.__class__(**(vars(claim.execution) | {"ended_at": 5, "outcome": "failed"})))],
        [Change(CLOSED, run(status=FAILED, error_type="overloaded"))],
    ):  # fmt: skip
        await journal.commit(fence, changes)
    owing = [(unit.owed, unit.changes) for unit in published if unit.owed is not None]
    fake.rows = {owed.id: (owed, changes) for owed, changes in owing}  # as published,
    fake.forgetful = True
    async with exporting(fake, sink):
        await sink.until(lambda: len(sink.spans) == 6)
    fake.forgetful = False
    fake.rows = {owed.id: (owed, changes) for owed, changes in await journal.pending_spans(0, 100)}  # and as read back
    assert len(fake.rows) == len(owing)
    async with exporting(fake, sink):
        await until(lambda: not fake.rows)
    await journal.close()
    assert len(sink.spans) == 2 * 6
    assert len(sink.by_trace(TRACE_ID)) == 6
    assert sink.orphans(TRACE_ID) == []


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def test_the_sink_tells_copies_that_differ(sink: OtlpSink) -> None:
    one = SinkSpan(
        name="a", kind="INTERNAL", trace_id="t", span_id="s", parent_id=None, start=1, end=2, attributes={},
        status="UNSET", status_message="", links=[], events=[], scope=("", ""), resource={}, raw=b"1",
    )  # fmt: skip
    sink.spans += [one, SinkSpan(**(vars(one) | {"raw": b"2"}))]
    with pytest.raises(AssertionError, match="copies of a differ"):
        sink.by_trace("t")
