"""The one module that touches the `anthropic` SDK: a client that sends each request once, untraced.

Importing it takes two seconds of CPU, so nothing imports it at the top: `AnthropicModel` does, in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import anthropic
import httpx2

from agentobs.agents import Agent
from agentobs.models import pricing
from agentobs.models.classify import Refused, headers_of
from agentobs.models.direct import Answer, Direct
from agentobs.models.protocol import Message, Price, Schema
from agentobs.models.request import MESSAGES, Dialect, address, encode
from agentobs.models.stream import Decoder, EventDecoder
from agentobs.models.usage import Bill

CONNECT_S: Final = 10.0  # to reach the provider at all; the agent's timeout bounds the rest

Response: TypeAlias = httpx2.Response | Answer
Client: TypeAlias = anthropic.AsyncAnthropic | anthropic.AsyncAnthropicBedrock | anthropic.AsyncAnthropicVertex

# At DEBUG the SDK logs whole requests, prompts included; its HTTP client logs a line for each at INFO.
_LOUD: Final = (("anthropic", logging.INFO), ("httpx2", logging.WARNING))


def common(max_connections: int) -> dict[str, Any]:
    """What every client is made with: one request a call, no spans, one pool."""
    quiet(_LOUD)
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    return {
        "max_retries": 0,
        "open_telemetry": False,
        "http_client": anthropic.DefaultAioHttpClient(limits=limits),
    }


def quiet(loud: Iterable[tuple[str, int]]) -> None:
    """Raise the level of loggers that would tell too much; lower none."""
    for name, level in loud:
        logger = logging.getLogger(name)
        logger.setLevel(max(level, logger.level))


class Wire:
    """The SDK's client. Without a key or URL it reads its own environment and credential files.

    Making one does no other I/O; connections are made as requests need them, in the event loop they run in.
    What differs on a cloud platform is overridden in `platforms`.
    """

    dialect: Dialect = MESSAGES
    _direct: Direct | None = None

    def __init__(self, *, api_key: str | None, base_url: str | None, max_connections: int) -> None:
        client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, **common(max_connections))
        self._client: Client = client
        if Direct.fits(client):
            self._direct = Direct(client, max_connections=max_connections)

    @property
    def base_url(self) -> str:
        return str(self._client.base_url)

    def url(self, agent: Agent) -> str:
        """See `protocol.Model.url`."""
        return address(self.base_url, self.dialect.path(agent))

    def encode(self, agent: Agent, messages: tuple[Message, ...], schema: Schema | None) -> bytes:
        """The request's body; see `request.encode`."""
        return encode(agent, messages, None if schema is None else self.output_schema(schema), self.dialect)

    def decoder(self) -> Decoder:
        """What cuts a streamed answer into events."""
        return EventDecoder()

    def price(self, bill: Bill, agent: Agent, answered: str | None) -> Price:
        """What `bill` costs here; `answered` is the model that the answer names."""
        return pricing.price(bill, answered or agent.model)

    async def authorize(self) -> Mapping[str, str]:
        """Headers that the SDK would not add by itself. Raises what says that there is nothing to authorize with."""
        return {}

    def has_credentials(self) -> bool:
        """Whether there is anything to authenticate with; the SDK would raise a `TypeError` if not."""
        client = self._client
        assert isinstance(client, anthropic.AsyncAnthropic)
        if client.api_key or client.auth_token or client.credentials:
            return True
        return not {"authorization", "x-api-key"}.isdisjoint(name.lower() for name in client.default_headers)

    def output_schema(self, schema: Schema) -> Schema:
        """`schema` in the subset that the API takes; what it cannot say goes into descriptions.

        Raises `ValueError` for one that has no such form.
        """
        return anthropic.transform_schema(dict(schema))

    async def post(
        self, path: str, content: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> Response | Refused:
        """Send one request; the response's body is unread.

        Going below `messages.create` leaves out the models of request and answer, most of the SDK's CPU; and with
        the body unread, status and request id are on the books even if reading it breaks off.
        """
        if self._direct is not None:
            return await self._direct.post(path, content, headers=headers, within=_timeout(timeout_s))
        try:
            return await self._client.post(
                path,
                cast_to=httpx2.Response,
                content=content,
                options={
                    "headers": dict(headers),
                    "timeout": _timeout(timeout_s),
                    "follow_redirects": False,  # following one would send a second request
                },
                stream=True,
            )
        except anthropic.APIStatusError as error:
            raw = headers_of(error.response.headers.raw)
            return Refused(status=error.status_code, headers=raw, error_class=type(error).__name__)

    async def try_credentials(self, timeout_s: float) -> tuple[int, str]:
        """Make a free call with them; the status, or 0 and the class of what went wrong. Raises nothing."""
        try:
            options: Any = {"timeout": _timeout(timeout_s), "follow_redirects": False}
            response = await self._client.get("/v1/models", cast_to=httpx2.Response, options=options)
        except anthropic.APIStatusError as error:
            return error.status_code, ""
        except Exception as error:  # noqa: BLE001 -- whatever stands between here and the API
            return 0, type(error).__name__
        return response.status_code, ""

    async def close(self) -> None:
        if self._direct is not None:
            await self._direct.close()
        await self._client.close()


@lru_cache(maxsize=64)
def _timeout(timeout_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
