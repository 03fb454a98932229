"""`POST /v1/messages`, what platforms have in its place, and `/v1/messages/count_tokens`: from request to answer.

What is billed:
    an error costs nothing, as does a connection reset before an answer and a stream whose first event is
    an error; a whole answer costs what it says; garbage and a plain answer cut in its body cost what the
    answer would have said; a stream that ends early costs the input and the output sent so far; a caller
    who hangs up before the first byte is charged the input and the output in proportion to the time that
    generating it would have taken (a request that hangs: at most all of it).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import errors, limits, prompt, stream, validate
from .answer import Answer, compose, misfit, refusal
from .dialect import API
from .errors import ApiError
from .exchange import Exchange, Provider, read_body, usage_of
from .faults import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .cache import Charge
    from .catalogue import Model
    from .dialect import Dialect

# The share of the latency that passes before the first event, and in how many goes the rest is sent.
_FIRST_EVENT = 0.4
_MOST_BURSTS = 8
_NO_RETRY = {"x-should-retry": "false"}
_GARBAGE = b"<html><head><title>502 Bad Gateway</title></head><body>upstream sent too big header</body></html>"
_NO_RULE = Rule("")


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that was found sound."""

    body: Mapping[str, Any]
    model: Model
    prompt: prompt.Prompt
    stream: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer that is ready to be sent."""

    answer: Answer
    charge: Charge
    head: stream.Head
    seconds: float
    """How long generating it takes."""
    delay_s: float
    """What a `slow` rule adds before that."""
    rule: Rule = _NO_RULE
    headers: Mapping[str, str] = field(default_factory=dict)


async def create(provider: Provider, request: web.Request, dialect: Dialect = API) -> web.StreamResponse:
    """Answer `POST /v1/messages`, or what a platform has in its place."""
    try:
        raw = await read_body(request)
    except ApiError as error:
        return await Exchange(provider, request, dialect).fail(error, _NO_RETRY)
    exchange = Exchange(provider, request, dialect)
    try:
        dialect.authorize(request)
        body = dialect.body(_parse(raw), request)
        if isinstance(body, dict):
            exchange.note(model=_shown_model(body), stream=body.get("stream") is True)
        ask = _understand(body, dialect)
    except ApiError as error:
        return await exchange.fail(error, _NO_RETRY)
    rule = provider.faults.pick(ask.model.name, ask.prompt.text) or _NO_RULE
    if rule.fault:
        exchange.note(fault=rule.fault)
    if rule.fault == "reset":
        return exchange.reset()
    failure = _error_of(rule, ask)
    if failure is not None:
        return await exchange.fail(failure, _error_headers(rule, failure, provider, ask))
    reply = _reply(provider, ask, rule)
    return await (_send_stream if ask.stream else _send_plain)(exchange, reply)


async def count_tokens(provider: Provider, request: web.Request) -> web.StreamResponse:
    """Answer `POST /v1/messages/count_tokens`: free, not on the bill, never at fault."""
    request_id = provider.ids.new("req")
    headers = {"request-id": request_id}
    try:
        raw = await read_body(request)
        API.authorize(request)
        ask = _understand(_parse(raw), API, counting=True)
    except ApiError as error:
        return web.json_response(error.body(request_id), status=error.status, headers={**headers, **_NO_RETRY})
    return web.json_response({"input_tokens": ask.prompt.tokens}, headers=headers)


def _parse(raw: bytes) -> Any:
    try:
        body = json.loads(raw.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise errors.invalid(f"The request body is not valid JSON: {error}") from error
    escape = raw.lower().find(b"\\ud")
    if escape >= 0:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise errors.invalid(
                "The request body is not valid JSON: no low surrogate in string: "
                f"line 1 column {escape + 1} (char {escape})"
            ) from error
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"unexpected {name}")


def _shown_model(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def _understand(data: Any, dialect: Dialect, *, counting: bool = False) -> _Ask:
    body = validate.check(data, counting=counting)
    model = dialect.find(body["model"])
    if model is None:
        raise errors.unknown_model(body["model"])
    if not counting:
        validate.check_for_model(body, model)
    return _Ask(body, model, prompt.read(body), bool(body.get("stream")))


def _error_of(rule: Rule, ask: _Ask) -> ApiError | None:
    message = rule.options.get("message")
    match rule.fault:
        case "rate_limited":
            error = errors.rate_limited(limits.INPUT_TOKENS)
        case "overloaded":
            error = errors.overloaded()
        case "server_error":
            error = errors.server_error()
        case "bad_request":
            error = errors.invalid("This request was refused by a fault rule.")
        case "unauthorized":
            error = errors.invalid_key()
        case "error_in_stream" if not ask.stream:
            error = errors.overloaded()
        case _:
            return None
    return ApiError(error.status, error.kind, message) if message else error


def _error_headers(rule: Rule, error: ApiError, provider: Provider, ask: _Ask) -> dict[str, str]:
    headers = provider.limits.exhausted(ask.model.answers_as) if error.status == 429 else {}
    if error.status == 529:
        headers["x-should-retry"] = "true"
    elif error.status < 429:
        headers |= _NO_RETRY
    if "should_retry" in rule.options:
        headers["x-should-retry"] = "true" if rule.options["should_retry"] else "false"
    if "retry_after_s" in rule.options:
        headers["retry-after"] = f"{rule.options['retry_after_s']:g}"
    return headers


def _reply(provider: Provider, ask: _Ask, rule: Rule) -> _Reply:
    if rule.fault == "refusal":
        answer = refusal(rule.options.get("category"), rule.options.get("explanation"))
    elif rule.fault == "misfit":
        answer = misfit(rule.options.get("text"))
    else:
        answer = compose(provider.seed, ask.body, ask.prompt, run_out=rule.fault == "max_tokens")
    # A stream that starts with its error was never read: nothing is charged and no prompt is cached.
    pieces = () if rule.options.get("first") else ask.prompt.pieces
    charge = provider.cache.charge(ask.model.answers_as, pieces)
    ids = provider.ids
    return _Reply(
        answer=answer,
        charge=charge,
        head=stream.Head(ids.new("msg"), ask.model.answers_as, charge, partial(ids.new, "toolu")),
        # Mildly by length: some 120 tokens take about the base, a thousand less than three times it.
        seconds=provider.latency_s * (0.75 + answer.output_tokens / 500),
        delay_s=rule.options.get("delay_s", 0.0),
        rule=rule,
        headers=provider.limits.headers(
            ask.model.answers_as, charge.input + charge.written, answer.output_tokens, rule.options.get("left")
        ),
    )


async def _send_plain(exchange: Exchange, reply: _Reply) -> web.StreamResponse:
    rule, answer, charge = reply.rule, reply.answer, reply.charge
    whole_s = reply.delay_s + reply.seconds
    wait_s = math.inf if rule.fault == "hang" else whole_s
    await exchange.generate(charge, answer.output_tokens, wait_s=wait_s, whole_s=whole_s)
    usage = usage_of(charge, answer.output_tokens)
    if rule.fault == "garbage":
        return await exchange.send(200, _GARBAGE, {"Content-Type": _garbage_type(rule)}, usage)
    body = stream.whole(answer, reply.head)
    if rule.fault == "cut_stream":
        data = stream.to_json(body).encode()
        return await exchange.send_part(data, len(data) // 2, reply.headers, usage)
    return await exchange.send_json(200, body, reply.headers, usage)


async def _send_stream(exchange: Exchange, reply: _Reply) -> web.StreamResponse:
    rule, charge = reply.rule, reply.charge
    output = reply.answer.output_tokens
    events, stalls = _planned(exchange, reply)
    first_s = reply.delay_s + reply.seconds * _FIRST_EVENT
    wait_s = math.inf if stalls and not events else first_s
    await exchange.generate(charge, output, wait_s=wait_s, whole_s=reply.delay_s + reply.seconds)
    if rule.fault == "garbage":
        return await exchange.send(200, _GARBAGE, {"Content-Type": _garbage_type(rule)}, usage_of(charge, output))
    response = web.StreamResponse(headers=exchange.headers({**exchange.dialect.stream_headers, **reply.headers}))
    unclean = rule.options.get("clean") is False
    bursts = list(_bursts(events, reply.seconds * (1 - _FIRST_EVENT)))
    for at, (pause_s, frames) in enumerate(bursts):
        await exchange.pause(pause_s)
        last = at == len(bursts) - 1 and not stalls and not unclean
        await exchange.send_frames(response, frames, charge, last=last)
    if stalls:
        await exchange.pause(math.inf)
    if unclean:
        exchange.hang_up()
    return response


def _planned(exchange: Exchange, reply: _Reply) -> tuple[Sequence[stream.Frame], bool]:
    """The events that will be sent, and whether the stream is then left hanging."""
    rule = reply.rule
    deltas = rule.options.get("after_deltas")
    events = stream.frames(reply.answer, reply.head)
    match rule.fault:
        case "hang":
            return (stream.up_to_delta(events, deltas) if deltas is not None else ()), True
        case "cut_stream" if rule.options.get("after_usage"):
            return stream.up_to_usage(events), False
        case "cut_stream":
            return stream.up_to_delta(events, deltas), False
        case "error_in_stream":
            sent = [] if rule.options.get("first") else stream.up_to_delta(events, deltas)
            error = errors.overloaded()
            message = rule.options.get("message", error.message)
            tokens = sent[-1].tokens if sent else 0
            return [*sent, stream.error_frame(error.kind, message, exchange.request_id, tokens)], False
        case _:
            return events, False


def _bursts(events: Sequence[stream.Frame], seconds: float) -> Iterator[tuple[float, Sequence[stream.Frame]]]:
    """The events in the goes in which they are written, each with the pause before it."""
    if seconds <= 0 or len(events) < 2:
        yield 0.0, events
        return
    goes = min(_MOST_BURSTS, len(events) - 1)
    yield 0.0, events[:1]
    for go in range(goes):
        start, end = (1 + (len(events) - 1) * at // goes for at in (go, go + 1))
        yield seconds / goes, events[start:end]


def _garbage_type(rule: Rule) -> str:
    return str(rule.options.get("content_type", "text/html"))
