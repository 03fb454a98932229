"""Requests that go straight over aiohttp are those that the SDK would have sent."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import pytest

from agentobs.agents import Agent
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.protocol import Progress
from tests.integration.canned_api import CannedApi, canned_api, message, plain

ASK = ({"role": "user", "content": "hi"},)


@pytest.fixture
async def api() -> AsyncIterator[CannedApi]:
    async with canned_api() as running:
        running.will(plain(message()))
        yield running


async def asked(
    api: CannedApi, *, direct: bool, agents: tuple[Agent, ...], prefix: str = "/base"
) -> list[dict[str, str]]:
    model = AnthropicModel(api_key="sk-test", base_url=api.url + prefix)
    await model.warm_up()
    if not direct:
        model._wire._direct = None
    for agent in agents:
        reply = await model.send(agent, ASK, reference="00f067aa0ba902b7", progress=Progress())
        assert reply.outcome == "ok"
    await model.close()
    found = [{"path": seen.path} | {k.lower(): v for k, v in seen.headers.items()} for seen in api.seen]
    api.seen.clear()
    return found


async def test_the_same_path_and_headers_go_out_either_way(api: CannedApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-team: docs")
    agents = tuple(Agent(name="a", model="claude-haiku-4-5", timeout_s=timeout_s) for timeout_s in (5, 90, 5))
    ours = await asked(api, direct=True, agents=agents)
    theirs = await asked(api, direct=False, agents=agents)
    assert ours == theirs
    assert [one["x-stainless-timeout"] for one in ours] == ["5", "90", "5"]
    assert {one["x-agentobs-attempt"] for one in ours} == {"00f067aa0ba902b7"}


async def test_a_proxy_is_the_sdks_to_see_to(api: CannedApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    model = AnthropicModel(api_key="sk-test", base_url=api.url)
    await model.warm_up()
    assert model._wire._direct is None
    await model.close()


async def test_a_compressed_failure_has_its_name(api: CannedApi):
    body = gzip.compress(json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}).encode())
    api.will(plain(body, 529, {"content-encoding": "gzip"}))
    model = AnthropicModel(api_key="sk-test", base_url=api.url)
    reply = await model.send(
        Agent(name="a", model="claude-haiku-4-5"), ASK, reference="00f067aa0ba902b7", progress=Progress()
    )
    await model.close()
    assert (reply.outcome, reply.error_class) == ("overloaded", "OverloadedError")
