"""The generated alerts do what their scenarios say."""

import subprocess

import pytest

from dashboards.alerts import ALERTS
from tests.promtool import GENERATED, SCENARIOS, only, promtool, rules, run, scenarios

NAMES = [alert.name for alert in ALERTS]


def test_promtool_takes_the_rules():
    files = [str(path) for path in sorted(GENERATED.glob("*.yml"))]
    done = subprocess.run(
        [promtool(), "check", "rules", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_silent_just_before_fires_and_resolves(name):
    said = run(promtool(), scenarios(name), only(name, rules()))
    assert not said, said


def test_no_alert_fires_while_all_is_well():
    said = run(promtool(), [SCENARIOS / "healthy.yml"], rules())
    assert not said, said


def test_every_alert_has_a_scenario_and_every_scenario_an_alert():
    assert {path.name.split(".")[0] for path in SCENARIOS.glob("*.yml")} == {*NAMES, "healthy"}
