"""Agent calls of several turns: structured output with repairs, and tools; through crashes, none is paid twice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentobs import Agent, RunContext, StepFailed, UsageError, step
from agentobs.models.protocol import Reply
from agentobs.records import FAILED, OPENED, SUCCEEDED, TOOL, Attempt, Step
from agentobs.runtime.memo import agent_hash
from agentobs.workflows import Registry, workflow
from tests.engine_kit import Call, Kit, ScriptedModel, engine_on, failed, ok


class Plan(BaseModel):
    tasks: Annotated[list[str], Field(min_length=1)]
    seconds: int = 1

    @field_validator("seconds")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("seconds must be even")
        return value


GOOD = '{"tasks": ["a", "b"], "seconds": 2}'
planner = Agent(name="planner", model="claude-haiku-4-5")


def use(*calls: tuple[str, object], text: str = "") -> Reply:
    """An answer that calls tools: (name, input) each."""
    blocks = [{"type": "text", "text": text}] if text else []
    blocks += [
        {"type": "tool_use", "id": f"toolu_{n}_{name}", "name": name, "input": given}
        for n, (name, given) in enumerate(calls)
    ]
    return Reply(outcome="ok", text=text, content=tuple(blocks), stop_reason="tool_use")


def scripted(*answers: Reply | str) -> ScriptedModel:
    """One answer after the other, whatever is asked."""
    left = list(answers)

    def script(call: Call, n: int) -> Reply:
        answer = left.pop(0)
        return ok(answer) if isinstance(answer, str) else answer

    return ScriptedModel(script)


def planning(agent: Agent = planner, output: object = Plan) -> Registry:
    registry = Registry()

    @workflow(agents=[agent], name="planning", registry=registry)
    async def planned(run: RunContext, given: str) -> object:
        plan = await run.call(agent, f"plan {given}", output=output)
        assert isinstance(plan, Plan) or output is not Plan
        return plan

    return registry


async def test_an_answer_comes_as_the_asked_type_and_the_model_is_told_its_schema(tmp_path: Path) -> None:
    model = scripted(GOOD)
    async with engine_on(tmp_path / "j.db", planning(), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.output == '{"tasks":["a","b"],"seconds":2}'
    assert detail.steps[0].output == '{"tasks":["a","b"],"seconds":2}'
    assert model.calls[0].schema == Plan.model_json_schema()


async def test_any_type_that_pydantic_knows_can_be_asked_for(tmp_path: Path) -> None:
    @dataclass
    class Score:
        value: int

    async with engine_on(tmp_path / "j.db", planning(output=list[Score]), scripted('[{"value": 3}]')) as kit:
        detail = await kit.run("planning", "tea")
    assert json.loads(detail.run.output or "") == [{"value": 3}]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("I would plan so: …", "the answer: Invalid JSON"),
        ('{"tasks": []}', "tasks: List should have at least 1 item"),
        ('{"tasks": ["a"], "seconds": 3}', "seconds: Value error, seconds must be even"),
        ("", "the answer: Invalid JSON"),
    ],
)
async def test_an_answer_that_does_not_fit_is_asked_for_anew_in_a_further_turn(
    tmp_path: Path, bad: str, told: str
) -> None:
    first = ok(bad) if bad else Reply(outcome="ok", content=(), stop_reason="end_turn")
    model = scripted(first, GOOD)
    async with engine_on(tmp_path / "j.db", planning(), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.status == SUCCEEDED
    assert [(a.turn, a.number, a.outcome, a.final) for a in detail.attempts] == [(1, 1, "ok", True), (2, 1, "ok", True)]
    *_, last = model.calls[1].messages
    assert told in last["content"]
    roles = [message["role"] for message in model.calls[1].messages]
    assert roles == (["user", "assistant", "user"] if bad else ["user", "user"])  # an empty message would be refused
    assert model.calls[1].schema == Plan.model_json_schema()


async def test_repairs_end_and_the_failure_keeps_the_paid_text(tmp_path: Path) -> None:
    caught: list[StepFailed] = []
    agent = Agent(name="planner", model="claude-haiku-4-5", repairs=1)
    registry = Registry()

    @workflow(agents=[agent], registry=registry)
    async def planned(run: RunContext, given: str) -> str:
        try:
            await run.call(agent, "plan", output=Plan)
        except StepFailed as error:
            caught.append(error)
        return "gone on"

    async with engine_on(tmp_path / "j.db", registry, scripted("one", "two")) as kit:
        detail = await kit.run("planned", "tea")
    assert [(one.error_type, one.text) for one in caught] == [("output_invalid", "two")]
    assert [(one.status, one.error_type, one.output) for one in detail.steps] == [(FAILED, "output_invalid", '"two"')]
    assert [one.outcome for one in detail.attempts] == ["ok", "ok"]  # requests that were answered and paid


async def test_a_failed_repair_keeps_what_did_not_fit_a_field_a_line(tmp_path: Path) -> None:
    last = '{"tasks": [], "seconds": "soon"}'
    async with engine_on(tmp_path / "j.db", planning(), scripted("no JSON", "nor this", last)) as kit:
        detail = await kit.run("planning", "tea")
    (asked,) = detail.steps
    assert asked.error_type == "output_invalid"
    lines = json.loads(asked.error_detail or "").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["tasks", "seconds"]
    assert "at least 1 item" in lines[0]
    repaired = scripted("no JSON", GOOD)
    async with engine_on(tmp_path / "other.db", planning(), repaired) as kit:
        detail = await kit.run("planning", "tea")
    assert [(one.status, one.error_detail) for one in detail.steps] == [(SUCCEEDED, None)]


async def test_a_repair_begins_anew_after_an_answer_that_was_paused(tmp_path: Path) -> None:
    model = scripted(ok('{"tasks": ', "pause_turn"), "]", GOOD)
    async with engine_on(tmp_path / "j.db", planning(), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.output == '{"tasks":["a","b"],"seconds":2}'


async def test_a_paused_answer_and_its_continuation_are_one(tmp_path: Path) -> None:
    model = scripted(ok('{"tasks": ["a"', "pause_turn"), '], "seconds": 2}')
    async with engine_on(tmp_path / "j.db", planning(), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.output == '{"tasks":["a"],"seconds":2}'
    assert [message["role"] for message in model.calls[1].messages] == ["user", "assistant"]


async def test_a_type_without_a_schema_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    model = scripted()
    async with engine_on(tmp_path / "j.db", planning(output=ScriptedModel), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.error_type == "workflow_error"
    assert "has no JSON schema" in (detail.run.error_message or "")
    assert not model.calls


async def test_a_changed_schema_is_another_question(tmp_path: Path) -> None:
    class Other(BaseModel):
        tasks: list[str]

    registry = Registry()

    @workflow(agents=[planner], registry=registry)
    async def twice(run: RunContext, given: str) -> list[object]:
        return [await run.call(planner, "plan", output=kind) for kind in (Plan, Other)] + [
            await run.call(planner, "plan")
        ]

    async with engine_on(tmp_path / "j.db", registry, scripted(GOOD, '{"tasks": []}', "text")) as kit:
        detail = await kit.run("twice", "x")
    assert len({one.key.split(":")[1] for one in detail.steps}) == 3


def test_what_decides_an_answer_decides_the_key_and_nothing_else_does() -> None:
    asked = ({"role": "user", "content": "x"},)
    plain = agent_hash(planner, asked)
    assert plain != agent_hash(Agent(name="planner", model="claude-haiku-4-5", tools=[weather]), asked)
    assert plain == agent_hash(
        Agent(name="planner", model="claude-haiku-4-5", repairs=7, max_turns=2, attempts=9, timeout_s=1), asked
    )


# ---- tools ----

weather_calls: list[dict[str, object]] = []


class Place(BaseModel):
    city: str


def weather(place: Place, days: int = 1) -> dict[str, object]:
    """The forecast for a place."""
    weather_calls.append({"city": place.city, "days": days})
    if place.city == "Atlantis":
        raise LookupError("no such city")
    return {"city": place.city, "sky": "grey"}


@step(name="note_down")
async def write_down(text: str, idempotency_key: str) -> None:
    """Keep a note."""
    weather_calls.append({"text": text, "key": idempotency_key})


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    weather_calls.clear()


def asking(agent: Agent, output: object = None) -> Registry:
    registry = Registry()

    @workflow(agents=[agent], name="asking", registry=registry)
    async def asked(run: RunContext, given: str) -> object:
        return await run.call(agent, given, output=output) if output else await run.call(agent, given)

    return registry


guide = Agent(name="guide", model="claude-haiku-4-5", tools=[weather, write_down])


def test_a_tool_is_described_by_its_docstring_and_annotations() -> None:
    told = json.loads(guide.tool_params)
    assert [(one["name"], one["description"]) for one in told] == [
        ("weather", "The forecast for a place."),
        ("note_down", "Keep a note."),
    ]
    schema = told[0]["input_schema"]
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"] == {"default": 1, "title": "Days", "type": "integer"}
    assert set(told[1]["input_schema"]["properties"]) == {"text"}  # the key is the engine's to give


@pytest.mark.parametrize(
    ("tools", "wrong"),
    [
        ([lambda x: x], "tool name '<lambda>'"),
        ([weather, weather], "two tools are named 'weather'"),
        ([{"name": "web_search"}], "needs its 'type' and 'name'"),
        ([print], "'args' cannot be given by name"),
        ([3], "holds a int, expected functions"),
    ],
)
def test_tools_that_cannot_work_are_refused_at_once(tools: list[object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        Agent(name="guide", model="claude-haiku-4-5", tools=tools)


def test_a_parameter_without_annotation_is_refused() -> None:
    def lookup(city):
        return city

    with pytest.raises(UsageError, match="parameter 'city' has no annotation"):
        Agent(name="guide", model="claude-haiku-4-5", tools=[lookup])


async def test_tools_run_between_turns_as_steps_below_the_agents(tmp_path: Path) -> None:
    model = scripted(
        use(("weather", {"place": {"city": "Oslo"}}), ("note_down", {"text": "asked"}), text="let me see"),
        "It is grey.",
    )
    async with engine_on(tmp_path / "j.db", asking(guide), model) as kit:
        detail = await kit.run("asking", "weather in Oslo?")
    assert json.loads(detail.run.output or "") == "It is grey."
    agent, *tools = detail.steps
    assert [(t.kind, t.name, t.agent, t.parent, t.tool_call_id, t.status) for t in tools] == [
        (TOOL, "weather", "guide", agent.number, "toolu_0_weather", SUCCEEDED),
        (TOOL, "note_down", "guide", agent.number, "toolu_1_note_down", SUCCEEDED),
    ]
    assert weather_calls[0] == {"city": "Oslo", "days": 1}
    assert str(weather_calls[1]["key"]).startswith(detail.run.id)
    *_, said, results = model.calls[1].messages
    assert said["role"] == "assistant" and len(said["content"]) == 3
    assert results == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_0_weather", "content": '{"city":"Oslo","sky":"grey"}'},
            {"type": "tool_result", "tool_use_id": "toolu_1_note_down", "content": "null"},
        ],
    }


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("weather", {"place": {"city": "Atlantis"}}), "LookupError: no such city"),
        (("weather", {"town": "Oslo"}), "the input does not fit the tool's schema: place: Field required"),
        (("weather", "Oslo"), "the input does not fit the tool's schema: input: Input should be"),
    ],
)
async def test_a_tool_that_fails_is_told_to_the_model_which_goes_on(
    tmp_path: Path, call: tuple[str, object], told: str
) -> None:
    model = scripted(use(call), "never mind")
    async with engine_on(tmp_path / "j.db", asking(guide), model) as kit:
        detail = await kit.run("asking", "weather?")
    assert detail.run.status == SUCCEEDED
    assert (detail.steps[1].status, detail.steps[1].error_type) == (FAILED, "tool_error")
    (result,) = model.calls[1].messages[-1]["content"]
    assert result["is_error"] is True
    assert told in result["content"]


async def test_a_tool_that_nobody_declared_is_no_step(tmp_path: Path) -> None:
    model = scripted(use(("rm_rf", {})), "sorry")
    async with engine_on(tmp_path / "j.db", asking(guide), model) as kit:
        detail = await kit.run("asking", "weather?")
    assert [one.name for one in detail.steps] == ["guide"]
    assert model.calls[1].messages[-1]["content"][0]["is_error"] is True


async def test_a_model_that_never_ends_its_calls_is_stopped(tmp_path: Path) -> None:
    agent = Agent(name="guide", model="claude-haiku-4-5", tools=[weather], max_turns=3)
    model = scripted(*[use(("weather", {"place": {"city": "Oslo"}}))] * 9)
    async with engine_on(tmp_path / "j.db", asking(agent), model) as kit:
        detail = await kit.run("asking", "weather?")
    assert (detail.run.status, detail.run.error_type) == (FAILED, "budget_exceeded")
    assert len(model.calls) == 3
    assert len(weather_calls) == 2  # the last answer's call leads nowhere and is not made


async def test_tools_and_structured_output_go_together(tmp_path: Path) -> None:
    model = scripted(use(("weather", {"place": {"city": "Oslo"}}), text="hm"), "grey", GOOD)
    async with engine_on(tmp_path / "j.db", asking(guide, Plan), model) as kit:
        detail = await kit.run("asking", "plan")
    assert json.loads(detail.run.output or "")["tasks"] == ["a", "b"]
    assert [a.turn for a in detail.attempts] == [1, 2, 3]


async def test_a_tool_in_the_making_is_cut_off_by_a_cancel_and_on_the_books(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def dawdle() -> None:
        """Take long."""
        begun.set()
        await asyncio.sleep(60)

    agent = Agent(name="guide", model="claude-haiku-4-5", tools=[dawdle])
    async with engine_on(tmp_path / "j.db", asking(agent), scripted(use(("dawdle", {})))) as kit:
        submitted = await kit.engine.submit("asking", "x")
        await asyncio.wait_for(begun.wait(), 5)
        await kit.engine.cancel(submitted.run.id)
        detail = await kit.ended(submitted.run.id)
    assert [(one.name, one.status, one.error_type) for one in detail.steps] == [
        ("guide", "cancelled", "cancelled"),
        ("dawdle", "cancelled", "cancelled"),
    ]


# ---- crashes ----


async def _crashed_everywhere(tmp_path: Path, registry: Registry, answers: list[Reply | str]) -> None:
    """Run it whole; then, for the state after each commit, go on from there: same output, nothing paid twice."""
    copies: list[Path] = []
    model = scripted(*answers)
    async with engine_on(tmp_path / "j.db", registry, model) as kit:

        def copy(_: object) -> None:
            copies.append(kit.crash_copy(tmp_path / f"{len(copies)}.db"))

        kit.journal.subscribe(copy)
        whole = await kit.run("asking", "go")
        await kit.until(lambda: len(copies) >= 4)
    tools_run = len(weather_calls)
    assert whole.run.status == SUCCEEDED
    for path in copies:
        weather_calls.clear()
        paid, used = await _state(path, registry)
        again = scripted(*answers[paid:])
        async with engine_on(path, registry, again) as kit:
            detail = await kit.ended(whole.run.id)
            _parents_come_first(kit)
        assert detail.run.output == whole.run.output
        assert len(again.calls) == len(answers) - paid, path
        assert len(weather_calls) == tools_run - used, path
        keys = [one.key for one in detail.steps if one.status == SUCCEEDED]
        assert len(keys) == len(set(keys))
        for one in detail.steps:
            assert one.parent is None or any(
                parent.number == one.parent and parent.execution == one.execution for parent in detail.steps
            )


def _parents_come_first(kit: Kit) -> None:
    """A tool's span would have no parent if its process died before the agent's row was written."""
    opened: set[int] = set()
    for verb, record in kit.changes:
        if verb == OPENED and isinstance(record, Step):
            assert record.parent is None or record.parent in opened
            opened.add(record.number)


async def _state(path: Path, registry: Registry) -> tuple[int, int]:
    """How many turns and tool calls had ended in a copy."""
    async with engine_on(path, registry, ScriptedModel(), start=False) as kit:
        (detail,) = await kit.journal.details(_all())
        steps: list[Step] = list(detail.steps)
        attempts: list[Attempt] = [one for one in detail.attempts if one.outcome == "ok"]
    return len(attempts), sum(one.kind == TOOL and one.ended_at is not None for one in steps)


def _all() -> object:
    from agentobs.journal.protocol import RunQuery

    return RunQuery()


async def test_a_tool_loop_cut_off_anywhere_goes_on_without_paying_or_calling_twice(tmp_path: Path) -> None:
    answers: list[Reply | str] = [
        use(("weather", {"place": {"city": "Oslo"}}), ("weather", {"place": {"city": "Atlantis"}})),
        use(("note_down", {"text": "x"})),
        "done",
    ]
    await _crashed_everywhere(tmp_path, asking(guide), answers)


async def test_repairs_cut_off_anywhere_go_on_without_paying_twice(tmp_path: Path) -> None:
    await _crashed_everywhere(tmp_path, asking(planner, Plan), ["no", '{"tasks": []}', GOOD])


async def test_an_answer_that_fits_a_changed_type_is_taken_and_nothing_is_paid(tmp_path: Path) -> None:
    class Lax(BaseModel):  # the same schema, without the rule that the first answer broke
        model_config = ConfigDict(title="Plan")

        tasks: Annotated[list[str], Field(min_length=1)]
        seconds: int = 1

    lax = planning(output=Lax)
    copies: list[Path] = []
    model = scripted('{"tasks": ["a"], "seconds": 3}', GOOD)
    async with engine_on(tmp_path / "j.db", planning(), model) as kit:
        kit.journal.subscribe(lambda _: copies.append(kit.crash_copy(tmp_path / f"{len(copies)}.db")))
        whole = await kit.run("planning", "tea")
    path, *_ = [path for path in copies if await _state(path, lax) == (1, 0)]
    again = scripted()
    async with engine_on(path, lax, again) as kit:
        detail = await kit.ended(whole.run.id)
    assert detail.run.output == '{"tasks":["a"],"seconds":3}'
    assert not again.calls


async def test_a_resumed_run_keeps_its_finished_turns_and_tools(tmp_path: Path) -> None:
    """The failed tool is part of a conversation that went on; only the turn that failed is paid again."""
    registry = asking(guide)
    first = scripted(use(("weather", {"place": {"city": "Atlantis"}})), *[failed("overloaded")] * 3)
    async with engine_on(tmp_path / "j.db", registry, first) as kit:
        detail = await kit.run("asking", "go")
        assert detail.run.error_type == "overloaded"
        first.script = lambda *_: ok("done")
        weather_calls.clear()
        await kit.engine.resume(detail.run.id)
        detail = await _ended_again(kit, detail.run.id)
    assert json.loads(detail.run.output or "") == "done"
    assert len(first.calls) == 5
    assert not weather_calls
    assert detail.executions[-1].reused == 1


async def _ended_again(kit: Kit, run_id: str):
    async with asyncio.timeout(10):
        while True:
            detail = await kit.journal.detail(run_id)
            assert detail is not None
            if detail.run.status == SUCCEEDED:
                return detail
            await asyncio.sleep(0.005)


# ---- what nobody thinks of ----


class Strange(BaseModel):
    tasks: list[str]

    @field_validator("tasks")
    @classmethod
    def _checked(cls, value: list[str]) -> list[str]:
        return [str({"known": 1}[one]) for one in value]  # a KeyError, which pydantic lets through


async def test_a_check_that_raises_anything_is_an_answer_that_does_not_fit(tmp_path: Path) -> None:
    model = scripted('{"tasks": ["new"]}', '{"tasks": ["new"]}', '{"tasks": ["new"]}')
    async with engine_on(tmp_path / "j.db", planning(output=Strange), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.error_type == "output_invalid"
    assert [one.outcome for one in detail.attempts] == ["ok"] * 3
    assert "its checks could not be made" in model.calls[1].prompt
    _nothing_is_open(detail)


def _nothing_is_open(detail) -> None:
    assert all(one.ended_at is not None for one in (*detail.executions, *detail.steps, *detail.attempts))


class Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def odd(how: str) -> int:
    """Fail in some odd way."""
    if how == "textless":
        raise Textless
    if how == "own misfit":
        Place.model_validate({})
    return "not a number"  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"how": "textless"}, "Textless"),
        ({"how": "own misfit"}, "ValidationError"),
        ({"how": "wrong type"}, "ValidationError"),
    ],
)
async def test_a_tool_that_fails_oddly_is_told_to_the_model_too(
    tmp_path: Path, given: dict[str, object], told: str
) -> None:
    agent = Agent(name="guide", model="claude-haiku-4-5", tools=[odd])
    model = scripted(use(("odd", given)), "never mind")
    async with engine_on(tmp_path / "j.db", asking(agent), model) as kit:
        detail = await kit.run("asking", "go")
    assert detail.run.status == SUCCEEDED
    (result,) = model.calls[1].messages[-1]["content"]
    assert result["content"].startswith(told) and result["is_error"]
    _nothing_is_open(detail)


async def test_a_call_that_cannot_be_kept_fails_the_step_and_leaves_nothing_open(tmp_path: Path) -> None:
    agent = Agent(name="guide", model="claude-haiku-4-5", tools=[odd])
    model = scripted(use(("odd", {"how": float("nan")})))
    async with engine_on(tmp_path / "j.db", asking(agent), model) as kit:
        detail = await kit.run("asking", "go")
    assert detail.run.error_type == "workflow_error"
    _nothing_is_open(detail)


async def test_a_function_whose_result_is_not_what_it_says_fails_its_step(tmp_path: Path) -> None:
    registry = Registry()

    @workflow(steps=[odd], registry=registry)
    async def stepped(run: RunContext, given: str) -> str:
        try:
            await run.step(odd, "wrong type")
        except StepFailed as error:
            return error.error_type
        return "succeeded"

    async with engine_on(tmp_path / "j.db", registry, scripted()) as kit:
        detail = await kit.run("stepped", "x")
    assert json.loads(detail.run.output or "") == "workflow_error"
    assert detail.steps[0].status == FAILED


async def test_tools_are_the_engines_own_and_end_before_their_agents_step(tmp_path: Path) -> None:
    async def slow() -> str:
        """Take long."""
        await asyncio.sleep(60)
        return "late"

    async def gives_up() -> str:
        """Cancel itself."""
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    agent = Agent(name="guide", model="claude-haiku-4-5", tools=[slow, gives_up])
    registry = Registry()

    @workflow(agents=[agent], registry=registry)
    async def tolerant(run: RunContext, given: str) -> str:
        try:
            return await run.call(agent, given)
        except asyncio.CancelledError:
            return "gone on"

    async with engine_on(tmp_path / "j.db", registry, scripted(use(("slow", {}), ("gives_up", {})))) as kit:
        detail = await kit.run("tolerant", "go")
    assert json.loads(detail.run.output or "") == "gone on"
    _nothing_is_open(detail)
    guide_step, *tools = detail.steps
    assert {one.name: one.status for one in tools} == {"slow": "cancelled", "gives_up": "cancelled"}
    assert all((one.end_seq or 0) < (guide_step.end_seq or 0) for one in tools)


async def test_half_an_answer_is_not_accepted_where_data_was_asked_for(tmp_path: Path) -> None:
    agent = Agent(name="planner", model="claude-haiku-4-5", accept={"max_tokens", "refusal"})
    cut = Reply(
        outcome="max_tokens", text='{"ta', content=({"type": "text", "text": '{"ta'},), stop_reason="max_tokens"
    )
    model = scripted(cut)
    async with engine_on(tmp_path / "j.db", planning(agent), model) as kit:
        detail = await kit.run("planning", "tea")
    assert detail.run.error_type == "max_tokens"
    assert len(model.calls) == 1


@pytest.mark.parametrize("name", ["_hidden", "model_config"])
def test_a_parameter_that_cannot_be_told_to_a_model_is_refused(name: str) -> None:
    scope: dict[str, object] = {}
    exec(f"def lookup({name}: str) -> str:\n    return ''", scope)
    with pytest.raises(UsageError, match=f"parameter '{name}' cannot be told to a model|no JSON schema"):
        Agent(name="guide", model="claude-haiku-4-5", tools=[scope["lookup"]])


class Handle:
    pass


def opened() -> Handle:
    return Handle()


def test_a_result_that_cannot_be_read_back_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="'opened' returns 'Handle', which cannot be read back from JSON"):
        Agent(name="guide", model="claude-haiku-4-5", tools=[opened])
