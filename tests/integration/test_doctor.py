"""The doctor's checks against real conditions: full disks, held locks, old schemas, damaged files, dead endpoints."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentobs.cli.doctor import local, machine, network
from agentobs.journal.ownership import LockFile
from agentobs.journal.sqlite import open_journal
from agentobs.models.wire import Wire
from agentobs.service import try_export
from agentobs.settings import Settings
from agentobs.workflows import Registry
from tests.acceptance.harness import Service, SimulatorThread, environment
from tests.otlp_sink import OtlpSink

AGENTOBS = Path(sys.executable).with_name("agentobs")
NOBODY = "http://127.0.0.1:1"
SECRET = "sk-ant-canary-7f3a"


@pytest.fixture
def clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AGENTOBS_", "ANTHROPIC_", "OTEL_")):
            monkeypatch.delenv(name)
    return monkeypatch


@contextmanager
def server(status: int = 200, *, ahead_s: float = 0, body: str = "{}") -> Iterator[str]:
    """Answers everything alike, with a Date of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


# ---- SQLite ----


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 6, 23), "ok"),  # before WAL
        ((3, 7, 0), "warning"),
        ((3, 40, 1), "warning"),
        ((3, 44, 5), "warning"),
        ((3, 44, 6), "ok"),
        ((3, 45, 7), "warning"),  # the fix of an older branch says nothing of a newer one
        ((3, 50, 6), "warning"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"),
        ((3, 53, 0), "ok"),
    ],
)
def test_sqlite_versions_with_the_wal_reset_bug(version, level):
    assert machine.sqlite(version).level == level


# ---- disks ----


def test_the_mount_of_a_folder_is_that_of_the_longest_point_and_the_latest_there(tmp_path):
    table = tmp_path / "mountinfo"
    (tmp_path / "a b").mkdir()
    point = str(tmp_path).replace(" ", "\\040")
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 8:2 / {point} rw shared:1 - xfs /dev/sdb rw\n"
        f"3 2 0:40 / {point}/a\\040b rw,noatime shared:2 master:3 - ext4 /dev/sdc rw\n"
        f"4 3 0:41 / {point}/a\\040b rw - nfs4 server:/x rw\n"
        f"5 1 0:42 / {point}x rw - cifs //server/x rw\n"
    )
    mounts = machine.mounts(table)
    assert machine.mount_of(tmp_path / "a b", mounts).type == "nfs4"
    assert machine.mount_of(tmp_path, mounts).type == "xfs"
    assert machine.mount_of(Path("/usr"), mounts).type == "ext4"


@pytest.mark.parametrize(("type_", "level"), [("nfs4", "problem"), ("cifs", "problem"), ("overlay", "warning")])
def test_filesystems_that_cannot_hold_a_journal_or_not_for_long(tmp_path, monkeypatch, type_, level):
    monkeypatch.setattr(machine, "mounts", lambda: [machine.Mount("/", type_)])
    assert machine.disk("disk", tmp_path, journal=True).level == level
    assert machine.disk("disk", tmp_path, journal=False).level == "ok"


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_disk_with_little_room_and_one_that_is_gone_at_a_restart(tmp_path):
    with tmpfs(tmp_path, "8m"):
        found = machine.disk("disk", tmp_path, journal=True)
        assert (found.level, found.found) == ("problem", f"8 MB free at {tmp_path} (tmpfs)")
    with tmpfs(tmp_path, "400m"):
        assert machine.disk("log's disk", tmp_path, journal=False).level == "warning"  # little room
        assert "gone when the machine restarts" in machine.disk("disk", tmp_path, journal=True).found
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        assert "cannot be written to" in machine.disk("disk", tmp_path, journal=True).found


def test_a_folder_that_is_not_there(tmp_path):
    assert machine.disk("disk", tmp_path / "none", journal=True).level == "problem"


def test_the_limit_of_open_files():
    assert machine.open_files(1024, 1512, 1000).level == "problem"
    assert machine.open_files(1512, 1512, 1000).level == machine.open_files(None, 1512, 1000).level == "ok"


# ---- the journal ----


