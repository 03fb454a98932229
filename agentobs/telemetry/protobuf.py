"""Spans as the protobuf message of an OTLP export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, SpanFlags, Status

from agentobs.telemetry import names
from agentobs.telemetry.spans import SpanData, Value

_SCOPE: Final = InstrumentationScope(name=names.SCOPE)
_ERROR: Final = Status(code=Status.STATUS_CODE_ERROR)
_UNSET: Final = Status()
# That the flags tell whether a parent is remote; a parent of ours never is, a linked caller always.
_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
# Attributes of which hardly two spans share a value: not worth remembering.
_VARIED: Final = frozenset(
    {
        names.RESPONSE_ID,
        names.REQUEST_ID,
        names.FIRST_CHUNK,
        names.COST_USD,
        names.RETRY_WAIT,
        names.USAGE_INPUT,
        names.USAGE_OUTPUT,
        names.USAGE_CACHE_READ,
        names.USAGE_CACHE_WRITE,
        names.USAGE_REASONING,
        *(names.TOKENS + kind for kind in names.TOKEN_KINDS),
    }
)


def fixed_resource(attributes: Mapping[str, str]) -> dict[str, str]:
    """What every process of this service says of itself: never a process, an instance or the version of a library,
    so that a span is the same whoever sends it.
    """
    ours = {"service.name": names.SCOPE, "telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry"}
    return ours | dict(attributes)


def encode(spans: Sequence[SpanData], resource: Mapping[str, str]) -> bytes:
    """An `ExportTraceServiceRequest`; empty for no spans. Raises for text that UTF-8 cannot encode."""
    if not spans:
        return b""
    request = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=[_attribute(key, value) for key, value in resource.items()]),
                scope_spans=[ScopeSpans(scope=_SCOPE, spans=[_span(span) for span in spans])],
            )
        ]
    )
    return bytes(request.SerializeToString())


def _span(span: SpanData) -> Span:
    link = span.link
    return Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        name=span.name,
        kind=Span.SPAN_KIND_CLIENT if span.client else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=[
            _attribute(key, value) if key in _VARIED else _remembered(key, value)
            for key, value in span.attributes.items()
        ],
        links=None
        if link is None
        else [Span.Link(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id), flags=_REMOTE)],
        status=_ERROR if span.error else _UNSET,
        flags=_LOCAL,
    )


def _attribute(key: str, value: Value) -> KeyValue:
    # bool before int, which it is too.
    if isinstance(value, str):
        found = AnyValue(string_value=value)
    elif isinstance(value, bool):
        found = AnyValue(bool_value=value)
    elif isinstance(value, int):
        found = AnyValue(int_value=value)
    elif isinstance(value, float):
        found = AnyValue(double_value=value)
    else:
        found = AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=one) for one in value]))
    return KeyValue(key=key, value=found)


# (1, 1.0 and True are one key to a cache, but the values of an attribute are all of one type.)
_remembered: Final = lru_cache(maxsize=4096)(_attribute)
