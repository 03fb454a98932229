"""The one definition of every alert: Prometheus's rules and Grafana's are both generated from it."""

from __future__ import annotations

from typing import Final

from agentobs.records import CANCELLED, FAILED, OK, RECOVERED, SUCCEEDED
from agentobs.runtime.retry import RETRYABLE
from agentobs.telemetry import names
from dashboards import recording, thresholds
from dashboards.alert import Alert
from dashboards.ids import Models, Money, Overview, Service, Workflow
from dashboards.promql import JOB, aggregate, increase, number, one_of, select
from dashboards.recording import ERROR_BUDGET, FAST, MIN_FAILURES, RUN_P95, SLOW, SPEND, SUCCESS_OBJECTIVE

WHO: Final = ("workflow", "agent", "model")
OF_WORKFLOW: Final = ("workflow",)
OF_MODEL: Final = ("model",)


def _burn(windows: tuple[tuple[float, str, str], ...]) -> str:
    """Too fast in a long window and in its short one; the value is the share of runs that fail in the long one."""
    either = "\nor\n".join(
        f"({recording.failing(long)} > {number(factor * ERROR_BUDGET)}"
        f" and {recording.failing(short)} > {number(factor * ERROR_BUDGET)}"
        f" and {recording.failures(long)} >= {MIN_FAILURES})"
        for factor, long, short in windows
    )
    return f"max (\n{either}\n)"  # without the name of the window that it was: Grafana would take it for a label


def _share(part: str, whole: str) -> str:
    """Guarded by a least number of the part: so the whole is above 0."""
    return f"{part}\n/\n{whole}"


def _worst(metric: names.Metric, *by: str) -> str:
    return f"{aggregate('max', by)} ({select(metric)})"


FAILED_RUNS: Final = increase(names.RUNS, f'outcome="{FAILED}"', window="15m", by=OF_WORKFLOW)
ENDED_RUNS: Final = increase(names.RUNS, f'outcome!="{CANCELLED}"', window="15m", by=OF_WORKFLOW)
SUCCEEDED_RUNS: Final = increase(names.RUNS, f'outcome="{SUCCEEDED}"', window="30m", by=OF_WORKFLOW)
RETRIED: Final = one_of("outcome", (outcome for outcome in names.ATTEMPT_OUTCOMES if outcome in RETRYABLE))
RETRIES: Final = increase(names.ATTEMPTS, RETRIED, window="10m", by=WHO)
ANSWERS: Final = increase(names.ATTEMPTS, f'outcome="{OK}"', window="10m", by=WHO)
PROVIDERS: Final = one_of("outcome", ("overloaded", "rate_limited", "server_error"))
FAULTS: Final = increase(names.ATTEMPTS, PROVIDERS, window="5m", by=OF_MODEL)
ATTEMPTS: Final = increase(names.ATTEMPTS, window="5m", by=OF_MODEL)
WASTED: Final = increase(names.COST, f'outcome!="{OK}"', window="1h", by=OF_WORKFLOW)
OPEN: Final = increase(names.DEBATE_ROUNDS, 'converged="false"', window="1h", by=OF_WORKFLOW, part="_count")
REFUSALS: Final = increase(names.ATTEMPTS, 'outcome="refusal"', window="1h", by=WHO)
CUTS: Final = increase(
    names.ATTEMPTS, one_of("outcome", ("stream_truncated", "stream_error")), window="30m", by=OF_MODEL
)
DISK: Final = f"min by (instance) ({select(names.DISK_FREE)})"
DISK_THEN: Final = (
    f"min by (instance) (predict_linear({select(names.DISK_FREE, window='1h')}, {thresholds.DISK_HORIZON}))"
)
# What is written at a first start, in minutes, says nothing of the hours to come.
DISK_BEFORE: Final = f"min by (instance) ({select(names.DISK_FREE)} offset 30m)"
RECOVERING: Final = increase(names.EXECUTIONS, f'reason="{RECOVERED}"', window="1h", by=OF_WORKFLOW, function="changes")
UP: Final = f"up{{{JOB}}}"

