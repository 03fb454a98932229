"""Workflow: what becomes of one workflow's runs, where they take their time, where they fail."""

from __future__ import annotations

from agentobs.records import CANCELLED, ERROR_TYPES, FAILED, SUCCEEDED
from agentobs.telemetry import names
from dashboards.board import board, row
from dashboards.boards.queries import (
    WORKFLOW,
    grown,
    per_minute,
    quantile,
    rate,
    share,
    some,
)
from dashboards.colours import BAD, GOOD, WARN
from dashboards.ids import Workflow
from dashboards.panels import (
    COUNT,
    PER_MINUTE,
    RATIO,
    SECONDS,
    SHARE,
    TEXT,
    USD,
    Column,
    Face,
    JaegerSearch,
    Query,
    bars,
    coloured,
    heat,
    lines,
    number,
    rows,
    traces,
)
from dashboards.recording import SUCCESS_OBJECTIVE
from dashboards.thresholds import DEBATES_OPEN

OF_RUN = 'gen_ai_workflow_name=~"$workflow"'
OF_AGENT = 'gen_ai_agent_name=~"$agent"'
BY = ("workflow",)
STEP = ("kind", "name")
DEBATES = (names.DEBATE_ROUNDS, WORKFLOW)
OPEN_DEBATES = (*DEBATES, 'converged="false"')
FAILED_STEPS = (names.STEPS, WORKFLOW, f'outcome="{FAILED}"')


