"""An agent call: a step of turns, a turn of attempts, each committed before it is acted on.

step ─▶ turn ─▶ its answer asks for more (tools, a repair, a pause) ─▶ turn ─▶ … ─▶ the step's end
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from agentobs.agents import Agent
from agentobs.encoding import decode, encode
from agentobs.errors import StepFailed
from agentobs.models.protocol import Message, Reply
from agentobs.records import AGENT, CLOSED, FAILED, OK, OPENED, SETTLED, SUCCEEDED, Change, Step, changed
from agentobs.runtime.clock import end
from agentobs.runtime.function_step import decoded, run_tool
from agentobs.runtime.live import CUT_OFF, Live
from agentobs.runtime.memo import Finished
from agentobs.runtime.output import Output, repair, wrong
from agentobs.runtime.turn import Turn

# Finished failures come with a text that was paid for; it is kept, and handed on in StepFailed.
_PAID_TEXT: Final = frozenset({"max_tokens", "refusal", "context_window", "output_invalid", "budget_exceeded"})
_PAUSED: Final = "pause_turn"  # the provider wants to be asked again to go on


class _Judged(NamedTuple):
    """What an answer is: the step's value, or why a further turn follows."""

    more: Literal["pause", "tools", "repair"] | None = None
    stored: str | None = None  # JSON
    misfit: Exception | None = None


def replay(found: Finished, output: Output | None = None) -> Any:
    """The value, or the failure, that an earlier execution committed for this step."""
    step = found.step
    if step.status == FAILED:
        text = "" if step.output is None else decode(step.output)
        raise StepFailed(step.error_type or "workflow_error", step.number, step.name, text)
    if step.output is None:
        return None
    return decode(step.output) if output is None else output.value(step.output)


