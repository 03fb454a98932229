"""Sending spans by OTLP over HTTP, one request at a time, and telling exactly what the endpoint made of them.

Not by the SDK's `OTLPSpanExporter`: it tries again by itself (the outbox does, without limit; both would multiply),
takes a redirect for a success, does not tell status or `partial_success`, and encodes at two and a half times the CPU.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentobs.telemetry.protobuf import encode, fixed_resource
from agentobs.telemetry.spans import SpanData

LONGEST_WAIT_S: Final = 300.0  # of a Retry-After: a wrong clock must not stop the export for good
_RETRYABLE: Final = frozenset({408, 429})  # and 5xx
_REFUSED: Final = frozenset({400, 413})

Verdict = Literal["ok", "refused", "partial", "later", "misconfigured"]


class Sent(NamedTuple):
    """What became of one request.

    `ok`: taken. `refused`: the request as a whole (400, 413, or it could not be encoded): some span in it is at
    fault, or the endpoint is. `partial`: `rejected` of its spans, the endpoint does not say which. `later`: the
    endpoint cannot take it now. `misconfigured`: it will not take it until someone changes something.
    """

    verdict: Verdict
    reason: str = (
        ""  # of a closed set: http_<status>, timeout, connection_error, not_otlp, unencodable, partial_success
    )
    rejected: int = 0
    retry_after_s: float | None = None


class Sender(Protocol):
    """What the outbox needs."""

    def send(self, spans: Sequence[SpanData]) -> Sent: ...

    def close(self) -> None: ...


class Target(Protocol):
    """Where and how spans are sent; `endpoint` is a full URL (`…/v1/traces`)."""

    @property
    def endpoint(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def compression(self) -> Literal["none", "gzip", "deflate"]: ...
    @property
    def certificate(self) -> Path | None: ...
    @property
    def client_certificate(self) -> Path | None: ...
    @property
    def client_key(self) -> Path | None: ...


_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
}


class OtlpSender:
    """Sends to one endpoint, one request at a time. Used by one thread."""

    def __init__(self, target: Target, resource: Mapping[str, str]) -> None:
        self._target: Final = target
        self._resource: Final = fixed_resource(resource)
        self._session: Final = requests.Session()
        self._session.headers.update({"content-type": "application/x-protobuf", "user-agent": "agentobs-otlp"})
        if target.compression != "none":
            self._session.headers["content-encoding"] = target.compression
        self._session.headers.update(target.headers)
        self._session.verify = str(target.certificate) if target.certificate else True
        if target.client_certificate and target.client_key:
            self._session.cert = (str(target.client_certificate), str(target.client_key))
        elif target.client_certificate:
            self._session.cert = str(target.client_certificate)

    def send(self, spans: Sequence[SpanData]) -> Sent:
        """One request. Raises nothing."""
        try:
            body = _COMPRESS[self._target.compression](encode(spans, self._resource))
        except Exception:  # noqa: BLE001 -- bisecting finds it, as it finds what the endpoint refuses
            return Sent("refused", "unencodable")
        try:
            response = self._session.post(
                self._target.endpoint, data=body, timeout=self._target.timeout_s, allow_redirects=False
            )
        except requests.Timeout:
            return Sent("later", "timeout")
        except requests.exceptions.SSLError:
            return Sent("misconfigured", "tls_error")
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return Sent("later", "connection_error")
        except Exception:  # noqa: BLE001 -- a wrong URL, header or certificate file
            return Sent("misconfigured", "bad_settings")
        return judge(response.status_code, response.headers, response.content)

    def close(self) -> None:
        self._session.close()


def judge(status: int, headers: Mapping[str, str], body: bytes, now: Callable[[], float] = time.time) -> Sent:
    """What an answer to an OTLP export means (opentelemetry.io/docs/specs/otlp/#otlphttp-response)."""
    reason = f"http_{status}"
    if status in _REFUSED:
        return Sent("refused", reason)
    if status in _RETRYABLE or status >= 500:
        return Sent("later", reason, retry_after_s=_retry_after(headers.get("retry-after"), now()))
    if not 200 <= status < 300:
        return Sent("misconfigured", reason)
    if headers.get("content-type", "").lower().startswith("text/html"):
        return Sent("misconfigured", "not_otlp")  # a login page, say: nothing was taken
    rejected = _rejected(headers.get("content-type", ""), body)
    return Sent("partial", "partial_success", rejected) if rejected > 0 else Sent("ok")


def _rejected(content_type: str, body: bytes) -> int:
    try:
        if "json" in content_type.lower():
            return int(json.loads(body).get("partialSuccess", {}).get("rejectedSpans", 0))
        return int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
    except Exception:  # noqa: BLE001 -- some endpoints answer 2xx with a body of their own
        return 0


def _retry_after(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError):
            return None
    return min(max(wait, 0.0), LONGEST_WAIT_S) if wait == wait else None  # noqa: PLR0124 -- not for NaN
