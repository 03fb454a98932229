"""A report by delegation: a lead plans who finds out what, and who writes it up (`patterns.orchestrate`)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agentobs.agents import Agent
from agentobs.patterns import orchestrate
from agentobs.runtime.run import RunContext
from agentobs.workflows import workflow

lead = Agent(
    name="lead",
    model="claude-opus-5-5",
    system="You lead a small research team. Plan few, self-contained tasks; end with the writing of the report.",
    max_tokens=2048,
)
analyst = Agent(
    name="analyst",
    model="claude-haiku-5-5",
    system="Finds and weighs facts and figures, and says how sure they are.",
    max_tokens=2048,
)
sceptic = Agent(
    name="sceptic",
    model="claude-haiku-5-5",
    system="Looks for what speaks against a finding: risks, gaps, other explanations.",
    max_tokens=1024,
)
reporter = Agent(
    name="reporter",
    model="claude-haiku-5-5",
    system="Writes reports that a busy person can act on: the answer first, then the reasons.",
    max_tokens=2048,
    stream=True,
)


class ReportInput(BaseModel):
    """What the report is to answer."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, description="The question that the report answers.")
    max_tasks: int = Field(default=5, ge=1, le=12, description="The most tasks that the lead may plan.")


class Section(BaseModel):
    """One finished task."""

    by: str
    task: str
    text: str


class Report(BaseModel):
    """The report is the last section; those before it are what it was made from."""

    sections: list[Section]


@workflow(agents=[lead, analyst, sceptic, reporter], deadline_s=1800)
async def report(run: RunContext, input: ReportInput) -> Report:  # noqa: A002 -- the word its users use
    """Plan a report's tasks, do them one after the other, each with the results of those before it."""
    done = await orchestrate(run, lead, [analyst, sceptic, reporter], input.question, max_tasks=input.max_tasks)
    return Report(
        sections=[Section(by=each.task.agent, task=each.task.instruction, text=each.output) for each in done.results]
    )
