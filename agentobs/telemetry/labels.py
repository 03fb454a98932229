"""Which label sets exist from the start, so that the first failure is an increase and not a birth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentobs.records import (
    AGENT,
    CANCELLED,
    ERROR_TYPES,
    FAILED,
    FUNCTION,
    INTERRUPTED,
    PARTIAL,
    REASONS,
    SUCCEEDED,
    TOOL,
    UNKNOWN,
)
from agentobs.telemetry import names
from agentobs.telemetry.names import Metric
from agentobs.telemetry.published import Labels
from agentobs.telemetry.text import clean, provider_name

_STEP_OUTCOMES: Final = (SUCCEEDED, FAILED, CANCELLED, INTERRUPTED)


@dataclass(frozen=True, kw_only=True)
class AgentLabels:
    """An agent as labels see it."""

    name: str
    model: str
    provider: str = "anthropic"
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkflowLabels:
    """A workflow as labels see it: what it may call is declared, so its label sets are known."""

    name: str
    version: str = ""
    agents: tuple[AgentLabels, ...] = ()
    steps: tuple[str, ...] = ()  # names of function steps


def counter_sets(workflows: Sequence[WorkflowLabels]) -> Iterator[tuple[Metric, Labels]]:
    """Every label set that an alert may ask a rate of."""
    for outcome in names.EXPORT_OUTCOMES:
        yield names.SPANS_EXPORTED, (outcome,)
    for workflow in workflows:
        yield from _runs(workflow.name)
        for step in workflow.steps:
            yield from _steps(workflow.name, FUNCTION, step)
        for agent in workflow.agents:
            yield from _steps(workflow.name, AGENT, agent.name)
            for tool in agent.tools:
                yield from _steps(workflow.name, TOOL, tool)
            yield from _attempts(workflow.name, agent)


def histogram_sets(workflows: Sequence[WorkflowLabels]) -> Iterator[tuple[Metric, Labels]]:
    """Those that an alert reads, and durations of what succeeds; other series come with their first observation."""
    yield names.COMMIT_SECONDS, ()
    yield names.LOOP_LAG, ()
    for workflow in workflows:
        yield names.RUN_SECONDS, (workflow.name, "")
        for converged in names.CONVERGED:
            yield names.DEBATE_ROUNDS, (workflow.name, converged)
        for agent in workflow.agents:
            model = clean(agent.model)
            yield names.AGENT_SECONDS, (agent.name, model, "")
            yield names.INFERENCE_SECONDS, (names.CHAT, provider_name(agent.provider), model, "")


def _runs(workflow: str) -> Iterable[tuple[Metric, Labels]]:
    yield names.RUNS, (workflow, SUCCEEDED, "")
    yield names.RUNS, (workflow, CANCELLED, CANCELLED)
    for error_type in ERROR_TYPES:
        if error_type != CANCELLED:
            yield names.RUNS, (workflow, FAILED, error_type)
    for reason in REASONS:
        yield names.EXECUTIONS, (workflow, reason)


def _steps(workflow: str, kind: str, name: str) -> Iterable[tuple[Metric, Labels]]:
    for outcome in _STEP_OUTCOMES:
        yield names.STEPS, (workflow, kind, name, outcome)
    yield names.STEPS_REUSED, (workflow, name)
    yield names.SAVED, (workflow, name)


def _attempts(workflow: str, agent: AgentLabels) -> Iterable[tuple[Metric, Labels]]:
    model = clean(agent.model)
    who = (workflow, agent.name, model)
    for outcome in names.ATTEMPT_OUTCOMES:
        yield names.ATTEMPTS, (*who, outcome)
    for outcome in names.PAID_OUTCOMES:
        yield names.COST, (*who, outcome)
    for usage in (PARTIAL, UNKNOWN):
        yield names.INEXACT, (*who, usage)
    for kind in names.TOKEN_KINDS:
        yield names.TOKENS_TOTAL, (*who, kind)
    yield names.RETRY_WAIT_SECONDS, who
    yield names.UNPRICED, (model,)
    for metric in (names.GEN_AI_INPUT, names.GEN_AI_OUTPUT, names.GEN_AI_CACHE_READ, names.GEN_AI_CACHE_WRITE):
        yield metric, (names.CHAT, provider_name(agent.provider), model, names.MODALITY)
