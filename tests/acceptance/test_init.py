"""`agentobs init`: what it writes works as it stands, and it writes over nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.acceptance.harness import ROOT, SimulatorThread

FILES = [
    ".gitignore",
    "README.md",
    "compose.override.yml",
    "pyproject.toml",
    "shop/__init__.py",
    "shop/workflows.py",
    "tests/test_workflows.py",
]


def agentobs(*arguments, cwd):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "agentobs", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environ,
    )


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def shop(tmp_path) -> Path:
    done = agentobs("init", "shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[: len(FILES)] == [f"shop/{name}" for name in FILES]
    assert written(tmp_path / "shop") == FILES
    return tmp_path / "shop"


def test_the_new_projects_own_tests_pass_without_key_or_network(shop):
    # Nothing of this repository's settings: what `pytest` does in the new folder.
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [Path(sys.executable).parent / "pytest", "-q", "-p", "no:asyncio"],
        capture_output=True,
        text=True,
        check=False,
        cwd=shop,
        env=environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert not list(shop.rglob("*.db*"))


def test_the_new_projects_tests_fail_when_its_workflow_is_broken(shop):
    workflows = shop / "shop" / "workflows.py"
    workflows.write_text(workflows.read_text().replace("{facts}", ""))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], capture_output=True, text=True, check=False, cwd=shop)
    assert "1 failed, 4 passed" in done.stdout


def test_the_last_of_the_printed_commands_runs_the_workflow(tmp_path):
    told = agentobs("init", "shop", cwd=tmp_path).stdout
    commands = [line.strip() for line in told.split("Next:\n")[1].splitlines()]
    assert commands[:4] == [
        "cd shop",
        "python -m pip install -e '.[test]'",
        "pytest",
        "agentobs simulate --port 9100 &",
    ]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with SimulatorThread() as simulator:
        script = commands[4].replace("http://127.0.0.1:9100", simulator.url)
        done = subprocess.run(
            ["sh", "-ec", f"cd shop\n{script}"], capture_output=True, text=True, check=False, cwd=tmp_path, env=environ
        )
        assert done.returncode == 0, done.stderr
        assert [line.status for line in simulator.bill()] == [200, 200]
    assert "succeeded" in done.stdout


def test_the_compose_override_names_the_workflows_and_mounts_the_project(shop):
    told = yaml.safe_load((shop / "compose.override.yml").read_text())
    (service,) = told["services"].items()
    assert service[0] == "agentobs"
    assert service[1]["environment"]["AGENTOBS_WORKFLOWS"] == "shop.workflows"
    (mount,) = service[1]["volumes"]
    assert mount.startswith("${PWD")  # compose takes relative paths from the folder of its first file
    assert mount.endswith(f":{service[1]['environment']['PYTHONPATH']}:ro")


def test_the_readme_of_the_new_project_tells_of_commands_that_exist(shop):
    told = (shop / "README.md").read_text()
    help_text = agentobs("--help", cwd=shop).stdout
    for command in set(re.findall(r"^agentobs (\w+)", told, re.MULTILINE)):
        assert f" {command} " in help_text
    assert not re.search(r"\$(?!\{)", told)  # no placeholder is left
    assert told.index("agentobs serve") < told.index("docker compose")


def test_the_compose_override_changes_the_service_of_this_repositorys_stack(shop):
    override = yaml.safe_load((shop / "compose.override.yml").read_text())["services"]
    stack = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert override.keys() == {"agentobs"} < stack.keys()
    assert "AGENTOBS_WORKFLOWS" in stack["agentobs"]["environment"]  # replaced, and not one of another name
    targets = [
        str(one).split(":")[-2] if isinstance(one, str) else one["target"] for one in stack["agentobs"]["volumes"]
    ]
    assert override["agentobs"]["environment"]["PYTHONPATH"] not in targets
    commands = re.findall(r"(?:^|#   )(docker compose .*)$", (shop / "README.md").read_text(), re.MULTILINE)
    commands += re.findall(r"^#   (docker compose .*)$", (shop / "compose.override.yml").read_text(), re.MULTILINE)
    assert len(commands) == 2 and len(set(commands)) == 1
    for path in re.findall(r"\.\./agentobs/(\S+)", (shop / "README.md").read_text()):
        assert (ROOT / path).exists(), path


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(shop):
    (shop / "README.md").write_text("mine")
    done = agentobs("init", "shop", cwd=shop.parent)
    assert done.returncode == 2
    assert "shop is not empty: it holds .gitignore, README.md, compose.override.yml" in done.stderr
    assert "and 1 more; nothing was written" in done.stderr
    assert (shop / "README.md").read_text() == "mine"


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.symlink_to("nowhere")])
def test_what_is_no_folder_is_refused(tmp_path, make):
    make(tmp_path / "shop")
    done = agentobs("init", "shop", cwd=tmp_path)
    assert (done.returncode, "shop is no folder" in done.stderr) == (2, True)


def test_a_place_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    done = agentobs("init", "file/shop", cwd=tmp_path)
    assert (done.returncode, "cannot be written (Not a directory)" in done.stderr) == (2, True)


def test_an_empty_folder_that_is_a_repository_is_filled_and_gives_its_name(tmp_path):
    here = tmp_path / "My-Shop"
    (here / ".git").mkdir(parents=True)
    done = agentobs("init", cwd=here)
    assert done.returncode == 0
    assert (here / "my_shop" / "workflows.py").exists()
    assert "cd " not in done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("9lives", "cannot be that of a Python package"),
        ("class", "cannot be that of a Python package"),
        ("Shop", "cannot be that of a Python package"),
        ("a" * 65, "cannot be that of a Python package"),
        ("../up", "cannot be that of a Python package"),
        ("json", "is that of an installed module already"),
        ("pydantic", "is that of an installed module already"),
        ("agentobs", "is that of an installed module already"),
        ("tests", "is that of an installed module already"),
    ],
)
def test_a_name_that_no_package_can_have_is_refused_before_anything_is_written(tmp_path, name, why):
    done = agentobs("init", "shop", "--name", name, cwd=tmp_path)
    assert done.returncode == 2
    assert why in done.stderr
    assert "--name" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_new_project_can_be_built(shop, tmp_path):
    """Its pyproject.toml is one, whatever the package is called."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        capture_output=True, text=True, check=False, cwd=shop,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["shop-0.1.0-py3-none-any.whl"]
    shutil.rmtree(tmp_path / "dist")
