"""The image's Dockerfile: what it says, and what comes of it when it is carried out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from agentobs.version import __version__
from tests.acceptance import image
from tests.acceptance.harness import ROOT, SimulatorThread, until
from tests.stack.runner import Ports

DOCKERFILE = ROOT / "deploy/agentobs/Dockerfile"
TOLD = image.instructions(DOCKERFILE.read_text())


def told(name: str) -> list[str]:
    return [argument for one, argument in TOLD if one == name]


def test_the_base_is_pinned_and_the_same_in_both_stages():
    bases = [argument.split()[0] for argument in told("FROM")]
    assert len(bases) == 2 and len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.13\.\d+-slim-bookworm", bases[0])


def test_it_ends_as_a_user_without_rights_who_is_known_by_number():
    names = [name for name, _ in TOLD]
    assert told("USER") == ["10001:10001"]
    assert "RUN" not in names[names.index("USER") :]  # nothing is made by hand after it, and nothing takes it back
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["agentobs"]["user"] == "10001:10001"


def test_it_says_how_it_is_asked_stopped_and_described():
    assert told("STOPSIGNAL") == ["SIGTERM"]
    assert len(told("HEALTHCHECK")) == 1
    (labels,) = told("LABEL")
    assert set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)) == {
        "title", "description", "source", "documentation", "licenses", "version",
    }  # fmt: skip
    assert f'version="{__version__}"' in labels
    assert "agentobs:" + __version__ in (ROOT / "docker-compose.yml").read_text()


def test_every_copied_file_exists_and_is_let_into_the_build():
    inside = image.context(ROOT)
    for argument in told("COPY"):
        *sources, _ = argument.split()
        if not sources[0].startswith("--from="):
            for source in sources:
                assert any(path.is_relative_to(source) for path in inside), source


def test_nothing_is_let_into_the_build_that_is_not_copied():
    copied = [source for argument in told("COPY") for source in argument.split()[:-1]]
    (ROOT / "agentobs" / "__pycache__").mkdir(exist_ok=True)
    for path in image.context(ROOT):
        assert any(path.is_relative_to(source) for source in copied), path
        assert path.suffix != ".pyc"


def test_the_locks_pin_what_the_development_environment_has():
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    dev, runtime, build = pins("dev.lock"), pins("runtime.lock"), pins("build.lock")
    assert runtime.items() <= dev.items() and build.items() <= dev.items()
    assert {"anthropic", "boto3", "google-auth", "psycopg"} <= runtime.keys()
    assert not {"pytest", "mypy", "hatchling", "ruff"} & runtime.keys()
    asked = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]\n")[0]
    assert set(re.findall(r'"([\w-]+)[\[>=]', asked)) <= runtime.keys()
    for lock in ("runtime.lock", "build.lock"):
        text = (ROOT / "requirements" / lock).read_text()
        assert text.count("--hash=sha256:") >= len(pins(lock))


# ---- carried out ----


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> image.Stage:
    folder = tmp_path_factory.mktemp("image")
    why = image.why_not(folder)
    if why is None:
        probe = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder / "p"), "iniconfig"]
        why = (
            "no package index answers pip"
            if subprocess.run(probe, capture_output=True, check=False).returncode
            else None
        )
    if why is not None:
        if "image" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names image, but: {why}")
        pytest.skip(why)
    return image.build(DOCKERFILE, ROOT, folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_built_has_all_that_is_needed_and_nothing_that_builds(built):
    assert built.run("agentobs --version") == f"agentobs {__version__}\n"
    shipped = {path.name for path in (built.upper / "opt/agentobs/bin").iterdir()}
    assert "agentobs" in shipped and not shipped & {"pip", "hatchling", "pytest"}
    assert built.run(["python", "-c", "import boto3, google.auth, psycopg; print('all')"]) == "all\n"
    (package,) = (built.upper / "opt/agentobs/lib").glob("python*/site-packages/agentobs")
    sources = set(package.rglob("*.py"))
    compiled = set(package.rglob("*.pyc"))
    assert len(sources) == len(compiled) > 100
    flags = {int.from_bytes(path.read_bytes()[4:8], "little") for path in compiled}
    assert flags == {1}  # PEP 552: by hash, unchecked
    owner = (built.upper / "var/lib/agentobs").stat()
    assert (owner.st_uid, owner.st_gid, owner.st_mode & 0o777) == (10001, 10001, 0o755)
    assert not (built.upper / "opt/build").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_serves_as_its_user_on_a_read_only_root_is_healthy_and_ends_when_asked(built, tmp_path):
    (tmp_path / "key").write_text("a-key-of-sixteen-characters")
    (tmp_path / "key").chmod(0o644)
    volumes = {}
    for name in ("lib", "log"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 10001, 10001)
        volumes[tmp_path / name] = f"/var/{name}/agentobs"
    before = set(built.upper.rglob("*"))
    with SimulatorThread() as simulator:
        environ = {
            "AGENTOBS_PORT": (port := str(Ports().local("agentobs", 8080))),
            "AGENTOBS_LOG_FILE": "/var/log/agentobs/agentobs.jsonl",
            "ANTHROPIC_BASE_URL": simulator.url,
            "ANTHROPIC_API_KEY": "any",
        }
        more = {"read_only": True, "volumes": volumes}
        process = built.popen([*built.entrypoint, *built.command], environ=environ, **more)
        try:
            line = process.stdout.readline()
            assert line.startswith("agentobs at"), line + process.stdout.read()
            url = f"http://127.0.0.1:{port}"
            until(lambda: httpx2.get(f"{url}/readyz").status_code == 200, "ready")
            built.run(built.health, environ=environ, **more)
            given = {"workflow": "article", "input": {"goal": "tea"}}
            ended = httpx2.post(f"{url}/v1/runs", json=given, headers={"Prefer": "wait=60"}, timeout=90).json()
            assert ended["status"] == "succeeded"
            uids = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:\t10001\t10001", uids, re.MULTILINE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(10)
    assert (tmp_path / "lib/agentobs.db").stat().st_mode & 0o777 == 0o600
    lines = [json.loads(one) for one in (tmp_path / "log/agentobs.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "service.stopped" or "service.draining" in {one["event"] for one in lines}
    assert set(built.upper.rglob("*")) == before
    unhealthy = built.popen(built.health, environ=environ, **more)
    unhealthy.communicate(timeout=60)
    assert unhealthy.returncode != 0
