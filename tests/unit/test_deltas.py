"""What a change adds to the counters that restart from the journal's totals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentobs.records import (
    CANCELLED,
    CLOSED,
    FAILED,
    FUNCTION,
    INTERRUPTED,
    NOTED,
    OPENED,
    PARTIAL,
    RECOVERED,
    SETTLED,
    UNKNOWN,
    Change,
)
from agentobs.telemetry import names
from agentobs.telemetry.deltas import deltas, spans_exported
from tests.factories import MODEL, attempt, execution, failed_attempt, note, run, step

WHO = ("article", "writer", MODEL)
CHAT = ("chat", "anthropic", MODEL, "unknown")


def told(verb: str, record: Any) -> dict[tuple[str, tuple[str, ...]], int]:
    found = deltas(Change(verb, record))
    assert len({(name, labels) for name, labels, _ in found}) == len(found), "one delta a label set"
    return {(name, labels): value for name, labels, value in found}


def test_a_runs_end_counts_by_outcome_and_error_type() -> None:
    assert told(CLOSED, run()) == {("agentobs_runs_total", ("article", "succeeded", "")): 1}
    assert told(CLOSED, run(status=FAILED, error_type="timeout")) == {
        ("agentobs_runs_total", ("article", "failed", "timeout")): 1
    }
    assert told(CLOSED, run(status=CANCELLED)) == {("agentobs_runs_total", ("article", "cancelled", "cancelled")): 1}
    assert told(OPENED, run(status="queued")) == {}


def test_an_execution_counts_when_it_begins() -> None:
    assert told(OPENED, execution(number=2, reason=RECOVERED)) == {
        ("agentobs_executions_total", ("article", "recovered")): 1
    }
    assert told(CLOSED, execution()) == {}


def test_a_step_counts_when_it_ends() -> None:
    assert told(OPENED, step()) == {}
    assert told(CLOSED, step()) == {("agentobs_steps_total", ("article", "agent", "writer", "succeeded")): 1}
    assert told(CLOSED, step(kind=FUNCTION, name="fetch", status=INTERRUPTED)) == {
        ("agentobs_steps_total", ("article", "function", "fetch", "interrupted")): 1
    }


def test_a_turns_last_attempt_counts_for_itself_and_for_its_turn() -> None:
    assert told(CLOSED, attempt(input_uncached=100, output=50, cache_read=30, cache_write=4)) == {
        ("agentobs_attempts_total", (*WHO, "ok")): 1,
        ("agentobs_tokens_total", (*WHO, "input_uncached")): 100,
        ("agentobs_tokens_total", (*WHO, "output")): 50,
        ("agentobs_tokens_total", (*WHO, "cache_read")): 30,
        ("agentobs_tokens_total", (*WHO, "cache_write")): 4,
        ("agentobs_cost_usd_total", (*WHO, "ok")): 350_000_000,
        ("gen_ai_client_inference_usage_input_tokens_total", CHAT): 134,
        ("gen_ai_client_inference_usage_output_tokens_total", CHAT): 50,
        ("gen_ai_client_inference_usage_cache_read_input_tokens_total", CHAT): 30,
        ("gen_ai_client_inference_usage_cache_write_input_tokens_total", CHAT): 4,
    }


def test_an_attempt_that_is_retried_counts_for_itself_alone() -> None:
    cut = failed_attempt(
        outcome="stream_truncated", usage=PARTIAL, input_uncached=9, output=1, wait_ns=2_500_000_000, cost_pico=7
    )
    assert told(CLOSED, cut) == {
        ("agentobs_attempts_total", (*WHO, "stream_truncated")): 1,
        ("agentobs_attempt_usage_inexact_total", (*WHO, "partial")): 1,
        ("agentobs_retry_wait_seconds_total", WHO): 2_500_000_000,
        ("agentobs_tokens_total", (*WHO, "input_uncached")): 9,
        ("agentobs_tokens_total", (*WHO, "output")): 1,
        ("agentobs_cost_usd_total", (*WHO, "stream_truncated")): 7,
    }


def test_settling_counts_the_turn_that_closing_did_not() -> None:
    cut = failed_attempt(outcome="stream_error", usage=PARTIAL, input_uncached=9, output=1, final=True)
    assert told(SETTLED, cut) == {
        ("gen_ai_client_inference_usage_input_tokens_total", CHAT): 9,
        ("gen_ai_client_inference_usage_output_tokens_total", CHAT): 1,
    }


@pytest.mark.parametrize("verb", [OPENED, NOTED])
def test_nothing_counts_before_an_attempt_has_ended(verb: str) -> None:
    assert told(verb, attempt()) == {}


def test_unknown_usage_counts_as_inexact_and_adds_no_tokens() -> None:
    assert told(
        CLOSED, attempt(outcome="timeout", usage=UNKNOWN, cost_pico=None, input_uncached=None, output=None)
    ) == {
        ("agentobs_attempts_total", (*WHO, "timeout")): 1,
        ("agentobs_attempt_usage_inexact_total", (*WHO, "unknown")): 1,
    }


def test_tokens_without_a_price_count_as_unpriced_by_the_declared_model() -> None:
    found = told(CLOSED, attempt(cost_pico=None, final=False))
    assert found["agentobs_unpriced_attempts_total", (MODEL,)] == 1
    assert not [name for name, _ in found if name == "agentobs_cost_usd_total"]
    assert ("agentobs_unpriced_attempts_total", (MODEL,)) not in told(CLOSED, failed_attempt(cost_pico=None))


def test_the_model_label_is_the_declared_one() -> None:
    found = told(CLOSED, attempt(response_model="something-else"))
    assert not [labels for _, labels in found if "something-else" in labels]


def test_reuse_is_told_by_a_note() -> None:
    assert told(CLOSED, note("reused", '{"count":2,"saved_pico":1500}', key="reused:writer")) == {
        ("agentobs_steps_reused_total", ("article", "writer")): 2,
        ("agentobs_saved_usd_total", ("article", "writer")): 1500,
    }
    assert told(CLOSED, note("reused", '{"count":1,"saved_pico":0}', key="fetch")) == {
        ("agentobs_steps_reused_total", ("article", "fetch")): 1
    }
    assert told(CLOSED, note("now", '"2026-11-22"')) == {}


@pytest.mark.parametrize(
    "value", ["not json", "[]", '{"count":"x"}', '{"count":-3}', '{"count":1e400}', '{"count":9e30}', "null"]
)
def test_a_malformed_note_counts_nothing_and_raises_nothing(value: str) -> None:
    assert told(CLOSED, note("reused", value)) == {}


@given(st.sampled_from([OPENED, NOTED, CLOSED, SETTLED, "x"]), st.text(), st.none() | st.integers(), st.text())
def test_no_record_makes_it_raise(verb: str, model: str, tokens: int | None, usage: str) -> None:
    for record in (
        attempt(model=model, usage=usage, output=tokens, cost_pico=tokens),
        step(name=model),
        run(status=model),
    ):
        for name, labels, value in deltas(Change(verb, record)):
            assert len(labels) == len(names.METRICS[name].labels)
            assert 0 < value < 2**62
            "".join(labels).encode()


def test_every_delta_names_a_declared_counter_with_its_labels() -> None:
    for name, labels, _ in [*deltas(Change(CLOSED, attempt())), spans_exported("ok", 3)]:
        assert names.METRICS[name].kind == "counter"
        assert len(labels) == len(names.METRICS[name].labels)
