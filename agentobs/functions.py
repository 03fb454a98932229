"""Plain functions as parts of a run: function steps of a workflow, and tools of an agent. Declarations, no I/O."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from agentobs.errors import UsageError

StepFunction: TypeAlias = Callable[..., Any]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_TOOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # the API takes no dot
_KEY: Final = "idempotency_key"  # a parameter of this name is filled by the engine, not by the caller or model


def check_name(name: object, what: str) -> None:
    """Raise `UsageError` unless `name` can be a metric label and part of a span name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} name {name!r:.80} cannot be used: expected 1 to 64 letters, digits, '_', '-' or '.', "
            "beginning with a letter"
        )


def refuse_misuse(misused: object, expected: str) -> NoReturn:
    """Raise `UsageError` for a decorator that was given what it decorates, or anything else, by position."""
    name = expected.partition("(")[0]
    if callable(misused):
        of = getattr(misused, "__name__", type(misused).__name__)
        raise UsageError(f"{name} of {of!r:.80} has no parentheses: write {expected}")
    raise UsageError(f"{name}(…) holds a {type(misused).__name__} without a name: write {expected}")


@dataclass(frozen=True, kw_only=True)
class FunctionStep:
    """A declared function. A changed `version` makes recorded results of the older one unusable."""

    name: str
    function: StepFunction
    version: str = ""
    takes_key: bool = False  # has a parameter `idempotency_key`
    returns: TypeAdapter[Any] | None = field(default=None, compare=False)  # decodes the committed JSON


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may call: what the API is told of it, and how its input is read."""

    step: FunctionStep
    description: str
    schema: str  # JSON of the input's schema
    arguments: type[BaseModel] = field(compare=False)

    @property
    def name(self) -> str:
        return self.step.name

    def param(self) -> dict[str, Any]:
        """As the Messages API has it."""
        told = {"name": self.name, "description": self.description, "input_schema": json.loads(self.schema)}
        return {key: value for key, value in told.items() if value}

    def bind(self, given: object) -> dict[str, Any]:
        """Keyword arguments from a call's input. Raises pydantic's `ValidationError`."""
        found = self.arguments.model_validate(given)
        return {name: getattr(found, name) for name in type(found).model_fields}


def step(
    misused: None = None, /, *, name: str | None = None, version: str = ""
) -> Callable[[StepFunction], StepFunction]:
    """Name or version a function step or tool. Plain functions can be declared without it."""
    if misused is not None:
        refuse_misuse(misused, '@step(version="1")')

    def mark(function: StepFunction) -> StepFunction:
        function.__agentobs_step__ = (name or function.__name__, version)  # type: ignore[attr-defined]
        return function

    return mark


def function_step(function: StepFunction, what: str = "step") -> FunctionStep:
    """What is declared by a function. Raises `UsageError`."""
    if not callable(function) or not hasattr(function, "__name__"):
        raise UsageError(f"{what}s holds a {type(function).__name__}, expected functions")
    name, version = getattr(function, "__agentobs_step__", (function.__name__, ""))
    check_name(name, what)
    returns = hints(function).get("return")
    try:
        adapter = None if returns in (None, Any, type(None)) else TypeAdapter(returns)
    except PydanticSchemaGenerationError:
        raise UsageError(
            f"{what} {name!r} returns {getattr(returns, '__name__', 'a type')!r:.80}, which cannot be read back from "
            "JSON; expected text, numbers, booleans, lists, dicts, dataclasses or pydantic models"
        ) from None
    return FunctionStep(
        name=name,
        function=function,
        version=version,
        takes_key=_KEY in inspect.signature(function).parameters,
        returns=adapter,
    )


def as_tool(function: StepFunction) -> Tool:
    """A tool from a function: its docstring is the description, its annotated parameters are the input's schema.

    Raises `UsageError` for one that a model could not call by JSON.
    """
    declared = function_step(function, "tool")
    if not _TOOL_NAME.fullmatch(declared.name):
        raise UsageError(f"tool name {declared.name!r} cannot be used: the API takes letters, digits, '_' and '-'")
    known = hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == _KEY:
            continue
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(
                f"tool {declared.name!r}: parameter {parameter.name!r} cannot be given by name; expected plain "
                "annotated parameters"
            )
        if parameter.name not in known:
            raise UsageError(
                f"tool {declared.name!r}: parameter {parameter.name!r} has no annotation; the model is told its type"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (known[parameter.name], default)
    try:
        arguments = create_model(declared.name, __config__=ConfigDict(extra="forbid"), **fields)
        schema = arguments.model_json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, NameError) as error:
        raise UsageError(
            f"tool {declared.name!r}: its parameters have no JSON schema ({type(error).__name__}); expected text, "
            "numbers, booleans, lists, dicts, dataclasses or pydantic models"
        ) from error
    if lost := sorted(set(fields) - set(arguments.model_fields)):
        raise UsageError(
            f"tool {declared.name!r}: parameter {lost[0]!r} cannot be told to a model; rename it, without a leading '_'"
        )
    return Tool(
        step=declared,
        description=inspect.getdoc(function) or "",
        schema=json.dumps(schema, sort_keys=True),
        arguments=arguments,
    )


def hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations, evaluated. Raises `UsageError` for one that names what is not there at run time."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"the annotations of {origin(function)} cannot be read ({error}); import what they name at run time"
        ) from error


def origin(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
