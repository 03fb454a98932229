"""promtool for tests: the scenarios in `tests/alerts/` against rules, generated ones or broken ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

GENERATED = Path(__file__).parent.parent / "dashboards" / "generated" / "prometheus"
SCENARIOS = Path(__file__).parent / "alerts"
WATCHDOG = "AgentobsWatchdog"

Group = dict[str, Any]


def promtool() -> str:
    """Its path. Skips what asks for it, with the reason, where there is none; fails it if AGENTOBS_TEST_REQUIRE names
    the stack.
    """
    folder = Path(os.environ.get("AGENTOBS_STACK_DIR") or Path.home() / ".cache" / "agentobs-stack") / "bin"
    found = shutil.which("promtool") or shutil.which("promtool", path=str(folder))
    if found is None:
        reason = f"no promtool on the PATH or in {folder}"
        if "stack" in os.environ.get("AGENTOBS_TEST_REQUIRE", ""):
            pytest.fail(f"AGENTOBS_TEST_REQUIRE names stack, but {reason}")
        pytest.skip(reason)
    return found


def rules() -> list[Group]:
    """The generated groups, those that record first, as the alerts read them."""
    texts = [(GENERATED / name).read_text() for name in ("recording.yml", "alerts.yml")]
    return [group for text in texts for group in yaml.safe_load(text)["groups"]]


def scenarios(alert: str) -> list[Path]:
    """`alert.yml`, and `alert.*.yml` for what needs another evaluation interval."""
    return sorted([*SCENARIOS.glob(f"{alert}.yml"), *SCENARIOS.glob(f"{alert}.*.yml")])


def only(name: str, groups: list[Group]) -> list[Group]:
    """Of recording and alerting rules those that the alert needs: promtool evaluates all that it is given."""
    every = [rule for group in groups for rule in group["rules"]]
    alert = next(rule for rule in every if rule.get("alert") == name)
    needed = [rule for rule in every if "record" in rule and re.search(rf"{rule['record']}\b", alert["expr"])]
    return [{"name": name, "rules": deepcopy([*needed, alert])}]


def run(tool: str, paths: list[Path], groups: list[Group]) -> str:
    """What promtool says against the scenarios; empty where all of them hold. It ends with the first that does not.

    Of the annotations only the summary is compared: the others are the same for every series.
    """
    groups = deepcopy(groups)
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    for rule in alerts:
        rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rules.yml").write_text(json.dumps({"groups": groups}))
        for path in paths:
            scenario = yaml.load(path.read_text(), yaml.CSafeLoader)
            if path.stem == "healthy":
                scenario["tests"][0]["alert_rule_test"] = _silence(alerts)
            for test in scenario["tests"]:
                one = {**scenario, "rule_files": ["rules.yml"], "tests": [test]}
                (folder / "test.yml").write_text(json.dumps(one))
                command = [tool, "test", "rules", str(folder / "test.yml")]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
                if done.returncode:
                    return f"{path.name}: {done.stdout}{done.stderr}"
    return ""


def _silence(alerts: list[dict[str, Any]]) -> list[dict[str, str]]:
    names = [rule["alert"] for rule in alerts if rule["alert"] != WATCHDOG]
    return [{"eval_time": f"{minute}m", "alertname": name} for minute in range(120, 181, 10) for name in names]
