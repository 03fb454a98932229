"""An OTLP/HTTP trace endpoint for tests: decodes what it gets, keeps what it took, and misbehaves on request.

    with OtlpSink() as sink:
        run_something(OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)        # base; sink.endpoint is the full …/v1/traces
        sink.wait(lambda: len(sink.by_trace(trace_id)) == 4)       # or: await sink.until(…)
        root = sink.root(trace_id)
        assert root.attributes["agentobs.workflow"] == "article"
        assert sink.tree(trace_id) == ("invoke_workflow article", [("step fetch", [])])

It runs in threads of its own, so sync and async tests can use it. Reading:

- `sink.spans`      every span taken (2xx and not rejected), copies too, in order: `SinkSpan`
- `sink.by_trace`   span id -> span of one trace; fails when copies of a span differ
- `sink.copies`     all that were taken with one span id
- `sink.root`, `sink.children`, `sink.tree`  of one trace; `orphans` are spans whose parent is absent
- `sink.requests`   every request with the status it got (None: not answered) and the spans in it

Misbehaving (each until `heal()`, or for the next `times` requests):

- `answer(503, retry_after="2")`   a status for whole requests; with `body` and `content_type` if wanted
- `hang()`, `drop()`               no answer; the connection closed without one
- `reject(lambda s: …, how="partial" | "400")`  refuse spans: by partial_success, or the whole request with 400
- `limit(spans=100)`               413 for requests with more spans
- `delay_s = 0.5`                  answer late
- `stop()`, `start()`              connection refused; back on the same port, keeping what was taken
"""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, kw_only=True)
class SinkSpan:
    name: str
    kind: str  # INTERNAL CLIENT …
    trace_id: str
    span_id: str
    parent_id: str | None
    start: int
    end: int
    attributes: dict[str, Any]
    status: str  # UNSET OK ERROR
    status_message: str
    links: list[tuple[str, str]]  # trace id, span id
    events: list[str]
    scope: tuple[str, str]  # name, version
    resource: dict[str, Any]
    raw: bytes  # span, scope and resource as they came: what "identical" means


@dataclass(frozen=True)
class SinkRequest:
    at: float  # time.monotonic()
    status: int | None
    spans: list[SinkSpan]
    headers: dict[str, str]


