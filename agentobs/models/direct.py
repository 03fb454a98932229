"""Requests straight over aiohttp, with the headers that the SDK would send.

The SDK builds each request anew through several models of it, which is most of what a call costs (docs/adr/0005). All
but the body and one header is the same each time, so the SDK is asked once for each timeout what it would send: it
sends a request to a transport of ours that keeps it. What fails is handed to the SDK in the same way, for its name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final, NamedTuple
from urllib.request import getproxies

import aiohttp
import anthropic
import httpx2
from multidict import CIMultiDict
from yarl import URL

from agentobs.models.classify import Refused, headers_of

_CHUNK: Final = 2**14
_KEEPALIVE_S: Final = 5.0  # what the SDK's own client keeps an idle connection for
_TAG: Final = "x-agentobs-probe"


class _Headers(NamedTuple):
    raw: tuple[tuple[bytes, bytes], ...]


class _Request(NamedTuple):
    url: URL
    headers: CIMultiDict[str]
    timeout: aiohttp.ClientTimeout
    original: httpx2.Request


class Answer:
    """A response whose body is unread, as far as `AnthropicModel` reads one of httpx2."""

    __slots__ = ("_response", "headers", "status_code")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status_code = response.status
        self.headers = _Headers(response.raw_headers)

    async def aread(self) -> bytes:
        return b"".join([chunk async for chunk in self.aiter_bytes()])

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Leaving it before its end closes the connection."""
        try:
            async for chunk in self._response.content.iter_chunked(_CHUNK):
                yield chunk
        except Exception as error:
            raise _as_httpx(error) from error
        finally:
            self._response.close()  # of no effect on a connection that has been given back at the body's end


class _Body(httpx2.AsyncByteStream):
    """The same as a stream of httpx2, which knows how to decompress it."""

    def __init__(self, answer: Answer) -> None:
        self._chunks = answer.aiter_bytes()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        await self._chunks.aclose()


class Direct:
    """Sends for one SDK client whose credentials never change, on connections of its own."""

    def __init__(self, client: anthropic.AsyncAnthropic, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._tls = httpx2.create_ssl_context() if client.base_url.scheme == "https" else None
        self._kept: dict[str, httpx2.Request] = {}
        self._given: dict[str, httpx2.Response] = {}
        self._probe = client.copy(
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer), trust_env=False)
        )
        self._requests: dict[tuple[str, float], _Request] = {}
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    def fits(client: anthropic.AsyncAnthropic) -> bool:
        """Not for tokens that are renewed, proxies, or host names that TLS cannot carry: the SDK sees to those."""
        proxied = any(scheme != "no" for scheme in getproxies())
        return client.credentials is None and not proxied and "_" not in client.base_url.host

    async def post(
        self, path: str, content: bytes, *, headers: Mapping[str, str], within: httpx2.Timeout
    ) -> Answer | httpx2.Response | Refused:
        """Send one request. Raises what the SDK would."""
        request = self._requests.get((path, within.read or 0))
        if request is None:
            request = self._requests[path, within.read or 0] = await self._as_the_sdk_would(path, within)
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S, ssl=self._tls or True
            )
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        sent = request.headers.copy()
        sent.update(headers)
        try:
            response = await self._session.post(
                request.url, data=content, headers=sent, timeout=request.timeout, allow_redirects=False
            )
        except Exception as error:  # noqa: BLE001 -- as the SDK has it
            cause = _as_httpx(error)
            timed_out = isinstance(cause, httpx2.TimeoutException)
            kind = anthropic.APITimeoutError if timed_out else anthropic.APIConnectionError
            raise kind(request=request.original) from cause
        answer = Answer(response)
        whole: Answer | httpx2.Response = answer
        if "content-encoding" in response.headers:
            whole = httpx2.Response(
                response.status, headers=response.raw_headers, stream=_Body(answer), request=request.original
            )
        if 200 <= response.status < 300:
            return whole
        name = await self._name_of(path, response, await whole.aread(), within)
        return Refused(status=response.status, headers=headers_of(response.raw_headers), error_class=name)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._probe.close()

    # ---- asking the SDK ----

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        tag = request.headers[_TAG]
        self._kept[tag] = request
        return self._given.pop(tag, None) or httpx2.Response(200)

    async def _ask(self, tag: str, path: str, within: httpx2.Timeout) -> httpx2.Request:
        try:
            await self._probe.post(
                path,
                cast_to=httpx2.Response,
                content=b"{}",
                options={"headers": {_TAG: tag}, "timeout": within},
                stream=True,
            )
        finally:
            request = self._kept.pop(tag)
        return request

    async def _as_the_sdk_would(self, path: str, within: httpx2.Timeout) -> _Request:
        tag = f"{path} {within.read}"
        request = await self._ask(tag, path, within)
        headers = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
        for ours in (_TAG, "content-length"):  # the length is each body's own
            del headers[ours]
        limits = aiohttp.ClientTimeout(sock_connect=within.connect, sock_read=within.read, connect=within.pool)
        return _Request(URL(str(request.url)), headers, limits, request)

    async def _name_of(self, path: str, response: aiohttp.ClientResponse, body: bytes, within: httpx2.Timeout) -> str:
        """The name of the exception that the SDK makes of a failure."""
        tag = f"failure {id(response)}"
        kept = [(name, value) for name, value in response.raw_headers if name.lower() != b"content-encoding"]
        self._given[tag] = httpx2.Response(response.status, headers=kept, content=body)
        try:
            await self._ask(tag, path, within)
        except anthropic.APIStatusError as error:
            return type(error).__name__
        raise AssertionError(response.status)


def _as_httpx(error: Exception) -> Exception:
    """What the SDK's aiohttp transport raises for an exception of aiohttp's; others as they are."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx2.ConnectTimeout("")
        case aiohttp.SocketTimeoutError():
            return httpx2.ReadTimeout("")
        case aiohttp.ServerTimeoutError():
            return httpx2.TimeoutException("")
        case aiohttp.ClientPayloadError():
            return httpx2.ReadError("")
        case aiohttp.ClientConnectionError():
            return httpx2.ConnectError("")
        case aiohttp.InvalidURL():
            return httpx2.UnsupportedProtocol("")
    return error