async def test_a_journal_and_its_owner(tmp_path):
    path = tmp_path / "journal.db"
    assert "none at" in local.journal(path, deep=True)[0].found
    owner = await open_journal(path, worker="w-7")
    try:
        told = {one.name: one for one in local.journal(path, deep=True)}
        assert {one.level for one in told.values()} == {"ok"}
        assert told["journal owner"].found == f"process {os.getpid()} (w-7)"
        assert told["journal check"].found == "SQLite finds the file whole"
    finally:
        await owner.close()
    assert local.owner(path) is None  # the text of the last owner is still in the file


def test_asking_for_the_owner_keeps_nobody_out(tmp_path, monkeypatch):
    lock = LockFile(tmp_path / "journal.db")
    lock.acquire("w")

    def tried(*_):
        raise AssertionError("whoever starts at this moment would be refused")

    monkeypatch.setattr(local.fcntl, "flock", tried)
    assert local.owner(tmp_path / "journal.db") == f"process {os.getpid()} (w)"
    lock.release()
    assert local.owner(tmp_path / "journal.db") is None


async def test_a_journal_that_others_can_read_is_damaged_or_is_of_another_schema(tmp_path):
    path = tmp_path / "journal.db"
    await (await open_journal(path, worker="w")).close()
    path.chmod(0o644)
    assert [one.level for one in local.journal(path, deep=False)] == ["ok", "warning", "ok"]
    path.chmod(0o600)

    with closing(sqlite3.connect(path)) as db, db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'attempts'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("DELETE FROM _yoyo_migration")
    (old,) = local.journal(path, deep=False)
    assert old.level == "problem" and "schema version 0" in old.found and "agentobs migrate" in old.found

    with path.open("r+b") as file:
        file.seek(36)  # how many pages are free (https://sqlite.org/fileformat.html)
        file.write((7).to_bytes(4, "big"))
    damaged = local.quick_check(path)
    assert (damaged.level, "reelist" in damaged.found) == ("problem", True), damaged.found
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x55" * size)
    assert local.quick_check(path).level == "problem"
    path.write_bytes(b"no database at all" * 100)
    assert local.journal(path, deep=True)[0].level == "problem"


# ---- settings, keys, workflows ----


@pytest.mark.parametrize(
    ("key", "base_url", "sdk_finds", "level"),
    [
        (None, "https://api.anthropic.com", False, "problem"),
        (None, "https://api.anthropic.com", True, "ok"),
        (SECRET, "https://api.anthropic.com", False, "ok"),
        ("canary-7f3a", "https://api.anthropic.com", False, "warning"),
        ("canary-7f3a", "http://127.0.0.1:9100", False, "ok"),
        (f"{SECRET}\n", "https://api.anthropic.com", False, "problem"),
        (f"{SECRET}é", "https://api.anthropic.com", False, "problem"),
    ],
)
def test_the_shape_of_a_key_is_told_and_never_the_key(key, base_url, sdk_finds, level):
    found = local.model_key(key, base_url=base_url, sdk_finds=sdk_finds)
    assert found.level == level
    assert "canary" not in found.found + found.advice


def test_a_key_is_said_to_look_like_one_only_if_it_does():
    assert "looks like a key" in local.model_key(SECRET, base_url="http://gateway", sdk_finds=False).found
    assert "looks like" not in local.model_key("any", base_url="http://127.0.0.1:9100", sdk_finds=False).found
    in_file = local.model_key("any", base_url="https://api.anthropic.com", sdk_finds=False, in_file=True)
    assert in_file.found.startswith("ANTHROPIC_API_KEY_FILE is set and does not begin with")


def test_what_the_sdk_finds_by_itself_counts(clean, tmp_path):
    clean.setenv("HOME", str(tmp_path))
    assert not Wire(api_key=None, base_url=None, max_connections=1).has_credentials()
    clean.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    assert Wire(api_key=None, base_url=None, max_connections=1).has_credentials()


