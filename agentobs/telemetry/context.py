"""The current OpenTelemetry context while user code runs, and a tracer for the spans that user code makes itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import Token
from pathlib import Path
from types import TracebackType
from typing import Final

from opentelemetry import trace
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
    Context,
    attach,
    detach,
    get_current,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from agentobs.records import (
    Attempt,
    Execution,
    Note,
    Record,
    Run,
    Step,
    execution_span_id,
    span_id,
    step_span_id,
    trace_id,
)
from agentobs.telemetry.otlp import Target
from agentobs.telemetry.protobuf import fixed_resource

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
# opentelemetry-instrumentation asks for each of these; the last is what older releases look for.
_SUPPRESSED: Final = {
    _SUPPRESS_INSTRUMENTATION_KEY: True,
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY: True,
    "suppress_instrumentation": True,
}


class _Attached(AbstractContextManager[None]):
    """A context that is current inside `with`."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        self._token = attach(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)


def step_context(record: Record, chosen: Callable[[str], bool] = lambda _: True) -> AbstractContextManager[None]:
    """What is current while a record's code runs, for `with`.

    Run, execution, step: their span, so that spans which user code makes nest under it (it is exported later, from
    the journal). User code's spans are sampled by what `chosen` says of the run's id: of a run whose trace is kept
    only for what became of it, they are missing. Attempt: client instrumentation is suppressed, since the attempt
    has its own span.
    """
    match record:
        case Attempt() | Note():
            return suppress_instrumentation()
        case Run():
            run_id, own = record.id, span_id("run", record.id)
        case Execution():
            run_id, own = record.run_id, execution_span_id(record.run_id, record.number)
        case Step():
            run_id, own = record.run_id, step_span_id(record)
    # A parent-based sampler drops user spans under an unsampled parent.
    flags = _SAMPLED if chosen(run_id) else TraceFlags.get_default()
    context = SpanContext(int(trace_id(run_id), 16), int(own, 16), is_remote=False, trace_flags=flags)
    return _Attached(set_span_in_context(NonRecordingSpan(context)))


def suppress_instrumentation() -> AbstractContextManager[None]:
    """Instrumentation libraries make no spans inside `with`."""
    return _Attached(Context(get_current() | _SUPPRESSED))


class UserTracing:
    """The tracer provider that exports user code's own spans, best effort; `close` once at the end."""

    def __init__(self, provider: TracerProvider, sender: OTLPSpanExporter) -> None:
        self._provider = provider
        self._sender = sender

    async def close(self, deadline_s: float) -> None:
        """Export what is queued within the deadline. Never blocks the event loop."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def flush() -> None:
            self._provider.force_flush()  # heeds no timeout
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=flush, name="agentobs-user-spans", daemon=True).start()
        try:
            async with asyncio.timeout(deadline_s):
                await ended.wait()
        except TimeoutError:
            self._sender.shutdown()  # type: ignore[no-untyped-call]  # ends its retries


def install_user_tracing(target: Target | None, resource: Mapping[str, str]) -> UserTracing | None:
    """Export the spans of user code; None where there is no target, or a global provider exists already."""
    if target is None or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    sender = OTLPSpanExporter(
        endpoint=target.endpoint,
        headers=dict(target.headers),
        timeout=target.timeout_s,
        compression=Compression(target.compression),
        certificate_file=_path(target.certificate),
        client_certificate_file=_path(target.client_certificate),
        client_key_file=_path(target.client_key),
    )
    provider = TracerProvider(resource=Resource(fixed_resource(resource)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(sender))
    trace.set_tracer_provider(provider)
    return UserTracing(provider, sender)


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
