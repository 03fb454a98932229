"""What an answer cost, in whole pico-dollars, from the price data that is bundled with genai-prices.

Never a wrong price: where the data does not say what a model, speed, tier or class costs, the cost is None. Never
a network call: the bundled data is read as it was installed, whatever else in this process may update its copy.

A price is looked up once a model, speed, tier and day; a call is then five multiplications. The rates are those of
the data, so is their meaning: one tier, chosen by the whole prompt of a pass (cache included), holds for all its
tokens.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from agentobs.models.protocol import Price
from agentobs.models.usage import Bill
from agentobs.records import UNKNOWN, Usage

UNPRICED: Final = Price(pico=None, version=None)  # usage unknown: no price data was asked

_PICO_PER_MTOK: Final = 10**6  # pico-dollars a token, of a dollar a million tokens
_PICO_PER_KCOUNT: Final = 10**9  # pico-dollars a piece, of a dollar a thousand
_DAY_S: Final = 86_400

# The price data's own names for what we count; a price under any other name is one we would leave out.
_TOKEN_KEYS: Final = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
_SEARCH_KEY: Final = "web_searches_kcount"

# How `usage.service_tier` and `usage.speed` are called in the price data; {} is the standard price.
# Priority capacity is bought ahead by contract, so its tokens have no list price: it is not here.
_TIERS: Final[Mapping[str | None, dict[str, str]]] = {None: {}, "standard": {}, "batch": {"processing": "batch"}}
_SPEEDS: Final[Mapping[str | None, dict[str, str]]] = {None: {}, "standard": {}, "fast": {"speed": "fast"}}

# Where the data does not know of it: inference kept in the US costs 1.1 times as much, tokens of every class
# (https://docs.aws.amazon.com/claude-platform/latest/userguide/data-residency.html).
_GEOS: Final[Mapping[str | None, Decimal]] = {
    None: Decimal(1),
    "global": Decimal(1),
    "not_available": Decimal(1),
    "us": Decimal("1.1"),
}

# A name's suffix that says which snapshot of the same model it is.
_SNAPSHOT: Final = re.compile(r"(?:[-@](?:20\d{6}|latest|default)|-20\d\d-\d\d-\d\d)$")
# What cloud platforms put around a model's name: "us.anthropic." before it, "-v1:0" behind it.
_BEFORE: Final = re.compile(r"^(?:[a-z-]+\.)*(?=claude-)")
_BEHIND: Final = re.compile(r"-v\d+(?::\d+)?$")

# The price data's names of those who state regions in their prices, so that no answer's geography is added to it.
_ANTHROPIC: Final = "anthropic"
_AWS: Final = "aws"
_GOOGLE: Final = "google"
# Where the data has no entry of theirs, it follows Anthropic's own list (`fallback_model_providers` in the data); of
# Azure it has no Claude at all (https://platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry:
# Anthropic's standard prices).
_FOLLOWS: Final = frozenset({_GOOGLE, "azure"})

# Vertex: regional and multi-region endpoints cost a tenth more than the global one, from Sonnet 4.5 on; older models
# have one price (https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai, "Global vs regional").
_REGIONAL: Final = Decimal("1.1")
_ONE_PRICE: Final = re.compile(r"claude-(?:3-.*|4-(?:opus|sonnet)|(?:opus|sonnet)-4(?:-[01])?)")


class _Rates(NamedTuple):
    """Pico-dollars a token (or search) where the prompt is longer than `above`; None: no known price."""

    above: int
    input_uncached: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_write_5m: Decimal | None
    cache_write_1h: Decimal | None
    web_search: Decimal | None


@cache
def price_version() -> str:
    """Name the price data: what is stored beside each cost."""
    return f"genai-prices/{version('genai-prices')}"


def nothing() -> Price:
    """Price an attempt that was billed nothing."""
    return Price(pico=0, version=price_version())


def load() -> None:
    """Read the price data (a third of a second) ahead of the first call."""
    _models("anthropic")
    price_version()


def price(
    bill: Bill, model: str, *, provider: str = "anthropic", regional: bool = False, day: int | None = None
) -> Price:
    """Price a bill; `model` is the one that answered (the one asked, where the answer names none).

    `provider` is the price data's name of who sent it: anthropic, aws, google or azure. On AWS `model` must be the
    one asked, since its id says where it runs; on Google `regional` says that it was not the global endpoint.

    Each part is priced by its own model and prompt length. The sum is exact, and rounded once, half to even, to
    whole pico-dollars. Usage that is partial gives a lower bound, unknown usage gives no price. `day` counts from
    1970 in UTC, by default today: prices change from one day to the next.
    """
    if bill.usage.state == UNKNOWN:
        return UNPRICED
    factor = Decimal(1) if provider in {_AWS, _GOOGLE} else _GEOS.get(bill.inference_geo)
    if factor is None:
        return Price(pico=None, version=price_version())
    when = int(time.time() // _DAY_S) if day is None else day
    total = Decimal(0)
    for part in bill.parts:
        name = _named(provider, model, part.model)
        bands = _bands(provider, name, bill.speed, bill.service_tier, when)
        cost = _tokens_cost(bands, part.usage)
        if cost is None:
            return Price(pico=None, version=price_version())
        if regional and not _ONE_PRICE.fullmatch(_core(name)):
            cost *= _REGIONAL
        total += cost
    total *= factor
    if bill.usage.web_searches:
        bands = _bands(provider, model, bill.speed, bill.service_tier, when)
        each = bands[-1].web_search if bands else None
        if each is None:
            return Price(pico=None, version=price_version())
        total += each * bill.usage.web_searches
    return Price(pico=int(total.to_integral_value(ROUND_HALF_EVEN)), version=price_version())


def _tokens_cost(bands: tuple[_Rates, ...] | None, usage: Usage) -> Decimal | None:
    if bands is None:
        return None
    prompt = usage.input
    rates = next(band for band in bands if prompt > band.above)
    total = Decimal(0)
    for count, rate in (
        (usage.input_uncached, rates.input_uncached),
        (usage.output, rates.output),
        (usage.cache_read, rates.cache_read),
        (usage.cache_write - usage.cache_write_1h, rates.cache_write_5m),
        (usage.cache_write_1h, rates.cache_write_1h),
    ):
        if count:
            if rate is None:
                return None
            total += rate * count
    return total


@lru_cache(maxsize=1024)
def _bands(
    provider: str, model: str, speed: str | None, service_tier: str | None, day: int
) -> tuple[_Rates, ...] | None:
    """Rates by prompt length, longest first and ending with one that always holds; None if there is no price."""
    info = _find(provider, model)
    if info is None or speed not in _SPEEDS or service_tier not in _TIERS:
        return None
    context = _SPEEDS[speed] | _TIERS[service_tier]
    at = datetime.fromtimestamp(day * _DAY_S, UTC)
    # Without a variant for just this context the data silently answers with the standard price.
    if context and not any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in info.price_variants or ()
    ):
        return None
    prices = {key: value for key, value in vars(info.get_prices(at, context)).items() if value is not None}
    if not prices.keys() <= {*_TOKEN_KEYS, _SEARCH_KEY}:
        return None
    starts = {tier.start for value in prices.values() for tier in getattr(value, "tiers", ())}
    return tuple(_rates(prices, above) for above in (*sorted(starts, reverse=True), -1))


def _rates(prices: Mapping[str, Any], above: int) -> _Rates:
    tokens = (_rate(prices.get(key), above, _PICO_PER_MTOK) for key in _TOKEN_KEYS)
    plain, output, read, write_5m, write_1h = tokens
    search = _rate(prices.get(_SEARCH_KEY), above, _PICO_PER_KCOUNT)
    return _Rates(above, plain, output, read, write_5m, write_1h, search)


def _rate(value: Any, above: int, pico: int) -> Decimal | None:
    """One price as pico-dollars a piece, in the tier of prompts longer than `above`."""
    if value is None:
        return None
    if not isinstance(value, Decimal):  # priced by prompt length: tiers stand in ascending order
        reached = [tier.price for tier in value.tiers if tier.start <= above]
        value = reached[-1] if reached else value.base
    return Decimal(value) * pico


def _find(provider: str, model: str) -> Any:
    """The data's entry for a model named in full, or as a dated snapshot of one; None for any other name.

    The data itself must match it too, but matches by prefix: it would price a `claude-opus-4-10` as an opus-4-1.
    """
    name = model.lower()
    if provider in {_AWS, _GOOGLE}:
        found = next((info for info in _cores(provider).get(_core(name), ()) if info.is_match(name)), None)
    else:
        models = _models(provider)
        info = models.get(name) or models.get(_SNAPSHOT.sub("", name))
        found = info if info is not None and info.is_match(name) else None
    if found is None and provider in _FOLLOWS:
        return _find(_ANTHROPIC, model)
    return found


def _named(provider: str, asked: str, part: str | None) -> str:
    """The name by which a part of a bill is priced. On AWS a bare name gets what stood before that of the model asked.

    There a model may also be asked by the ARN of an inference profile, which ends with the same id.
    """
    if provider != _AWS:
        return part or asked
    asked = asked.rpartition("/")[2] if asked.startswith("arn:") else asked
    where = _BEFORE.match(asked.lower())
    return f"{where[0] if where else ''}{part}" if part else asked


def _core(name: str) -> str:
    """A model's name without what platforms put around it, and without its date."""
    return _SNAPSHOT.sub("", _BEHIND.sub("", _BEFORE.sub("", name.lower())))


@cache
def _cores(provider: str) -> dict[str, tuple[Any, ...]]:
    """A platform's entries by their model's name. There are several of one: its prices differ by region."""
    found: dict[str, tuple[Any, ...]] = {}
    for info in _entries(provider):
        names = {_core(info.id), *(_core(name) for name in _names(info.match))}
        for name in names:
            found[name] = (*found.get(name, ()), info)
    return found


@cache
def _models(provider: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for info in _entries(provider):
        for name in _names(info.match):
            found.setdefault(name.lower(), info)
        found.setdefault(_SNAPSHOT.sub("", info.id), info)
    return found


@cache
def _entries(provider: str) -> tuple[Any, ...]:
    # Not at the top: it takes a third of a second, which a service that must be ready within one has not got.
    from genai_prices.data import providers  # noqa: PLC0415

    return tuple(next((each.models for each in providers if each.id == provider), ()))


def _names(match: Any) -> Iterator[str]:
    """The names that a match clause spells out; what it would find by pattern is left to it."""
    for clause in getattr(match, "or_", (match,)):
        name = getattr(clause, "equals", None) or getattr(clause, "starts_with", None)
        if name:
            yield name
