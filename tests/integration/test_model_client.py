"""The model client against an API that answers byte by byte what a test wants: one request, one honest reply."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentobs.agents import Agent
from agentobs.errors import UsageError
from agentobs.models import wire
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.pricing import price_version
from agentobs.models.protocol import Price, Progress, Reply
from agentobs.models.stream import EventDecoder
from agentobs.records import ERROR_TYPES, EXACT, NO_USAGE, PARTIAL, ZERO_USAGE, RateLimit, Usage
from tests.integration.canned_api import (
    USAGE,
    CannedApi,
    Script,
    block,
    canned_api,
    cut_body,
    end,
    event,
    message,
    plain,
    refusal,
    silence,
    start,
    stream,
    text_block,
    whole_stream,
)

CANARY = "canary-5e1f"
NOW_NS = 1_795_000_000 * 10**9
ASK = ({"role": "user", "content": "hi"},)

writer = Agent(name="writer", model="claude-haiku-4-5")
streamer = Agent(name="streamer", model="claude-haiku-4-5", stream=True)

FREE = Price(pico=0, version=price_version())
PAID = Price(pico=350_000_000, version=price_version())  # 100 in at 1, 50 out at 5 dollars a million
BEGUN = Price(pico=105_000_000, version=price_version())  # 100 in, 1 out
WHOLE = Usage(input_uncached=100, output=50, state=EXACT)
PART = Usage(input_uncached=100, output=1, state=PARTIAL)


@pytest.fixture
async def api() -> AsyncIterator[CannedApi]:
    async with canned_api() as running:
        yield running


@pytest.fixture
async def model(api: CannedApi) -> AsyncIterator[AnthropicModel]:
    made = AnthropicModel(api_key="sk-test", base_url=api.url, clock=lambda: NOW_NS)
    await made.warm_up()
    yield made
    await made.close()


async def ask(model: AnthropicModel, agent: Agent = writer, **changes: Any) -> tuple[Reply, Progress]:
    progress = changes.pop("progress", None) or Progress()
    messages = changes.pop("messages", ASK)
    reply = await model.send(agent, messages, reference="00f067aa0ba902b7", progress=progress)
    assert reply.outcome == "ok" or reply.outcome in ERROR_TYPES
    return reply, progress


# ---- what is sent ----


async def test_a_plain_answer(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()))
    reply, progress = await ask(model)
    assert reply == Reply(
        outcome="ok", text="hello", content=({"type": "text", "text": "hello"},), stop_reason="end_turn"
    )
    assert progress == Progress(
        http_status=200,
        request_id="req_1",
        response_id="msg_1",
        response_model="claude-haiku-4-5-20251001",
        usage=WHOLE,
        price=PAID,
    )


async def test_a_request_carries_its_reference_and_key(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()))
    await ask(model)
    (seen,) = api.seen
    assert seen.path == "/v1/messages"
    assert seen.headers["x-agentobs-attempt"] == "00f067aa0ba902b7"
    assert "sk-test" in seen.headers["authorization"]
    assert seen.body == {"model": "claude-haiku-4-5", "max_tokens": 4096, "messages": list(ASK)}


async def test_the_sdk_makes_no_spans_and_hands_on_no_trace(api: CannedApi, monkeypatch: pytest.MonkeyPatch):
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    api.will(plain(message()))
    model = AnthropicModel(api_key="k", base_url=api.url)
    with provider.get_tracer("test").start_as_current_span("ours"):
        await ask(model)
    await model.close()
    assert [span.name for span in spans.get_finished_spans()] == ["ours"]
    assert "traceparent" not in api.seen[0].headers


async def test_everything_an_agent_declares_is_asked_for(api: CannedApi, model: AnthropicModel):
    api.will(stream(whole_stream()))
    agent = Agent(name="a", model="claude-opus-5-5", system="be brief", max_tokens=30_000, effort="xhigh", cache="1h")
    await ask(model, agent)
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert api.seen[0].body == {
        "model": "claude-opus-5-5",
        "max_tokens": 30_000,
        "system": [{"type": "text", "text": "be brief", "cache_control": mark}],
        "messages": list(ASK),
        "output_config": {"effort": "xhigh"},
        "cache_control": mark,
        "stream": True,
    }


async def test_a_cached_agent_without_system_prompt_caches_the_conversation(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()))
    await ask(model, Agent(name="a", model="claude-haiku-4-5", cache="5m"))
    await ask(model, Agent(name="a", model="claude-haiku-4-5", system="short"))
    assert api.seen[0].body["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert "system" not in api.seen[0].body
    assert api.seen[1].body["system"] == "short"
    assert "cache_control" not in api.seen[1].body


async def test_text_that_no_utf8_can_hold_is_asked_and_answered(api: CannedApi, model: AnthropicModel):
    odd = "\ud800 \x00 é \U0001f600"
    api.will(plain(json.dumps(message(content=[{"type": "text", "text": odd}])).encode()))
    reply, _ = await ask(model, messages=({"role": "user", "content": odd},))
    assert api.seen[0].body["messages"][0]["content"] == odd
    assert reply.text == odd


@pytest.mark.parametrize("content", [{1, 2}, float("nan"), object()])
async def test_messages_that_are_not_json_are_never_sent(api: CannedApi, model: AnthropicModel, content: Any):
    reply, progress = await ask(model, messages=({"role": "user", "content": content},))
    assert (reply.outcome, progress.usage, progress.price, api.seen) == ("invalid_request", ZERO_USAGE, FREE, [])
    assert reply.error_class in {"TypeError", "ValueError"}


@pytest.mark.parametrize("status", [429, 500, 529, 408, 409, 503])
async def test_exactly_one_request_goes_out_whatever_comes_back(api: CannedApi, model: AnthropicModel, status: int):
    api.will(refusal(status, "api_error", headers={"x-should-retry": "true", "retry-after": "0"}))
    await ask(model)
    assert len(api.seen) == 1


async def test_a_kept_connection_that_breaks_is_not_tried_again(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()), silence("cut"))
    await ask(model)
    reply, progress = await ask(model)
    assert (reply.outcome, progress.http_status, progress.usage) == ("connection_error", None, NO_USAGE)
    assert len(api.seen) == 2


async def test_a_redirect_is_not_followed(api: CannedApi, model: AnthropicModel):
    api.will(plain(b"", 307, {"location": api.url + "/elsewhere"}))
    reply, progress = await ask(model)
    assert (reply.outcome, progress.http_status, progress.usage) == ("bad_response", 307, NO_USAGE)
    assert len(api.seen) == 1


async def test_no_more_connections_than_asked_for(api: CannedApi):
    api.will(stream(whole_stream(), pause_s=0.01))
    model = AnthropicModel(api_key="k", base_url=api.url, max_connections=3)
    replies = await asyncio.gather(*(ask(model, streamer) for _ in range(12)))
    await model.close()
    assert {reply.outcome for reply, _ in replies} == {"ok"}
    assert api.most_busy == 3


async def test_connections_serve_again_after_plain_answers_streams_and_errors(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()), stream(whole_stream()), refusal(529, "overloaded_error"), plain(message()))
    for agent in (writer, streamer, writer, writer):
        await ask(model, agent)
    assert len({seen.peer for seen in api.seen}) == 1


# ---- failure statuses ----

STATUSES = [
    (400, "invalid_request_error", "invalid_request", "BadRequestError"),
    (401, "authentication_error", "authentication", "AuthenticationError"),
    (402, "billing_error", "permission", "PaymentRequiredError"),
    (403, "permission_error", "permission", "PermissionDeniedError"),
    (404, "not_found_error", "not_found", "NotFoundError"),
    (408, "timeout_error", "timeout", "RequestTimeoutError"),
    (409, "conflict_error", "server_error", "ConflictError"),
    (413, "request_too_large", "too_large", "ContentTooLargeError"),
    (422, "invalid_request_error", "invalid_request", "UnprocessableEntityError"),
    (429, "rate_limit_error", "rate_limited", "RateLimitError"),
    (500, "api_error", "server_error", "InternalServerError"),
    (503, "api_error", "server_error", "ServiceUnavailableError"),
    (504, "timeout_error", "server_error", "GatewayTimeoutError"),
    (529, "overloaded_error", "overloaded", "OverloadedError"),
]


@pytest.mark.parametrize(("status", "kind", "outcome", "error_class"), STATUSES)
@pytest.mark.parametrize("agent", [writer, streamer], ids=["plain", "stream"])
async def test_a_failure_status_has_its_outcome_and_costs_nothing(
    api: CannedApi, model: AnthropicModel, agent: Agent, status: int, kind: str, outcome: str, error_class: str
):
    api.will(refusal(status, kind))
    reply, progress = await ask(model, agent)
    assert reply == Reply(outcome=outcome, error_class=error_class)
    assert progress == Progress(http_status=status, request_id="req_1", usage=ZERO_USAGE, price=FREE)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b'{"error": 7}', b"[]", b"null", b'"x"'])
async def test_a_failure_status_with_any_body_is_still_told_by_its_status(
    api: CannedApi, model: AnthropicModel, body: bytes
):
    api.will(plain(body, 502, {"content-type": "text/html"}))
    reply, progress = await ask(model)
    assert (reply.outcome, progress.usage) == ("server_error", ZERO_USAGE)


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (413, {"error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}, "too_large"),
        (403, {"error": {"type": "forbidden", "message": "Request not allowed"}}, "permission"),
        (529, {"type": "error", "error": {"details": None, "type": "overloaded_error"}}, "overloaded"),
    ],
)
async def test_shapes_of_failures_that_leave_out_their_frame(
    api: CannedApi, model: AnthropicModel, status: int, body: Any, outcome: str
):
    api.will(plain(body, status))
    assert (await ask(model))[0].outcome == outcome


async def test_a_credit_balance_too_low_is_a_400_like_any_other(api: CannedApi, model: AnthropicModel):
    api.will(refusal(400, "invalid_request_error", "Your credit balance is too low"))
    assert (await ask(model))[0].outcome == "invalid_request"


@pytest.mark.parametrize(
    ("headers", "should_retry", "after_s"),
    [
        ({}, None, None),
        ({"retry-after": "8"}, None, 8.0),
        ({"retry-after": "0.5"}, None, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "8"}, None, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "8"}, None, 8.0),
        ({"retry-after": formatdate(NOW_NS / 10**9 + 90, usegmt=True)}, None, 90.0),
        ({"retry-after": formatdate(NOW_NS / 10**9 - 90, usegmt=True)}, None, 0.0),
        ({"retry-after": "-3"}, None, 0.0),
        ({"retry-after": "nan"}, None, None),
        ({"retry-after": "inf"}, None, None),
        ({"retry-after": "tomorrow"}, None, None),
        ({"x-should-retry": "true"}, True, None),
        ({"x-should-retry": "false", "retry-after": "1"}, False, 1.0),
        ({"x-should-retry": "maybe"}, None, None),
    ],
)
async def test_the_providers_word_on_retrying(
    api: CannedApi, model: AnthropicModel, headers: dict[str, str], should_retry: bool | None, after_s: float | None
):
    api.will(refusal(429, "rate_limit_error", headers=headers))
    reply, _ = await ask(model)
    assert (reply.should_retry, reply.retry_after_s) == (should_retry, after_s)


@pytest.mark.parametrize(
    "script",
    [
        plain(message(), headers={"retry-after": "59", "x-should-retry": "true"}),
        plain(message(stop_reason="refusal"), headers={"retry-after": "59"}),
        plain(b"garbage", headers={"retry-after": "59"}),
    ],
)
async def test_a_success_means_nothing_by_retry_after(api: CannedApi, model: AnthropicModel, script: Script):
    api.will(script)
    reply, _ = await ask(model)
    assert (reply.should_retry, reply.retry_after_s) == (None, None)


LIMITS = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-ratelimit-requests-reset": "2026-11-22T00:00:00Z",
    "anthropic-ratelimit-input-tokens-limit": "2000000",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-output-tokens-limit": "400000",
    "anthropic-ratelimit-output-tokens-remaining": "junk",
    "anthropic-ratelimit-tokens-limit": "2400000",
    "anthropic-ratelimit-tokens-remaining": "7",
}


@pytest.mark.parametrize("script", [plain(message(), headers=LIMITS), refusal(429, "rate_limit_error", headers=LIMITS)])
async def test_rate_limits_are_read_from_the_headers(api: CannedApi, model: AnthropicModel, script: Script):
    api.will(script)
    _, progress = await ask(model)
    assert progress.rate_limits == (RateLimit("requests", 4000, 3999), RateLimit("input_tokens", 2_000_000, 0))


# ---- plain answers ----


@pytest.mark.parametrize(
    ("stop_reason", "outcome"),
    [
        ("end_turn", "ok"),
        ("stop_sequence", "ok"),
        ("tool_use", "ok"),
        ("pause_turn", "ok"),
        ("a_reason_of_tomorrow", "ok"),
        ("refusal", "refusal"),
        ("max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "context_window"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_stop_reasons_come_with_their_text_and_exact_usage(
    api: CannedApi, model: AnthropicModel, stop_reason: str, outcome: str, streamed: bool
):
    api.will(
        stream([start(), text_block("hello"), end(stop_reason)])
        if streamed
        else plain(message(stop_reason=stop_reason))
    )
    reply, progress = await ask(model, streamer if streamed else writer)
    assert (reply.outcome, reply.stop_reason, reply.text) == (outcome, stop_reason, "hello")
    assert (progress.usage, progress.price) == (WHOLE, PAID)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "name": "find", "input": {}},
        {"type": "tool_use", "id": "t1", "input": {}},
        {"type": "tool_use", "id": "t1", "name": "find"},
        {"type": "tool_use", "id": "t1", "name": 7, "input": {}},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {"x": float("nan")}},  # could not be sent back
    ],
)
async def test_a_call_of_a_tool_that_nobody_can_run_is_a_bad_response_that_was_paid(
    api: CannedApi, model: AnthropicModel, block: dict[str, Any]
):
    api.will(plain(json.dumps(message(content=[block], stop_reason="tool_use")).encode()))
    reply, progress = await ask(model)
    assert reply.outcome == "bad_response"
    assert progress.usage == WHOLE


async def test_an_answer_may_be_empty(api: CannedApi, model: AnthropicModel):
    api.will(plain(message(content=[])))
    reply, _ = await ask(model)
    assert (reply.outcome, reply.text, reply.content) == ("ok", "", ())


async def test_a_refusal_may_say_nothing(api: CannedApi, model: AnthropicModel):
    details = {"type": "refusal", "category": "cyber", "explanation": None}
    api.will(plain(message(content=[], stop_reason="refusal", stop_details=details)))
    reply, progress = await ask(model)
    assert (reply.outcome, reply.text, progress.usage) == ("refusal", "", WHOLE)


async def test_content_is_kept_as_it_came_and_unknown_fields_do_no_harm(api: CannedApi, model: AnthropicModel):
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "a", "citations": None},
        {"type": "tool_use", "id": "t", "name": "n", "input": {}, "caller": {"type": "direct"}},
        {"type": "of_tomorrow", "x": [1]},
        {"type": "text", "text": "b"},
    ]
    api.will(plain(message(content=content, stop_details={"type": "x"}, container={}, context_management={})))
    reply, _ = await ask(model)
    assert (reply.text, list(reply.content)) == ("ab", content)


async def test_a_compressed_answer_is_read(api: CannedApi, model: AnthropicModel):
    api.will(plain(gzip.compress(json.dumps(message()).encode()), headers={"content-encoding": "gzip"}))
    assert (await ask(model))[0].text == "hello"


async def test_an_answer_that_cannot_be_uncompressed_is_a_bad_response(api: CannedApi, model: AnthropicModel):
    api.will(plain(message(), headers={"content-encoding": "gzip"}))
    reply, progress = await ask(model)
    assert (reply.outcome, reply.error_class, progress.usage) == ("bad_response", "DecodingError", NO_USAGE)


async def test_the_model_asked_is_priced_where_the_answer_names_none(api: CannedApi, model: AnthropicModel):
    api.will(plain(message(model=None)))
    _, progress = await ask(model)
    assert (progress.response_model, progress.price) == (None, PAID)


async def test_an_answer_by_an_unknown_model_is_counted_but_not_priced(api: CannedApi, model: AnthropicModel):
    api.will(plain(message(model="claude-of-tomorrow")))
    reply, progress = await ask(model)
    assert (reply.outcome, progress.usage) == ("ok", WHOLE)
    assert progress.price == Price(pico=None, version=price_version())


DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b"garbage", NO_USAGE),
        (b"", NO_USAGE),
        (DEEP, NO_USAGE),
        (b"\xff\xfe", NO_USAGE),
        ([], NO_USAGE),
        (None, NO_USAGE),
        ({"type": "error", "error": {"type": "overloaded_error", "message": CANARY}}, NO_USAGE),
        (message(usage=None), NO_USAGE),
        (message(usage={"output_tokens": 5}), NO_USAGE),
        (message(usage="much"), NO_USAGE),
        (message(content=None), WHOLE),
        (message(content="hello"), WHOLE),
        (message(content=["hello"]), WHOLE),
        (message(content=[{"text": "hello"}]), WHOLE),
        (message(content=[{"type": "text", "text": 7}]), WHOLE),
        (message(stop_reason=None), WHOLE),
        (message(stop_reason=7), WHOLE),
    ],
)
async def test_an_answer_that_is_not_one_is_a_bad_response_with_what_usage_it_told(
    api: CannedApi, model: AnthropicModel, body: Any, usage: Usage
):
    api.will(plain(body))
    reply, progress = await ask(model)
    assert (reply.outcome, reply.text, progress.usage) == ("bad_response", "", usage)
    assert (progress.http_status, progress.request_id) == (200, "req_1")


async def test_a_plain_answer_cut_in_its_body_leaves_its_request_id_on_the_books(api: CannedApi, model: AnthropicModel):
    api.will(cut_body(message(), 40))
    reply, progress = await ask(model)
    assert (reply.outcome, progress.usage, progress.price.pico) == ("stream_truncated", NO_USAGE, None)
    assert (progress.http_status, progress.request_id) == (200, "req_1")


# ---- streams ----


async def test_a_streamed_answer(api: CannedApi, model: AnthropicModel):
    api.will(stream(whole_stream()))
    told: list[Progress] = []
    progress = Progress()
    progress.on_start = lambda: told.append(Progress(**{**vars(progress), "on_start": None}))
    reply, _ = await ask(model, streamer, progress=progress)
    assert reply == Reply(
        outcome="ok", text="hello", content=({"type": "text", "text": "hello"},), stop_reason="end_turn"
    )
    assert (progress.usage, progress.price, progress.first_chunk_at) == (WHOLE, PAID, NOW_NS)
    assert told == [
        Progress(
            http_status=200,
            request_id="req_1",
            response_id="msg_1",
            response_model="claude-haiku-4-5-20251001",
            usage=PART,
            price=BEGUN,
        )
    ]


async def test_a_plain_answer_has_no_first_chunk_and_no_start(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()))
    progress = Progress(on_start=lambda: pytest.fail("nothing was streamed"))
    await ask(model, progress=progress)
    assert progress.first_chunk_at is None


async def test_the_first_chunk_is_the_first_content_and_not_the_start(api: CannedApi):
    clock = iter(range(1, 100))
    model = AnthropicModel(api_key="k", base_url=api.url, clock=lambda: next(clock))
    begun, pinged, *rest = whole_stream()
    api.will(stream([begun, pinged, *rest], pause_s=0.01))
    _, progress = await ask(model, streamer)
    await model.close()
    assert progress.first_chunk_at == 1  # the only time the clock was asked


async def test_blocks_of_every_kind_are_put_together(api: CannedApi, model: AnthropicModel):
    cited = {"type": "char_location", "cited_text": "x"}
    api.will(
        stream(
            [
                start(),
                block(
                    0,
                    {"type": "thinking", "thinking": "", "signature": ""},
                    {"type": "thinking_delta", "thinking": "a"},
                    {"type": "thinking_delta", "thinking": "b"},
                    {"type": "signature_delta", "signature": "sig"},
                ),
                block(1, {"type": "redacted_thinking", "data": "opaque"}),
                block(
                    2,
                    {"type": "text", "text": "", "citations": []},
                    {"type": "text_delta", "text": "one "},
                    {"type": "citations_delta", "citation": cited},
                    {"type": "text_delta", "text": "two"},
                ),
                block(
                    3,
                    {"type": "tool_use", "id": "t1", "name": "find", "input": {}},
                    {"type": "input_json_delta", "partial_json": ""},
                    {"type": "input_json_delta", "partial_json": '{"q": "x'},
                    {"type": "input_json_delta", "partial_json": '\\u00e9"}'},
                ),
                block(
                    4,
                    {"type": "tool_use", "id": "t2", "name": "now", "input": {}, "caller": {"type": "direct"}},
                    {"type": "input_json_delta", "partial_json": ""},
                ),
                block(5, {"type": "server_tool_use", "id": "s", "name": "web", "input": {}}),
                block(6, {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "r"}]}),
                block(7, {"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "sum"}),
                block(8, {"type": "of_tomorrow"}, {"type": "delta_of_tomorrow", "y": 1}),
                event("event_of_tomorrow", z=1),
                end("tool_use"),
            ]
        )
    )
    reply, _ = await ask(model, streamer)
    assert (reply.outcome, reply.text) == ("ok", "one two")
    assert list(reply.content) == [
        {"type": "thinking", "thinking": "ab", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "one two", "citations": [cited]},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "xé"}},
        {"type": "tool_use", "id": "t2", "name": "now", "input": {}, "caller": {"type": "direct"}},
        {"type": "server_tool_use", "id": "s", "name": "web", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "r"}]},
        {"type": "compaction", "content": "sum"},
        {"type": "of_tomorrow"},
    ]


CUT_TOOL = block(
    1,
    {"type": "tool_use", "id": "t1", "name": "find", "input": {}},
    {"type": "input_json_delta", "partial_json": '{"q": "x'},
)


async def test_a_tool_call_cut_off_by_max_tokens_is_left_out(api: CannedApi, model: AnthropicModel):
    api.will(stream([start(), text_block("hello"), CUT_TOOL, end("max_tokens")]))
    reply, _ = await ask(model, streamer)
    assert (reply.outcome, len(reply.content)) == ("max_tokens", 1)


async def test_a_tool_call_whose_input_is_not_json_is_a_bad_response(api: CannedApi, model: AnthropicModel):
    api.will(stream([start(), text_block("hello"), CUT_TOOL, end("tool_use")]))
    reply, progress = await ask(model, streamer)
    assert (reply.outcome, progress.usage) == ("bad_response", WHOLE)


async def test_a_delta_replaces_the_usage_of_the_start(api: CannedApi, model: AnthropicModel):
    begun = start(cache_read_input_tokens=55_096, cache_creation_input_tokens=0, cache_creation={})
    last = end(input_tokens=404_500, cache_read_input_tokens=0, cache_creation_input_tokens=17_269)
    api.will(stream([begun, text_block("hello"), last]))
    _, progress = await ask(model, streamer)
    assert progress.usage == Usage(input_uncached=404_500, output=50, cache_write=17_269, state=EXACT)
    # 404,500 at 1, 50 at 5 and 17,269 unsplit writes at 1.25 dollars a million
    assert progress.price.pico == 404_500_000_000 + 250_000_000 + 21_586_250_000


async def test_every_pass_of_an_answer_is_counted_and_priced(api: CannedApi, model: AnthropicModel):
    passes = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 10},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 100, "output_tokens": 1},
        {"type": "message", "input_tokens": 100, "output_tokens": 50},
    ]
    api.will(
        plain(message(usage=USAGE | {"iterations": passes})), stream([start(), text_block("x"), end(iterations=passes)])
    )
    for agent in (writer, streamer):
        _, progress = await ask(model, agent)
        assert progress.usage == Usage(input_uncached=1200, output=61, state=EXACT)
        assert progress.price.pico == 1_050_000_000 + 525_000_000 + 350_000_000


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_wherever_the_bytes_are_split(newline: bytes, size: int):
    padded = b"".join(whole_stream()).replace(b"}\n", b"}     \n")
    raw = (b": a comment\n\n" + padded).replace(b"\n", newline) + b"data: unfinished"
    decoder = EventDecoder()
    events = [each for at in range(0, len(raw), size) for each in decoder.feed(raw[at : at + size])]
    assert [each["type"] for each in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_data_of_several_lines_is_one_event(newline: bytes):
    raw = b'data: {"type":\ndata: "ping"}\n\n'.replace(b"\n", newline) + b":"
    for at in range(len(raw)):
        decoder = EventDecoder()
        assert [*decoder.feed(raw[:at]), *decoder.feed(raw[at:])] == [{"type": "ping"}]


EVENT_ERRORS = [
    ("overloaded_error", "overloaded"),
    ("rate_limit_error", "rate_limited"),
    ("api_error", "server_error"),
    ("timeout_error", "server_error"),
    ("invalid_request_error", "invalid_request"),
    ("authentication_error", "authentication"),
    ("permission_error", "permission"),
    ("billing_error", "permission"),
    ("not_found_error", "not_found"),
    ("request_too_large", "too_large"),
    ("error_of_tomorrow", "stream_error"),
    (None, "stream_error"),
]


def error_event(kind: str | None) -> bytes:
    return event("error", error={"details": None, "type": kind, "message": CANARY})


@pytest.mark.parametrize(("kind", "outcome"), EVENT_ERRORS)
@pytest.mark.parametrize("before", [[], [event("ping")]], ids=["first", "after-ping"])
async def test_an_error_event_before_any_answer_costs_nothing(
    api: CannedApi, model: AnthropicModel, before: list[bytes], kind: str | None, outcome: str
):
    api.will(stream([*before, error_event(kind)], headers={"retry-after": "30"}))
    reply, progress = await ask(model, streamer)
    assert reply == Reply(outcome=outcome)
    assert progress == Progress(http_status=200, request_id="req_1", usage=ZERO_USAGE, price=FREE)


async def test_an_error_event_within_an_answer_leaves_what_was_told(api: CannedApi, model: AnthropicModel):
    api.will(stream([start(), text_block("hel"), error_event("overloaded_error")]))
    reply, progress = await ask(model, streamer)
    assert reply == Reply(outcome="stream_error")
    assert (progress.usage, progress.price) == (PART, BEGUN)


async def test_an_error_event_hangs_up(api: CannedApi, model: AnthropicModel):
    api.will(stream([start(), error_event("overloaded_error")], then="hang"))
    await ask(model, streamer)
    await asyncio.wait_for(api.seen[0].gone.wait(), 0.5)


END_ONLY, STOP_ONLY = (piece + b"\n\n" for piece in end().split(b"\n\n")[:2])


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize(
    ("pieces", "outcome", "usage"),
    [
        ([], "stream_truncated", NO_USAGE),
        ([start()], "stream_truncated", PART),
        ([start(), text_block("hel")], "stream_truncated", PART),
        ([start(), text_block("hel"), b"event: content_bl"], "stream_truncated", PART),
        ([start(), text_block("hello"), END_ONLY], "stream_truncated", WHOLE),
        ([start(), text_block("hello"), STOP_ONLY], "stream_truncated", PART),
        ([start(), text_block("hello"), END_ONLY, error_event("api_error")], "stream_error", WHOLE),
        ([start(), text_block("hello"), END_ONLY, STOP_ONLY], "ok", WHOLE),
    ],
)
async def test_a_stream_that_stops_early_keeps_what_it_told(
    api: CannedApi, model: AnthropicModel, pieces: list[bytes], outcome: str, usage: Usage, then: str
):
    api.will(stream(pieces, then=then, pause_s=0.02))
    reply, progress = await ask(model, streamer)
    assert (reply.outcome, progress.usage) == (outcome, usage)
    assert progress.price.pico == {NO_USAGE: None, PART: BEGUN.pico, WHOLE: PAID.pico}[usage]


async def test_a_finished_stream_that_is_never_closed_is_finished(api: CannedApi, model: AnthropicModel):
    api.will(stream(whole_stream(), then="hang"))
    began = time.monotonic()
    reply, _ = await ask(model, streamer)
    assert reply.outcome == "ok"
    assert time.monotonic() - began < 2


async def test_usage_beside_no_stop_reason_is_not_the_last_word(api: CannedApi, model: AnthropicModel):
    early = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 20})
    api.will(stream([start(), early]), stream([start(), early, text_block("hello"), end()]))
    reply, progress = await ask(model, streamer)
    assert (reply.outcome, progress.usage.state, progress.usage.output) == ("stream_truncated", PARTIAL, 20)
    assert (await ask(model, streamer))[1].usage == WHOLE


@pytest.mark.parametrize(
    ("pieces", "usage"),
    [
        ([b"<html>an error page</html>"], NO_USAGE),
        ([b"data: garbage\n\n"], NO_USAGE),
        ([b"data: [1]\n\n"], NO_USAGE),
        ([event("message_start", message=7)], NO_USAGE),
        ([start(), b"data: garbage\n\n", end()], PART),
        ([start(), event("content_block_delta", index=3, delta={"type": "text_delta", "text": "x"})], PART),
        ([start(), text_block("hello"), event("message_delta", delta={"stop_reason": "end_turn"}), STOP_ONLY], PART),
    ],
)
async def test_a_stream_that_is_not_one_is_a_bad_response(
    api: CannedApi, model: AnthropicModel, pieces: list[bytes], usage: Usage
):
    api.will(stream(pieces))
    reply, progress = await ask(model, streamer)
    assert (reply.outcome, reply.text, progress.usage) == ("bad_response", "", usage)


async def test_a_plain_answer_to_a_streaming_request_is_read(api: CannedApi, model: AnthropicModel):
    api.will(plain(message()))
    reply, progress = await ask(model, streamer)
    assert (reply.text, progress.usage) == ("hello", WHOLE)


# ---- no answer ----


@pytest.mark.parametrize(
    ("agent", "script", "status", "usage"),
    [
        (writer, silence(), None, NO_USAGE),
        (writer, cut_body(message(), 40, then="hang"), 200, NO_USAGE),
        (streamer, stream([], then="hang"), 200, NO_USAGE),
        (streamer, stream([start(), text_block("hel")], then="hang"), 200, PART),
        (streamer, stream([start(), text_block("hel")] * 99, pause_s=0.02), 200, PART),
        (writer, cut_body(message(), 40, then="hang", status=500), None, NO_USAGE),
    ],
)
async def test_the_agents_time_is_the_limit_for_the_whole_answer(
    api: CannedApi, model: AnthropicModel, agent: Agent, script: Script, status: int | None, usage: Usage
):
    api.will(script)
    impatient = Agent(name="a", model=agent.model, stream=agent.stream, timeout_s=0.3)
    began = time.monotonic()
    reply, progress = await ask(model, impatient)
    assert 0.2 < time.monotonic() - began < 1.5
    assert (reply.outcome, reply.error_class) == ("timeout", "TimeoutError")
    assert (progress.http_status, progress.usage) == (status, usage)
    await asyncio.wait_for(api.seen[0].gone.wait(), 1)


async def test_a_connection_that_cannot_be_made_is_a_connection_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        model = AnthropicModel(api_key="k", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        reply, progress = await ask(model)
        await model.close()
    assert (reply.outcome, reply.error_class) == ("connection_error", "APIConnectionError")
    assert (progress.http_status, progress.usage, progress.price.pico) == (None, NO_USAGE, None)


async def test_a_connection_that_is_not_made_in_time_is_a_connection_error_and_no_timeout(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(wire, "_timeout", lambda _: httpx2.Timeout(5, connect=0.2))
    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # more than the backlog takes: further connections get no answer
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        model = AnthropicModel(api_key="k", base_url=f"http://127.0.0.1:{full.getsockname()[1]}")
        reply, _ = await ask(model)
        await model.close()
    assert (reply.outcome, reply.error_class) == ("connection_error", "APITimeoutError")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://[", "http://127.0.0.1:99999", "http://"])
def test_a_base_url_that_is_none_is_refused_at_once(url: str):
    with pytest.raises(UsageError, match="expected http"):
        AnthropicModel(api_key="k", base_url=url)


@pytest.mark.usefixtures("no_credentials")
async def test_a_bad_address_in_the_sdks_own_variable_is_a_connection_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "nonsense")
    model = AnthropicModel(api_key="k")
    assert model.url(writer) == "https://api.anthropic.com/v1/messages"
    reply, _ = await ask(model)
    assert reply.outcome == "connection_error"
    await model.close()


async def test_a_closed_client_makes_no_requests(api: CannedApi):
    api.will(plain(message()))
    model = AnthropicModel(api_key="k", base_url=api.url)
    await ask(model)
    await model.close()
    await model.close()
    assert (await ask(model))[0].outcome == "connection_error"
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    ("agent", "script"),
    [
        (writer, silence()),
        (writer, cut_body(message(), 40, then="hang")),
        (writer, cut_body(message(), 40, then="hang", status=529)),
        (streamer, stream([], then="hang")),
        (streamer, stream([start(), text_block("hel")], then="hang")),
    ],
)
async def test_a_cancelled_call_hangs_up_before_it_is_over(
    api: CannedApi, model: AnthropicModel, agent: Agent, script: Script
):
    api.will(script)
    progress = Progress()
    task = asyncio.create_task(ask(model, agent, progress=progress))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 0.5)
    await asyncio.wait_for(api.seen[0].gone.wait(), 0.5)


async def test_what_a_cancelled_stream_was_told_stays_on_the_books(api: CannedApi, model: AnthropicModel):
    api.will(stream([start(), text_block("hel")], then="hang"))
    progress = Progress()
    begun = asyncio.Event()
    progress.on_start = begun.set
    task = asyncio.create_task(ask(model, streamer, progress=progress))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (progress.usage, progress.price) == (PART, BEGUN)
    assert (progress.http_status, progress.request_id, progress.response_id) == (200, "req_1", "msg_1")


async def test_a_large_request_that_nobody_reads_can_be_cancelled():
    async def deaf(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    model = AnthropicModel(api_key="k", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await model.warm_up()
    huge = ({"role": "user", "content": "x" * 20_000_000},)
    task = asyncio.create_task(ask(model, messages=huge))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    await model.close()
    server.close()


# ---- keys, addresses, start ----


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ANTHROPIC_CONFIG_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("key", [None, "", "  \n"])
@pytest.mark.usefixtures("no_credentials")
async def test_a_missing_key_is_an_outcome_and_no_exception(api: CannedApi, key: str | None):
    model = AnthropicModel(api_key=key, base_url=api.url)
    reply, progress = await ask(model)
    await model.close()
    assert (reply.outcome, reply.error_class) == ("authentication", "CredentialsError")
    assert (progress.usage, progress.price, api.seen) == (ZERO_USAGE, FREE, [])


@pytest.mark.usefixtures("no_credentials")
async def test_a_credential_profile_that_cannot_be_read_is_an_outcome_too(
    api: CannedApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    monkeypatch.setenv("ANTHROPIC_PROFILE", "absent")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    model = AnthropicModel(base_url=api.url)
    for _ in range(2):
        reply, progress = await ask(model)
        assert (reply.outcome, reply.error_class) == ("authentication", "CredentialsError")
        assert (progress.usage, progress.price, api.seen) == (ZERO_USAGE, FREE, [])
    await model.close()


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
@pytest.mark.usefixtures("no_credentials")
async def test_the_sdks_own_variables_are_enough(api: CannedApi, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "sk-env")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    api.will(plain(message()))
    model = AnthropicModel()
    assert model.url(writer) == f"{api.url}/v1/messages"
    assert (await ask(model))[0].outcome == "ok"
    await model.close()
    assert "sk-env" in api.seen[0].headers["authorization"]


@pytest.mark.usefixtures("no_credentials")
async def test_the_address_is_known_without_a_key():
    assert AnthropicModel().url(writer) == "https://api.anthropic.com/v1/messages"


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://localhost:9100", "http://localhost:9100/v1/messages"),
        ("https://gateway.example/anthropic/", "https://gateway.example/anthropic/v1/messages"),
        (f"https://user:{CANARY}@gateway.example?key={CANARY}#{CANARY}", "https://gateway.example/v1/messages"),
    ],
)
def test_the_address_on_record_holds_no_secret(base_url: str, url: str):
    assert AnthropicModel(base_url=base_url).url(writer) == url


def test_importing_and_making_a_client_is_quick_since_the_sdk_comes_later():
    code = (
        "import sys, agentobs.models.anthropic as a; m = a.AnthropicModel(base_url='http://x'); m.url(None);"
        "print([name for name in ('anthropic', 'genai_prices', 'httpx2', 'aiohttp') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_calls_made_before_the_sdk_is_there_wait_without_holding_up_the_loop(api: CannedApi):
    api.will(plain(message()))
    model = AnthropicModel(api_key="k", base_url=api.url)
    warming = asyncio.create_task(model.warm_up())
    first = asyncio.create_task(ask(model))
    await asyncio.sleep(0)
    first.cancel()
    replies = await asyncio.gather(*(ask(model) for _ in range(20)))
    await warming
    await model.close()
    assert {reply.outcome for reply, _ in replies} == {"ok"}
    assert first.cancelled()


# ---- what users and the provider wrote stays out of everything but the answer ----

LEAKS: list[tuple[Agent, Callable[[], Script]]] = [
    (writer, lambda: refusal(400, "invalid_request_error", CANARY)),
    (writer, lambda: refusal(429, CANARY, CANARY)),
    (writer, lambda: plain(CANARY.encode(), 500)),
    (writer, lambda: plain(CANARY.encode())),
    (writer, lambda: plain({"error": CANARY})),
    (writer, lambda: plain(message(content=[{"type": "text", "text": [CANARY]}]))),
    (writer, lambda: cut_body({"x": CANARY * 9}, 60)),
    (writer, lambda: plain(message(), headers={"content-encoding": "gzip", "x": CANARY})),
    (streamer, lambda: stream([error_event(CANARY)])),
    (streamer, lambda: stream([start(), text_block(CANARY), error_event(CANARY)])),
    (streamer, lambda: stream([start(), f"data: {CANARY}\n\n".encode()])),
    (streamer, lambda: stream([start(), text_block(CANARY)], then="cut")),
    (streamer, lambda: stream([CANARY.encode()])),
]


@pytest.mark.parametrize(("agent", "script"), LEAKS)
async def test_no_failure_repeats_what_was_asked_or_answered(
    api: CannedApi, model: AnthropicModel, caplog: pytest.LogCaptureFixture, agent: Agent, script: Callable[[], Script]
):
    caplog.set_level(logging.DEBUG)
    api.will(script())
    secretive = Agent(name="a", model=agent.model, stream=agent.stream, system=f"system {CANARY}")
    reply, progress = await ask(model, secretive, messages=({"role": "user", "content": CANARY},))
    assert reply.outcome != "ok"
    assert CANARY not in repr((reply, progress))
    assert CANARY not in "".join(record.getMessage() + str(record.exc_info) for record in caplog.records)


async def test_nothing_that_goes_wrong_inside_escapes(api: CannedApi, model: AnthropicModel):
    def fail() -> None:
        raise RuntimeError(CANARY)

    api.will(stream(whole_stream()))
    reply, _ = await ask(model, streamer, progress=Progress(on_start=fail))
    assert reply == Reply(outcome="bad_response", error_class="RuntimeError")
