"""Declarations of workflows, and the modules that register them."""

from __future__ import annotations

import re
import sys
from datetime import date
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from agentobs import Agent, UsageError, misfits, step
from agentobs.errors import InvalidInput
from agentobs.workflows import Registry, declare, workflow

writer = Agent(name="writer", model="claude-haiku-4-5")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the given text and says its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def write(text: str) -> str:
        name = f"flows_made_{len(made)}_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def (:", "SyntaxError at .*flows_made.*:1"),
        ("x = 1\nraise ValueError('my own words')", "ValueError at .*flows_made.*:2: my own words"),
        ("import sys\nsys.exit(0)", "SystemExit at .*flows_made.*:2"),
        ("import nothing_of_that_name", "ModuleNotFoundError at .*flows_made.*:1"),
        ("x = 1", "registers no workflow"),
    ],
)
def test_a_module_that_cannot_serve_is_told_in_one_sentence_with_its_line(module, text, told):
    with pytest.raises(UsageError, match=f"AGENTOBS_WORKFLOWS names .*{told}"):
        Registry().load([module(text)])


TOOL = "from agentobs import Agent\n\ndef stock(article): ...\n\nAgent(name='clerk', model='m', tools=[stock])\n"
BARE = "from agentobs import step, workflow\n\n@{0}\nasync def mine(run, given): ...\n"


def test_a_workflow_says_its_version():
    async def mine(run, given): ...

    assert declare(mine).version is None
    assert declare(mine, version="2026-11-24.2").version == "2026-11-24.2"
    registry = Registry()
    workflow(version="7", registry=registry)(mine)
    assert registry["mine"].version == "7"


@pytest.mark.parametrize("version", ["", "a b", "x" * 65, "é", "a\n", 3])
def test_a_version_that_cannot_be_a_label_is_refused(version):
    async def mine(run, given): ...

    with pytest.raises(UsageError, match=r"version is .*, expected 1 to 64 visible ASCII characters such as"):
        declare(mine, version=version)


WRONG_TYPE = "from agentobs import workflow\n\n@workflow()\nasync def mine(run, given: open): ...\n"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        (TOOL, 5, "has no annotation; the model is told its type"),
        (BARE.format("workflow"), 3, "@workflow of 'mine' has no parentheses: write @workflow(agents=[…])"),
        (BARE.format("step"), 3, """@step of 'mine' has no parentheses: write @step(version="1")"""),
        (BARE.format("step('charge')"), 3, """@step(…) holds a str without a name: write @step(version="1")"""),
    ],
)
def test_a_wrong_declaration_is_told_by_its_place_in_the_users_own_file(module, text, line, told):
    name = module(text)
    with pytest.raises(UsageError) as error:
        Registry().load([name])
    assert re.search(rf": UsageError at /\S*/{name}\.py:{line}: .*{re.escape(told)}$", str(error.value))


def test_an_error_below_agentobs_is_told_by_the_users_own_file_too(module):
    name = module(WRONG_TYPE)
    with pytest.raises(UsageError, match=rf"/{name}\.py:[34]: "):
        Registry().load([name])


def test_a_module_that_is_not_there_is_told_with_where_python_looks(module):
    for name in ("no_such_module_anywhere", "no_such_package.workflows"):
        with pytest.raises(UsageError, match=r"ModuleNotFoundError: .*run it from the project's folder, or install"):
            Registry().load([name])
    with pytest.raises(UsageError, match=r"'nothing_of_that_name'. Expected an importable Python module$"):
        Registry().load([module("import nothing_of_that_name")])


