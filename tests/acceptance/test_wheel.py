"""The wheel: what is in it, and that it works alone, in an empty environment, as its users meet it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.harness import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, capture_output=True, check=True, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in held if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "agentobs").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == sources
    assert {
        "agentobs/py.typed",
        "agentobs/journal/sql/sqlite.sql",
        "agentobs/journal/migrations/sqlite/0001_journal.sql",
        "agentobs/cli/project/gitignore.tmpl",
        "agentobs/cli/project/package/workflows.py.tmpl",
    } <= package
    about = {name.split(".dist-info/")[1] for name in held - package}
    assert about == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def _need_an_index(sh) -> None:
    try:
        sh("python -m pip download --quiet --disable-pip-version-check --no-deps --dest probe iniconfig")
    except AssertionError:
        reason = "no package index answers pip"
        if "index" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names index, but {reason}")
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_works_alone_and_so_does_the_project_that_it_writes(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    # PIP_*: how this machine reaches the package index is its own affair.
    environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    environ |= {"PATH": f"{tmp_path / 'env' / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}

    def sh(script: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False, cwd=cwd, env=environ)
        assert done.returncode == 0, f"$ {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    _need_an_index(sh)
    sh(f"python -m pip install --quiet --disable-pip-version-check {wheel}")
    where = sh("python -c 'import agentobs; print(agentobs.__file__)'").strip()
    assert where.startswith(str(tmp_path / "env"))
    assert sh("agentobs --version") == f"agentobs {wheel.name.split('-')[1]}\n"
    assert "bill, journal and metrics agree" in sh("agentobs demo")
    assert "pytest" not in sh("python -m pip list --disable-pip-version-check")  # users' tests may use another

    told = sh("agentobs init shop").split("Next:\n")[1].splitlines()
    assert [line.strip() for line in told[:3]] == ["cd shop", "python -m pip install -e '.[test]'", "pytest"]
    # As printed, in one shell.
    assert "5 passed" in sh("\n".join(told[:3]))
