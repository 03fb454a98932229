"""What a group of commands is made by: errors as one sentence and an exit code, no pretty tracebacks."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from agentobs.cli.terminal import fail, note, prepare
from agentobs.errors import AgentobsError
from agentobs.runtime.loop import leave


class _Group(TyperGroup):
    """Errors of our tree, and wrong arguments, end as one sentence and their exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        prepare()
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except TyperException as error:
            message = error.format_message()
            if "\n" in message:  # no arguments at all: the message is the help
                note(message)
            else:
                command = getattr(getattr(error, "ctx", None), "command_path", "agentobs")
                fail(f"{_sentence(message)}; see '{command} --help'")
            code = error.exit_code
        leave(code)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AgentobsError as error:
            fail(str(error))
            raise typer.Exit(error.exit_code) from None


def _sentence(text: str) -> str:
    """Typer's messages begin with a capital and end with a full stop."""
    return text[:1].lower() + text[1:].rstrip().rstrip(".")


def group(text: str) -> typer.Typer:
    """A group of commands with this help text."""
    return typer.Typer(
        cls=_Group,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
