"""Errors as RFC 9457 problem documents. None of them repeats a value that the caller sent, or exception text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from agentobs.errors import AgentobsError, InvalidInput

TYPE: Final = "urn:agentobs:problem:"
MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5  # with 429 and 503; long enough for a queue to move or a full disk to be seen to

# Slug and title of what the framework, and the guard in front of it, answer; errors.py has those of our own errors.
# The titles are ours too: Python's phrases change between its versions.
KINDS: Final = {
    400: ("bad-request", "Bad request"),
    401: ("unauthorized", "No key, or a wrong one"),
    403: ("origin-not-allowed", "Origin not allowed"),
    404: ("no-such-path", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    409: ("conflict", "Conflict"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
    421: ("host-not-allowed", "Host not allowed"),
    422: ("invalid-request", "Invalid request"),
    429: ("queue-full", "Too many queued runs"),
    500: ("internal", "Internal error"),
    503: ("unavailable", "The service cannot do this now"),
}


class Json(JSONResponse):
    """JSON with ASCII escapes, so that lone surrogates of stored text can be sent."""

    def render(self, content: Any) -> bytes:
        return self.text(content).encode("ascii")

    @staticmethod
    def text(content: Any) -> str:
        return json.dumps(content, allow_nan=False, separators=(",", ":"))


def problem(
    status: int,
    detail: str,
    *,
    slug: str | None = None,
    title: str | None = None,
    errors: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Json:
    """A problem document; `errors` are pairs of a location such as `body.tags` and what was expected there."""
    usual = KINDS.get(status, ("http", f"HTTP {status}"))
    content: dict[str, Any] = {
        "type": TYPE + (slug or usual[0]),
        "title": title or usual[1],
        "status": status,
        "detail": detail,
    }
    if listed := [{"location": where, "detail": why} for where, why in errors]:
        content["errors"] = listed
    return Json(content, status, dict(headers or {}), MEDIA_TYPE)


async def on_agentobs_error(_request: Request, error: Exception) -> Json:
    assert isinstance(error, AgentobsError)
    fields = error.fields if isinstance(error, InvalidInput) else ()
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status in {429, 503} else None
    return problem(
        error.status,
        str(error),
        slug=error.problem,
        title=error.title,
        errors=((f"body.input.{_path(where.split('.'))}", why) for where, why in fields),
        headers=headers,
    )


async def on_http_exception(request: Request, error: Exception) -> Json:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))  # the framework names only one route's methods
    detail = {
        400: "the body cannot be read as JSON; expected UTF-8 JSON",
        404: "there is nothing at this path; see /docs",
        405: f"{request.method:.20} is not possible at this path; expected {headers.get('Allow')}",
        413: "the request's body is too large",
    }.get(error.status_code, f"the request was refused with status {error.status_code}")
    if error.status_code == 400:
        return _malformed(detail)
    return problem(error.status_code, detail, headers=headers)


async def on_validation_error(_request: Request, error: Exception) -> Json:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    for item in items:
        if item["type"] == "json_invalid":
            return _malformed(f"the body is not JSON, from character {item['loc'][1]} on")
        if item["loc"] == ("body",) and isinstance(error.body, bytes):
            return problem(415, "the body's type is not JSON; expected Content-Type: application/json")
    errors = [(_path(item["loc"]), _expected(item)) for item in items]
    detail = "; ".join(f"{where}: {why}" for where, why in errors[:5])
    return problem(422, detail, errors=errors)


def unexpected() -> Json:
    return problem(500, "the service failed in a way it does not know; its log names the place")


def _malformed(detail: str) -> Json:
    return problem(400, detail, slug="malformed-json", title="Malformed JSON")


def _allowed(request: Request) -> list[str]:
    routes = request.app.router.routes
    return [
        method
        for method in ("GET", "POST")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _path(parts: Iterable[object]) -> str:
    """Where a field is. A name that the caller chose is repeated only if it looks like one."""
    return ".".join(part if re.fullmatch(r"[\w\[\]()-]{1,64}", part := str(given)) else "?" for given in parts)


def _expected(item: Mapping[str, Any]) -> str:
    # pydantic's texts say what was expected and hold nothing of the input.
    if item["type"] == "extra_forbidden":
        return "unknown; leave it out"
    if item["type"] == "missing":
        return "missing"
    text = str(item["msg"]).removeprefix("Value error, ")
    return re.sub("^(Input|String|Dictionary) should", r"should", text)
