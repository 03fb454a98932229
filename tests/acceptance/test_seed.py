"""The simulator as programs for Node see it: the lesson's own program, and the official TypeScript SDK.

The lesson is not part of this repository: it lies beside it, or where AGENTOBS_SEED says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import node
from tests.acceptance.books import Line
from tests.acceptance.harness import ROOT, SimulatorThread, until

pytestmark = pytest.mark.slow

TOLD = os.environ.get("AGENTOBS_SEED")
LESSON = Path(TOLD or ROOT.parent / "shared" / "SEED.txt")

Run = Callable[..., node.Ended]


@pytest.fixture(scope="module")
def packages() -> Path:
    return node.required_packages()


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread() as running:
        yield running


def test_the_lock_names_exact_versions_and_no_registry():
    wanted = json.loads((node.PACKAGES / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    locked = json.loads((node.PACKAGES / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == wanted
    assert all(each["integrity"].startswith("sha512-") and "resolved" not in each for each in locked.values())


# ---- the lesson's program ----


@pytest.fixture(scope="module")
def program() -> str:
    """The lesson's program as it stands, but for the one string literal that its page broke over three lines."""
    if not LESSON.exists():
        if TOLD is not None:
            pytest.fail(f"AGENTOBS_SEED says {LESSON}, which is no file")
        pytest.skip(f"no lesson at {LESSON} (AGENTOBS_SEED says where else it is)")
    text = LESSON.read_text()
    text = text[_after(text, "\nagent-runtime.js\n") : text.index("\nDay 5 Exercise\n")]
    return changed(text, "console.log('\nFinal output:\n', ", "console.log('\\nFinal output:\\n', ")


@pytest.fixture
def lesson(packages: Path, tmp_path: Path, simulator: SimulatorThread) -> Run:
    """Runs a program as the lesson has it run: beside a `.env`, which says who answers."""
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY=sk-lesson\nANTHROPIC_BASE_URL={simulator.url}\n")
    return lambda text: node.run(packages, tmp_path, text, name="agent-runtime.js")


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the lesson has {text.count(old)} times {old!r}"
    return text.replace(old, new)


def _after(text: str, mark: str) -> int:
    return text.index(mark) + len(mark)


def summary(ended: node.Ended) -> dict[str, str]:
    """The fields of the run summary that it printed, as Node shows them."""
    assert ended.code == 0, ended.errors
    shown = re.search(r"^Run summary: \{(.*?)^\}$", ended.output, re.DOTALL | re.MULTILINE)
    assert shown is not None, ended.output
    return dict(re.findall(r"^  (\w+): (.*?),?$", shown[1], re.MULTILINE))


def total(bill: list[Line]) -> int:
    return sum(sum(line.usage.values()) for line in bill)


def test_the_lessons_program_completes(program: str, lesson: Run, simulator: SimulatorThread):
    ended = lesson(program)
    told = summary(ended)
    assert (told["status"], told["steps"]) == ("'complete'", "3")
    assert told["stepNames"] == "[ 'researcher', 'writer', 'editor' ]"
    final = ended.output.partition("\nFinal output:\n")[2].strip()
    assert len(final) > 20
    assert final != "undefined"
    assert [(line.status, line.model) for line in simulator.bill()] == [(200, "claude-opus-4-5")] * 3


def test_exercise_2_the_tokens_it_adds_up_are_those_of_the_bill(program: str, lesson: Run, simulator: SimulatorThread):
    text = changed(
        program,
        "      const output = response.content[0].text;\n",
        "      run.tokens = (run.tokens ?? 0) + response.usage.input_tokens + response.usage.output_tokens;\n"
        "      const output = response.content[0].text;\n",
    )
    text = changed(text, "      totalMs: this.totalMs,\n", "      totalMs: this.totalMs,\n      tokens: this.tokens,\n")
    told = summary(lesson(text))
    assert int(told["tokens"]) == total(simulator.bill()) > 300


def test_exercise_3_an_invalid_message_fails_the_run_after_its_three_attempts(
    program: str, lesson: Run, simulator: SimulatorThread
):
    ended = lesson(changed(program, "`Edit: ${draft}`, run)", "'', run)"))
    told = summary(ended)
    assert (told["status"], told["steps"]) == ("'failed'", "2")
    assert told["stepNames"] == "[ 'researcher', 'writer' ]"
    assert "undefined" in ended.output.partition("\nFinal output:\n")[2]
    assert [line.status for line in simulator.bill()] == [200, 200, 400, 400, 400]


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        # Told not to retry, the SDK does not: the three attempts are the lesson's own.
        ({"fault": "server_error", "should_retry": False}, [500] * 3),
        # Each of the lesson's three attempts is three of the SDK's.
        ({"fault": "overloaded", "retry_after_s": 0.01}, [529] * 9),
    ],
    ids=["not_retried_by_the_sdk", "retried_by_the_sdk_too"],
)
def test_a_provider_that_keeps_failing_fails_the_run(
    program: str, lesson: Run, simulator: SimulatorThread, fault: dict[str, Any], statuses: list[int]
):
    simulator.faults({**fault, "match": {"contains": "Write about: "}})
    told = summary(lesson(program))
    assert (told["status"], told["steps"], told["stepNames"]) == ("'failed'", "1", "[ 'researcher' ]")
    assert [line.status for line in simulator.bill()] == [200, *statuses]