async def good(run, given: dict[str, int]) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"agents": [1]}, "expected Agent objects"),
        ({"agents": [writer, writer]}, "two agents named 'writer'"),
        ({"steps": [len, len]}, "two steps named 'len'"),
        ({"steps": [3]}, "steps holds a int"),
        ({"deadline_s": 0}, "seconds above 0"),
        ({"name": "no spaces"}, "workflow name 'no spaces'"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_at_once(wrong, told):
    with pytest.raises(UsageError, match=told):
        declare(good, **wrong)


def test_a_workflow_is_an_async_function_of_run_and_input():
    with pytest.raises(UsageError, match="not an async function"):
        declare(lambda run, given: None, name="plain")

    async def lonely(run) -> None: ...

    with pytest.raises(UsageError, match="takes 1 parameters, expected 2"):
        declare(lonely)


def test_two_workflows_of_one_name_are_refused_and_one_twice_is_not():
    registry = Registry()

    async def other(run, given): ...

    workflow(registry=registry, name="same")(good)
    workflow(registry=registry, name="same")(good)
    with pytest.raises(UsageError, match=r"two workflows are named 'same'.*rename one"):
        workflow(registry=registry, name="same")(other)


def test_a_key_that_the_caller_made_up_is_not_repeated():
    declared = declare(good)
    with pytest.raises(InvalidInput) as error:
        declared.parse({"my secret": "x"})
    assert error.value.fields == (("(a key not declared)", "int_parsing"),)
    assert "my secret" not in str(error.value)


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    article: Annotated[str, Field(min_length=3)]
    pieces: Annotated[int, Field(gt=0)] = 1
    size: Literal["S", "M"] = "S"
    gifts: list[str] = []
    when: date | None = None


class Gift(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: str = ""
    within: Gift | None = None


class Parcel(BaseModel):
    orders: list[Order]
    gift: Gift | None = None


async def ordering(run, given: Order) -> None: ...
async def asking(run, given: str) -> None: ...


FIELDS = ". Its fields: article (required), pieces, size, gifts, when. Its schema is in GET /v1/workflows"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "there is none (null), expected an object"),
        ("hush", "expected an object"),
        ({}, "article: missing"),
        ({"article": ["hush"]}, "article: expected text"),
        ({"article": "tea", "hush": 1}, "(a key not declared): not among its fields"),
        ({"article": "tea", "pieces": "hush"}, "pieces: expected a whole number"),
        ({"article": "tea", "pieces": -7777}, "pieces: too small, expected above 0"),
        ({"article": "sh"}, "article: too short, expected at least 3 long"),
        ({"article": "tea", "size": "hush"}, "size: expected 'S' or 'M'"),
        ({"article": "tea", "gifts": "hush", "pieces": 1.5}, "pieces: expected a whole number; gifts: expected a list"),
        ({"article": "tea", "gifts": [{"hush": "hush"}]}, "gifts.0: expected text"),
        ({"article": "tea", "when": "hush"}, "when: expected a date"),
    ],
)
def test_an_input_that_does_not_fit_is_told_in_words_with_the_declared_fields_and_without_values(given, told):
    with pytest.raises(InvalidInput) as error:
        declare(ordering, name="order").parse(given)
    said = str(error.value).removeprefix("the input does not fit workflow 'order': ")
    assert said == told + FIELDS
    assert not any(word in said for word in ("hush", "7777"))


def test_an_input_without_fields_is_told_by_what_it_is():
    with pytest.raises(InvalidInput, match=r"'ask': expected text\. Its schema"):
        declare(asking, name="ask").parse({"hush": 1})


async def either(run, given: Order | Gift) -> None: ...
async def many(run, given: list[Order]) -> None: ...
async def lenient(run, given: Gift) -> None: ...
async def nested(run, given: Parcel) -> None: ...


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (ordering, "--set article=…"),
        (asking, """--input '"…"'"""),
        (good, "--input '{}'"),
        (many, """--input '[{"article": "…"}]'"""),
        (lenient, "--input '{}'"),
        (nested, """--input '{"orders": [{"article": "…"}]}'"""),
        (either, ""),
    ],
)
def test_the_command_line_is_told_how_such_an_input_is_given(function, how):
    assert misfits.how_to_give(declare(function).schema()) == how


def test_members_of_a_union_are_told_by_their_names():
    with pytest.raises(InvalidInput) as error:
        declare(either, name="either").parse({"hush": 1})
    assert "Order.article: missing; Order.(a key not declared): not among" in str(error.value)
    assert "hush" not in str(error.value)


def test_a_step_can_be_named_and_versioned():
    @step(name="charge", version="2")
    def function(amount: int, idempotency_key: str) -> int:
        return amount

    (declared,) = declare(good, steps=[function]).steps
    assert (declared.name, declared.version, declared.takes_key) == ("charge", "2", True)


@pytest.mark.parametrize("provider", ["bedrok", "aws", "", None, "Anthropic"])
def test_a_provider_that_is_none_is_refused_where_it_is_declared(provider):
    with pytest.raises(UsageError, match=r"provider is .*expected one of anthropic, bedrock, vertex, foundry"):
        Agent(name="writer", model="claude-haiku-5-5", provider=provider)
