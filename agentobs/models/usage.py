"""What an answer used, read from the API's `usage` objects. Pure functions; the rules come from recorded traffic.

- The API's `input_tokens` leaves out cache reads and writes: it is our `input_uncached` as it stands.
- A stream tells usage twice, and the totals in `message_delta` replace those of `message_start`; they are never
  added. What the delta leaves out, or gives as null (streams of 2024 send `output_tokens` alone), keeps the value
  of the start.
- Cache writes are split into five-minute and one-hour ones only at the start of a stream, and with server tools
  the total grows afterwards: whatever is not known to be a one-hour write counts, and is priced, as a five-minute
  one (a lower bound, as that is the cheaper of the two).
- `iterations` lists every sampling pass. The totals beside it leave out compaction passes and the passes of a
  second model (an advisor), so with iterations present their sum is what was used, and each is priced by itself.
- Thinking tokens are part of `output_tokens`. Answers of 2024 have no cache fields. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from agentobs.records import PARTIAL, Usage

Raw: TypeAlias = Mapping[str, Any]

# Beyond this a count is nonsense, and what it costs is more than any backend stores.
MAX_TOKENS: Final = 10**9


class Part(NamedTuple):
    """Tokens of one sampling pass, which are priced together: `model` is None where it is the answer's own."""

    model: str | None
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What an answer used in all, the parts that are priced apart, and what else sets their price."""

    usage: Usage
    parts: tuple[Part, ...]
    speed: str | None = None
    service_tier: str | None = None
    inference_geo: str | None = None


def merge_usage(start: Raw, delta: Raw) -> dict[str, Any]:
    """A stream's usage so far: what `message_delta` tells replaces what `message_start` told."""
    return {**start, **{key: value for key, value in delta.items() if value is not None}}


def read_bill(raw: object, state: str) -> Bill | None:
    """Read a `usage` object, or None if it does not tell input and output; `state` is what it is worth if read."""
    if not isinstance(raw, Mapping):
        return None
    total = _tokens(raw, state)
    if total is None:
        return None
    parts: tuple[Part, ...] = (Part(None, total),)
    iterations = raw.get("iterations")
    if isinstance(iterations, list) and iterations:
        passes = [(_text(_field(each, "model")), _tokens(each, state)) for each in iterations]
        read = tuple(Part(model, tokens) for model, tokens in passes if tokens is not None)
        whole = len(read) == len(iterations)  # a pass that cannot be read was billed too
        parts = read or parts
        total = _sum(parts, total, state if whole else PARTIAL)
    return Bill(
        usage=total,
        parts=parts,
        speed=_text(raw.get("speed")),
        service_tier=_text(raw.get("service_tier")),
        inference_geo=_text(raw.get("inference_geo")),
    )


def _tokens(raw: object, state: str) -> Usage | None:
    """Tokens by class, or None if input or output is not told."""
    if not isinstance(raw, Mapping):
        return None
    told_input, told_output = _count(raw.get("input_tokens")), _count(raw.get("output_tokens"))
    if told_input is None or told_output is None:
        return None
    cache_write = _count(raw.get("cache_creation_input_tokens")) or 0
    one_hour = _count(_field(raw.get("cache_creation"), "ephemeral_1h_input_tokens")) or 0
    return Usage(
        input_uncached=told_input,
        output=told_output,
        cache_read=_count(raw.get("cache_read_input_tokens")) or 0,
        cache_write=cache_write,
        cache_write_1h=min(one_hour, cache_write),
        reasoning=_count(_field(raw.get("output_tokens_details"), "thinking_tokens")) or 0,
        web_searches=_count(_field(raw.get("server_tool_use"), "web_search_requests")) or 0,
        state=state,
    )


def _sum(parts: tuple[Part, ...], total: Usage, state: str) -> Usage:
    """All passes together; thinking and searches are told for the whole answer only."""
    usages = [part.usage for part in parts]
    return Usage(
        input_uncached=sum(usage.input_uncached for usage in usages),
        output=sum(usage.output for usage in usages),
        cache_read=sum(usage.cache_read for usage in usages),
        cache_write=sum(usage.cache_write for usage in usages),
        cache_write_1h=sum(usage.cache_write_1h for usage in usages),
        reasoning=total.reasoning,
        web_searches=total.web_searches,
        state=state,
    )


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS:
        return value
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _field(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None
