"""The simulator's parts alone: tokens, prose, cache, rules, bill, models."""

import typing
from random import Random

import genai_prices.data
import pytest
from anthropic.types.model import Model as SdkModel

from agentobs.simulator import FaultRuleError
from agentobs.simulator.bill import Bill, Usage
from agentobs.simulator.cache import PromptCache
from agentobs.simulator.catalogue import find
from agentobs.simulator.faults import FAULTS, Faults, parse
from agentobs.simulator.limits import RateLimits
from agentobs.simulator.prompt import digest, read
from agentobs.simulator.text import cut_to, prose, tokens_of, words_of

SYSTEM = [{"type": "text", "text": "s" * 400, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def pieces(*texts, marks=(), system=()):
    content = [
        {"type": "text", "text": text, **({"cache_control": {"type": "ephemeral"}} if at in marks else {})}
        for at, text in enumerate(texts)
    ]
    return read({"messages": [{"role": "user", "content": content}], "system": list(system)}).pieces


# Text


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("x" * 400, 100)])
def test_a_token_is_four_started_characters(text, tokens):
    assert tokens_of(text) == tokens


def test_a_cut_text_is_no_longer_than_asked():
    assert tokens_of(cut_to("x" * 1_000, 17)) == 17
    assert cut_to("short", 100) == "short"


def test_prose_is_about_its_words_and_as_long_as_asked():
    text = prose(Random(1), ("zebra", "quartz"), 100)

    assert "zebra" in text
    assert "quartz" in text
    assert 100 <= tokens_of(text) <= 135


def test_words_are_those_that_carry_meaning():
    assert words_of("What would they make about remote TEAM communication, team?") == (
        "remote",
        "team",
        "communication",
    )
    assert words_of("ok?")  # nothing to go by, and still something to say


# Prompt


def test_what_an_answer_depends_on_does_not_include_how_it_travels():
    base = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello there"}]}
    same = base | {
        "stream": True,
        "metadata": {"user_id": "u"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}],
    }

    assert digest(1, base, read(base)) == digest(1, same, read(same))
    for other in ({"max_tokens": 8}, {"model": "n"}, {"system": "x"}, {"tools": [{"name": "t"}]}):
        changed = base | other
        assert digest(1, changed, read(changed)) != digest(1, base, read(base))
    assert digest(2, base, read(base)) != digest(1, base, read(base))


def test_ids_of_tool_calls_do_not_change_the_answer():
    def asked(name):
        call = {"type": "tool_use", "id": name, "name": "t", "input": {"a": 1}}
        result = {"type": "tool_result", "tool_use_id": name, "content": "4"}
        return {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]},
            ]
        }

    assert digest(1, asked("x"), read(asked("x"))) == digest(1, asked("y"), read(asked("y")))


# Cache


def test_the_classes_of_input_always_add_up():
    cache = PromptCache(Clock())
    for _ in range(2):
        asked = pieces("a" * 80, "b" * 40, "c" * 4, marks=(1,), system=SYSTEM)
        charge = cache.charge("m", asked)
        assert charge.total == sum(piece.tokens for piece in asked)
        assert charge.input == 1


def test_a_written_prefix_is_read_by_the_next_request_and_split_by_its_time_to_live():
    cache = PromptCache(Clock())
    first = cache.charge("m", pieces("a" * 80, "b" * 4, marks=(0,), system=SYSTEM))
    second = cache.charge("m", pieces("a" * 80, "c" * 8, marks=(0,), system=SYSTEM))

    assert (first.written_1h, first.written_5m, first.read, first.input) == (100, 23, 0, 1)
    assert (second.written, second.read, second.input) == (0, 123, 2)


def test_a_longer_conversation_reads_its_earlier_part_and_writes_the_rest():
    cache = PromptCache(Clock())
    cache.charge("m", pieces("a" * 80, marks=(0,)))
    charge = cache.charge("m", pieces("a" * 80, "b" * 40, marks=(1,)))

    assert (charge.read, charge.written_5m, charge.input) == (23, 10, 0)


def test_a_prefix_is_another_one_for_another_model_or_another_start():
    cache = PromptCache(Clock())
    cache.charge("m", pieces("a" * 80, marks=(0,)))

    assert cache.charge("n", pieces("a" * 80, marks=(0,))).read == 0
    assert cache.charge("m", pieces("a" * 80, marks=(0,), system=SYSTEM)).read == 0


def test_a_prefix_expires_unless_it_is_read():
    clock = Clock()
    cache = PromptCache(clock)
    cache.charge("m", pieces("a" * 80, marks=(0,)))
    clock.now += 299
    assert cache.charge("m", pieces("a" * 80, marks=(0,))).read
    clock.now += 299
    assert cache.charge("m", pieces("a" * 80, marks=(0,))).read
    clock.now += 301
    assert not cache.charge("m", pieces("a" * 80, marks=(0,))).read


def test_top_level_cache_control_marks_the_last_block():
    body = {"messages": [{"role": "user", "content": "a" * 80}], "cache_control": {"type": "ephemeral", "ttl": "1h"}}

    assert PromptCache(Clock()).charge("m", read(body).pieces).written_1h == 23


