"""Getting it to run for good: secrets, make's targets, the systemd unit, log rotation, backup and restore, as told."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agentobs.settings import Settings, variable
from tests.acceptance.harness import ROOT, until, world

UNIT = ROOT / "deploy/systemd/agentobs.service"
LOGROTATE = ROOT / "deploy/systemd/agentobs.logrotate"
GUIDE = (ROOT / "docs/install.md").read_text()
SECRETS = {"agentobs_api_key", "anthropic_api_key", "grafana_admin_password", "alert_webhook_url"}


def tool(name: str) -> str:
    """Where a program of this machine is; skips, or fails where AGENTOBS_TEST_REQUIRE names it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        reason = f"{name} is not on this machine"
        if name in os.environ.get("AGENTOBS_TEST_REQUIRE", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def sh(script: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(cwd), **environ}
    return subprocess.run(["/bin/sh", "-ec", script], capture_output=True, text=True, check=False, cwd=cwd, env=env)


# ---- secrets ----


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What make's targets need of this repository."""
    (tmp_path / "deploy/secrets").mkdir(parents=True)
    shutil.copy2(ROOT / "deploy/secrets/make", tmp_path / "deploy/secrets/make")
    shutil.copy2(ROOT / "Makefile", tmp_path / "Makefile")
    return tmp_path


def secrets(checkout: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in (checkout / "deploy/secrets").iterdir() if p.name != "make"}


def test_the_secrets_that_compose_mounts_are_made_readable_in_a_closed_folder(checkout):
    done = sh("umask 077; deploy/secrets/make", checkout)
    assert done.returncode == 0, done.stderr
    made = secrets(checkout)
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["secrets"]
    assert made.keys() == SECRETS == declared.keys()
    assert {one["file"] for one in declared.values()} == {f"./deploy/secrets/{name}" for name in SECRETS}
    assert re.fullmatch("[0-9a-f]{64}", made["agentobs_api_key"])
    assert re.fullmatch("[0-9a-f]{64}", made["grafana_admin_password"])
    assert made["agentobs_api_key"] != made["grafana_admin_password"]
    assert made["anthropic_api_key"] == "not-set"
    assert made["alert_webhook_url"].startswith("http://127.0.0.1:9/")
    folder = checkout / "deploy/secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in SECRETS} == {0o644}
    assert not any(value in done.stdout + done.stderr for name, value in made.items() if name != "anthropic_api_key")


def test_what_is_there_stays_and_a_key_that_comes_later_takes_its_place(checkout):
    sh("deploy/secrets/make", checkout)
    (checkout / "deploy/secrets/alert_webhook_url").write_text("https://pager.example.com/hook")
    before = secrets(checkout)
    done = sh("deploy/secrets/make", checkout)
    assert (done.returncode, done.stdout, secrets(checkout)) == (0, "", before)
    sh("deploy/secrets/make", checkout, ANTHROPIC_API_KEY="sk-ant-1")
    assert secrets(checkout) == before | {"anthropic_api_key": "sk-ant-1"}
    sh("deploy/secrets/make", checkout, ANTHROPIC_API_KEY="sk-ant-2")
    assert secrets(checkout) == before | {"anthropic_api_key": "sk-ant-1"}


def test_a_folder_in_the_place_of_a_secret_is_told(checkout):
    (checkout / "deploy/secrets/alert_webhook_url").mkdir()
    done = sh("deploy/secrets/make", checkout)
    assert done.returncode == 1
    assert "alert_webhook_url is a folder" in done.stderr


def test_no_secret_can_be_committed_by_accident():
    ignored = subprocess.run(
        ["git", "check-ignore", ".env", *(f"deploy/secrets/{name}" for name in SECRETS)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert len(ignored.stdout.splitlines()) == 5
    script = subprocess.run(["git", "check-ignore", "deploy/secrets/make"], check=False, cwd=ROOT, capture_output=True)
    assert script.returncode == 1


# ---- make up, make down ----


def docker(folder: Path, body: str) -> str:
    """A PATH whose `docker` writes down how it was called."""
    binary = folder / "bin"
    binary.mkdir(exist_ok=True)
    (binary / "docker").write_text(f"#!/bin/sh\n{body}\n")
    (binary / "docker").chmod(0o755)
    return f"{binary}:/usr/bin:/bin"


CALLED = 'echo "$COMPOSE_PROFILES|$ANTHROPIC_BASE_URL|$*" >>"$HOME/called"'


@pytest.mark.parametrize("target", ["up", "up-demo", "down"])
def test_without_docker_one_sentence_says_so_and_nothing_is_made(checkout, target):
    for body, said in (("exit 1", "needs Docker with its compose plugin"), ('[ "$1" != info ]', "does not answer")):
        done = sh(f"{tool('make')} {target}", checkout, PATH=docker(checkout, body))
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") <= 2  # make adds which target it was
        assert secrets(checkout) == {}


def test_up_makes_the_secrets_and_starts_the_stack_and_down_keeps_its_data(checkout):
    path = docker(checkout, CALLED)
    calls = {}
    for target in ("up", "up-demo", "down"):
        (checkout / "called").write_text("")
        done = sh(f"{tool('make')} {target}", checkout, PATH=path)
        assert done.returncode == 0, done.stderr
        told = (checkout / "called").read_text().splitlines()
        calls[target] = [line for line in told if not line.endswith(("|compose version", "|info"))]
        assert secrets(checkout).keys() == SECRETS
    # The demo's containers go first: traffic for the simulator must not meet a service that calls the real API.
    assert calls["up"] == [
        "||compose --profile demo rm --stop --force traffic simulator",
        "||compose up --detach --build",
    ]
    assert calls["up-demo"] == ["demo|http://simulator:9100|compose up --detach --build"]
    assert calls["down"] == ["||compose --profile demo down"]
    assert "--volumes" not in str(calls)


def test_the_demo_of_the_stack_is_told_its_simulator_and_sends_nothing_twice():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    command = [str(part) for part in services["traffic"]["command"]]
    assert command[:2] == ["traffic", "--simulator=http://simulator:9100"]
    assert services["traffic"]["restart"] == "no"
    assert services["traffic"]["healthcheck"] == {"disable": True}
    assert "simulator" in services


def test_the_service_calls_the_model_with_the_key_of_its_file(tmp_path):
    (tmp_path / "model_key").write_text("not-set\n")
    with world(tmp_path, ANTHROPIC_API_KEY="", ANTHROPIC_API_KEY_FILE=str(tmp_path / "model_key")) as here:
        run = here.service.submit("article", {"goal": "tea"})
        assert here.service.wait_ended([run["id"]])[run["id"]]["status"] == "succeeded"
        (started,) = here.service.events("service.warning")
        assert "ANTHROPIC_API_KEY_FILE" in started["reason"] and "every user" in started["reason"]


# ---- systemd ----


def unit() -> list[tuple[str, str]]:
    lines = [line for line in UNIT.read_text().splitlines() if line and line[0] not in "#["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_systemd_takes_the_unit_without_a_word_and_finds_it_well_locked_up(tmp_path):
    analyze = tool("systemd-analyze")
    here = tmp_path / "agentobs.service"
    here.write_text(
        UNIT.read_text().replace("/opt/agentobs/bin/agentobs", str(Path(sys.executable).with_name("agentobs")))
    )
    done = subprocess.run([analyze, "verify", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    threshold = [analyze, "security", "--offline=true", "--threshold=20", here]  # of 100; 17 as it is
    done = subprocess.run(threshold, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_units_times_and_codes_are_those_of_the_program():
    told = dict(unit())
    assert float(told["TimeoutStopSec"]) > Settings.model_fields["drain_timeout_s"].default + 5
    assert told["Restart"] == "on-failure"
    assert told["RestartPreventExitStatus"] == "2"  # errors.InvalidSettings; not the watchdog's 70
    assert int(told["LimitNOFILE"]) >= 20_000  # what the doctor says the service takes at most
    known = {variable(name) for name in Settings.model_fields}
    settings = dict(value.split("=", 1) for name, value in unit() if name == "Environment")
    assert settings.keys() <= known
    assert settings["AGENTOBS_DATABASE_URL"].replace("%S", "/var/lib") == "sqlite:////var/lib/agentobs/agentobs.db"
    credentials = {value.split(":")[0] for name, value in unit() if name == "LoadCredential"}
    assert {value.removeprefix("%d/") for value in settings.values() if value.startswith("%d/")} == credentials
    assert settings["AGENTOBS_LOG_FILE"].replace("%L", "/var/log") in LOGROTATE.read_text()


def test_logrotate_moves_the_log_and_no_line_is_lost(tmp_path):
    rotate = tool("logrotate")
    log = tmp_path / "log" / "agentobs.jsonl"
    log.parent.mkdir(mode=0o750)
    text = LOGROTATE.read_text().replace("/var/log/agentobs/agentobs.jsonl", str(log))
    assert "su agentobs agentobs" in text
    rules = tmp_path / "rules"
    rules.write_text(re.sub(r" +su .*\n", "", text))
    rules.chmod(0o644)
    with world(tmp_path, AGENTOBS_LOG_FILE=str(log)) as here:
        run = here.service.submit("article", {"goal": "tea"})["id"]
        here.service.wait_ended([run])
        until(lambda: "run.finished" in log.read_text(), "the log")
        subprocess.run([rotate, "--force", "--state", tmp_path / "state", rules], check=True)
        assert not log.exists()
        time.sleep(1.2)  # it looks once a second, when it has something to write
        second = here.service.submit("article", {"goal": "coffee"})["id"]
        here.service.wait_ended([second])
        until(log.exists, "a new file", 10)
        here.service.stop()
        old, new = log.with_name("agentobs.jsonl.1").read_text(), log.read_text()
        assert run in old and run not in new
        assert [(old + new).count(one) > 3 for one in (run, second)] == [True, True]
        assert (old + new).count('"event":"run.finished"') == 2
        assert "service.stopped" in new or "service.draining" in new


def test_the_rotation_of_the_container_moves_the_log_too(tmp_path):
    (command,) = re.findall(r"exec -T agentobs sh -c '(.*)'$", GUIDE, re.MULTILINE)
    (tmp_path / "agentobs.jsonl").write_text("line\n")
    old = tmp_path / "agentobs-2026-01-01.jsonl"
    old.write_text("old\n")
    os.utime(old, (0, 0))
    done = sh(command.replace("/var/log/agentobs", str(tmp_path)), tmp_path)
    assert done.returncode == 0, done.stderr
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"agentobs-\d{4}-\d\d-\d\d\.jsonl", left.name)
    assert left.read_text() == "line\n"
    collector = (ROOT / "deploy/collector/collector.yaml").read_text()
    assert "/var/log/agentobs/*.jsonl" in collector  # by which it finds the moved file again


# ---- backup and restore ----


def commands(title: str) -> str:
    (found,) = re.findall(rf"```sh\n# {title}\n(.*?)```", GUIDE, re.DOTALL)
    return found


@pytest.mark.parametrize("how", ["backup", "backup in a container"])
def test_a_backup_of_the_serving_journal_is_restored_with_all_its_runs(tmp_path, how):
    if how == "backup":
        tool("sqlite3")
    backups = tmp_path / "backups"
    backups.mkdir()

    def told(title: str) -> str:
        text = commands(title).replace("/var/lib/agentobs/backup.db", str(backups / "agentobs.db"))
        return text.replace("/var/backups", str(backups)).replace("/var/lib/agentobs", str(tmp_path))

    with world(tmp_path, latency_s=0.05) as here:
        kept = [here.service.submit("article", {"goal": f"tea {number}"})["id"] for number in range(3)]
        here.service.wait_ended(kept)
        before = {one["id"]: one for one in here.service.summaries()}
        here.service.submit("article", {"goal": "under way"})
        done = sh(told(how), tmp_path)
        assert done.returncode == 0, done.stderr
        here.service.submit("article", {"goal": "after the backup"})
        here.service.wait_idle()
        here.service.stop()
        done = sh(told("restore"), tmp_path)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(here.service.database.stat().st_mode) == 0o600
        here.service.start()
        here.service.wait_idle()
        after = {one["id"]: one for one in here.service.summaries()}
        assert {run_id: after[run_id] for run_id in kept} == before
        (taken_up,) = [one for run_id, one in after.items() if run_id not in kept]
        assert taken_up["status"] == "succeeded"  # under way in the backup, taken up again
        assert here.service.detail(taken_up["id"])["input"] == {"goal": "under way"}
        assert here.service.detail(kept[0])["output"]


# ---- the guide ----


def test_every_setting_and_file_of_the_guide_exists():
    known = {variable(name) for name in Settings.model_fields} | {"AGENTOBS_ALERTS_BY"}
    assert set(re.findall(r"\b(?:AGENTOBS|ANTHROPIC|OTEL)_[A-Z_]+\b", GUIDE)) <= known
    for path in set(re.findall(r"(?<![\w/])(?:deploy|dashboards|requirements)/[\w./-]*\w", GUIDE)):
        if path.removeprefix("deploy/secrets/") not in SECRETS:
            assert (ROOT / path).exists(), path
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    published = {port.split(":")[1] for one in services.values() for port in map(str, one.get("ports", ()))}
    assert set(re.findall(r"http://localhost:(\d+)", GUIDE)) == published
    metric = re.findall(r"`(agentobs_\w+)` tells", GUIDE)
    assert metric == ["agentobs_journal_bytes"]


def test_the_guides_figures_are_those_that_were_measured():
    measured = (ROOT / "docs/performance.md").read_text()
    for figure in re.findall(r"^\| .* \| ([\d,.]+ (?:ms|MB|bytes|s)) \|$", GUIDE, re.MULTILINE):
        assert figure in measured, figure


def test_the_scrape_configuration_of_the_guide_is_one(tmp_path):
    (text,) = re.findall(r"```yaml\n(# prometheus.yml\n.*?)```", GUIDE, re.DOTALL)
    told = yaml.safe_load(text)
    ours = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert told["global"]["scrape_interval"] == ours["global"]["scrape_interval"]
    assert told["scrape_configs"][0]["job_name"] == ours["scrape_configs"][0]["job_name"] == "agentobs"
    promtool = shutil.which("promtool") or str(Path.home() / ".cache/agentobs-stack/bin/promtool")
    if not Path(promtool).exists():
        pytest.skip("promtool is not on this machine")
    key = tmp_path / "key"
    key.write_text("a-key-of-sixteen-characters")
    here = tmp_path / "prometheus.yml"
    here.write_text(
        text.replace("/etc/prometheus/agentobs_api_key", str(key)).replace(
            "/etc/prometheus/agentobs/", f"{ROOT}/dashboards/generated/prometheus/"
        )
    )
    done = subprocess.run([promtool, "check", "config", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 2 rule files found" in done.stdout + done.stderr
