"""Bedrock, Vertex and Foundry: each is asked as the SDK asks it, and its answers are worth what Anthropic's are."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from agentobs.agents import Agent
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.pricing import price_version
from agentobs.models.protocol import Price, Progress, Reply
from agentobs.models.providers import models_for, users, warm_up
from agentobs.records import EXACT, NO_USAGE, PARTIAL, ZERO_USAGE, Usage
from agentobs.simulator import Simulator
from agentobs.simulator.dialect import BEDROCK
from agentobs.workflows import declare
from tests.google_token import TokenServer
from tests.integration.canned_api import (
    CannedApi,
    Script,
    canned_api,
    end,
    message,
    plain,
    start,
    stream,
    text_block,
    whole_stream,
)

ASK = ({"role": "user", "content": "hi"},)
REFERENCE = "00f067aa0ba902b7"
MODELS = {
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "vertex": "claude-haiku-4-5@20251001",
    "foundry": "claude-haiku-4-5",
}
PLATFORMS = list(MODELS)
KEY, SECRET, SESSION, REGION = "AKIATEST", "secret-of-aws", "session-of-aws", "eu-west-1"

FREE = Price(pico=0, version=price_version())
WHOLE = Usage(input_uncached=100, output=50, state=EXACT)
PART = Usage(input_uncached=100, output=1, state=PARTIAL)
PAID = {"bedrock": 385_000_000, "vertex": 350_000_000, "foundry": 350_000_000}  # regional Bedrock: a tenth more


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment in which nothing is to be found."""
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "ANTHROPIC_", "GOOGLE_", "CLOUD_ML_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
async def api() -> AsyncIterator[CannedApi]:
    async with canned_api() as running:
        yield running


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


def connect(monkeypatch: pytest.MonkeyPatch, url: str, key_file: Path, **changes: str) -> None:
    """All three platforms, at one address."""
    settings = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_REGION": REGION,
        "ANTHROPIC_BEDROCK_BASE_URL": url,
        "CLOUD_ML_REGION": "global",
        "ANTHROPIC_VERTEX_PROJECT_ID": "my-project",
        "ANTHROPIC_VERTEX_BASE_URL": f"{url}/v1",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
        "ANTHROPIC_FOUNDRY_API_KEY": "key-of-foundry",
        "ANTHROPIC_FOUNDRY_BASE_URL": f"{url}/anthropic",
    }
    for name, value in (settings | changes).items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def models(
    api: CannedApi, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Mapping[str, AnthropicModel]]:
    connect(monkeypatch, api.url, tokens.key_file(tmp_path / "key.json"))
    made = make()
    yield made
    await close(made)


def make() -> dict[str, AnthropicModel]:
    return models_for(api_key=None, base_url=None, max_connections=50)


async def close(models: Mapping[str, AnthropicModel]) -> None:
    for model in models.values():
        await model.close()


def agent(provider: str, **changes: Any) -> Agent:
    return Agent(**{"name": "writer", "provider": provider, "model": MODELS[provider]} | changes)


async def ask(models: Mapping[str, AnthropicModel], asked: Agent, **changes: Any) -> tuple[Reply, Progress]:
    progress = changes.pop("progress", None) or Progress()
    model = models[asked.provider]
    await model.ready()
    return await model.send(asked, ASK, reference=REFERENCE, progress=progress), progress


# ---- what is sent ----

# Ids whose characters mean something in a path.
ODD = {
    "bedrock": [
        "anthropic.claude-opus-5",
        "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123",
        "us.anthropic.claude?x#y;z",
        "modèle 100%",
    ],
    "vertex": ["claude-opus-5", "claude opus/5", "claude?x=1#y", "modèle 100%"],
    "foundry": ["my-deployment", "claude?x=1#y"],
}
ASKED = [(provider, model, streams) for provider in ODD for model in ODD[provider] for streams in (False, True)] + [
    (provider, model, streams) for provider, model in MODELS.items() for streams in (False, True)
]


