"""Exchanges with the Messages API that lie in a folder, and what a plain reading of their text says of them.

One JSON file holds `request` and `response`, or a list `exchanges` of such pairs in order:

    request   `method`, `path`, `query` (where there was one), `headers`, `body` (JSON)
    response  `status`, `headers`, `body` (JSON, or the text of an event stream or of an edge's page)

Nothing here uses the code under test: what is expected of it is worked out anew, from the raw text.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
from aiohttp import web

PATH = "/v1/messages"
# Asked of the API by others, never by the model client: nothing of it is replayed.
ELSEWHERE = ("/v1/messages/count_tokens", "/v1/messages/batches", "/v1/models")

_PICO = 10**12
_PIECE = 700  # bytes of a body that are sent at once, so that events are cut anywhere


@dataclass(frozen=True)
class Exchange:
    name: str
    asked: dict[str, Any]
    status: int
    headers: dict[str, str]
    body: Any  # parsed JSON, or a text
    means: dict[str, Any] | None = None  # what its author says of it; our own fixtures alone

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class UnknownShapeError(Exception):
    """Says what of a file is not as this module's own words have it."""


@dataclass
class Folder:
    """What was found: the exchanges, those that are none of ours, and files (with the reason) nobody understands."""

    exchanges: list[Exchange] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def look_through(folder: Path) -> Folder:
    found = Folder()
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix != ".md"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            for number, each in enumerate(_pairs(path), 1):
                request, exchange = _exchange(each, f"{name}-{number}")
                if exchange is None:
                    found.elsewhere.append(f"{name}-{number}: {request}")
                else:
                    found.exchanges.append(exchange)
        except UnknownShapeError as error:
            found.unknown.append(f"{path.name}: {error}")
    return found


def _pairs(path: Path) -> list[Any]:
    if path.suffix != ".json":
        raise UnknownShapeError(f"found the suffix {path.suffix!r}, expected .json (or .md for what is to be read)")
    try:
        recorded = json.loads(path.read_text())
    except ValueError as error:
        raise UnknownShapeError(f"not JSON: {error}") from error
    if not isinstance(recorded, dict):
        raise UnknownShapeError("found no object at its top")
    pairs = recorded.get("exchanges", [recorded])
    if not isinstance(pairs, list) or not pairs:
        raise UnknownShapeError("`exchanges` is no list of request and response")
    return pairs


def _exchange(pair: Any, name: str) -> tuple[str, Exchange | None]:
    """What was asked, and the exchange if it is one of the model client's own."""
    request, response = (_of(pair, key, dict, "the pair") for key in ("request", "response"))
    path = _of(request, "path", str, "the request").partition("?")[0]
    method = _of(request, "method", str, "the request")
    asked = f"{method} {path}"
    if path != PATH and any(path == each or path.startswith(f"{each}/") for each in ELSEWHERE):
        return asked, None
    if asked != f"POST {PATH}":
        raise UnknownShapeError(f"found {asked}, expected POST {PATH} or one of {', '.join(ELSEWHERE)}")
    body = _of(request, "body", dict, "the request")
    _of(body, "model", str, "the request's body")
    status, headers = _of(response, "status", int, "the response"), _of(response, "headers", dict, "the response")
    answer = response.get("body")
    kind = headers.get("content-type")
    if not kind:  # dropped by who recorded it
        kind = "text/event-stream" if isinstance(answer, str) else "application/json"
    if status < 400 and isinstance(answer, str) != kind.startswith("text/event-stream"):
        raise UnknownShapeError(f"a body that is {type(answer).__name__} under the content type {kind!r}")
    if not isinstance(answer, str | dict):
        raise UnknownShapeError(f"a body that is {type(answer).__name__}, expected an object or a text")
    return asked, Exchange(name, body, status, {**headers, "content-type": kind}, answer, pair.get("means"))


def _of(holder: Any, key: str, wanted: type, what: str) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, wanted):
        raise UnknownShapeError(f"{what} has no `{key}` that is {wanted.__name__}")
    return value


