"""Each alert broken in each way turns a scenario red: its scenarios hold every metric, label, number and operator."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest

from dashboards.alerts import ALERTS
from tests.mutations import mutants
from tests.promtool import Group, only, promtool, rules, run, scenarios

# What breaks nothing that a scenario could show, with the reason.
HARMLESS = {
    r"ratio_rate\w+: '>' → '>='": "without runs 0/0 is above nothing",
    r"p95_30m: '>=' → '>'": "no quantile is 0",
    r"Agentobs(RunSuccessBurn\w+|SpendHigh): '>' → '>='": "shares and dollars hit no number exactly",
    r"Agentobs(RunSuccessBurn\w+|RunsSlow|SpendHigh): 'max' → 'min'": "of one recorded series",
    r"Agentobs(DiskLow|Down): 'min' → 'max'": "of one series an instance",
    r"AgentobsJournalErrors: 'sum' → 'max'": "of one series an instance",
    r"AgentobsRateLimitSaturated: '(sum|increase\()' → ": "only whether there were any",
    r"AgentobsDiskLow: ('<' → '<='|'0' → '1.5')": "a byte more or less, predicted",
    r"runs_failed:\w+: '\d+' → '\d+' in ": "twice the window: a scenario for each would last for days",
    r"Agentobs(RunsSlow|SpendHigh): '\d+' → '\d+' in \S*_over_time|\[[17]d\] offset": "the same",
    r"AgentobsWatchdog: '1' → ": "fires with any value",
}


def broken(name: str) -> list[tuple[str, list[Group]]]:
    """What was broken, and the rules with that."""
    [group] = only(name, rules())
    found = []
    for n, rule in enumerate(group["rules"]):
        changes = [(what, {"expr": expr}) for what, expr in mutants(rule["expr"])]
        if "alert" in rule:
            changes += [(f"for: {rule['for']} → {other}", {"for": other}) for other in {"0s", "1h"} - {rule["for"]}]
            changes += [("severity", {"labels": {"severity": "info"}})]
        for what, change in changes:
            mutant = deepcopy(group)
            mutant["rules"][n] |= change
            found.append((f"{rule.get('record', name)}: {what}", [mutant]))
    return [case for case in found if not any(re.search(pattern, case[0]) for pattern in HARMLESS)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [alert.name for alert in ALERTS])
def test_a_broken_alert_is_found(name):
    tool = promtool()
    paths = scenarios(name)
    cases = broken(name)
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda case: run(tool, paths, case[1]), cases))
    assert cases
    survivors = [what for (what, _), text in zip(cases, said, strict=True) if not text]
    assert not survivors, f"{len(survivors)} of {len(cases)}:\n" + "\n".join(survivors)
