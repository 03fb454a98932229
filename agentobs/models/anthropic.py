"""The Anthropic Messages API as a `Model`: one HTTP request a call, and no exception but cancellation.

What is told is written into the `Progress` as it comes, so that it stays on the books however the call ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agentobs.agents import Agent
from agentobs.errors import UsageError
from agentobs.models import classify, pricing
from agentobs.models.protocol import Message, Progress, Reply, Schema
from agentobs.models.request import address
from agentobs.models.stream import StreamedAnswer
from agentobs.models.usage import read_bill
from agentobs.records import EXACT, PARTIAL, ZERO_USAGE

if TYPE_CHECKING:
    from agentobs.models.wire import Response, Wire

DEFAULT_BASE_URL: Final = "https://api.anthropic.com"

# How long a finished stream is read on for its end, so that the connection can serve again.
_DRAIN_S: Final = 0.25

# Anthropic's own, which Vertex and Foundry pass on; then Bedrock's and that of Azure's gateway.
_REQUEST_IDS: Final = (b"request-id", b"x-amzn-requestid", b"apim-request-id")


class AnthropicModel:
    """A `Model` on the official SDK's client, which is made at the first call.

    `api_key` and `base_url` are what the SDK takes from its own environment (`ANTHROPIC_API_KEY`,
    `ANTHROPIC_AUTH_TOKEN`, `ANTHROPIC_BASE_URL`, …) where they are None; without any key each call ends as
    `authentication`. `max_connections` bounds the requests in flight. `clock` tells the time in nanoseconds.
    `make_wire` (called in a thread) makes the client of a cloud platform instead, see `providers`.
    Raises `UsageError` for a base URL that is none.

    Importing the SDK takes two seconds of CPU. Await `warm_up()` in the background of a service's start; a call
    made before it is done waits for it, and the event loop is not held up. One instance serves one event loop.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        max_connections: int = 1000,
        clock: Callable[[], int] = time.time_ns,
        make_wire: Callable[[], Wire] | None = None,
        home: str = DEFAULT_BASE_URL,
    ) -> None:
        self._api_key = (api_key or "").strip() or None
        self._base_url = base_url or None
        self._max_connections = max_connections
        self._clock = clock
        self._url = address(base_url) if base_url else None
        self._make_wire = make_wire
        self._home = home
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def url(self, agent: Agent) -> str:
        """Where requests go. Without `base_url` it is the SDK's to say: this then waits for it to be imported.

        A platform whose client cannot be made has no address yet, and nothing will be sent: it is then `home`.
        """
        if self._make_wire is not None:
            return self._wire.url(agent) if self._wire is not None else self._home
        if self._url is None:
            try:
                self._url = address(self._open().base_url)
            except Exception:  # noqa: BLE001 - the attempt will say what is wrong
                return address(DEFAULT_BASE_URL)
        return self._url

    async def warm_up(self) -> None:
        """Import the SDK, read the price data and make the client, in a thread. Raises what the SDK raises."""
        await self._opened()

    async def ready(self) -> None:
        """See `protocol.Model.ready`."""
        if self._wire is None:
            with contextlib.suppress(Exception):
                await self._opened()

    async def _opened(self) -> Wire:
        if self._wire is not None:
            return self._wire
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(asyncio.to_thread(self._open))
            # Everyone who waits may be cancelled; a failure is then nobody's, and the next call tries again.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)

    def _open(self) -> Wire:
        with self._lock:
            if self._wire is None:
                pricing.load()
                self._wire = self._make_wire() if self._make_wire else self._own_wire()
            return self._wire

    def _own_wire(self) -> Wire:
        # Not at the top: see the module's own words.
        from agentobs.models.wire import Wire  # noqa: PLC0415

        return Wire(api_key=self._api_key, base_url=self._base_url, max_connections=self._max_connections)

    async def close(self) -> None:
        """Close the connections. Calls that are made afterwards end as `connection_error`."""
        self._closed = True
        if self._opening is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._opening)
        if self._wire is not None:
            await self._wire.close()

    async def send(
        self,
        agent: Agent,
        messages: tuple[Message, ...],
        *,
        schema: Schema | None = None,
        reference: str,
        progress: Progress,
    ) -> Reply:
        """Ask once; see `protocol.Model.send`."""
        try:
            async with asyncio.timeout(agent.timeout_s):
                return await self._send(agent, messages, schema, reference, progress)
        except Exception as error:  # noqa: BLE001 - every failure is a Reply
            outcome = classify.of_exception(error, answering=progress.http_status is not None)
            if outcome == "authentication":
                return _unsent(progress, outcome, type(error).__name__)
            # What was told of its usage before it failed stands.
            return Reply(outcome=outcome, error_class=type(error).__name__)

    async def _send(
        self, agent: Agent, messages: tuple[Message, ...], schema: Schema | None, reference: str, progress: Progress
    ) -> Reply:
        if self._closed:
            raise ConnectionError
        try:
            wire = await self._opened()
        except UsageError as error:  # of a platform: an extra, a region or credentials are missing
            return _unsent(progress, classify.of_exception(error, answering=False), type(error).__name__)
        if not wire.has_credentials():
            return _unsent(progress, "authentication", "CredentialsError")
        try:
            content = wire.encode(agent, messages, schema)
        except (TypeError, ValueError, RecursionError) as error:
            return _unsent(progress, "invalid_request", type(error).__name__)
        try:
            own = await wire.authorize()
        except Exception as error:  # noqa: BLE001 - whatever it was, it was before the request
            return _unsent(progress, classify.of_exception(error, answering=False), type(error).__name__)
        headers = {"x-agentobs-attempt": reference, **own}
        response = await wire.post(wire.dialect.path(agent), content, headers=headers, timeout_s=agent.timeout_s)
        if isinstance(response, classify.Refused):
            return self._refused(response, progress)
        told = classify.headers_of(response.headers.raw)
        _note_response(progress, response.status_code, told)
        # A gateway may answer a streaming request with a plain message. Either way of reading closes the connection
        # if it is not read to its end, which is what stops the provider.
        if agent.streams and not told.get(b"content-type", b"").startswith(b"application/json"):
            return await self._read_stream(wire, response, agent, progress)
        return _settle(json.loads(await response.aread()), agent, progress, EXACT, wire)

    async def _read_stream(self, wire: Wire, response: Response, agent: Agent, progress: Progress) -> Reply:
        decoder, answer = wire.decoder(), StreamedAnswer()
        async with contextlib.aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                for event in decoder.feed(chunk):
                    kind = answer.take(event)
                    if kind == "content_block_delta":
                        if progress.first_chunk_at is None:
                            progress.first_chunk_at = self._clock()
                    elif kind == "message_start":
                        _note_message(answer.message, agent, progress, PARTIAL, wire)
                        if progress.on_start is not None:
                            progress.on_start()
                    elif kind == "message_delta":
                        _note_message(answer.message, agent, progress, answer.state, wire)
                    elif kind == "error":
                        return _broken_off(event, answer, progress)
                if answer.stopped:
                    await _drain(chunks)
                    return _settle(answer.finish(), agent, progress, answer.state, wire)
        if answer.started or decoder.empty:
            return Reply(outcome="stream_truncated")
        return Reply(outcome="bad_response")  # whatever it was, it was no stream of events

    def _refused(self, refused: classify.Refused, progress: Progress) -> Reply:
        """From 400 up nothing is billed; a redirect tells nothing of that."""
        _note_response(progress, refused.status, refused.headers)
        if refused.status >= 400:
            _bill_nothing(progress)
        should_retry, retry_after_s = classify.retry_hints(refused.headers, self._clock())
        return Reply(
            outcome=classify.of_refusal(refused),
            error_class=refused.error_class,
            should_retry=should_retry,
            retry_after_s=retry_after_s,
        )


