"""Declarations of workflows, and the registry that finds them by name.

@workflow(agents=[researcher, writer], steps=[fetch])
async def article(run: RunContext, input: Article) -> str: ...
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import TypeAdapter, ValidationError

from agentobs import misfits
from agentobs.agents import Agent
from agentobs.encoding import encode
from agentobs.errors import InvalidInput, UnknownWorkflow, UsageError
from agentobs.functions import FunctionStep, StepFunction, check_name, function_step, hints, origin, refuse_misuse

DEFAULT_DEADLINE_S: Final = 3600.0
_OURS: Final = Path(__file__).parent
_VERSION: Final = re.compile(r"[\x21-\x7e]{1,64}")

WorkflowFunction: TypeAlias = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A registered workflow: its function, what it may call, and the schema of its input."""

    name: str
    function: WorkflowFunction
    version: str | None = None
    agents: tuple[Agent, ...] = ()
    steps: tuple[FunctionStep, ...] = ()
    deadline_s: float = DEFAULT_DEADLINE_S
    strict: bool = False
    description: str = ""
    adapter: TypeAdapter[Any] = field(repr=False)

    def parse(self, value: object) -> Any:
        """The typed input from JSON data. Raises `InvalidInput` with the fields at fault, never their values."""
        try:
            # As JSON, not as Python objects: what the HTTP API accepts is what every other way in accepts.
            return self.adapter.validate_json(encode(value, f"the input of workflow {self.name!r}"))
        except ValidationError as error:
            schema = self.schema()
            wrong = misfits.sentence(error, schema)
            none = "there is none (null), " if value is None else ""
            raise InvalidInput(
                f"the input does not fit workflow {self.name!r}: {none}{wrong}. {misfits.SEE}",
                misfits.fields(error, schema),
            ) from None

    def schema(self) -> dict[str, Any]:
        """JSON schema of the input."""
        return self.adapter.json_schema()


class Registry(Mapping[str, Workflow]):
    """Workflows by name."""

    def __init__(self) -> None:
        self._workflows: dict[str, Workflow] = {}

    def add(self, found: Workflow) -> None:
        known = self._workflows.get(found.name)
        if known is not None and origin(known.function) != origin(found.function):
            raise UsageError(
                f"two workflows are named {found.name!r}: {origin(known.function)} and {origin(found.function)}; "
                "rename one"
            )
        self._workflows[found.name] = found

    def __getitem__(self, name: str) -> Workflow:
        try:
            return self._workflows[name]
        except KeyError:
            raise UnknownWorkflow(
                f"no workflow is registered as {name!r:.80}; registered: {', '.join(self) or 'none'}. "
                "Name its module in AGENTOBS_WORKFLOWS"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._workflows

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._workflows))

    def __len__(self) -> int:
        return len(self._workflows)

    def load(self, modules: Sequence[str]) -> None:
        """Import modules that register workflows. Raises `UsageError` naming one that cannot be, or registers none."""
        for module in modules:
            before = len(self)
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:
                raise UsageError(
                    f"AGENTOBS_WORKFLOWS names {module!r}, which cannot be imported: {type(error).__name__}"
                    f"{_raised_at(error)}: {error}{_advice(error, module)}"
                ) from error
            if len(self) == before and not _registered_by(self, module):
                raise UsageError(
                    f"AGENTOBS_WORKFLOWS names {module!r}, which registers no workflow (imported from "
                    f"{getattr(sys.modules[module], '__file__', 'an unknown place')}); expected one with @workflow"
                )


