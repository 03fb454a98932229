"""Getting a batch of spans delivered: retrying without limit, and finding by bisection which span is refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from agentobs.records import Change
from agentobs.telemetry import names
from agentobs.telemetry.deltas import spans_exported
from agentobs.telemetry.logs import emit
from agentobs.telemetry.otlp import Sender, Sent
from agentobs.telemetry.published import Delta, Owed
from agentobs.telemetry.spans import SpanData
from agentobs.telemetry.traces import spans

Row: TypeAlias = tuple[Owed, Sequence[Change]]
Item: TypeAlias = tuple[int, SpanData]  # the outbox row's id, and one of its spans


class Backoff(NamedTuple):
    """Exponential, give or take a fifth, so that many processes do not come back at once."""

    first_s: float
    longest_s: float

    def wait_s(self, failures: int) -> float:
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 -- not a secret
        return float(min(self.first_s * 2 ** min(failures - 1, 16), self.longest_s) * jitter)


QUICK = Backoff(0.5, 10.0)  # the endpoint is away or busy
SLOW = Backoff(15.0, 60.0)  # someone must change something first


class Delivery:
    """Delivers rows, one at a time and in the caller's thread.

    `report(rows, deltas)` is told of rows that are done and of what to count. `on_trouble` is called at each failing
    try from the second on, so that the caller can let go of what it holds.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        closing: threading.Event,
        report: Callable[[Sequence[int], Sequence[Delta]], None],
        on_trouble: Callable[[], None],
        batch: int,
        quick: Backoff = QUICK,
        slow: Backoff = SLOW,
    ) -> None:
        self._sender = sender
        self._closing = closing
        self._report = report
        self._on_trouble = on_trouble
        self._batch = batch
        self._quick = quick
        self._slow = slow
        self._left: dict[int, int] = {}  # rows of the batch in hand: spans not yet settled
        self._failures = 0
        self._trouble: tuple[str, float] | None = None  # why nothing gets through, and since when

    def deliver(self, rows: Sequence[Row]) -> int | None:
        """None when all rows are done; else the first that is not (closing, or the endpoint itself refuses)."""
        items: list[Item] = []
        unmade = 0
        self._left = {}
        for owed, changes in rows:
            made, failed = spans(changes, owed.spans)
            self._left[owed.id] = len(made)
            items += [(owed.id, span) for span in made]
            unmade += failed
        if empty := [row for row, left in self._left.items() if not left]:
            self._report(empty, ())
        if unmade:
            self._report((), (spans_exported("rejected", unmade),))
            emit(names.EXPORT_REJECTED, "error", spans=unmade, reason="unmade")
        for start in range(0, len(items), self._batch):
            if not self._push(items[start : start + self._batch]):
                return min(row for row, left in self._left.items() if left)
        return None

    def _push(self, items: Sequence[Item]) -> bool:
        """Bisect until every span is taken or refused alone."""
        parts = [items]
        taken = False
        while parts:
            part = parts.pop()
            sent = self._send(part)
            if sent is None:
                return False
            if sent.verdict == "ok":
                taken = True
                self._settle(part, "ok")
            elif sent.verdict == "partial" and sent.rejected >= len(part):
                self._settle(part, "rejected", sent.reason)
            elif len(part) > 1:
                # Spans that were taken go again, identical: the endpoint did not say which those were.
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            elif taken or self._is_sound():
                # Once more, since the endpoint may have become sound only after it refused.
                again = self._send(part)
                if again is None:
                    return False
                self._settle(part, "ok" if again.verdict == "ok" else "rejected", again.reason)
            else:
                # Nothing of this batch was taken, and not even an empty request is: then not this span is at
                # fault but the endpoint, and rejecting would lose everything there is.
                misconfigured = Sent("misconfigured", sent.reason)
                self._failed(misconfigured, len(part))
                self._wait(misconfigured)
                return False
        return True

    def _send(self, part: Sequence[Item]) -> Sent | None:
        """Send until the endpoint answers for good; None when closing."""
        while True:
            last = self._closing.is_set()
            sent = self._sender.send([span for _, span in part])
            if sent.verdict in ("ok", "partial"):
                self._recovered()
                return sent
            if sent.verdict == "refused":
                return sent
            self._failed(sent, len(part))
            if last:
                return None
            self._wait(sent)

    def _is_sound(self) -> bool:
        return self._sender.send(()).verdict == "ok"

    def _settle(self, part: Sequence[Item], outcome: str, reason: str = "") -> None:
        done = []
        for row, _ in part:
            self._left[row] -= 1
            if not self._left[row]:
                done.append(row)
        self._report(done, (spans_exported(outcome, len(part)),))
        if outcome == "rejected":
            span = part[0][1]
            emit(
                names.EXPORT_REJECTED,
                "error",
                spans=len(part),
                reason=reason,
                trace_id=span.trace_id,
                span_id=span.span_id,
            )

    def _failed(self, sent: Sent, count: int) -> None:
        self._failures += 1
        self._report((), (spans_exported("error", count),))
        if self._trouble is None or self._trouble[0] != sent.reason:
            self._trouble = (sent.reason, self._trouble[1] if self._trouble else time.monotonic())
            emit(names.EXPORT_FAILING, "warning", reason=sent.reason)
        if self._failures > 1:
            self._on_trouble()

    def _recovered(self) -> None:
        self._failures = 0
        if self._trouble is not None:
            emit(names.EXPORT_RECOVERED, "info", after_s=round(time.monotonic() - self._trouble[1], 3))
            self._trouble = None

    def _wait(self, sent: Sent) -> None:
        backoff = self._slow if sent.verdict == "misconfigured" else self._quick
        wait_s = backoff.wait_s(self._failures) if sent.retry_after_s is None else sent.retry_after_s
        self._closing.wait(wait_s)
