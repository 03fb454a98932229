"""Costs are those of the price data, to the pico-dollar, and never a guess."""

from __future__ import annotations

import random
import socket
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import StartDateConstraint

from agentobs.models import pricing
from agentobs.models.pricing import UNPRICED, nothing, price, price_version
from agentobs.models.protocol import Price
from agentobs.models.usage import Bill, Part, read_bill
from agentobs.records import EXACT, NO_USAGE, PARTIAL, PICO, Usage

ANTHROPIC = next(each for each in providers if each.id == "anthropic")
DAY = (date(2026, 11, 22) - date(1970, 1, 1)).days


def bill(usage: Usage, **changes: Any) -> Bill:
    return Bill(usage=usage, parts=(Part(None, usage),), **changes)


def exact(**tokens: int) -> Usage:
    return Usage(state=EXACT, **tokens)


def usd(text: str) -> Price:
    return Price(pico=int(Decimal(text) * PICO), version=price_version())


NO_PRICE = Price(pico=None, version=price_version())


def test_the_version_names_the_price_data():
    assert price_version() == f"genai-prices/{version('genai-prices')}"


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("claude-haiku-5-5", "0.0001625"),
        ("claude-sonnet-5-5", "0.0032"),
        ("claude-opus-5-5", "0.0064"),
        ("claude-opus-4-5", "0.008125"),
        ("claude-haiku-4-5", "0.001625"),
    ],
)
def test_known_prices(model: str, cost: str):
    usage = exact(input_uncached=200, cache_read=500, cache_write=300, output=200)
    assert price(bill(usage), model, day=DAY) == usd(cost)


def test_one_hour_cache_writes_cost_their_own_price_and_the_rest_that_of_five_minutes():
    usage = exact(cache_write=7425, cache_write_1h=3715)
    assert price(bill(usage), "claude-sonnet-4-5-20250929", day=DAY) == usd("0.0362025")  # 3710 x 3.75 + 3715 x 6


def test_web_searches_cost_a_cent_each():
    usage = exact(input_uncached=11_642, output=141, web_searches=3)
    assert price(bill(usage), "claude-haiku-4-5-20251001", day=DAY) == usd("0.042347")


def test_thinking_is_paid_as_output_and_only_once():
    with_thinking = exact(output=44, reasoning=33)
    assert price(bill(with_thinking), "claude-opus-5", day=DAY) == price(
        bill(exact(output=44)), "claude-opus-5", day=DAY
    )


@pytest.mark.parametrize(("prompt", "cost"), [(100_000, "0.010005"), (100_001, "0.0500255")])
def test_a_long_prompt_sets_the_price_of_the_whole_request(prompt: int, cost: str):
    usage = exact(input_uncached=prompt, output=10)
    assert price(bill(usage), "claude-haiku-5-5", day=DAY) == usd(cost)


def test_the_cache_is_part_of_the_prompt_that_sets_the_tier():
    usage = exact(input_uncached=1, cache_read=99_999, cache_write=1)
    assert price(bill(usage), "claude-haiku-5-5", day=DAY) == usd("0.005001075")  # 0.5 + 99,999 x 0.05 + 0.625


def test_each_pass_is_priced_by_its_own_model_and_its_own_prompt():
    small, large = exact(input_uncached=60_000, output=10), exact(input_uncached=2543, output=18)
    two = Bill(
        usage=exact(input_uncached=122_543, output=38),
        parts=(Part(None, small), Part("claude-opus-4-8", large), Part(None, small)),
    )
    # Two prompts of 60,000 at 0.1 and 0.5, below the tier that their sum is in; 2,543 at 5 and 18 at 25.
    assert price(two, "claude-haiku-5-5", day=DAY) == usd("0.025175")


def test_a_pass_of_an_unknown_model_leaves_the_whole_unpriced():
    parts = (Part(None, exact(output=1)), Part("claude-tomorrow", exact(output=1)))
    assert price(Bill(usage=exact(output=2), parts=parts), "claude-haiku-5-5", day=DAY) == NO_PRICE


@pytest.mark.parametrize(
    "model",
    [
        "gpt-5",
        "claude-tomorrow",
        "",
        "claude-opus-4-10",
        "claude-haiku-4-5-turbo",
        "claude-sonnet-4-5-20250929-secret",
        "claude-haiku-5-5-x",
        "claude-mythos-preview",
    ],
)
def test_a_model_that_the_data_does_not_name_has_no_price(model: str):
    assert price(bill(exact(input_uncached=10, output=10)), model, day=DAY) == NO_PRICE


def test_an_unknown_provider_has_no_price():
    assert price(bill(exact(output=10)), "claude-haiku-4-5", provider="nobody", day=DAY) == NO_PRICE


@pytest.mark.parametrize(
    ("alias", "model"),
    [
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-opus-4-20250514", "claude-opus-4-0"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022"),
        ("CLAUDE-HAIKU-4-5", "claude-haiku-4-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
    ],
)
def test_dated_and_latest_names_have_their_models_price(alias: str, model: str):
    usage = exact(input_uncached=10, output=10)
    assert price(bill(usage), alias, day=DAY) == price(bill(usage), model, day=DAY) != NO_PRICE


