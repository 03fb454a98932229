"""What the drill does to which alert. Data; a test holds that every alert of dashboards/alerts.py is here, once.

Each scenario marks its own requests, so that a fault befalls these alone and not what others run on the same stack;
only `rate limit` takes all requests of a model, which it does no harm. Most faults leave the runs themselves alive, so
that one alert is told from another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentobs.examples.article import editor, writer
from agentobs.examples.release_notes import critic
from agentobs.examples.report import lead
from agentobs.examples.triage import sorter

Rule = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An alert, and the labels that tell it from one of the same name about something else."""

    alert: str
    labels: Mapping[str, str] = field(default_factory=dict)
    holds_s: int = 0
    """How long its condition has to hold (`for`)."""

    @property
    def about(self) -> str:
        return " ".join(self.labels.values())


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Runs of a workflow, `per_s` of them; the input is made from their number, so that no two are alike.

    Where other traffic outweighs them the rate doubles each minute, up to `most` times.
    """

    workflow: str
    per_s: float
    input: Callable[[int], Mapping[str, Any]]
    most: int = 8


@dataclass(frozen=True, kw_only=True)
class Scenario:
    name: str
    rules: tuple[Rule, ...]
    faulty: Traffic
    healthy: Traffic
    """Sent once the fault is gone: an alert on a share ends when enough goes well, or when its window is over."""
    expected: tuple[Expected, ...]
    related: tuple[Expected, ...] = ()
    """What the same fault may set off too."""
    slow: bool = False

    @property
    def holds_s(self) -> int:
        return max(one.holds_s for one in self.expected)


def _mark(scenario: str) -> str:
    return f"agentobs-drill:{scenario}"


def _rule(fault: str, contains: str = "", model: str = "", **options: Any) -> Rule:
    match = {"contains": contains, "model": model}
    return {"fault": fault, "match": {key: value for key, value in match.items() if value}, **options}


def _tickets(good: int, bad: int = 0, mark: str = "") -> Callable[[int], Mapping[str, Any]]:
    def made(number: int) -> Mapping[str, Any]:
        marked = [f"{mark} {number}.{at}: nothing works" for at in range(bad)]
        return {"tickets": [*marked, *(f"Ticket {number}.{at}: where is my invoice?" for at in range(good))]}

    return made


def _notes(version: str, rounds: int) -> Callable[[int], Mapping[str, Any]]:
    return lambda number: {"version": version, "changes": [f"A drill, number {number}."], "rounds": rounds}


def _question(text: str, padding: int = 0) -> Callable[[int], Mapping[str, Any]]:
    # Words, not one letter: a prompt's price is that of its length.
    words = "Measured twice. " * (padding // 16)
    return lambda number: {"question": f"{text} {number}? {words}".rstrip(), "max_tasks": 1}


# At these rates an alert fires with few requests on a stack without other traffic; where there is more, they grow.
SORTED: Final = Traffic(workflow="triage", per_s=1, input=_tickets(20))
SIMPLE: Final = Traffic(workflow="triage", per_s=2, input=_tickets(1))
REPORTS: Final = Traffic(workflow="report", per_s=4, input=_question("What is a drill for"))
ARTICLES: Final = Traffic(workflow="article", per_s=0.2, input=lambda number: {"goal": f"Drills, part {number}"})
BIG: Final = 400_000  # characters: 100,000 tokens, so that few requests cost enough

BURNING: Final = Expected(alert="AgentobsRunSuccessBurnFast")

RUNS_FAIL: Final = Scenario(
    name="runs fail",
    rules=(_rule("bad_request", _mark("runs-fail")),),
    # A run that fails at its first request costs little, and there may be hours of good ones to outweigh.
    faulty=Traffic(workflow="triage", per_s=0.5, input=_tickets(0, 1, _mark("runs-fail")), most=32),
    healthy=SIMPLE,
    expected=(BURNING, Expected(alert="AgentobsWorkflowFailing", labels={"workflow": "triage"}, holds_s=60)),
)
REFUSALS: Final = Scenario(
    name="refusals",
    rules=(_rule("refusal", _mark("refusals")),),
    faulty=Traffic(workflow="triage", per_s=0.5, input=_tickets(2, 1, _mark("refusals"))),
    healthy=SORTED,
    expected=(Expected(alert="AgentobsRefusalsRising", labels={"workflow": "triage", "agent": sorter.name}),),
)
STREAMS_CUT: Final = Scenario(
    name="streams cut",
    # Every second: a turn has three attempts, and hardly a run fails.
    rules=(_rule("cut_stream", f"Write about: {_mark('streams-cut')}", probability=0.5),),
    faulty=Traffic(workflow="article", per_s=1, input=lambda number: {"goal": f"{_mark('streams-cut')} {number}"}),
    healthy=SORTED,
    expected=(Expected(alert="AgentobsStreamsCut", labels={"model": writer.model}),),
)
OVERLOADED: Final = Scenario(
    name="overloaded",
    # Not always: the retries are to be more than the answers, and most runs are to succeed.
    rules=(_rule("overloaded", _mark("overloaded"), lead.model, probability=0.6),),
    faulty=Traffic(workflow="report", per_s=0.5, input=_question(_mark("overloaded"))),
    healthy=REPORTS,
    expected=(
        Expected(alert="AgentobsProviderOverloaded", labels={"model": lead.model}, holds_s=120),
        Expected(alert="AgentobsRetryStorm", labels={"workflow": "report", "agent": lead.name}, holds_s=120),
    ),
    related=(Expected(alert="AgentobsWorkflowFailing", labels={"workflow": "report"}),),
)
RATE_LIMIT: Final = Scenario(
    name="rate limit",
    rules=(_rule("low_limits", model=editor.model, left=0.02),),
    faulty=ARTICLES,
    healthy=ARTICLES,
    expected=(Expected(alert="AgentobsRateLimitSaturated", labels={"model": editor.model}, holds_s=120),),
)
MONEY: Final = Scenario(
    name="money",
    rules=(_rule("max_tokens", _mark("money"), lead.model),),
    faulty=Traffic(workflow="report", per_s=0.02, input=_question(_mark("money"), BIG)),
    healthy=Traffic(workflow="report", per_s=0.4, input=_question("What does a drill cost", BIG)),
    expected=(Expected(alert="AgentobsMoneyOnFailures", labels={"workflow": "report"}, holds_s=300),),
    related=(
        Expected(alert="AgentobsWorkflowFailing", labels={"workflow": "report"}),
        BURNING,
        Expected(alert="AgentobsSpendHigh"),
    ),
    slow=True,
)
DEBATES: Final = Scenario(
    name="debates",
    rules=(
        # Only the critic's prompt begins so; the whole answer is a verdict that fits.
        _rule(
            "misfit",
            f"Task: Release notes for version {_mark('debates')}",
            critic.model,
            text=json.dumps({"accepted": False, "critique": "Not yet."}),
        ),
    ),
    faulty=Traffic(workflow="release_notes", per_s=0.2, input=_notes(_mark("debates"), rounds=1)),
    healthy=Traffic(workflow="release_notes", per_s=1, input=_notes("2.0.0", rounds=5)),
    expected=(Expected(alert="AgentobsDebateNotConverging", labels={"workflow": "release_notes"}, holds_s=300),),
    slow=True,
)

# One wave after the other; those of one wave at once: each is about another workflow, agent or model. Failing runs are
# weighed against all runs, so they come first and alone. The others' good requests would drown what comes after them.
WAVES: Final[tuple[tuple[Scenario, ...], ...]] = (
    (RUNS_FAIL,),
    (REFUSALS, STREAMS_CUT, OVERLOADED, RATE_LIMIT),
    (MONEY, DEBATES),
)
SCENARIOS: Final = tuple(scenario for wave in WAVES for scenario in wave)

# Its windows are days: what failed in a drill can set it off later, and for hours.
AFTERWARDS: Final = "AgentobsRunSuccessBurnSlow"
ALWAYS: Final = "AgentobsWatchdog"

NOT_PROVOKED: Final[Mapping[str, str]] = {
    AFTERWARDS: "its windows are days long: a drill that sets it off would keep it firing for hours",
    "AgentobsRunsSlow": "it compares with the day before, and slower than a minute is slower than a drill can wait for",
    "AgentobsNoProgress": "an attempt ends at its agent's timeout (10 minutes), before the 15 that it waits for",
    "AgentobsQueueOld": "the service's places would have to be full for 10 minutes, so that nobody's runs are begun",
    "AgentobsRecoveries": "the service would have to be killed several times, which is not the simulator's to do",
    "AgentobsSpendHigh": "it compares with the stack's own last 7 days, whatever these cost",
    "AgentobsModelUnpriced": "all models of the shipped workflows have a price",
    "AgentobsAccountingDrift": "the journal would have to be falsified",
    "AgentobsSpansPending": "the Collector would have to be stopped for 7 minutes, which is not the simulator's to do",
    "AgentobsSpansRejected": "the trace backend would have to refuse spans, which is not the simulator's to do",
    "AgentobsJournalErrors": "the journal's disk would have to fail",
    "AgentobsJournalLarge": "10 GiB would have to be written into the journal",
    "AgentobsDiskLow": "the journal's disk would have to be filled",
    "AgentobsDown": "the service would have to be stopped; stop it for 2 minutes and see",
    "AgentobsMetricsAbsent": "Prometheus would have to lose the service from its configuration",
    ALWAYS: "it fires always: whoever receives it raises the alarm when it stops",
}


def provoked() -> tuple[str, ...]:
    return tuple(one.alert for scenario in SCENARIOS for one in scenario.expected)


def chosen(only: Sequence[str], *, slow: bool) -> tuple[tuple[Scenario, ...], ...]:
    """The waves with what is wanted of them: named alerts, or all but the slow ones (with `slow` these too)."""

    def wanted(scenario: Scenario) -> bool:
        if only:
            return any(one.alert in only for one in scenario.expected)
        return slow or not scenario.slow

    waves = (tuple(scenario for scenario in wave if wanted(scenario)) for wave in WAVES)
    return tuple(wave for wave in waves if wave)


def workflows(waves: Iterable[Iterable[Scenario]]) -> frozenset[str]:
    """Which ones the service has to have."""
    return frozenset(
        traffic.workflow for wave in waves for scenario in wave for traffic in (scenario.faulty, scenario.healthy)
    )
