"""One request on its way through: its id, its line on the bill, and how its answer is written."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .bill import NOTHING, Bill, Usage
from .cache import PromptCache
from .dialect import API
from .errors import too_large
from .faults import Faults
from .limits import RateLimits
from .stream import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .cache import Charge
    from .dialect import Dialect
    from .errors import ApiError
    from .stream import Frame

MOST_BYTES = 32 * 2**20
_JSON = "application/json"


class Ids:
    """Ids that no other process gives either: a random part for this one, a count for each."""

    def __init__(self) -> None:
        self._own = os.urandom(6).hex()
        self._count = count(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}_01{self._own}{next(self._count):010x}"


@dataclass(frozen=True, slots=True)
class Provider:
    """What all requests share."""

    seed: int
    latency_s: float
    ids: Ids
    bill: Bill
    faults: Faults
    cache: PromptCache
    limits: RateLimits


def new_provider(*, seed: int, latency_s: float, clock: Callable[[], float]) -> Provider:
    return Provider(
        seed=seed,
        latency_s=latency_s,
        ids=Ids(),
        bill=Bill(time.time),
        faults=Faults(seed, clock),
        cache=PromptCache(clock),
        limits=RateLimits(time.time),
    )


async def read_body(request: web.Request) -> bytes:
    """The request's body. Raises ApiError (413) when it is over 32 MB."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large() from error


class Exchange:
    """An accepted request. Every change of its line is made before the bytes it is about are written."""

    def __init__(self, provider: Provider, request: web.Request, dialect: Dialect = API) -> None:
        self.provider = provider
        self.dialect = dialect
        self.request = request
        self.request_id = provider.ids.new("req")
        self._number = provider.bill.open(self.request_id, request.headers.get("x-agentobs-attempt"))

    def note(self, **changes: Any) -> None:
        """Replace fields of the line (`bill.Line`)."""
        self.provider.bill.note(self._number, **changes)

    def headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {self.dialect.id_header: self.request_id, **more}

    async def generate(self, charge: Charge, output: int, *, wait_s: float, whole_s: float) -> None:
        """Wait as long as generating takes; `wait_s` may be infinite.

        A caller who hangs up meanwhile is billed the input, and the output in proportion to the time that
        has passed of `whole_s`.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self.pause(wait_s)
        except asyncio.CancelledError:
            share = min(1.0, (loop.time() - started) / whole_s) if whole_s > 0 else 1.0
            self.note(usage=usage_of(charge, math.ceil(output * share)))
            raise

    async def pause(self, seconds: float) -> None:
        """Wait between events; may be infinite. What was sent is already on the bill."""
        try:
            if math.isinf(seconds):
                await asyncio.get_running_loop().create_future()
            elif seconds > 0:
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.note(aborted=True)
            raise

    async def send(
        self, status: int, body: bytes, headers: Mapping[str, str], usage: Usage = NOTHING
    ) -> web.StreamResponse:
        """Write a whole answer."""
        self.note(status=status, usage=usage)
        response = web.Response(status=status, body=body, headers=self.headers(headers))
        await self._write(response, response.write_eof)
        return response

    async def send_json(
        self, status: int, body: Any, headers: Mapping[str, str], usage: Usage = NOTHING
    ) -> web.StreamResponse:
        return await self.send(status, to_json(body).encode(), {"Content-Type": _JSON, **headers}, usage)

    async def fail(self, error: ApiError, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """Answer with an error, which costs nothing."""
        status, body, own = self.dialect.refusal(error, self.request_id)
        return await self.send_json(status, body, {**own, **(headers or {})})

    async def send_part(self, body: bytes, sent: int, headers: Mapping[str, str], usage: Usage) -> web.StreamResponse:
        """Promise the whole body, write so many bytes of it, hang up."""
        self.note(status=200, usage=usage)
        response = web.StreamResponse(headers=self.headers({"Content-Type": _JSON, **headers}))
        response.content_length = len(body)
        await self._write(response, lambda: response.write(body[:sent]))
        self.hang_up()
        return response

    async def send_frames(
        self,
        response: web.StreamResponse,
        frames: Iterable[Frame],
        charge: Charge,
        *,
        last: bool,
    ) -> None:
        """Write events in one go; `last`: and end the stream."""
        batch = tuple(frames)
        if batch:
            self.note(status=200, usage=usage_of(charge, batch[-1].tokens))
        data = b"".join(self.dialect.frame(frame.data) for frame in batch)
        write = response.write_eof if last else response.write
        await self._write(response, lambda: write(data))

    async def _write(self, response: web.StreamResponse, write: Callable[[], Any]) -> None:
        try:
            await response.prepare(self.request)
            await write()
        except ConnectionError:
            self.note(aborted=True)
        except asyncio.CancelledError:
            self.note(aborted=True)
            raise

    def hang_up(self) -> None:
        """Close the connection behind what has been written."""
        transport = self.request.transport
        if transport is not None:
            transport.close()

    def reset(self) -> web.Response:
        """Close the connection at once and say nothing, so that the caller's kernel sees a reset."""
        transport = self.request.transport
        if transport is not None:
            own = transport.get_extra_info("socket")
            # A copy of the socket, because uvloop lends one without options. Linger 0 makes closing a reset.
            with socket.socket(fileno=os.dup(own.fileno())) as copy:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return web.Response()  # never written: the connection is gone


def usage_of(charge: Charge, output: int) -> Usage:
    """The line's usage for an input charged so and so many output tokens."""
    return Usage(charge.input, output, charge.read, charge.written)
