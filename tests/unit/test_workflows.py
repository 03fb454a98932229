"""Declarations of workflows, and the modules that register them."""

from __future__ import annotations

import sys

import pytest

from agentobs import Agent, UsageError, step
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


def test_a_module_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        Registry().load(["no_such_module_anywhere"])


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
