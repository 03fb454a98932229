"""`agentobs replay` as a CI job meets it: a deploy's code, a journal, and an exit code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.harness import Service, SimulatorThread, environment, until

AGENTOBS = Path(sys.executable).with_name("agentobs")
FLOW = """
from agentobs import Agent, RunContext, workflow

print("a module that prints")
writer = Agent(name="writer", model="claude-haiku-5-5", system="Write.")
editor = Agent(name="editor", model="claude-opus-5-5")


@workflow(agents=[writer, editor])
async def letter(run: RunContext, input: str) -> str:
    print("a workflow that prints")
    draft = await run.call(writer, f"Write about {input}")
    return await run.call(editor, f"Edit: {draft}")
"""

pytestmark = pytest.mark.timeout(120)


class Deploy:
    """A folder with a workflow module, and a service on it."""

    def __init__(self, folder: Path, simulator: SimulatorThread) -> None:
        self.folder = folder
        self.simulator = simulator
        self.env = environment(folder, simulator=simulator.url, sink=None, AGENTOBS_WORKFLOWS="letters")
        self.service = Service(folder, self.env)
        self.code(FLOW)

    def code(self, text: str) -> None:
        (self.folder / "letters.py").write_text(text)

    def replay(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = self.env | {"PYTHONDONTWRITEBYTECODE": "1"} | env
        return subprocess.run(
            [AGENTOBS, "replay", *args],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def deploy(tmp_path):
    (tmp_path / "service").mkdir()
    with SimulatorThread() as simulator:
        found = Deploy(tmp_path / "service", simulator)
        try:
            yield found
        finally:
            found.service.end()


def test_a_deploy_is_checked_beside_the_running_service(deploy):
    deploy.service.start()
    run_id = deploy.service.submit("letter", "tea")["id"]
    deploy.service.wait_ended([run_id])
    paid, journal = deploy.simulator.requests, deploy.service.database
    before = hashlib.sha256(journal.read_bytes()).hexdigest()

    same = deploy.replay("--workflow", "letter")
    assert same.returncode == 0, same.stderr
    assert same.stdout == "1 run: nothing recorded would be paid again, nothing diverges\n"

    deploy.code(FLOW.replace("Edit: {draft}", "Please edit: {draft}"))
    changed = deploy.replay("--workflow", "letter")
    assert changed.returncode == 4, changed.stderr
    first, call, *totals = changed.stdout.splitlines()
    assert first == f"{run_id}  letter  succeeded  differs  1 step answered from the journal"
    assert call.startswith("  paid again   editor  (step 2, $0.00") and call.endswith("  its prompt changed")
    assert totals[0] == "1 of 1 run differs from this code"

    told = deploy.replay(run_id, "--json")
    assert told.returncode == 4
    document = json.loads(told.stdout)  # what the code prints is not in it
    run = document["runs"][0]
    assert [(one["verdict"], one["name"], one["recorded"]["step"]) for one in run["calls"]] == [
        ("changed", "editor", 2)
    ]
    cost = deploy.service.detail(run_id)["steps"][1]["cost_usd"]
    assert run["paid_again_usd"] == run["at_stake_usd"] == document["totals"]["paid_again_usd"] == cost
    assert document["totals"]["differing"] == 1

    assert deploy.simulator.requests == paid
    assert hashlib.sha256(journal.read_bytes()).hexdigest() == before
    assert deploy.service.readyz()[0] == 200


def test_unfinished_runs_are_what_is_replayed_unless_others_are_asked_for(deploy):
    deploy.service.start()
    deploy.service.wait_ended([deploy.service.submit("letter", "tea")["id"]])
    deploy.simulator.faults({"fault": "hang", "match": {"contains": "Edit"}})
    hanging = deploy.service.submit("letter", "coffee")["id"]
    paid = deploy.simulator.requests

    def edits() -> bool:
        return len(deploy.service.detail(hanging)["steps"]) == 2

    until(edits, "the editor to be asked")
    deploy.service.kill()
    told = json.loads(deploy.replay("--json").stdout)
    assert [(run["id"], run["differs"], run["reused"]) for run in told["runs"]] == [(hanging, False, 1)]
    assert [(one["verdict"], one["name"]) for one in told["runs"][0]["calls"]] == [("due", "editor")]
    assert deploy.replay("--unfinished").returncode == 0

    deploy.code(FLOW.replace('system="Write."', 'system="Write well."'))
    assert deploy.replay().returncode == 4
    assert json.loads(deploy.replay("--workflow", "letter", "--json").stdout)["totals"]["differing"] == 2
    assert deploy.simulator.requests - paid <= 2  # the run's own


def test_runs_that_cannot_be_replayed_are_told_one_by_one(deploy):
    deploy.service.start()
    run_id = deploy.service.submit("letter", "tea")["id"]
    deploy.service.wait_ended([run_id])
    deploy.code(FLOW.replace("async def letter", "async def note"))
    renamed = deploy.replay(run_id)
    assert renamed.returncode == 4
    assert "cannot begin" in renamed.stdout and "no workflow is registered as 'letter'" in renamed.stdout
    deploy.code(FLOW.replace("input: str", "input: int"))
    assert "the input does not fit workflow 'letter'" in deploy.replay(run_id).stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--as", "started"], 2, "'started' is not one of next, resumed"),
        (["00000000-0000-7000-8000-000000000000"], 2, "there is no run"),
        (["00000000-0000-7000-8000-000000000000", "--unfinished"], 2, "ids name the runs"),
        (["--since", "yesterday"], 2, "--since"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(deploy, args, code, said):
    deploy.service.start()
    done = deploy.replay(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and len(done.stderr.splitlines()) <= 2


def test_code_that_cannot_be_imported_is_wrong_use(deploy):
    deploy.service.start()
    deploy.service.stop()
    deploy.code("import nothing_of_that_name")
    done = deploy.replay()
    assert done.returncode == 2
    assert "cannot be imported" in done.stderr
