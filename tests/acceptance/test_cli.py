"""The command line as its users meet it: a process with arguments, its output, and its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentobs.records import ERROR_TYPES
from tests.acceptance.harness import Service, SimulatorThread, environment

AGENTOBS = Path(sys.executable).with_name("agentobs")
GOAL = "Best practices for remote team communication"
NOBODY = "http://127.0.0.1:1"
BUILT_IN = {"AGENTOBS_WORKFLOWS": "", "AGENTOBS_LOG_FORMAT": ""}

DOUBLE = (
    "from agentobs import RunContext, workflow\n\n"
    "@workflow()\n"
    "async def double(run: RunContext, number: int) -> int:\n"
    "    return 2 * number\n"
)

pytestmark = pytest.mark.timeout(120)


def agentobs(*args: str, env: Mapping[str, str], cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AGENTOBS, *args], env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


class Folder:
    """A user's folder: what is typed there, with nothing in the environment but what they set."""

    def __init__(self, path: Path, simulator: str) -> None:
        self.path = path
        # An address where no service is, so that one on this machine's usual port cannot be meant.
        self.env = environment(path, simulator=simulator, sink=None, AGENTOBS_URL=NOBODY, **BUILT_IN)

    def __call__(self, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return agentobs(*args, env=self.env | env, cwd=self.path, stdin=stdin)

    def json(self, *args: str, **env: str) -> Any:
        done = self(*args, "--json", **env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread() as found:
        yield found


class Used(Folder):
    """A folder whose journal has a run that succeeded and, after it, one that failed; no process owns it."""

    def __init__(self, path: Path, simulator: str) -> None:
        super().__init__(path, simulator)
        (path / "order.json").write_text('{"goal": "Tea"}')
        self.succeeded = self("run", "article", "--input", "@order.json", "--tag", "team=docs")
        self.failed = self("run", "article", "--input", "-", "--set", "notes=", "--json", stdin='{"goal": "Tea"}')


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorThread) -> Used:
    return Used(tmp_path_factory.mktemp("used"), simulator.url)


@pytest.fixture
def folder(tmp_path: Path, simulator: SimulatorThread) -> Folder:
    return Folder(tmp_path, simulator.url)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorThread) -> Iterator[Folder]:
    """A folder where AGENTOBS_URL names a running service, which wants a key and has a workflow of that folder."""
    found = Folder(tmp_path_factory.mktemp("served"), simulator.url)
    (found.path / "flows_of_mine.py").write_text(DOUBLE)
    key = found.path / "key"
    key.write_text("a-key-of-sixteen-characters\n")
    key.chmod(0o600)
    found.env |= {"AGENTOBS_API_KEY_FILE": str(key), "AGENTOBS_WORKFLOWS": "flows_of_mine"}
    service = Service(found.path, found.env)
    try:
        service.start()
        found.env["AGENTOBS_URL"] = service.url
        yield found
    finally:
        service.end()


def is_one_sentence(stderr: str) -> bool:
    return stderr.startswith("agentobs: ") and stderr.count("\n") == 1 and "Traceback" not in stderr


# ---- help ----


def test_help_lists_the_commands_and_nothing_that_does_not_exist_yet(folder: Folder) -> None:
    done = folder("--help")
    assert done.returncode == 0
    commands = re.findall(r"^  ([a-z]+) {2,}\S", done.stdout.split("Commands:")[1], re.MULTILINE)
    assert commands == [
        "serve",
        "simulate",
        "demo",
        "traffic",
        "run",
        "workflows",
        "settings",
        "bench",
        "migrate",
        "init",
        "replay",
        "doctor",
        "drill",
        "audit",
        "runs",
    ]


def test_help_imports_nothing_heavy() -> None:
    heavy = {"anthropic", "fastapi", "uvicorn", "aiohttp", "httpx2", "rich", "structlog", "opentelemetry"}
    code = f"import sys, agentobs.cli.main; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("command", [[], ["runs"]])
def test_without_a_command_the_help_is_shown(folder: Folder, command: list[str]) -> None:
    done = folder(*command)
    assert done.returncode == 2
    assert "Commands:" in done.stderr


