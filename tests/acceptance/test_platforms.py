"""One workflow over four providers: every request on the books, and each under its own name and price."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.flows_platforms import AGENTS, MODELS
from tests.acceptance.harness import environment, until, world
from tests.google_token import TokenServer

SPOKEN = {
    "anthropic": "anthropic",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "foundry": "anthropic",
}
PLATFORMS = {
    "AGENTOBS_WORKFLOWS": "tests.acceptance.flows_platforms",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "ANTHROPIC_BEDROCK_BASE_URL": "{simulator}",
    "CLOUD_ML_REGION": "global",
    "ANTHROPIC_VERTEX_PROJECT_ID": "my-project",
    "ANTHROPIC_VERTEX_BASE_URL": "{simulator}/v1",
    "ANTHROPIC_FOUNDRY_API_KEY": "key",
    "ANTHROPIC_FOUNDRY_BASE_URL": "{simulator}/anthropic",
}
_BEDROCK = {"model": MODELS["bedrock"]}
FAULTS: list[dict[str, Any]] = [
    # These two certainly, the others by chance.
    {"fault": "rate_limited", "match": _BEDROCK, "times": 1},
    {"fault": "cut_stream", "match": _BEDROCK, "times": 4},
    {"fault": "rate_limited", "probability": 0.05},
    {"fault": "overloaded", "probability": 0.05},
    {"fault": "cut_stream", "probability": 0.05},
    {"fault": "error_in_stream", "probability": 0.05},
    {"fault": "reset", "probability": 0.03},
]


def test_a_workflow_over_four_providers_balances(tmp_path: Path):
    with (
        TokenServer() as tokens,
        world(
            tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tokens.key_file(tmp_path / "key.json")), **PLATFORMS
        ) as here,
    ):
        here.service.submit("everywhere", {"topic": "tea"})
        here.service.wait_idle()
        here.simulator.faults(*FAULTS)
        for number in range(20):
            here.service.submit("everywhere", {"topic": f"tea {number}"})
        here.service.wait_idle(300)
        books = here.close_the_books()
        assert len(tokens.issued) == 1
    books.check()
    by_agent = {agent.name: agent for agent in AGENTS}
    assert {attempt["provider"] for attempt in books.journal.attempts} == set(MODELS)
    assert all(attempt["provider"] == by_agent[attempt["agent"]].provider for attempt in books.journal.attempts)
    first = [attempt for attempt in books.journal.attempts if attempt["run_id"] == books.journal.attempts[0]["run_id"]]
    assert len(first) == len(AGENTS) and all(one["usage"] == "exact" and one["cost_pico"] for one in first)
    ended = {attempt["outcome"] for attempt in books.journal.attempts if attempt["provider"] == "bedrock"}
    assert {"ok", "stream_truncated", "rate_limited"} <= ended

    providers = {span.attributes["gen_ai.request.model"]: set[str]() for span in books.spans if _is_chat(span)}
    for span in filter(_is_chat, books.spans):
        providers[span.attributes["gen_ai.request.model"]].add(span.attributes["gen_ai.provider.name"])
    assert providers == {model: {SPOKEN[provider]} for provider, model in MODELS.items()}
    labels = {
        (dict(one)["gen_ai_request_model"], dict(one)["gen_ai_provider_name"])
        for name, samples in books.metrics.items()
        if name.startswith("gen_ai_client_inference")
        for one in samples
        if dict(one)["gen_ai_request_model"] in MODELS.values()  # not the shipped workflow's
    }
    assert labels == {(model, SPOKEN[provider]) for provider, model in MODELS.items()}


def _is_chat(span: Any) -> bool:
    return span.attributes.get("gen_ai.operation.name") == "chat"


def test_a_platform_that_is_not_set_up_is_told_once_and_fails_its_own_agents_only(tmp_path: Path):
    without = {name: value for name, value in PLATFORMS.items() if not name.startswith(("AWS_", "CLOUD_"))}
    with world(tmp_path, AWS_EC2_METADATA_DISABLED="true", NO_GCE_CHECK="true", **without) as here:
        until(lambda: len(_told(here)) == 2, f"two warnings\n{here.service.tail()}")
        bedrock, vertex = _told(here)
        assert "'bedrock-plain', 'bedrock-streamed'" in bedrock and "set AWS_REGION" in bedrock
        assert "'vertex-plain', 'vertex-streamed'" in vertex and "set CLOUD_ML_REGION" in vertex
        run = here.service.submit("everywhere", {"topic": "tea"})
        assert here.service.wait_ended([run["id"]])[run["id"]]["status"] == "failed"
        here.service.stop()
        db = sqlite3.connect(tmp_path / "agentobs.db")
        found = db.execute("SELECT provider, outcome, usage, cost_pico, http_status FROM attempts").fetchall()
        db.close()
    failed = [one for one in found if one[1] == "invalid_request"]
    assert failed and {one[0] for one in failed} <= {"bedrock", "vertex"}
    assert all(one[2:] == ("exact", 0, None) for one in failed)


def _told(here: Any) -> list[str]:
    return [line["reason"] for line in here.service.events("service.warning") if "provider '" in line.get("reason", "")]


def test_a_run_on_the_command_line_says_what_its_platform_lacks(tmp_path: Path):
    environ = environment(tmp_path, simulator="http://127.0.0.1:9", sink=None, NO_GCE_CHECK="true", **PLATFORMS)
    environ = {name: value for name, value in environ.items() if not name.startswith("CLOUD_")}
    done = subprocess.run(
        [sys.executable, "-m", "agentobs", "run", "only_vertex", "--input", "{}"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "provider 'vertex' cannot be used" in done.stderr and "set CLOUD_ML_REGION" in done.stderr