@pytest.mark.parametrize(("provider", "model", "streams"), ASKED)
async def test_a_request_is_the_one_that_the_sdk_would_make(
    api: CannedApi, models: Mapping[str, AnthropicModel], provider: str, model: str, streams: bool
):
    """Path, body and headers; ours leaves out the SDK's models of request and answer, and so most of its CPU."""
    api.will(plain({"error": "no"}, 400))
    asked = agent(provider, model=model, stream=streams, system="Be brief.", cache="5m", effort="low")
    await ask(models, asked)
    client: Any = {
        "bedrock": anthropic.AsyncAnthropicBedrock,
        "vertex": anthropic.AsyncAnthropicVertex,
        "foundry": anthropic.AsyncAnthropicFoundry,
    }[provider](max_retries=0)
    mark = {"type": "ephemeral", "ttl": "5m"}
    async with client:
        with pytest.raises(anthropic.APIStatusError):
            await client.messages.create(
                model=model,
                max_tokens=asked.max_tokens,
                messages=list(ASK),
                stream=streams,
                system=[{"type": "text", "text": "Be brief.", "cache_control": mark}],
                cache_control=mark,
                output_config={"effort": "low"},
            )
    ours, theirs = api.seen
    assert ours.raw_path == theirs.raw_path
    # Unlike us, it says also that it does not stream where the platform leaves that in the body.
    assert {"stream": False} | ours.body == {"stream": False} | theirs.body
    assert ours.body.get("stream", False) is (streams and provider != "bedrock")
    own = {"x-agentobs-attempt", "authorization", "x-amz-date", "content-length", "x-stainless-read-timeout"}
    names = [{name.lower() for name in seen.headers} - own for seen in (ours, theirs)]
    assert names[0] >= names[1] - {"x-stainless-timeout", "x-stainless-retry-count"}
    assert ours.headers["x-agentobs-attempt"] == REFERENCE
    assert models[provider].url(asked) == f"{api.url}{ours.raw_path}"


@pytest.mark.parametrize("provider", ["bedrock", "vertex"])
@pytest.mark.parametrize("model", [".", ".."])
async def test_a_model_that_would_lead_to_another_path_is_never_asked(
    api: CannedApi, models: Mapping[str, AnthropicModel], provider: str, model: str
):
    reply, progress = await ask(models, agent(provider, model=model))
    assert (reply.outcome, progress.usage, api.seen) == ("invalid_request", ZERO_USAGE, [])


def signature(seen: Any, secret: str = SECRET) -> str:
    """What AWS would compute of the request that arrived, over the headers that it says are signed."""
    signed = seen.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(
        method="POST",
        url=f"http://{seen.headers['host']}{seen.raw_path}",
        headers={name: seen.headers[name] for name in signed},
        data=seen.raw,
    )
    request.context["timestamp"] = seen.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(KEY, secret, SESSION), "bedrock", REGION)
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)


@pytest.mark.parametrize("model", [MODELS["bedrock"], *ODD["bedrock"]])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_request_to_bedrock_is_signed_as_it_arrives(
    api: CannedApi, models: Mapping[str, AnthropicModel], model: str, streams: bool
):
    api.will(plain({"message": "no"}, 400))
    await ask(models, agent("bedrock", model=model, stream=streams))
    (seen,) = api.seen
    told = seen.headers["authorization"]
    assert told.startswith(f"AWS4-HMAC-SHA256 Credential={KEY}/")
    assert f"/{REGION}/bedrock/aws4_request" in told
    assert seen.headers["x-amz-security-token"] == SESSION
    assert told.endswith(f"Signature={signature(seen)}")
    assert not told.endswith(f"Signature={signature(seen, 'another')}")
    assert "x-agentobs-attempt" in told  # so nobody on the way can change whose it is


async def test_a_bedrock_key_is_enough(
    api: CannedApi, models: Mapping[str, AnthropicModel], monkeypatch: pytest.MonkeyPatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "key-of-bedrock")
    api.will(plain(message()))
    assert (await ask(models, agent("bedrock")))[0].outcome == "ok"
    assert api.seen[0].headers["authorization"] == "Bearer key-of-bedrock"


