"""`agentobs.testing` as users of the library use it: a scripted model under the real engine, journal and telemetry."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import tempfile

import pytest
from pydantic import BaseModel

import agentobs.testing
from agentobs import Agent, RunContext, StepFailed, workflow
from agentobs.errors import InvalidInput, UnknownWorkflow, UsageError
from agentobs.telemetry.names import ATTEMPT_OUTCOMES
from agentobs.testing import ScriptedModel, answer, failure, run_workflow
from agentobs.testing import stage as stages
from agentobs.testing.script import FAILURES
from agentobs.workflows import Registry

researcher = Agent(name="researcher", model="claude-haiku-5-5")
writer = Agent(name="writer", model="claude-opus-5-5")
streamer = Agent(name="streamer", model="claude-haiku-5-5", stream=True, attempts=1)
REGISTRY = Registry()
counted: list[str] = []


class Fact(BaseModel):
    text: str
    sure: bool = True


def count(text: str) -> int:
    counted.append(text)
    return len(text)


@workflow(agents=[researcher, writer], steps=[count], registry=REGISTRY)
async def brief(run: RunContext, subject: str) -> str:
    facts = await run.call(researcher, f"Research: {subject}")
    size = await run.step(count, facts)
    return await run.call(writer, f"Write about {subject} from {size} letters: {facts}")


@workflow(agents=[researcher], registry=REGISTRY)
async def one(run: RunContext, subject: str) -> str:
    return await run.call(researcher, subject)


@workflow(agents=[streamer], registry=REGISTRY)
async def streamed(run: RunContext, subject: str) -> str:
    return await run.call(streamer, subject)


async def go(function, model, given="tea", **more):
    return await run_workflow(function, given, model=model, registry=REGISTRY, **more)


# ---- the module ----


def test_the_public_names_are_all_there_and_documented():
    public = {name for name, value in vars(agentobs.testing).items() if not name.startswith("_")}
    public -= {name for name in public if inspect.ismodule(getattr(agentobs.testing, name))} | {"annotations"}
    assert sorted(public) == sorted(agentobs.testing.__all__)
    for name in agentobs.testing.__all__:
        assert inspect.getdoc(getattr(agentobs.testing, name))


def test_it_needs_no_test_runner():
    code = "import sys, agentobs.testing; print([m for m in sys.modules if m.split('.')[0] in ('pytest', '_pytest')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_failure_of_a_model_request_can_be_scripted_and_no_other():
    by_others = {"ok", "cancelled", "interrupted"}  # not the model's doing
    assert set(FAILURES) == set(ATTEMPT_OUTCOMES) - by_others
    with pytest.raises(UsageError, match=r"'parked'.*expected one of invalid_request, "):
        failure("parked")


# ---- results and signals ----


async def test_a_run_gives_its_output_and_every_signal():
    model = ScriptedModel({"researcher": "Tea is a leaf.", "writer": [failure("overloaded"), "Drink it."]})
    result = await go(brief, model, tags={"team": "docs"})
    assert (result.output, result.status, result.error_type, result.diverged) == ("Drink it.", "succeeded", None, 0)
    assert [(call.agent, call.number) for call in model.calls] == [("researcher", 1), ("writer", 1), ("writer", 2)]
    assert "14 letters: Tea is a leaf." in model.calls[1].prompt
    assert result.run["tokens"]["total"] == 30
    assert result.run["cost_usd"] == "0.002"
    assert result.run["tags"] == {"team": "docs"}
    assert result.trace() == (
        "invoke_workflow brief\n"
        "  invoke_agent researcher\n"
        "    chat claude-haiku-5-5\n"
        "      POST\n"
        "  step count\n"
        "  invoke_agent writer\n"
        "    chat claude-opus-5-5\n"
        "      POST (overloaded)\n"
        "      POST"
    )
    assert {span.trace_id for span in result.spans} == {result.run["trace_id"]}
    attempts = [span.span_id for span in result.spans if span.name == "POST"]
    assert attempts == [call.reference for call in model.calls]
    assert [line["event"] for line in result.logs] == [
        "run.accepted", "run.started", "agent.call", "step.finished", "attempt.failed", "agent.call", "run.finished",
    ]  # fmt: skip
    assert result.metric("agentobs_attempts_total", agent="writer") == 2
    assert result.metric("agentobs_attempts_total", agent="writer", outcome="overloaded") == 1
    assert result.metric("agentobs_tokens_total", kind="output") == 10
    assert result.metric("agentobs_cost_usd_total") == pytest.approx(0.002)
    assert result.metric("gen_ai_invoke_agent_duration_seconds_count", gen_ai_agent_name="writer") == 1
    assert result.metric("agentobs_attempts_total", agent="nobody") == 0


async def test_a_metric_or_label_that_does_not_exist_is_an_error_not_a_zero():
    result = await go(one, ScriptedModel(lambda _: "x"))
    for name in ("agentobs_attempt_total", "agentobs_runs_total_count", "_count"):
        with pytest.raises(UsageError, match="no metric"):
            result.metric(name)
    with pytest.raises(UsageError, match="no label 'agnt'; it has: workflow, agent, model, outcome"):
        result.metric("agentobs_attempts_total", agnt="writer")


async def test_waits_pass_at_once_and_stand_on_record():
    model = ScriptedModel({"researcher": [failure("rate_limited", retry_after_s=120), "x"]})
    result = await go(one, model, timeout_s=30)  # raises for a wait that is a real one
    first, second = result.run["steps"][0]["attempts"]
    assert (first["outcome"], first["http_status"], first["cost_usd"]) == ("rate_limited", 429, "0")
    assert 120_000 <= second["wait_ms"] < 125_000
    assert result.metric("agentobs_retry_wait_seconds_total") == pytest.approx(120, abs=5)


async def test_a_failed_run_is_a_result_whose_output_says_why():
    @workflow(agents=[], name="broken", registry=(registry := Registry()))
    async def broken(run: RunContext, subject: str) -> str:
        raise ValueError(f"cannot do {subject}")

    result = await run_workflow(broken, "tea", model=ScriptedModel({}), registry=registry)
    assert (result.status, result.error_type) == ("failed", "workflow_error")
    with pytest.raises(UsageError, match="a run that failed \\(workflow_error\\): workflow 'broken' raised") as caught:
        _ = result.output
    assert "tea" not in str(caught.value)
    assert "ValueError: cannot do tea" in caught.value.__notes__[0]  # the traceback: the test's author needs it


@pytest.mark.parametrize("error_type", FAILURES)
async def test_each_failure_fails_its_step_and_is_billed_as_the_provider_would(error_type):
    result = await go(streamed, ScriptedModel({"streamer": failure(error_type, text="half")}))
    (attempt,) = result.run["steps"][0]["attempts"]
    assert result.error_type == attempt["outcome"] == error_type
    paid = error_type in {"refusal", "max_tokens", "context_window"}
    assert result.run["steps"][0]["output_preview"] == ("half" if paid else None)
    expected = (
        "exact" if paid or (attempt["http_status"] or 0) >= 400
        else "partial" if error_type in {"stream_truncated", "stream_error"}
        else "unknown"
    )  # fmt: skip
    assert attempt["usage"] == expected
    assert bool((attempt["tokens"] or {}).get("total")) is (paid or expected == "partial")


async def test_a_plain_answer_that_broke_told_nothing():
    result = await go(one, ScriptedModel({"researcher": [failure("stream_truncated"), "x"]}))
    assert [attempt["usage"] for attempt in result.run["steps"][0]["attempts"]] == ["unknown", "exact"]


async def test_a_streamed_answer_has_a_first_chunk_and_a_plain_one_has_none():
    result = await go(streamed, ScriptedModel(lambda _: "x"))
    assert result.run["steps"][0]["attempts"][0]["time_to_first_chunk_ms"] is not None
    result = await go(one, ScriptedModel(lambda _: "x"))
    assert result.run["steps"][0]["attempts"][0]["time_to_first_chunk_ms"] is None


# ---- scripts ----


async def test_an_answer_can_be_structured_and_have_its_own_usage_and_cost():
    model = ScriptedModel(
        {
            "researcher": [
                Fact(text="wet"),
                {"text": "dry"},
                answer(
                    "x", input_tokens=7, cache_read_tokens=100, cache_write_tokens=20, output_tokens=3, cost_usd=1.5
                ),
                answer("y", cost_usd=None),
            ]
        }
    )
    results = [await go(one, model) for _ in range(4)]
    assert Fact.model_validate_json(results[0].output) == Fact(text="wet")
    assert results[1].output == '{"text":"dry"}'
    assert results[2].run["tokens"] == {
        "input": 127, "output": 3, "cache_read": 100, "cache_write": 20, "reasoning": 0, "total": 130,
    }  # fmt: skip
    assert results[2].run["cost_usd"] == "1.5"
    assert results[3].run["cost_usd"] is None


async def test_an_answer_can_be_blocks_with_a_tool_call():
    call = {"type": "tool_use", "id": "t1", "name": "search", "input": {"q": "tea"}}
    said = answer(content=[{"type": "text", "text": "Let me see. "}, call])
    assert (said.reply.text, said.reply.content[1], said.reply.stop_reason) == ("Let me see. ", call, "tool_use")
    with pytest.raises(UsageError, match="both text and content"):
        answer("x", content=[call])


@pytest.mark.parametrize("cost", ["much", -1, float("nan"), float("inf")])
def test_a_cost_that_is_no_amount_is_refused(cost):
    with pytest.raises(UsageError, match=r"cost_usd is .*; expected dollars"):
        answer("x", cost_usd=cost)


async def test_a_script_can_be_a_function_of_the_call_sync_or_async():
    async def later(call):
        await asyncio.sleep(0)
        return f"{call.number}. {call.prompt}"

    model = ScriptedModel({"researcher": [failure("server_error"), later], "writer": lambda call: call.prompt.upper()})
    assert (await go(brief, model)).output == "WRITE ABOUT TEA FROM 16 LETTERS: 2. RESEARCH: TEA"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"writer": "x"}, "'researcher' was called and the script has no answer for it; it has answers for: 'writer'"),
        ({}, "answers for: none"),
        (
            {"researcher": [failure("overloaded")]},
            r"'researcher' was called 2 times \(a retry is a call\) and its script has 1 answers",
        ),
        ({"researcher": 5}, "answers agent 'researcher' with a int; expected a text"),
        ({"researcher": {"a": object()}}, "the scripted answer of agent 'researcher' is of type dict and cannot"),
    ],
)
async def test_a_script_without_a_usable_answer_fails_the_test_whatever_the_workflow_makes_of_it(script, message):
    @workflow(agents=[researcher], registry=(registry := Registry()))
    async def stoic(run: RunContext, subject: str) -> str:
        try:
            return await run.call(researcher, subject)
        except StepFailed:
            return "never mind"

    @workflow(registry=registry)
    async def idle(run: RunContext, given: None) -> str:
        return "nothing asked"

    model = ScriptedModel(script)
    with pytest.raises(UsageError, match=message):
        await run_workflow(stoic, "tea", model=model, registry=registry)
    assert (await run_workflow("idle", model=model, registry=registry)).output == "nothing asked"


async def test_an_assertion_in_a_script_reaches_the_test():
    def strict(call):
        assert "coffee" in call.prompt, "wants coffee"
        return "x"

    with pytest.raises(AssertionError, match="wants coffee"):
        await go(one, ScriptedModel({"researcher": strict}))


# ---- crashes ----


@pytest.mark.parametrize(("crash_at", "asked_twice"), [(1, "researcher"), (2, "writer")])
async def test_a_crash_costs_one_call_and_nothing_that_was_finished(crash_at, asked_twice):
    counted.clear()
    model = ScriptedModel({"researcher": ["Tea is a leaf."], "writer": ["Drink it."]})  # one answer each is enough
    result = await go(brief, model, crash_at=crash_at)
    assert (result.output, result.diverged) == ("Drink it.", 0)
    agents = [call.agent for call in model.calls]
    assert sorted(agents) == sorted(["researcher", "writer", asked_twice])
    assert counted == ["Tea is a leaf."]
    assert [(e["number"], e["reason"], e["outcome"]) for e in result.run["executions"]] == [
        (1, "started", "interrupted"), (2, "recovered", "succeeded"),
    ]  # fmt: skip
    assert result.run["usage_inexact"] == 1
    assert result.metric("agentobs_attempts_total", outcome="interrupted") == 1
    assert result.metric("agentobs_attempts_total", outcome="ok") == 2  # also those counted before the crash
    assert result.metric("agentobs_executions_total", reason="recovered") == 1
    posts = [span.span_id for span in result.spans if span.name == "POST"]
    assert sorted(posts) == sorted(call.reference for call in model.calls)
    assert f"invoke_agent {asked_twice} (interrupted)" in result.trace()
    assert [line["event"] for line in result.logs].count("run.recovered") == 1


async def test_a_workflow_that_is_not_the_same_again_is_found_out():
    tries = iter("ab")

    @workflow(agents=[researcher, writer], registry=(registry := Registry()))
    async def fickle(run: RunContext, subject: str) -> str:
        facts = await run.call(researcher, f"{subject} {next(tries)}")
        return await run.call(writer, facts)

    model = ScriptedModel({"researcher": "x", "writer": "y"})
    result = await run_workflow(fickle, "tea", model=model, crash_at=2, registry=registry)
    assert result.diverged == 1
    assert [call.agent for call in model.calls] == ["researcher", "writer", "researcher", "writer"]


async def test_a_crash_among_parallel_calls_is_the_same_each_time():
    @workflow(agents=[researcher], registry=(registry := Registry()))
    async def wide(run: RunContext, n: int) -> list[str]:
        return await asyncio.gather(*(run.branch(str(i)).call(researcher, f"part {i}") for i in range(n)))

    for _ in range(3):
        model = ScriptedModel(lambda call: call.prompt)
        result = await run_workflow(wide, 100, model=model, crash_at=80, registry=registry)
        assert result.output == [f"part {i}" for i in range(100)]
        # All 79 answers that had been given are on record, however far the journal's thread was with them.
        assert [call.prompt for call in model.calls] == [f"part {i}" for i in (*range(80), *range(79, 100))]


@pytest.mark.parametrize(
    ("crash_at", "message"),
    [(3, "crash_at=3, and the run succeeded after 2 model calls"), (0, "crash_at is 0; expected the number of a")],
)
async def test_a_crash_that_never_comes_is_an_error(crash_at, message):
    with pytest.raises(UsageError, match=message):
        await go(brief, ScriptedModel(lambda _: "x"), crash_at=crash_at)


# ---- use and surroundings ----


async def test_wrong_use_is_told_before_anything_runs():
    model = ScriptedModel(lambda _: "x")
    with pytest.raises(UnknownWorkflow, match="'breif'"):
        await go("breif", model)
    with pytest.raises(UsageError, match="'go' is not registered as a workflow; decorate it with @workflow"):
        await run_workflow(go, "tea", model=model, registry=REGISTRY)
    with pytest.raises(InvalidInput):
        await go(brief, model, given={"no": "text"})
    with pytest.raises(UsageError, match="the script is a str"):
        ScriptedModel("x")
    assert model.calls == []
    assert (await go("one", model)).output == "x"


async def test_a_run_that_does_not_end_is_told_with_the_step_that_it_is_in():
    async def never(_):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"not ended after 0\.2 s: it is in researcher"):
        await go(one, ScriptedModel({"researcher": never}), timeout_s=0.2)


def test_nothing_is_read_from_the_environment_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setenv("AGENTOBS_DATABASE_URL", "nonsense://")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    model = ScriptedModel(lambda _: "x")
    assert asyncio.run(go(brief, model, crash_at=2)).output == "x"
    with pytest.raises(UsageError):
        asyncio.run(go(brief, ScriptedModel({})))
    assert [path for path in tmp_path.rglob("*") if path.parent != tmp_path] == []


def test_where_there_is_no_folder_in_memory_the_temporary_one_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_MEMORY", tmp_path / "missing")
    assert asyncio.run(go(one, ScriptedModel(lambda _: "x"))).output == "x"


async def test_the_loop_is_given_back_as_it_was():
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    await go(one, ScriptedModel(lambda _: "x"))
    assert loop.get_task_factory() is before


async def test_user_code_runs_inside_its_own_span():
    from opentelemetry import trace

    seen = []

    def look() -> None:
        seen.append(f"{trace.get_current_span().get_span_context().span_id:016x}")

    @workflow(steps=[look], registry=(registry := Registry()))
    async def looking(run: RunContext, given: None) -> None:
        await run.step(look)

    result = await run_workflow(looking, model=ScriptedModel({}), registry=registry)
    assert seen == [span.span_id for span in result.spans if span.name == "step look"]


# ---- answers as data, and tools ----


class Score(BaseModel):
    points: int


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is a word"


_data = Registry()
marker = Agent(name="marker", model="claude-haiku-4-5", tools=[look_up])


@workflow(agents=[marker], registry=_data)
async def marks(run: RunContext, text: str) -> int:
    score = await run.call(marker, text, output=Score)
    return score.points


async def test_answers_as_data_and_tool_calls_can_be_scripted():
    model = ScriptedModel(
        {
            "marker": [
                answer(content=[{"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}}]),
                {"points": "many"},
                Score(points=3),
            ]
        }
    )
    result = await run_workflow(marks, "tea", model=model, registry=_data)
    assert result.output == 3
    assert [call.schema for call in model.calls] == [Score.model_json_schema()] * 3
    assert "points: Input should be a valid integer" in model.calls[2].prompt
    assert [line.strip() for line in str(result.trace()).splitlines() if "tool" in line] == ["execute_tool look_up"]
    assert result.metric("agentobs_steps_total", kind="tool", name="look_up", outcome="succeeded") == 1


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_a_crash_in_a_tool_loop_costs_one_call(n: int):
    model = ScriptedModel(
        {
            "marker": [
                answer(content=[{"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}}]),
                {"points": "many"},
                {"points": 3},
            ]
        }
    )
    result = await run_workflow(marks, "tea", model=model, registry=_data, crash_at=n)
    assert (result.output, result.diverged, len(model.calls)) == (3, 0, 4)
