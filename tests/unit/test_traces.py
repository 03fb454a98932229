"""Spans are pure functions of records, with exactly the attributes that TELEMETRY.md and INTERFACE.md name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as OtelLink
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from agentobs.journal.protocol import SpanRef
from agentobs.journal.rows import owed_spans
from agentobs.records import (
    CANCELLED,
    CLOSED,
    DRAINED,
    FAILED,
    FUNCTION,
    INTERRUPTED,
    PARTIAL,
    RECOVERED,
    RESUMED,
    SETTLED,
    TOOL,
    UNKNOWN,
    Change,
    attempt_span_id,
    execution_span_id,
    span_id,
    step_span_id,
    turn_span_id,
)
from agentobs.telemetry.protobuf import encode, fixed_resource
from agentobs.telemetry.spans import Link, SpanData
from agentobs.telemetry.traces import attempt_span, execution_span, run_span, spans, step_span, turn_span
from tests.factories import (
    MODEL,
    RUN_ID,
    T0,
    TRACE_ID,
    URL,
    attempt,
    execution,
    failed_attempt,
    note,
    run,
    seconds,
    step,
)

COMMON = {"agentobs.run.id": RUN_ID, "agentobs.workflow": "article", "agentobs.version": "0.1.0"}
CALLER = "0af7651916cd43dd8448eb211c80319c"
LATER = COMMON | {"agentobs.execution.number": 2, "agentobs.execution.reason": RECOVERED}


@pytest.mark.parametrize("version", [None, "1.4"])
def test_every_span_says_which_version_of_the_workflows_code_it_is_of_where_it_has_one(version: str | None) -> None:
    of = {"workflow_version": version}
    spans = [run_span(run(**of)), execution_span(execution(number=2, **of)), step_span(step(**of))]
    spans += [turn_span(attempt(**of)), attempt_span(attempt(**of))]
    assert [span.attributes.get("agentobs.workflow.version") for span in spans] == [version] * 5


# ---- the root ----


def test_the_root_span_has_exactly_these_attributes() -> None:
    span = run_span(run())
    assert span.attributes == COMMON | {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "article",
    }
    assert (span.name, span.client, span.error, span.parent_id) == ("invoke_workflow article", False, False, None)
    assert (span.trace_id, span.span_id) == (TRACE_ID, span_id("run", RUN_ID))
    assert (span.start, span.end, span.links) == (T0, seconds(12), ())


def test_a_failed_root_is_an_error_with_its_type_and_without_a_text() -> None:
    span = run_span(run(status=FAILED, error_type="overloaded", error_detail='"SECRET"', tags='{"t":"SECRET"}'))
    assert span.attributes["error.type"] == "overloaded"
    assert span.error
    assert "SECRET" not in repr(span)


def test_a_cancelled_root_is_an_error_even_where_no_type_was_stored() -> None:
    span = run_span(run(status=CANCELLED))
    assert (span.attributes["error.type"], span.error) == ("cancelled", True)


def test_the_root_tells_the_first_end_whatever_a_resume_did_since() -> None:
    first = run(status=FAILED, error_type="timeout")
    resumed = dataclasses.replace(first, status="running", ended_at=None, error_type=None, resumed_from=2)
    ended_again = dataclasses.replace(first, status="succeeded", ended_at=seconds(99), error_type=None)
    assert run_span(resumed) == run_span(first) == run_span(ended_again)


@pytest.mark.parametrize(
    ("header", "link"),
    [
        (f"00-{CALLER}-b7ad6b7169203331-01", (CALLER, "b7ad6b7169203331", 1)),
        (f"00-{CALLER}-b7ad6b7169203331-00", (CALLER, "b7ad6b7169203331", 0)),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
        (f"00-{CALLER}-0000000000000000-01", None),
        (f"ff-{CALLER}-b7ad6b7169203331-01", None),
        ("nonsense", None),
        (None, None),
    ],
)  # fmt: skip
def test_the_callers_traceparent_is_a_link_when_it_is_valid(header: str | None, link: Any) -> None:
    assert run_span(run(traceparent=header)).links == ((Link(*link),) if link else ())


# ---- executions ----


def test_a_later_execution_is_a_child_of_the_root_with_number_and_reason() -> None:
    span = execution_span(
        execution(number=2, reason=RECOVERED, version="0.2.0", started_at=seconds(20), ended_at=seconds(30))
    )
    assert span.attributes == LATER | {
        "agentobs.version": "0.2.0",
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "article",
    }
    assert (span.name, span.client, span.error) == ("invoke_workflow article", False, False)
    assert (span.span_id, span.parent_id) == (execution_span_id(RUN_ID, 2), span_id("run", RUN_ID))
    assert (span.start, span.end) == (seconds(20), seconds(30))


@pytest.mark.parametrize(
    ("outcome", "error_type", "told"),
    [
        (FAILED, "parked", "parked"),
        (INTERRUPTED, None, "interrupted"),
        (CANCELLED, None, "cancelled"),
        (DRAINED, "interrupted", None),
    ],
)
def test_how_an_execution_ended(outcome: str, error_type: str | None, told: str | None) -> None:
    span = execution_span(execution(number=2, reason=RESUMED, outcome=outcome, error_type=error_type))
    assert (span.attributes.get("error.type"), span.error) == (told, told is not None)


# ---- steps ----


def test_an_agent_call_has_exactly_these_attributes_and_no_usage() -> None:
    span = step_span(step())
    assert span.attributes == COMMON | {
        "agentobs.step.number": 1,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "writer",
        "gen_ai.request.model": MODEL,
    }
    assert (span.name, span.client, span.error) == ("invoke_agent writer", False, False)
    assert (span.span_id, span.parent_id) == (step_span_id(step()), span_id("run", RUN_ID))
    assert (span.start, span.end) == (seconds(2), seconds(5))


def test_a_tool_call_is_a_child_of_its_agents_step() -> None:
    tool = step(
        kind=TOOL,
        name="search",
        number=2,
        key="tool-key",
        agent="writer",
        parent=1,
        tool_call_id="toolu_1",
        parent_key=step().key,
    )
    span = step_span(tool)
    assert span.attributes == COMMON | {
        "agentobs.step.number": 2,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "toolu_1",
        "gen_ai.agent.name": "writer",
    }
    assert (span.name, span.client, span.parent_id) == ("execute_tool search", False, step_span_id(step()))


def test_a_function_step_has_no_gen_ai_attributes() -> None:
    span = step_span(step(kind=FUNCTION, name="fetch", number=3, status=FAILED, error_type="workflow_error"))
    assert span.attributes == COMMON | {"agentobs.step.number": 3, "error.type": "workflow_error"}
    assert (span.name, span.client, span.error) == ("step fetch", False, True)


def test_steps_of_a_later_execution_hang_under_that_execution() -> None:
    span = step_span(step(execution=2, reason=RECOVERED, status=INTERRUPTED))
    assert span.attributes == LATER | {
        "agentobs.step.number": 1,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "writer",
        "gen_ai.request.model": MODEL,
        "error.type": "interrupted",
    }
    assert span.parent_id == execution_span_id(RUN_ID, 2)
    assert span.span_id != step_span(step()).span_id


# ---- turns ----

CHAT = COMMON | {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": MODEL,
    "gen_ai.request.max_tokens": 4096,
    "server.address": "api.anthropic.com",
    "server.port": 443,
}
ANSWERED = {"gen_ai.response.id": "msg_1", "gen_ai.response.model": "claude-haiku-4-5-20251001"}


def test_a_plain_chat_has_exactly_these_attributes() -> None:
    span = turn_span(attempt())
    assert span.attributes == CHAT | ANSWERED | {
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
    }
    assert (span.name, span.client, span.error) == (f"chat {MODEL}", True, False)
    assert (span.span_id, span.parent_id) == (turn_span_id(attempt()), step_span_id(step()))


def test_a_streamed_chat_with_cache_and_reasoning_after_a_retry() -> None:
    span = turn_span(
        attempt(
            number=2, started_at=seconds(3), turn_started_at=seconds(2), stream=True, first_chunk_at=seconds(3.25),
            effort="high", input_uncached=10, cache_read=300, cache_write=40, output=50, reasoning=20,
            stop_reason="tool_use",
        )
    )  # fmt: skip
    assert span.attributes == CHAT | ANSWERED | {
        "gen_ai.request.stream": True,
        "gen_ai.request.reasoning.level": "high",
        "gen_ai.response.finish_reasons": ("tool_call",),
        "gen_ai.response.time_to_first_chunk": 1.25,
        "gen_ai.usage.input_tokens": 350,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.cache_read.input_tokens": 300,
        "gen_ai.usage.cache_write.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 20,
    }
    assert (span.start, span.end) == (seconds(2), seconds(4.5))  # with all retries


@pytest.mark.parametrize(
    ("stop_reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_call"),
        ("refusal", "refusal"),
        ("pause_turn", "pause_turn"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
    ],
)
def test_finish_reasons_are_the_conventions_words(stop_reason: str, told: str) -> None:
    assert turn_span(attempt(stop_reason=stop_reason)).attributes["gen_ai.response.finish_reasons"] == (told,)


def test_a_cut_stream_finished_with_error_and_says_what_usage_it_knows() -> None:
    cut = attempt(
        outcome="stream_truncated", stream=True, stop_reason=None, usage=PARTIAL, output=1, first_chunk_at=seconds(2.5)
    )
    span = turn_span(cut)
    assert span.attributes == CHAT | ANSWERED | {
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("error",),
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 1,
        "error.type": "stream_truncated",
    }
    assert span.error


def test_a_chat_whose_usage_nobody_told_carries_none() -> None:
    unknown = {
        "usage": UNKNOWN,
        "input_uncached": None,
        "output": None,
        "cache_read": None,
        "cache_write": None,
        "reasoning": None,
    }
    span = turn_span(
        attempt(outcome="timeout", http_status=None, response_id=None, response_model=None, stop_reason=None, **unknown)
    )
    assert span.attributes == CHAT | {"error.type": "timeout"}


# ---- attempts ----

POST = COMMON | {
    "http.request.method": "POST",
    "url.full": URL,
    "server.address": "api.anthropic.com",
    "server.port": 443,
    "agentobs.request_id": "req_1",
}


def test_a_first_attempt_has_exactly_these_attributes() -> None:
    span = attempt_span(attempt(cache_read=7))
    assert span.attributes == POST | {
        "http.response.status_code": 200,
        "agentobs.attempt.number": 1,
        "agentobs.usage": "exact",
        "agentobs.tokens.input_uncached": 100,
        "agentobs.tokens.output": 50,
        "agentobs.tokens.cache_read": 7,
        "agentobs.tokens.cache_write": 0,
        "agentobs.cost_usd": 0.00035,
    }
    assert (span.name, span.client, span.error) == ("POST", True, False)
    assert (span.span_id, span.parent_id) == (attempt_span_id(attempt()), turn_span_id(attempt()))
    assert (span.start, span.end) == (seconds(2), seconds(4.5))


def test_a_second_attempt_that_failed_has_exactly_these_attributes() -> None:
    span = attempt_span(failed_attempt(number=2, wait_ns=1_500_000_000))
    assert span.attributes == POST | {
        "http.response.status_code": 529,
        "http.request.resend_count": 1,
        "error.type": "overloaded",
        "agentobs.attempt.number": 2,
        "agentobs.retry.wait_s": 1.5,
        "agentobs.usage": "exact",
        "agentobs.tokens.input_uncached": 0,
        "agentobs.tokens.output": 0,
        "agentobs.tokens.cache_read": 0,
        "agentobs.tokens.cache_write": 0,
        "agentobs.cost_usd": 0.0,
    }
    assert span.error


def test_an_attempt_of_unknown_usage_claims_no_tokens_and_no_cost() -> None:
    lost = attempt(
        outcome="connection_error", http_status=None, request_id=None, usage=UNKNOWN, cost_pico=None, input_uncached=0
    )
    wanted = POST | {"error.type": "connection_error", "agentobs.attempt.number": 1, "agentobs.usage": "unknown"}
    del wanted["agentobs.request_id"]
    assert attempt_span(lost).attributes == wanted


def test_no_attempt_counts_as_an_inference() -> None:
    assert not [key for key in attempt_span(attempt()).attributes if key.startswith("gen_ai.")]


@pytest.mark.parametrize("pico", [1, 350_000_000, 12_345_678_901, 999_999_999_999_999])
def test_the_cost_is_a_double_from_which_the_journals_integer_comes_back(pico: int) -> None:
    assert round(attempt_span(attempt(cost_pico=pico)).attributes["agentobs.cost_usd"] * 10**12) == pico  # type: ignore[operator]


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://127.0.0.1:9100/v1/messages", ("127.0.0.1", 9100)),
        ("http://host/v1", ("host", 80)),
        ("http://h:bad/", (None, None)),
    ],
)
def test_the_server_is_that_of_the_url(url: str, server: tuple[str | None, int | None]) -> None:
    attributes = attempt_span(attempt(url=url)).attributes
    assert (attributes.get("server.address"), attributes.get("server.port")) == server


# ---- rows of the outbox ----


def test_a_row_gives_the_spans_that_the_journal_says_it_owes() -> None:
    changes = (
        Change(CLOSED, attempt()),
        Change(CLOSED, step()),
        Change(CLOSED, note("now", "1")),
        Change(CLOSED, run()),
    )
    refs = owed_spans(changes)
    made, failed = spans(changes, refs)
    assert [span.name for span in made] == ["POST", f"chat {MODEL}", "invoke_agent writer", "invoke_workflow article"]
    assert failed == 0


def test_a_settled_attempt_owes_its_turn_alone() -> None:
    changes = (Change(SETTLED, failed_attempt(final=True)),)
    made, _ = spans(changes, owed_spans(changes))
    assert [(span.name, span.attributes["error.type"]) for span in made] == [(f"chat {MODEL}", "overloaded")]


def test_an_attempts_span_is_the_same_before_and_after_it_is_settled() -> None:
    before, after = failed_attempt(), failed_attempt(final=True)
    assert attempt_span(before) == attempt_span(after)


def test_a_span_does_not_depend_on_content() -> None:
    bare = {"input": "null", "output": None}
    assert step_span(step(**bare)) == step_span(step())
    assert run_span(run(**bare, error_detail=None)) == run_span(run())
    assert turn_span(attempt(answer=None)) == turn_span(attempt())


def test_a_ref_without_its_record_is_counted_and_holds_up_nothing() -> None:
    refs = (SpanRef("step", RUN_ID, 99), SpanRef("step", RUN_ID, 1), SpanRef("nonsense", RUN_ID, 1))
    made, failed = spans((Change(CLOSED, step()),), refs)
    assert ([span.name for span in made], failed) == (["invoke_agent writer"], 2)


def test_text_from_outside_is_cut_and_made_encodable() -> None:
    span = turn_span(attempt(response_id="x" * 5000, response_model="\ud800", stop_reason="\udfff"))
    assert len(str(span.attributes["gen_ai.response.id"])) == 1024
    assert span.attributes["gen_ai.response.model"] == "?"
    assert span.attributes["gen_ai.response.finish_reasons"] == ("?",)
    assert turn_span(attempt(model="m\ud800")).name == "chat m?"


def test_a_span_never_ends_before_it_starts() -> None:
    assert step_span(step(started_at=seconds(5), ended_at=seconds(4))).end == seconds(5)


# ---- the message ----


def test_the_message_is_the_one_that_the_sdks_own_encoder_makes() -> None:
    every = [
        run_span(run(traceparent=f"00-{CALLER}-b7ad6b7169203331-00", status=FAILED, error_type="timeout")),
        execution_span(execution(number=2, reason=RESUMED)),
        step_span(step()),
        turn_span(attempt(stream=True, first_chunk_at=seconds(3), cache_read=5, reasoning=1, effort="low")),
        attempt_span(failed_attempt(number=2, wait_ns=1_500_000_000)),
        attempt_span(attempt(request_id="résumé")),
    ]
    resource = {"service.name": "mine", "k": "v"}
    ours = ExportTraceServiceRequest.FromString(encode(every, fixed_resource(resource)))
    sdk = Resource(fixed_resource(resource))
    theirs = encode_spans([readable(span, sdk) for span in every])
    for span, expected in zip(
        ours.resource_spans[0].scope_spans[0].spans, theirs.resource_spans[0].scope_spans[0].spans, strict=True
    ):
        assert span == expected
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def readable(span: SpanData, resource: Resource) -> ReadableSpan:
    def context(trace: str, own: str, flags: int = 1, *, remote: bool = False) -> SpanContext:
        return SpanContext(int(trace, 16), int(own, 16), remote, TraceFlags(flags))

    return ReadableSpan(
        name=span.name,
        context=context(span.trace_id, span.span_id),
        parent=span.parent_id and context(span.trace_id, span.parent_id),  # type: ignore[arg-type]
        resource=resource,
        attributes=span.attributes,
        links=[OtelLink(context(*link, remote=True)) for link in span.links],
        kind=SpanKind.CLIENT if span.client else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope("agentobs"),
    )


def test_no_spans_are_an_empty_message() -> None:
    assert encode([], {}) == b""