async def test_foundry_gets_its_own_key_and_never_anthropics(
    api: CannedApi, models: Mapping[str, AnthropicModel], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    api.will(plain(message()))
    assert (await ask(models, agent("foundry")))[0].outcome == "ok"
    assert api.seen[0].headers["x-api-key"] == "key-of-foundry"
    assert "sk-ant-secret" not in str(dict(api.seen[0].headers))


@pytest.mark.parametrize("provider", PLATFORMS)
@pytest.mark.parametrize("status", [307, 500, 529])
async def test_exactly_one_request_goes_out_and_no_redirect_is_followed(
    api: CannedApi, models: Mapping[str, AnthropicModel], provider: str, status: int
):
    api.will(plain({"message": "no"}, status, {"location": f"{api.url}/elsewhere"}))
    await ask(models, agent(provider))
    assert len(api.seen) == 1


# ---- tokens of Vertex ----


async def test_many_calls_share_one_token_and_renew_it_when_it_ends(
    api: CannedApi, models: Mapping[str, AnthropicModel], tokens: TokenServer
):
    tokens.expires_s = 1  # less than the client keeps in hand: over as soon as it is there
    api.will(plain(message()))
    await ask(models, agent("vertex"))
    assert tokens.issued == ["ya29.token-1"]
    tokens.expires_s = 3600
    replies = await asyncio.gather(*(ask(models, agent("vertex")) for _ in range(20)))
    assert {reply.outcome for reply, _ in replies} == {"ok"}
    assert tokens.issued == ["ya29.token-1", "ya29.token-2"]
    assert {seen.headers["authorization"] for seen in api.seen[1:]} == {"Bearer ya29.token-2"}


async def test_a_refused_token_is_an_outcome_and_costs_nothing(
    api: CannedApi, models: Mapping[str, AnthropicModel], tokens: TokenServer
):
    tokens.status = 400
    reply, progress = await ask(models, agent("vertex"))
    assert (reply.outcome, reply.error_class) == ("authentication", "RefreshError")
    assert (progress.usage, progress.price, api.seen) == (ZERO_USAGE, FREE, [])


async def test_a_token_endpoint_that_is_gone_is_a_connection_error_and_costs_nothing(
    api: CannedApi, models: Mapping[str, AnthropicModel], tokens: TokenServer
):
    tokens.stop()
    reply, progress = await ask(models, agent("vertex", timeout_s=20.0))
    assert reply.outcome in {"connection_error", "timeout"}
    assert (progress.usage, api.seen) == (ZERO_USAGE if reply.outcome == "connection_error" else NO_USAGE, [])


# ---- answers ----


def framed(provider: str, pieces: list[bytes]) -> list[bytes]:
    """Server-sent events as the platform sends them."""
    if provider != "bedrock":
        return pieces
    return [BEDROCK.frame(one + b"\n\n") for piece in pieces for one in piece.split(b"\n\n") if one]


def answered(provider: str, pieces: list[bytes], *, then: str = "end") -> Script:
    kind = "application/vnd.amazon.eventstream" if provider == "bedrock" else "text/event-stream"
    return stream(framed(provider, pieces), then=then, headers={"content-type": kind})


@pytest.mark.parametrize("provider", PLATFORMS)
@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer(api: CannedApi, models: Mapping[str, AnthropicModel], provider: str, streams: bool):
    api.will(answered(provider, whole_stream()) if streams else plain(message()))
    begun: list[Usage] = []
    progress = Progress()
    progress.on_start = lambda: begun.append(progress.usage)
    reply, _ = await ask(models, agent(provider, stream=streams), progress=progress)
    assert (reply.outcome, reply.text, reply.stop_reason) == ("ok", "hello", "end_turn")
    assert (progress.usage, progress.price) == (WHOLE, Price(pico=PAID[provider], version=price_version()))
    assert (progress.request_id, progress.response_id) == ("req_1", "msg_1")
    assert begun == ([PART] if streams else [])


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_binary_stream_may_be_cut_anywhere(api: CannedApi, models: Mapping[str, AnthropicModel], size: int):
    data = b"".join(framed("bedrock", whole_stream()))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    api.will(stream(pieces, headers={"content-type": "application/vnd.amazon.eventstream"}))
    reply, progress = await ask(models, agent("bedrock", stream=True))
    assert (reply.outcome, reply.text, progress.usage) == ("ok", "hello", WHOLE)


def exception(name: str) -> bytes:
    """An exception as AWS has it in a stream."""
    from agentobs.simulator.dialect import _message

    return _message({":exception-type": name, ":message-type": "exception"}, {"message": "no"})


def corrupt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


HEAD = framed("bedrock", [start(), text_block("hel")])
BROKEN: list[tuple[list[bytes], str, str, Usage]] = [
    ([*HEAD], "end", "stream_truncated", PART),
    ([*HEAD], "cut", "stream_truncated", PART),
    ([*HEAD[:-1], HEAD[-1][:20]], "end", "stream_truncated", PART),
    ([*framed("bedrock", [start(), text_block("hel"), end()])[:-1]], "end", "stream_truncated", WHOLE),
    ([], "end", "stream_truncated", NO_USAGE),
    ([*HEAD, exception("modelStreamErrorException")], "hang", "stream_error", PART),
    ([*HEAD, corrupt(HEAD[-1])], "hang", "bad_response", PART),
    ([b"<html>502 Bad Gateway, and then some more</html>"], "end", "bad_response", NO_USAGE),
    ([exception("throttlingException")], "end", "rate_limited", ZERO_USAGE),
    ([exception("validationException")], "end", "invalid_request", ZERO_USAGE),
    ([exception("internalServerException")], "end", "server_error", ZERO_USAGE),
    ([exception("modelTimeoutException")], "end", "server_error", ZERO_USAGE),
    ([exception("serviceUnavailableException")], "end", "server_error", ZERO_USAGE),
    ([exception("somethingNewException")], "end", "stream_error", ZERO_USAGE),
]


@pytest.mark.parametrize(("pieces", "then", "outcome", "usage"), BROKEN)
async def test_a_binary_stream_that_breaks_keeps_what_it_told(
    api: CannedApi, models: Mapping[str, AnthropicModel], pieces: list[bytes], then: str, outcome: str, usage: Usage
):
    kind = {"content-type": "application/vnd.amazon.eventstream"}
    api.will(stream(pieces, then=then, pause_s=0.01, headers=kind))
    reply, progress = await ask(models, agent("bedrock", stream=True))
    assert (reply.outcome, progress.usage) == (outcome, usage)


AWS = "http://internal.amazon.com/coral/com.amazon.coral.service/"
REFUSED: list[tuple[str, int, dict[str, str], str]] = [
    ("bedrock", 429, {"x-amzn-errortype": f"ThrottlingException:{AWS}"}, "rate_limited"),
    ("bedrock", 400, {"x-amzn-errortype": f"ValidationException:{AWS}"}, "invalid_request"),
    ("bedrock", 403, {"x-amzn-errortype": f"AccessDeniedException:{AWS}"}, "permission"),
    ("bedrock", 403, {"x-amzn-errortype": f"UnrecognizedClientException:{AWS}"}, "authentication"),
    ("bedrock", 403, {"x-amzn-errortype": "ExpiredTokenException"}, "authentication"),
    ("bedrock", 403, {"x-amzn-errortype": "InvalidSignatureException"}, "authentication"),
    ("bedrock", 404, {"x-amzn-errortype": "ResourceNotFoundException"}, "not_found"),
    ("bedrock", 408, {"x-amzn-errortype": "ModelTimeoutException"}, "timeout"),
    ("bedrock", 424, {"x-amzn-errortype": "ModelErrorException"}, "server_error"),
    ("bedrock", 500, {"x-amzn-errortype": "InternalServerException"}, "server_error"),
    ("bedrock", 503, {"x-amzn-errortype": "ServiceUnavailableException"}, "server_error"),
    ("vertex", 401, {}, "authentication"),
    ("vertex", 403, {}, "permission"),
    ("vertex", 404, {}, "not_found"),
    ("vertex", 429, {}, "rate_limited"),
    ("vertex", 529, {}, "overloaded"),
    ("foundry", 401, {}, "authentication"),
    ("foundry", 404, {}, "not_found"),
    ("foundry", 429, {}, "rate_limited"),
]


@pytest.mark.parametrize(("provider", "status", "headers", "outcome"), REFUSED)
async def test_a_refusal_is_classified_and_costs_nothing(
    api: CannedApi,
    models: Mapping[str, AnthropicModel],
    provider: str,
    status: int,
    headers: dict[str, str],
    outcome: str,
):
    api.will(plain({"message": "no"}, status, headers))
    reply, progress = await ask(models, agent(provider))
    assert (reply.outcome, progress.usage, progress.price) == (outcome, ZERO_USAGE, FREE)


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"request-id": "", "x-amzn-requestid": "aws-1"}, "aws-1"),
        ({"request-id": "", "apim-request-id": "azure-1"}, "azure-1"),
        ({"request-id": "req_9", "apim-request-id": "azure-1"}, "req_9"),
    ],
)
async def test_the_platforms_own_request_id_is_kept(
    api: CannedApi, models: Mapping[str, AnthropicModel], headers: dict[str, str], request_id: str
):
    api.will(plain(message(), headers=headers))
    assert (await ask(models, agent("foundry")))[1].request_id == request_id


