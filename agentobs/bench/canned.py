"""A Messages API and an OTLP endpoint that cost next to nothing: fixed bytes, on a raw protocol.

In a process of its own, so that none of its work counts as that of a system under test:
`python -m agentobs.bench.canned`; prints its port. How long a model takes is in the path of the base URL, so that one
process serves every row: `http://127.0.0.1:PORT/250` answers after 250 ms, and streams over that time.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Iterator
from typing import Any, Final, cast

import uvloop

DELTAS: Final = 20
WORDS: Final = "The quick brown fox jumps over the lazy dog and then it rests for a while. "
BACKLOG: Final = 20_000

_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01BenchBenchBenchBench",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": WORDS * 8}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 200,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 150,
        "service_tier": "standard",
    },
}
# What the real API's answers carry, as far as clients read it.
_HEADERS: Final = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\nrequest-id: req_011BenchBenchBenchBench\r\n"
    b"anthropic-organization-id: 00000000-0000-0000-0000-000000000000\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\nanthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2026-11-24T12:00:00Z\r\n"
    b"anthropic-ratelimit-input-tokens-limit: 400000\r\nanthropic-ratelimit-input-tokens-remaining: 399000\r\n"
    b"anthropic-ratelimit-output-tokens-limit: 80000\r\nanthropic-ratelimit-output-tokens-remaining: 79000\r\n"
    b"Server: canned\r\nConnection: keep-alive\r\n"
)


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def _events() -> Iterator[bytes]:
    start = _MESSAGE | {"content": [], "stop_reason": None, "usage": _MESSAGE["usage"] | {"output_tokens": 1}}
    block = {"type": "text", "text": ""}
    yield _event("message_start", message=start) + _event("content_block_start", index=0, content_block=block)
    piece = {"type": "text_delta", "text": (WORDS * 8)[: len(WORDS) * 8 // DELTAS]}
    for _ in range(DELTAS):
        yield _event("content_block_delta", index=0, delta=piece)
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    yield (
        _event("content_block_stop", index=0)
        + _event("message_delta", delta=stop, usage={"output_tokens": 150})
        + _event("message_stop")
    )


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


_BODY: Final = json.dumps(_MESSAGE, separators=(",", ":")).encode()
PLAIN: Final = _HEADERS + f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY
STREAM_HEAD: Final = _HEADERS + b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM: Final = tuple(_chunk(event) for event in _events())
STREAM_END: Final = b"0\r\n\r\n"
TAKEN: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Canned(asyncio.Protocol):
    """HTTP/1.1 as far as these clients speak it: requests with a Content-Length, one at a time on a connection."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not registered as such

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end])
            length = _length(head)
            if len(self._data) < end + 4 + length:
                return
            body = bytes(self._data[end + 4 : end + 4 + length])
            del self._data[: end + 4 + length]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/v1/traces"):
            self._write(TAKEN)
            return
        first = path.split(b"/")[1]
        model_s = int(first) / 1000 if first.isdigit() else 0.0
        if b'"stream":true' in body or b'"stream": true' in body:
            self._stream(model_s / len(STREAM), 0)
        elif model_s:
            self._loop.call_later(model_s, self._write, PLAIN)
        else:
            self._write(PLAIN)

    def _stream(self, gap_s: float, sent: int) -> None:
        if not gap_s:
            self._write(STREAM_HEAD + b"".join(STREAM) + STREAM_END)
        elif sent < len(STREAM):
            self._write((STREAM_HEAD if not sent else b"") + STREAM[sent])
            self._loop.call_later(gap_s, self._stream, gap_s, sent + 1)
        else:
            self._write(STREAM_END)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started it is gone


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve())
