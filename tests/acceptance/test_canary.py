"""Marked secrets in prompts, outputs, exceptions and provider answers are in the journal and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.canary import (
    ANSWERS,
    LEAKING,
    NOT_HTTP,
    SECRETS,
    TOOL_ANSWERS,
    TellingProvider,
    found,
    secret,
    shown,
)
from tests.acceptance.harness import TERMINAL, World, world

FLOWS = {"AGENTOBS_WORKFLOWS": "tests.acceptance.flows_canary", "AGENTOBS_LOG_LEVEL": "debug"}
USER = {name: secret(name) for name in ("prompt", "argument", "exception", "muttered", "cried")}
LOUD = ("raise", "cause", "group", "class", "assert", "unserialisable", "keys", "surrogate", "model", "await")
SYSTEM = secret("system")

pytestmark = pytest.mark.timeout(180)


GOOD: dict[str, object] = {"words": {"prompt": "tea"}}
JSON = {"Content-Type": "application/json"}


def problems(word: str) -> dict[str, dict[str, object]]:
    """Requests that are wrong, each in its way, and hold the word wherever a value can be."""

    def submit(workflow: str, given: object, **more: object) -> dict[str, object]:
        return {"json": {"workflow": workflow, "input": given, **more}}

    return {
        "a list for a text": submit("article", {"goal": [word]}),
        "an unknown field": submit("article", {"goal": word, f"{word} and more": word}),
        "a text for an object": submit("article", word),
        "an object for a text": submit("article", {"goal": "x", "notes": {word: word}}),
        "a number for a text in a dict": submit("mutters", {"words": {f"{word} {word}": 5}}),
        "a text for a number": submit("mutters", {**GOOD, "number": word}),
        "a list for a tag": submit("mutters", GOOD, tags={"team": [word]}),
        "a text for tags": submit("mutters", GOOD, tags=word),
        "an input too large": submit("mutters", {"words": {"prompt": word * 100_000}}),
        "a list for a body": {"json": [word]},
        "half a body": {"content": f'{{"workflow": "mutters", "input": "{word}'.encode(), "headers": JSON},
        "no UTF-8": {"content": f'"{word}'.encode() + b"\xff\xfe", "headers": JSON},
        "NaN": {"content": f'{{"input": NaN, "x": "{word}"}}'.encode(), "headers": JSON},
        "text for JSON": {"content": word.encode(), "headers": {"Content-Type": "text/plain"}},
        "an idempotency key with a space": submit("mutters", GOOD) | {"headers": {"Idempotency-Key": f"{word} b"}},
    }


def told(here: World, request: dict[str, object]) -> bytes:
    answer = here.service.call("POST", "/v1/runs", **request)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.content + str(answer.headers).encode()


def ran(here: World, workflow: str, **given: object) -> dict[str, object]:
    run = here.service.submit(workflow, {"words": USER, **given})
    return here.service.wait_ended([run["id"]], 60)[run["id"]]


def in_journal(here: World, word: str) -> bool:
    files = here.service.folder.glob("agentobs.db*")
    return any(word.encode() in file.read_bytes().lower() for file in files)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, CANARY_SYSTEM=SYSTEM, **FLOWS) as found:
        yield found


def test_what_user_code_says_stays_in_the_journal(here: World):
    assert ran(here, "confides")["status"] == "succeeded"
    for number, how in enumerate(LOUD):
        ended = ran(here, "fails_loudly", how=how, number=number)
        assert ended["status"] in TERMINAL
    assert ran(here, "mutters")["status"] == "succeeded"
    here.wait_delivered()
    assert not found({**USER, "system": SYSTEM}, shown(here))
    details = "".join(str(here.service.detail(one["id"])) for one in here.service.summaries())
    for name in ("prompt", "argument", "exception"):
        assert in_journal(here, USER[name]) and USER[name] in details, f"the journal holds the {name}"
    outputs = [step["output"] for step in here.service.journal().steps if step["kind"] == "agent" and step["output"]]
    assert any(USER["prompt"] in output for output in outputs), "the simulator's answer is about the prompt"
    logged = here.service.events("library.message") + here.service.events("library.warning")
    assert len(logged) >= 6, "what was muttered was heard"


@pytest.mark.parametrize("how", ["thread", "destructor"])
def test_exceptions_that_python_itself_prints_are_not_shown(here: World, how: str):
    assert ran(here, "cries_out", how=how)["status"] == "succeeded"
    here.wait_delivered()
    assert not found({"cried": USER["cried"]}, shown(here))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("asked"), **FLOWS) as found:
        yield found


@pytest.mark.parametrize("how", problems(""))
def test_a_problem_repeats_nothing_of_what_was_sent(asked: World, how: str):
    word = secret("sent")
    assert not found({"sent": word}, {"problems": told(asked, problems(word)[how])})
    assert not found({"sent": word}, {"logs": "\n".join(asked.service.output).encode()})


def test_a_problem_repeats_nothing_of_what_was_asked(asked: World):
    word = secret("sent")
    for params in [{"status": word}, {"cursor": word}, {"since": word}, {"limit": word}, {"tag": word}, {word: "1"}]:
        answer = asked.service.call("GET", "/v1/runs", params=params)
        assert answer.status_code in {400, 422}, answer.text
        if word not in params:
            assert not found({"sent": word}, {"problems": answer.content})


def test_what_a_provider_says_stays_out_too(tmp_path: Path):
    secrets = {**SECRETS, "prompt": USER["prompt"], "system": SYSTEM}
    with (
        TellingProvider() as provider,
        world(tmp_path, ANTHROPIC_BASE_URL=provider.url, CANARY_SYSTEM=SYSTEM, **FLOWS) as here,
    ):
        ends = {how: ran(here, "meets", how=how) for how in (*ANSWERS, NOT_HTTP)}
        tools = {how: ran(here, "handles", how=how) for how in TOOL_ANSWERS}
        here.wait_delivered()
        assert not found(secrets, shown(here))
        assert {end["error"]["type"] for end in tools.values()} == {"budget_exceeded"}
        called = [(step["name"], step["status"]) for step in here.service.journal().steps if step["kind"] == "tool"]
        assert called == [("tell", "succeeded"), ("tell", "failed"), ("choke", "failed")]
        assert all(SYSTEM.encode() in request and USER["prompt"].encode() in request for request in provider.requests)
        for name in ("output", "prompt"):
            assert in_journal(here, secrets[name]), name
        errors = {how: end["error"]["type"] if end["error"] else None for how, end in ends.items()}
        assert errors["whole"] is None and errors["refusal"] == "refusal"
        assert {how for how, error in errors.items() if error is None} <= {"whole", "charset"}
        # Each of them was told to the provider's client, and judged by it.
        assert len(provider.requests) >= len(ANSWERS)
        here.service.stop()


def test_a_planted_leak_is_found_in_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """That the tests above can fail: the same search in a service that was made to leak."""
    folder = tmp_path / "leak"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LEAKING)
    before = os.environ.get("AGENTOBS_TEST_PYTHONPATH", "")
    monkeypatch.setenv("AGENTOBS_TEST_PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    with world(tmp_path, CANARY_SYSTEM=SYSTEM, **FLOWS) as here:
        ran(here, "confides")
        ran(here, "fails_loudly", how="raise")
        answer = told(here, problems(USER["prompt"])["a list for a tag"])
        here.wait_delivered()
        leaks = found({**USER, "system": SYSTEM}, {**shown(here), "problems": answer})
    assert {place for _, place in leaks} == {"spans", "logs", "metrics", "problems", "summaries"}
    assert {("prompt", "spans"), ("argument", "logs"), ("exception", "metrics")} <= leaks
    assert {("prompt", "problems"), ("exception", "summaries")} <= leaks
