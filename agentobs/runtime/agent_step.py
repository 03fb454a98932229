"""An agent call: a step of turns, a turn of attempts, each committed before it is acted on.

step ─▶ turn ─▶ attempt: start row committed ─▶ request ─▶ end row committed ─▶ retry, next turn, or the step's end
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from agentobs.agents import Agent
from agentobs.encoding import decode, encode
from agentobs.errors import JournalError, StaleOwner, StepFailed
from agentobs.models.protocol import Message, Price, Progress, Reply
from agentobs.records import (
    AGENT,
    CLOSED,
    FAILED,
    NOTED,
    NS,
    OK,
    OPENED,
    SETTLED,
    SUCCEEDED,
    UNKNOWN,
    ZERO_USAGE,
    Attempt,
    Change,
    Step,
    attempt_span_id,
)
from agentobs.runtime.clock import Instant, end
from agentobs.runtime.live import CUT_OFF, Live
from agentobs.runtime.memo import Finished, Retries
from agentobs.runtime.retry import FINAL, Verdict, verdict

# Finished failures come with a text that was paid for; it is kept, and handed on in StepFailed.
_PAID_TEXT: Final = frozenset({"max_tokens", "refusal", "context_window", "output_invalid"})
_PAUSED: Final = "pause_turn"  # the provider wants to be asked again to go on


def replay(found: Finished) -> Any:
    """The value, or the failure, that an earlier execution committed for this step."""
    step = found.step
    value = None if step.output is None else decode(step.output)
    if step.status == FAILED:
        raise StepFailed(step.error_type or "workflow_error", step.number, step.name, value or "")
    return value


def as_messages(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


class AgentStep:
    """One agent call in one execution."""

    def __init__(self, live: Live, agent: Agent, prompt: str | Sequence[Message], *, branch: str, key: str) -> None:
        self.live = live
        self.agent = agent
        self.messages = list(as_messages(prompt))
        self.model = live.shared.models[agent.provider]
        self.clock = live.shared.clock
        self.started = self.clock.now()
        # The step's row is written with its first attempt's: nothing is on record of a call that never began.
        self.unwritten = True
        self.current: _Turn | None = None
        self.step = Step(
            run_id=live.run.id,
            number=live.step_number(),
            execution=live.execution.number,
            key=key,
            branch=branch,
            kind=AGENT,
            name=agent.name,
            agent=agent.name,
            model=agent.model,
            input=encode(prompt, f"the prompt of agent {agent.name!r}"),
            started_at=self.started.wall,
            seq=0,  # numbered when it is written: a run's numbers are committed in their order
            workflow=live.run.workflow,
            version=live.execution.version,
            reason=live.execution.reason,
        )

    async def run(self) -> str:
        """The answer's text, as committed. Raises `StepFailed`; a cancellation commits what it was told first."""
        texts: list[str] = []
        turn = 1
        try:
            while True:
                recorded = self.live.memo.answer(self.step.key, turn)
                if recorded is None:
                    reply, ended = await self._turn(turn, texts)
                    if not ended:  # the answer asks for a further turn, and is on record
                        recorded = {"text": reply.text, "content": list(reply.content)}
                    else:
                        return self._result(reply, texts)
                texts.append(recorded["text"])
                self.messages.append({"role": "assistant", "content": recorded["content"]})
                turn += 1
        except asyncio.CancelledError:
            await self._cut_off()
            raise

    def _result(self, reply: Reply, texts: list[str]) -> str:
        if reply.outcome == OK:
            return "".join([*texts, reply.text])
        raise StepFailed(reply.outcome, self.step.number, self.agent.name, "".join([*texts, reply.text]))

    async def _turn(self, turn: int, texts: list[str]) -> tuple[Reply, bool]:
        """Attempts until one is final. Returns its reply, and whether the step ended with it."""
        used = self.live.memo.retries(self.step.key, turn)
        current = self.current = _Turn(self, turn, used, texts)
        loop = AsyncRetrying(
            retry=retry_if_result(lambda one: one[1].wait_s is not None),
            wait=_told_wait,
            sleep=self.clock.sleep,
        )
        reply: Reply = (await loop(current.attempt))[0]
        return reply, current.step_ended

    def opening(self) -> list[Change]:
        if not self.unwritten:
            return []
        self.unwritten = False
        self.step = dataclasses.replace(self.step, seq=self.live.seq())
        return [Change(OPENED, self.step)]

    def ending(self, reply: Reply, texts: list[str]) -> Change:
        """The step's end after its last turn's answer; an answer too large to keep fails the step."""
        text = "".join([*texts, reply.text])
        status, error_type = (SUCCEEDED, None) if reply.outcome == OK else (FAILED, reply.outcome)
        output = None if status == FAILED and error_type not in _PAID_TEXT else encode(text, "an answer")
        return self.closed(status, error_type, output)

    def closed(self, status: str, error_type: str | None, output: str | None = None) -> Change:
        ended = end(self.clock, self.started)
        self.step = dataclasses.replace(
            self.step, status=status, error_type=error_type, output=output, ended_at=ended, end_seq=self.live.seq()
        )
        return Change(CLOSED, self.step)

    async def _cut_off(self) -> None:
        """Close the step after a cancellation, unless it had ended or never begun."""
        if self.unwritten or self.step.ended_at is not None or self.live.cause == "stale":
            return
        status, error_type = CUT_OFF[self.live.cause]
        waiting = self.current.waiting if self.current is not None else None
        settled = [] if waiting is None else [Change(SETTLED, dataclasses.replace(waiting, final=True))]
        await self.live.committed(*settled, self.closed(status, error_type))


