"""What an answer used is read as recorded traffic showed that the API means it."""

from __future__ import annotations

from typing import Any

import pytest

from agentobs.models.usage import merge_usage, read_bill
from agentobs.records import EXACT, PARTIAL, Usage


def used(raw: Any, state: str = EXACT) -> Usage:
    bill = read_bill(raw, state)
    assert bill is not None
    return bill.usage


def test_classes_are_those_of_the_api_and_input_leaves_out_the_cache():
    usage = used(
        {
            "input_tokens": 12,
            "output_tokens": 10,
            "cache_read_input_tokens": 500,
            "cache_creation_input_tokens": 7425,
            "cache_creation": {"ephemeral_5m_input_tokens": 3710, "ephemeral_1h_input_tokens": 3715},
        }
    )
    assert usage == Usage(
        input_uncached=12, output=10, cache_read=500, cache_write=7425, cache_write_1h=3715, state=EXACT
    )
    assert usage.input == 12 + 500 + 7425


def test_answers_of_2024_have_no_cache_fields():
    assert used({"input_tokens": 599, "output_tokens": 135}) == Usage(input_uncached=599, output=135, state=EXACT)


def test_null_fields_count_as_none():
    raw = {
        "input_tokens": 5,
        "output_tokens": 6,
        "cache_read_input_tokens": None,
        "cache_creation_input_tokens": None,
        "cache_creation": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "iterations": None,
        "service_tier": None,
        "speed": None,
        "inference_geo": None,
        "a_field_of_tomorrow": {"x": 1},
    }
    assert used(raw) == Usage(input_uncached=5, output=6, state=EXACT)


def test_thinking_is_part_of_output():
    usage = used({"input_tokens": 13, "output_tokens": 44, "output_tokens_details": {"thinking_tokens": 33}})
    assert (usage.output, usage.reasoning) == (44, 33)


def test_web_searches_are_counted():
    raw = {
        "input_tokens": 1,
        "output_tokens": 1,
        "server_tool_use": {"web_search_requests": 10, "web_fetch_requests": 3},
    }
    assert used(raw).web_searches == 10


def test_a_delta_replaces_the_totals_of_the_start_and_is_never_added():
    start = {"input_tokens": 2479, "cache_read_input_tokens": 7, "output_tokens": 2}
    delta = {"input_tokens": 404_500, "cache_read_input_tokens": 0, "output_tokens": 900}
    assert used(merge_usage(start, delta)) == Usage(input_uncached=404_500, output=900, state=EXACT)


def test_a_delta_with_output_alone_keeps_the_input_of_the_start():
    start = {"input_tokens": 4, "cache_creation_input_tokens": 1165, "cache_read_input_tokens": 9, "output_tokens": 1}
    usage = used(merge_usage(start, {"output_tokens": 201}))
    assert usage == Usage(input_uncached=4, output=201, cache_read=9, cache_write=1165, state=EXACT)


def test_a_null_in_a_delta_keeps_the_value_of_the_start():
    start = {"input_tokens": 4, "cache_read_input_tokens": 9, "output_tokens": 1}
    delta = {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 2}
    assert used(merge_usage(start, delta)) == Usage(input_uncached=4, output=2, cache_read=9, state=EXACT)


def test_the_split_of_cache_writes_is_kept_from_the_start():
    start = {
        "input_tokens": 4,
        "output_tokens": 1,
        "cache_creation_input_tokens": 2056,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2056},
    }
    usage = used(merge_usage(start, {"cache_creation_input_tokens": 2056, "output_tokens": 9}))
    assert (usage.cache_write, usage.cache_write_1h) == (2056, 2056)


def test_cache_writes_that_no_split_covers_count_as_five_minute_writes():
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    start = {"input_tokens": 2247, "output_tokens": 26, "cache_creation_input_tokens": 0, "cache_creation": split}
    delta = {"input_tokens": 2254, "output_tokens": 110, "cache_creation_input_tokens": 17269}
    usage = used(merge_usage(start, delta))
    assert (usage.cache_write, usage.cache_write_1h) == (17269, 0)


def test_one_hour_writes_never_exceed_the_total_that_replaced_their_own():
    start = {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 50}}
    usage = used(merge_usage(start, {"cache_creation_input_tokens": 20, "output_tokens": 2}))
    assert (usage.cache_write, usage.cache_write_1h) == (20, 20)


COMPACTED = {
    "input_tokens": 181,
    "output_tokens": 8,
    "iterations": [
        {"type": "compaction", "input_tokens": 100, "output_tokens": 83, "cache_read_input_tokens": 55_096},
        {"type": "message", "input_tokens": 181, "output_tokens": 8, "cache_creation_input_tokens": 5},
    ],
}
ADVISED = {
    "input_tokens": 2411,
    "output_tokens": 145,
    "output_tokens_details": {"thinking_tokens": 47},
    "server_tool_use": {"web_search_requests": 2},
    "iterations": [
        {"type": "message", "input_tokens": 1128, "output_tokens": 135},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2543, "output_tokens": 18},
        {"type": "message", "input_tokens": 1283, "output_tokens": 10},
    ],
}


def test_a_compaction_pass_counts_though_the_totals_leave_it_out():
    assert used(COMPACTED) == Usage(
        input_uncached=281, output=91, cache_read=55_096, cache_write=5, cache_write_1h=0, state=EXACT
    )


def test_an_advisors_pass_counts_and_is_a_part_of_its_own_model():
    bill = read_bill(ADVISED, EXACT)
    assert bill is not None
    assert (bill.usage.input_uncached, bill.usage.output) == (1128 + 2543 + 1283, 135 + 18 + 10)
    assert (bill.usage.reasoning, bill.usage.web_searches) == (47, 2)
    assert [(part.model, part.usage.input_uncached) for part in bill.parts] == [
        (None, 1128),
        ("claude-opus-4-8", 2543),
        (None, 1283),
    ]


def test_without_iterations_the_whole_is_one_part():
    bill = read_bill({"input_tokens": 1, "output_tokens": 2, "iterations": []}, EXACT)
    assert bill is not None
    assert [part.usage for part in bill.parts] == [bill.usage]


@pytest.mark.parametrize("bad", [None, {}, {"input_tokens": 3}, 7])
def test_a_pass_that_cannot_be_read_makes_the_usage_partial(bad: Any):
    raw = ADVISED | {"iterations": [ADVISED["iterations"][0], bad]}
    usage = used(raw)
    assert (usage.state, usage.input_uncached) == (PARTIAL, 1128)
    assert used(ADVISED | {"iterations": [bad]}).state == PARTIAL


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "usage",
        {},
        {"output_tokens": 5},
        {"input_tokens": 5},
        {"input_tokens": None, "output_tokens": 5},
        {"input_tokens": "5", "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": -1, "output_tokens": 5},
        {"input_tokens": 2**63, "output_tokens": 5},
        {"input_tokens": 1.5, "output_tokens": 5},
    ],
)
def test_usage_that_does_not_tell_input_and_output_cannot_be_read(raw: Any):
    assert read_bill(raw, EXACT) is None


def test_the_state_is_the_callers_word():
    assert used({"input_tokens": 1, "output_tokens": 2}, PARTIAL).state == PARTIAL


def test_what_else_sets_the_price_is_handed_on():
    raw = {"input_tokens": 1, "output_tokens": 2, "speed": "fast", "service_tier": "batch", "inference_geo": "us"}
    bill = read_bill(raw, EXACT)
    assert bill is not None
    assert (bill.speed, bill.service_tier, bill.inference_geo) == ("fast", "batch", "us")
