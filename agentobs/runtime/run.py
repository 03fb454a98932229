"""What a workflow function touches: calls, steps, branches, and recorded time and chance."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, cast, overload

from agentobs.agents import Agent
from agentobs.encoding import decode
from agentobs.errors import StepFailed, UndeclaredCall, UsageError
from agentobs.functions import FunctionStep
from agentobs.models.protocol import Message
from agentobs.records import NS
from agentobs.runtime.agent_step import AgentStep, as_messages, replay
from agentobs.runtime.function_step import decoded, run_function
from agentobs.runtime.live import Live, names
from agentobs.runtime.memo import Finished, agent_hash, function_hash
from agentobs.runtime.output import output_of

T = TypeVar("T")

_VALUES: Final = frozenset({"now", "uuid", "random"})


class RunContext:
    """A run, as its workflow function sees it.

    `call` and `step` take their place among equal calls when they are called, start at once, and return an
    awaitable: `asyncio.gather` over them runs them in parallel. Parallel work whose equal calls must not exchange
    their answers goes into named branches.
    """

    def __init__(self, live: Live, branch: str = "") -> None:
        self._live = live
        self._branch = branch

    @property
    def id(self) -> str:
        """The run's id (UUIDv7 text); its hex digits are the trace id."""
        return self._live.run.id

    @property
    def branch_name(self) -> str:
        """The branch's path, "" at the top."""
        return self._branch

    def branch(self, name: str) -> RunContext:
        """The same run in a branch of that name; branches nest. The name must not depend on timing or chance."""
        if not isinstance(name, str) or not 1 <= len(name) <= 100 or "/" in name or not name.isprintable():
            raise UsageError(
                f"branch name {name!r:.120} cannot be used: expected 1 to 100 printable characters, no '/'"
            )
        return RunContext(self._live, f"{self._branch}/{name}" if self._branch else name)

    @overload
    def call(self, agent: Agent, prompt: str | Sequence[Message]) -> Awaitable[str]: ...
    @overload
    def call(self, agent: Agent, prompt: str | Sequence[Message], *, output: type[T]) -> Awaitable[T]: ...
    def call(self, agent: Agent, prompt: str | Sequence[Message], *, output: type[T] | None = None) -> Awaitable[Any]:
        """Ask `agent`; returns its answer's text, or with `output` its answer as that type.

        `prompt` is the user's message, or a list of messages as the API has them. `output` is a pydantic model, or
        any type that pydantic can read from JSON: the model is held to its schema, and asked anew, in further turns,
        for an answer that does not fit (`Agent.repairs`). Tools that the agent has are run meanwhile, each a step.

        Awaiting raises `StepFailed` once the agent's attempts are used up, for an answer that is no whole answer
        (`max_tokens`, `refusal`, `context_window`) unless the agent accepts it, or whose repairs are used up
        (`output_invalid`). Raises `UndeclaredCall` and `UsageError` at once, before anything is paid.
        """
        if self._live.closing:
            return self._live.refused()
        if agent not in self._live.workflow.agents:
            raise UndeclaredCall(
                f"workflow {self._live.workflow.name!r} calls agent {getattr(agent, 'name', agent)!r:.80} without "
                f"declaring it; declared: {names(self._live.workflow.agents)}. Add it to @workflow(agents=[…])"
            )
        _check_prompt(agent, prompt)
        asked = None if output is None else output_of(cast("Hashable", output))
        content = agent_hash(agent, as_messages(prompt), None if asked is None else asked.schema)
        key = self._live.memo.key(self._branch, content)

        def again(found: Finished) -> Any:
            return replay(found, asked)

        def fresh() -> Awaitable[Any]:
            return AgentStep(self._live, agent, prompt, branch=self._branch, key=key, output=asked).run()

        return self._start(key, agent.name, again, fresh)

    def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Run a declared function as a recorded step and return its result, decoded from the committed JSON.

        At least once: a crash in the middle runs it again. A parameter named `idempotency_key` is filled with a text
        that is the same each time. Awaiting raises `StepFailed` when it raised. Arguments must be JSON-serialisable.
        """
        if self._live.closing:
            return self._live.refused()
        declared = self._declared(function)
        key = self._live.memo.key(self._branch, function_hash(declared, args, kwargs))

        def again(found: Finished) -> Any:
            value = replay(found)
            return value if found.step.output is None else decoded(declared, found.step.output)

        def fresh() -> Awaitable[Any]:
            return run_function(self._live, declared, args, kwargs, branch=self._branch, key=key)

        return self._start(key, declared.name, again, fresh)

    def now(self) -> datetime:
        """The time (UTC), the same again in every later execution."""
        return datetime.fromtimestamp(self._recorded("now", lambda: self._live.shared.clock.now().wall) / NS, UTC)

    def uuid(self) -> uuid.UUID:
        """A random UUID, the same again in every later execution."""
        return uuid.UUID(self._recorded("uuid", lambda: str(uuid.uuid4())))

    def random(self) -> float:
        """A random number in [0, 1), the same again in every later execution. Not for secrets."""
        return float(self._recorded("random", random.random))

    def note(self, kind: Literal["debate", "straggler"], value: Mapping[str, Any]) -> None:
        """Record what a pattern wants counted, once however often the run is executed (`agentobs.patterns`)."""
        self._recorded(kind, lambda: value)

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward, to measure by. Not recorded: nothing may depend on it."""
        return self._live.shared.clock.now().mono / NS

    @property
    def reused(self) -> int:
        """How many steps this execution has answered from the journal so far."""
        return self._live.memo.reused.total()

    # ---- how ----

    def _start(
        self, key: str, name: str, again: Callable[[Finished], Any], fresh: Callable[[], Awaitable[Any]]
    ) -> asyncio.Task[Any]:
        live = self._live
        found = live.memo.finished(self._branch, key)
        taken = live.memo.of_source(key) if found is None else None
        left = live.memo.unasked(self._branch) if found is None and taken is None and live.workflow.strict else 0

        async def work() -> Any:
            if found is not None:
                return again(found)
            if taken is not None:
                await live.committed(*live.reused(taken))
                return again(taken)
            if left:
                raise StepFailed("diverged", 0, name)
            return await fresh()

        return live.spawn(work())

    def _recorded(self, kind: str, make: Callable[[], Any]) -> Any:
        """A value on record. Not waited for: it is committed before anything that the run commits later."""
        if self._live.closing:
            raise asyncio.CancelledError
        key = self._live.memo.key(self._branch, kind)
        note = self._live.memo.noted(key)
        if note is not None:
            return decode(note.value)
        taken = self._live.memo.noted_by_source(key)
        if taken is not None and kind not in _VALUES:
            return decode(taken.value)  # counted with the source, where it happened
        value = make() if taken is None else decode(taken.value)
        self._live.commit(self._live.note(kind, value, key))
        return value

    def _declared(self, function: Callable[..., Any]) -> FunctionStep:
        for declared in self._live.workflow.steps:
            if declared.function is function:
                return declared
        raise UndeclaredCall(
            f"workflow {self._live.workflow.name!r} runs step {getattr(function, '__name__', function)!r:.80} without "
            f"declaring it; declared: {names(self._live.workflow.steps)}. Add it to @workflow(steps=[…])"
        )


def _check_prompt(agent: Agent, prompt: object) -> None:
    listed = isinstance(prompt, Sequence) and prompt and all(isinstance(one, dict) for one in prompt)
    if not isinstance(prompt, str) and not listed:
        raise UsageError(
            f"the prompt for agent {agent.name!r} is of type {type(prompt).__name__}; expected text, or a list of "
            'messages such as {"role": "user", "content": "…"}'
        )
