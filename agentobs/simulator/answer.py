"""What the model says: blocks, why it stopped, and how many tokens that was.

Everything follows from the request and the seed. Length grows with the root of the prompt and with
`max_tokens`, up to a thousand tokens; what does not fit into `max_tokens` is cut, as a model's would be.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

from .prompt import digest
from .schema import example
from .text import cut_to, prose, tokens_of, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .prompt import Body, Prompt

_LONGEST = 1_000
_JSON = json.JSONEncoder(ensure_ascii=False).encode
_THINKING_SHARE = 2
"""A thought takes at most one part in so many of what the answer may be long."""


@dataclass(frozen=True, slots=True)
class Block:
    """One content block, whole."""

    kind: str
    """`thinking`, `text` or `tool_use`."""
    text: str
    """The thought, the text, or the call's input as JSON."""
    tokens: int
    shown: bool = True
    """False for a thought that the request wants left out of the answer."""
    tool: str = ""
    value: Mapping[str, Any] | None = None
    """The call's input."""

    @property
    def signature(self) -> str:
        """What lets a thought be handed back: a mark of its text."""
        return b64encode(blake2b(self.text.encode(), digest_size=48).digest()).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, before anything of it is sent."""

    blocks: tuple[Block, ...]
    stop_reason: str
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None

    @property
    def output_tokens(self) -> int:
        """At least one: ending a turn is a token too."""
        return max(1, sum(block.tokens for block in self.blocks))

    @property
    def thinking_tokens(self) -> int:
        return sum(block.tokens for block in self.blocks if block.kind == "thinking")


def refusal(category: str | None, explanation: str | None) -> Answer:
    """An answer that says nothing but why."""
    details = {"type": "refusal", "category": category, "explanation": explanation}
    return Answer((), "refusal", stop_details=details)


def misfit(text: str | None) -> Answer:
    """An answer in prose where JSON was asked for, or whatever `text` says."""
    return Answer((_text(text or "I would rather put it in words."),), "end_turn")


def compose(seed: int, body: Body, prompt: Prompt, *, run_out: bool = False) -> Answer:
    """The answer to a request. `run_out` has it stop at `max_tokens`, half way at the latest."""
    random = Random(digest(seed, body, prompt))  # noqa: S311  (made to be repeatable)
    words = words_of(prompt.question or prompt.system)
    most = body["max_tokens"]
    wanted = _length(random, prompt.tokens, most)
    blocks: list[Block] = []
    thought = _thought(random, words, body, wanted)
    if thought is not None:
        blocks.append(thought)
    tool = _tool_to_call(body, prompt)
    schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    reason, sequence = "end_turn", None
    if tool is not None:
        if (body.get("tool_choice") or {"type": "auto"})["type"] == "auto":
            blocks.append(_text(f"I'll call {tool['name']} about {random.choice(words)}."))
        value = example(tool["input_schema"], random, words)
        text = _JSON(value)
        # An empty input is streamed as no text at all, and costs only the name.
        size = tokens_of(tool["name"]) + (tokens_of(text) if value else 0)
        blocks.append(Block("tool_use", text if value else "", size, tool=tool["name"], value=value))
        reason = "tool_use"
    elif schema is not None:
        blocks.append(_text(_JSON(example(schema, random, words))))
    else:
        text, sequence = _stopped(prose(random, words, wanted), body.get("stop_sequences") or ())
        blocks.append(_text(text))
        reason = "end_turn" if sequence is None else "stop_sequence"
    size = sum(block.tokens for block in blocks)
    if run_out:
        return _cut(blocks, min(most, max(1, size // 2)))
    if size > most:
        return _cut(blocks, most)
    return Answer(tuple(block for block in blocks if block.tokens), reason, sequence)


def _length(random: Random, prompt_tokens: int, most: int) -> int:
    natural = 32 + 4 * math.sqrt(prompt_tokens) + most / 32
    return int(min(natural, _LONGEST) * random.uniform(0.75, 1.25))


def _text(text: str) -> Block:
    return Block("text", text, tokens_of(text))


def _thought(random: Random, words: Sequence[str], body: Body, wanted: int) -> Block | None:
    thinking = body.get("thinking") or {}
    if thinking.get("type") not in {"enabled", "adaptive"}:
        return None
    most = max(1, body["max_tokens"] // _THINKING_SHARE)
    budget = min(int(thinking.get("budget_tokens", most)), most, wanted)
    text = cut_to(f"The request is about {words[0]}. {prose(random, words, budget // 2)}", budget)
    return Block("thinking", text, tokens_of(text), shown=thinking.get("display") != "omitted")


def _stopped(text: str, sequences: Sequence[str]) -> tuple[str, str | None]:
    """The text up to the first stop sequence in it, and which one that was."""
    at, sequence = min(((text.find(item), item) for item in sequences if item in text), default=(-1, None))
    return (text[:at], sequence) if sequence is not None else (text, None)


def _cut(blocks: Sequence[Block], most: int) -> Answer:
    """As much of the blocks as fits; a call that does not fit whole is left out."""
    kept: list[Block] = []
    for block in blocks:
        room = most - sum(done.tokens for done in kept)
        if block.tokens <= room:
            kept.append(block)
            continue
        if block.kind != "tool_use" and room:
            text = cut_to(block.text, room)
            kept.append(Block(block.kind, text, tokens_of(text), shown=block.shown))
        break
    return Answer(tuple(block for block in kept if block.tokens), "max_tokens")


def _tool_to_call(body: Body, prompt: Prompt) -> Mapping[str, Any] | None:
    """The tool that this request is to be answered with.

    One that `tool_choice` demands (for `any`, the first that the prompt names, else the first), or else the
    first that the prompt names. None once the last message brings results, so that every tool loop ends.
    """
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    choice = body.get("tool_choice") or {"type": "auto"}
    if not tools or prompt.has_results or choice["type"] == "none":
        return None
    if choice["type"] == "tool":
        return next((tool for tool in tools if tool["name"] == choice["name"]), None)
    said = f"{prompt.question}\n{prompt.system}"
    named = next((tool for tool in tools if _names(said, tool["name"])), None)
    return named or (tools[0] if choice["type"] == "any" else None)


def _names(text: str, tool: str) -> bool:
    return tool in text and re.search(rf"(?<![\w-]){re.escape(tool)}(?![\w-])", text) is not None