def replay(exchange: Exchange) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer as it was answered: status, headers and body, in pieces."""

    async def script(request: web.Request) -> web.StreamResponse:
        raw = (exchange.body if isinstance(exchange.body, str) else json.dumps(exchange.body)).encode()
        response = web.StreamResponse(status=exchange.status, headers=exchange.headers)
        await response.prepare(request)
        for at in range(0, len(raw), _PIECE):
            await response.write(raw[at : at + _PIECE])
        await response.write_eof()
        return response

    return script


# ---- what a plain reading says ----

_STATUS = {
    400: "invalid_request",
    401: "authentication",
    402: "permission",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "server_error",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limited",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
    529: "overloaded",
}
_ERROR_EVENT = {"overloaded_error": "overloaded", "rate_limit_error": "rate_limited", "api_error": "server_error"}
_STOP = {"max_tokens": "max_tokens", "refusal": "refusal", "model_context_window_exceeded": "context_window"}
_BROKEN = {"stream_error", "stream_truncated"}
_TRIED_AGAIN = {"rate_limited", "overloaded", "server_error", "timeout", *_BROKEN}
_CLASSES = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
}


@dataclass
class Expected:
    """`state` is what the usage is worth; `usage` is the API's own object, None where nothing was billed."""

    outcome: str
    state: str = "exact"
    stop_reason: str | None = None
    model: str | None = None
    text: str = ""
    usage: dict[str, Any] | None = None
    kinds: tuple[str, ...] = ()
    inputs: tuple[Any, ...] = ()  # of tool calls

    @property
    def passes(self) -> list[dict[str, Any]]:
        """Every sampling pass, or the whole as one."""
        return [] if self.usage is None else self.usage.get("iterations") or [self.usage]


def read(exchange: Exchange) -> Expected:
    if exchange.status >= 400:
        return Expected(_STATUS[exchange.status])
    if exchange.streamed:
        return _read_stream(exchange.body)
    body = exchange.body
    return Expected(
        _STOP.get(body["stop_reason"], "ok"),
        stop_reason=body["stop_reason"],
        model=body["model"],
        text="".join(part["text"] for part in body["content"] if part["type"] == "text"),
        usage=body["usage"],
        kinds=tuple(part["type"] for part in body["content"]),
        inputs=tuple(part["input"] for part in body["content"] if part["type"] == "tool_use"),
    )


def _read_stream(text: str) -> Expected:
    data = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
    by_type = {each["type"]: each for each in data}
    error, begun, ended = (by_type.get(kind) for kind in ("error", "message_start", "message_delta"))
    if begun is None:
        assert error is not None, "a stream without a start tells an error"
        return Expected(_ERROR_EVENT[error["error"]["type"]])
    usage = dict(begun["message"]["usage"])
    stop_reason = None
    if ended is not None:
        usage |= {key: value for key, value in ended["usage"].items() if value is not None}
        stop_reason = ended["delta"]["stop_reason"]
    outcome = _STOP.get(stop_reason or "", "ok")
    if error is not None:
        outcome = "stream_error"
    elif "message_stop" not in by_type or stop_reason is None:
        outcome = "stream_truncated"
    state, model = "partial" if ended is None else "exact", begun["message"]["model"]
    if outcome in _BROKEN:
        return Expected(outcome, state, model=model, usage=usage)
    deltas = [each["delta"] for each in data if each["type"] == "content_block_delta"]
    return Expected(
        outcome,
        state,
        stop_reason=stop_reason,
        model=model,
        text="".join(delta["text"] for delta in deltas if delta["type"] == "text_delta"),
        usage=usage,
        kinds=tuple(each["content_block"]["type"] for each in data if each["type"] == "content_block_start"),
        inputs=tuple(_streamed_inputs(data)),
    )


