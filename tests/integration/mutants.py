"""Runs tests against changed copies of the package, each in a process of its own.

    with Mutants(tmp_path) as mutants:
        tried = mutants.run(["tests/unit/test_usage.py"], "models/usage.py", "or 0", "or 1")
        tried.red          # names of the tests that failed

What takes long to import is imported once, in a process that forks for each change: a second instead of five.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
# What the package and its tests need of others. Nothing of agentobs: that is what changes.
_SLOW = (
    *("aiohttp.web", "anthropic", "genai_prices.data", "httpx2", "opentelemetry.sdk.trace", "prometheus_client"),
    *("pydantic", "pytest", "pytest_asyncio.plugin", "pytest_timeout", "tenacity", "uvloop"),
)
# Of pytest's plugins only those that the tests' own settings ask for: the others take seconds to load.
_OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")


@dataclass(frozen=True)
class Tried:
    """How the tests ended: pytest's exit code, and which of them failed."""

    code: int
    red: tuple[str, ...]
    output: str


class Mutants:
    def __init__(self, folder: Path) -> None:
        self._package = folder / "agentobs"
        self._output = folder / "output.txt"
        shutil.copytree(ROOT / "agentobs", self._package)
        environ = {
            **os.environ,
            # No recordings: what is claimed here is claimed of a checkout that stands alone.
            "AGENTOBS_RECORDINGS": str(folder / "none"),
            # Bytecode is told from its source by the second, so a change's would be taken for the next one's.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.mutants", str(folder), str(self._output)],
            cwd=ROOT,
            env={name: value for name, value in environ.items() if not name.startswith("COV")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)

    def run(self, tests: Sequence[str], path: str = "", old: str = "", new: str = "") -> Tried:
        """Run `tests` (files or node ids) with `new` instead of `old`, which must stand once in the file at `path`."""
        if not path:
            return self._ask(tests)
        file = self._package / path
        text = file.read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} times what was to be changed: {old!r}"
        file.write_text(text.replace(old, new))
        try:
            return self._ask(tests)
        finally:
            file.write_text(text)

    def _ask(self, tests: Sequence[str]) -> Tried:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(tests)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        output = self._output.read_text() if self._output.exists() else ""
        assert line, f"the process that runs the tests has ended\n{output}"
        told = json.loads(line)
        return Tried(told["code"], tuple(told["red"]), output)


# ---- in the process ----


class _Red:
    """A pytest plugin that keeps the names of the tests that failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid)


def _serve(folder: str, output: str) -> None:
    for name in _SLOW:
        importlib.import_module(name)
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(folder, output, json.loads(line), write)
        os.close(write)
        with os.fdopen(read) as told:
            answer = told.read()
        os.waitpid(child, 0)
        print(answer or json.dumps({"code": -1, "red": []}), flush=True)


def _child(folder: str, output: str, tests: list[str], write: int) -> None:
    code, red = -1, _Red()
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        sys.path.insert(0, folder)
        package = importlib.import_module("agentobs")
        assert package.__file__ is not None
        assert package.__file__.startswith(folder), f"{package.__file__} is not the copy"
        import pytest

        code = int(pytest.main([*_OPTIONS, *tests], plugins=[red]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os.write(write, json.dumps({"code": code, "red": red.names}).encode())
        os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
