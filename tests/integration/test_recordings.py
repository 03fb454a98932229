"""Every recorded exchange with the real API, replayed over HTTP, is read as a plain reading of its text says.

The recordings are not part of this repository: they lie beside it, or where AGENTOBS_RECORDINGS says. What is
expected of each is worked out here from its raw text, without the code under test.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import genai_prices
import pytest

from agentobs.agents import Agent
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.protocol import Progress
from agentobs.records import PICO
from tests.integration.canned_api import CannedApi, canned_api, plain

FOLDER = Path(os.environ.get("AGENTOBS_RECORDINGS") or Path(__file__).parents[2].parent / "shared" / "recordings")

STATUS = {
    400: "invalid_request",
    401: "authentication",
    403: "permission",
    404: "not_found",
    413: "too_large",
    429: "rate_limited",
    500: "server_error",
    529: "overloaded",
}
ERROR_EVENT = {"overloaded_error": "overloaded", "rate_limit_error": "rate_limited", "api_error": "server_error"}
STOP = {"max_tokens": "max_tokens", "refusal": "refusal", "model_context_window_exceeded": "context_window"}
CLASSES = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass(frozen=True)
class Exchange:
    name: str
    asked: dict[str, Any]
    status: int
    headers: dict[str, str]
    body: Any  # parsed JSON, or the text of a stream


def exchanges() -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        recorded = json.loads(path.read_text())
        for number, each in enumerate(recorded.get("exchanges") or [recorded], 1):
            request, response = each["request"], each["response"]
            if request["path"] != "/v1/messages":
                continue
            name = f"{path.stem}-{number}"
            found.append(
                pytest.param(
                    Exchange(name, request["body"], response["status"], response["headers"], response["body"]), id=name
                )
            )
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=f"no recordings in {FOLDER}"))]


@dataclass
class Expected:
    """What a plain reading of a recording says."""

    outcome: str
    state: str = "exact"
    stop_reason: str | None = None
    model: str | None = None
    text: str = ""
    usage: dict[str, Any] | None = None
    kinds: tuple[str, ...] = ()


def read(exchange: Exchange) -> Expected:
    if exchange.status >= 400:
        return Expected(STATUS[exchange.status])
    if not isinstance(exchange.body, str):
        body = exchange.body
        return Expected(
            STOP.get(body["stop_reason"], "ok"),
            stop_reason=body["stop_reason"],
            model=body["model"],
            text="".join(part["text"] for part in body["content"] if part["type"] == "text"),
            usage=body["usage"],
            kinds=tuple(part["type"] for part in body["content"]),
        )
    data = [json.loads(line[5:]) for line in exchange.body.splitlines() if line.startswith("data:")]
    by_type = {each["type"]: each for each in data}
    error, begun, ended = (by_type.get(kind) for kind in ("error", "message_start", "message_delta"))
    if begun is None:
        assert error is not None
        return Expected(ERROR_EVENT[error["error"]["type"]])
    usage = dict(begun["message"]["usage"])
    stop_reason = None
    if ended is not None:
        usage |= {key: value for key, value in ended["usage"].items() if value is not None}
        stop_reason = ended["delta"]["stop_reason"]
    outcome = STOP.get(stop_reason or "", "ok")
    if error is not None:
        outcome = "stream_error"
    elif "message_stop" not in by_type or stop_reason is None:
        outcome = "stream_truncated"
    deltas = [each["delta"] for each in data if each["type"] == "content_block_delta"]
    whole = outcome not in {"stream_error", "stream_truncated"}
    return Expected(
        outcome,
        state="exact" if ended is not None else "partial",
        stop_reason=stop_reason if whole else None,
        model=begun["message"]["model"],
        text="".join(delta["text"] for delta in deltas if delta["type"] == "text_delta") if whole else "",
        usage=usage,
        kinds=tuple(e["content_block"]["type"] for e in data if e["type"] == "content_block_start") if whole else (),
    )


def cost(usage: dict[str, Any], model: str) -> int:
    """The cost of every pass by its own model, as the price data's calculator says, in pico-dollars."""
    total = 0
    for each in usage.get("iterations") or [usage]:
        fresh, output, cache_read, write = (each.get(key) or 0 for key in CLASSES)
        split = each.get("cache_creation") or {}
        result = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=fresh + cache_read + write,
                cache_read_tokens=cache_read,
                cache_write_tokens=write,
                cache_write_1h_tokens=split.get("ephemeral_1h_input_tokens") or 0,
                output_tokens=output,
            ),
            each.get("model") or model,
            provider_id="anthropic",
            genai_request_timestamp=datetime.now(UTC),
        )
        assert result.total_price > 0, "a pass without a price"
        total += int(result.total_price * PICO)
    searches = (usage.get("server_tool_use") or {}).get("web_search_requests") or 0
    return total + searches * PICO // 100