def _streamed_inputs(data: list[Any]) -> Iterator[Any]:
    for begun in data:
        if begun["type"] == "content_block_start" and begun["content_block"]["type"] == "tool_use":
            pieces = [
                each["delta"]["partial_json"]
                for each in data
                if each["type"] == "content_block_delta" and each["index"] == begun["index"]
            ]
            yield json.loads("".join(pieces) or "{}")


def tokens(expected: Expected) -> dict[str, int]:
    """By class, over all passes; thinking and searches are told for the whole alone."""
    usage = expected.usage or {}
    counts = {name: sum(each.get(key) or 0 for each in expected.passes) for name, key in _CLASSES.items()}
    return {
        **counts,
        "cache_write_1h": sum(_one_hour(each) for each in expected.passes),
        "reasoning": (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0),
        "web_searches": (usage.get("server_tool_use") or {}).get("web_search_requests") or 0,
    }


def _one_hour(usage: Mapping[str, Any]) -> int:
    return (usage.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0


def costs(expected: Expected) -> list[Decimal]:
    """Pico-dollars of every pass by its own model, as the price data's calculator says."""
    usage = expected.usage or {}
    context = {
        name: value
        for name, value in (("speed", usage.get("speed")), ("processing", usage.get("service_tier")))
        if value in {"fast", "batch"}
    }
    factor = Decimal("1.1") if usage.get("inference_geo") == "us" else Decimal(1)
    found = []
    for each in expected.passes:
        fresh, output, cache_read, write = (each.get(key) or 0 for key in _CLASSES.values())
        result = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=fresh + cache_read + write,
                cache_read_tokens=cache_read,
                cache_write_tokens=write,
                cache_write_1h_tokens=_one_hour(each),
                output_tokens=output,
            ),
            each.get("model") or expected.model,
            provider_id="anthropic",
            genai_request_timestamp=datetime.now(UTC),
            price_context=context or None,
        )
        assert result.total_price > 0, "a pass without a price"
        found.append(result.total_price * factor * _PICO)
    return found


def search_cost(expected: Expected) -> Decimal:
    """A cent each, in pico-dollars."""
    return Decimal(tokens(expected)["web_searches"]) * _PICO / 100


@dataclass(frozen=True)
class Decision:
    """Whether a first failure is tried again, and after how many seconds; None: as the backoff says."""

    again: bool
    after_s: float | None = None

    def __str__(self) -> str:
        if not self.again:
            return "no"
        return "backoff" if self.after_s is None else f"after {self.after_s:g} s"


def decision(exchange: Exchange, outcome: str) -> Decision:
    """Headers count on failure statuses alone: successes carry `retry-after` too."""
    again, after = outcome in _TRIED_AGAIN, None
    if exchange.status >= 400:
        word, told = (exchange.headers.get(name) for name in ("x-should-retry", "retry-after"))
        again = again if word is None else word == "true"
        after = None if told is None else float(told)
    return Decision(again, after if again else None)


def kinds(exchange: Exchange) -> set[str]:
    """Which of the kinds that are priced, counted or judged in their own way this one is."""
    expected = read(exchange)
    used = tokens(expected)
    passes = {each.get("type") for each in expected.passes}
    found = {
        "plain": exchange.status == 200 and not exchange.streamed,
        "streamed": exchange.streamed,
        "tools": "tool_use" in expected.kinds,
        "tools without arguments": {} in expected.inputs,
        "thinking": "thinking" in expected.kinds,
        "thinking tokens": used["reasoning"] > 0,
        "cache write": used["cache_write"] > 0,
        "cache write for an hour": used["cache_write_1h"] > 0,
        "cache read": used["cache_read"] > 0,
        "server tools": "server_tool_use" in expected.kinds,
        "web searches": used["web_searches"] > 0,
        "compaction": "compaction" in passes,
        "advisor": "advisor_message" in passes,
        "empty answer": expected.stop_reason == "end_turn" and not expected.text,
        "error event": exchange.streamed and "event: error" in exchange.body,
    }
    status = {f"error {exchange.status}"} if exchange.status >= 400 else set()
    return {name for name, holds in found.items() if holds} | status
