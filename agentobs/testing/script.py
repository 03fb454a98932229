"""A model that says what its script says, and remembers what it was asked."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from agentobs.agents import Agent
from agentobs.encoding import encode
from agentobs.errors import UsageError
from agentobs.models.classify import of_stop_reason
from agentobs.models.protocol import Message, Price, Progress, Reply, Schema
from agentobs.records import EXACT, NO_USAGE, OK, PARTIAL, PICO, ZERO_USAGE, Usage

_PAID_TEXT: Final = {
    "max_tokens": "max_tokens",
    "refusal": "refusal",
    "context_window": "model_context_window_exceeded",
}  # failures that come as a whole answer: the stop reason that says so
_REFUSED: Final = {
    "invalid_request": 400,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
    "rate_limited": 429,
    "server_error": 500,
    "overloaded": 529,
}  # billed nothing: the status that says so
_NO_ANSWER: Final = ("timeout", "connection_error")  # nobody knows what was billed
_BROKEN: Final = ("stream_truncated", "stream_error")  # what had been told is billed
_UNREADABLE: Final = "bad_response"
FAILURES: Final = (*_REFUSED, *_NO_ANSWER, *_BROKEN, _UNREADABLE, *_PAID_TEXT)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the model was asked: one request, so a retry is a call of its own.

    `prompt` is the text of the last message, `messages` the whole conversation as the API has it, `schema` what the
    answer is to fit. `number` says which answer of its agent's script it takes, from 1. `reference` is the span id of
    its attempt.
    """

    agent: str
    prompt: str
    number: int
    messages: tuple[Message, ...]
    schema: Schema | None = None
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One scripted answer or failure; made by `answer` and `failure`."""

    reply: Reply
    usage: Usage
    price: Price
    http_status: int | None


Said: TypeAlias = str | BaseModel | Mapping[str, Any] | Answer | Reply
Saying: TypeAlias = Callable[[Call], Said | Awaitable[Said]]
Script: TypeAlias = Saying | Mapping[str, Said | Saying | Sequence[Said | Saying]]


def answer(
    text: str = "",
    *,
    content: Sequence[Mapping[str, Any]] | None = None,
    stop_reason: str | None = None,
    input_tokens: int = 10,
    output_tokens: int = 5,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    cost_usd: str | float | Decimal | None = "0.001",
) -> Answer:
    """An answer of the model, with what it used and cost.

    `content` are its blocks as the API has them (a tool call is `{"type": "tool_use", "id": "t1", "name": "search",
    "input": {…}}`), in place of `text`. `input_tokens` excludes what was read from or written to the cache.
    `cost_usd=None` is a model without a known price. `stop_reason` is `tool_use` where a block calls a tool, else
    `end_turn`. Raises `UsageError` for both `text` and `content`, and for a cost that is no amount.
    """
    if text and content is not None:
        raise UsageError("answer() was given both text and content; expected one: text is short for one text block")
    blocks = tuple(content) if content is not None else ({"type": "text", "text": text},)
    calls_tool = any(block.get("type") == "tool_use" for block in blocks)
    reason = stop_reason or ("tool_use" if calls_tool else "end_turn")
    return Answer(
        reply=Reply(
            outcome=of_stop_reason(reason),
            text="".join(block["text"] for block in blocks if block.get("type") == "text"),
            content=blocks,
            stop_reason=reason,
        ),
        usage=Usage(
            input_uncached=input_tokens,
            output=output_tokens,
            cache_read=cache_read_tokens,
            cache_write=cache_write_tokens,
            state=EXACT,
        ),
        price=_price(cost_usd),
        http_status=200,
    )


def failure(error_type: str, *, text: str = "", retry_after_s: float | None = None) -> Answer:
    """A request that fails as `error_type`, billed as the provider would.

    `refusal`, `max_tokens` and `context_window` are whole answers with a `text`, and paid for; a status (`overloaded`,
    `rate_limited`, …) costs nothing; of a `timeout`, a `connection_error` or a plain answer that broke nobody knows;
    of a streamed one (`stream_truncated`, `stream_error`) a part. `retry_after_s` is the provider's word on when to
    try again: nobody waits for it in a test, but the attempt's record says so. Raises `UsageError` for a type that no
    model request can have.
    """
    if error_type not in FAILURES:
        raise UsageError(
            f"failure({error_type!r:.40}): no model request fails so; expected one of {', '.join(FAILURES)}"
        )
    if error_type in _PAID_TEXT:
        return answer(text, stop_reason=_PAID_TEXT[error_type])
    usage, price = NO_USAGE, Price(pico=None, version=None)
    if error_type in _REFUSED:
        usage, price = ZERO_USAGE, _price(0)
    elif error_type in _BROKEN:
        usage, price = Usage(input_uncached=10, output=2, state=PARTIAL), _price("0.001")
    status = None if error_type in _NO_ANSWER else _REFUSED.get(error_type, 200)
    reply = Reply(outcome=error_type, error_class="ScriptedFailure", retry_after_s=retry_after_s)
    return Answer(reply=reply, usage=usage, price=price, http_status=status)


class ScriptedModel:
    """A model that answers from a script; `calls` is what it was asked, in order.

    The script says by agent's name what is answered: a text, or a pydantic model or dict (as JSON text), or an
    `answer` or `failure`, each time; or a list of these, one a call, a retry being a call; or a function of the `Call`
    (sync or async) that returns one of these. Or it is one function for all agents.

    A call that the script has no answer for, and an exception in a function of the script, fail the test:
    `run_workflow` raises them, whatever the workflow makes of its failed step.
    """

    def __init__(self, script: Script) -> None:
        if not callable(script) and not isinstance(script, Mapping):
            raise UsageError(
                f"the script is a {type(script).__name__}; expected answers by agent's name such as "
                '{"writer": "a text"}, or a function of the call'
            )
        self.calls: list[Call] = []
        self.broken: Exception | None = None  # what was wrong with the script
        self._script = script
        self._asked: Counter[str] = Counter()

    # ---- as a model (models/protocol.py) ----

    def url(self, agent: Agent) -> str:  # noqa: ARG002 -- one for all
        return "http://model.test/v1/messages"

    async def ready(self) -> None: ...

    async def close(self) -> None: ...

    async def send(
        self,
        agent: Agent,
        messages: tuple[Message, ...],
        *,
        schema: Schema | None = None,
        reference: str,
        progress: Progress,
    ) -> Reply:
        call = self.received(agent, messages, schema=schema, reference=reference)
        self._asked[agent.name] += 1
        try:
            said = await self._said(call)
        except Exception as error:  # noqa: BLE001 -- the test's to see: run_workflow raises it
            self.broken = self.broken or error
            return Reply(outcome="invalid_request", error_class=type(error).__name__)
        return _told(said, agent, progress)

    def received(self, agent: Agent, messages: tuple[Message, ...], *, schema: Schema | None, reference: str) -> Call:
        """Note a request; one that is never answered leaves its answer to the next."""
        call = Call(
            agent=agent.name,
            prompt=_text(messages[-1]["content"]),
            number=self._asked[agent.name] + 1,
            messages=messages,
            schema=schema,
            reference=reference,
        )
        self.calls.append(call)
        return call

    # ---- the script ----

    async def _said(self, call: Call) -> Answer:
        said: Any = self._script if callable(self._script) else self._of_agent(self._script, call)
        while callable(said):
            said = said(call)
            if inspect.isawaitable(said):
                said = await said
        return _answer(said, call)

    def _of_agent(self, script: Mapping[str, Any], call: Call) -> Any:
        if call.agent not in script:
            raise UsageError(
                f"agent {call.agent!r} was called and the script has no answer for it; it has answers for: "
                f"{', '.join(map(repr, script)) or 'none'}"
            )
        said = script[call.agent]
        if not isinstance(said, Sequence) or isinstance(said, str):
            return said
        if call.number > len(said):
            raise UsageError(
                f"agent {call.agent!r} was called {call.number} times (a retry is a call) and its script has "
                f"{len(said)} answers; add one, or give one text for all calls"
            )
        return said[call.number - 1]


def _answer(said: Any, call: Call) -> Answer:
    match said:
        case Answer():
            return said
        case str():
            return answer(said)
        case Reply():
            paid = said.outcome in {OK, *_PAID_TEXT}
            return Answer(
                reply=said,
                usage=answer().usage if paid else NO_USAGE,
                price=_price("0.001") if paid else Price(pico=None, version=None),
                http_status=200 if paid else None,
            )
        case BaseModel() | Mapping():
            return answer(encode(said, f"the scripted answer of agent {call.agent!r}"))
        case _:
            raise UsageError(
                f"the script answers agent {call.agent!r} with a {type(said).__name__}; expected a text, a dict, a "
                "pydantic model, answer(…) or failure(…)"
            )


def _told(said: Answer, agent: Agent, progress: Progress) -> Reply:
    """Tell it as the client does: a stream's beginning first, then all."""
    progress.http_status = said.http_status
    if said.http_status == 200:
        progress.response_model = agent.model
        if agent.streams and said.reply.outcome != _UNREADABLE:
            begun = Usage(input_uncached=said.usage.input_uncached, state=PARTIAL)
            progress.usage, progress.price = begun, Price(pico=0, version=said.price.version)
            if progress.on_start is not None:
                progress.on_start()
            progress.first_chunk_at = time.time_ns()
    if said.reply.outcome in _BROKEN and not agent.streams:  # of a plain answer that broke nothing had been told
        return said.reply
    progress.usage, progress.price = said.usage, said.price
    return said.reply


def _price(cost_usd: str | float | Decimal | None) -> Price:
    if cost_usd is None:
        return Price(pico=None, version="scripted")
    try:
        pico = Decimal(str(cost_usd)) * PICO
    except InvalidOperation:
        pico = Decimal(-1)
    if not pico.is_finite() or pico < 0:
        raise UsageError(f"cost_usd is {cost_usd!r:.40}; expected dollars from 0 up such as '0.001', or None")
    return Price(pico=int(pico), version="scripted")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if block.get("type") == "text")
