"""What the documents tell a reader to type, typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentobs.records import ERROR_TYPES
from agentobs.simulator import faults
from tests.acceptance.harness import ROOT, SimulatorThread, world

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]


FILE = re.compile(r"# (\w+\.py)\n")  # a block that says where it belongs


PYTHON = [(d, n, text) for d in DOCUMENTS for n, text in enumerate(blocks(d, "python"))]


@pytest.mark.parametrize(
    ("document", "number", "code"), PYTHON, ids=lambda v: v.name if isinstance(v, Path) else v if v in range(99) else ""
)
def test_python_in_the_documents_runs_as_written(document, number, code, tmp_path):
    if "await" in code and "async def" not in code:  # a fragment of a workflow's body
        compile("async def fragment():\n" + "\n".join(f"    {line}" for line in code.splitlines()), document, "exec")
        return
    for earlier in blocks(document, "python")[: number + 1]:
        if told := FILE.match(earlier):
            (tmp_path / told[1]).write_text(earlier)
    told = FILE.match(code)
    command = ["-m", "pytest", "-q", told[1]] if told and told[1].startswith("test_") else ["-c", code]
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path, env=environ
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_of_a_users_own_workflow_takes_ten_lines():
    (code,) = (c for c in blocks(ROOT / "docs/test-your-workflow.md", "python") if c.startswith("# test_flows.py"))
    assert len([line for line in code.splitlines()[1:] if line.strip()]) == 10


def test_the_trace_that_is_shown_is_that_of_the_first_test():
    text = (ROOT / "docs/test-your-workflow.md").read_text()
    (shown,) = re.findall(r"^```\n(invoke_workflow brief\n.*?)\n```", text, re.MULTILINE | re.DOTALL)
    flows, test = blocks(ROOT / "docs/test-your-workflow.md", "python")[:2]
    code = flows + test.replace("from flows import brief\n", "").split("    assert")[0] + "    print(result.trace())\n"
    code += "test_the_writer_is_given_the_facts()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == shown


def test_the_readmes_curl_commands_submit_and_list_a_run(tmp_path):
    (commands,) = (text for text in blocks(ROOT / "README.md", "sh") if "curl" in text)
    with world(tmp_path) as here:
        url = here.service.url
        port = url.rsplit(":", 1)[1]
        script = commands.replace("localhost:8080", f"localhost:{port}")
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AGENTOBS_URL": url}
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=environ,
            cwd=tmp_path,
        )
        decoder = json.JSONDecoder()
        run, end = decoder.raw_decode(done.stdout)
        listed, end = decoder.raw_decode(done.stdout[end:].lstrip())
        assert run["workflow"] == "article"
        assert [found["id"] for found in listed["runs"]] == [run["id"]]
        assert run["id"][:8] in done.stdout.splitlines()[-1] or run["id"] in done.stdout
        ended = here.service.wait_ended([run["id"]])
        assert ended[run["id"]]["status"] == "succeeded"


def typed(script: str, folder: Path, url: str, **environ: str) -> str:
    """What the commands print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "AGENTOBS_URL": url, **environ}
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_workflow_of_the_documents_is_run_and_submitted_as_written(tmp_path):
    guide = ROOT / "docs/write-a-workflow.md"
    (commands,) = blocks(guide, "sh")
    declared = [text for text in blocks(guide, "python") if "@workflow" in text]
    (tmp_path / "flows.py").write_text("\n".join(declared))
    (readmes,) = (text for text in blocks(ROOT / "README.md", "python") if "@workflow" in text)
    (tmp_path / "my_module.py").write_text(readmes)
    (brief,) = re.findall(r"`(agentobs run brief [^`]*)`", (ROOT / "README.md").read_text())
    both = "flows,my_module"
    with world(tmp_path, AGENTOBS_WORKFLOWS=both, PYTHONPATH=f"{ROOT}:{tmp_path}") as here:
        here_alone = {
            "AGENTOBS_WORKFLOWS": both,
            "AGENTOBS_DATABASE_URL": f"sqlite:///{tmp_path / 'mine.db'}",
            "ANTHROPIC_BASE_URL": here.simulator.url,
            "ANTHROPIC_API_KEY": "any",
        }
        script = commands.replace("http://localhost:8080", here.service.url).replace("localhost:8080", here.service.url)
        told = typed(f"{script}\n{brief}", tmp_path, here.service.url, **here_alone)
        assert "input   text: string" in told
        assert told.count("status  succeeded") == 3  # answer, enquiry, brief
        (submitted,) = here.service.summaries()
        assert submitted["workflow"] == "enquiry"
        assert here.service.wait_ended([submitted["id"]])[submitted["id"]]["status"] == "succeeded"
        (wanted,) = (text for text in blocks(ROOT / "docs/follow-a-run.md", "sh") if "show ID" in text)
        wanted = re.sub(r"\bID\b", submitted["id"], wanted).replace("localhost:8080", here.service.url)
        run, _ = json.JSONDecoder().raw_decode(typed(wanted, tmp_path, here.service.url))
        assert run["output"]


def test_the_simulators_rules_and_bill_answer_as_written():
    commands = "".join(text for text in blocks(ROOT / "docs/simulate.md", "sh") if "curl" in text)
    assert commands.count("/_faults") == 3 and commands.count("/_bill") == 2
    with SimulatorThread() as simulator:
        script = commands.replace("localhost:9100", simulator.url)
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)
    decoder, answers, rest = json.JSONDecoder(), [], done.stdout
    while rest.strip():
        found, end = decoder.raw_decode(rest.lstrip())
        answers.append(found)
        rest = rest.lstrip()[end:]
    put, listed, bill = answers
    assert put == listed and [(rule["fault"], rule["applied"]) for rule in put] == [("overloaded", 0), ("slow", 0)]
    assert bill["requests"] == []


def test_every_fault_is_told_with_every_field_of_its_own():
    rows = re.findall(r"^\| (`.+?) \| .*? \|(.*)\|$", (ROOT / "docs/simulate.md").read_text(), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", cell)) for names, cell in rows for name in re.findall(r"`(.+?)`", names)}
    same = {name for names, cell in rows if cell.strip() == "the same" for name in re.findall(r"`(.+?)`", names)}
    for fault, own in faults.FAULTS.items():
        assert told.pop(fault) >= set(own) or (fault in same and own == faults.FAULTS["rate_limited"]), fault
    assert told.keys() == {"match.model", "match.contains", "times", "probability", "after_s", "for_s"}


def test_the_table_of_error_types_is_that_of_the_program():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/operate.md").read_text(), re.MULTILINE)
    assert dict(rows) == ERROR_TYPES


def test_every_link_between_the_documents_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_picture_is_shown_and_every_one_shown_is_there():
    shown = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", document.read_text())
    }
    there = set((ROOT / "docs/images").iterdir())
    assert shown == there
    assert all(path.stat().st_size < 250_000 for path in there), "a reader waits for them"


def test_every_make_target_and_command_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    told = "\n".join(document.read_text() for document in DOCUMENTS)
    for target in set(re.findall(r"`?make (\w+)`?(?= |`|\n)", told)):
        if target not in {"are", "and", "room", "sure"}:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is told of and missing"
    help_text = subprocess.run(
        [sys.executable, "-m", "agentobs", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(
        re.findall(
            r"agentobs (serve|run|runs|workflows|settings|demo|simulate|traffic|migrate|init|replay|doctor|drill|audit)"
            r"\b",
            told,
        )
    ):
        assert f" {command} " in help_text