def test_fast_speed_costs_its_own_price():
    usage = exact(input_uncached=1000, output=100)
    assert price(bill(usage, speed="fast"), "claude-opus-5-5", day=DAY) == usd("0.012")
    assert price(bill(usage, speed="standard"), "claude-opus-5-5", day=DAY) == usd("0.006")


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": "fast"},  # a model without one
        {"speed": "ludicrous"},
        {"service_tier": "priority"},  # bought ahead, by contract
        {"service_tier": "tomorrow"},
        {"speed": "fast", "service_tier": "batch"},
        {"inference_geo": "mars"},
    ],
)
def test_what_the_data_does_not_know_is_not_priced_as_standard(changes: dict[str, str]):
    assert price(bill(exact(output=10), **changes), "claude-haiku-4-5", day=DAY) == NO_PRICE


def test_batch_costs_half():
    usage = exact(input_uncached=1000, output=100, web_searches=1)
    assert price(bill(usage, service_tier="batch"), "claude-haiku-4-5", day=DAY) == usd("0.01075")
    assert price(bill(usage, service_tier="batch"), "claude-haiku-4-5", day=DAY - 60) == NO_PRICE  # no price that early


def test_inference_kept_in_the_us_costs_a_tenth_more_for_tokens_but_not_for_searches():
    usage = exact(input_uncached=1000, output=100, web_searches=1)
    assert price(bill(usage, inference_geo="us"), "claude-opus-4-6", day=DAY) == usd("0.01825")
    assert price(bill(usage, inference_geo="global"), "claude-opus-4-6", day=DAY) == usd("0.0175")


def test_the_price_is_that_of_the_day():
    usage = exact(input_uncached=300_000)
    assert price(bill(usage), "claude-opus-4-6", day=DAY) == usd("1.5")
    assert price(bill(usage), "claude-opus-4-6", day=(date(2026, 3, 12) - date(1970, 1, 1)).days) == usd("3")


def test_partial_usage_is_priced_as_a_lower_bound_and_unknown_usage_is_not():
    partial = Usage(input_uncached=100, output=1, state=PARTIAL)
    assert price(bill(partial), "claude-haiku-4-5", day=DAY) == usd("0.000105")
    assert price(bill(NO_USAGE), "claude-haiku-4-5", day=DAY) == UNPRICED == Price(pico=None, version=None)


def test_nothing_costs_nothing_whatever_the_model():
    assert nothing() == Price(pico=0, version=price_version())


def test_a_class_that_the_data_has_no_price_for_leaves_the_answer_unpriced():
    assert price(bill(exact(input_uncached=10)), "claude-2", day=DAY).pico == 80_000_000
    assert price(bill(exact(input_uncached=10, cache_read=1)), "claude-2", day=DAY) == NO_PRICE
    assert price(bill(exact(input_uncached=10, web_searches=1)), "claude-3-haiku-20240307", day=DAY) == NO_PRICE


def test_rounding_is_half_to_even_and_once(monkeypatch: pytest.MonkeyPatch):
    rates = pricing._Rates(-1, Decimal("0.25"), Decimal("0.5"), *[None] * 4)
    monkeypatch.setattr(pricing, "_bands", lambda *_: (rates,))
    costs = [price(bill(exact(input_uncached=2, output=output)), "any").pico for output in range(4)]
    assert costs == [0, 1, 2, 2]  # 0.5, 1, 1.5, 2


def _of_the_data(info: Any, usage: Usage, context: dict[str, str]) -> int:
    """The same cost by the data's own calculator."""
    result = info.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
            cache_write_1h_tokens=usage.cache_write_1h,
            output_tokens=usage.output,
            output_reasoning_tokens=usage.reasoning,
            web_searches=usage.web_searches,
        ),
        ANTHROPIC,
        genai_request_timestamp=datetime(2026, 11, 22, tzinfo=UTC),
        price_context=context,
    )
    return int(result.total_price * PICO)


@pytest.mark.parametrize("info", ANTHROPIC.models, ids=lambda info: info.id)
def test_every_model_of_the_data_costs_what_its_own_calculator_says(info: Any):
    dice = random.Random(info.id)
    keys = vars(info.get_prices(datetime(2026, 11, 22, tzinfo=UTC)))
    contexts: list[tuple[dict[str, str], dict[str, Any]]] = [({}, {})]
    for variant in info.price_variants or ():
        changes = {"speed": variant.when.get("speed"), "service_tier": variant.when.get("processing")}
        contexts.append((variant.when, changes))
    for context, changes in contexts:
        for _ in range(40):
            size = dice.choice([10, 1000, 40_000, 150_000])
            cached = size if "cache_read_mtok" in keys else 1
            write = dice.randrange(cached)
            usage = exact(
                input_uncached=dice.randrange(size),
                output=dice.randrange(size),
                cache_read=dice.randrange(cached),
                cache_write=write,
                cache_write_1h=dice.randint(0, write),
                web_searches=dice.randrange(3) if "web_searches_kcount" in keys else 0,
            )
            assert price(bill(usage, **changes), info.id, day=DAY).pico == _of_the_data(info, usage, context)