# Fault rules


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, "expected a list of rules"),
        ([3], r"rules\[0\]: expected an object"),
        ([{}], r"rules\[0\].fault: missing, expected one of rate_limited, overloaded"),
        ([{"fault": "explode"}], r"rules\[0\].fault: found 'explode', expected one of rate_limited"),
        ([{"fault": ["reset"]}], r"rules\[0\].fault: found \['reset'\]"),
        ([{"fault": "reset"}, {"fault": "slow"}], r"rules\[1\].delay_s: missing, expected a number of seconds"),
        ([{"fault": "slow", "delay_s": -1}], r"rules\[0\].delay_s: found -1"),
        ([{"fault": "slow", "delay_s": True}], r"rules\[0\].delay_s: found True"),
        ([{"fault": "reset", "delay_s": 1}], r"rules\[0\].delay_s: unknown field, expected one of fault, match"),
        ([{"fault": "reset", "times": 0}], r"rules\[0\].times: found 0, expected a whole number, 1 or more"),
        ([{"fault": "reset", "times": 1.5}], r"rules\[0\].times: found 1.5"),
        ([{"fault": "reset", "probability": 1.1}], r"rules\[0\].probability: found 1.1, expected .* 0 to 1"),
        ([{"fault": "reset", "match": "x"}], r"rules\[0\].match: found 'x', expected an object"),
        ([{"fault": "reset", "match": {"agent": "x"}}], r"match.agent: unknown field, expected one of model, con"),
        ([{"fault": "reset", "match": {"model": 4}}], r"match.model: found 4, expected a text"),
        ([{"fault": "refusal", "category": "rude"}], r"category: found 'rude', expected null or one of cyber"),
        ([{"fault": "rate_limited", "should_retry": "yes"}], r"should_retry: found 'yes', expected true or false"),
    ],
)
def test_a_bad_rule_is_told_by_field_and_what_it_may_be(rules, told):
    with pytest.raises(FaultRuleError, match=told):
        parse(rules)


def faults(*rules, clock=None, seed=1):
    made = Faults(seed, clock or Clock())
    made.put(parse(list(rules)))
    return made


def picked(made, times=1, model="m", text=""):
    found = [made.pick(model, text) for _ in range(times)]
    return [rule.fault if rule else None for rule in found]


def test_every_fault_has_a_rule():
    required = {"slow": {"delay_s": 1}, "low_limits": {"left": 0.1}}
    for name in FAULTS:
        assert picked(faults({"fault": name} | required.get(name, {}))) == [name]


def test_a_rule_is_used_up_and_the_next_takes_over():
    made = faults({"fault": "overloaded", "times": 2}, {"fault": "reset", "times": 1})

    assert picked(made, 4) == ["overloaded", "overloaded", "reset", None]
    assert [rule["applied"] for rule in made.listing()] == [2, 1]


def test_a_rule_matches_by_model_and_by_text():
    made = faults({"fault": "reset", "match": {"model": "m", "contains": "needle"}})

    assert picked(made, model="m", text="hay needle hay") == ["reset"]
    assert picked(made, model="n", text="hay needle hay") == [None]
    assert picked(made, model="m", text="hay") == [None]


def test_draws_follow_the_seed_and_come_near_the_probability():
    rule = {"fault": "reset", "probability": 0.2}
    drawn = picked(faults(rule), 1_000)

    assert drawn == picked(faults(rule), 1_000)
    assert drawn != picked(faults(rule, seed=2), 1_000)
    assert 150 < drawn.count("reset") < 250
    assert picked(faults(rule | {"probability": 0}), 100) == [None] * 100
    assert picked(faults(rule | {"probability": 1}), 100) == ["reset"] * 100


def test_a_rule_comes_into_force_after_its_delay_and_ends_after_its_time():
    clock = Clock()
    made = faults({"fault": "reset", "after_s": 10, "for_s": 5}, clock=clock)
    seen = []
    for age in (0, 9.9, 10, 14.9, 15):
        clock.now = 1_000 + age
        seen += picked(made)

    assert seen == [None, None, "reset", "reset", None]


# Bill, limits, models


def test_totals_are_the_sum_of_the_lines_whatever_is_noted():
    bill = Bill(lambda: 0.0)
    first, second = bill.open("req_1", None), bill.open("req_2", "ref")
    bill.note(second, usage=Usage(10, 5, 2, 1), status=200)
    bill.note(first, usage=Usage(1, 1, 0, 0))
    bill.note(first, usage=Usage(7, 3, 0, 0), aborted=True)

    assert bill.totals == Usage(17, 8, 2, 1)
    assert [line.request_id for line in bill] == ["req_1", "req_2"]


def test_a_request_under_way_does_not_come_back_onto_an_emptied_bill():
    bill = Bill(lambda: 0.0)
    number = bill.open("req_1", None)
    bill.clear()
    bill.note(number, usage=Usage(1, 1, 0, 0))

    assert bill.report() == {"requests": [], "totals": Usage().as_json()}
    bill.open("req_2", None)
    assert [line.request_id for line in bill] == ["req_2"]


def test_what_remains_of_a_limit_shrinks_and_comes_back_with_the_next_minute():
    clock = Clock()
    limits = RateLimits(clock)
    first = limits.headers("m", 1_000, 100)
    second = limits.headers("m", 1_000, 100)
    name = "anthropic-ratelimit-{}-remaining"

    assert int(first[name.format("input-tokens")]) - int(second[name.format("input-tokens")]) == 1_000
    assert int(first[name.format("tokens")]) - int(second[name.format("tokens")]) == 1_100
    assert int(first[name.format("requests")]) - int(second[name.format("requests")]) == 1
    clock.now += 60
    assert limits.headers("m", 1_000, 100)[name.format("tokens")] == first[name.format("tokens")]


def test_every_model_that_the_sdk_or_the_price_list_knows_exists():
    sdk = typing.get_args(typing.get_args(SdkModel)[0])
    priced = next(item for item in genai_prices.data.providers if item.id == "anthropic")
    names = [*sdk, *(model.id for model in priced.models)]

    assert len(names) > 40
    assert [name for name in names if find(name) is None] == []


@pytest.mark.parametrize("name", ["", "gpt-5", "claude", "claude-", "claude-opus", "claude-opus-9-9", "xclaude-opus-5"])
def test_other_models_do_not_exist(name):
    assert find(name) is None