def _raised_at(error: BaseException) -> str:
    """The place in the user's own file: the innermost frame before agentobs is called, or a syntax error's line."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}"
    frames = [one for one in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in one.filename]
    theirs = list(takewhile(lambda one: not Path(one.filename).is_relative_to(_OURS), frames))
    in_files = [one for one in theirs if not one.filename.startswith("<")]  # `<string>`: a dataclass's own code
    return f" at {in_files[-1].filename}:{in_files[-1].lineno}" if in_files else ""


def _advice(error: BaseException, module: str) -> str:
    """What to do, where the error itself does not say it."""
    if isinstance(error, UsageError):
        return ""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return (
            ". Python looks in the folder of this command and in what is installed: run it from the project's folder, "
            "or install the project (pip install -e FOLDER)"
        )
    return ". Expected an importable Python module"


def _registered_by(registry: Registry, module: str) -> bool:
    """Loaded before, by another name's import: a second load of a module registers nothing anew."""
    return any(
        found.function.__module__.split(".")[0] == module.split(".", maxsplit=1)[0] for found in registry.values()
    )


# Where @workflow registers unless told otherwise. A process serves what its modules declared.
REGISTRY: Final = Registry()


def workflow(
    misused: None = None,
    /,
    *,
    agents: Sequence[Agent] = (),
    steps: Sequence[StepFunction] = (),
    name: str | None = None,
    version: str | None = None,
    deadline_s: float = DEFAULT_DEADLINE_S,
    strict: bool = False,
    registry: Registry = REGISTRY,
) -> Callable[[WorkflowFunction], WorkflowFunction]:
    """Register an async function `(run, input) -> output` as a workflow.

    `agents` and `steps` are all it may use (labels of metrics stay closed, and can be created at 0). The input's
    annotation gives the schema that submits are checked against. `version` is what this code calls itself on spans
    and in metrics (1 to 64 visible ASCII characters); what is reused does not depend on it. `deadline_s` bounds the
    time spent inside its executions, in seconds. `strict=True` refuses, before it is paid, a call that no earlier
    execution recorded while its branch still has recorded steps not yet asked for.

    The function itself is returned unchanged. Raises `UsageError` for a declaration that cannot work.
    """
    if misused is not None:
        refuse_misuse(misused, "@workflow(agents=[…])")

    def register(function: WorkflowFunction) -> WorkflowFunction:
        found = declare(
            function, agents=agents, steps=steps, name=name, version=version, deadline_s=deadline_s, strict=strict
        )
        registry.add(found)
        return function

    return register


def declare(
    function: WorkflowFunction,
    *,
    agents: Sequence[Agent] = (),
    steps: Sequence[StepFunction] = (),
    name: str | None = None,
    version: str | None = None,
    deadline_s: float = DEFAULT_DEADLINE_S,
    strict: bool = False,
) -> Workflow:
    """A `Workflow` from its function, without registering it."""
    name = name or function.__name__
    check_name(name, "workflow")
    if not inspect.iscoroutinefunction(function):
        raise UsageError(
            f"workflow {name!r} is not an async function: write 'async def {function.__name__}(run, input)'"
        )
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        raise UsageError(f"workflow {name!r} takes {len(parameters)} parameters, expected 2: (run, input)")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise UsageError(
            f"workflow {name!r}: version is {version!r:.80}, expected 1 to 64 visible ASCII characters such as '1.4.2'"
        )
    if not isinstance(deadline_s, int | float) or deadline_s <= 0:
        raise UsageError(f"workflow {name!r}: deadline_s is {deadline_s!r:.40}, expected seconds above 0")
    for found in agents:
        if not isinstance(found, Agent):
            raise UsageError(f"workflow {name!r}: agents holds a {type(found).__name__}, expected Agent objects")
    declared = tuple(function_step(found) for found in steps)
    _unique(name, "agents", [found.name for found in agents])
    _unique(name, "steps", [found.name for found in declared])
    return Workflow(
        name=name,
        function=function,
        version=version,
        agents=tuple(agents),
        steps=declared,
        deadline_s=float(deadline_s),
        strict=strict,
        description=inspect.getdoc(function) or "",
        adapter=TypeAdapter(hints(function).get(parameters[1].name, Any)),
    )


def _unique(workflow_name: str, what: str, names: list[str]) -> None:
    twice = sorted({found for found in names if names.count(found) > 1})
    if twice:
        raise UsageError(f"workflow {workflow_name!r} declares two {what} named {twice[0]!r}; names must differ")
