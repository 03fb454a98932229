"""What is asked: the request's body and address."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from agentobs.agents import Agent
from agentobs.errors import UsageError
from agentobs.models.protocol import Message, Schema

PATH: Final = "/v1/messages"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Where a platform wants to be told what model is asked, whether it streams, and in which version of the API.

    `plain` and `streamed` are paths; `{model}` in them stands for the agent's model. What is not in the path is in the
    body, and `version` (None: it is in a header) always is.
    """

    plain: str = PATH
    streamed: str = PATH
    body_model: bool = True
    body_stream: bool = True
    version: str | None = None
    safe: str = ":;"  # characters of a model's id that stand in the path as they are

    def path(self, agent: Agent) -> str:
        """The path of this agent's requests, below the base URL."""
        template = self.streamed if agent.streams else self.plain
        return template.replace("{model}", quote(agent.model, safe=self.safe))


MESSAGES: Final = Dialect()  # the Messages API itself, and Foundry
# InvokeModel. The versions are those that the SDK sends; a test compares.
BEDROCK: Final = Dialect(
    plain="/model/{model}/invoke",
    streamed="/model/{model}/invoke-with-response-stream",
    body_model=False,
    body_stream=False,
    version="2026-10-21",
)


def vertex(project: str, region: str) -> Dialect:
    """The methods of a publisher's model in one project and location."""
    safe = "!$&'()*+,=:@"
    place = f"/projects/{quote(project, safe=safe)}/locations/{quote(region, safe=safe)}"
    models = f"{place}/publishers/anthropic/models"
    return Dialect(
        safe=safe,
        plain=f"{models}/{{model}}:rawPredict",
        streamed=f"{models}/{{model}}:streamRawPredict",
        body_model=False,
        version="2026-10-21",
    )


def encode(
    agent: Agent, messages: Iterable[Message], schema: Schema | None = None, dialect: Dialect = MESSAGES
) -> bytes:
    """Build the body. Raises `TypeError`, `ValueError` or `RecursionError` for messages that are not JSON.

    ASCII escapes keep lone surrogates, which have no UTF-8. With `cache` the system prompt has a breakpoint of its
    own, so that conversations share it; the one at the top level moves along with the conversation.
    `schema` is one that the API takes, see `Wire.output_schema`.
    """
    body: dict[str, Any] = {"model": agent.model} if dialect.body_model else {}
    body["max_tokens"] = agent.max_tokens
    body["messages"] = [dict(message) for message in messages]
    if dialect.version:
        body["anthropic_version"] = dialect.version
    if not dialect.body_model and agent.model in {".", ".."}:
        raise ValueError("the model's id would lead to another path")
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
    if agent.streams and dialect.body_stream:
        body["stream"] = True
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")


def address(base_url: str, path: str = PATH) -> str:
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
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{path}"
