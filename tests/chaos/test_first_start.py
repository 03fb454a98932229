"""A journal whose making was cut off by kill -9 can be opened by the next start, whenever that was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_a_first_start_can_be_killed_at_any_moment(tmp_path: Path):
    before = os.environ.get("AGENTOBS_TEST_PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("first_start.py")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (before, str(ROOT))))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["broken"], json.dumps(told["broken"], indent=1)
    assert told["moments"] > 20, "it dies before each statement of the migration and of the first transaction"
