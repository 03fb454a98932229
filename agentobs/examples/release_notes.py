"""Release notes by debate: an author drafts, a critic holds the draft against the changes (`patterns.debate`)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agentobs.agents import Agent
from agentobs.patterns import debate
from agentobs.runtime.run import RunContext
from agentobs.workflows import workflow

author = Agent(
    name="author",
    model="claude-haiku-5-5",
    system="Write release notes for the users of a program: what changes for them, breaking changes first.",
    max_tokens=2048,
)
critic = Agent(
    name="critic",
    model="claude-opus-5-5",
    system="Accept release notes only if every change is in them, nothing is invented, and a user would understand.",
    max_tokens=1024,
)


class ReleaseNotesInput(BaseModel):
    """The changes of a release."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, max_length=50, description="The release, such as 2.4.0.")
    changes: list[str] = Field(min_length=1, description="The changes, in the developers' words.")
    rounds: int = Field(default=3, ge=1, le=8, description="The most drafts that are judged.")


class ReleaseNotes(BaseModel):
    """The notes, and whether the critic accepted them."""

    text: str
    accepted: bool
    rounds: int


@workflow(agents=[author, critic], deadline_s=1800)
async def release_notes(run: RunContext, input: ReleaseNotesInput) -> ReleaseNotes:  # noqa: A002 -- the word its users use
    """Draft release notes and revise them until a critic accepts them."""
    changes = "\n".join(f"- {change}" for change in input.changes)
    task = f"Release notes for version {input.version} from these changes:\n{changes}"
    ended = await debate(run, author, critic, task, rounds=input.rounds)
    return ReleaseNotes(text=ended.output, accepted=ended.converged, rounds=ended.rounds)
