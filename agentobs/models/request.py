"""What is asked: the request's body and address."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from agentobs.agents import Agent
from agentobs.errors import UsageError
from agentobs.models.protocol import Message, Schema

PATH: Final = "/v1/messages"


def encode(agent: Agent, messages: Iterable[Message], schema: Schema | None = None) -> bytes:
    """Build the body. Raises `TypeError`, `ValueError` or `RecursionError` for messages that are not JSON.

    ASCII escapes keep lone surrogates, which have no UTF-8. With `cache` the system prompt has a breakpoint of its
    own, so that conversations share it; the one at the top level moves along with the conversation.
    `schema` is one that the API takes, see `Wire.output_schema`.
    """
    body: dict[str, Any] = {
        "model": agent.model,
        "max_tokens": agent.max_tokens,
        "messages": [dict(message) for message in messages],
    }
    mark = {"type": "ephemeral", "ttl": agent.cache}
    if agent.system and agent.cache:
        body["system"] = [{"type": "text", "text": agent.system, "cache_control": mark}]
    elif agent.system:
        body["system"] = agent.system
    if agent.cache:
        body["cache_control"] = mark
    config: dict[str, Any] = {}
    if agent.effort:
        config["effort"] = agent.effort
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    if config:
        body["output_config"] = config
    if agent.tool_params:
        body["tools"] = json.loads(agent.tool_params)
    if agent.streams:
        body["stream"] = True
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")


def address(base_url: str) -> str:
    """Scheme, host, port and path of the endpoint: no user, password, query or fragment.

    Raises `UsageError`, without repeating it, for what is no address.
    """
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        good = False
    if not good:
        raise UsageError("the model provider's base URL cannot be used: expected http(s)://host[:port][/path]")
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{PATH}"