# ---- the demo ----


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], float]:
    """Played in an environment that is set up for something else, and wrongly."""
    path = tmp_path_factory.mktemp("demo")
    env = environment(
        path,
        simulator=NOBODY,
        sink=None,
        TMPDIR=str(path),
        AGENTOBS_HOST="0.0.0.0",
        AGENTOBS_PORT="not a port",
        AGENTOBS_WORKFLOWS="no.such.module",
        AGENTOBS_API_KEY_FILE="/no/such/file",
        HTTP_PROXY=NOBODY,
        ALL_PROXY=NOBODY,
    )
    started = time.monotonic()
    return agentobs("demo", env=env, cwd=path), time.monotonic() - started


def test_the_demo_plays_its_three_runs_and_ends_by_itself(demo) -> None:
    done, seconds = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^status  (\w+)", done.stdout, re.MULTILINE) == ["succeeded", "succeeded", "failed"]
    assert re.findall(r", (no retries|\d retries)$", done.stdout, re.MULTILINE) == [
        "no retries",
        "2 retries",
        "no retries",
    ]
    assert "attempt 1: 529 overloaded" in done.stdout
    assert "attempt 1: 200 stream_truncated" in done.stdout
    assert "error   invalid_request in step 1 (researcher)" in done.stdout
    assert ERROR_TYPES["invalid_request"] in done.stdout
    assert re.search(r"simulate --port 9100 &\n.*ANTHROPIC_BASE_URL=http://127.0.0.1:9100 .*serve\n", done.stdout)
    assert seconds < 40  # a tenth of which it needs where nobody else does


def test_the_demo_shows_that_bill_journal_and_metrics_agree(demo) -> None:
    done, _ = demo
    agree = re.search(
        r"^bill, journal and metrics agree: ([\d,]+) input, ([\d,]+) output tokens, \$([\d.]+)$",
        done.stdout,
        re.MULTILINE,
    )
    assert agree, done.stdout
    told = re.findall(r"^tokens  (?:at least )?([\d,]+) in, ([\d,]+) out", done.stdout, re.MULTILINE)
    assert [sum(int(one[at].replace(",", "")) for one in told) for at in (0, 1)] == [
        int(agree[1].replace(",", "")),
        int(agree[2].replace(",", "")),
    ]
    assert '"event":"agent.call"' in done.stdout
    assert 'agentobs_tokens_total{agent="' in done.stdout
    trace = re.search(r"^Trace ([0-9a-f]{32})", done.stdout, re.MULTILINE)
    assert trace
    assert f"/trace/{trace[1]}" in done.stdout


def test_the_demos_journal_is_kept_and_can_be_read(demo, tmp_path: Path) -> None:
    done, _ = demo
    found = re.search(r"AGENTOBS_DATABASE_URL=(\S+)", done.stdout)
    assert found
    env = environment(tmp_path, simulator=NOBODY, sink=None, AGENTOBS_URL=NOBODY, AGENTOBS_DATABASE_URL=found[1])
    listed = agentobs("runs", "list", "--json", env=env, cwd=tmp_path)
    assert [run["status"] for run in json.loads(listed.stdout)["runs"]] == ["failed", "succeeded", "succeeded"]


def test_a_real_demo_needs_a_key(folder: Folder) -> None:
    del folder.env["ANTHROPIC_API_KEY"]
    done = folder("demo", "--real")
    assert done.returncode == 2
    assert is_one_sentence(done.stderr)
    assert "ANTHROPIC_API_KEY" in done.stderr
    assert not done.stdout


# ---- a run in this process ----


def test_a_run_shows_its_progress_beside_and_its_summary_and_output_as_result(used: Used) -> None:
    done = used.succeeded
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stderr.splitlines() if "✓" in line] == [
        ["✓", "researcher"],
        ["✓", "writer"],
        ["✓", "editor"],
    ]
    assert "{" not in done.stderr  # no log lines among it
    assert "status  succeeded" in done.stdout
    run = used.json("runs", "show", done.stderr.split()[1])
    assert done.stdout.rstrip().endswith(run["output"].rstrip())
    assert (run["input"], run["tags"]) == ({"goal": "Tea"}, {"team": "docs"})


def test_a_run_that_fails_exits_1_and_as_json_is_one_document(used: Used) -> None:
    assert used.failed.returncode == 1
    run = json.loads(used.failed.stdout)
    assert run["error"]["type"] == "invalid_request"
    assert run["input"] == {"goal": "Tea", "notes": ""}
    assert [step["name"] for step in run["steps"]] == ["researcher"]


