"""What the documents tell a reader to type, typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.harness import ROOT, world

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]


PYTHON = [(d.name, n, text) for d in DOCUMENTS for n, text in enumerate(blocks(d, "python"))]


@pytest.mark.parametrize(
    ("document", "number", "code"), PYTHON, ids=lambda v: v if isinstance(v, str) and len(v) < 40 else ""
)
def test_python_in_the_documents_runs_as_written(document, number, code):
    if "await" in code and "async def" not in code:  # a fragment of a workflow's body
        compile("async def fragment():\n" + "\n".join(f"    {line}" for line in code.splitlines()), document, "exec")
        return
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


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


def test_every_link_between_the_documents_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_make_target_and_command_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    told = "\n".join(document.read_text() for document in DOCUMENTS)
    for target in set(re.findall(r"`?make (\w+)`?(?= |`|\n)", told)):
        if target not in {"are", "and", "sure"}:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is told of and missing"
    help_text = subprocess.run(
        [sys.executable, "-m", "agentobs", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(
        re.findall(r"agentobs (serve|run|runs|workflows|settings|demo|simulate|migrate|replay|doctor)\b", told)
    ):
        assert f" {command} " in help_text