def test_a_provider_that_recovers_costs_the_run_nothing_but_time(program: str, lesson: Run, simulator: SimulatorThread):
    simulator.faults({"fault": "server_error", "should_retry": False, "times": 2, "match": {"contains": "Edit: "}})
    told = summary(lesson(program))
    assert (told["status"], told["steps"]) == ("'complete'", "3")
    assert [line.status for line in simulator.bill()] == [200, 200, 500, 500, 200]


# ---- the TypeScript SDK ----


@pytest.fixture
def sdk(packages: Path, tmp_path: Path, simulator: SimulatorThread) -> Callable[[str], Any]:
    """Runs one case of `seed/sdk.mjs` and returns what it saw."""

    def case(name: str) -> Any:
        environ = {"ANTHROPIC_API_KEY": "sk-sdk", "ANTHROPIC_BASE_URL": simulator.url}
        ended = node.run(packages, tmp_path, node.PACKAGES / "sdk.mjs", name, **environ)
        assert ended.code == 0, ended.errors
        return json.loads(ended.output)

    return case


Case = Callable[[str], Any]


def used(usage: dict[str, Any]) -> dict[str, int]:
    """The SDK's usage, by our classes."""
    return {
        "input_uncached": usage["input_tokens"],
        "output": usage["output_tokens"],
        "cache_read": usage["cache_read_input_tokens"],
        "cache_write": usage["cache_creation_input_tokens"],
    }


def test_plain_and_streamed_answers_are_the_same_and_as_billed(sdk: Case, simulator: SimulatorThread):
    plain, streamed = sdk("plain"), sdk("stream")
    first, second = simulator.bill()
    assert (first.stream, second.stream) == (False, True)
    for seen, line in ((plain, first), (streamed, second)):
        assert seen["kinds"] == ["text"]
        assert (seen["model"], seen["stop_reason"]) == ("claude-haiku-4-5-20251001", "end_turn")
        assert (used(seen["usage"]), seen["request_id"]) == (line.usage, line.request_id)
    assert plain["text"] == streamed["text"] == streamed["pieces"] != ""
    assert plain["usage"] == streamed["usage"]
    assert int(plain["limit"]) > 0


def test_a_stream_gives_its_events_in_order(sdk: Case):
    events = sdk("raw_stream")["events"]
    assert events[:2] == ["message_start", "content_block_start"]
    assert set(events[2:-3]) == {"content_block_delta"}
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_streamed_thinking_is_signed_and_billed(sdk: Case, simulator: SimulatorThread):
    seen = sdk("thinking")
    assert seen["kinds"] == ["thinking", "text"]
    assert 0 < seen["usage"]["output_tokens_details"]["thinking_tokens"] < seen["usage"]["output_tokens"]
    assert [line.usage for line in simulator.bill()] == [used(seen["usage"])]


@pytest.mark.parametrize("case", ["tools", "tools_stream"])
def test_a_tool_loop_ends(sdk: Case, simulator: SimulatorThread, case: str):
    seen = sdk(case)
    assert (seen["turns"], seen["stop_reason"], seen["kinds"]) == (2, "end_turn", ["text"])
    assert [line.status for line in simulator.bill()] == [200, 200]


def test_the_sdks_own_tool_runner_ends(sdk: Case, simulator: SimulatorThread):
    seen = sdk("tool_runner")
    assert len(seen["ports"]) == 1
    assert isinstance(seen["ports"][0], str)
    assert seen["stop_reason"] == "end_turn"
    assert [line.status for line in simulator.bill()][-2:] == [200, 200]


def test_structured_output_fits_its_schema(sdk: Case):
    value = sdk("structured")["value"]
    assert isinstance(value["title"], str)
    assert all(isinstance(hour, int) for hour in value["hours"])
    assert value.keys() == {"title", "hours"}


