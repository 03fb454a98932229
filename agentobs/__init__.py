"""Durable, observable multi-agent Claude workflows.

from agentobs import Agent, RunContext, StepFailed, step, workflow
"""

from __future__ import annotations

from agentobs.agents import Agent
from agentobs.errors import AgentobsError, StepFailed, UsageError
from agentobs.functions import step
from agentobs.runtime.run import RunContext
from agentobs.version import __version__
from agentobs.workflows import workflow

__all__ = ["Agent", "AgentobsError", "RunContext", "StepFailed", "UsageError", "__version__", "step", "workflow"]
