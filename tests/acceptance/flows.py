"""Workflows for the acceptance tests: sequential, parallel in branches, streamed, cached, several models.

`AGENTOBS_WORKFLOWS=tests.acceptance.flows` registers them in the service under test. Agents whose system prompt says
`QUICK` have a short timeout: faults that hang or are slow are aimed at it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel

from agentobs import Agent, RunContext, StepFailed, workflow

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
UNPRICED = "claude-mythos-5"  # the price data knows no price of it
QUICK = "Answer quickly."
LOOKUP = "Use lookup where you must."  # of the agent with a tool and a typed answer
STREAM = "Answer as it comes."  # of one streamed agent among them

planner = Agent(name="planner", model=SONNET, system="Plan the work in a few steps.", max_tokens=512, attempts=5)
scribe = Agent(name="scribe", model=HAIKU, system=f"{QUICK} {STREAM}", max_tokens=256, timeout_s=5, stream=True)
critic = Agent(
    name="critic",
    model=OPUS,
    system="Say what is wrong with it, first of all.",
    max_tokens=256,
    cache="5m",
    effort="low",
)
oracle = Agent(name="oracle", model=UNPRICED, system="Guess how it will end.", max_tokens=256, stream=True)
clerk = Agent(name="clerk", model=HAIKU, system=QUICK, max_tokens=128, timeout_s=5)
joiner = Agent(
    name="joiner", model=SONNET, system="Join the parts into one text.", max_tokens=512, cache="5m", stream=True
)


def collect(topic: str) -> dict[str, Any]:
    return {"topic": topic, "sources": [f"{topic} {number}" for number in range(3)]}


async def publish(text: str, idempotency_key: str = "") -> str:
    await asyncio.sleep(0)
    return f"{len(text)} characters as {idempotency_key[-6:]}"


@workflow(agents=[planner, scribe, clerk], steps=[collect, publish], version="2026.11")
async def sequence(run: RunContext, input: dict[str, str]) -> str:
    """One after the other, plain and streamed, between function steps."""
    found = await run.step(collect, input["topic"])
    plan = await run.call(planner, f"Plan {found['sources']} by {run.now():%Y} as {run.uuid()}")
    text = await run.call(scribe, f"Write {input['topic']}: {plan[:200]}")
    checked = await run.call(clerk, f"Check {text[:200]}")
    return await run.step(publish, checked)


@workflow(agents=[critic, oracle, clerk, joiner])
async def fanout(run: RunContext, input: dict[str, str]) -> str:
    """Parallel branches that ask the same of different agents; the first failure ends them all."""

    async def side(name: str, agent: Agent) -> str:
        branch = run.branch(name)
        first = await branch.call(agent, f"On {input['topic']}")
        return await branch.call(agent, f"Go on from {first[:100]}")

    parts = await asyncio.gather(side("critic", critic), side("oracle", oracle), side("clerk", clerk))
    return await run.call(joiner, "\n".join(part[:200] for part in parts))


@workflow(agents=[scribe, oracle, clerk, critic])
async def tolerant(run: RunContext, input: dict[str, str]) -> dict[str, int]:
    """Parallel calls without branches; what fails is counted and the rest goes on."""
    asked = [
        run.call(agent, f"{input['topic']}, part {part}") for part in range(2) for agent in (scribe, oracle, clerk)
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = [one for one in answers if isinstance(one, StepFailed)]
    if len(failed) < len(answers):
        await run.call(critic, f"Judge {input['topic']} of {len(answers) - len(failed)} parts")
    return {"answers": len(answers) - len(failed), "failures": len(failed)}


def lookup(place: str, idempotency_key: str) -> dict[str, str]:
    """What is known of a place."""
    return {"place": place, "key": idempotency_key[-8:]}


class Finding(BaseModel):
    place: str
    certainty: Literal["low", "high"]


guide = Agent(
    name="guide",
    model=SONNET,
    system=LOOKUP,
    max_tokens=512,
    tools=[lookup],
    stream=True,
    attempts=5,
)


@workflow(agents=[guide])
async def enquiry(run: RunContext, input: dict[str, str]) -> list[str]:
    """An agent with a tool and a typed answer: several turns a call."""
    found = [
        await run.branch(f"try-{n}").call(guide, f"Find the {input['topic']} ({n})", output=Finding) for n in range(2)
    ]
    return [one.certainty for one in found]


MIXED = ("sequence", "fanout", "tolerant", "article", "enquiry")


def mixed_input(number: int) -> tuple[str, dict[str, str]]:
    """The n-th run of a mixed load: workflow and input, no two alike."""
    name = MIXED[number % len(MIXED)]
    return name, {"goal" if name == "article" else "topic": f"harbour lantern {number} weather"}
