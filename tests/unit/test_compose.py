"""docker-compose.yml and the files it mounts agree with each other, and nothing in them floats, leaks or is left over.

`docker compose config` checks the format (where a compose is: it needs no engine); what it does not see is looked for
here: mounted files that are missing, files that nothing mounts, addresses of services that are not there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.stack import compose
from tests.stack.compose import ROOT, Compose, Service

MODES = ("grafana", "alertmanager")
PROFILES = ("", "demo")
# In no container: how agentobs's image is built, how it runs without one, and where secrets are kept.
NOT_MOUNTED = ("deploy/agentobs/", "deploy/systemd/", "deploy/secrets/")


def modes() -> list[Compose]:
    return [compose.read({"AGENTOBS_ALERTS_BY": mode}) for mode in MODES]


def services() -> list[Service]:
    return list(modes()[0].services.values())


def mounted() -> dict[Path, set[str]]:
    """Every file of the repository that a container sees, and the services that do."""
    found: dict[Path, set[str]] = {}
    for mode in modes():
        for service in mode.services.values():
            for mount in service.mounts:
                source = ROOT / mount.source
                if not mount.volume:
                    for file in [source] if source.is_file() else filter(Path.is_file, source.rglob("*")):
                        found.setdefault(file, set()).add(service.name)
    return found


def configs() -> list[tuple[str, str]]:
    """Hand-written files and docker-compose.yml: (name, text without comments)."""
    files = [compose.FILE, *(file for file in mounted() if file.is_relative_to(ROOT / "deploy"))]
    return [(str(file.relative_to(ROOT)), re.sub(r"(?m)(^|\s)[#;] .*$", "", file.read_text())) for file in files]


def compose_command() -> list[str]:
    """`docker compose` or a `docker-compose` of version 2, which knows the format that the file is written in."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and not told.stdout.startswith("1."):
                return command
    reason = (
        "no docker compose of version 2 or newer here (tests/stack/install.sh compose builds one; it needs no engine)"
    )
    if "stack" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
        pytest.fail(f"AGENTOBS_TEST_REQUIRE names stack, but {reason}")
    pytest.skip(reason)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_the_file(profile: str, mode: str):
    environ = {**os.environ, "COMPOSE_PROFILES": profile, "AGENTOBS_ALERTS_BY": mode}
    ran = subprocess.run(
        [*compose_command(), "-f", compose.FILE, "config", "-q"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr


def test_every_mounted_file_exists():
    for mode in modes():
        missing = [
            f"{service.name}: {mount.source}"
            for service in mode.services.values()
            for mount in service.mounts
            if not mount.volume and not (ROOT / mount.source).exists()
        ]
        assert missing == []
        assert all(
            (ROOT / one.raw["build"]["dockerfile"]).is_file() for one in mode.services.values() if "build" in one.raw
        )


def test_every_file_of_deploy_is_mounted():
    ours = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [name for name in ours.split() if not name.startswith(NOT_MOUNTED)]
    assert files, "a checkout of the repository"
    assert [name for name in files if ROOT / name not in mounted()] == []


def test_every_service_can_be_named_to_a_profile_or_none():
    assert {profile for one in services() for profile in one.profiles} | {""} == set(PROFILES)


@pytest.mark.parametrize("service", services(), ids=lambda one: one.name)
def test_a_service_is_bounded(service: Service):
    name, _, tag = service.image.rpartition(":")
    assert name and re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{service.image} floats"
    raw = service.raw
    assert raw["mem_limit"] and raw["restart"] in {"unless-stopped", "no"}
    assert raw["cap_drop"] == ["ALL"] and raw["security_opt"] == ["no-new-privileges:true"] and raw["read_only"] is True
    assert raw["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert all(port.startswith("127.0.0.1:") for port in raw.get("ports", ())), "loopback alone"
    assert service.name in {"collector", "volumes", "traffic"} or service.health, "a health check"


def test_images_of_a_service_are_ours_or_pinned_once():
    images = {one.image.rpartition(":")[0]: one.image for one in services()}
    assert {one.image for one in services()} == set(images.values()), "one version of each"


def test_secrets_are_those_that_exist_and_all_are_used():
    stack = modes()[0]
    used = {secret for one in stack.services.values() for secret in one.secrets}
    assert used == set(stack.secrets)
    assert {Path(file).parent for file in stack.secrets.values()} == {Path("deploy/secrets")}
    for service in (one for mode in modes() for one in mode.services.values()):
        files = [ROOT / mount.source for mount in service.mounts if not mount.volume]
        texts = [file.read_text() for file in files if file.is_file()]
        texts += [one.read_text() for file in files if file.is_dir() for one in file.glob("*.y*ml")]
        named = set(re.findall(r"/run/secrets/(\w+)", " ".join([*texts, *service.environment.values()])))
        assert named <= set(service.secrets), f"{service.name} reads what it is not given"


def test_volumes_are_those_that_exist_and_all_are_used():
    stack = modes()[0]
    used = {mount.source for one in stack.services.values() for mount in one.mounts if mount.volume}
    assert used == stack.volumes


def test_every_address_is_one_of_a_service():
    stack = modes()[0]
    known = {(one.name, port) for one in stack.services.values() for port in one.ports}
    published = {port for one in stack.services.values() for port in one.published}
    for name, text in configs():
        for host, port in re.findall(r"(?:https?://|[\"'\s\[])([a-z]+):(\d{4,5})\b", text):
            if host == "localhost":
                assert int(port) in published, f"{name}: {host}:{port}"
            else:
                assert (host, int(port)) in known, f"{name}: {host}:{port}"


def test_every_port_of_a_service_is_listened_on_or_told_to_it():
    for service in services():
        texts = [
            file.read_text() for file, users in mounted().items() if service.name in users and file.suffix != ".json"
        ]
        said = " ".join([*texts, *service.command, *(f"{k}={v}" for k, v in service.environment.items())])
        listens = set(map(int, re.findall(r"(?i)(?:0\.0\.0\.0:|port\"?\s*[:=]\s*)(\d{4,5})\b", said)))
        assert service.ports <= listens, service.name
        assert service.health is None or service.health[0] in listens, service.name


def test_what_waits_for_health_waits_for_one_that_has_a_check():
    stack = modes()[0]
    for service in stack.services.values():
        for other, wanted in service.raw.get("depends_on", {}).items():
            assert wanted["condition"] != "service_healthy" or stack.services[other].health, f"{service.name}: {other}"


def test_the_drain_ends_before_docker_kills():
    from agentobs.settings import Settings

    grace = int(modes()[0].services["agentobs"].raw["stop_grace_period"].rstrip("s"))
    assert grace >= Settings.model_fields["drain_timeout_s"].default + 5


def test_the_settings_named_exist():
    from agentobs.settings import Settings, variable

    known = {variable(field) for field in Settings.model_fields}
    assert set(modes()[0].services["agentobs"].environment) <= known


def test_what_a_config_file_is_about_is_said_at_its_top():
    for file in mounted():
        if file.is_relative_to(ROOT / "deploy") and file.suffix != ".json":
            assert file.read_text().startswith(("# ", "; ")), file


@pytest.mark.parametrize("mode", MODES)
def test_only_one_of_the_two_notifies(mode: str):
    alertmanager = yaml.safe_load((ROOT / f"deploy/alertmanager/by-{mode}.yml").read_text())
    sends = any(len(receiver) > 1 for receiver in alertmanager["receivers"])
    assert sends == (mode == "alertmanager")
    rules = [
        yaml.safe_load(file.read_text())
        for file in (ROOT / f"dashboards/generated/grafana-alerting/by-{mode}").glob("*.yaml")
    ]
    assert any("groups" in one for one in rules) == (mode == "grafana")