def test_code_that_raises_is_told_with_its_place_and_text(folder: Folder) -> None:
    flows = {"AGENTOBS_WORKFLOWS": "tests.acceptance.flows_bad", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = folder("run", "raises", "--input", '"tea"', **flows)
    assert done.returncode == 1
    assert "error   workflow_error: workflow 'raises' raised ValueError at flows_bad.py:" in done.stdout
    assert "\n  ValueError: never show this: tea\n" in done.stdout  # on the terminal of whoever ran it
    done = folder("run", "step_raises", "--input", '"tea"', **flows)
    assert re.search(r"flows_bad.py\", line \d+, in explode\n.*\n  RuntimeError: exploded over tea\n", done.stdout)
    shown = folder("runs", "show", done.stderr.split()[1])
    assert "\n  RuntimeError: exploded over tea\n" in shown.stdout
    assert "error   workflow_error in step 1 (explode)" in shown.stdout
    done = folder("run", "undeclared", "--input", '"tea"', **flows)
    assert "without declaring it" in " ".join(done.stdout.split())


@pytest.mark.parametrize("workflow", ["article", "double"])
def test_a_missing_model_key_is_told_before_a_run_that_needs_it(folder: Folder, workflow: str) -> None:
    (folder.path / "flows_of_mine.py").write_text(DOUBLE)
    del folder.env["ANTHROPIC_API_KEY"]
    given = {"article": '{"goal": "Tea"}', "double": "21"}[workflow]
    done = folder("run", workflow, "--input", given, AGENTOBS_WORKFLOWS="flows_of_mine")
    said = "ANTHROPIC_API_KEY is not set: every call of a model will fail as 'authentication'\nrun "
    assert (done.stderr.startswith(said), done.returncode) == ((True, 1) if workflow == "article" else (False, 0))
    assert ("authentication  401: the key is wrong; or there is none" in done.stdout) is (workflow == "article")


def test_the_help_of_serve_names_the_settings_it_begins_with(folder: Folder) -> None:
    told = folder("serve", "--help").stdout
    assert all(name in told for name in ("AGENTOBS_WORKFLOWS", "AGENTOBS_PORT", "AGENTOBS_HOST", "agentobs settings"))


def test_the_simulator_says_at_its_start_where_faults_and_bill_are(folder: Folder) -> None:
    with subprocess.Popen(
        [AGENTOBS, "simulate", "--port", "0"], env=folder.env, cwd=folder.path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            told = process.stdout.readline() + process.stdout.readline()
            faults, bill = (re.search(rf"http://\S+/{path}", told) for path in ("_faults", "_bill"))
            assert faults and bill, told
            assert httpx2.get(faults[0]).json() == []
            assert httpx2.get(bill[0]).json()["requests"] == []
        finally:
            process.terminate()


def test_ctrl_c_cancels_the_run_of_this_process(tmp_path: Path) -> None:
    with SimulatorThread(latency_s=30) as slow:
        folder = Folder(tmp_path, slow.url)
        process = subprocess.Popen(
            [AGENTOBS, "run", "article", "--set", "goal=Tea"],
            env=folder.env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Where these tests are a shell's background job, SIGINT is ignored, and what they start inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- it only sets a flag
        )
        while not slow.requests:
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert [run["status"] for run in folder.json("runs", "list")["runs"]] == ["cancelled"]


# ---- reading the journal file ----


def test_runs_are_read_from_the_journal_where_no_service_answers(used: Used) -> None:
    done = used("runs", "list")
    assert done.returncode == 0
    assert f"read from the journal {used.path / 'agentobs.db'}" in done.stderr
    head, failed, succeeded = done.stdout.splitlines()
    assert head.split() == [
        "id",
        "workflow",
        "status",
        "created",
        "(UTC)",
        "time",
        "retries",
        "tokens",
        "cost",
        "error",
    ]
    assert failed.split()[1:3] == ["article", "failed"]
    assert failed.endswith("invalid_request")
    assert succeeded.split()[1:3] == ["article", "succeeded"]


def test_runs_are_filtered(used: Used) -> None:
    def found(*filters: str) -> list[str]:
        return [run["status"] for run in used.json("runs", "list", *filters)["runs"]]

    assert found("--tag", "team:docs") == found("--status", "succeeded") == ["succeeded"]
    assert found("--error-type", "invalid_request") == ["failed"]
    assert found("--workflow", "other") == found("--until", "2020-01-01") == []
    page = used.json("runs", "list", "--limit", "1")
    assert [run["status"] for run in page["runs"]] == ["failed"]
    assert found("--limit", "1", "--cursor", page["next_cursor"]) == ["succeeded"]


def test_a_run_is_shown_by_its_id_or_trace_id(used: Used) -> None:
    run = used.json("runs", "list", "--status", "succeeded")["runs"][0]
    shown = used("runs", "show", run["trace_id"])
    assert shown.returncode == 0
    assert shown.stdout == used("runs", "show", run["id"]).stdout
    assert f"run     {run['id']}" in shown.stdout
    # Under load the step waits a while before its attempt begins, and the bar says so.
    assert re.search(r"^researcher +·*█", shown.stdout, re.MULTILINE)
    document = used.json("runs", "show", run["id"])
    assert document["tokens"] == run["tokens"]


def test_the_log_lines_of_a_run_are_printed_again(used: Used) -> None:
    run = used.json("runs", "list", "--status", "failed")["runs"][0]
    lines = [json.loads(line) for line in used("runs", "show", run["id"], "--logs").stdout.splitlines()]
    assert [line["event"] for line in lines] == [
        "run.accepted",
        "run.started",
        "attempt.failed",
        "agent.call",
        "run.finished",
    ]
    assert {line["trace_id"] for line in lines} == {run["trace_id"]}
    assert used.json("runs", "show", run["id"], "--logs") == lines


# ---- a service ----


def test_a_run_at_a_service_is_followed_to_its_end(served: Folder) -> None:
    url = served.env["AGENTOBS_URL"]
    done = served("run", "article", "--set", "goal=Tea", "--server", url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("run ")
    assert "✓ editor" in done.stderr
    assert "status  succeeded" in done.stdout
    assert served("run", "article", "--set", "goal=Tea", "--set", "notes=", "--server", url).returncode == 1
    # The service is asked, though the journal is there as well: nothing is said of it.
    listed = served("runs", "list", "--limit", "2")
    assert not listed.stderr.startswith("no service")
    assert [line.split()[2] for line in listed.stdout.splitlines()[1:]] == ["failed", "succeeded"]
    shown = served("runs", "show", listed.stdout.splitlines()[2].split()[0])
    assert shown.stdout.splitlines()[-7].startswith("run ")


def test_an_input_that_a_service_refuses_is_told_for_the_command_line(served: Folder) -> None:
    done = served("run", "article", "--set", "gaol=Tea", "--server", served.env["AGENTOBS_URL"])
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert "goal: missing" in done.stderr and done.stderr.endswith("notes; see 'agentobs workflows'\n")


def test_a_run_is_cancelled_through_the_service(served: Folder, simulator: SimulatorThread) -> None:
    simulator.faults({"fault": "hang", "match": {"contains": "Endlessness"}})
    process = subprocess.Popen(
        [AGENTOBS, "run", "article", "--set", "goal=Endlessness", "--server", served.env["AGENTOBS_URL"]],
        env=served.env,
        cwd=served.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    run_id = process.stderr.readline().split()[1]
    done = served("runs", "cancel", run_id)
    assert done.returncode == 0, done.stderr
    assert run_id in done.stdout
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "status  cancelled" in stdout


def test_runs_are_cancelled_and_resumed_by_filter(served: Folder, simulator: SimulatorThread) -> None:
    simulator.faults({"fault": "bad_request", "match": {"contains": "Bulk"}})
    for number in range(3):
        served(
            "run",
            "article",
            "--set",
            f"goal=Bulk {number}",
            "--tag",
            "by=filter",
            "--server",
            served.env["AGENTOBS_URL"],
        )
    simulator.faults()
    filters = ("--error-type", "invalid_request", "--tag", "by:filter")
    unasked = served("runs", "resume", *filters)
    assert unasked.returncode == 2 and is_one_sentence(unasked.stderr) and "--yes" in unasked.stderr
    looked = served("runs", "resume", *filters, "--dry-run", "--yes")
    assert (looked.returncode, looked.stdout) == (0, "3 runs would be queued again\n")
    code, shown = at_terminal(served, "runs", "resume", *filters, typed="n\n")
    assert code == 1 and "3 runs fit: resume them? [y/N]" in shown and "nothing was done" in shown
    code, shown = at_terminal(served, "runs", "resume", *filters, typed="y\n")
    assert code == 0 and "3 runs queued again" in shown
    assert served.json("runs", "resume", *filters, "--yes") == {"matched": 0, "acted": 0, "run_ids": []}
    done = served("runs", "cancel", "--since", "2999-01-01", "--yes")
    assert (done.returncode, done.stdout) == (0, "0 runs cancelled\n")


def at_terminal(folder: Folder, *args: str, typed: str) -> tuple[int, str]:
    """Exit code and all that is shown to who types that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [AGENTOBS, *args], env=folder.env, cwd=folder.path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    return process.wait(30), shown.decode()


def test_workflows_are_listed_with_what_they_take(served: Folder, folder: Folder) -> None:
    found = {workflow["name"]: workflow for workflow in served.json("workflows")["workflows"]}
    assert "goal" in found["article"]["input_schema"]["properties"]
    alone = folder("workflows")  # no service: what this environment registers
    assert alone.returncode == 0
    assert alone.stdout.startswith("article  Research a subject")
    assert "goal: string, [notes: string]" in alone.stdout
    assert "no service answers" in alone.stderr


def test_a_journal_that_a_service_owns_is_left_to_it(served: Folder) -> None:
    for command in (["run", "article", "--set", "goal=Tea"], ["migrate"]):
        done = served(*command)
        assert done.returncode == 1
        assert is_one_sentence(done.stderr)
        assert "owned by process" in done.stderr
        assert "agentobs run --server URL" in done.stderr


def test_the_key_of_a_service_is_sent(served: Folder) -> None:
    assert served("runs", "list").returncode == 0
    without = served("runs", "list", AGENTOBS_API_KEY_FILE="")
    assert without.returncode == 2
    assert is_one_sentence(without.stderr)
    assert "AGENTOBS_API_KEY_FILE" in without.stderr


def test_a_users_own_workflow_is_found_in_the_folder(served: Folder) -> None:
    done = served("run", "double", "--input", "21", "--server", served.env["AGENTOBS_URL"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("42")


# ---- settings, migrate ----


def test_settings_are_printed_with_their_origin_and_without_secrets(folder: Folder) -> None:
    done = folder("settings", AGENTOBS_PORT="8123", ANTHROPIC_API_KEY="sk-secret")
    assert re.search(r"^AGENTOBS_PORT +environment +8123$", done.stdout, re.MULTILINE)
    assert re.search(r"^AGENTOBS_LEASE_S +default +5\S*$", done.stdout, re.MULTILINE)
    assert "sk-secret" not in done.stdout + done.stderr
    found = {row["name"]: row for row in folder.json("settings", ANTHROPIC_API_KEY="sk-secret")["settings"]}
    assert found["ANTHROPIC_API_KEY"]["value"] == "***"
    assert found["AGENTOBS_HOST"]["description"]


def test_migrate_makes_a_journal_once(folder: Folder) -> None:
    first, second = folder("migrate"), folder("migrate")
    assert re.search(r"from schema version 0 to \d+$", first.stdout)
    assert "nothing to do" in second.stdout
    assert (first.returncode, second.returncode) == (0, 0)
    assert (folder.path / "agentobs.db").stat().st_mode & 0o777 == 0o600
    assert folder.json("runs", "list")["runs"] == []


def test_migrate_leaves_a_strangers_database_alone(folder: Folder) -> None:
    import sqlite3

    path = folder.path / "agentobs.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (id)")
    before = path.read_bytes()
    done = folder("migrate")
    assert done.returncode == 1
    assert is_one_sentence(done.stderr)
    assert path.read_bytes() == before


# ---- wrong use ----


WRONG: list[tuple[str, int, str]] = [
    ("frobnicate", 2, "no such command 'frobnicate'"),
    ("run", 2, "missing argument 'WORKFLOW'"),
    ("run nosuch", 2, "no workflow is registered as 'nosuch'; registered: article"),
    ("run article", 2, "expected an object. Its fields: goal (required), notes; give it with --set goal=…; see 'ag"),
    ("run article --set gaol=Tea", 2, "goal: missing; (a key not declared): not among its fields. Its fields: goal (r"),
    ("run article --set goal=5", 2, "goal: expected text"),
    ("run triage --set tickets=tea", 2, "tickets: expected a list"),
    ("run article --input tea", 2, """text in quotes of its own such as '"tea"'"""),
    ("run article --set goal", 2, "expected key=value"),
    ("run article --input {", 2, "--input is not JSON"),
    ("run article --input @nothing.json", 2, "cannot be read"),
    ("run article --tag docs", 2, "expected key=value"),
    ("run article --set goal=Tea --server localhost", 2, "expected a URL"),
    ("run article --set goal=Tea --server http://127.0.0.1:1", 3, "no service answers"),
    ("runs list", 3, "or a journal in AGENTOBS_DATABASE_URL: there is none at"),
    ("runs list --server http://127.0.0.1:1", 3, "agentobs serve"),
    ("runs list --status done", 2, "queued, running, waiting, succeeded, failed, cancelled"),
    ("runs list --error-type oops", 2, "rate_limited"),
    ("runs list --since yesterday", 2, "ISO 8601"),
    ("runs list --limit 0", 2, "--limit is 0"),
    ("runs list --limit many", 2, "--limit"),
    ("runs list --cursor x", 2, "cursor"),
    ("runs show 17", 2, "expected a UUID"),
    ("runs show --frob 17", 2, "no such option"),
    ("runs cancel 00000000000000000000000000000000", 3, "no service answers"),
    ("runs cancel", 2, "no run is named; expected an ID, filters"),
    ("runs resume 17 --status failed", 2, "an ID and filters are given"),
    ("runs cancel --status failed --yes", 2, "--status is 'failed': it should be one of queued, running, waiting"),
    ("runs resume --since noon --yes", 2, "--since is 'noon'"),
    ("runs resume --all", 2, "there is no terminal to ask at"),
    ("runs resume --all --yes", 3, "no service answers"),
    ("workflows --server http://127.0.0.1:1", 3, "no service answers"),
    ("simulate --port 65536", 2, "65535"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorThread) -> dict[str, Any]:
    """What came of each: many short processes, so several at once."""
    folder = Folder(tmp_path_factory.mktemp("wrong"), simulator.url)
    with ThreadPoolExecutor(4) as pool:
        commands = [command for command, *_ in WRONG]
        found: dict[str, Any] = dict(zip(commands, pool.map(lambda one: folder(*one.split()), commands), strict=True))
    found["files"] = list(folder.path.iterdir())
    return found


@pytest.mark.parametrize(("command", "code", "said"), WRONG)
def test_wrong_use_is_told_in_one_sentence(wrong: dict[str, Any], command: str, code: int, said: str) -> None:
    done = wrong[command]
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert is_one_sentence(done.stderr), done.stderr
    assert said in done.stderr


def test_wrong_use_leaves_nothing_behind(wrong: dict[str, Any]) -> None:
    assert wrong["files"] == []


def test_what_is_no_service_of_ours_is_not_taken_for_one(folder: Folder, simulator: SimulatorThread) -> None:
    done = folder("workflows", "--server", simulator.url)
    assert done.returncode == 3
    assert is_one_sentence(done.stderr)
    assert "is not a service of agentobs" in done.stderr


def test_a_wrong_setting_is_named(folder: Folder) -> None:
    done = folder("runs", "list", AGENTOBS_PORT="http")
    assert done.returncode == 2
    assert is_one_sentence(done.stderr)
    assert "AGENTOBS_PORT is 'http'" in done.stderr


def test_a_port_that_is_taken_is_named(folder: Folder, simulator: SimulatorThread) -> None:
    port = simulator.url.rpartition(":")[2]
    for done in (folder("simulate", "--port", port), folder("serve", AGENTOBS_PORT=port)):
        assert done.returncode == 2
        assert "cannot be listened on" in done.stderr
        assert "Traceback" not in done.stderr


# ---- terminals and pipes ----


def on_a_terminal(command: list[str], env: Mapping[str, str], cwd: Path) -> str:
    """What arrives at a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve(AGENTOBS, [str(AGENTOBS), *command], {**env, "TERM": "xterm-256color", "COLUMNS": "90"})
    found = b""
    while select.select([terminal], [], [], 30)[0]:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not read:
            break
        found += read
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return found.decode()


def test_colour_is_for_terminals_alone(used: Used, demo) -> None:
    run_id = used.json("runs", "list")["runs"][0]["id"]
    command = ["runs", "show", run_id]
    assert "\x1b[31m" in on_a_terminal(command, used.env, used.path)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", on_a_terminal(command, used.env | {"NO_COLOR": "1"}, used.path))
    piped = used(*command)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "\x1b" not in demo[0].stdout + demo[0].stderr


def test_a_terminal_without_unicode_gets_ascii(used: Used) -> None:
    run_id = used.json("runs", "list")["runs"][0]["id"]
    done = used("runs", "show", run_id, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "x failed" in done.stdout
