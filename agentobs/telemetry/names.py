"""Every name that telemetry shows: spans, attributes, metrics, log events. Data only.

The `gen_ai.*` names are those of open-telemetry/semantic-conventions-genai (commit 024a4f94), written out here
because the released semantic-conventions package is frozen at an older set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from agentobs.drift import DRIFT_KINDS
from agentobs.records import ERROR_TYPES, NS, OK, PICO

SCOPE: Final = "agentobs"  # instrumentation scope; without a version, since any process may export any span

# ---- spans: the first word of their names, also gen_ai.operation.name where there is one ----

INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
STEP: Final = "step"
POST: Final = "POST"

# ---- attributes ----

OPERATION: Final = "gen_ai.operation.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
AGENT_NAME: Final = "gen_ai.agent.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_REASONING: Final = "gen_ai.request.reasoning.level"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESEND: Final = "http.request.resend_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL: Final = "url.full"

RUN_ID: Final = "agentobs.run.id"
WORKFLOW: Final = "agentobs.workflow"
VERSION: Final = "agentobs.version"
WORKFLOW_VERSION: Final = "agentobs.workflow.version"
EXECUTION_NUMBER: Final = "agentobs.execution.number"
EXECUTION_REASON: Final = "agentobs.execution.reason"
STEP_NUMBER: Final = "agentobs.step.number"
ATTEMPT_NUMBER: Final = "agentobs.attempt.number"
RETRY_WAIT: Final = "agentobs.retry.wait_s"
REQUEST_ID: Final = "agentobs.request_id"  # the provider's
TOKENS: Final = "agentobs.tokens."  # + one of TOKEN_KINDS
USAGE: Final = "agentobs.usage"  # exact partial unknown
COST_USD: Final = "agentobs.cost_usd"  # a double; round(value * 1e12) is the journal's integer

TOKEN_KINDS: Final = ("input_uncached", "output", "cache_read", "cache_write")

# Providers by the conventions' word; others are given as they are. On Foundry Anthropic serves the models itself, and
# the conventions' names for Azure are those of other APIs: the SDK's own spans say anthropic too.
PROVIDER_NAMES: Final = {"bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai", "foundry": "anthropic"}

# Stop reasons of the Messages API by the conventions' word; others are given as they are.
FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_call",
}
FINISH_MISSING: Final = "error"  # a reason was due and never came: a stream that was cut

# ---- metrics ----

SpanOf: TypeAlias = Literal["run", "execution", "step", "turn", "attempt", ""]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. A counter shows its integer total over `scale`; its exemplars point at spans of kind `span`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    scale: int = 1
    span: SpanOf = ""
    buckets: tuple[float, ...] = ()


# How to combine processes.
_SUM: Final = "Processes: sum."
_MAX: Final = "Processes: max."
_MIN: Final = "Processes: min."


def _counter(name: str, labels: str, text: str, *, scale: int = 1, span: SpanOf = "") -> Metric:
    help_ = f"{text} {_SUM}"
    return Metric(name=name, kind="counter", help=help_, labels=tuple(labels.split()), scale=scale, span=span)


def _gauge(name: str, labels: str, text: str) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=tuple(labels.split()))


def _histogram(name: str, labels: str, text: str, buckets: tuple[float, ...], span: SpanOf = "") -> Metric:
    help_ = f"{text} {_SUM}"
    return Metric(name=name, kind="histogram", help=help_, labels=tuple(labels.split()), buckets=buckets, span=span)


_AGENT: Final = "workflow agent model"
_INFERENCE: Final = "gen_ai_operation_name gen_ai_provider_name gen_ai_request_model"
_USAGE: Final = f"{_INFERENCE} gen_ai_token_modality"
_FROM_1MS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_FROM_10MS: Final = tuple(0.01 * 2**n for n in range(14))
_FROM_100MS: Final = tuple(round(0.1 * 2**n, 1) for n in range(13))
_MINUTES: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
_ROUNDS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_RATIOS: Final = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)

# fmt: off
RUNS: Final = _counter("agentobs_runs_total", "workflow outcome error_type",
    "Runs that ended; one resumed and ended again counts again.", span="run")
EXECUTIONS: Final = _counter("agentobs_executions_total", "workflow reason",
    "Executions begun, by why.", span="execution")
STEPS: Final = _counter("agentobs_steps_total", "workflow kind name outcome",
    "Steps that ended; reused ones are not among them.", span="step")
STEPS_REUSED: Final = _counter("agentobs_steps_reused_total", "workflow name",
    "Steps answered from the journal.", span="execution")
SAVED: Final = _counter("agentobs_saved_usd_total", "workflow name",
    "What reused steps had cost, in US dollars.", scale=PICO, span="execution")
ATTEMPTS: Final = _counter("agentobs_attempts_total", f"{_AGENT} outcome",
    "Model requests that ended, retries included.", span="attempt")
INEXACT: Final = _counter("agentobs_attempt_usage_inexact_total", f"{_AGENT} usage",
    "Attempts whose usage the provider told in part or never.", span="attempt")
RETRY_WAIT_SECONDS: Final = _counter("agentobs_retry_wait_seconds_total", _AGENT,
    "Time waited before attempts.", scale=NS, span="attempt")
TOKENS_TOTAL: Final = _counter("agentobs_tokens_total", f"{_AGENT} kind",
    "Tokens of all attempts, by class.", span="attempt")
COST: Final = _counter("agentobs_cost_usd_total", f"{_AGENT} outcome",
    "Cost of all attempts with a known price, in US dollars.", scale=PICO, span="attempt")
UNPRICED: Final = _counter("agentobs_unpriced_attempts_total", "model",
    "Attempts that used tokens of a model without a known price.", span="attempt")
SPANS_EXPORTED: Final = _counter("agentobs_spans_exported_total", "outcome",
    "Spans by what became of sending them; error counts every try.")
JOURNAL_ERRORS: Final = _counter("agentobs_journal_errors_total", "",
    "Commits and units that failed, since the process started.")
GEN_AI_INPUT: Final = _counter("gen_ai_client_inference_usage_input_tokens_total", _USAGE,
    "Input tokens (cached ones included) of each turn's last attempt.", span="turn")
GEN_AI_OUTPUT: Final = _counter("gen_ai_client_inference_usage_output_tokens_total", _USAGE,
    "Output tokens of each turn's last attempt.", span="turn")
GEN_AI_CACHE_READ: Final = _counter("gen_ai_client_inference_usage_cache_read_input_tokens_total", _USAGE,
    "Input tokens of each turn's last attempt that were read from the provider's cache.", span="turn")
GEN_AI_CACHE_WRITE: Final = _counter("gen_ai_client_inference_usage_cache_write_input_tokens_total", _USAGE,
    "Input tokens of each turn's last attempt that were written to the provider's cache.", span="turn")

RUNS_IN_FLIGHT: Final = _gauge("agentobs_runs_in_flight", "workflow", f"Runs this process executes now. {_SUM}")
RUNS_QUEUED: Final = _gauge("agentobs_runs_queued", "workflow", f"Runs in the journal that wait for an owner. {_MAX}")
OLDEST_QUEUED: Final = _gauge("agentobs_oldest_queued_run_age_seconds", "workflow",
    f"Age of the journal's oldest queued run. {_MAX}")
OLDEST_PROGRESS: Final = _gauge("agentobs_oldest_progress_age_seconds", "workflow",
    f"Longest time that a running run has committed nothing. {_MAX}")
RATE_LIMIT: Final = _gauge("agentobs_rate_limit_remaining_ratio", "model kind",
    f"What the provider's latest answer told to be left of a rate limit. {_MIN}")
SPANS_PENDING: Final = _gauge("agentobs_spans_pending", "", f"Spans committed and not yet delivered. {_MAX}")
SPANS_OLDEST: Final = _gauge("agentobs_spans_oldest_pending_seconds", "", f"Age of the oldest such span. {_MAX}")
JOURNAL_BYTES: Final = _gauge("agentobs_journal_bytes", "", f"Size of the journal. {_MAX}")
DISK_FREE: Final = _gauge("agentobs_disk_free_bytes", "", f"Free space on the journal's disk. {_MIN}")
DRIFT: Final = _gauge("agentobs_accounting_drift", "kind", f"What the last audit found to differ. {_MAX}")
BUILD_INFO: Final = _gauge("agentobs_build_info", "version", "Always 1. Processes: keep apart.")
WORKFLOW_INFO: Final = _gauge("agentobs_workflow_info", "workflow version",
    f"Always 1: which version of a workflow's code this process runs, empty where it has none. {_MAX}")

RUN_SECONDS: Final = _histogram("gen_ai_invoke_workflow_duration_seconds", "gen_ai_workflow_name error_type",
    "Runs, from their creation to their first end.", _MINUTES, "run")
AGENT_SECONDS: Final = _histogram("gen_ai_invoke_agent_duration_seconds",
    "gen_ai_agent_name gen_ai_request_model error_type", "Agent calls, retries included.", _FROM_100MS, "step")
INFERENCE_SECONDS: Final = _histogram("gen_ai_client_inference_duration_seconds", f"{_INFERENCE} error_type",
    "Turns, retries included.", _FROM_10MS, "turn")
FIRST_CHUNK_SECONDS: Final = _histogram("gen_ai_client_inference_time_to_first_chunk_seconds", _INFERENCE,
    "From a streamed turn's start to the first chunk of its last attempt.", _FROM_10MS, "turn")
TOOL_SECONDS: Final = _histogram("gen_ai_execute_tool_duration_seconds",
    "gen_ai_tool_name gen_ai_tool_type gen_ai_agent_name error_type", "Tool calls.", _FROM_10MS, "step")
DEBATE_ROUNDS: Final = _histogram("agentobs_debate_rounds", "workflow converged",
    "Rounds that a debate took.", _ROUNDS, "execution")
STRAGGLER: Final = _histogram("agentobs_branch_straggler_ratio", "workflow",
    "Slowest of parallel branches over the median one.", _RATIOS, "execution")
COMMIT_SECONDS: Final = _histogram("agentobs_journal_commit_seconds", "", "Commits of the journal.", _FROM_1MS)
LOOP_LAG: Final = _histogram("agentobs_event_loop_lag_seconds", "", "How late the event loop ran a timer.", _FROM_1MS)
# fmt: on

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric for metric in tuple(globals().values()) if isinstance(metric, Metric)
}
# Those that restart from the journal's totals; JOURNAL_ERRORS counts from the start of the process.
COUNTERS: Final = tuple(m for m in METRICS.values() if m.kind == "counter" and m is not JOURNAL_ERRORS)
HISTOGRAMS: Final = tuple(metric for metric in METRICS.values() if metric.kind == "histogram")

EXPORT_OUTCOMES: Final = ("ok", "error", "rejected")
DRIFTS: Final = tuple(DRIFT_KINDS)
RATE_LIMIT_KINDS: Final = ("requests", "input_tokens", "output_tokens")
MODALITY: Final = "unknown"  # gen_ai.token.modality: the Messages API tells none
TOOL_KIND: Final = "function"  # gen_ai.tool.type

# Error types that are of a run or step as a whole, never of one model request.
NOT_OF_ATTEMPTS: Final = frozenset(
    {"tool_error", "output_invalid", "budget_exceeded", "diverged", "parked", "workflow_error"}
)
ATTEMPT_OUTCOMES: Final = (OK, *(name for name in ERROR_TYPES if name not in NOT_OF_ATTEMPTS))
# Outcomes of an attempt that was billed all the same.
PAID_OUTCOMES: Final = (
    OK,
    "refusal",
    "max_tokens",
    "context_window",
    "stream_truncated",
    "stream_error",
    "timeout",
    "cancelled",
    "interrupted",
)

# What patterns note, as kind of a `records.Note`; the JSON of its value.
NOTE_REUSED: Final = "reused"  # key: reused:<step's name>; {"count": 2, "saved_pico": 1500}
NOTE_DEBATE: Final = "debate"  # {"rounds": 3, "converged": true}
NOTE_STRAGGLER: Final = "straggler"  # {"ratio": 1.7}: slowest branch over the median one
CONVERGED: Final = ("true", "false")  # as a label's value

# ---- log events (a closed list) ----

RUN_ACCEPTED: Final = "run.accepted"
RUN_STARTED: Final = "run.started"
RUN_RECOVERED: Final = "run.recovered"
RUN_RESUMED: Final = "run.resumed"
RUN_DRAINED: Final = "run.drained"
RUN_DIVERGED: Final = "run.diverged"
RUN_FINISHED: Final = "run.finished"
AGENT_CALL: Final = "agent.call"
TOOL_CALL: Final = "tool.call"
STEP_FINISHED: Final = "step.finished"
ATTEMPT_FAILED: Final = "attempt.failed"
SERVICE_STARTED: Final = "service.started"
SERVICE_WARNING: Final = "service.warning"
SERVICE_DRAINING: Final = "service.draining"
SERVICE_STOPPED: Final = "service.stopped"
JOURNAL_PAUSED: Final = "journal.paused"
JOURNAL_RESUMED: Final = "journal.resumed"
LOOP_BLOCKED: Final = "loop.blocked"
EXPORT_FAILING: Final = "export.failing"
EXPORT_RECOVERED: Final = "export.recovered"
EXPORT_REJECTED: Final = "export.rejected"
LOG_DROPPED: Final = "log.dropped"
LIBRARY_MESSAGE: Final = "library.message"
LIBRARY_WARNING: Final = "library.warning"
JOURNAL_SUBSCRIBER: Final = "journal.subscriber_failed"
JOURNAL_ROLLBACK: Final = "journal.rollback_failed"
RUN_IGNORED_CANCELLATION: Final = "run.ignored_cancellation"
RUN_CLAIM_FAILED: Final = "run.claim_failed"
RUN_ENGINE_FAILED: Final = "run.engine_failed"
DISPATCH_SWEEP_FAILED: Final = "dispatch.sweep_failed"
SERVICE_FEW_OPEN_FILES: Final = "service.few_open_files"
REQUEST_FAILED: Final = "request.failed"

EVENTS: Final = frozenset(
    {
        RUN_ACCEPTED, RUN_STARTED, RUN_RECOVERED, RUN_RESUMED, RUN_DRAINED, RUN_DIVERGED, RUN_FINISHED,
        RUN_IGNORED_CANCELLATION, RUN_CLAIM_FAILED, RUN_ENGINE_FAILED, DISPATCH_SWEEP_FAILED, SERVICE_FEW_OPEN_FILES,
        REQUEST_FAILED, AGENT_CALL, TOOL_CALL, STEP_FINISHED, ATTEMPT_FAILED,
        SERVICE_STARTED, SERVICE_WARNING, SERVICE_DRAINING, SERVICE_STOPPED,
        JOURNAL_PAUSED, JOURNAL_RESUMED, JOURNAL_SUBSCRIBER, JOURNAL_ROLLBACK, LOOP_BLOCKED,
        EXPORT_FAILING, EXPORT_RECOVERED, EXPORT_REJECTED, LOG_DROPPED, LIBRARY_MESSAGE, LIBRARY_WARNING,
    }
)  # fmt: skip
