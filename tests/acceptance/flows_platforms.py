"""A workflow with an agent of each provider, plain and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

from agentobs import Agent, RunContext, workflow

MODELS = {
    "anthropic": "claude-haiku-4-5",
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "vertex": "claude-haiku-4-5@20251001",
    "foundry": "claude-haiku-4-5",
}
AGENTS = [
    Agent(
        name=f"{provider}-{'streamed' if streams else 'plain'}",
        provider=provider,  # type: ignore[arg-type]
        model=model,
        system=f"You are served by {provider}.",
        cache="5m",
        max_tokens=256,
        attempts=4,
        stream=streams,
    )
    for provider, model in MODELS.items()
    for streams in (False, True)
]


@workflow(agents=AGENTS)
async def everywhere(run: RunContext, input: dict[str, Any]) -> dict[str, int]:
    """The same question to every provider at once."""
    texts = await asyncio.gather(*(run.call(agent, f"Say something of {input['topic']}.") for agent in AGENTS))
    return {agent.name: len(text) for agent, text in zip(AGENTS, texts, strict=True)}


@workflow(agents=[agent for agent in AGENTS if agent.provider == "vertex"])
async def only_vertex(run: RunContext, input: dict[str, Any]) -> str:
    return await run.call(AGENTS[list(MODELS).index("vertex") * 2], "Say something.")
