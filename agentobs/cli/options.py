"""What several commands have in common: options, settings, a loop to wait in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from agentobs.settings import Settings

T = TypeVar("T")

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Server: TypeAlias = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="The service to ask; else AGENTOBS_URL.")
]
RunId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The run's id, or its trace id.")]


def settings() -> Settings:
    from agentobs.settings import Settings  # noqa: PLC0415

    found = Settings.load()
    here = str(Path.cwd())
    if found.workflows and here not in sys.path:
        sys.path.append(here)  # a console script does not look there; last, so that nothing of ours is shadowed
    return found


def wait(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
