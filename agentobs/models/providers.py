"""Which client serves an agent: one a provider, made when its first call (or a service's start) asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from agentobs.agents import Provider
from agentobs.errors import AgentobsError
from agentobs.models.anthropic import AnthropicModel
from agentobs.workflows import Workflow

if TYPE_CHECKING:
    from agentobs.models.wire import Wire

# Where a platform is, as long as its region or resource is not known.
_HOMES: Final[Mapping[str, str]] = {
    "bedrock": "https://bedrock-runtime.amazonaws.com",
    "vertex": "https://aiplatform.googleapis.com",
    "foundry": "https://services.ai.azure.com",
}


def models_for(*, api_key: str | None, base_url: str | None, max_connections: int) -> dict[str, AnthropicModel]:
    """A client for every provider that an agent may name. Each imports what it needs when it is first used.

    `api_key` and `base_url` are Anthropic's; the platforms have their own variables. `max_connections` bounds each.
    """
    models = {"anthropic": AnthropicModel(api_key=api_key, base_url=base_url, max_connections=max_connections)}
    for provider, home in _HOMES.items():
        models[provider] = AnthropicModel(make_wire=partial(_wire, provider, max_connections), home=home)
    return models


async def warm_up(models: Mapping[str, AnthropicModel], workflows: Iterable[Workflow]) -> AsyncIterator[str]:
    """Make ready the clients that the workflows' agents use; yields a sentence for each that cannot be."""
    for provider, agents in users(workflows).items():
        try:
            await models[provider].warm_up()
        except Exception as error:  # noqa: BLE001 -- of the SDK's own errors the text is not ours to show
            named = ", ".join(repr(agent) for agent in agents)
            why = str(error) if isinstance(error, AgentobsError) else type(error).__name__
            yield f"provider {provider!r} cannot be used, and every call of agent {named} will fail: {why}"


async def unready(workflows: Iterable[Workflow]) -> list[str]:
    """What `warm_up` says of the workflows' platforms, tried on clients of their own: for who shows no log."""
    models = models_for(api_key=None, base_url=None, max_connections=1)
    said = [warning async for warning in warm_up(models, workflows)]
    for model in models.values():
        await model.close()
    return said


def users(workflows: Iterable[Workflow]) -> dict[Provider, list[str]]:
    """The names of the agents that use each provider, providers in the order of their first agent."""
    found: dict[Provider, list[str]] = {}
    for workflow in workflows:
        for agent in workflow.agents:
            names = found.setdefault(agent.provider, [])
            if agent.name not in names:
                names.append(agent.name)
    return found


def _wire(provider: str, max_connections: int) -> Wire:
    # Not at the top: it imports the SDK.
    from agentobs.models.platforms import BedrockWire, FoundryWire, VertexWire  # noqa: PLC0415

    kind = {"bedrock": BedrockWire, "vertex": VertexWire, "foundry": FoundryWire}[provider]
    return kind(max_connections=max_connections)
