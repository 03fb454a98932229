"""`agentobs init`: a small project of the user's own, from the templates in `project/`."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Final

from agentobs.cli.terminal import show
from agentobs.errors import UsageError
from agentobs.version import __version__

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SUFFIX: Final = ".tmpl"  # lest a tool takes a template for what it becomes
_PACKAGE: Final = "package"  # the folder that gets the project's name
_HIDDEN: Final = {"gitignore": ".gitignore"}
_SHOWN: Final = 5


def init(target: Path, name: str | None) -> None:
    """Write the project into `target`, which is made, or empty but for a `.git`. Nothing is ever overwritten.

    Raises `UsageError` for a folder that holds something, and for a name that cannot be that of a Python package.
    """
    name = _checked(name, target)
    _check_empty(target)
    written = _written(target, {"name": name, "version": __version__})
    show([f"{target / path}" for path in written])
    show(["", "Next:", *(f"  {line}" for line in _next(target, name))])


def _next(target: Path, name: str) -> Iterator[str]:
    if target.resolve() != Path.cwd():
        yield f"cd {shlex.quote(str(target))}"
    yield "python -m pip install -e '.[test]'"
    yield "pytest"
    yield "agentobs simulate --port 9100 &"
    yield (
        "ANTHROPIC_BASE_URL=http://127.0.0.1:9100 ANTHROPIC_API_KEY=any "
        f"AGENTOBS_WORKFLOWS={name}.workflows agentobs run brief --set subject=tea"
    )


def _checked(name: str | None, target: Path) -> str:
    found = name if name is not None else target.resolve().name.lower().replace("-", "_")
    where = "--name" if name is not None else "the folder's name, which becomes the package's,"
    if not _NAME.fullmatch(found) or keyword.iskeyword(found):
        raise UsageError(
            f"{where} {found!r:.80} cannot be that of a Python package: expected lower-case letters, digits and '_', "
            "beginning with a letter; give another --name"
        )
    taken = found in sys.stdlib_module_names or found in {"agentobs", "tests"} or found in packages_distributions()
    if taken:
        raise UsageError(f"{where} {found!r:.80} is that of an installed module already; give another --name")
    return found


def _check_empty(target: Path) -> None:
    """Whatever is there is somebody's."""
    if os.path.lexists(target) and not target.is_dir():
        raise UsageError(f"{target} is no folder; expected a new or an empty one")
    there = sorted(path.name for path in target.iterdir() if path.name != ".git") if target.exists() else []
    if there:
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise UsageError(
            f"{target} is not empty: it holds {', '.join(there[:_SHOWN])}{more}; nothing was written. Name a new or "
            "an empty folder"
        )


def _written(target: Path, values: Mapping[str, str]) -> list[Path]:
    """Write every file of the project; their paths within it."""
    written = []
    try:
        for path, template in sorted(_templates(files("agentobs.cli") / "project", Path(), values["name"])):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            with (target / path).open("x", encoding="utf-8", newline="\n") as file:
                file.write(Template(template).substitute(values))
            written.append(path)
    except OSError as error:
        raise UsageError(
            f"{error.filename or target} cannot be written ({error.strerror}); expected a place that this user may "
            "write to"
        ) from None
    return written


def _templates(folder: Traversable, into: Path, name: str) -> Iterator[tuple[Path, str]]:
    for found in folder.iterdir():
        if found.is_dir():
            yield from _templates(found, into / (name if found.name == _PACKAGE else found.name), name)
        elif found.name.endswith(_SUFFIX):
            plain = found.name.removesuffix(_SUFFIX)
            yield into / _HIDDEN.get(plain, plain), found.read_text(encoding="utf-8")
