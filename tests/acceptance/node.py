"""Programs for Node against the simulator: the packages that they need, and a folder to run them in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = Path(__file__).parent / "seed"
OLDEST = 20  # what the TypeScript SDK asks for
INSTALL_S = 300.0
RUN_S = 60.0


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    errors: str


def required_packages(source: Path = PACKAGES) -> Path:
    """The `node_modules` of the lock file in `source`, installed once into the user's cache.

    Skips what asks for it, with the reason, where that cannot be; fails it if AGENTOBS_TEST_REQUIRE names node.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        _lacking("node or npm is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST:
        _lacking(f"found node {version}, {OLDEST} or newer is needed")
    lock = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentobs-tests"
    folder = cache / f"node-{lock}"
    if not folder.exists():
        _install(source, cache, folder)
    return folder / "node_modules"


def _install(source: Path, cache: Path, folder: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, new)
        ended = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=new,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        if ended.returncode != 0:
            _lacking(f"npm could not install what the lock names: {ended.stderr.strip().splitlines()[:1]}")
        with suppress(OSError):  # others who tests at the same time were first
            new.rename(folder)
    assert folder.is_dir()


def _lacking(reason: str) -> NoReturn:
    if "node" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
        pytest.fail(f"AGENTOBS_TEST_REQUIRE names node, but {reason}")
    pytest.skip(reason)


def run(packages: Path, folder: Path, program: Path | str, *args: str, name: str = "", **environ: str) -> Ended:
    """Run a program (a file, or the text of one that is called `name`) in `folder` to its end."""
    file = folder / (name or Path(program).name)
    file.write_text(program if isinstance(program, str) else program.read_text())
    shutil.copy(PACKAGES / "package.json", folder)  # it says that programs are modules
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(packages)
    ended = subprocess.run(
        ["node", file.name, *args],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
