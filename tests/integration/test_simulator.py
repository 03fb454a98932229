"""The simulator as its callers see it: the official SDK, and raw HTTP where the SDK would hide something."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Literal

import aiohttp
import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel, Field

from agentobs.simulator import FaultRuleError, Simulator, Usage
from agentobs.simulator.text import tokens_of

MODEL = "claude-opus-4-5"
QUESTION = "Best practices for remote team communication"
ASK = {"model": MODEL, "max_tokens": 2048, "messages": [{"role": "user", "content": QUESTION}]}
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
MARK = {"type": "ephemeral"}
NOTHING = Usage()


@pytest.fixture
async def sim():
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def slow_sim():
    """Answers take about a quarter of a second."""
    async with Simulator(latency_s=0.25) as simulator:
        yield simulator


@pytest.fixture
def client_of():
    # No TLS is spoken here, and loading certificates is most of what making a client costs.
    return lambda simulator: AsyncAnthropic(
        base_url=simulator.url,
        api_key="any",
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=False),
    )


@pytest.fixture
async def client(sim, client_of):
    async with client_of(sim) as made:
        yield made


@pytest.fixture
async def http(sim):
    async with httpx2.AsyncClient(base_url=sim.url, headers={"x-api-key": "any"}, verify=False) as made:
        yield made


def said(message):
    return "".join(block.text for block in message.content if block.type == "text")


def billed(usage):
    """A response's usage in the bill's fields."""
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
    )


async def until(condition, timeout_s=3.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def streamed(client, **more):
    async with client.messages.stream(**{**ASK, **more}) as stream:
        return await stream.get_final_message()


async def raw_events(http, **more):
    response = await http.post("/v1/messages", json={**ASK, "stream": True, **more})
    found = []
    for part in response.text.strip().split("\n\n"):
        event, data = part.split("\n")
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


# Plain answers


async def test_a_plain_answer_is_one_the_sdk_reads_and_is_about_the_prompt(client):
    message = await client.messages.create(**ASK)

    assert message.type == "message"
    assert message.role == "assistant"
    assert message.stop_reason == "end_turn"
    assert "communication" in said(message)
    assert message.usage.service_tier == "standard"
    assert message.usage.output_tokens_details.thinking_tokens == 0


async def test_tokens_are_exactly_those_of_the_text(client):
    message = await client.messages.create(**ASK)

    assert message.usage.output_tokens == tokens_of(said(message))
    assert message.usage.input_tokens == tokens_of(QUESTION) + 3


async def test_the_same_seed_and_request_give_the_same_answer_and_other_ids(client_of):
    answers = []
    for seed in (7, 7, 8):
        async with Simulator(seed=seed) as simulator, client_of(simulator) as client:
            answers.append([await client.messages.create(**ASK) for _ in range(2)])
    (first, again), (other, _), (unlike, _) = answers

    assert said(first) == said(again) == said(other) != said(unlike)
    assert first.usage == again.usage == other.usage
    assert len({first.id, again.id, other.id, first._request_id, again._request_id, other._request_id}) == 6


async def test_other_requests_get_other_answers(client):
    texts = {
        said(await client.messages.create(**{**ASK, **change}))
        for change in (
            {},
            {"max_tokens": 2049},
            {"system": "You are brief."},
            {"model": "claude-opus-5-5"},
            {"messages": [{"role": "user", "content": QUESTION + "!"}]},
        )
    }
    assert len(texts) == 5


async def test_length_grows_with_the_prompt_and_with_max_tokens(client):
    async def length(words, most):
        message = await client.messages.create(
            model=MODEL, max_tokens=most, messages=[{"role": "user", "content": "observability " * words}]
        )
        return message.usage.output_tokens

    assert await length(2, 1_024) < await length(5_000, 1_024)
    assert await length(2, 256) < await length(2, 16_000) < 1_300


async def test_an_answer_stops_at_max_tokens(client):
    message = await client.messages.create(**{**ASK, "max_tokens": 10})

    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == tokens_of(said(message)) == 10


async def test_a_stop_sequence_ends_the_answer(client):
    whole = said(await client.messages.create(**ASK))
    message = await client.messages.create(**ASK, stop_sequences=[". "])

    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == ". "
    assert ". " in whole
    assert ". " not in said(message)


async def test_an_older_alias_answers_under_its_dated_name_and_a_newer_one_under_its_own(client):
    assert (await client.messages.create(**ASK)).model == "claude-opus-4-5-20251101"
    assert (await client.messages.create(**{**ASK, "model": "claude-opus-5-5"})).model == "claude-opus-5-5"


async def test_latency_grows_mildly_with_the_length_of_the_answer(slow_sim, client_of):
    async with client_of(slow_sim) as client:
        took = []
        for most in (1, 16_000):
            started = asyncio.get_running_loop().time()
            await client.messages.create(**{**ASK, "max_tokens": most})
            took.append(asyncio.get_running_loop().time() - started)

    assert 0.18 < took[0] < took[1] < 1.5


async def test_responses_carry_the_headers_of_the_api(http):
    for more in ({}, {"stream": True}):
        response = await http.post("/v1/messages", json={**ASK, **more})
        headers = response.headers

        assert headers["request-id"].startswith("req_")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
            limit, remaining = (int(headers[f"anthropic-ratelimit-{kind}-{n}"]) for n in ("limit", "remaining"))
            assert 0 < remaining < limit
            reset = datetime.fromisoformat(headers[f"anthropic-ratelimit-{kind}-reset"])
            assert timedelta(0) <= reset - datetime.now(UTC) + timedelta(seconds=1) <= timedelta(seconds=62)


async def test_little_can_be_told_to_be_left_of_the_limits(http):
    await http.put("/_faults", json=[{"fault": "low_limits", "left": 0.02}])
    for more in ({}, {"stream": True}):
        response = await http.post("/v1/messages", json={**ASK, **more})
        assert response.status_code == 200

        for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
            limit, remaining = (
                int(response.headers[f"anthropic-ratelimit-{kind}-{n}"]) for n in ("limit", "remaining")
            )
            assert remaining == limit * 0.02
    await http.delete("/_faults")
    response = await http.post("/v1/messages", json=ASK)
    assert int(response.headers["anthropic-ratelimit-requests-remaining"]) > 900_000


# Streams


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_tokens": 12},
        {"system": "Be brief.", "stop_sequences": ["team"]},
        {"model": "claude-opus-5-5", "thinking": {"type": "adaptive"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"tools": [CLOCK], "messages": [{"role": "user", "content": "call get_time now"}]},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    ids=["text", "cut", "stopped", "thinking", "thinking-omitted", "tool", "tool-no-input", "cache"],
)
async def test_a_streamed_answer_adds_up_to_the_plain_one(more, client_of):
    async with Simulator() as plain, Simulator() as stream:
        async with client_of(plain) as client:
            expected = await client.messages.create(**{**ASK, **more})
        async with client_of(stream) as client:
            message = await streamed(client, **more)
        bills = plain.bill.totals, stream.bill.totals

    assert said(message) == said(expected)
    assert [block.model_dump(exclude={"id"}) for block in message.content] == [
        block.model_dump(exclude={"id"}) for block in expected.content
    ]
    assert billed(message.usage) == billed(expected.usage) == bills[0] == bills[1]
    assert message.usage.output_tokens_details == expected.usage.output_tokens_details
    assert message.usage.cache_creation == expected.usage.cache_creation
    assert message.stop_reason == expected.stop_reason
    assert message.stop_sequence == expected.stop_sequence


async def test_a_stream_has_the_events_of_the_api_in_order(http):
    events = await raw_events(http)
    names = [name for name, _ in events]

    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert all(data["type"] == name for name, data in events)
    start, end = events[0][1]["message"], events[-2][1]
    assert start["content"] == []
    assert start["usage"]["output_tokens"] == 1
    assert "cache_creation" in start["usage"]
    assert end["delta"]["stop_reason"] == "end_turn"
    assert end["usage"]["input_tokens"] == start["usage"]["input_tokens"]
    assert end["usage"]["output_tokens"] > 20


async def test_a_stream_comes_over_time(slow_sim, client_of):
    loop = asyncio.get_running_loop()
    async with client_of(slow_sim) as client, client.messages.stream(**ASK) as stream:
        times = [loop.time() async for event in stream if event.type == "content_block_delta"]

    assert times[-1] - times[0] > 0.08


# Thinking, tools, structure


async def test_thinking_comes_first_is_signed_and_counts_as_output(client):
    message = await client.messages.create(**ASK, thinking={"type": "enabled", "budget_tokens": 1024})
    thought, text = message.content

    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature
    assert message.usage.output_tokens_details.thinking_tokens == tokens_of(thought.thinking)
    assert message.usage.output_tokens == tokens_of(thought.thinking) + tokens_of(text.text)


async def test_omitted_thinking_is_billed_all_the_same(client):
    shown = await client.messages.create(**ASK, thinking={"type": "adaptive"})
    hidden = await client.messages.create(**ASK, thinking={"type": "adaptive", "display": "omitted"})

    assert hidden.content[0].thinking == ""
    assert hidden.content[0].signature
    assert hidden.usage.output_tokens_details.thinking_tokens > 5
    assert shown.content[0].thinking


async def test_a_tool_loop_ends_with_text_about_the_result(client):
    messages = [{"role": "user", "content": "Use get_weather to tell me about Paris"}]
    call = await client.messages.create(**{**ASK, "messages": messages}, tools=[CLOCK, WEATHER])
    used = call.content[-1]

    assert call.stop_reason == "tool_use"
    assert used.name == "get_weather"
    assert set(used.input) == {"city", "unit"}
    assert used.input["unit"] in {"C", "F"}
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "Sunshine in Montmartre"}
    messages += [{"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    answer = await client.messages.create(**{**ASK, "messages": messages}, tools=[CLOCK, WEATHER])
    assert answer.stop_reason == "end_turn"
    assert "montmartre" in said(answer).lower()
    messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": "get_time please"}]
    again = await client.messages.create(**{**ASK, "messages": messages}, tools=[CLOCK, WEATHER])
    assert (again.content[-1].name, again.content[-1].input) == ("get_time", {})


@pytest.mark.parametrize(
    ("choice", "content", "used"),
    [
        ({"type": "auto"}, "hello", None),
        ({"type": "auto"}, "the get_weather_tool is something else", None),
        ({"type": "none"}, "call get_weather", None),
        ({"type": "any"}, "hello", "get_time"),
        ({"type": "any"}, "call get_weather", "get_weather"),
        ({"type": "tool", "name": "get_weather"}, "hello", "get_weather"),
    ],
)
async def test_tool_choice_is_obeyed(client, choice, content, used):
    message = await client.messages.create(
        **{**ASK, "messages": [{"role": "user", "content": content}]}, tools=[CLOCK, WEATHER], tool_choice=choice
    )
    assert [block.name for block in message.content if block.type == "tool_use"] == ([used] if used else [])
    assert message.stop_reason == ("tool_use" if used else "end_turn")


@pytest.mark.parametrize("more", [{"system": "Always call get_weather"}, {"tool_choice": {"type": "any"}}])
async def test_results_are_answered_with_text_whatever_else_asks_for_a_call(client, more):
    messages = [
        *ASK["messages"],
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [RESULT, {"type": "text", "text": "get_weather was called"}]},
    ]
    called = await client.messages.create(**ASK, tools=[WEATHER], **more)
    answer = await client.messages.create(**{**ASK, "messages": messages}, tools=[WEATHER], **more)

    assert (called.stop_reason, answer.stop_reason) == ("tool_use", "end_turn")


async def test_the_sdks_own_tool_runner_comes_to_an_end(client):
    asked = []

    @anthropic.beta_async_tool
    async def look_up(topic: str, depth: Literal[1, 2]) -> str:
        """Look something up.

        Args:
            topic: what about
            depth: how deep
        """
        asked.append((topic, depth))
        return "Everything is fine."

    runner = client.beta.messages.tool_runner(
        **{**ASK, "messages": [{"role": "user", "content": "look_up remote work"}]}, tools=[look_up]
    )
    message = await runner.until_done()

    assert message.stop_reason == "end_turn"
    assert len(asked) == 1
    assert asked[0][1] in {1, 2}


class Verdict(BaseModel):
    approved: bool
    score: float = Field(ge=0, le=1)
    reasons: list[str] = Field(min_length=1)
    severity: Literal["low", "high"] | None


async def test_structured_output_conforms_to_its_schema_the_same_each_time(client):
    first, second = [await client.messages.parse(**ASK, output_format=Verdict) for _ in range(2)]

    assert isinstance(first.parsed_output, Verdict)
    assert first.parsed_output == second.parsed_output
    assert first.stop_reason == "end_turn"
    assert first.usage.output_tokens == tokens_of(first.content[0].text)


async def test_a_structured_answer_that_does_not_fit_is_cut_and_says_so(client):
    schema = anthropic.transform_schema(Verdict)
    message = await client.messages.create(
        **{**ASK, "max_tokens": 5}, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    assert message.stop_reason == "max_tokens"
    with pytest.raises(json.JSONDecodeError):
        json.loads(said(message))


# Cache and counting


async def test_a_cached_prompt_is_written_once_and_then_read(client, sim):
    system = [{"type": "text", "text": "You know it all. " * 50, "cache_control": {**MARK, "ttl": "1h"}}]
    first, second = [await client.messages.create(**ASK, system=system) for _ in range(2)]

    size = tokens_of(system[0]["text"])
    assert first.usage.cache_creation_input_tokens == size
    assert first.usage.cache_creation.ephemeral_1h_input_tokens == size
    assert first.usage.cache_creation.ephemeral_5m_input_tokens == 0
    assert first.usage.cache_read_input_tokens == 0
    assert second.usage.cache_read_input_tokens == size
    assert second.usage.cache_creation_input_tokens == 0
    assert first.usage.input_tokens == second.usage.input_tokens == tokens_of(QUESTION) + 3
    assert sim.bill.totals == Usage(
        2 * first.usage.input_tokens, first.usage.output_tokens + second.usage.output_tokens, size, size
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be brief."},
        {"tools": [WEATHER, CLOCK]},
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}]},
    ],
    ids=["text", "system", "tools", "cached"],
)
async def test_counted_tokens_are_the_input_that_is_billed(client, sim, more):
    asked = {name: value for name, value in {**ASK, **more}.items() if name != "max_tokens"}
    counted = await client.messages.count_tokens(**asked)
    assert len(sim.bill) == 0  # counting is free
    for _ in range(2):
        usage = (await client.messages.create(**ASK, **more)).usage
        total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        assert total == counted.input_tokens


# Models and other paths


async def test_models_are_listed_and_found(client):
    names = [model.id async for model in client.models.list()]

    assert "claude-opus-5-5" in names
    assert (await client.models.retrieve("claude-opus-5-5")).display_name == "Claude Opus 5 5"
    with pytest.raises(anthropic.NotFoundError, match="model: nobody"):
        await client.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/models", 405, "invalid_request_error"),
        ("POST", "/_bill", 405, "invalid_request_error"),
        ("POST", "/v1/complete", 404, "not_found_error"),
        ("GET", "/", 404, "not_found_error"),
    ],
)
async def test_other_methods_and_paths_are_refused_as_the_api_does(http, method, path, status, kind):
    response = await http.request(method, path)

    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == kind
    assert response.json()["request_id"] == response.headers["request-id"]


# What is refused


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
REFUSED = {
    "no model": ({"model": ...}, "model: Field required"),
    "no max_tokens": ({"max_tokens": ...}, "max_tokens: Field required"),
    "no messages": ({"messages": ...}, "messages: Field required"),
    "unknown field": ({"prompt": "x"}, "prompt: Extra inputs are not permitted"),
    "model of a wrong type": ({"model": 3}, "model: Input should be a valid string"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    "max_tokens text": ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
    "max_tokens true": ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    "messages text": ({"messages": "hi"}, "messages: Input should be a valid list"),
    "messages empty": ({"messages": []}, "messages: at least one message is required"),
    "message no object": ({"messages": ["hi"]}, "messages.0: Input should be a valid dictionary"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    "empty content": (user(""), "messages.0: all messages must have non-empty content except"),
    "empty blocks": (user([]), "messages.0: all messages must have non-empty content except"),
    "blank content": (user("  \n"), "messages: text content blocks must contain non-whitespace text"),
    "null content": (user(None), "messages.0.content: Input should be a valid list"),
    "empty text": (user([{"type": "text", "text": ""}]), "messages: text content blocks must be non-empty"),
    "block no text": (user([{"type": "text"}]), "messages.0.content.0.text.text: Field required"),
    "block no type": (user([{"text": "x"}]), "messages.0.content.0.type: Field required"),
    "block unknown": (user([{"type": "smell"}]), "messages.0.content.0: Input tag 'smell' found using 'type'"),
    "block odd type": (user([{"type": []}]), "messages.0.content.0: Input tag"),
    "block extra": (user([{"type": "text", "text": "x", "y": 1}]), "messages.0.content.0.text.y: Extra inputs"),
    "unknown role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be 'user'"),
    "role odd": ({"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role: Input should be"),
    "assistant first": (
        {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
        'messages: first message must use the "user" role',
    ),
    "message extra": ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name: Extra"),
    "prefill": (
        {"model": "claude-opus-5-5", "messages": [*ASK["messages"], {"role": "assistant", "content": "{"}]},
        "This model does not support assistant message prefill.",
    ),
    "trailing blank": (
        {"messages": [*ASK["messages"], {"role": "assistant", "content": "So "}]},
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    "call without result": (
        {"messages": [*ASK["messages"], {"role": "assistant", "content": [CALL]}, *ASK["messages"]]},
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1.",
    ),
    "result without call": (user([RESULT]), "messages.0.content.0: unexpected `tool_use_id` found"),
    "system number": ({"system": 3}, "system: Input should be a valid list"),
    "system empty": ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
    "stream text": ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    "temperature": ({"temperature": 2}, "temperature: Input should be less than or equal to 1"),
    "stop sequence": ({"stop_sequences": [" "]}, "stop_sequences: each stop sequence must contain non-whitespace"),
    "tool name": ({"tools": [{**CLOCK, "name": "a b"}]}, "tools.0.custom.name: String should match pattern"),
    "tool no schema": ({"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
    "tool schema": (
        {"tools": [{**CLOCK, "input_schema": {"type": "object", "properties": []}}]},
        "tools.0.custom.input_schema: JSON schema is invalid.",
    ),
    "tool twice": ({"tools": [CLOCK, CLOCK]}, "tools: Tool names must be unique."),
    "choice without tools": ({"tool_choice": {"type": "any"}}, "tool_choice: tool_choice may only be specified"),
    "choice unknown": (
        {"tools": [CLOCK], "tool_choice": {"type": "tool", "name": "x"}},
        "Tool 'x' not found in provided tools",
    ),
    "budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 1000}},
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    "budget over max_tokens": (
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    "thinking and force": (
        {"thinking": {"type": "adaptive"}, "tools": [CLOCK], "tool_choice": {"type": "any"}},
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    "thought dropped": (
        {
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "messages": [
                *ASK["messages"],
                {"role": "assistant", "content": [CALL]},
                {"role": "user", "content": [RESULT]},
            ],
        },
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
    ),
    "effort": ({"output_config": {"effort": "huge"}}, "output_config.effort: Input should be 'low'"),
    "open schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}},
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ),
    "five marks": (
        user([{"type": "text", "text": "x", "cache_control": MARK}] * 5),
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
async def test_what_the_api_refuses_is_refused_in_its_words_and_costs_nothing(http, sim, change, told):
    body = {name: value for name, value in {**ASK, **change}.items() if value is not ...}
    response = await http.post("/v1/messages", json=body)

    assert response.status_code == 400
    answer = response.json()
    assert answer["error"]["message"].startswith(told)
    assert answer == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": answer["error"]["message"]},
        "request_id": response.headers["request-id"],
    }
    assert response.headers["x-should-retry"] == "false"
    (line,) = sim.bill
    assert (line.status, line.usage, line.request_id) == (400, NOTHING, response.headers["request-id"])


async def test_an_unknown_model_is_not_found(client):
    for call in (
        client.messages.create(**{**ASK, "model": "claude-opus-9"}),
        client.messages.count_tokens(model="claude-opus-9", messages=ASK["messages"]),
    ):
        with pytest.raises(anthropic.NotFoundError) as caught:
            await call
        assert caught.value.body["error"] == {"type": "not_found_error", "message": "model: claude-opus-9"}
        assert caught.value.request_id.startswith("req_")


async def test_a_request_without_a_key_is_unauthorized(sim):
    async with httpx2.AsyncClient(base_url=sim.url) as http:
        response = await http.post("/v1/messages", json=ASK)
        bearer = await http.post("/v1/messages", json=ASK, headers={"Authorization": "Bearer x"})

    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert bearer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000, b'{"model": "\\ud800"}', b"[]", b"null"],
)
async def test_what_is_not_a_json_object_is_a_bad_request(http, sim, body):
    response = await http.post("/v1/messages", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert [line.status for line in sim.bill] == [400]


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "chunked"])
async def test_a_request_over_32_mb_is_too_large(sim, told):
    body = b" " * (33 * 2**20)

    async def chunks():
        for at in range(0, len(body), 2**20):
            yield body[at : at + 2**20]

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{sim.url}/v1/messages", data=body if told else chunks()) as response,
    ):
        assert response.status == 413
        assert (await response.json())["error"]["type"] == "request_too_large"


async def test_any_text_that_json_can_carry_is_answered(http):
    for text in ("\x00\x1f\u2028 line", "日本語のテキスト", "😀" * 50, "ümläut wörds", "null\\u0000"):
        response = await http.post("/v1/messages", json={**ASK, **user(text)})
        assert response.status_code == 200
        assert response.json()["content"][0]["text"]


# The bill


async def test_the_bill_lists_every_request_in_order_with_the_callers_reference(client, http, sim):
    for number in range(3):
        await client.messages.create(**ASK, extra_headers={"x-agentobs-attempt": f"span{number}"})
    message = await streamed(client, model="claude-haiku-4-5")
    bill = (await http.get("/_bill")).json()

    assert [line["client_ref"] for line in bill["requests"]] == ["span0", "span1", "span2", None]
    last = bill["requests"][-1]
    assert last == {
        "request_id": last["request_id"],
        "client_ref": None,
        "at": last["at"],
        "model": "claude-haiku-4-5",
        "status": 200,
        "stream": True,
        "fault": None,
        "aborted": False,
        "usage": billed(message.usage).as_json(),
    }
    assert abs(datetime.fromisoformat(last["at"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert last["at"].endswith("Z")
    for name, total in bill["totals"].items():
        assert total == sum(line["usage"][name] for line in bill["requests"])
    assert bill == sim.bill.report()


async def test_the_bill_of_one_reference_holds_its_lines_alone(client, http):
    for name in ("one", "two", "one"):
        await client.messages.create(**ASK, extra_headers={"x-agentobs-attempt": name})
    whole = (await http.get("/_bill")).json()["requests"]
    one = (await http.get("/_bill", params={"client_ref": "one"})).json()
    assert one["requests"] == [whole[0], whole[2]]
    assert one["totals"] == {name: 2 * count for name, count in whole[0]["usage"].items()}
    none = (await http.get("/_bill", params={"client_ref": "three"})).json()
    assert none == {"requests": [], "totals": NOTHING.as_json()}


async def test_an_emptied_bill_is_empty(client, http):
    await client.messages.create(**ASK)
    assert (await http.delete("/_bill")).status_code == 204

    assert (await http.get("/_bill")).json() == {"requests": [], "totals": NOTHING.as_json()}


async def test_who_has_the_answer_finds_it_on_the_bill(sim, client_of):
    """From another connection, as soon as the last byte is there."""
    async with client_of(sim) as client:

        async def ask(number):
            call = client.messages.create if number % 2 else lambda **ask: streamed(client, **ask)
            message = await call(**{**ASK, **user(f"question {number}")})
            return message.usage.output_tokens in {line.usage.output_tokens for line in sim.bill}

        assert all(await asyncio.gather(*(ask(number) for number in range(50))))


async def test_a_long_bill_is_given_whole_and_without_holding_up_requests(sim, http):
    for number in range(100_000):
        sim.bill.note(sim.bill.open(f"req_{number}", None), status=200, usage=Usage(1, 2, 3, 4))
    waits = []

    async def ask():
        while True:
            started = asyncio.get_running_loop().time()
            await asyncio.sleep(0.001)
            waits.append(asyncio.get_running_loop().time() - started)

    asking = asyncio.create_task(ask())
    async with aiohttp.ClientSession() as session, session.get(f"{sim.url}/_bill") as response:
        data = b"".join([chunk async for chunk in response.content.iter_any()])
    asking.cancel()
    bill = json.loads(data)

    assert len(bill["requests"]) == 100_000
    assert bill["totals"] == Usage(100_000, 200_000, 300_000, 400_000).as_json()
    assert max(waits) < 0.5


# Callers who hang up


async def test_an_aborted_plain_call_bills_the_input_and_the_output_of_the_time_that_passed(sim, client_of):
    async with Simulator(latency_s=2.0) as slow, client_of(slow) as client:
        whole = (await client_of(sim).messages.create(**ASK)).usage
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.create(**ASK, timeout=0.4)
        await until(lambda: slow.bill.lines[0].aborted)
        (line,) = slow.bill

    assert line.status is None
    assert line.usage.input_tokens == whole.input_tokens
    assert 0.1 * whole.output_tokens < line.usage.output_tokens < 0.4 * whole.output_tokens


async def test_an_aborted_stream_bills_what_was_sent(client_of):
    async with Simulator(latency_s=2.0) as slow, client_of(slow) as client:
        seen = ""
        async with client.messages.stream(**ASK) as stream:
            async for text in stream.text_stream:
                seen += text
                if len(seen) > 100:
                    break
        await until(lambda: slow.bill.lines[0].aborted)
        (line,) = slow.bill

    assert line.status == 200
    assert tokens_of(seen) <= line.usage.output_tokens < 100
    assert line.usage.input_tokens == tokens_of(QUESTION) + 3


async def test_a_caller_who_reads_to_the_end_did_not_abort(sim, client_of):
    for _ in range(20):
        async with client_of(sim) as client:
            await streamed(client)
            await client.messages.create(**ASK)
    await asyncio.sleep(0.05)

    assert not any(line.aborted for line in sim.bill)


# Faults


async def fails(client, error, **more):
    with pytest.raises(error) as caught:
        await client.messages.create(**{**ASK, **more})
    return caught.value


@pytest.mark.parametrize(
    ("fault", "error", "status", "kind", "retry"),
    [
        ("rate_limited", anthropic.RateLimitError, 429, "rate_limit_error", None),
        ("overloaded", anthropic.APIStatusError, 529, "overloaded_error", "true"),
        ("server_error", anthropic.InternalServerError, 500, "api_error", None),
        ("bad_request", anthropic.BadRequestError, 400, "invalid_request_error", "false"),
        ("unauthorized", anthropic.AuthenticationError, 401, "authentication_error", "false"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_fault_answers_with_its_status_and_bills_nothing(
    sim, client, fault, error, status, kind, retry, stream
):
    sim.put_faults([{"fault": fault, "times": 1}])
    raised = await fails(client, error, stream=stream)

    assert raised.status_code == status
    assert raised.type == kind
    assert raised.request_id == sim.bill.lines[0].request_id
    assert raised.response.headers.get("x-should-retry") == retry
    assert "retry-after" not in raised.response.headers
    (line,) = sim.bill
    assert (line.status, line.fault, line.usage, line.stream) == (status, fault, NOTHING, stream)
    await client.messages.create(**ASK)  # used up


async def test_a_rate_limit_says_when_to_come_back_and_whether(sim, client):
    sim.put_faults([{"fault": "rate_limited", "retry_after_s": 8, "should_retry": False, "message": "enough"}])
    raised = await fails(client, anthropic.RateLimitError)

    assert raised.response.headers["retry-after"] == "8"
    assert raised.response.headers["x-should-retry"] == "false"
    assert raised.response.headers["anthropic-ratelimit-input-tokens-remaining"] == "0"
    assert raised.body["error"]["message"] == "enough"


async def test_the_sdk_retries_past_an_overloaded_answer(sim):
    sim.put_faults([{"fault": "overloaded", "retry_after_s": 0.01, "times": 2}])
    async with AsyncAnthropic(base_url=sim.url, api_key="any", max_retries=2) as client:
        await client.messages.create(**ASK)

    assert [line.status for line in sim.bill] == [529, 529, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_answer_is_late_and_whole(sim, client, stream):
    sim.put_faults([{"fault": "slow", "delay_s": 0.2}])
    started = asyncio.get_running_loop().time()
    message = await (streamed(client) if stream else client.messages.create(**ASK))

    assert asyncio.get_running_loop().time() - started > 0.19
    assert sim.bill.lines[0].usage == billed(message.usage)
    assert (sim.bill.lines[0].fault, sim.bill.lines[0].aborted) == ("slow", False)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hanging_call_ends_when_the_caller_hangs_up_and_bills_at_most_its_answer(sim, client, stream):
    whole = billed((await client.messages.create(**ASK)).usage)
    sim.put_faults([{"fault": "hang"}])
    await fails(client, anthropic.APITimeoutError, timeout=0.1, stream=stream)
    await until(lambda: sim.bill.lines[1].aborted)
    line = sim.bill.lines[1]

    assert (line.status, line.fault, line.usage) == (None, "hang", whole)


async def test_a_stream_can_hang_in_its_middle(sim, client):
    sim.put_faults([{"fault": "hang", "after_deltas": 2}])
    seen = []

    async def read():
        async with client.messages.stream(**ASK, timeout=0.1) as stream:
            async for piece in stream.text_stream:
                seen.append(piece)

    with pytest.raises(httpx2.ReadTimeout):
        await read()
    await until(lambda: sim.bill.lines[0].aborted)

    assert len("".join(seen)) == 48
    assert sim.bill.lines[0].usage.output_tokens == 12
    assert sim.bill.lines[0].status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_connection_says_nothing_and_bills_nothing(sim, client, stream):
    sim.put_faults([{"fault": "reset"}])
    raised = await fails(client, anthropic.APIConnectionError, stream=stream)

    assert isinstance(raised.__cause__, httpx2.ReadError | httpx2.RemoteProtocolError)
    (line,) = sim.bill
    assert (line.status, line.fault, line.usage, line.aborted) == (None, "reset", NOTHING, False)


async def test_a_reset_is_a_reset_on_the_wire(sim):
    sim.put_faults([{"fault": "reset"}])
    port = int(sim.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(ASK).encode()
    writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: k\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_plain_answer_cut_in_its_body_bills_everything(sim, client):
    whole = billed((await client.messages.create(**ASK)).usage)
    sim.put_faults([{"fault": "cut_stream"}])
    raised = await fails(client, anthropic.APIConnectionError)

    assert isinstance(raised.__cause__, httpx2.RemoteProtocolError)
    line = sim.bill.lines[1]
    assert (line.status, line.fault, line.usage, line.aborted) == (200, "cut_stream", whole, False)


async def test_a_plain_answer_cut_in_its_body_promised_more(sim, http):
    sim.put_faults([{"fault": "cut_stream"}])
    got = b""
    with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012
        async with http.stream("POST", "/v1/messages", json=ASK) as response:
            async for chunk in response.aiter_bytes():
                got += chunk

    assert response.status_code == 200
    assert int(response.headers["content-length"]) // 2 == len(got)
    assert got.startswith(b"{")


async def test_a_cut_stream_bills_what_was_generated(sim, client):
    whole = (await client.messages.create(**ASK)).usage
    sim.put_faults([{"fault": "cut_stream"}])
    message = await streamed(client)  # a clean end: the SDK does not complain
    line = sim.bill.lines[1]

    assert message.stop_reason is None
    assert message.usage.output_tokens == 1  # all that message_start told
    assert line.usage.output_tokens == tokens_of(said(message))
    assert 0 < line.usage.output_tokens < whole.output_tokens
    assert line.usage.input_tokens == whole.input_tokens
    assert (line.status, line.fault, line.aborted) == (200, "cut_stream", False)


async def test_a_stream_can_be_cut_after_so_many_deltas(sim, client):
    for deltas in (0, 1, 3):
        sim.put_faults([{"fault": "cut_stream", "after_deltas": deltas}])
        sim.bill.clear()
        message = await streamed(client)

        assert len(said(message)) == deltas * 24
        assert sim.bill.totals.output_tokens == max(1, deltas * 6)


async def test_a_stream_cut_after_its_usage_was_told_is_billed_as_told(sim, client):
    sim.put_faults([{"fault": "cut_stream", "after_usage": True}])
    message = await streamed(client)

    assert message.stop_reason == "end_turn"
    assert sim.bill.totals == billed(message.usage)


async def test_a_stream_can_be_cut_without_a_clean_end(sim, client):
    sim.put_faults([{"fault": "cut_stream", "clean": False}])
    with pytest.raises(httpx2.RemoteProtocolError):
        await streamed(client)

    line = sim.bill.lines[0]
    assert line.usage.output_tokens > 1
    assert not line.aborted


async def test_an_error_in_a_stream_bills_what_was_generated(sim, client):
    sim.put_faults([{"fault": "error_in_stream", "after_deltas": 2}])
    with pytest.raises(anthropic.APIStatusError) as caught:
        await streamed(client)

    assert caught.value.status_code == 200
    assert caught.value.type == "overloaded_error"
    line = sim.bill.lines[0]
    assert (line.status, line.fault, line.usage) == (200, "error_in_stream", Usage(tokens_of(QUESTION) + 3, 12))


async def test_a_stream_that_starts_with_its_error_bills_nothing(sim, client, http):
    sim.put_faults([{"fault": "error_in_stream", "first": True}])
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await streamed(client, cache_control=MARK)
    ((name, data),) = await raw_events(http)

    assert name == "error"
    assert data["error"] == {"details": None, "type": "overloaded_error", "message": "Overloaded"}
    assert [(line.status, line.usage) for line in sim.bill] == [(200, NOTHING)] * 2
    sim.clear_faults()
    assert (await client.messages.create(**ASK, cache_control=MARK)).usage.cache_read_input_tokens == 0


async def test_an_error_in_a_stream_is_a_529_for_a_plain_call(sim, client):
    sim.put_faults([{"fault": "error_in_stream"}])
    raised = await fails(client, anthropic.APIStatusError)

    assert raised.status_code == 529
    assert (sim.bill.lines[0].fault, sim.bill.lines[0].usage) == ("error_in_stream", NOTHING)


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage_is_a_success_that_is_not_json_and_is_billed(sim, client, http, stream):
    whole = billed((await client.messages.create(**ASK)).usage)
    sim.put_faults([{"fault": "garbage", "content_type": "application/json"}])
    response = await http.post("/v1/messages", json={**ASK, "stream": stream})

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    with pytest.raises(json.JSONDecodeError):
        response.json()
    line = sim.bill.lines[1]
    assert (line.status, line.fault, line.usage) == (200, "garbage", whole)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_success_that_says_why(sim, client, stream):
    sim.put_faults([{"fault": "refusal", "category": "cyber", "explanation": "No."}])
    message = await (streamed(client) if stream else client.messages.create(**ASK))

    assert message.stop_reason == "refusal"
    assert message.stop_details.category == "cyber"
    assert message.stop_details.explanation == "No."
    assert message.content == []
    assert sim.bill.lines[0].usage == billed(message.usage) == Usage(tokens_of(QUESTION) + 3, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_made_to_run_out_of_tokens_says_so_and_bills_what_it_said(sim, client, stream):
    sim.put_faults([{"fault": "max_tokens"}])
    message = await (streamed(client) if stream else client.messages.create(**ASK))

    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == tokens_of(said(message))
    assert sim.bill.lines[0].usage == billed(message.usage)


async def test_rules_match_what_the_request_says(sim, client):
    sim.put_faults([{"fault": "overloaded", "match": {"contains": "secret word"}}])
    await client.messages.create(**ASK)
    for more in (
        {"system": "the secret word"},
        user("a secret word"),
        user([{"type": "text", "text": "x"}, {"type": "text", "text": "my secret word"}]),
    ):
        await fails(client, anthropic.APIStatusError, **more)
    sim.put_faults([{"fault": "overloaded", "match": {"model": "claude-haiku-4-5"}}])
    await client.messages.create(**ASK)
    await fails(client, anthropic.APIStatusError, model="claude-haiku-4-5")


async def test_a_refused_request_uses_up_no_rule(sim, client):
    sim.put_faults([{"fault": "overloaded", "times": 1}])
    await fails(client, anthropic.BadRequestError, max_tokens=0)
    await fails(client, anthropic.APIStatusError)

    assert [line.status for line in sim.bill] == [400, 529]


async def test_rules_are_put_listed_and_taken_away_over_http(http, sim):
    rules = [{"fault": "slow", "delay_s": 0.01, "times": 1}, {"fault": "overloaded", "match": {"model": MODEL}}]
    put = await http.put("/_faults", json=rules)
    for _ in range(2):
        await http.post("/v1/messages", json=ASK)
    listed = (await http.get("/_faults")).json()

    assert put.status_code == 200
    assert listed == [{**rule, "applied": 1} for rule in rules]
    assert [line.status for line in sim.bill] == [200, 529]
    assert (await http.delete("/_faults")).status_code == 204
    assert (await http.get("/_faults")).json() == []
    assert (await http.post("/v1/messages", json=ASK)).status_code == 200


async def test_one_bad_rule_is_named_and_none_is_stored(http, sim):
    sim.put_faults([{"fault": "overloaded"}])
    for body in ([{"fault": "reset"}, {"fault": "explode"}], {"fault": "reset"}):
        response = await http.put("/_faults", json=body)
        assert response.status_code == 400
    assert "rules[1]" not in response.text
    broken = await http.put("/_faults", content=b"[")
    assert broken.status_code == 400

    assert [rule["fault"] for rule in (await http.get("/_faults")).json()] == ["overloaded"]
    with pytest.raises(FaultRuleError, match=r"rules\[1\]\.fault: found 'explode', expected one of rate_limited"):
        sim.put_faults([{"fault": "reset"}, {"fault": "explode"}])


# Load, and the process


async def test_five_hundred_calls_at_once_are_answered_and_billed(sim):
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"x-api-key": "any"}) as session:

        async def ask(number):
            body = {**ASK, "stream": number % 2 == 0}
            async with session.post(f"{sim.url}/v1/messages", json=body) as response:
                await response.read()
                return response.status, response.headers["request-id"]

        answers = await asyncio.gather(*(ask(number) for number in range(500)))

    assert {status for status, _ in answers} == {200}
    assert {name for _, name in answers} == {line.request_id for line in sim.bill}
    assert len(sim.bill) == 500


def test_the_process_serves_until_told_to_stop_and_resets_there_too():
    """`serve` runs on uvloop, whose transports are not asyncio's."""
    code = "from agentobs.simulator import serve; serve(port=0, latency_s=0, ready=lambda u: print(u, flush=True))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        url = process.stdout.readline().strip()
        with httpx2.Client(base_url=url, headers={"x-api-key": "any"}) as http:
            assert http.post("/v1/messages", json=ASK).status_code == 200
            http.put("/_faults", json=[{"fault": "reset", "times": 1}, {"fault": "hang"}])
            with pytest.raises(httpx2.ReadError):
                http.post("/v1/messages", json=ASK)
            with pytest.raises(httpx2.ReadTimeout):
                http.post("/v1/messages", json=ASK, timeout=0.1)
            bill = http.get("/_bill").json()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)

    assert [line["fault"] for line in bill["requests"]] == [None, "reset", "hang"]
    assert bill["requests"][2]["aborted"]
    assert (process.returncode, output, errors) == (0, "", "")