def test_exposure_and_warnings(clean, tmp_path):
    assert local.exposure(Settings.load()).level == "ok"
    clean.setenv("AGENTOBS_HOST", "0.0.0.0")
    clean.setenv("AGENTOBS_INSECURE", "1")
    assert local.exposure(Settings.load()).level == "warning"
    key = tmp_path / "key"
    key.write_text("canary-7f3a-canary-7f3a")
    key.chmod(0o644)
    clean.setenv("AGENTOBS_API_KEY_FILE", str(key))
    assert local.exposure(Settings.load()).found == "listens on 0.0.0.0:8080, asks for a key"
    (told,) = local.settings_found(Settings.load())
    assert (told.level, "chmod 600" in told.found) == ("warning", True)


def test_modules_that_cannot_be_imported_or_register_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "doctor_bad.py").write_text("1 / 0")
    (tmp_path / "doctor_empty.py").write_text("")
    for module in ("doctor_bad", "doctor_empty", "doctor_nowhere"):
        assert local.workflows(Registry(), (module,)).level == "problem", module
    assert local.workflows(Registry(), ()).level == "ok"


# ---- the network ----


async def test_an_api_that_answers_and_one_that_does_not(clean):
    with server(401) as url:
        assert network.model_api(url, await network.get(url)).level == "ok"
    gone = network.model_api(NOBODY, await network.get(NOBODY))
    assert gone.level == "problem" and "ConnectError" in gone.found


@pytest.mark.parametrize(
    ("ahead_s", "level"), [(0, "ok"), (-4, "ok"), (40, "warning"), (-40, "warning"), (4000, "problem")]
)
async def test_a_clock_that_is_wrong_beside_the_apis(ahead_s, level):
    with server(ahead_s=ahead_s) as url:
        found = network.clock(time.time(), (1.0, 2.0), await network.get(url))
    assert found.level == level
    assert ("behind" in found.found) == (ahead_s > 10)


def test_a_clock_that_cannot_be_right():
    nothing = network.Answer(0)
    assert network.clock(time.time(), (1.0, 2.0), nothing).level == "ok"
    assert network.clock(1.0, (1.0, 2.0), nothing).level == "problem"
    assert network.clock(time.time(), (2.0, 1.0), nothing).level == "problem"


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (401, "problem"), (404, "warning")])
async def test_credentials_are_tried_with_a_call_that_is_not_billed(status, level):
    with server(status) as url:
        wire = Wire(api_key=SECRET, base_url=url, max_connections=1)
        found = network.credentials(*await wire.try_credentials(5))
        await wire.close()
    assert found.level == level


async def test_credentials_where_nothing_answers():
    wire = Wire(api_key=SECRET, base_url=NOBODY, max_connections=1)
    assert network.credentials(*await wire.try_credentials(5)).level == "problem"
    await wire.close()


def test_an_endpoint_that_takes_an_empty_export_and_ones_that_do_not(clean):
    assert try_export(Settings.load()) == ("", "")
    assert network.traces(None, "", "").level == "ok"
    with OtlpSink() as sink:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        assert network.traces(sink.url, *try_export(Settings.load())).level == "ok"
        assert len(sink.requests) == 1 and not sink.spans
        sink.answer(404)
        refused = network.traces(sink.url, *try_export(Settings.load()))
        assert (refused.level, "http_404" in refused.found) == ("problem", True)
    assert network.traces(sink.url, *try_export(Settings.load())).level == "problem"


async def test_a_service_that_is_ready_one_that_is_not_and_what_is_none():
    nothing, alive = network.Answer(0, error="ConnectError"), network.Answer(200, body={"status": "alive"})
    ready, full = network.Answer(200), network.Answer(503, body={"reasons": ["the disk is full"]})
    assert network.service("http://x", alive, ready, named=True).level == "ok"
    assert "the disk is full" in network.service("http://x", alive, full, named=False).found
    assert network.service("http://x", nothing, nothing, named=False).level == "ok"
    assert network.service("http://x", nothing, nothing, named=True).level == "problem"
    with server() as url:
        assert network.service(url, await network.get(url), ready, named=False).level == "problem"


# ---- the command ----


