"""Overview: whether it is healthy."""

from __future__ import annotations

from agentobs.records import CANCELLED, FAILED, SUCCEEDED
from agentobs.telemetry import names
from dashboards.alert import RUNBOOKS_URL
from dashboards.board import FIRING, board, row
from dashboards.boards.queries import WORKFLOW, gauge, grown, per_hour, per_minute, quantile, rate, share, some
from dashboards.colours import BAD, GOOD, WARN
from dashboards.ids import UIDS, VARIABLES, Overview
from dashboards.ids import Workflow as WorkflowPanel
from dashboards.panels import (
    COUNT,
    PER_MINUTE,
    SECONDS,
    SHARE,
    TEXT,
    USD,
    Column,
    Face,
    Query,
    bars,
    coloured,
    lines,
    number,
    rows,
)
from dashboards.recording import SUCCESS_OBJECTIVE
from dashboards.thresholds import NO_PROGRESS, QUEUE_OLD

OF_RUN = 'gen_ai_workflow_name=~"$workflow"'
TO_WORKFLOW = f"/d/{UIDS[WorkflowPanel]}?var-workflow=${{__field.labels.workflow}}&${{__url_time_range}}"
BY = ("workflow",)
SUCCEEDED_RUNS = (names.RUNS, WORKFLOW, f'outcome="{SUCCEEDED}"')
WANTED_RUNS = (names.RUNS, WORKFLOW, f'outcome!="{CANCELLED}"')
OUTCOMES = (SUCCEEDED, FAILED, CANCELLED)


