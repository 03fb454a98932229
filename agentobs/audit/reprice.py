"""What the history would cost at today's list prices, by model. Reads alone."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from agentobs.audit.costs import at_list_price
from agentobs.audit.reading import attempts
from agentobs.records import UNKNOWN


@dataclass(kw_only=True)
class Repriced:
    """Of one model at one provider; costs in pico-dollars."""

    attempts: int = 0
    unknown: int = 0  # usage was never told: in neither cost
    then: int = 0  # as it was recorded
    now: int = 0
    unpriced_then: int = 0  # with tokens, and without a price
    unpriced_now: int = 0


def reprice(connect: Callable[[], sqlite3.Connection]) -> dict[tuple[str, str], Repriced]:
    """By provider and model asked."""
    found: defaultdict[tuple[str, str], Repriced] = defaultdict(Repriced)
    db = connect()
    try:
        for attempt in attempts(db):
            if attempt.ended_at is None:
                continue
            sums = found[attempt.provider, attempt.model]
            sums.attempts += 1
            if attempt.usage == UNKNOWN:
                sums.unknown += 1
                continue
            if not any((attempt.input_uncached, attempt.output, attempt.cache_read, attempt.cache_write)):
                continue  # an error: free then and now
            now = at_list_price(attempt)
            sums.then += attempt.cost_pico or 0
            sums.now += now or 0
            sums.unpriced_then += attempt.cost_pico is None
            sums.unpriced_now += now is None
    finally:
        db.close()
    return dict(sorted(found.items()))
