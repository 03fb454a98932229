"""Refuses what the API refuses, in the API's words.

Messages are worded as the API words them where that is known from recorded traffic or public reports; the
rest follow the pattern of its schema errors (`field.path: Input should be …`). Only shapes are checked that
a client can get wrong; what a model may not support (effort levels, context length) is not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .conversation import check_messages, check_text_blocks
from .errors import invalid, no_threads
from .schema import is_sound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .catalogue import Model

_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"})
_NULLABLE = frozenset({
    "cache_control", "container", "diagnostics", "inference_geo", "speed", "billing_policy", "compaction",
    "context_management", "fallback_credit_token", "fallbacks", "thread",
})  # fmt: skip
_FIELDS = _COUNTED | _NULLABLE | frozenset({
    "max_tokens", "metadata", "service_tier", "stop_sequences", "stream", "temperature", "top_p", "top_k",
    "mcp_servers",
})  # fmt: skip
_COUNT_FIELDS = _COUNTED | {"cache_control", "speed", "context_management", "mcp_servers"}
_TOOL_FIELDS = frozenset({
    "type", "name", "description", "input_schema", "cache_control", "strict", "defer_loading",
    "allowed_callers", "eager_input_streaming", "input_examples",
})  # fmt: skip
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LEAST_BUDGET = 1_024
_MOST_MARKS = 4


def check(body: Any, *, counting: bool = False) -> dict[str, Any]:
    """The request body, once it is known to be sound.

    `counting` checks for `/v1/messages/count_tokens`, which takes no `max_tokens`. Raises ApiError (400).
    """
    if not isinstance(body, dict):
        raise invalid("Input should be a valid dictionary or object to extract fields from")
    allowed = _COUNT_FIELDS if counting else _FIELDS
    for name in body:
        if name not in allowed:
            raise invalid(f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        if name not in body:
            raise invalid(f"{name}: Field required")
    for name in _NULLABLE & body.keys():
        if body[name] is None:
            del body[name]
    if "thread" in body:
        raise no_threads()
    _string(body["model"], "model")
    _check_numbers(body)
    check_messages(body["messages"])
    if not isinstance(body.get("system", ""), str):
        check_text_blocks(body["system"], "system")
    _check_tools(body)
    _check_thinking(body)
    _check_output(body.get("output_config", {}))
    _check_marks(body)
    return body


def check_for_model(body: Mapping[str, Any], model: Model) -> None:
    """What depends on the model: whether the assistant may have begun its own answer."""
    last = body["messages"][-1]
    if last["role"] == "assistant" and not model.prefill:
        raise invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )


def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{at}: Input should be a valid string")
    if not value:
        raise invalid(f"{at}: String should have at least 1 character")
    return value


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{at}: Input should be a valid dictionary")
    return value


def _integer(value: Any, at: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{at}: Input should be a valid integer")
    if value < least:
        raise invalid(f"{at}: Input should be greater than or equal to {least}")


def _check_numbers(body: Mapping[str, Any]) -> None:
    if "max_tokens" in body:
        _integer(body["max_tokens"], "max_tokens", 1)
    if "top_k" in body:
        _integer(body["top_k"], "top_k", 0)
    for name in ("temperature", "top_p"):
        value = body.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f"{name}: Input should be a valid number")
        if not 0 <= value <= 1:
            bound = "greater than or equal to 0" if value < 0 else "less than or equal to 1"
            raise invalid(f"{name}: Input should be {bound}")
    if not isinstance(body.get("stream", False), bool):
        raise invalid("stream: Input should be a valid boolean")
    _object(body.get("metadata", {}), "metadata")
    sequences = body.get("stop_sequences", [])
    if not isinstance(sequences, list):
        raise invalid("stop_sequences: Input should be a valid list")
    for at, sequence in enumerate(sequences):
        if not _string(sequence, f"stop_sequences.{at}").strip():
            raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools", [])
    if not isinstance(tools, list):
        raise invalid("tools: Input should be a valid list")
    names = [_check_tool(tool, f"tools.{at}") for at, tool in enumerate(tools)]
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")
    if "tool_choice" not in body:
        return
    choice = _object(body["tool_choice"], "tool_choice")
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise invalid(
            f"tool_choice: Input tag {kind!r} found using 'type' does not match any of the expected tags: "
            "'auto', 'any', 'tool', 'none'"
        )
    if not tools and kind != "none":
        raise invalid("tool_choice: tool_choice may only be specified while providing tools.")
    if kind == "tool" and _string(choice.get("name"), "tool_choice.tool.name") not in names:
        raise invalid(f"Tool '{choice['name']}' not found in provided tools")


def _check_tool(tool: Any, at: str) -> str:
    _object(tool, at)
    kind = tool.get("type", "custom") or "custom"
    if not isinstance(kind, str):
        raise invalid(f"{at}.type: Input should be a valid string")
    if kind != "custom":  # run by the API or known to it: its fields are its own
        return str(tool.get("name", kind))
    at = f"{at}.custom"
    for name in tool:
        if name not in _TOOL_FIELDS:
            raise invalid(f"{at}.{name}: Extra inputs are not permitted")
    for name in ("name", "input_schema"):
        if name not in tool:
            raise invalid(f"{at}.{name}: Field required")
    if not _TOOL_NAME.fullmatch(_string(tool["name"], f"{at}.name")):
        raise invalid(f"{at}.name: String should match pattern '^{_TOOL_NAME.pattern}$'")
    if not isinstance(tool.get("description", ""), str):
        raise invalid(f"{at}.description: Input should be a valid string")
    schema = _object(tool["input_schema"], f"{at}.input_schema")
    if "type" not in schema:
        raise invalid(f"{at}.input_schema.type: Field required")
    if schema["type"] != "object":
        raise invalid(f"{at}.input_schema.type: Input should be 'object'")
    if not is_sound(schema):
        raise invalid(
            f"{at}.input_schema: JSON schema is invalid. It must match JSON Schema draft 2020-12 "
            "(https://json-schema.org/draft/2020-12)."
        )
    return str(tool["name"])


def _check_thinking(body: Mapping[str, Any]) -> None:
    if "thinking" not in body:
        return
    thinking = _object(body["thinking"], "thinking")
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise invalid(
            f"thinking: Input tag {kind!r} found using 'type' does not match any of the expected tags: "
            "'enabled', 'disabled', 'adaptive', 'between_tools'"
        )
    forced = body.get("tool_choice", {}).get("type") in {"any", "tool"}
    if kind in {"enabled", "adaptive"} and forced:
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
    if kind != "enabled":
        return
    if "budget_tokens" not in thinking:
        raise invalid("thinking.enabled.budget_tokens: Field required")
    _integer(thinking["budget_tokens"], "thinking.enabled.budget_tokens", _LEAST_BUDGET)
    if "max_tokens" in body and body["max_tokens"] <= thinking["budget_tokens"]:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    _check_thought_before_call(body["messages"])


def _check_thought_before_call(messages: list[Any]) -> None:
    """With thinking on, the call that is now answered must still carry the thought that led to it."""
    for at in range(len(messages) - 1, -1, -1):
        content = messages[at]["content"]
        if messages[at]["role"] != "assistant" or isinstance(content, str) or not content:
            continue
        kinds = [block["type"] for block in content]
        if "tool_use" in kinds and kinds[0] not in {"thinking", "redacted_thinking"}:
            raise invalid(
                f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kinds[0]}`. When `thinking` is enabled, a final `assistant` message must start with a "
                "thinking block."
            )
        return


def _check_output(config: Any) -> None:
    _object(config, "output_config")
    for name in config:
        if name not in {"effort", "format", "task_budget"}:
            raise invalid(f"output_config.{name}: Extra inputs are not permitted")
    effort = config.get("effort")
    if effort is not None and effort not in _EFFORTS:
        expected = ", ".join(f"'{name}'" for name in _EFFORTS[:-1])
        raise invalid(f"output_config.effort: Input should be {expected} or '{_EFFORTS[-1]}'")
    wanted = config.get("format")
    if wanted is None:
        return
    _object(wanted, "output_config.format")
    if wanted.get("type") != "json_schema":
        raise invalid("output_config.format.type: Input should be 'json_schema'")
    if "schema" not in wanted:
        raise invalid("output_config.format.schema: Field required")
    schema = _object(wanted["schema"], "output_config.format.schema")
    if not is_sound(schema):
        raise invalid("output_config.format.schema: JSON schema is invalid.")
    _check_closed(schema)


def _check_closed(schema: Any) -> None:
    """Every object of an output schema must forbid what it does not name."""
    if isinstance(schema, list):
        for part in schema:
            _check_closed(part)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise invalid(
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    for name in ("properties", "$defs", "definitions"):
        for part in (schema.get(name) or {}).values():
            _check_closed(part)
    for name in ("items", "anyOf", "oneOf", "allOf"):
        _check_closed(schema.get(name))


def _check_marks(body: Mapping[str, Any]) -> None:
    contents = [body.get("system"), *(message["content"] for message in body["messages"])]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    marked = [body, *(body.get("tools") or ()), *blocks]
    marks = [item["cache_control"] for item in marked if item.get("cache_control") is not None]
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            raise invalid("cache_control: Input should be an object of type 'ephemeral'")
        if mark.get("ttl", "5m") not in ("5m", "1h"):
            raise invalid("cache_control.ephemeral.ttl: Input should be '5m' or '1h'")
    if len(marks) > _MOST_MARKS:
        raise invalid(f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