def made() -> str:
    return board(
        Overview,
        "Is it healthy: what fires, whether runs succeed, how long they take, what waits, what it costs.",
        ("workflow",),
        row(
            4,
            number(
                Face(
                    id=Overview.SUCCESS_NOW,
                    title="Success",
                    about=f"Share of the runs that ended and were not cancelled which succeeded in the time shown; "
                    f"below the objective of {SUCCESS_OBJECTIVE:.0%} see what fails on the Workflow board.",
                    unit=SHARE,
                    none="no run",
                ),
                Query(share(grown(*SUCCEEDED_RUNS), grown(*WANTED_RUNS))),
                (0, BAD),
                (SUCCESS_OBJECTIVE, WARN),
                (0.99, GOOD),
                decimals=1,
            ),
            number(
                Face(
                    id=Overview.RUNS_ENDED,
                    title="Runs ended",
                    about="Runs that ended in the time shown, with any outcome; none while runs are in flight or "
                    "queued means that nothing gets done: look at the oldest progress below.",
                    unit=COUNT,
                ),
                Query(grown(names.RUNS, WORKFLOW)),
                decimals=0,
            ),
            number(
                Face(
                    id=Overview.LATENCY_NOW,
                    title="p95 duration",
                    about="One run in 20 took longer from its creation to its end; when it grows, the Models board "
                    "tells whether retries or the model are slow.",
                    unit=SECONDS,
                    none="no run",
                ),
                Query(quantile(0.95, names.RUN_SECONDS, OF_RUN, whole=True)),
            ),
            number(
                Face(
                    id=Overview.IN_FLIGHT_NOW,
                    title="In flight",
                    about="Runs that are executed now, all processes together; 0 while runs are queued means that no "
                    "process takes them: see on the Service board whether it is up.",
                    unit=COUNT,
                ),
                Query(gauge("sum", names.RUNS_IN_FLIGHT, WORKFLOW)),
            ),
            number(
                Face(
                    id=Overview.QUEUED_NOW,
                    title="Queued",
                    about="Runs that wait for a process to take them; when it keeps growing, raise "
                    "AGENTOBS_MAX_RUNS_IN_FLIGHT or submit less.",
                    unit=COUNT,
                ),
                Query(f"sum ({gauge('max', names.RUNS_QUEUED, WORKFLOW, by=BY)})"),
            ),
            number(
                Face(
                    id=Overview.SPENT,
                    title="Spent",
                    about="What all attempts cost in the time shown, failed ones included; the Money board tells "
                    "which agent and model spent it.",
                    unit=USD,
                ),
                Query(grown(names.COST, WORKFLOW)),
            ),
        ),
        row(
            8,
            rows(
                Face(
                    id=Overview.FIRING,
                    title="Firing alerts",
                    about="What is wrong now: a click on an alert opens its runbook, which says what to do.",
                    unit=TEXT,
                    none="No alert is firing",
                ),
                Column(title="Alert", label="alertname", width=250, link=f"{RUNBOOKS_URL}/${{__value.raw}}.md"),
                Column(title="Severity", label="severity", width=90),
                *(Column(title=name.capitalize(), label=name) for name in VARIABLES),
                Column(query=f"max by (alertname, severity, {', '.join(VARIABLES)}) ({FIRING})"),
            ),
            coloured(
                bars(
                    Face(
                        id=Overview.RUN_RATE,
                        title="Runs ended, by outcome",
                        about="Red is runs that failed, grey those that somebody cancelled; where red grows the "
                        "Workflow board tells the error types.",
                        unit=PER_MINUTE,
                    ),
                    Query(some(per_minute(names.RUNS, WORKFLOW, by=("outcome",))), "{{outcome}}", exemplar=True),
                ),
                OUTCOMES,
            ),
            lines(
                Face(
                    id=Overview.RUN_SUCCESS,
                    title="Run success, by workflow",
                    about="Share of runs, cancelled ones aside, that succeeded; a workflow below the dashed objective "
                    "fails its users: click its line to see with which errors.",
                    unit=SHARE,
                ),
                Query(share(rate(*SUCCEEDED_RUNS, by=BY), rate(*WANTED_RUNS, by=BY)), "{{workflow}}", exemplar=True),
                limit=SUCCESS_OBJECTIVE,
                below=True,
                top=1,
                to=TO_WORKFLOW,
            ),
        ),
        row(
            8,
            coloured(
                lines(
                    Face(
                        id=Overview.RUN_LATENCY,
                        title="Duration of runs",
                        about="From a run's creation to its end, queueing included; when p95 leaves p50 behind some "
                        "runs hang or retry: click a dot to see such a run's trace.",
                        unit=SECONDS,
                    ),
                    *(
                        Query(quantile(q, names.RUN_SECONDS, OF_RUN), f"p{q * 100:.0f}", exemplar=q == 0.95)
                        for q in (0.5, 0.95)
                    ),
                ),
                ("p50", "p95"),
            ),
            lines(
                Face(
                    id=Overview.IN_FLIGHT,
                    title="In flight and queued",
                    about="A queue that grows beside a flat number in flight means that all places are taken: raise "
                    "AGENTOBS_MAX_RUNS_IN_FLIGHT or submit less.",
                    unit=COUNT,
                ),
                Query(gauge("sum", names.RUNS_IN_FLIGHT, WORKFLOW), "in flight"),
                Query(f"sum ({gauge('max', names.RUNS_QUEUED, WORKFLOW, by=BY)})", "queued"),
            ),
            lines(
                Face(
                    id=Overview.SPEND,
                    title="Spend per hour, by workflow",
                    about="What attempts cost, as a rate; a step up without more runs is a longer prompt, a loop or a "
                    "dearer model: see the Money board.",
                    unit=USD,
                ),
                Query(per_hour(names.COST, WORKFLOW, by=BY), "{{workflow}}", exemplar=True),
                to=TO_WORKFLOW,
            ),
        ),
        row(
            7,
            lines(
                Face(
                    id=Overview.QUEUE_AGE,
                    title="Oldest queued run",
                    about="How long a run has been waiting to be begun; at the dashed line it is an alert: see whether "
                    "the service is up and how many runs are in flight.",
                    unit=SECONDS,
                ),
                Query(gauge("max", names.OLDEST_QUEUED, WORKFLOW, by=BY), "{{workflow}}"),
                limit=QUEUE_OLD,
            ),
            lines(
                Face(
                    id=Overview.PROGRESS_AGE,
                    title="Oldest progress",
                    about="Longest time that a running run has committed nothing; beyond the dashed line it hangs: "
                    "find it with agentobs runs list and cancel or resume it.",
                    unit=SECONDS,
                ),
                Query(gauge("max", names.OLDEST_PROGRESS, WORKFLOW, by=BY), "{{workflow}}"),
                limit=NO_PROGRESS,
            ),
        ),
    )