class _Turn:
    """One turn: its attempts, numbered from 1 in this execution."""

    def __init__(self, step: AgentStep, turn: int, used: Retries, texts: list[str]) -> None:
        self.owner = step
        self.turn = turn
        self.failures = used.failures
        self.not_before = used.not_before
        self.texts = texts
        self.number = 0
        self.started: Instant | None = None
        self.waited_since: Instant | None = None
        self.waiting: Attempt | None = None  # the latest attempt, while a further one is to come
        self.step_ended = False

    async def attempt(self) -> tuple[Reply, Verdict]:
        """One attempt from its start row to its end row; the verdict says whether, and when, another follows."""
        owner, live, clock = self.owner, self.owner.live, self.owner.clock
        if self.number == 0 and self.not_before is not None:  # a wait that an earlier execution had committed
            self.waited_since = clock.now()
            await clock.sleep(max(self.not_before - self.waited_since.wall, 0) / NS)
        await owner.model.ready()
        async with live.shared.calls:
            begun = clock.now()
            self.started = self.started or begun
            opening = owner.opening()  # before the attempt: its number is the lower one
            attempt = self._start(begun)
            self.waiting = None
            try:
                await live.committed(*opening, Change(OPENED, attempt))
            except asyncio.CancelledError:
                await self._cut_off(attempt, begun, _never_sent())
                raise
            progress = Progress(on_start=lambda: self._noted(attempt, progress))
            try:
                with live.shared.step_context(attempt):
                    reply = await owner.model.send(
                        owner.agent, tuple(owner.messages), reference=attempt_span_id(attempt), progress=progress
                    )
            except asyncio.CancelledError:
                await self._cut_off(attempt, begun, progress)
                raise
        return await self._end(attempt, begun, progress, reply)

    def _start(self, begun: Instant) -> Attempt:
        self.number += 1
        owner = self.owner
        assert self.started is not None
        waited = 0 if self.waited_since is None else begun.mono - self.waited_since.mono
        return Attempt(
            run_id=owner.step.run_id,
            step=owner.step.number,
            turn=self.turn,
            number=self.number,
            model=owner.agent.model,
            provider=owner.agent.provider,
            url=owner.model.url(owner.agent),
            stream=owner.agent.streams,
            max_tokens=owner.agent.max_tokens,
            effort=owner.agent.effort,
            started_at=begun.wall,
            wait_ns=waited,
            turn_started_at=self.started.wall,
            seq=owner.live.seq(),
            execution=owner.step.execution,
            key=owner.step.key,
            agent=owner.agent.name,
            workflow=owner.step.workflow,
            version=owner.step.version,
            reason=owner.step.reason,
        )

    async def _end(self, attempt: Attempt, begun: Instant, progress: Progress, reply: Reply) -> tuple[Reply, Verdict]:
        """Commit the attempt's end, and with it what follows from it."""
        owner, live = self.owner, self.owner.live
        if reply.outcome in owner.agent.accept:
            reply = dataclasses.replace(reply, outcome=OK)
        if len(reply.text) > live.shared.max_output_bytes:
            reply = dataclasses.replace(reply, outcome="too_large", text="", content=(), should_retry=False)
        if reply.outcome != OK:
            self.failures += 1
        left = live.seconds_left()
        then = verdict(reply, failures=self.failures, allowed=owner.agent.attempts, seconds_left=left)
        paused = reply.outcome == OK and reply.stop_reason == _PAUSED
        ended = self._told(attempt, begun, progress, outcome=reply.outcome)
        ended = dataclasses.replace(
            ended,
            error_class=reply.error_class,
            stop_reason=reply.stop_reason,
            final=then.wait_s is None,
            not_before=None if then.wait_s is None else (ended.ended_at or 0) + int(then.wait_s * NS),
            answer=_answer(reply) if paused else None,
        )
        changes = [Change(CLOSED, ended)]
        if then.wait_s is None and not paused:
            changes.append(owner.ending(reply, self.texts))
            self.step_ended = True
        if then.wait_s is not None:
            self.waiting = ended
            self.waited_since = self.owner.clock.now()
        try:
            await live.committed(*changes)
        except StaleOwner:
            raise
        except JournalError as error:
            return await self._end_bare(attempt, begun, type(error).__name__)
        return reply, then

    async def _end_bare(self, attempt: Attempt, begun: Instant, error_class: str) -> tuple[Reply, Verdict]:
        """What the answer told cannot be stored (numbers beyond any meaning): close with what is ours alone."""
        reply = Reply(outcome="bad_response", error_class=error_class)
        ended = dataclasses.replace(
            self._told(attempt, begun, Progress(), outcome=reply.outcome), error_class=error_class, final=True
        )
        self.waiting = None
        self.step_ended = True
        await self.owner.live.committed(Change(CLOSED, ended), self.owner.ending(reply, self.texts))
        return reply, FINAL

    def _told(self, attempt: Attempt, begun: Instant, progress: Progress, *, outcome: str) -> Attempt:
        usage = progress.usage
        known = usage.state != UNKNOWN
        return dataclasses.replace(
            attempt,
            ended_at=end(self.owner.clock, begun),
            first_chunk_at=progress.first_chunk_at,
            outcome=outcome,
            http_status=progress.http_status,
            request_id=progress.request_id,
            response_id=progress.response_id,
            response_model=progress.response_model,
            usage=usage.state,
            input_uncached=usage.input_uncached if known else None,
            output=usage.output if known else None,
            cache_read=usage.cache_read if known else None,
            cache_write=usage.cache_write if known else None,
            reasoning=usage.reasoning if known else None,
            cost_pico=progress.price.pico if known else None,
            price_version=progress.price.version,
            rate_limits=progress.rate_limits,
            end_seq=self.owner.live.seq(),
        )

    def _noted(self, attempt: Attempt, progress: Progress) -> None:
        """A stream began: put its request id and input usage on the books, without waiting for it."""
        told = self._told(attempt, Instant(attempt.started_at, self.owner.clock.now().mono), progress, outcome=OK)
        self.owner.live.commit(Change(NOTED, dataclasses.replace(told, ended_at=None, outcome=None, end_seq=None)))

    async def _cut_off(self, attempt: Attempt, begun: Instant, progress: Progress) -> None:
        """Commit a cancelled attempt with what it was told, and the step's end with it."""
        live = self.owner.live
        if live.cause == "stale":
            return
        status, error_type = CUT_OFF[live.cause]
        ended = dataclasses.replace(self._told(attempt, begun, progress, outcome=error_type), final=True)
        await live.committed(Change(CLOSED, ended), self.owner.closed(status, error_type))


def _never_sent() -> Progress:
    return Progress(usage=ZERO_USAGE, price=Price(pico=0, version=None))


def _told_wait(state: RetryCallState) -> float:
    assert state.outcome is not None
    _, then = state.outcome.result()
    return float((then or FINAL).wait_s or 0)


def _answer(reply: Reply) -> str:
    return json.dumps({"text": reply.text, "content": list(reply.content)}, ensure_ascii=True)
