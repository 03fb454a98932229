"""What the provider's answers mean: one table each for statuses, error events, stop reasons and exceptions.

Outcomes are those of `records.ERROR_TYPES`, and `ok`. Nothing here hands on text that the provider wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias

from agentobs.records import NS, OK, RateLimit

# HTTP statuses. A 400 stays invalid_request whatever its text says ("credit balance is too low" is one). 409 is
# a lock that the provider could not take: its own client retries it, so it counts as the provider's failure. 504
# is the provider's own time limit, not ours, so it is a server_error with the other 5xx.
_STATUS: Final[Mapping[int, str]] = {
    400: "invalid_request",
    401: "authentication",
    402: "permission",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "server_error",
    413: "too_large",
    424: "server_error",  # Bedrock: the model failed
    429: "rate_limited",
    529: "overloaded",
}

# `error.type` of an SSE error event that comes before anything was generated.
_EVENT: Final[Mapping[str, str]] = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication",
    "billing_error": "permission",
    "permission_error": "permission",
    "forbidden": "permission",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limited",
    "api_error": "server_error",
    "timeout_error": "server_error",
    "conflict_error": "server_error",
    "overloaded_error": "overloaded",
    # Exceptions of a Bedrock stream.
    "validationException": "invalid_request",
    "accessDeniedException": "permission",
    "resourceNotFoundException": "not_found",
    "throttlingException": "rate_limited",
    "internalServerException": "server_error",
    "modelStreamErrorException": "server_error",
    "modelTimeoutException": "server_error",
    "serviceUnavailableException": "server_error",
}

# What AWS answers with 403 as well: whoever asked is not known, so no permission of his was looked at.
_UNKNOWN_CALLER: Final = frozenset(
    {
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)

# Stop reasons that are not what was asked for; every other one (end_turn, tool_use, pause_turn, …) is ok.
_STOP: Final[Mapping[str, str]] = {
    "refusal": "refusal",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "context_window",
}

# Exceptions by the name of their class or of one it derives from, so that nothing need be imported to tell them.
# A connection that could not be made in time is a connection error: no answer was waited for yet.
_EXCEPTION: Final[Mapping[str, str]] = {
    "CredentialsError": "authentication",  # found or fetched before a request is sent
    "WorkloadIdentityError": "authentication",
    "UsageError": "invalid_request",  # a platform's settings
    "BotoCoreError": "authentication",  # raised while a request is signed
    "ConnectTimeout": "connection_error",
    "TimeoutException": "timeout",
    "TimeoutError": "timeout",
    "TransportError": "stream_truncated",
    "GoogleAuthError": "authentication",  # its TransportError, the class above, is a connection error
}

_RATE_LIMIT_KINDS: Final = ("requests", "input_tokens", "output_tokens")
_RATE_LIMIT_HEADERS: Final = tuple(
    (
        kind,
        f"anthropic-ratelimit-{kind.replace('_', '-')}-limit".encode(),
        f"anthropic-ratelimit-{kind.replace('_', '-')}-remaining".encode(),
    )
    for kind in _RATE_LIMIT_KINDS
)

Headers: TypeAlias = Mapping[bytes, bytes]  # names in lower case


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A response whose status is not a success, and the name of the exception that the SDK makes of it."""

    status: int
    headers: Headers
    error_class: str


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Response headers by name in lower case: one pass instead of a search for each."""
    return {name.lower(): value for name, value in raw}


def of_status(status: int) -> str:
    """Classify a response that is not a success."""
    if status >= 500:
        return _STATUS.get(status, "server_error")
    return _STATUS.get(status, "invalid_request" if status >= 400 else "bad_response")


def of_refusal(refused: Refused) -> str:
    """Classify a response that is not a success by its status, and by what AWS says of a 403."""
    told = refused.headers.get(b"x-amzn-errortype", b"").decode("latin-1").partition(":")[0]
    return "authentication" if told in _UNKNOWN_CALLER else of_status(refused.status)


def of_error_event(error_type: object) -> str:
    """Classify an SSE error event that came before `message_start`."""
    return _EVENT.get(error_type, "stream_error") if isinstance(error_type, str) else "stream_error"


def of_stop_reason(stop_reason: str) -> str:
    return _STOP.get(stop_reason, OK)


def of_exception(error: BaseException, *, answering: bool) -> str:
    """Classify what a client raised; `answering`: a success status had come before it.

    Then a broken transport has cut the answer short; before, it is a connection error. What is not in the table is
    an answer that could not be read, or no connection. Causes count, since the SDK wraps what its transport raised.
    """
    names = [cls.__name__ for each in (error.__cause__, error) if each for cls in type(each).__mro__]
    found = next((_EXCEPTION[name] for name in names if name in _EXCEPTION), "bad_response")
    if answering or found not in {"bad_response", "stream_truncated"}:
        return found
    return "connection_error"


def retry_hints(headers: Headers, now_ns: int) -> tuple[bool | None, float | None]:
    """The provider's word on retrying (None: none given): whether to, and after how many seconds.

    Only to be asked of a failed response: successes carry `retry-after` too, and mean nothing by it.
    """
    should = {b"true": True, b"false": False}.get(headers.get(b"x-should-retry", b""))
    after = _seconds(headers.get(b"retry-after-ms"), 1000)
    if after is None:
        after = _seconds(headers.get(b"retry-after"), 1)
    if after is None:
        after = _until(headers.get(b"retry-after"), now_ns)
    return should, after


def rate_limits(headers: Headers) -> tuple[RateLimit, ...]:
    """Read our limits at the provider, as far as a response tells them."""
    found = []
    for kind, limit_name, remaining_name in _RATE_LIMIT_HEADERS:
        limit, remaining = headers.get(limit_name), headers.get(remaining_name)
        if limit and remaining and limit.isdigit() and remaining.isdigit():
            found.append(RateLimit(kind, int(limit), int(remaining)))
    return tuple(found)


def _seconds(value: bytes | None, per_second: int) -> float | None:
    try:
        seconds = float(value or b"") / per_second
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _until(value: bytes | None, now_ns: int) -> float | None:
    try:
        date = parsedate_to_datetime((value or b"").decode("ascii"))
        return max(0.0, date.timestamp() - now_ns / NS)
    except (ValueError, OverflowError):
        return None