def as_messages(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


class AgentStep:
    """One agent call in one execution."""

    def __init__(
        self,
        live: Live,
        agent: Agent,
        prompt: str | Sequence[Message],
        *,
        branch: str,
        key: str,
        output: Output | None = None,
    ) -> None:
        self.live = live
        self.agent = agent
        self.messages: list[Message] = list(as_messages(prompt))
        self.output = output
        self.schema = None if output is None else output.schema
        self.model = live.shared.models[agent.provider]
        self.clock = live.shared.clock
        self.started = self.clock.now()
        self.turn = 1
        self.repairs = 0
        self.paused: list[str] = []  # texts of the answers that the next one continues
        # The step's row is written with its first attempt's: nothing is on record of a call that never began.
        self.unwritten = True
        self.judged = _Judged()  # of the turn's answer
        self.current: Turn | None = None
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
            workflow_version=live.execution.workflow_version,
            reason=live.execution.reason,
        )

    async def run(self) -> Any:
        """What the agent answered, as committed. Raises `StepFailed`; a cancellation commits what it was told first."""
        try:
            while True:
                reply = self._recorded()
                if reply is None:
                    self.current = Turn(self, self.turn, self.live.memo.retries(self.step.key, self.turn))
                    reply = await self.current.run()
                elif self.judged.more is None:  # what did not fit does now: the type's own rules were changed
                    await self.live.committed(*self.opening(), self.closed(SUCCEEDED, None, self.judged.stored))
                if self.step.ended_at is not None:
                    return replay(Finished(self.step, 0), self.output)
                await self._go_on(reply)
                self.turn += 1
        except asyncio.CancelledError:
            await self._cut_off()
            raise
        except Exception:  # what nobody thought of must not leave a row open, and its spans without a parent
            if not self.unwritten and self.step.ended_at is None and self.live.cause != "stale":
                await self.live.committed(self.closed(FAILED, "workflow_error"))
            raise
        finally:
            self.current = None  # it knows this step: a circle

    def _recorded(self) -> Reply | None:
        """The answer to this turn, where an earlier execution has paid for it."""
        found = self.live.memo.answer(self.step.key, self.turn)
        if found is None:
            return None
        reply = Reply(outcome=OK, text=found["text"], content=tuple(found["content"]), stop_reason=found["stop_reason"])
        self.judged = self._judge(reply)
        return reply

    # ---- what an answer means ----

    def answered(self, reply: Reply) -> tuple[str | None, Sequence[Change]]:
        """See `Conversation.answered`."""
        text = "".join([*self.paused, reply.text])
        if reply.outcome != OK:
            return None, [self._failed(reply.outcome, text)]
        more, stored, _ = self.judged = self._judge(reply)
        if more is None:
            return None, [self.closed(SUCCEEDED, None, stored)]
        if more == "repair" and self.repairs >= self.agent.repairs:
            return None, [self._failed("output_invalid", text)]
        if self.turn >= self.agent.max_turns:
            return None, [self._failed("budget_exceeded", text)]
        kept = {"text": reply.text, "content": list(reply.content), "stop_reason": reply.stop_reason}
        return json.dumps(kept, ensure_ascii=True), ()

    def _judge(self, reply: Reply) -> _Judged:
        if reply.stop_reason == _PAUSED:
            return _Judged("pause")
        if reply.stop_reason == "tool_use" and self._calls(reply):
            return _Judged("tools")
        text = "".join([*self.paused, reply.text])
        if self.output is None:
            return _Judged(stored=encode(text, "an answer"))
        try:
            return _Judged(stored=self.output.read(text))
        except Exception as error:  # noqa: BLE001 -- whatever the type's own validators raise: it does not fit
            return _Judged("repair", misfit=error)

    def _calls(self, reply: Reply) -> list[Mapping[str, Any]]:
        """The answer's calls of tools that run here."""
        return [block for block in reply.content if block["type"] == "tool_use"] if self.agent.functions else []

    async def _go_on(self, reply: Reply) -> None:
        """Extend the conversation by the answer and what it asks for."""
        if reply.content:  # an empty message would be refused
            self.messages.append({"role": "assistant", "content": list(reply.content)})
        if self.judged.more == "pause":
            self.paused.append(reply.text)
            return
        self.paused.clear()
        if self.judged.more == "tools":
            calls = [self.live.spawn(self._called(*call)) for call in enumerate(self._calls(reply))]
            try:
                results = await asyncio.gather(*calls)
            finally:  # a tool that cancelled itself does not let the agent's step end before the others
                if left := [call for call in calls if not call.done()]:
                    for call in left:
                        call.cancel()
                    await asyncio.wait(left)
            self.messages.append({"role": "user", "content": results})
        elif self.judged.misfit is not None:
            self.repairs += 1
            self.messages.append({"role": "user", "content": repair(self.judged.misfit)})

    async def _called(self, position: int, block: Mapping[str, Any]) -> dict[str, Any]:
        """Run one tool call, or take what an earlier execution had for it; the result as the API wants it."""
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": block["id"]}
        tool = next((each for each in self.agent.functions if each.name == block["name"]), None)
        if tool is None:  # its name is the model's invention: it is no label, and no step
            return {**result, "content": "there is no such tool", "is_error": True}
        key = f"{self.step.key}>{self.turn}.{position}"
        found = self.live.memo.tool(key)
        try:
            if found is None:
                if self.unwritten:  # a tool's step needs its parent's row
                    await self.live.committed(*self.opening())
                value = await run_tool(self.live, tool, block["input"], parent=self.step, key=key, call_id=block["id"])
            else:
                replay(found)
                value = None if found.step.output is None else decoded(tool.step, found.step.output)
        except StepFailed as failure:
            return {**result, "content": failure.text or failure.error_type, "is_error": True}
        return {**result, "content": value if isinstance(value, str) else encode(value, "a tool's result")}

    # ---- the step's row ----

    def opening(self) -> list[Change]:
        """See `Conversation.opening`."""
        if not self.unwritten:
            return []
        self.unwritten = False
        self.step = changed(self.step, seq=self.live.seq())
        return [Change(OPENED, self.step)]

    def _failed(self, error_type: str, text: str) -> Change:
        output = encode(text, "an answer") if error_type in _PAID_TEXT else None
        misfit = self.judged.misfit if error_type == "output_invalid" else None
        detail = None if misfit is None else encode("\n".join(wrong(misfit)), "what does not fit")
        return self.closed(FAILED, error_type, output, detail)

    def closed(
        self, status: str, error_type: str | None, output: str | None = None, detail: str | None = None
    ) -> Change:
        self.step = changed(
            self.step,
            status=status,
            error_type=error_type,
            error_detail=detail,
            output=output,
            ended_at=end(self.clock, self.started),
            end_seq=self.live.seq(),
        )
        return Change(CLOSED, self.step)

    async def _cut_off(self) -> None:
        """Close the step after a cancellation, unless it had ended or never begun."""
        if self.unwritten or self.step.ended_at is not None or self.live.cause == "stale":
            return
        status, error_type = CUT_OFF[self.live.cause]
        waiting = self.current.waiting if self.current is not None else None
        settled = [] if waiting is None else [Change(SETTLED, changed(waiting, final=True))]
        await self.live.committed(*settled, self.closed(status, error_type))