def _settle(message: object, agent: Agent, progress: Progress, state: str, wire: Wire) -> Reply:
    """Judge a whole message: told exactly, with content and a stop reason, or it is a bad response."""
    if not isinstance(message, Mapping) or not _note_message(message, agent, progress, state, wire):
        return Reply(outcome="bad_response")
    content, stop_reason = message.get("content"), message.get("stop_reason")
    if state != EXACT or not isinstance(stop_reason, str) or not isinstance(content, list):
        return Reply(outcome="bad_response")
    if not all(_is_whole(block) for block in content):
        return Reply(outcome="bad_response")
    return Reply(
        outcome=classify.of_stop_reason(stop_reason),
        text="".join([block["text"] for block in content if block["type"] == "text"]),
        content=tuple(content),
        stop_reason=stop_reason,
    )


def _is_whole(block: Mapping[str, Any]) -> bool:
    """Whether a call of a tool has what it takes to run it. Raises `ValueError` for NaN, which is no JSON."""
    if block["type"] != "tool_use":
        return True
    json.dumps(block.get("input"), allow_nan=False)  # it is sent back with the next request
    return isinstance(block.get("id"), str) and isinstance(block.get("name"), str) and "input" in block


def _note_message(message: Mapping[str, Any], agent: Agent, progress: Progress, state: str, wire: Wire) -> bool:
    """Keep who answered and what it used; False if its usage cannot be read."""
    model, response_id = message.get("model"), message.get("id")
    progress.response_model = model if isinstance(model, str) else None
    progress.response_id = response_id if isinstance(response_id, str) else None
    bill = read_bill(message.get("usage"), state)
    if bill is None:
        return False
    progress.usage = bill.usage
    progress.price = wire.price(bill, agent, progress.response_model)
    return True


def _note_response(progress: Progress, status: int, headers: classify.Headers) -> None:
    progress.http_status = status
    request_id = next((headers[name] for name in _REQUEST_IDS if headers.get(name)), None)
    progress.request_id = request_id.decode("latin-1") if request_id else None
    progress.rate_limits = classify.rate_limits(headers)


def _bill_nothing(progress: Progress) -> None:
    progress.usage, progress.price = ZERO_USAGE, pricing.nothing()


def _unsent(progress: Progress, outcome: str, error_class: str) -> Reply:
    """Nothing left this process, so nothing can have been billed."""
    _bill_nothing(progress)
    return Reply(outcome=outcome, error_class=error_class)


def _broken_off(event: Mapping[str, Any], answer: StreamedAnswer, progress: Progress) -> Reply:
    """An error event: before `message_start` it stands for a failure status; after it, what was told stands."""
    if answer.started:
        return Reply(outcome="stream_error")
    _bill_nothing(progress)
    error = event.get("error")
    return Reply(outcome=classify.of_error_event(error.get("type") if isinstance(error, Mapping) else None))


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read a finished stream to its end, if that comes at once: then its connection can serve again."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in chunks:
                pass