def test_prices_change_by_the_day_at_most_so_a_day_may_be_remembered():
    for info in ANTHROPIC.models:
        conditions = [each.constraint for each in (info.prices if isinstance(info.prices, list) else [])]
        conditions += [variant.constraint for variant in info.price_variants or ()]
        assert all(each is None or isinstance(each, StartDateConstraint) for each in conditions), info.id


def test_names_are_found_as_the_data_itself_finds_them():
    probe = bill(exact(input_uncached=1_000_003))
    for info in ANTHROPIC.models:
        for name in (info.id, f"{info.id.removesuffix('-latest')}-20260101"):
            found = ANTHROPIC.find_model(name)
            expected = None if found is None else _of_the_data(found, probe.usage, {})
            assert price(probe, name, day=DAY).pico == expected, name


def test_pricing_opens_no_connection(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert price(bill(exact(output=1)), "claude-sonnet-5-5").pico == 10_000_000
    assert price(bill(exact(output=1)), "claude-unheard-of").pico is None


def test_a_price_is_looked_up_once_a_day():
    usage = bill(exact(input_uncached=5, output=5))
    price(usage, "claude-sonnet-5-5", day=DAY)
    before = pricing._bands.cache_info()
    price(usage, "claude-sonnet-5-5", day=DAY)
    after = pricing._bands.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_a_bill_is_priced_as_it_was_read():
    read = read_bill({"input_tokens": 20, "output_tokens": 93, "service_tier": "standard"}, EXACT)
    assert read is not None
    assert price(read, "claude-sonnet-5", day=DAY) == usd("0.00097")


# ---- cloud platforms: the same model has other names there, and by region other prices ----


@pytest.mark.parametrize(
    ("provider", "model", "cost"),
    [
        ("aws", "global.anthropic.claude-haiku-4-5-20251001-v1:0", "0.006"),
        ("aws", "us.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0066"),
        ("aws", "anthropic.claude-haiku-4-5-20251001-v1:0", "0.0066"),
        ("aws", "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0066"),
        ("aws", "global.anthropic.claude-opus-5", "0.03"),
        ("aws", "eu.anthropic.claude-opus-4-5-20251101-v1:0", "0.033"),
        ("aws", "anthropic.claude-3-haiku-20240307-v1:0", "0.0015"),
        ("google", "claude-haiku-4-5@20251001", "0.006"),
        ("google", "claude-haiku-4-5-20251001", "0.006"),
        ("google", "claude-opus-5-5", "0.024"),
        ("google", "claude-opus-4-1@20250805", "0.09"),
        ("azure", "claude-haiku-4-5", "0.006"),
        ("azure", "claude-opus-5-5", "0.024"),
    ],
)
def test_a_platforms_ids_are_priced_as_the_price_data_says(provider: str, model: str, cost: str):
    usage = exact(input_uncached=1000, output=1000)
    assert price(bill(usage), model, provider=provider, day=DAY) == usd(cost)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("aws", "us.anthropic.claude-opus-4-50"),
        ("aws", "anthropic.claude-opus-4-10-20270101-v1:0"),
        ("aws", "mars.anthropic.claude-opus-5"),
        ("aws", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123"),
        ("google", "claude-opus-4-50"),
        ("google", "claude-opus-5-20"),
        ("azure", "my-deployment"),
    ],
)
def test_an_id_that_only_looks_like_a_known_one_has_no_price(provider: str, model: str):
    assert price(bill(exact(input_uncached=1000)), model, provider=provider, day=DAY) == NO_PRICE


@pytest.mark.parametrize(
    ("model", "cost"),
    [("claude-haiku-4-5@20251001", "0.0066"), ("claude-opus-4-1@20250805", "0.09"), ("claude-opus-4@20250514", "0.09")],
)
def test_a_regional_endpoint_of_vertex_costs_a_tenth_more_from_sonnet_4_5_on(model: str, cost: str):
    usage = exact(input_uncached=1000, output=1000)
    assert price(bill(usage), model, provider="google", regional=True, day=DAY) == usd(cost)


@pytest.mark.parametrize("provider", ["aws", "google"])
def test_where_the_name_or_endpoint_says_the_region_the_answers_geography_adds_nothing(provider: str):
    usage = exact(input_uncached=1000, output=1000)
    model = {"aws": "global.anthropic.claude-opus-5", "google": "claude-opus-5"}[provider]
    assert price(bill(usage, inference_geo="us"), model, provider=provider, day=DAY) == usd("0.03")


def test_a_part_by_another_model_is_priced_where_the_asked_one_runs():
    parts = (Part("claude-opus-5", exact(output=1000)),)
    told = Bill(usage=exact(output=1000), parts=parts)
    asked = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert price(told, asked, provider="aws", day=DAY) == usd("0.025")
    assert price(told, asked.replace("global", "us"), provider="aws", day=DAY) == usd("0.0275")
