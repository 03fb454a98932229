"""What the API shows of a run, as pure functions of its records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from agentobs.agents import Agent
from agentobs.api import schemas, views
from agentobs.journal.protocol import Event, RunDetail
from agentobs.records import (
    CLOSED,
    EXACT,
    NS,
    PARTIAL,
    PICO,
    UNKNOWN,
    Attempt,
    Execution,
    Run,
    Step,
    attempt_span_id,
    new_run_id,
)
from agentobs.workflows import Registry, Workflow, declare

ID = new_run_id(1_767_225_600_000, bytes(range(10)))
AT = 1_767_225_600 * NS  # 2026-01-01T00:00:00Z

SUMMARY = {
    *("id", "trace_id", "workflow", "status", "created_at", "started_at", "ended_at", "total_ms", "steps"),
    *("step_names", "attempts", "retries", "tokens", "usage_inexact", "cost_usd", "error", "tags"),
}
DETAIL = SUMMARY | {"input", "output", "error_detail", "executions", "steps", "forked_from", "forked_to"}
TOKENS = {"input", "output", "cache_read", "cache_write", "reasoning", "total"}
EXECUTION = {"number", "reason", "worker", "workflow_version", "started_at", "ended_at", "outcome"}
STEP = {
    *("number", "execution", "kind", "name", "branch", "input_preview", "output_preview", "status", "error_type"),
    *("duration_ms", "started_at", "reused", "tokens", "cost_usd", "attempts"),
}
ATTEMPT = {
    *("number", "turn", "span_id", "model", "response_model", "outcome", "http_status", "request_id", "stop_reason"),
    *("wait_ms", "started_at", "time_to_first_chunk_ms", "duration_ms", "tokens", "usage", "cost_usd"),
}


def run(**fields) -> Run:
    base = Run(id=ID, workflow="article", version="1", input='{"goal":"x"}', created_at=AT)
    return replace(base, **fields)


def step(number: int, **fields) -> Step:
    base = Step(
        run_id=ID,
        number=number,
        execution=1,
        key=f"k{number}",
        kind="agent",
        name=f"agent{number}",
        status="succeeded",
        started_at=AT,
        ended_at=AT + NS,
        seq=number,
    )
    return replace(base, **fields)


def attempt(step_number: int, number: int = 1, **fields) -> Attempt:
    base = Attempt(
        run_id=ID,
        step=step_number,
        turn=1,
        number=number,
        model="m",
        provider="anthropic",
        url="http://x",
        started_at=AT,
        ended_at=AT + NS // 2,
        outcome="ok",
        usage=EXACT,
        input_uncached=10,
        output=5,
        cache_read=2,
        cache_write=1,
        reasoning=3,
        cost_pico=PICO // 1000,
        turn_started_at=AT,
        seq=1,
        key=f"k{step_number}",
    )
    return replace(base, **fields)


def nothing(**fields) -> dict:
    return dict.fromkeys(("input_uncached", "output", "cache_read", "cache_write", "reasoning", "cost_pico")) | fields


def summary(*steps: Step, attempts: tuple[Attempt, ...] = (), **fields) -> dict:
    return views.summary(RunDetail(run=run(**fields), steps=steps, attempts=attempts))


# ---- shapes ----


def test_every_shape_has_exactly_the_fields_of_the_interface():
    detail = RunDetail(
        run=run(error_type="timeout"),
        executions=(Execution(run_id=ID, number=1, reason="started", worker="w", owner="o", epoch=1, version="1",
                              started_at=AT, seq=2),),
        steps=(step(1),),
        attempts=(attempt(1),),
    )  # fmt: skip
    assert set(views.summary(detail)) == SUMMARY
    shown = views.run_detail(detail)
    assert set(shown) == DETAIL
    assert set(shown["tokens"]) == TOKENS
    assert set(shown["error"]) == {"type", "message", "step", "agent"}
    assert set(shown["executions"][0]) == EXECUTION
    assert set(shown["steps"][0]) == STEP | {"error_detail"}
    assert set(views.step(step(1), ())) == STEP  # an event's
    assert set(shown["steps"][0]["tokens"]) == TOKENS
    assert set(shown["steps"][0]["attempts"][0]) == ATTEMPT
    assert set(shown["steps"][0]["attempts"][0]["tokens"]) == TOKENS


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (schemas.Summary, SUMMARY),
        (schemas.Detail, DETAIL),
        (schemas.Tokens, TOKENS),
        (schemas.ExecutionView, EXECUTION),
        (schemas.StepView, STEP),
        (schemas.StepDetail, STEP | {"error_detail"}),
        (schemas.AttemptView, ATTEMPT),
        (schemas.AttemptEvent, ATTEMPT | {"step", "execution", "agent"}),
        (schemas.RunError, {"type", "message", "step", "agent"}),
        (schemas.RunList, {"runs", "next_cursor"}),
    ],
)
def test_the_documented_shapes_are_those_of_the_interface(model: type[BaseModel], fields: set[str]):
    assert set(model.model_fields) == fields


def test_what_is_shown_fits_the_documented_shapes():
    failed = step(2, status="failed", error_type="output_invalid", error_detail='"topic: Field required"')
    detail = RunDetail(run=run(output='"y"', ended_at=AT + NS), steps=(step(1), failed), attempts=(attempt(1),))
    TypeAdapter(schemas.Detail).validate_json(json.dumps(views.run_detail(detail)), extra="forbid", strict=True)
    TypeAdapter(schemas.Summary).validate_json(json.dumps(views.summary(detail)), extra="forbid", strict=True)


# ---- the summary ----


def test_a_run_that_has_only_been_accepted_has_a_whole_summary():
    assert summary(tags='{"team":"docs"}') == {
        "id": ID,
        "trace_id": ID.replace("-", ""),
        "workflow": "article",
        "status": "queued",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "started_at": None,
        "ended_at": None,
        "total_ms": None,
        "steps": 0,
        "step_names": [],
        "attempts": 0,
        "retries": 0,
        "tokens": dict.fromkeys(TOKENS, 0),
        "usage_inexact": 0,
        "cost_usd": "0",
        "error": None,
        "tags": {"team": "docs"},
    }


def test_total_ms_runs_from_creation_to_end():
    assert summary(started_at=AT + NS, ended_at=AT + 3 * NS + 1_234_567)["total_ms"] == 3001.234


def test_a_step_cut_off_and_run_again_counts_once_and_keeps_its_place():
    cut = step(1, status="interrupted", key="a", name="research")
    other = step(2, key="b", name="write")
    again = step(3, execution=2, key="a", name="research")
    shown = summary(again, cut, other)
    assert shown["steps"] == 2
    assert shown["step_names"] == ["research", "write"]


def test_steps_of_one_name_each_count():
    assert summary(step(1, name="write"), step(2, name="write"))["step_names"] == ["write", "write"]


def test_retries_are_the_attempts_beyond_the_first_of_their_turn():
    attempts = (
        *(attempt(1, 1), attempt(1, 2), attempt(1, 3)),  # two retries
        attempt(1, 1, turn=2),  # a second turn
        attempt(2, 1, execution=2),  # the step's row in the next execution begins anew
    )
    shown = summary(step(1, key="a"), step(2, key="a", execution=2), attempts=attempts)
    assert (shown["attempts"], shown["retries"]) == (5, 2)


def test_tokens_are_summed_over_attempts_whose_usage_was_told():
    attempts = (
        attempt(1, 1),
        attempt(1, 2, usage=PARTIAL, output=None, reasoning=None),
        attempt(1, 3, usage=UNKNOWN, **nothing()),
    )
    shown = summary(step(1), attempts=attempts)
    assert shown["tokens"] == {
        "input": 26,
        "output": 5,
        "cache_read": 4,
        "cache_write": 2,
        "reasoning": 3,
        "total": 31,
    }
    assert shown["usage_inexact"] == 2


def test_an_attempt_under_way_is_counted_but_adds_no_tokens_yet_as_in_the_metrics():
    under_way = attempt(1, ended_at=None, outcome=None, usage=PARTIAL, output=None, cost_pico=None)
    shown = summary(step(1), attempts=(under_way,))
    assert (shown["attempts"], shown["tokens"]["total"], shown["usage_inexact"]) == (1, 0, 0)
    assert shown["cost_usd"] == "0"


@given(st.lists(st.integers(min_value=0, max_value=10**18), max_size=5))
def test_cost_is_exact_decimal_text_without_trailing_noise(costs: list[int]):
    shown = views.cost([attempt(1, number, cost_pico=cost) for number, cost in enumerate(costs, 1)])
    whole, _, rest = shown.partition(".")
    assert int(whole) * PICO + int(rest.ljust(12, "0")) == sum(costs)
    assert not rest.endswith("0")
    assert not shown.endswith(".")


def test_cost_is_null_when_an_attempt_with_tokens_has_no_price():
    assert views.cost([attempt(1), attempt(1, 2, cost_pico=None)]) is None


def test_an_attempt_without_tokens_needs_no_price():
    refused = attempt(1, 2, outcome="rate_limited", input_uncached=0, output=0, cache_read=0, cache_write=0,
                      reasoning=0, cost_pico=None)  # fmt: skip
    unknown = attempt(1, 3, usage=UNKNOWN, **nothing())
    assert views.cost([attempt(1), refused, unknown]) == "0.001"


def test_an_error_names_its_type_step_and_agent():
    shown = summary(error_type="timeout", error_message="m", error_step=2, error_agent="writer")
    assert shown["error"] == {"type": "timeout", "message": "m", "step": 2, "agent": "writer"}


# ---- steps and attempts ----


def test_an_attempt_shows_durations_in_milliseconds_and_its_span_id():
    found = attempt(1, wait_ns=1_500_000, first_chunk_at=AT + 20_000_000)
    shown = views.attempt_view(found)
    assert (shown["wait_ms"], shown["time_to_first_chunk_ms"], shown["duration_ms"]) == (1.5, 20.0, 500.0)
    assert shown["span_id"] == attempt_span_id(found)
    assert shown["cost_usd"] == "0.001"


def test_an_attempt_of_unknown_usage_has_no_tokens_and_no_cost():
    shown = views.attempt_view(attempt(1, usage=UNKNOWN, **nothing()))
    assert (shown["tokens"], shown["usage"], shown["cost_usd"]) == (None, "unknown", None)


def test_steps_and_attempts_stand_in_their_order_under_their_step():
    detail = RunDetail(
        run=run(),
        steps=(step(2), step(1)),
        attempts=(attempt(1, 1, turn=2), attempt(1, 2), attempt(2, 1), attempt(1, 1)),
    )
    shown = views.run_detail(detail)["steps"]
    assert [(one["number"], [(a["turn"], a["number"]) for a in one["attempts"]]) for one in shown] == [
        (1, [(1, 1), (1, 2), (2, 1)]),
        (2, [(1, 1)]),
    ]


def test_a_failed_step_says_why_and_in_its_own_words_in_the_detail_alone():
    failed = step(2, status="failed", error_type="workflow_error", error_detail="\"KeyError: 'SECRET'\"")
    detail = RunDetail(run=run(), steps=(step(1), failed))
    shown = views.run_detail(detail)["steps"]
    assert [(one["error_type"], one["error_detail"]) for one in shown] == [
        (None, None),
        ("workflow_error", "KeyError: 'SECRET'"),
    ]
    told = [views.event(Event(9, CLOSED, failed)), views.summary(detail)]
    assert "workflow_error" in str(told)
    assert "SECRET" not in str(told)


def test_an_attempt_says_when_it_began_in_the_detail_as_in_its_events():
    begun = attempt(1, started_at=AT + 2 * NS, ended_at=AT + 3 * NS)
    assert views.attempt_view(begun)["started_at"] == "2026-01-01T00:00:02.000000Z"
    assert views.event(Event(9, CLOSED, begun))[1]["started_at"] == "2026-01-01T00:00:02.000000Z"


def test_a_running_step_has_no_end_yet():
    shown = views.step(step(1, status="running", ended_at=None), [])
    assert (shown["duration_ms"], shown["output_preview"], shown["reused"]) == (None, None, False)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=450))
def test_a_preview_is_the_first_200_characters_of_the_text(text: str):
    assert views.preview(json.dumps(text)) == text[:200]


@pytest.mark.parametrize("text", ["\U0001f600" * 300, "a" + "\U0001f600" * 300, '"\\\n' * 200, "\ud800\x00" * 200])
def test_a_preview_never_cuts_a_character_in_two(text: str):
    assert views.preview(json.dumps(text)) == text[:200]


def test_a_preview_of_anything_else_is_its_json():
    assert views.preview('{"goal":"\\u00e9"}') == '{"goal": "é"}'
    assert views.preview("null") == "null"
    assert views.preview(None) is None
    assert len(views.preview(json.dumps(list(range(1000))))) == 200


def test_input_and_output_are_the_values_that_were_stored():
    detail = RunDetail(run=run(input='{"a":[1,"\\ud800"]}', output="null"))
    shown = views.run_detail(detail)
    assert shown["input"] == {"a": [1, "\ud800"]}
    assert shown["output"] is None


# ---- times ----


def test_times_are_utc_with_microseconds():
    assert views.instant(AT + 1_234_567_891) == "2026-01-01T00:00:01.234567Z"
    assert views.instant(None) is None


# ---- workflows ----


class Article(BaseModel):
    goal: str


async def article(run, order: Article) -> str:
    """Write one."""


async def odd(run, order: Callable) -> None: ...


def test_a_workflow_shows_its_input_schema_and_its_agents_models():
    registry = Registry()
    registry.add(declare(article, agents=[Agent(name="writer", model="claude-x")]))
    assert views.workflow_list(registry) == {
        "workflows": [
            {
                "name": "article",
                "version": None,
                "description": "Write one.",
                "input_schema": Article.model_json_schema(),
                "agents": [{"name": "writer", "model": "claude-x"}],
            }
        ]
    }


def test_a_workflow_whose_input_has_no_json_schema_is_still_listed():
    found: Workflow = declare(odd)
    assert views.workflow(found)["input_schema"] == {}


# ---- what comes in ----


@pytest.mark.parametrize("given_id", [ID, ID.upper(), ID.replace("-", "")])
def test_a_run_is_found_by_its_id_or_its_trace_id(given_id: str):
    assert schemas.to_run_id(given_id) == ID


def test_a_cursor_leads_back_to_the_run_it_was_made_of():
    assert schemas.from_cursor(schemas.to_cursor(ID)) == ID


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (f"00-{TRACE}-01", f"00-{TRACE}-01"),
        (f"cc-{TRACE}-01-what-the-future-will-be", f"cc-{TRACE}-01"),
        (f"00-{TRACE}-01-more", None),
        (f"ff-{TRACE}-01", None),
        (f"00-{TRACE.upper()}-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None),
        (f"00-{TRACE}-01\n", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_a_malformed_traceparent_is_ignored(header: str | None, kept: str | None):
    assert schemas.to_traceparent(header) == kept
