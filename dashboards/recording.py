"""What Prometheus computes ahead, since windows of days are too dear for each evaluation, and the SLO they serve.

The objective: of all runs that ended (cancelled ones aside: someone wanted that), SUCCESS_OBJECTIVE succeed. Runs, not
attempts: what was retried with success hurt nobody. To change it: edit the number, `python -m dashboards`, reload
Prometheus and restart Grafana. Keep factor x (1 - objective) below 1 or the alert can never fire: with 95 % the fast
page needs 72 % of runs to fail, with 93 % everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentobs.records import CANCELLED, FAILED
from agentobs.telemetry import names
from dashboards.promql import JOB, increase, select

SUCCESS_OBJECTIVE: Final = 0.95
ERROR_BUDGET: Final = 1 - SUCCESS_OBJECTIVE
# (factor, long window, short window): both must burn the budget `factor` times faster than it lasts for 30 days; the
# short one lets the alert end soon after the trouble (the SRE workbook's numbers).
FAST: Final = ((14.4, "1h", "5m"), (6.0, "6h", "30m"))
SLOW: Final = ((3.0, "1d", "2h"), (1.0, "3d", "6h"))
MIN_FAILURES: Final = 3  # runs within the long window: one failure of two runs is no trend

SLOW_WINDOW: Final = "30m"  # what the latest p95 is taken over
SPEND_WINDOW: Final = "1h"


@dataclass(frozen=True, kw_only=True)
class Recording:
    record: str
    expr: str


def failing(window: str) -> str:
    """The recorded share of runs that fail; there is none while no run ends."""
    return f"agentobs:runs_failed:ratio_rate{window}"


def failures(window: str) -> str:
    """The recorded number of runs that failed."""
    return f"agentobs:runs_failed:increase{window}"


RUN_P95: Final = f"workflow:run_seconds:p95_{SLOW_WINDOW}"
SPEND: Final = f"agentobs:cost_usd:increase{SPEND_WINDOW}"


def _failing(window: str) -> Recording:
    failed = increase(names.RUNS, f'outcome="{FAILED}"', window=window, function="rate")
    ended = increase(names.RUNS, f'outcome!="{CANCELLED}"', window=window, function="rate")
    return Recording(record=failing(window), expr=f"{failed}\n/\n({ended} > 0)")


def _failures(window: str) -> Recording:
    return Recording(record=failures(window), expr=increase(names.RUNS, f'outcome="{FAILED}"', window=window))


def _run_p95() -> Recording:
    buckets = select(names.RUN_SECONDS, JOB, 'error_type=""', window=SLOW_WINDOW, part="_bucket")
    named = f'label_replace(rate({buckets}), "workflow", "$1", "gen_ai_workflow_name", "(.*)")'
    # Without runs it is not a number, which would spoil every average over it: `>= 0` leaves it out.
    return Recording(record=RUN_P95, expr=f"histogram_quantile(0.95, sum by (workflow, le) ({named})) >= 0")


# (group, evaluation interval or "" for Prometheus's own, rules). Windows of hours change little within a minute.
GROUPS: Final[tuple[tuple[str, str, tuple[Recording, ...]], ...]] = (
    (
        "agentobs-minutes",
        "",
        (
            *(_failing(window) for window in ("5m", "30m", "1h")),
            _failures("1h"),
            _run_p95(),
            Recording(record=SPEND, expr=increase(names.COST, window=SPEND_WINDOW)),
        ),
    ),
    (
        "agentobs-hours",
        "1m",
        (
            *(_failing(window) for window in ("2h", "6h", "1d", "3d")),
            *(_failures(window) for window in ("6h", "1d", "3d")),
        ),
    ),
)
