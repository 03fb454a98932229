"""What a validated request says, in the order in which it is read: tools, system, messages.

One pass makes everything that the rest needs: the input tokens, the pieces that the prompt cache compares,
the words to answer about, the text in which fault rules look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from .text import tokens_of

# Flat prices: what a message costs around its text, and what a picture or file counts at most.
MESSAGE_TOKENS = 3
_MOST_FILE_TOKENS = 1_500
# Left out of what an answer depends on: they change how it travels or is accounted for, not what is said.
_NOT_ASKED = frozenset({"messages", "system", "tools", "stream", "metadata", "cache_control", "service_tier"})
_DEFAULT_TTL = "5m"

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of the prompt."""

    identity: str
    """What makes it this block for the cache and for the answer; ids of tool calls are not part of it."""
    tokens: int
    ttl: str | None
    """Set (`5m`, `1h`) where the block ends a prefix to be cached."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as the model reads it."""

    pieces: tuple[Piece, ...]
    tokens: int
    """All input tokens, cached or not: what `count_tokens` answers."""
    system: str
    question: str
    """The text of the last user message, tool results included."""
    text: str
    """System and messages: where a fault rule's `contains` looks."""
    has_results: bool
    """The last user message brings tool results."""


def read(body: Body) -> Prompt:
    """Read a request that `validate.validate` accepted."""
    pieces = [_tool(tool) for tool in body.get("tools") or ()]
    system: list[str] = []
    for block in _blocks(body.get("system") or ()):
        pieces.append(_piece("system", block, block["text"]))
        system.append(block["text"])
    said: list[str] = []
    question: list[str] = []
    has_results = False
    for message in body["messages"]:
        role = message["role"]
        own: list[str] = []
        results = False
        pieces.append(Piece(role, MESSAGE_TOKENS, None))
        for block in _blocks(message["content"]):
            text = _text_of(block)
            pieces.append(_piece(role, block, text))
            if text:
                own.append(text)
            results = results or block["type"] == "tool_result"
        said += own
        if role == "user":
            question, has_results = own, results
    top = body.get("cache_control")
    if top:
        pieces[-1] = Piece(pieces[-1].identity, pieces[-1].tokens, pieces[-1].ttl or _ttl(top))
    joined = "\n".join(system)
    return Prompt(
        pieces=tuple(pieces),
        tokens=sum(piece.tokens for piece in pieces),
        system=joined,
        question="\n".join(question),
        text="\n".join([joined, *said]),
        has_results=has_results,
    )


def digest(seed: int, body: Body, prompt: Prompt) -> int:
    """A number that is the same for the same question under the same seed: all chance comes from it."""
    asked = {key: value for key, value in body.items() if key not in _NOT_ASKED}
    mark = blake2b(f"{seed}\x1e{json.dumps(asked, sort_keys=True)}".encode(), digest_size=8)
    for piece in prompt.pieces:
        mark.update(f"\x1e{piece.identity}".encode())
    return int.from_bytes(mark.digest(), "big")


def _blocks(content: Any) -> Iterator[Mapping[str, Any]]:
    """The blocks of a content: a plain string is shorthand for one text block."""
    if isinstance(content, str):
        if content:
            yield {"type": "text", "text": content}
        return
    yield from content


def _text_of(block: Mapping[str, Any]) -> str:
    match block["type"]:
        case "text":
            return str(block["text"])
        case "thinking":
            return str(block["thinking"])
        case "tool_use":
            return f"{block['name']} {json.dumps(block['input'], sort_keys=True, ensure_ascii=False)}"
        case "tool_result":
            return "\n".join(_text_of(part) for part in _blocks(block.get("content") or ()))
        case "document":
            source = block.get("source") or {}
            return str(source.get("data") or "") if source.get("type") == "text" else ""
        case _:
            return ""


def _piece(role: str, block: Mapping[str, Any], text: str) -> Piece:
    kind = block["type"]
    tokens = tokens_of(text)
    if not text and kind not in {"text", "thinking", "tool_use", "tool_result"}:
        text = json.dumps(
            {k: v for k, v in block.items() if k not in {"cache_control", "id", "tool_use_id"}}, sort_keys=True
        )
        tokens = min(tokens_of(text), _MOST_FILE_TOKENS)
    failed = "\x1ferror" if block.get("is_error") else ""
    return Piece(f"{role}\x1f{kind}\x1f{text}{failed}", tokens, _ttl(block.get("cache_control")))


def _tool(tool: Mapping[str, Any]) -> Piece:
    text = json.dumps({k: v for k, v in tool.items() if k != "cache_control"}, sort_keys=True)
    return Piece(f"tool\x1f{text}", tokens_of(text), _ttl(tool.get("cache_control")))


def _ttl(control: Mapping[str, Any] | None) -> str | None:
    return str(control.get("ttl") or _DEFAULT_TTL) if control else None