@pytest.fixture
async def api() -> AsyncIterator[CannedApi]:
    async with canned_api() as running:
        yield running


@pytest.mark.parametrize("exchange", exchanges())
async def test_a_recorded_exchange_is_read_as_it_was_meant(exchange: Exchange, api: CannedApi):
    expected = read(exchange)
    streamed = isinstance(exchange.body, str)
    raw = exchange.body.encode() if streamed else json.dumps(exchange.body).encode()
    default = {"content-type": "text/event-stream; charset=utf-8" if streamed else "application/json"}
    api.will(plain(raw, exchange.status, default | {"request-id": "req_absent"} | exchange.headers))
    model = AnthropicModel(api_key="k", base_url=api.url)
    progress = Progress()
    agent = Agent(name="replayed", model=exchange.asked["model"], stream=bool(exchange.asked.get("stream")))
    reply = await model.send(agent, ({"role": "user", "content": "x"},), reference="r", progress=progress)
    await model.close()

    assert (reply.outcome, reply.stop_reason, reply.text) == (expected.outcome, expected.stop_reason, expected.text)
    assert tuple(part["type"] for part in reply.content) == expected.kinds
    assert progress.http_status == exchange.status
    assert progress.response_model == expected.model
    assert progress.usage.state == expected.state
    told = (
        progress.usage.input_uncached,
        progress.usage.output,
        progress.usage.cache_read,
        progress.usage.cache_write,
    )
    if expected.usage is None:
        assert (told, progress.price.pico) == ((0, 0, 0, 0), 0)
    else:
        passes = expected.usage.get("iterations") or [expected.usage]
        assert told == tuple(sum(each.get(key) or 0 for each in passes) for key in CLASSES)
        details = expected.usage.get("output_tokens_details") or {}
        assert progress.usage.reasoning == details.get("thinking_tokens", 0)
        assert expected.model is not None
        assert progress.price.pico == cost(expected.usage, expected.model)
    assert (progress.first_chunk_at is not None) == (streamed and "content_block_delta" in exchange.body)

    headers = exchange.headers
    failed = exchange.status >= 400
    should = {"true": True, "false": False}.get(headers.get("x-should-retry", "")) if failed else None
    assert reply.should_retry == should
    after = headers.get("retry-after") if failed else None
    assert reply.retry_after_s == (None if after is None else float(after))
    for kind in ("requests", "input_tokens", "output_tokens"):
        left = headers.get(f"anthropic-ratelimit-{kind.replace('_', '-')}-remaining")
        assert [each.remaining for each in progress.rate_limits if each.kind == kind] == ([int(left)] if left else [])


def test_the_recordings_hold_the_cases_that_matter():
    names = " ".join(each.id or "" for each in exchanges())
    if names == "":
        pytest.skip(f"no recordings in {FOLDER}")
    for kind in ("advisor", "compaction", "error-429", "sse-error", "web-search", "cache-write-1h", "thinking"):
        assert kind in names
