"""Where output goes. rich is loaded at the first use, so that `--help` does not wait for it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from agentobs.cli.waterfall import Look


def prepare() -> None:
    """Output never fails for a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@cache
def out() -> Console:
    return _console(sys.stdout)


@cache
def err() -> Console:
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    """Rich sees to NO_COLOR, TERM, COLUMNS and pipes. Our texts are none of its markup; lines are ours to break."""
    from rich.console import Console  # noqa: PLC0415

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


def look(console: Console) -> Look:
    from agentobs.cli.waterfall import Look  # noqa: PLC0415

    return Look(width=max(console.width, 60), unicode=console.encoding.lower().startswith("utf"))


def show(lines: Iterable[Text | str], console: Console | None = None) -> None:
    target = console or out()
    for line in lines:
        target.print(line)


def prose(text: str, indent: str = "") -> list[str]:
    """A sentence for `show`, broken between words where a terminal would break it anywhere."""
    return _broken(text, out().width, indent) if out().is_terminal else [indent + text]


def note(text: str) -> None:
    """A sentence for the person at the terminal, beside the result; one line where it is read by a program."""
    if sys.stderr.isatty() and "\n" not in text:
        text = "\n".join(_broken(text, shutil.get_terminal_size().columns))
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _broken(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.TextWrapper(width, indent, indent, break_long_words=False, break_on_hyphens=False).wrap(text)


def fail(text: str) -> None:
    note(f"agentobs: {text}")


def document(value: Any) -> None:
    """The result as one JSON document, ASCII only: stored text can hold what UTF-8 cannot encode."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
