"""Declarations of agents: a name, a model, a system prompt and limits. No I/O happens here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from agentobs.errors import UsageError
from agentobs.functions import Tool, as_tool, check_name

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Cache = Literal["5m", "1h"]
Accepted = Literal["max_tokens", "refusal", "context_window"]
Provider = Literal["anthropic", "bedrock", "vertex", "foundry"]

# A plain answer of more tokens could take longer than the client's ten-minute limit
# (anthropic SDK: max_tokens * 3600 / 128000 > 600 s is refused), so such calls stream.
MAX_PLAIN_TOKENS: Final = 21_333


@dataclass(frozen=True, kw_only=True)
class Agent:
    """What is asked of a model, and within which limits.

    `provider` is who serves the model: Anthropic, Amazon Bedrock, Google Vertex AI or Microsoft Foundry; `model` is the
    id that it knows it by. `timeout_s` bounds one attempt from request to last byte; `attempts` how often a turn is
    tried in all;
    `cache` puts the system prompt and the conversation so far into the provider's prompt cache for that long;
    `stream` defaults to False, and to True above 21,333 `max_tokens`; `accept` names finished failures
    (`max_tokens`, `refusal`, `context_window`) whose text is returned as if it were whole, where text was asked for.

    `tools` are functions that the model may call (docstring and annotations describe them), or dicts for tools that
    the provider runs itself. `repairs` is how often an answer that does not fit the asked output is asked for anew,
    `max_turns` how many answers one call may take in all, tool calls and repairs included.

    Raises `UsageError` at once for a value that could only fail later.
    """

    name: str
    model: str
    system: str = ""
    provider: Provider = "anthropic"
    max_tokens: int = 4096
    timeout_s: float = 600.0
    attempts: int = 3
    effort: Effort | None = None
    cache: Cache | None = None
    stream: bool | None = None
    accept: frozenset[Accepted] = field(default_factory=frozenset)
    tools: Iterable[Callable[..., Any] | Mapping[str, Any]] = field(default=(), repr=False, compare=False)
    repairs: int = 2
    max_turns: int = 25
    functions: tuple[Tool, ...] = field(init=False, default=(), repr=False)  # those of `tools` that run here
    tool_params: str = field(init=False, default="", repr=False)  # JSON of all, as the API is told; "" without any

    def __post_init__(self) -> None:
        check_name(self.name, "agent")
        if not isinstance(self.model, str) or not self.model.strip():
            raise UsageError(
                f"agent {self.name!r}: model is {self.model!r:.80}, expected a model's id such as 'claude-haiku-4-5'"
            )
        self._check(
            "provider",
            self.provider in get_args(Provider),
            f"one of {', '.join(get_args(Provider))}",
        )
        self._check(
            "max_tokens",
            isinstance(self.max_tokens, int) and self.max_tokens >= 1,
            "a whole number of at least 1",
        )
        self._check("timeout_s", isinstance(self.timeout_s, int | float) and self.timeout_s > 0, "seconds above 0")
        self._check("attempts", isinstance(self.attempts, int) and self.attempts >= 1, "a whole number of at least 1")
        self._check(
            "effort",
            self.effort is None or self.effort in get_args(Effort),
            f"one of {', '.join(get_args(Effort))}",
        )
        self._check("cache", self.cache is None or self.cache in get_args(Cache), "'5m' or '1h'")
        self._check("repairs", isinstance(self.repairs, int) and self.repairs >= 0, "a whole number of at least 0")
        self._check(
            "max_turns", isinstance(self.max_turns, int) and self.max_turns >= 1, "a whole number of at least 1"
        )
        self._read_tools()
        object.__setattr__(self, "accept", frozenset(self.accept))
        self._check("accept", self.accept <= set(get_args(Accepted)), f"some of {', '.join(get_args(Accepted))}")
        if self.stream is False and self.max_tokens > MAX_PLAIN_TOKENS:
            raise UsageError(
                f"agent {self.name!r}: stream=False with max_tokens={self.max_tokens}: an answer of more than "
                f"{MAX_PLAIN_TOKENS} tokens must be streamed; leave stream out or lower max_tokens"
            )

    def _read_tools(self) -> None:
        given = tuple(self.tools)
        functions = tuple(as_tool(each) for each in given if not isinstance(each, Mapping))
        params: list[Mapping[str, Any]] = [tool.param() for tool in functions]
        for each in given:
            if isinstance(each, Mapping):
                if not isinstance(each.get("type"), str) or not isinstance(each.get("name"), str):
                    raise UsageError(
                        f"agent {self.name!r}: a tool given as a dict is one that the provider runs and needs its "
                        "'type' and 'name'; give a tool of your own as a function"
                    )
                params.append(each)
        names = [param["name"] for param in params]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"agent {self.name!r}: two tools are named {twice[0]!r}; rename one")
        object.__setattr__(self, "tools", given)  # agents are compared by what follows: dicts have no hash
        object.__setattr__(self, "functions", functions)
        object.__setattr__(self, "tool_params", json.dumps(params, sort_keys=True) if params else "")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise UsageError(f"agent {self.name!r}: {name} is {getattr(self, name)!r:.80}, expected {expected}")

    @property
    def streams(self) -> bool:
        """Whether answers are streamed."""
        return self.max_tokens > MAX_PLAIN_TOKENS if self.stream is None else self.stream
