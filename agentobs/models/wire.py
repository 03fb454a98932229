"""The one module that touches the `anthropic` SDK: a client that sends each request once, untraced.

Importing it takes two seconds of CPU, so nothing imports it at the top: `AnthropicModel` does, in a thread.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final, TypeAlias

import anthropic
import httpx2

from agentobs.models.classify import Refused, headers_of
from agentobs.models.direct import Answer, Direct
from agentobs.models.protocol import Schema
from agentobs.models.request import PATH

CONNECT_S: Final = 10.0  # to reach the provider at all; the agent's timeout bounds the rest

Response: TypeAlias = httpx2.Response | Answer


class Wire:
    """The SDK's client. Without a key or URL it reads its own environment and credential files.

    Making one does no other I/O; connections are made as requests need them, in the event loop they run in.
    """

    def __init__(self, *, api_key: str | None, base_url: str | None, max_connections: int) -> None:
        # At DEBUG the SDK logs whole requests, prompts included; its HTTP client logs a line for each at INFO.
        for name, level in (("anthropic", logging.INFO), ("httpx2", logging.WARNING)):
            logger = logging.getLogger(name)
            logger.setLevel(max(level, logger.level))
        limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=anthropic.DefaultAioHttpClient(limits=limits),
        )
        fits = Direct.fits(self._client)
        self._direct = Direct(self._client, max_connections=max_connections) if fits else None

    @property
    def base_url(self) -> str:
        return str(self._client.base_url)

    def has_credentials(self) -> bool:
        """Whether there is anything to authenticate with; the SDK would raise a `TypeError` if not."""
        client = self._client
        if client.api_key or client.auth_token or client.credentials:
            return True
        return not {"authorization", "x-api-key"}.isdisjoint(name.lower() for name in client.default_headers)

    def output_schema(self, schema: Schema) -> Schema:
        """`schema` in the subset that the API takes; what it cannot say goes into descriptions.

        Raises `ValueError` for one that has no such form.
        """
        return anthropic.transform_schema(dict(schema))

    async def post(self, content: bytes, *, reference: str, timeout_s: float) -> Response | Refused:
        """Send one request; the response's body is unread.

        Going below `messages.create` leaves out the models of request and answer, most of the SDK's CPU; and with
        the body unread, status and request id are on the books even if reading it breaks off.
        """
        headers = {"x-agentobs-attempt": reference}
        if self._direct is not None:
            return await self._direct.post(PATH, content, headers=headers, within=_timeout(timeout_s))
        try:
            return await self._client.post(
                PATH,
                cast_to=httpx2.Response,
                content=content,
                options={
                    "headers": headers,
                    "timeout": _timeout(timeout_s),
                    "follow_redirects": False,  # following one would send a second request
                },
                stream=True,
            )
        except anthropic.APIStatusError as error:
            told = headers_of(error.response.headers.raw)
            return Refused(status=error.status_code, headers=told, error_class=type(error).__name__)

    async def close(self) -> None:
        if self._direct is not None:
            await self._direct.close()
        await self._client.close()


@lru_cache(maxsize=64)
def _timeout(timeout_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
