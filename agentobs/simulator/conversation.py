"""The rules about `messages`: roles, content blocks, tool calls and their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROLES = ("user", "assistant", "system")
# The fields that the blocks a client builds itself must have; other kinds only have to be known.
_REQUIRED: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str, "signature": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
    "image": {"source": dict},
    "document": {"source": dict},
    "search_result": {},
    "container_upload": {},
    "server_tool_use": {},
    "web_search_tool_result": {},
    "web_fetch_tool_result": {},
    "code_execution_tool_result": {},
    "bash_code_execution_tool_result": {},
    "text_editor_code_execution_tool_result": {},
    "tool_search_tool_result": {},
    "mcp_tool_use": {},
    "mcp_tool_result": {},
    "compaction": {},
    "tool_reference": {},
}
_ALLOWED: dict[str, frozenset[str]] = {
    "text": frozenset({"type", "text", "cache_control", "citations"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control", "caller", "toolset_name"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name"}),
}
_WORDS: dict[type, str] = {str: "string", dict: "dictionary"}


def check_messages(messages: Any) -> None:
    """Raises ApiError (400) at the first thing that is wrong."""
    if not isinstance(messages, list):
        raise invalid("messages: Input should be a valid list")
    if not messages:
        raise invalid("messages: at least one message is required")
    for at, message in enumerate(messages):
        _check_message(message, at, last=at == len(messages) - 1)
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    _check_calls(messages)


def check_text_blocks(blocks: Any, at: str) -> None:
    """A list that may hold text blocks only, as `system` does."""
    if not isinstance(blocks, list):
        raise invalid(f"{at}: Input should be a valid list")
    for number, block in enumerate(blocks):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid(f"{at}.{number}.type: Input should be 'text'")
        _check_block(block, f"{at}.{number}", at)


def _check_message(message: Any, at: int, *, last: bool) -> None:
    where = f"messages.{at}"
    if not isinstance(message, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    for name in ("role", "content"):
        if name not in message:
            raise invalid(f"{where}.{name}: Field required")
    for name in message:
        if name not in {"role", "content"}:
            raise invalid(f"{where}.{name}: Extra inputs are not permitted")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise invalid(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
    if not isinstance(content, str | list):
        raise invalid(f"{where}.content: Input should be a valid list")
    if not content and not (last and role == "assistant"):
        raise invalid(
            f"{where}: all messages must have non-empty content except for the optional final assistant message"
        )
    if isinstance(content, str):
        if content and not content.strip():
            raise invalid("messages: text content blocks must contain non-whitespace text")
        blocks: Sequence[Any] = ()
    else:
        blocks = content
    for number, block in enumerate(blocks):
        _check_block(block, f"{where}.content.{number}", "messages")
    if last and role == "assistant" and _ends_blank(content):
        raise invalid("messages: final assistant content cannot end with trailing whitespace")


def _check_block(block: Any, where: str, top: str) -> None:
    if not isinstance(block, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    if "type" not in block:
        raise invalid(f"{where}.type: Field required")
    kind = block["type"]
    fields = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if fields is None:
        expected = ", ".join(f"'{name}'" for name in _REQUIRED)
        raise invalid(
            f"{where}: Input tag {kind!r} found using 'type' does not match any of the expected tags: {expected}"
        )
    for name, wanted in fields.items():
        if name not in block:
            raise invalid(f"{where}.{kind}.{name}: Field required")
        if not isinstance(block[name], wanted):
            raise invalid(f"{where}.{kind}.{name}: Input should be a valid {_WORDS[wanted]}")
    allowed = _ALLOWED.get(kind)
    if allowed is not None:
        for name in block:
            if name not in allowed:
                raise invalid(f"{where}.{kind}.{name}: Extra inputs are not permitted")
    if kind == "text":
        if not block["text"]:
            raise invalid(f"{top}: text content blocks must be non-empty")
        if not block["text"].strip():
            raise invalid(f"{top}: text content blocks must contain non-whitespace text")
    if kind == "tool_result":
        _check_result(block.get("content", ""), f"{where}.tool_result.content")


def _check_result(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(f"{where}: Input should be a valid list")
    for number, block in enumerate(content):
        _check_block(block, f"{where}.{number}", where)


def _ends_blank(content: Any) -> bool:
    text = content if isinstance(content, str) else (content[-1].get("text") or "" if content else "")
    return bool(text) and str(text)[-1].isspace()


def _check_calls(messages: Sequence[Any]) -> None:
    """Each tool call is answered in the next message, and each result answers a call of the one before."""
    called: list[str] = []
    for at, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        missing = [name for name in called if name not in results]
        if missing:
            raise invalid(
                f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block "
                "in the next message."
            )
        for number, block in enumerate(blocks):
            if block["type"] == "tool_result" and block["tool_use_id"] not in called:
                raise invalid(
                    f"messages.{at}.content.{number}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{block['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` "
                    "block in the previous message."
                )
        called = [block["id"] for block in blocks if block["type"] == "tool_use"]
    if called:
        raise invalid(
            f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(called)}. Each `tool_use` block must have a corresponding `tool_result` block "
            "in the next message."
        )
