"""Each attempt's cost against its tokens, by the price data that it names, where that is what is installed."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from agentobs.audit.tally import Tally
from agentobs.models import pricing
from agentobs.models.usage import Bill, Part
from agentobs.records import EXACT, NS, UNKNOWN, Attempt, Usage

KIND: Final = "cost"
_DAY_NS: Final = 86_400 * NS
# The price data's names of those who sent it.
_PRICED_AS: Final = {"anthropic": "anthropic", "bedrock": "aws", "vertex": "google", "foundry": "azure"}
# What the journal does not hold and the price may have had: inference kept in one region costs a tenth more.
_REGION: Final = Decimal("1.1")


class Costs:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._version = pricing.price_version()
        self._other = 0
        tally.look_at(KIND)

    def see(self, attempt: Attempt) -> None:
        if attempt.ended_at is None:
            return
        cost = attempt.cost_pico
        if cost is None:
            return  # no price was known, or no usage told
        if attempt.usage != UNKNOWN and attempt.price_version not in (self._version, None):
            self._other += 1
            return
        self._tally.compare(KIND)
        due = _due(attempt, cost)
        if due != cost:
            told = "none is due" if due is None else f"{due} are due"
            self._tally.differ(
                KIND,
                f"step {attempt.step}, turn {attempt.turn}, attempt {attempt.number} ({attempt.model}) holds a cost of "
                f"{cost} pico-dollars, and for its tokens {told}",
                [attempt.run_id],
            )

    def close(self) -> None:
        if self._other:
            self._tally.remark(
                f"cost: {self._other} attempts name other price data than {self._version}; not recomputed"
            )


def _due(attempt: Attempt, cost: int) -> int | None:
    """`cost` where the attempt can have cost that, else what it costs by the list; None: nothing can be due."""
    assert attempt.ended_at is not None
    if attempt.usage == UNKNOWN:
        return None
    if not any((attempt.input_uncached, attempt.output, attempt.cache_read, attempt.cache_write)):
        return 0
    listed = None
    for day in sorted({attempt.ended_at // _DAY_NS, attempt.started_at // _DAY_NS}):
        low = at_list_price(attempt, day=day)
        if low == cost:
            return cost
        # Which share of the cache writes was for an hour is not stored.
        high = at_list_price(attempt, day=day, hours=True) if attempt.cache_write else low
        if low is None or high is None:
            continue
        listed = low
        if low <= cost <= high or int(low * _REGION) <= cost <= int(high * _REGION) + 1:
            return cost
    return listed


def at_list_price(attempt: Attempt, *, day: int | None = None, hours: bool = False) -> int | None:
    """What the attempt's tokens cost on a day (today), in pico-dollars; None: no known price, or usage unknown.

    All cache writes count as five-minute ones, or with `hours` as one-hour ones.
    """
    usage = Usage(
        input_uncached=attempt.input_uncached or 0,
        output=attempt.output or 0,
        cache_read=attempt.cache_read or 0,
        cache_write=attempt.cache_write or 0,
        cache_write_1h=(attempt.cache_write or 0) if hours else 0,
        state=EXACT if attempt.usage != UNKNOWN else UNKNOWN,
    )
    bill = Bill(usage=usage, parts=(Part(None, usage),))
    # On Bedrock the id that was asked says where it ran, which has a price.
    bedrock = attempt.provider == "bedrock"
    model = attempt.model if bedrock else attempt.response_model or attempt.model
    provider = _PRICED_AS.get(attempt.provider, attempt.provider)
    return pricing.price(bill, model, provider=provider, day=day).pico
