"""The API's error answers: one exception, one body shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class ApiError(Exception):
    """An answer of status 400 or more, with the API's own error type and message."""

    def __init__(self, status: int, kind: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.details = details

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body. 413 is answered by the edge, which leaves out the envelope that the API puts around."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        if self.status == 413:
            return {"error": error}
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str) -> ApiError:
    """A request that the API refuses as it stands (400)."""
    return ApiError(400, "invalid_request_error", message)


def unknown_model(model: str) -> ApiError:
    return ApiError(404, "not_found_error", f"model: {model}")


def no_threads() -> ApiError:
    """No conversation is held here; told so, the SDK's tool runner sends the whole one each time."""
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return ApiError(400, "invalid_request_error", "thread: not supported by this server", details)


def no_api_key() -> ApiError:
    return ApiError(401, "authentication_error", "x-api-key header is required")


def too_large() -> ApiError:
    return ApiError(413, "request_too_large", "Request exceeds the maximum size")


def rate_limited(limit: int) -> ApiError:
    message = (
        f"This request would exceed your organization's rate limit of {limit:,} input tokens per minute. "
        "Reduce the prompt length or the maximum tokens requested, or try again later."
    )
    return ApiError(429, "rate_limit_error", message)


def overloaded() -> ApiError:
    return ApiError(529, "overloaded_error", "Overloaded")


def server_error() -> ApiError:
    return ApiError(500, "api_error", "Internal server error")


def invalid_key() -> ApiError:
    return ApiError(401, "authentication_error", "invalid x-api-key")
