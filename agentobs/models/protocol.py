"""What the runtime asks of a model client, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from agentobs.agents import Agent
from agentobs.records import NO_USAGE, RateLimit, Usage

Message: TypeAlias = Mapping[str, Any]  # {"role": "user" | "assistant", "content": str | [block…]}, as the API has it
Schema: TypeAlias = Mapping[str, Any]  # a JSON schema, as pydantic makes it


@dataclass(frozen=True, kw_only=True)
class Price:
    """A cost in integer pico-dollars (None: no known price) and the price data it came from."""

    pico: int | None
    version: str | None


@dataclass(kw_only=True)
class Progress:
    """What an attempt has been told so far; the client fills it in while it reads.

    It outlives a cancelled `send`, so that tokens already told stay on the books. `on_start` is called once, when
    a streamed answer's `message_start` has arrived (request id, model and input usage are then set).
    """

    http_status: int | None = None
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    first_chunk_at: int | None = None  # wall clock, ns; streamed answers only
    usage: Usage = NO_USAGE
    price: Price = field(default_factory=lambda: Price(pico=None, version=None))
    rate_limits: tuple[RateLimit, ...] = ()
    on_start: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How one attempt ended. What it cost and who answered is in the `Progress` that was passed in.

    `outcome` is `ok` or one of `records.ERROR_TYPES` (max_tokens, refusal and context_window come with their
    text). `text` is the answer's text blocks joined; `content` its blocks as the API sent them (for a further
    turn). `should_retry` and `retry_after_s` are the provider's word, None where it gave none.
    """

    outcome: str
    text: str = ""
    content: tuple[Mapping[str, Any], ...] = ()
    stop_reason: str | None = None
    error_class: str | None = None
    should_retry: bool | None = None
    retry_after_s: float | None = None


class Model(Protocol):
    """A model provider. Knows nothing of runs; makes exactly one HTTP request a call and never retries."""

    def url(self, agent: Agent) -> str:
        """Where this agent's requests go (for the attempt's record): scheme, host, port, path; no query, no secret."""
        ...

    async def ready(self) -> None:
        """Wait for what must be loaded before a first request. Raises nothing: `send` says what is wrong.

        Waited for before an attempt's row is written, so that no attempt lasts as long as an import.
        """
        ...

    async def send(
        self,
        agent: Agent,
        messages: tuple[Message, ...],
        *,
        schema: Schema | None = None,
        reference: str,
        progress: Progress,
    ) -> Reply:
        """Ask once. `reference` is sent as `x-agentobs-attempt`; with `schema` the answer's text is to fit it.

        Ends within `agent.timeout_s` of being called. Raises nothing but `asyncio.CancelledError`: every failure
        is a `Reply` whose `outcome` is an error type.
        """
        ...

    async def close(self) -> None: ...