ALERTS: Final = (
    # ---- runs ----
    Alert(
        name="AgentobsRunSuccessBurnFast",
        severity="critical",
        expr=_burn(FAST),
        threshold=None,
        unit="ratio",
        summary="{value} of runs fail: at this rate the failures that an objective of "
        f"{SUCCESS_OBJECTIVE:.0%} allows in 30 days are used up within 5 days",
        means="So many runs fail that their users notice now.",
        panel=Overview.RUN_SUCCESS,
    ),
    Alert(
        name="AgentobsRunSuccessBurnSlow",
        severity="warning",
        expr=_burn(SLOW),
        threshold=None,
        unit="ratio",
        for_="5m",
        summary="{value} of runs have failed lately: if it stays so, the objective of "
        f"{SUCCESS_OBJECTIVE:.0%} in 30 days is missed",
        means="Runs fail steadily: not enough to wake anyone, too many for the objective.",
        panel=Overview.RUN_SUCCESS,
    ),
    Alert(
        name="AgentobsWorkflowFailing",
        severity="warning",
        expr=_share(FAILED_RUNS, ENDED_RUNS),
        threshold=thresholds.WORKFLOW_FAILING,
        guard=f"{FAILED_RUNS} >= {MIN_FAILURES}",
        by=OF_WORKFLOW,
        unit="ratio",
        for_="1m",
        summary="{value} of the runs of workflow {workflow} failed in the last 15 minutes",
        means="One workflow fails; in the success of all runs the others may hide it.",
        panel=Workflow.FAILURES,
    ),
    Alert(
        name="AgentobsRunsSlow",
        severity="warning",
        expr=f"max by (workflow) ({RUN_P95})",
        threshold=thresholds.RUN_SLOW_FLOOR,
        # Its own day before is the measure: seconds for one workflow, an hour for another. The last hour is left out of
        # it, so that slowness does not become its own measure at once. Silent while there is nothing before.
        guard=f"{RUN_P95} > {thresholds.RUN_SLOW_FACTOR} * avg_over_time({RUN_P95}[1d] offset 1h)\n"
        f"and {SUCCEEDED_RUNS} >= {thresholds.MIN_RUNS}",
        by=OF_WORKFLOW,
        unit="seconds",
        for_="5m",
        summary="one in 20 runs of workflow {workflow} takes longer than {value}, "
        f"more than {thresholds.RUN_SLOW_FACTOR} times as long as the day before",
        means="Runs succeed, and take much longer than this workflow usually does.",
        panel=Workflow.DURATION,
    ),
    Alert(
        name="AgentobsNoProgress",
        severity="critical",
        expr=_worst(names.OLDEST_PROGRESS, "workflow"),
        threshold=thresholds.NO_PROGRESS,
        by=OF_WORKFLOW,
        unit="seconds",
        for_="1m",
        summary="a running run of workflow {workflow} has committed nothing for {value}",
        means="A run is held to be running and does nothing: it hangs, or its model does.",
        panel=Overview.PROGRESS_AGE,
    ),
    Alert(
        name="AgentobsQueueOld",
        severity="critical",
        expr=_worst(names.OLDEST_QUEUED, "workflow"),
        threshold=thresholds.QUEUE_OLD,
        by=OF_WORKFLOW,
        unit="seconds",
        for_="1m",
        summary="a run of workflow {workflow} has been waiting for {value} to be begun",
        means="Runs are accepted faster than they are worked on, or nobody works on them.",
        panel=Overview.QUEUE_AGE,
    ),
    Alert(
        name="AgentobsRecoveries",
        severity="warning",
        # Occasions, not runs: one death recovers all runs that were in flight.
        expr=RECOVERING,
        threshold=thresholds.OCCASIONS,
        by=OF_WORKFLOW,
        summary="runs of workflow {workflow} were taken over from a dead or drained owner on {value} occasions within "
        "an hour",
        means="Processes keep dying while they run this workflow; a run that this happens to too often is parked.",
        panel=Service.RECOVERIES,
    ),
    Alert(
        name="AgentobsDebateNotConverging",
        severity="warning",
        expr=_share(OPEN, increase(names.DEBATE_ROUNDS, window="1h", by=OF_WORKFLOW, part="_count")),
        threshold=thresholds.DEBATES_OPEN,
        guard=f"{OPEN} >= {MIN_FAILURES}",
        by=OF_WORKFLOW,
        unit="ratio",
        for_="5m",
        summary="{value} of the debates of workflow {workflow} in the last hour ended without agreement",
        means="The critic does not accept what the author writes: rounds are paid, and their result is not accepted.",
        panel=Workflow.OPEN_DEBATES,
    ),
    # ---- models ----
    Alert(
        name="AgentobsRetryStorm",
        severity="warning",
        # Without any success the retries are counted against one.
        expr=f"{RETRIES}\n/\nclamp_min({ANSWERS}, 1)",
        threshold=thresholds.RETRIES_PER_SUCCESS,
        guard=f"{RETRIES} >= {thresholds.MIN_RETRIES}",
        by=WHO,
        unit="decimal",
        for_="2m",
        summary="agent {agent} of workflow {workflow} needs {value} failed requests to {model} for each that succeeds",
        means="Requests to the model fail and are sent again, so that runs take longer and hit limits.",
        panel=Models.RETRIES,
    ),
    Alert(
        name="AgentobsProviderOverloaded",
        severity="warning",
        expr=_share(FAULTS, ATTEMPTS),
        threshold=thresholds.PROVIDER_FAILING,
        guard=f"{FAULTS} >= {thresholds.MIN_FAULTS}",
        by=OF_MODEL,
        unit="ratio",
        for_="2m",
        summary="{value} of the requests to {model} in the last 5 minutes were refused as overloaded or rate limited, "
        "or failed at the provider",
        means="The provider cannot or will not serve this model now.",
        panel=Models.ATTEMPTS,
    ),
    Alert(
        name="AgentobsRateLimitSaturated",
        severity="warning",
        # The gauge is what the latest answer told: without requests it says nothing of now.
        expr=f"min by (model, kind) ({select(names.RATE_LIMIT)})\nand on (model) ({ATTEMPTS} > 0)",
        op="<",
        threshold=thresholds.RATE_LIMIT_LEFT,
        by=("model", "kind"),
        unit="ratio",
        for_="2m",
        summary="{value} of the rate limit for {kind} of {model} is left",
        means="A burst more and the provider answers 429.",
        panel=Models.RATE_LIMIT,
    ),
    Alert(
        name="AgentobsRefusalsRising",
        severity="warning",
        expr=_share(REFUSALS, increase(names.ATTEMPTS, window="1h", by=WHO)),
        threshold=thresholds.REFUSED,
        guard=f"{REFUSALS} >= {MIN_FAILURES}",
        by=WHO,
        unit="ratio",
        summary="{model} refused {value} of the requests of agent {agent} of workflow {workflow} in the last hour",
        means="The model refuses what this agent asks; a refusal is paid and not tried again.",
        panel=Models.REFUSALS,
    ),
    Alert(
        name="AgentobsStreamsCut",
        severity="warning",
        expr=_share(CUTS, increase(names.ATTEMPTS, window="30m", by=OF_MODEL)),
        threshold=thresholds.STREAMS_CUT,
        guard=f"{CUTS} >= {MIN_FAILURES}",
        by=OF_MODEL,
        unit="ratio",
        summary="{value} of the requests to {model} in the last 30 minutes broke off in the middle of the answer",
        means="Answers break off on their way: what came of them is paid, and they are asked for again.",
        panel=Models.CUT_STREAMS,
    ),
    # ---- money ----
    Alert(
        name="AgentobsSpendHigh",
        severity="warning",
        expr=f"max ({SPEND})",
        threshold=thresholds.SPEND_FLOOR,
        # Its own busy hour of the week before (an average would call each working day high), the last hour left out.
        # Silent until there is a whole hour to compare with: the first one's sum grows from nothing.
        guard=f"{SPEND} > {thresholds.SPEND_FACTOR} * quantile_over_time(0.95, {SPEND}[7d] offset 1h)\n"
        f"and {SPEND} offset 2h",
        unit="decimal",
        for_="5m",
        summary="{value} US dollars were spent in the last hour, "
        f"more than {thresholds.SPEND_FACTOR} times what a busy hour of the last 7 days cost",
        means="More is spent than usual: more runs, longer prompts, a loop, or a dearer model.",
        panel=Money.SPEND_RATE,
    ),
    Alert(
        name="AgentobsMoneyOnFailures",
        severity="warning",
        expr=_share(WASTED, increase(names.COST, window="1h", by=OF_WORKFLOW)),
        threshold=thresholds.MONEY_ON_FAILURES,
        guard=f"{WASTED} > {thresholds.WASTED_FLOOR}",
        by=OF_WORKFLOW,
        unit="ratio",
        for_="5m",
        summary="{value} of what workflow {workflow} spent in the last hour went into attempts that failed",
        means="Answers are paid and cannot be used: cut, refused, or too long.",
        panel=Money.WASTED,
    ),
    Alert(
        name="AgentobsModelUnpriced",
        severity="warning",
        expr=increase(names.UNPRICED, window="1h", by=OF_MODEL),
        threshold=0,
        by=OF_MODEL,
        summary="requests to {model} in the last hour that have no known price: {value}",
        means="What this model costs is missing in every sum of money, and in the alerts on them.",
        panel=Money.UNPRICED,
    ),
    Alert(
        name="AgentobsAccountingDrift",
        severity="warning",
        expr=_worst(names.DRIFT, "kind"),
        threshold=0,
        by=("kind",),
        summary="differences of kind {kind} that the last audit found: {value}",
        means="The journal and what it is held against must be equal, and are not.",
        panel=Money.DRIFT,
    ),
    # ---- the service ----
    Alert(
        name="AgentobsSpansPending",
        severity="warning",
        expr=_worst(names.SPANS_OLDEST),
        threshold=thresholds.SPANS_OLD,
        unit="seconds",
        for_="2m",
        summary="a span has been waiting for {value} to be delivered",
        means="Traces arrive late; none is lost while the journal stands.",
        panel=Service.SPANS_AGE,
    ),
    Alert(
        name="AgentobsSpansRejected",
        severity="warning",
        expr=increase(names.SPANS_EXPORTED, 'outcome="rejected"', window="1h"),
        threshold=0,
        summary="spans that the trace backend refused for good in the last hour: {value}",
        means="The backend will not take these spans: they are missing in its traces, and stand in the journal.",
        panel=Service.EXPORTS,
    ),
    Alert(
        name="AgentobsJournalErrors",
        severity="critical",
        expr=increase(names.JOURNAL_ERRORS, window="10m", by=("instance",)),
        threshold=0,
        by=("instance",),
        summary="commits to the journal that failed on {instance} in the last 10 minutes: {value}",
        means="The journal cannot be written: no new attempt starts until it can.",
        panel=Service.JOURNAL_ERRORS,
    ),
    Alert(
        name="AgentobsJournalLarge",
        severity="warning",
        expr=_worst(names.JOURNAL_BYTES),
        threshold=thresholds.JOURNAL_LARGE,
        unit="bytes",
        for_="5m",
        summary="the journal has grown to {value}B",
        means="Backups, migrations and a restart take longer with its size.",
        panel=Service.JOURNAL_SIZE,
    ),
    Alert(
        name="AgentobsDiskLow",
        severity="critical",
        expr=f"({DISK} < {thresholds.DISK_LOW})\nor\n({DISK} and {DISK_THEN} < 0 and {DISK_BEFORE})",
        threshold=None,
        by=("instance",),
        unit="bytes",
        for_="2m",
        summary="{value}B are free on the journal's disk of {instance}, and it may be full within "
        f"{thresholds.DISK_HORIZON // 3600} hours",
        means="When the disk is full nothing can be committed, and no new attempt starts.",
        panel=Service.DISK_FREE,
    ),
    Alert(
        name="AgentobsDown",
        severity="critical",
        expr=f"min by (instance) ({UP})",
        op="<",
        threshold=1,
        by=("instance",),
        for_="1m",
        summary="{instance} does not answer Prometheus",
        means="The process is dead, hangs, cannot be reached, or refuses the key that Prometheus sends.",
        panel=Service.UP,
    ),
    Alert(
        name="AgentobsMetricsAbsent",
        severity="critical",
        # No target at all, or one that answers with something else; a target that does not answer is AgentobsDown.
        expr=f"absent({select(names.BUILD_INFO, JOB)}) unless on () max ({UP}) == 0",
        threshold=None,
        by=("job",),
        for_="2m",
        summary="there are no metrics of agentobs: nothing that they would tell can be alerted on",
        means="Prometheus does not know the service, gets something else from it, or does not answer itself.",
        panel=Service.UP,
        on_error="Alerting",
    ),
    Alert(
        name="AgentobsWatchdog",
        severity="none",
        expr="vector(1)",
        threshold=None,
        summary="alerts are evaluated and sent: this one fires always, and its silence is the alarm",
        means="Send it to a service that raises the alarm when it stops.",
        panel=Overview.FIRING,
    ),
)
