"""What every request passes before it reaches a route: size, Host, Origin, key. Loopback is no boundary.

A page of any site can make a browser send requests to a loopback port, and by DNS rebinding read the answers: hence
Host must be a name that is known, and an unsafe method must not come from another origin.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentobs.api.problems import problem, unexpected

# Room for what stands around a run's input in a body: the workflow's name and twenty tags, escaped.
ENVELOPE_BYTES: Final = 64 * 1024
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN: Final = frozenset({"/healthz", "/readyz"})  # asked by probes that hold no key

logger = logging.getLogger("agentobs.api")


class Guard:
    """Pure ASGI middleware. `allowed_hosts` are names besides loopback's, `*` is any; `api_key` None asks for none."""

    def __init__(
        self, app: ASGIApp, *, max_input_bytes: int, allowed_hosts: Collection[str], api_key: str | None
    ) -> None:
        self.app = app
        self.max_body_bytes = max_input_bytes + ENVELOPE_BYTES
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.key_digest = hashlib.sha256(api_key.encode()).digest() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        size = 0

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Answers hold prompts and outputs: no cache keeps them, no browser guesses their type.
                extra = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        async def receiving() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_bytes:
                raise HTTPException(413)  # which FastAPI lets through while it reads a body
            return message

        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, sending)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "agentobs.head": True}  # the server leaves out the body
        try:
            await self.app(scope, receiving, sending)
        except ExceptionGroup as group:
            # What is left of a stream of events whose client went away: FastAPI sends on into nothing.
            if not started or group.split(anyio.BrokenResourceError)[1] is not None:
                await self._failed(group, scope, receive, sending, started=started)
        except Exception as error:  # noqa: BLE001  # the last one to see it: nothing above may print it
            await self._failed(error, scope, receive, sending, started=started)

    async def _failed(self, error: BaseException, scope: Scope, receive: Receive, send: Send, *, started: bool) -> None:
        # Its message and traceback stay out of the log: they can hold what users and models wrote.
        logger.error("request.failed", extra={"error_class": type(error).__name__, "place": _place(error)})
        if started:
            raise ConnectionAbortedError("the answer broke off after an unexpected error") from None
        await unexpected()(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:19]) > self.max_body_bytes:
            return problem(413, f"the body has {length:.19} bytes; at most {self.max_body_bytes} are taken")
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return problem(400, f"the request has {len(hosts)} Host headers, expected one")
        if not self._is_allowed(hosts[0]):
            detail = "the Host header names neither a loopback address nor one of AGENTOBS_ALLOWED_HOSTS"
            return problem(421, detail)
        if scope["method"] not in _SAFE and not _is_same_origin(headers, hosts[0]):
            detail = "the request comes from a page of another origin; expected the same origin or no Origin header"
            return problem(403, detail)
        if self.key_digest is not None and scope["path"] not in OPEN:
            return self._unauthorized(headers.getlist("authorization"))
        return None

    def _is_allowed(self, host: str) -> bool:
        name = _host_name(host)
        if name == "localhost" or name in self.allowed_hosts or "*" in self.allowed_hosts:
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _unauthorized(self, given: list[str]) -> Response | None:
        scheme, _, key = (given[0] if len(given) == 1 else "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
        if scheme.lower() == "bearer" and hmac.compare_digest(digest, self.key_digest or b""):
            return None
        challenge = 'Bearer realm="agentobs"' + (', error="invalid_token"' if given else "")
        detail = "the key is not the right one" if given else "a key is needed: Authorization: Bearer …"
        return problem(401, detail, headers={"WWW-Authenticate": challenge})


def _host_name(host: str) -> str:
    """Without port, in lower case, without the root's dot."""
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and port.isdecimal() else host.lower()).rstrip(".")


def _is_same_origin(headers: Headers, host: str) -> bool:
    # "none": typed into the address bar or from a bookmark. Clients other than browsers send neither header.
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return False
    try:
        return all(urlsplit(origin).netloc.lower() == host.lower() for origin in headers.getlist("origin"))
    except ValueError:  # not even a URL
        return False


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "?"