# ---- prices ----


async def test_vertex_costs_a_tenth_more_where_it_is_not_global(
    api: CannedApi, models: Mapping[str, AnthropicModel], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLOUD_ML_REGION", "us-east5")
    api.will(plain(message()))
    _, progress = await ask(models, agent("vertex"))
    assert progress.price.pico == 385_000_000
    assert "/locations/us-east5/" in api.seen[0].path


async def test_bedrock_is_priced_by_the_id_that_was_asked(api: CannedApi, models: Mapping[str, AnthropicModel]):
    api.will(plain(message()))
    there = agent("bedrock", model="global.anthropic.claude-haiku-4-5-20251001-v1:0")
    profile = agent("bedrock", model="arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123")
    known = agent("bedrock", model=f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODELS['bedrock']}")
    costs = [(await ask(models, one))[1].price.pico for one in (there, profile, known)]
    assert costs == [350_000_000, None, 385_000_000]


# ---- what is missing ----

MISSING: list[tuple[str, dict[str, str], str, str]] = [
    ("bedrock", {"AWS_REGION": ""}, "invalid_request", "set AWS_REGION"),
    ("bedrock", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "authentication", "set AWS_ACCESS_KEY_ID"),
    ("bedrock", {"AWS_PROFILE": "absent"}, "authentication", "ProfileNotFound"),
    ("bedrock", {"ANTHROPIC_BEDROCK_BASE_URL": "nonsense"}, "invalid_request", "ANTHROPIC_BEDROCK_BASE_URL"),
    ("vertex", {"CLOUD_ML_REGION": ""}, "invalid_request", "set CLOUD_ML_REGION"),
    ("vertex", {"GOOGLE_APPLICATION_CREDENTIALS": ""}, "authentication", "set GOOGLE_APPLICATION_CREDENTIALS"),
    ("vertex", {"GOOGLE_APPLICATION_CREDENTIALS": "/absent"}, "authentication", "DefaultCredentialsError"),
    ("foundry", {"ANTHROPIC_FOUNDRY_API_KEY": ""}, "authentication", "set ANTHROPIC_FOUNDRY_API_KEY"),
    ("foundry", {"ANTHROPIC_FOUNDRY_BASE_URL": ""}, "invalid_request", "set either ANTHROPIC_FOUNDRY_RESOURCE"),
    ("foundry", {"ANTHROPIC_FOUNDRY_RESOURCE": "two"}, "invalid_request", "set either ANTHROPIC_FOUNDRY_RESOURCE"),
]


def workflow_of(*agents: Agent) -> Any:
    async def flow(run: Any, input: Any) -> None: ...

    return declare(flow, agents=agents)


async def told(models: Mapping[str, AnthropicModel], *agents: Agent) -> list[str]:
    return [one async for one in warm_up({**models, "anthropic": make()["foundry"]}, [workflow_of(*agents)])]


@pytest.mark.parametrize(("provider", "changes", "outcome", "said"), MISSING)
async def test_what_is_missing_is_told_at_the_start_and_is_an_outcome_without_cost(
    api: CannedApi,
    tokens: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    provider: str,
    changes: dict[str, str],
    outcome: str,
    said: str,
):
    connect(monkeypatch, api.url, tokens.key_file(tmp_path / "key.json"), **changes)
    models = make()
    (warning,) = await told(models, agent(provider))
    assert said in warning and repr(provider) in warning and "agent 'writer'" in warning
    for _ in range(2):
        reply, progress = await ask(models, agent(provider))
        assert (reply.outcome, progress.usage, progress.price, api.seen) == (outcome, ZERO_USAGE, FREE, [])
    assert models[provider].url(agent(provider)).startswith("https://")
    await close(models)


@pytest.mark.parametrize(("provider", "package"), [("bedrock", "boto3"), ("vertex", "google.auth")])
async def test_a_missing_extra_is_told_by_its_name(
    models: Mapping[str, AnthropicModel], monkeypatch: pytest.MonkeyPatch, provider: str, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    (warning,) = await told(models, agent(provider))
    assert f"pip install 'agentobs[{provider}]'" in warning
    reply, progress = await ask(models, agent(provider))
    assert (reply.outcome, progress.usage) == ("invalid_request", ZERO_USAGE)


async def test_what_was_missing_is_found_once_it_is_there(
    api: CannedApi, models: Mapping[str, AnthropicModel], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_REGION")
    api.will(plain(message()))
    assert (await ask(models, agent("bedrock")))[0].outcome == "invalid_request"
    monkeypatch.setenv("AWS_REGION", REGION)
    assert (await ask(models, agent("bedrock")))[0].outcome == "ok"


async def test_only_the_providers_of_registered_agents_are_looked_at(models: Mapping[str, AnthropicModel]):
    flow = workflow_of(agent("foundry"), agent("foundry", name="second"))
    assert users([flow, flow]) == {"foundry": ["writer", "second"]}
    assert await told(models, agent("foundry")) == []


def test_nothing_is_imported_for_a_provider_that_nobody_uses():
    code = """
import asyncio, sys
import agentobs.service
from agentobs.agents import Agent
from agentobs.models.providers import models_for, warm_up
from agentobs.workflows import declare

def loaded():
    return [name for name in ("anthropic", "boto3", "botocore", "google.auth", "genai_prices") if name in sys.modules]

async def flow(run, input): ...

models = models_for(api_key=None, base_url=None, max_connections=1)
print(loaded())
agent = Agent(name="a", model="m", provider="foundry")

async def main():
    async for warning in warm_up(models, [declare(flow, agents=[agent])]):
        print("warned")

asyncio.run(main())
print(loaded())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "warned", "['anthropic', 'genai_prices']"]


# ---- the simulator speaks as the platforms do ----


@pytest.mark.parametrize("provider", PLATFORMS)
async def test_the_sdks_own_clients_can_talk_to_the_simulator(
    tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str
):
    """Else our client and our simulator could be wrong in the same way."""
    async with Simulator() as simulator:
        connect(monkeypatch, simulator.url, tokens.key_file(tmp_path / "key.json"))
        client: Any = {
            "bedrock": anthropic.AsyncAnthropicBedrock,
            "vertex": anthropic.AsyncAnthropicVertex,
            "foundry": anthropic.AsyncAnthropicFoundry,
        }[provider](max_retries=0)
        question: dict[str, Any] = {"model": MODELS[provider], "max_tokens": 64, "messages": list(ASK)}
        async with client:
            whole = await client.messages.create(**question)
            async with client.messages.stream(**question) as streamed:
                last = await streamed.get_final_message()
            assert whole.content[0].text == last.content[0].text != ""
            assert whole.usage.output_tokens == last.usage.output_tokens > 1
            simulator.put_faults([{"fault": "rate_limited"}])
            with pytest.raises(anthropic.RateLimitError):
                await client.messages.create(**question)
            simulator.put_faults([{"fault": "unauthorized"}])
            with pytest.raises((anthropic.AuthenticationError, anthropic.PermissionDeniedError)):
                await client.messages.create(**question)
            simulator.put_faults([{"fault": "error_in_stream"}])
            with pytest.raises(anthropic.APIStatusError):
                async with client.messages.stream(**question) as streamed:
                    await streamed.get_final_message()
        assert [line.model for line in simulator.bill] == [MODELS[provider]] * 5
        assert [line.status for line in simulator.bill][:3] == [200, 200, 429]


async def test_a_foundry_deployment_of_any_name_is_answered_by_a_model_that_has_a_price(
    tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    async with Simulator() as simulator:
        connect(monkeypatch, simulator.url, tokens.key_file(tmp_path / "key.json"))
        models = models_for(api_key="any", base_url=simulator.url, max_connections=1)
        reply, progress = await ask(models, agent("foundry", model="my-deployment"))
        assert (reply.outcome, progress.usage.state) == ("ok", EXACT)
        assert progress.response_model == "claude-haiku-4-5-20251001"
        assert progress.price.pico
        simulator.put_faults([{"fault": "overloaded", "match": {"model": "my-deployment"}}])
        assert (await ask(models, agent("foundry", model="my-deployment")))[0].outcome == "overloaded"
        assert (await ask(models, Agent(name="writer", model="my-deployment")))[0].outcome == "not_found"
        assert [line.model for line in simulator.bill] == ["my-deployment"] * 3
        await close(models)


async def test_nothing_of_a_key_is_logged(
    api: CannedApi, models: Mapping[str, AnthropicModel], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    api.will(plain(message()))
    for provider in PLATFORMS:
        assert (await ask(models, agent(provider)))[0].outcome == "ok"
    said = "\n".join(f"{record.getMessage()} {json.dumps(record.__dict__, default=str)}" for record in caplog.records)
    for secret in (SECRET, SESSION, "ya29.token", "key-of-foundry", "PRIVATE KEY"):
        assert secret not in said, secret
