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
    """An `ExportTraceServiceRequest`; empty for no spans. Raises for text that UTF-8 cannot encode.

    A message of protobuf is its fields one after the other, so attributes are kept encoded and only put together.
    """
    if not spans:
        return b""
    of_resource = Resource(attributes=[KeyValue(key=key, value=_any(value)) for key, value in resource.items()])
    of_scope = _SCOPE + b"".join(_field(ScopeSpans.SPANS_FIELD_NUMBER, _span(span)) for span in spans)
    return _field(
        ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER,
        _field(ResourceSpans.RESOURCE_FIELD_NUMBER, of_resource.SerializeToString())
        + _field(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, of_scope),
    )


def _span(span: SpanData) -> bytes:
    bare = Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        name=span.name,
        kind=Span.SPAN_KIND_CLIENT if span.client else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        links=[
            Span.Link(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id), flags=_REMOTE)
            for link in span.links
        ],
        status=_ERROR if span.error else _UNSET,
        flags=_LOCAL,
    )
    attributes = [
        _attribute(key, value) if key in _VARIED else _remembered(key, value) for key, value in span.attributes.items()
    ]
    return b"".join((bare.SerializeToString(), *attributes))


def _attribute(key: str, value: Value) -> bytes:
    """The attribute as a field of its span."""
    return _field(Span.ATTRIBUTES_FIELD_NUMBER, KeyValue(key=key, value=_any(value)).SerializeToString())


def _any(value: Value) -> AnyValue:
    # bool before int, which it is too.
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=one) for one in value]))


def _field(number: int, data: bytes) -> bytes:
    """A field of variable length: its tag, its length and its bytes (protobuf.dev/programming-guides/encoding)."""
    head = bytearray((number << 3 | 2,))  # the numbers here are below 16: one byte
    length = len(data)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + data


_SCOPE: Final = _field(ScopeSpans.SCOPE_FIELD_NUMBER, InstrumentationScope(name=names.SCOPE).SerializeToString())
# (1, 1.0 and True are one key to a cache, but the values of an attribute are all of one type.)
_remembered: Final = lru_cache(maxsize=4096)(_attribute)