def doctor(folder: Path, env: dict[str, str], *args: str, hard_files: int = 0) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if hard_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard_files, hard_files))

    return subprocess.run(
        [AGENTOBS, "doctor", *args],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def test_the_command_beside_a_running_service(tmp_path):
    with SimulatorThread() as simulator, OtlpSink() as sink:
        env = environment(tmp_path, simulator=simulator.url, sink=sink.url)
        service = Service(tmp_path, env)
        try:
            service.start()
            env = env | {"AGENTOBS_URL": service.url}
            done = doctor(tmp_path, env, "--json", "--online", "--deep")
            told = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
            assert [one for one in told.values() if one["level"] == "problem"] == []
            assert done.returncode == 0, done.stderr
            assert told["journal owner"]["found"] == f"process {service.pid} (acceptance)"
            assert told["model key tried"]["found"] == "the API takes it"
            assert told["service"]["found"] == f"{service.url} is ready"
            assert env["ANTHROPIC_API_KEY"] not in done.stdout + done.stderr
            assert simulator.requests == 0
            assert service.readyz()[0] == 200
        finally:
            service.end()


def test_the_command_tells_problems_and_exits_4(tmp_path):
    env = environment(tmp_path, simulator=NOBODY, sink=NOBODY, AGENTOBS_URL=NOBODY, ANTHROPIC_API_KEY="")
    done = doctor(tmp_path, env, "--json", hard_files=600)
    assert done.returncode == 4, done.stderr
    problems = {one["name"] for one in json.loads(done.stdout)["findings"] if one["level"] == "problem"}
    assert problems == {"model key", "model API", "traces", "service", "open files"}
    assert not (tmp_path / "agentobs.db").exists()
    text = doctor(tmp_path, env).stdout
    assert "problem  model key" in text and "-> set it, or point ANTHROPIC_BASE_URL" in text
    assert text.splitlines()[-1].startswith("4 problems")


def test_a_credential_profile_that_is_not_there_is_a_problem_and_no_crash(tmp_path):
    env = environment(tmp_path, simulator=NOBODY, sink=None, ANTHROPIC_API_KEY="", ANTHROPIC_PROFILE="nowhere")
    done = doctor(tmp_path, env, "--json")
    assert done.returncode == 4, done.stderr
    problems = {one["name"] for one in json.loads(done.stdout)["findings"] if one["level"] == "problem"}
    assert {"model client", "model providers"} <= problems


def test_a_provider_that_agents_name_and_that_cannot_be_used_is_a_problem(tmp_path):
    (tmp_path / "flows_aws.py").write_text(
        "from agentobs import Agent, RunContext, workflow\n\n"
        "writer = Agent(name='writer', provider='bedrock', model='anthropic.claude-haiku-4-5-20251001-v1:0')\n\n"
        "@workflow(agents=[writer])\n"
        "async def brief(run: RunContext, subject: str) -> str: ...\n"
    )
    aws = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    env = environment(tmp_path, simulator=NOBODY, sink=None, AGENTOBS_WORKFLOWS="flows_aws", **aws)

    def told(env: dict[str, str]) -> tuple[str, str]:
        found = {one["name"]: one for one in json.loads(doctor(tmp_path, env, "--json").stdout)["findings"]}
        assert "brief" in found["workflows"]["found"] and "can run" not in found["workflows"]["found"]
        return found["model providers"]["level"], found["model providers"]["found"]

    level, lacking = told(env)
    assert level == "problem" and "every call of agent 'writer' will fail" in lacking and "set AWS_REGION" in lacking
    assert told(env | {"AWS_REGION": "us-east-1"}) == ("ok", "bedrock: set up")


def test_settings_that_are_invalid_end_with_2_and_what_can_be_said_is_said(tmp_path):
    env = environment(tmp_path, simulator=NOBODY, sink=None, AGENTOBS_PORT="many", AGENTOBS_LEASE_S="-1")
    done = doctor(tmp_path, env)
    assert done.returncode == 2
    assert "versions" in done.stdout and "sqlite" in done.stdout
    assert "AGENTOBS_PORT is 'many'" in done.stdout and "AGENTOBS_LEASE_S" in done.stdout
