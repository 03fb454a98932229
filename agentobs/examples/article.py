"""The lesson's workflow: a researcher, a writer and an editor, one after the other.

A small model does the volume, a large one the judgement.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agentobs.agents import Agent
from agentobs.models.protocol import Message
from agentobs.runtime.run import RunContext
from agentobs.workflows import workflow

researcher = Agent(
    name="researcher",
    model="claude-haiku-5-5",
    system="Research topics thoroughly. Provide facts and examples.",
    max_tokens=2048,
)
writer = Agent(
    name="writer",
    model="claude-haiku-5-5",
    system="Write clear, engaging content from research notes.",
    max_tokens=2048,
    stream=True,  # a stream that is cut off has told its usage; a plain answer never would
)
editor = Agent(
    name="editor",
    model="claude-opus-5-5",
    system="Edit for clarity and impact. Return the improved version.",
    max_tokens=2048,
)


class ArticleInput(BaseModel):
    """What to write about."""

    model_config = ConfigDict(extra="forbid")

    goal: str = Field(min_length=1, description="The article's subject, in a sentence.")
    notes: str | None = Field(default=None, description="Notes of your own for the researcher to start from.")


@workflow(agents=[researcher, writer, editor], deadline_s=1800)
async def article(run: RunContext, input: ArticleInput) -> str:  # noqa: A002 -- the word its users use
    """Research a subject, write about it, edit the text."""
    research = await run.call(researcher, _question(input))
    draft = await run.call(writer, f"Write about: {input.goal}\n\nResearch: {research}")
    return await run.call(editor, f"Edit: {draft}")


def _question(given: ArticleInput) -> str | list[Message]:
    question = f"Research: {given.goal}"
    if given.notes is None:
        return question
    # The notes as a block of their own: the API refuses empty ones (400), so the run fails, visibly.
    blocks = [{"type": "text", "text": question}, {"type": "text", "text": given.notes}]
    return [{"role": "user", "content": blocks}]