@dataclass
class _Fault:
    kind: Literal["status", "hang", "drop"]
    times: float
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class OtlpSink:
    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._released = threading.Event()
        self.requests: list[SinkRequest] = []
        self.spans: list[SinkSpan] = []
        self.heal()

    # ---- lifecycle ----

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._released.clear()
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def endpoint(self) -> str:
        return self.url + PATH

    # ---- misbehaving ----

    def heal(self) -> None:
        """Take everything again; requests that hang are dropped."""
        self._fault: _Fault | None = None
        self._rejects: Callable[[SinkSpan], bool] | None = None
        self._reject_how = "partial"
        self._max_spans: int | None = None
        self.delay_s = 0.0
        self._released.set()

    def answer(
        self,
        status: int,
        *,
        times: float = float("inf"),
        retry_after: str | None = None,
        body: bytes = b"",
        content_type: str = PROTOBUF,
        location: str | None = None,
    ) -> None:
        headers = {"Content-Type": content_type}
        headers |= {"Retry-After": retry_after} if retry_after else {}
        headers |= {"Location": location} if location else {}
        self._fault = _Fault("status", times, status, body, headers)

    def hang(self, *, times: float = float("inf")) -> None:
        self._released.clear()
        self._fault = _Fault("hang", times)

    def drop(self, *, times: float = float("inf")) -> None:
        self._fault = _Fault("drop", times)

    def reject(self, which: Callable[[SinkSpan], bool], how: Literal["partial", "400"] = "partial") -> None:
        self._rejects, self._reject_how = which, how

    def limit(self, *, spans: int) -> None:
        self._max_spans = spans

    # ---- reading ----

    def wait(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Until `condition()`; fails after `timeout_s`, telling what the sink has."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                answered = [request.status for request in self.requests][-20:]
                raise AssertionError(f"waited {timeout_s} s in vain: {len(self.spans)} spans, answered {answered}")

    async def until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                self.wait(condition, 0)
            await asyncio.sleep(0.01)

    def copies(self, span_id: str) -> list[SinkSpan]:
        return [span for span in self.spans if span.span_id == span_id]

    def by_trace(self, trace_id: str) -> dict[str, SinkSpan]:
        found: dict[str, SinkSpan] = {}
        for span in list(self.spans):
            if span.trace_id == trace_id:
                first = found.setdefault(span.span_id, span)
                assert first.raw == span.raw, f"copies of {span.name} differ:\n{first}\n{span}"
        return found

    def root(self, trace_id: str) -> SinkSpan:
        roots = [span for span in self.by_trace(trace_id).values() if span.parent_id is None]
        assert len(roots) == 1, f"expected one root, found {[span.name for span in roots]}"
        return roots[0]

    def children(self, span: SinkSpan) -> list[SinkSpan]:
        found = self.by_trace(span.trace_id).values()
        return sorted((s for s in found if s.parent_id == span.span_id), key=lambda s: (s.start, s.name, s.span_id))

    def orphans(self, trace_id: str) -> list[SinkSpan]:
        found = self.by_trace(trace_id)
        return [span for span in found.values() if span.parent_id is not None and span.parent_id not in found]

    def tree(self, trace_id: str) -> tuple[str, list[Any]]:
        """Names, nested: (name, [children…]), children in order of their start."""

        def nested(span: SinkSpan) -> tuple[str, list[Any]]:
            return span.name, [nested(child) for child in self.children(span)]

        return nested(self.root(trace_id))

    # ---- answering (server threads) ----

    def _handle(self, handler: _Handler, body: bytes) -> None:
        if self.delay_s:
            time.sleep(self.delay_s)
        headers = {key.lower(): value for key, value in handler.headers.items()}
        spans = list(_decoded(_plain(body, headers.get("content-encoding", ""))))
        fault = self._fault
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self._fault = None
        if fault is not None and fault.kind != "status":
            self._note(None, spans, headers, ())
            if fault.kind == "hang":
                self._released.wait(120)
            handler.close_connection = True
            return
        status, content, extra, taken = self._judged(fault, spans)
        self._note(status, spans, headers, taken)  # first: who is answered finds the spans here
        handler.send_response(status)
        for key, value in ({"Content-Type": PROTOBUF} | extra).items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _judged(self, fault: _Fault | None, spans: list[SinkSpan]) -> tuple[int, bytes, dict[str, str], list[SinkSpan]]:
        if fault is not None:
            return fault.status, fault.body, fault.headers, spans if 200 <= fault.status < 300 else []
        if self._max_spans is not None and len(spans) > self._max_spans:
            return 413, b"", {}, []
        rejected = [span for span in spans if self._rejects is not None and self._rejects(span)]
        if rejected and self._reject_how == "400":
            return 400, b"", {}, []
        response = ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = len(rejected)
            response.partial_success.error_message = "refused by the test"
        return 200, response.SerializeToString(), {}, [span for span in spans if span not in rejected]

    def _note(
        self, status: int | None, spans: list[SinkSpan], headers: dict[str, str], taken: Iterable[SinkSpan]
    ) -> None:
        with self._changed:
            self.requests.append(SinkRequest(time.monotonic(), status, spans, headers))
            self.spans.extend(taken)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], sink: OtlpSink) -> None:
        self.sink = sink
        self._connections: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Close what is kept alive: a stopped endpoint has no connections."""
        for connection in list(self._connections):
            try:
                connection.shutdown(2)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == PATH:
            self.server.sink._handle(self, body)
            return
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


def _decoded(body: bytes) -> Iterable[SinkSpan]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        resource_raw = group.resource.SerializeToString(deterministic=True)
        for scoped in group.scope_spans:
            scope_raw = scoped.scope.SerializeToString(deterministic=True)
            for span in scoped.spans:
                yield SinkSpan(
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex() or None,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    status_message=span.status.message,
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    events=[event.name for event in span.events],
                    scope=(scoped.scope.name, scoped.scope.version),
                    resource=resource,
                    raw=span.SerializeToString(deterministic=True) + scope_raw + resource_raw,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_value(one) for one in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case None:
            return None
        case kind:
            return getattr(value, kind)