def test_a_cached_prompt_is_written_for_an_hour_and_then_read(sdk: Case, simulator: SimulatorThread):
    seen = sdk("cache")
    written = seen["first"]["cache_creation_input_tokens"]
    assert written > 4096
    assert seen["first"]["cache_creation"]["ephemeral_1h_input_tokens"] == written
    assert seen["second"]["cache_read_input_tokens"] == written
    assert [line.usage for line in simulator.bill()] == [used(seen["first"]), used(seen["second"])]


def test_counted_tokens_are_billed_tokens(sdk: Case, simulator: SimulatorThread):
    seen = sdk("count_tokens")
    assert seen["counted"] == seen["billed"] > 0
    assert [line.usage["input_uncached"] for line in simulator.bill()] == [seen["billed"]]  # counting is free


def test_models_are_listed_page_by_page_and_found(sdk: Case):
    seen = sdk("models")
    assert "claude-haiku-5-5" in seen["ids"]
    assert len(set(seen["ids"])) == len(seen["ids"])
    assert seen["one"] == "claude-opus-4-5-20251101"


@pytest.mark.parametrize(
    ("case", "fault", "thrown", "kind"),
    [
        ("bad_request", None, "BadRequestError", "invalid_request_error"),
        ("no_model", None, "NotFoundError", "not_found_error"),
        ("error", {"fault": "unauthorized"}, "AuthenticationError", "authentication_error"),
        ("error", {"fault": "rate_limited", "should_retry": False}, "RateLimitError", "rate_limit_error"),
        ("error", {"fault": "server_error", "should_retry": False}, "InternalServerError", "api_error"),
        ("error_stream", {"fault": "rate_limited", "should_retry": False}, "RateLimitError", "rate_limit_error"),
    ],
)
def test_errors_are_thrown_as_what_they_are_and_once(
    sdk: Case, simulator: SimulatorThread, case: str, fault: dict[str, Any] | None, thrown: str, kind: str
):
    simulator.faults(*([fault] if fault else []))
    seen = sdk(case)
    (line,) = simulator.bill()
    assert (seen["class"], seen["type"]) == (thrown, kind)
    assert (seen["status"], seen["request_id"]) == (line.status, line.request_id)
    assert set(line.usage.values()) == {0}


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ({"fault": "overloaded", "times": 2, "retry_after_s": 0.01}, [529, 529, 200]),
        ({"fault": "rate_limited", "times": 1, "retry_after_s": 0.01}, [429, 200]),
        ({"fault": "server_error", "times": 1, "retry_after_s": 0.01}, [500, 200]),
        ({"fault": "reset", "times": 1}, [None, 200]),
    ],
    ids=["overloaded", "rate_limited", "server_error", "reset"],
)
@pytest.mark.parametrize("case", ["plain", "stream"])
def test_what_passes_is_tried_again_by_the_sdk(
    sdk: Case, simulator: SimulatorThread, case: str, fault: dict[str, Any], statuses: list[int | None]
):
    simulator.faults(fault)
    seen = sdk(case)
    bill = simulator.bill()
    assert seen["stop_reason"] == "end_turn"
    assert [line.status for line in bill] == statuses
    assert used(seen["usage"]) == bill[-1].usage


@pytest.mark.parametrize(
    ("fault", "thrown", "kind"),
    [
        ({"fault": "error_in_stream"}, "APIError", "overloaded_error"),
        ({"fault": "error_in_stream", "first": True}, "APIError", "overloaded_error"),
        ({"fault": "cut_stream"}, "AnthropicError", None),
        ({"fault": "cut_stream", "clean": False}, "AnthropicError", None),
    ],
    ids=["error", "error_first", "cut", "cut_uncleanly"],
)
def test_a_stream_that_breaks_is_thrown_and_not_tried_again(
    sdk: Case, simulator: SimulatorThread, fault: dict[str, Any], thrown: str, kind: str | None
):
    simulator.faults(fault)
    seen = sdk("error_stream")
    assert (seen["class"], seen["type"]) == (thrown, kind)
    assert [line.status for line in simulator.bill()] == [200]


def test_a_refusal_is_an_answer(sdk: Case, simulator: SimulatorThread):
    simulator.faults({"fault": "refusal"})
    seen = sdk("stream")
    assert (seen["stop_reason"], seen["text"]) == ("refusal", "")


def test_a_stream_that_the_caller_aborts_is_billed_for_what_was_sent(sdk: Case, simulator: SimulatorThread):
    simulator.faults({"fault": "hang", "after_deltas": 2})
    assert sdk("gone")["class"] == "APIUserAbortError"
    (line,) = until_billed(simulator)
    assert line.usage["input_uncached"] > 0
    assert 0 < line.usage["output"] < 100


def until_billed(simulator: SimulatorThread) -> list[Line]:
    return until(lambda: [line for line in simulator.bill() if line.aborted], "the caller to be found gone", 30.0)