def made() -> str:
    return board(
        Workflow,
        "What becomes of a workflow's runs: how many, how long, which errors, which steps. Choose one above.",
        ("workflow", "agent"),
        row(
            4,
            number(
                Face(
                    id=Workflow.RUNS_ENDED,
                    title="Runs ended",
                    about="Runs that ended in the time shown, with any outcome; far fewer than usual means that "
                    "nobody submits or nothing gets done: see Queued on the Overview board.",
                    unit=COUNT,
                ),
                Query(grown(names.RUNS, WORKFLOW)),
                decimals=0,
            ),
            number(
                Face(
                    id=Workflow.SUCCESS_NOW,
                    title="Success",
                    about=f"Share of runs, cancelled ones aside, that succeeded in the time shown; below the objective "
                    f"of {SUCCESS_OBJECTIVE:.0%} the failures by error type say why.",
                    unit=SHARE,
                    none="no run",
                ),
                Query(
                    share(
                        grown(names.RUNS, WORKFLOW, f'outcome="{SUCCEEDED}"'),
                        grown(names.RUNS, WORKFLOW, f'outcome!="{CANCELLED}"'),
                    )
                ),
                (0, BAD),
                (SUCCESS_OBJECTIVE, WARN),
                (0.99, GOOD),
                decimals=1,
            ),
            number(
                Face(
                    id=Workflow.LATENCY_NOW,
                    title="p95 duration",
                    about="One run in 20 took longer in the time shown; when it grows, compare the agents' calls.",
                    unit=SECONDS,
                    none="no run",
                ),
                Query(quantile(0.95, names.RUN_SECONDS, OF_RUN, whole=True)),
            ),
            number(
                Face(
                    id=Workflow.COST_PER_RUN,
                    title="Cost per run",
                    about="What was spent in the time shown by the number of runs that ended in it; when it grows "
                    "without a change of the workflow, look for retries and longer inputs on the Money board.",
                    unit=USD,
                    none="no run",
                ),
                Query(share(grown(names.COST, WORKFLOW), grown(names.RUNS, WORKFLOW))),
            ),
        ),
        row(
            8,
            coloured(
                bars(
                    Face(
                        id=Workflow.RUNS,
                        title="Runs ended, by outcome",
                        about="Red is runs that failed, grey those that somebody cancelled; where red grows, the error "
                        "types beside it say why.",
                        unit=PER_MINUTE,
                    ),
                    Query(some(per_minute(names.RUNS, WORKFLOW, by=("outcome",))), "{{outcome}}", exemplar=True),
                ),
                (SUCCEEDED, FAILED, CANCELLED),
            ),
            coloured(
                bars(
                    Face(
                        id=Workflow.FAILURES,
                        title="Runs failed, by error type",
                        about="What ended the runs that failed: orange is the provider's doing, purple the "
                        "network's, red a wrong request, blue an answer that cannot be used, pink our own code or "
                        "limits; click a dot for the trace of such a run.",
                        unit=PER_MINUTE,
                        none="No run failed",
                    ),
                    Query(
                        some(per_minute(names.RUNS, WORKFLOW, f'outcome="{FAILED}"', by=("error_type",))),
                        "{{error_type}}",
                        exemplar=True,
                    ),
                ),
                ERROR_TYPES,
            ),
        ),
        row(
            9,
            heat(
                Face(
                    id=Workflow.DURATION,
                    title="Duration of runs",
                    about="How many runs took how long; a second band above the usual one is runs that retry or hang: "
                    "click a dot in it to see such a run's trace.",
                    unit=SECONDS,
                    none="No run ended",
                ),
                Query(per_minute(names.RUN_SECONDS, OF_RUN, by=("le",), part="_bucket"), "{{le}}", exemplar=True),
                "runs a minute",
            ),
            lines(
                Face(
                    id=Workflow.AGENT_CALLS,
                    title="p95 of agent calls, by agent",
                    about="One call in 20 takes longer, retries included, in all workflows that use the agent; the "
                    "agent whose line grows is what makes runs slow: see its model on the Models board.",
                    unit=SECONDS,
                ),
                Query(
                    quantile(0.95, names.AGENT_SECONDS, OF_AGENT, by=("gen_ai_agent_name",)),
                    "{{gen_ai_agent_name}}",
                    exemplar=True,
                ),
            ),
        ),
        row(
            9,
            rows(
                Face(
                    id=Workflow.STEPS,
                    title="Steps",
                    about="Each step of the workflow in the time shown; the one with the highest share failed is where "
                    "to look first, and one reused often was saved by recovery or resume.",
                    unit=COUNT,
                    none="No step ended",
                ),
                Column(title="Step", label="name"),
                Column(title="Kind", label="kind", width=90),
                Column(title="Ended", query=some(grown(names.STEPS, WORKFLOW, by=STEP)), decimals=0, width=90),
                Column(
                    title="Failed",
                    query=share(grown(*FAILED_STEPS, by=STEP), grown(names.STEPS, WORKFLOW, by=STEP)),
                    unit=SHARE,
                    decimals=1,
                    width=90,
                ),
                Column(
                    title="Reused", query=some(grown(names.STEPS_REUSED, WORKFLOW, by=("name",))), decimals=0, width=90
                ),
                sort="Failed",
            ),
            traces(
                Face(
                    id=Workflow.FAILED_TRACES,
                    title="Failed traces",
                    about="The newest traces of any workflow with an error in them, be it one that a retry made good; "
                    "click an id to see which attempt failed and how.",
                    unit=TEXT,
                    none="No trace with an error",
                ),
                JaegerSearch("A", service=names.SCOPE, tags="error=true", limit=50),
            ),
            widths=(10, 14),
        ),
        row(
            8,
            heat(
                Face(
                    id=Workflow.DEBATE_ROUNDS,
                    title="Debate rounds",
                    about="How many debates took how many rounds, each of them paid; when most are near the limit of "
                    "the workflow, click a dot to see in its trace what the critic does not accept.",
                    unit=COUNT,
                    none="No debate ended",
                ),
                Query(per_minute(*DEBATES, by=("le",), part="_bucket"), "{{le}}", exemplar=True),
                "debates a minute",
            ),
            lines(
                Face(
                    id=Workflow.OPEN_DEBATES,
                    title="Debates without agreement",
                    about="Share of debates that ended by their last round; above the dashed line most of their "
                    "rounds were paid for nothing: look at what the critic objects to in such a run.",
                    unit=SHARE,
                    none="No debate",
                ),
                Query(
                    share(rate(*OPEN_DEBATES, by=BY, part="_count"), rate(*DEBATES, by=BY, part="_count")),
                    "{{workflow}}",
                ),
                limit=DEBATES_OPEN,
                top=1,
            ),
            coloured(
                lines(
                    Face(
                        id=Workflow.STRAGGLER,
                        title="Stragglers: slowest parallel branch over the median one",
                        about="At 1 all branches take the same time; much above it the run waits for its slowest "
                        "branch: give that one less to do, a faster model or a timeout.",
                        unit=RATIO,
                        none="No parallel branches",
                    ),
                    *(
                        Query(quantile(q, names.STRAGGLER, WORKFLOW), f"p{q * 100:.0f}", exemplar=q == 0.95)
                        for q in (0.5, 0.95)
                    ),
                ),
                ("p50", "p95"),
            ),
        ),
    )
