"""How each platform wants to be asked and puts its answers: the Messages API itself, Bedrock, Vertex and Foundry.

What is answered, charged and gone wrong is the same for all; only its form differs.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from . import errors
from .catalogue import find
from .stream import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from .catalogue import Model
    from .errors import ApiError


class Dialect:
    """The Messages API's own; the others say where they differ."""

    id_header = "request-id"
    stream_headers: Mapping[str, str] = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
    }

    def authorize(self, request: web.Request) -> None:
        """Raises ApiError for a request that brings no key; any key will do."""
        if not request.headers.get("x-api-key") and not request.headers.get("Authorization"):
            raise errors.no_api_key()

    def body(self, data: Any, request: web.Request) -> Any:  # noqa: ARG002 - others look at the path
        """The request's body as the Messages API would have it. Raises ApiError for what the platform refuses."""
        return data

    def find(self, model: str) -> Model | None:
        """The model of this platform's id; None when there is none."""
        return find(model)

    def frame(self, event: bytes) -> bytes:
        """One server-sent event as the platform sends it."""
        return event

    def refusal(self, error: ApiError, request_id: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, body and further headers of an error."""
        return error.status, error.body(request_id), {}


class _InPath(Dialect):
    """The model stands in the path, and the version of the API in the body."""

    def body(self, data: Any, request: web.Request) -> Any:
        if not isinstance(data, dict):
            return data
        if "model" in data:
            raise errors.invalid("model: Extra inputs are not permitted")
        if not isinstance(data.pop("anthropic_version", None), str):
            raise errors.invalid("anthropic_version: Field required")
        return {**data, "model": request.match_info["model"]}


class Vertex(_InPath):
    def authorize(self, request: web.Request) -> None:
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            raise errors.invalid_key()

    def body(self, data: Any, request: web.Request) -> Any:
        body = super().body(data, request)
        streams = request.match_info["verb"] == "streamRawPredict"
        if isinstance(body, dict) and bool(body.get("stream")) is not streams:
            raise errors.invalid("stream: does not fit the method that was called")
        return body


class Foundry(Dialect):
    """What is asked for is a deployment, whose name is its owner's to choose: none is unknown here."""

    _DEPLOYED: Final = "claude-haiku-4-5"

    def find(self, model: str) -> Model | None:
        found = find(model) or find(self._DEPLOYED)
        return None if found is None else replace(found, name=model)

    def authorize(self, request: web.Request) -> None:
        if not request.headers.get("x-api-key") and not request.headers.get("api-key"):
            raise errors.no_api_key()


class Bedrock(_InPath):
    id_header = "x-amzn-requestid"
    stream_headers: Mapping[str, str] = {"Content-Type": "application/vnd.amazon.eventstream"}

    # The API's error types by status, name of the HTTP error, and name of the exception within a stream.
    _ERRORS: Final[Mapping[str, tuple[int, str]]] = {
        "invalid_request_error": (400, "ValidationException"),
        "authentication_error": (403, "UnrecognizedClientException"),
        "not_found_error": (404, "ResourceNotFoundException"),
        "rate_limit_error": (429, "ThrottlingException"),
        "overloaded_error": (503, "ServiceUnavailableException"),
    }
    _OTHER: Final = (500, "InternalServerException")
    _ID: Final = re.compile(r"(?:[a-z-]+\.)?anthropic\.(?P<name>claude-.+?)(?:-v\d+(?::\d+)?)?")

    def authorize(self, request: web.Request) -> None:
        if not request.headers.get("Authorization", "").startswith(("AWS4-HMAC-SHA256 ", "Bearer ")):
            raise errors.invalid_key()

    def body(self, data: Any, request: web.Request) -> Any:
        body = super().body(data, request)
        if isinstance(body, dict):
            if "stream" in body:
                raise errors.invalid("stream: Extra inputs are not permitted")
            body["stream"] = request.match_info["verb"] == "invoke-with-response-stream"
        return body

    def find(self, model: str) -> Model | None:
        found = self._ID.fullmatch(model.rpartition("/")[2])
        return find(found["name"] if found else model)

    def frame(self, event: bytes) -> bytes:
        data = event.partition(b"data: ")[2].rstrip(b"\n")
        told = json.loads(data)
        if told["type"] == "error":
            name = self._ERRORS.get(told["error"]["type"], self._OTHER)[1]
            headers = {":exception-type": name[0].lower() + name[1:], ":message-type": "exception"}
            return _message(headers, {"message": told["error"]["message"]})
        padding = "abcdefghijklmnopqrstuvwxyz"[: len(data) % 26]
        return _message(
            {":event-type": "chunk", ":message-type": "event"}, {"bytes": b64encode(data).decode(), "p": padding}
        )

    def refusal(self, error: ApiError, request_id: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:  # noqa: ARG002
        status, name = self._ERRORS.get(error.kind, self._OTHER)
        return status, {"message": error.message}, {"x-amzn-errortype": f"{name}:http://internal.amazon.com/"}


def _message(headers: Mapping[str, str], payload: Mapping[str, Any]) -> bytes:
    """One message of AWS's binary event stream: lengths, a checksum of them, headers, payload, a checksum of all."""
    head = b"".join(_header(name, value) for name, value in {**headers, ":content-type": "application/json"}.items())
    body = to_json(payload).encode()
    prelude = struct.pack("!II", 12 + len(head) + len(body) + 4, len(head))
    whole = prelude + struct.pack("!I", crc32(prelude)) + head + body
    return whole + struct.pack("!I", crc32(whole))


def _header(name: str, value: str) -> bytes:
    text = 7  # the type of a value that is text
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", text, len(value)) + value.encode()


API: Final = Dialect()
BEDROCK: Final = Bedrock()
VERTEX: Final = Vertex()
FOUNDRY: Final = Foundry()
