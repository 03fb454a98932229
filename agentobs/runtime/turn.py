"""One turn of an agent call: attempts until one is final, each committed before it is acted on.

attempt: start row committed ─▶ request ─▶ end row committed, and with it what follows ─▶ retry, or the turn's end
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from agentobs.agents import Agent
from agentobs.errors import JournalError, StaleOwner
from agentobs.models.protocol import Message, Model, Price, Progress, Reply, Schema
from agentobs.records import (
    CLOSED,
    NOTED,
    NS,
    OK,
    OPENED,
    UNKNOWN,
    ZERO_USAGE,
    Attempt,
    Change,
    Step,
    attempt_span_id,
    changed,
)
from agentobs.runtime.clock import Clock, Instant, end
from agentobs.runtime.live import CUT_OFF, Live
from agentobs.runtime.memo import Retries
from agentobs.runtime.retry import FINAL, Verdict, verdict


class Conversation(Protocol):
    """The agent step around a turn: what is asked, and what its records become."""

    live: Live
    agent: Agent
    model: Model
    clock: Clock
    messages: list[Message]
    schema: Schema | None
    step: Step

    def opening(self) -> Sequence[Change]:
        """The step's start row, where it is not written yet."""
        ...

    def answered(self, reply: Reply) -> tuple[str | None, Sequence[Change]]:
        """What a turn's last reply leads to.

        Either the answer to keep on the attempt, because a further turn follows, or the step's end.
        """
        ...

    def closed(self, status: str, error_type: str | None, output: str | None = None) -> Change:
        """The step's end."""
        ...


class Turn:
    """Its attempts are numbered from 1 in this execution."""

    def __init__(self, owner: Conversation, turn: int, used: Retries) -> None:
        self.owner = owner
        self.turn = turn
        self.failures = used.failures
        self.not_before = used.not_before
        self.number = 0
        self.started: Instant | None = None
        self.waited_since: Instant | None = None
        self.waiting: Attempt | None = None  # the latest attempt, while a further one is to come

    async def run(self) -> Reply:
        """The last attempt's reply, with everything that follows from it committed."""
        first = await self._attempt()
        if first[1].wait_s is None:  # nearly always: what follows is for those that are tried again
            return first[0]
        made = [first]

        async def attempt() -> tuple[Reply, Verdict]:
            return made.pop() if made else await self._attempt()

        loop = AsyncRetrying(
            retry=retry_if_result(lambda one: one[1].wait_s is not None),
            wait=_told_wait,
            sleep=self.owner.clock.sleep,
        )
        reply: Reply = (await loop(attempt))[0]
        return reply

    async def _attempt(self) -> tuple[Reply, Verdict]:
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
                        owner.agent,
                        tuple(owner.messages),
                        schema=owner.schema,
                        reference=attempt_span_id(attempt),
                        progress=progress,
                    )
            except asyncio.CancelledError:
                await self._cut_off(attempt, begun, progress)
                raise
            finally:
                progress.on_start = None  # it knows the progress: a circle, and with it all of the run's memory
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
            workflow_version=owner.step.workflow_version,
            reason=owner.step.reason,
        )

    async def _end(self, attempt: Attempt, begun: Instant, progress: Progress, reply: Reply) -> tuple[Reply, Verdict]:
        """Commit the attempt's end, and with it what follows from it."""
        owner, live = self.owner, self.owner.live
        if reply.outcome in owner.agent.accept and owner.schema is None:  # half an answer is never whole data
            reply = dataclasses.replace(reply, outcome=OK)
        if len(reply.text) > live.shared.max_output_bytes:
            reply = dataclasses.replace(reply, outcome="too_large", text="", content=(), should_retry=False)
        if reply.outcome != OK:
            self.failures += 1
        left = live.seconds_left()
        then = verdict(reply, failures=self.failures, allowed=owner.agent.attempts, seconds_left=left)
        ended = self._told(attempt, begun, progress, outcome=reply.outcome)
        answer, following = (None, ()) if then.wait_s is not None else owner.answered(reply)
        ended = changed(
            ended,
            error_class=reply.error_class,
            stop_reason=reply.stop_reason,
            final=then.wait_s is None,
            not_before=None if then.wait_s is None else (ended.ended_at or 0) + int(then.wait_s * NS),
            answer=answer,
        )
        if then.wait_s is not None:
            self.waiting = ended
            self.waited_since = self.owner.clock.now()
        try:
            await live.committed(Change(CLOSED, ended), *following)
        except StaleOwner:
            raise
        except JournalError as error:
            return await self._end_bare(attempt, begun, type(error).__name__)
        return reply, then

    async def _end_bare(self, attempt: Attempt, begun: Instant, error_class: str) -> tuple[Reply, Verdict]:
        """What the answer told cannot be stored (numbers beyond any meaning): close with what is ours alone."""
        reply = Reply(outcome="bad_response", error_class=error_class)
        ended = changed(
            self._told(attempt, begun, Progress(), outcome=reply.outcome), error_class=error_class, final=True
        )
        self.waiting = None
        _, following = self.owner.answered(reply)
        await self.owner.live.committed(Change(CLOSED, ended), *following)
        return reply, FINAL

    def _told(self, attempt: Attempt, begun: Instant, progress: Progress, *, outcome: str) -> Attempt:
        usage = progress.usage
        known = usage.state != UNKNOWN
        return changed(
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
        self.owner.live.commit(Change(NOTED, changed(told, ended_at=None, outcome=None, end_seq=None)))

    async def _cut_off(self, attempt: Attempt, begun: Instant, progress: Progress) -> None:
        """Commit a cancelled attempt with what it was told, and the step's end with it."""
        live = self.owner.live
        if live.cause == "stale":
            return
        status, error_type = CUT_OFF[live.cause]
        ended = changed(self._told(attempt, begun, progress, outcome=error_type), final=True)
        await live.committed(Change(CLOSED, ended), self.owner.closed(status, error_type))


def _never_sent() -> Progress:
    return Progress(usage=ZERO_USAGE, price=Price(pico=0, version=None))


def _told_wait(state: RetryCallState) -> float:
    assert state.outcome is not None
    _, then = state.outcome.result()
    return float((then or FINAL).wait_s or 0)
