"""A Messages API that answers what a test tells it to, byte by byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

USAGE = {"input_tokens": 100, "output_tokens": 50}


@dataclass
class Seen:
    """One request: `gone` is set once the caller hung up on it, `peer` is the caller's end of the connection."""

    path: str
    headers: Mapping[str, str]
    body: Any
    peer: Any
    raw_path: str = ""
    raw: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class CannedApi:
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    def will(self, *scripts: Script) -> None:
        """Answer the next requests with these, in order; the last one answers all that follow."""
        self.scripts = list(scripts)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        peer = request.transport.get_extra_info("peername") if request.transport else None
        seen = Seen(request.path, request.headers.copy(), json.loads(raw or b"null"), peer, request.raw_path, raw)
        self.seen.append(seen)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await script(request)
        except asyncio.CancelledError:
            seen.gone.set()
            raise
        finally:
            self.busy -= 1


@asynccontextmanager
async def canned_api() -> AsyncIterator[CannedApi]:
    api = CannedApi()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{anything:.*}", api.answer)
    # A handler is cancelled when its caller hangs up: that is how a test sees it.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()


# ---- what it can be told to answer ----


def message(**changes: Any) -> dict[str, Any]:
    """A whole answer; keyword arguments replace its fields (None removes one)."""
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def plain(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Script:
    """`body` is sent as JSON, or as it is if it is bytes."""

    async def script(_: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(
            body=raw,
            status=status,
            headers={"content-type": "application/json", "request-id": "req_1"} | dict(headers or {}),
        )

    return script


def refusal(status: int, kind: str, text: str = "no", headers: Mapping[str, str] | None = None) -> Script:
    return plain({"type": "error", "error": {"type": kind, "message": text}}, status, headers)


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def start(**usage: Any) -> bytes:
    begun = message(content=[], usage={"input_tokens": 100, "output_tokens": 1} | usage)
    return event("message_start", message=begun | {"stop_reason": None})


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return b"".join(
        [
            event("content_block_start", index=index, content_block=first),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    )


def text_block(*texts: str) -> bytes:
    return block(0, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in texts))


def end(stop_reason: str | None = "end_turn", **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": stop_reason}, usage={"output_tokens": 50} | usage) + event(
        "message_stop"
    )


def whole_stream() -> list[bytes]:
    return [start(), event("ping"), text_block("hel", "lo"), end()]


def stream(
    pieces: Iterable[bytes],
    *,
    then: str = "end",
    pause_s: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Script:
    """Send the pieces one by one; then `end` the body, `cut` the connection, or `hang`."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", "request-id": "req_1"} | dict(headers or {})
        )
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause_s)
        await _then(then, request)
        return response

    return script


def cut_body(body: Any, sent: int, *, then: str = "cut", status: int = 200) -> Script:
    """A plain answer of which only the first bytes come."""

    async def script(request: web.Request) -> web.StreamResponse:
        raw = json.dumps(body).encode()
        response = web.StreamResponse(
            status=status,
            headers={"content-type": "application/json", "request-id": "req_1", "content-length": str(len(raw))},
        )
        await response.prepare(request)
        await response.write(raw[:sent])
        await asyncio.sleep(0.05)
        await _then(then, request)
        return response

    return script


def silence(then: str = "hang") -> Script:
    """No answer at all."""

    async def script(request: web.Request) -> web.StreamResponse:
        await _then(then, request)
        return web.Response()

    return script


async def _then(then: str, request: web.Request) -> None:
    if then == "hang":
        await asyncio.sleep(60)
    elif then == "cut":
        assert request.transport is not None
        request.transport.abort()
