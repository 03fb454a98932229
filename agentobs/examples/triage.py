"""Support tickets in parallel: sort each, then draft a reply; one that fails is reported (`patterns.pipeline`)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agentobs.agents import Agent
from agentobs.patterns import Item, pipeline
from agentobs.runtime.run import RunContext
from agentobs.workflows import workflow

sorter = Agent(
    name="sorter",
    model="claude-haiku-5-5",
    system="Sort a support ticket by what it is about and how urgent it is. Urgent is what stops somebody's work.",
    max_tokens=512,
)
replier = Agent(
    name="replier",
    model="claude-haiku-5-5",
    system="Draft a reply to a support ticket: kind, short, with the next step. Promise nothing.",
    max_tokens=1024,
)


class TriageInput(BaseModel):
    """Tickets as they came in."""

    model_config = ConfigDict(extra="forbid")

    tickets: list[str] = Field(min_length=1, max_length=500, description="One text a ticket.")
    at_once: int = Field(default=8, ge=1, le=100, description="Tickets that are worked on at a time.")


class Sorted(BaseModel):
    """What a ticket is about."""

    model_config = ConfigDict(extra="forbid")

    topic: Literal["bug", "billing", "how-to", "feature", "other"]
    urgency: Literal["low", "normal", "urgent"]


class Triaged(BaseModel):
    """A ticket with its reply, or why there is none."""

    ticket: int
    topic: str | None = None
    urgency: str | None = None
    reply: str | None = None
    failed: str | None = Field(default=None, description="The error type of what failed.")


@workflow(agents=[sorter, replier], deadline_s=3600)
async def triage(run: RunContext, input: TriageInput) -> list[Triaged]:  # noqa: A002 -- the word its users use
    """Sort support tickets and draft a reply to each, many at a time."""

    async def sort(here: RunContext, ticket: str) -> tuple[str, Sorted]:
        return ticket, await here.call(sorter, f"Ticket:\n{ticket}", output=Sorted)

    async def reply(here: RunContext, known: tuple[str, Sorted]) -> tuple[Sorted, str]:
        ticket, found = known
        text = await here.call(replier, f"A {found.urgency} ticket about {found.topic}:\n{ticket}")
        return found, text

    ended = await pipeline(run, input.tickets, sort, reply, at_once=input.at_once)
    if all(item.failure for item in ended) and ended[0].failure:
        raise ended[0].failure  # nothing came of it: the run fails as its first ticket did
    return [_told(item) for item in ended]


def _told(item: Item[tuple[Sorted, str]]) -> Triaged:
    if item.value is None:
        return Triaged(ticket=item.index, failed=item.failure.error_type if item.failure else None)
    found, text = item.value
    return Triaged(ticket=item.index, topic=found.topic, urgency=found.urgency, reply=text)
