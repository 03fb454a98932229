"""The SDK's clients of the cloud platforms: Amazon Bedrock, Google Vertex AI and Microsoft Foundry.

Each is made from the platform's own environment (its standard variables, profiles, instance roles), and says in one
sentence what is missing. Imported late and in a thread, like `wire`; boto3 and google-auth only where they are used.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

import anthropic

from agentobs.agents import Agent
from agentobs.errors import CredentialsError, ProviderNotReady, UsageError
from agentobs.models import pricing
from agentobs.models.protocol import Price
from agentobs.models.request import BEDROCK, address, vertex
from agentobs.models.stream import Decoder, Event
from agentobs.models.usage import Bill
from agentobs.models.wire import Wire, common, quiet

# At DEBUG they log what is signed and with which session token, and at INFO where each credential came from.
_LOUD: Final = tuple((name, logging.WARNING) for name in ("boto3", "botocore", "google.auth", "urllib3"))

_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

_AWS_KEYS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or AWS_BEARER_TOKEN_BEDROCK, or run where an "
    "instance role is"
)
_GOOGLE_KEYS: Final = (
    "set GOOGLE_APPLICATION_CREDENTIALS to a key file, run 'gcloud auth application-default login', or run where a "
    "service account is"
)


class BedrockWire(Wire):
    """Amazon Bedrock's InvokeModel: signed requests (or a Bedrock API key), streams of AWS's own binary format."""

    dialect = BEDROCK

    def __init__(self, *, max_connections: int) -> None:
        try:
            import boto3  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        except ImportError:
            raise _no_extra("bedrock", "boto3") from None
        quiet(_LOUD)
        try:
            client = anthropic.AsyncAnthropicBedrock(**common(max_connections))
            if client.api_key is None and boto3.Session(region_name=client.aws_region).get_credentials() is None:
                raise CredentialsError(f"no AWS credentials were found: {_AWS_KEYS}")
        except ValueError:
            raise ProviderNotReady("no AWS region is known: set AWS_REGION, such as us-east-1") from None
        except BotoCoreError as error:  # a profile that is not there, a role that cannot be taken
            name = type(error).__name__
            raise CredentialsError(f"AWS credentials cannot be read ({name}): {_AWS_KEYS}") from None
        self._client = client
        _check_address(self.base_url, "ANTHROPIC_BEDROCK_BASE_URL")

    def has_credentials(self) -> bool:
        return True  # or there would be no client; the SDK looks again for each request

    def decoder(self) -> Decoder:
        return AwsEventDecoder()

    def price(self, bill: Bill, agent: Agent, answered: str | None) -> Price:  # noqa: ARG002 - its name has no region
        return pricing.price(bill, agent.model, provider="aws")


class VertexWire(Wire):
    """Vertex AI's rawPredict, with an access token that is fetched once for all calls and renewed when it ends."""

    def __init__(self, *, max_connections: int) -> None:
        try:
            import google.auth  # noqa: PLC0415
            from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        except ImportError:
            raise _no_extra("vertex", "google-auth") from None
        quiet(_LOUD)
        try:
            client = anthropic.AsyncAnthropicVertex(**common(max_connections))
        except ValueError:
            raise ProviderNotReady(
                "no Vertex AI region is known: set CLOUD_ML_REGION, such as global or us-east5"
            ) from None
        try:
            self._credentials, project = google.auth.default(scopes=[_SCOPE])
        except GoogleAuthError as error:
            name = type(error).__name__
            raise CredentialsError(f"Google credentials cannot be read ({name}): {_GOOGLE_KEYS}") from None
        project = client.project_id or project
        if not project:
            raise ProviderNotReady("no Google Cloud project is known: set ANTHROPIC_VERTEX_PROJECT_ID")
        self._client = client
        self._regional = client.region != "global"
        self.dialect = vertex(project, client.region)
        self._renewing = asyncio.Lock()
        _check_address(self.base_url, "ANTHROPIC_VERTEX_BASE_URL")

    def has_credentials(self) -> bool:
        return True

    async def authorize(self) -> Mapping[str, str]:
        if not self._credentials.valid:
            async with self._renewing:  # the SDK would fetch one for each call that waits
                if not self._credentials.valid:
                    await asyncio.to_thread(self._renew)
        return {"Authorization": f"Bearer {self._credentials.token}"}

    def _renew(self) -> None:
        from google.auth.transport.requests import Request  # noqa: PLC0415

        self._credentials.refresh(Request())  # type: ignore[no-untyped-call]

    def price(self, bill: Bill, agent: Agent, answered: str | None) -> Price:
        return pricing.price(bill, answered or agent.model, provider="google", regional=self._regional)


class FoundryWire(Wire):
    """Microsoft Foundry: the Messages API under a resource's own address, with the resource's key."""

    def __init__(self, *, max_connections: int) -> None:
        try:
            self._client = anthropic.AsyncAnthropicFoundry(**common(max_connections))
        except anthropic.AnthropicError:
            raise CredentialsError(
                "no key of a Microsoft Foundry resource was found: set ANTHROPIC_FOUNDRY_API_KEY"
            ) from None
        except ValueError:
            raise ProviderNotReady(
                "no Microsoft Foundry resource is known, or two: set either ANTHROPIC_FOUNDRY_RESOURCE to its name or "
                "ANTHROPIC_FOUNDRY_BASE_URL to its address"
            ) from None
        _check_address(self.base_url, "ANTHROPIC_FOUNDRY_BASE_URL")

    def has_credentials(self) -> bool:
        return True

    def price(self, bill: Bill, agent: Agent, answered: str | None) -> Price:
        return pricing.price(bill, answered or agent.model, provider="azure")


class AwsEventDecoder:
    """Cuts AWS's binary event stream into the same events that others send as text.

    An exception in the stream becomes an `error` event whose type is the exception's name.
    """

    def __init__(self) -> None:
        from botocore.eventstream import EventStreamBuffer  # noqa: PLC0415

        self._buffer = EventStreamBuffer()
        self.empty = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """See `Decoder.feed`; what is corrupt raises botocore's `ParserError`."""
        self.empty = self.empty and not chunk
        self._buffer.add_data(chunk)
        for message in self._buffer:
            event = _event(message.headers, message.payload)
            if event is not None:
                yield event


def _event(headers: Mapping[str, Any], payload: bytes) -> Event | None:
    """One message's event; None for one that holds no chunk of an answer."""
    if headers.get(":message-type") != "event":  # "exception", or "error" for what the service did not foresee
        kind = headers.get(":exception-type") or headers.get(":error-code")
        return {"type": "error", "error": {"type": kind}}
    if headers.get(":event-type") != "chunk":
        return None
    event = json.loads(base64.b64decode(json.loads(payload)["bytes"]))
    if not isinstance(event, dict):
        raise ValueError("an event's data is not a JSON object")  # noqa: TRY004 - one error for all bad events
    return event


def _no_extra(extra: str, package: str) -> ProviderNotReady:
    return ProviderNotReady(f"{package} is not installed: pip install 'agentobs[{extra}]'")


def _check_address(base_url: str, variable: str) -> None:
    try:
        address(base_url)
    except UsageError:
        raise ProviderNotReady(f"{variable} cannot be used: expected http(s)://host[:port][/path]") from None
