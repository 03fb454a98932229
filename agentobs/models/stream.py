"""A streamed answer, put together from its server-sent events.

The SDK's own helpers build a model object for every event; reading the events as they are costs a third of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, TypeAlias

from agentobs.models.usage import merge_usage
from agentobs.records import EXACT, PARTIAL

Event: TypeAlias = dict[str, Any]

# Which field of a block a delta adds to.
_ADDS: Final[Mapping[str, str]] = {"text_delta": "text", "thinking_delta": "thinking"}
# Which field of a block a delta sets.
_SETS: Final[Mapping[str, str]] = {"signature_delta": "signature", "compaction_delta": "content"}
# Stop reasons that can come in the middle of a block.
_CUTS: Final = frozenset({"max_tokens", "model_context_window_exceeded", "refusal"})


class Decoder(Protocol):
    """Cuts a byte stream into events. `empty` until a byte has come."""

    empty: bool

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end in this chunk. Raises `ValueError` for what is no event."""
        ...


class EventDecoder:
    """Cuts a byte stream into the JSON objects of its events; line ends may be LF, CRLF or CR."""

    def __init__(self) -> None:
        self._rest = b""
        self.empty = True  # nothing has come at all

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Decode the events that end in this chunk. Raises `ValueError` for one that is not a JSON object."""
        self.empty = self.empty and not chunk
        data = self._rest + chunk
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # its LF may come with the next chunk
                data, held = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        self._rest = rest + held
        for block in blocks:
            event = _decode(block)
            if event is not None:
                yield event


def _decode(block: bytes) -> Event | None:
    """One event's JSON object, or None for a block without data (a comment, a lone event name)."""
    lines = [line[5:] for line in block.split(b"\n") if line.startswith(b"data:")]
    if not lines:
        return None
    event = json.loads(b"\n".join(lines))
    if not isinstance(event, dict):
        raise ValueError("an event's data is not a JSON object")  # noqa: TRY004 - one error for all bad events
    return event


class StreamedAnswer:
    """What a stream has told so far, as the message that a plain request would have answered.

    `started` once `message_start` has come, `stopped` once `message_stop` has come after a stop reason. `state` is
    what the usage told so far is worth: partial until a `message_delta` gives it with the stop reason.
    """

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}
        self.started = False
        self.stopped = False
        self.state = PARTIAL
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}

    def take(self, event: Event) -> str:
        """Add one event and return its type. Raises for an event that does not fit those before it."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._take_delta(event["index"], event["delta"])
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
        elif kind == "message_start":
            self.message = dict(event["message"])
            self.started = True
        elif kind == "message_delta":
            self._take_end(event)
        elif kind == "message_stop":
            self.stopped = self.message.get("stop_reason") is not None
        return kind if isinstance(kind, str) else ""

    def _take_delta(self, index: int, delta: Mapping[str, Any]) -> None:
        kind = delta["type"]
        block = self._blocks[index]
        if kind in _ADDS:
            field = _ADDS[kind]
            self._pieces.setdefault((index, field), []).append(delta[field])
        elif kind == "input_json_delta":
            self._pieces.setdefault((index, "input"), []).append(delta["partial_json"])
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind in _SETS:
            block[_SETS[kind]] = delta.get(_SETS[kind])

    def _take_end(self, event: Event) -> None:
        reason = event["delta"].get("stop_reason")
        self.message["stop_reason"] = reason
        usage = event.get("usage")
        if isinstance(usage, Mapping):
            self.message["usage"] = merge_usage(self.message.get("usage") or {}, usage)
            # Counts are cumulative, so those beside the stop reason are final.
            if reason is not None and usage.get("output_tokens") is not None:
                self.state = EXACT

    def finish(self) -> dict[str, Any]:
        """Join the blocks' pieces into the whole message. Raises `ValueError` for a tool's input that is not JSON.

        A tool call that was cut off within its input is left out: nobody can run it.
        """
        content = []
        for index, block in sorted(self._blocks.items()):
            for (owner, field), pieces in self._pieces.items():
                if owner == index:
                    block[field] = block.get(field, "") + "".join(pieces) if field != "input" else "".join(pieces)
            if isinstance(block.get("input"), str):
                try:
                    block["input"] = json.loads(block["input"] or "{}")  # no arguments: streamed as ""
                except ValueError:
                    if self.message.get("stop_reason") not in _CUTS:
                        raise
                    continue
            content.append(block)
        return {**self.message, "content": content}
