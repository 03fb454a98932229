"""Spans as pure functions of committed records (DESIGN.md, "Traces"; attributes: TELEMETRY.md 0, 1.1, 1.2, 1.6).

Nothing here depends on the process that exports, on content, or on how often a span was sent before: making a span
again gives the same one. Costs are doubles of US dollars: `round(value * 10**12)` is the journal's integer, up to
1,000 dollars a span.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from agentobs.records import (
    AGENT,
    CANCELLED,
    DRAINED,
    FAILED,
    NS,
    OK,
    PICO,
    SUCCEEDED,
    TOOL,
    UNKNOWN,
    Attempt,
    Change,
    Execution,
    Run,
    Step,
    attempt_span_id,
    execution_span_id,
    span_id,
    step_span_id,
    trace_id,
    turn_span_id,
)
from agentobs.telemetry import names
from agentobs.telemetry.published import SpanRef
from agentobs.telemetry.spans import Link, SpanData, Value, caller, common, made, server
from agentobs.telemetry.text import clean, cleaned, provider_name

_SAMPLED: Final = 1
_CUT: Final = frozenset({"stream_truncated", "stream_error"})


def spans(changes: Iterable[Change], refs: Iterable[SpanRef]) -> tuple[list[SpanData], int]:
    """The spans of an outbox row from its changes, and how many of them could not be made (0 but for a bug)."""
    records = {key: change.record for change in changes for key in _keys(change.record)}
    made: list[SpanData] = []
    failed = 0
    for ref in refs:
        try:
            made.append(_span(ref.kind, records[ref.kind, ref.run_id, ref.number, ref.turn, ref.attempt]))
        except Exception:  # noqa: BLE001 -- one bad record must not hold up the spans behind it
            failed += 1
    return made, failed


def _keys(record: object) -> Sequence[tuple[str, str, int, int, int]]:
    match record:
        case Run():
            return (("run", record.id, 0, 0, 0),)
        case Execution():
            return (("execution", record.run_id, record.number, 0, 0),)
        case Step():
            return (("step", record.run_id, record.number, 0, 0),)
        case Attempt():
            place = (record.run_id, record.step, record.turn, record.number)
            return (("attempt", *place), ("turn", *place))
        case _:
            return ()


def _span(kind: str, record: object) -> SpanData:
    match record:
        case Run():
            return run_span(record)
        case Execution():
            return execution_span(record)
        case Step():
            return step_span(record)
        case Attempt() if kind == "turn":
            return turn_span(record)
        case Attempt():
            return attempt_span(record)
        case _:
            raise TypeError(kind)


def run_span(run: Run) -> SpanData:
    """The root: the run from its creation to its first end; it stands for execution 1."""
    status = run.first_status or FAILED
    error = _error(run.first_error_type, status)
    return made(
        f"{names.INVOKE_WORKFLOW} {run.workflow}",
        run.id,
        span_id("run", run.id),
        None,
        (run.created_at, run.first_ended_at),
        common(run)
        | {names.OPERATION: names.INVOKE_WORKFLOW, names.WORKFLOW_NAME: run.workflow, names.ERROR_TYPE: error},
        links=_links(run),
    )


def _links(run: Run) -> tuple[Link, ...]:
    found = [caller(run.traceparent)]
    if run.forked_from is not None:
        found.append(Link(trace_id(run.forked_from), span_id("run", run.forked_from), _SAMPLED))
    return tuple(link for link in found if link is not None)


def execution_span(execution: Execution) -> SpanData:
    """A later execution: a child of the root, of the same name. One that drained did not fail."""
    status = SUCCEEDED if execution.outcome == DRAINED else execution.outcome or FAILED
    error = _error(execution.error_type, status)
    return made(
        f"{names.INVOKE_WORKFLOW} {execution.workflow}",
        execution.run_id,
        span_id("execution", execution.run_id, execution.number),
        span_id("run", execution.run_id),
        (execution.started_at, execution.ended_at),
        common(execution, execution.number)
        | {names.OPERATION: names.INVOKE_WORKFLOW, names.WORKFLOW_NAME: execution.workflow, names.ERROR_TYPE: error},
    )


def step_span(step: Step) -> SpanData:
    """`invoke_agent` (no usage: its chats carry it, and sums must not count twice), `execute_tool` or `step`."""
    own: dict[str, Value | None] = {
        names.STEP_NUMBER: step.number,
        names.ERROR_TYPE: _error(step.error_type, step.status),
    }
    if step.kind == AGENT:
        operation, subject = names.INVOKE_AGENT, step.agent or step.name
        own |= {names.OPERATION: operation, names.AGENT_NAME: subject, names.REQUEST_MODEL: cleaned(step.model)}
    elif step.kind == TOOL:
        operation, subject = names.EXECUTE_TOOL, step.name
        own |= {
            names.OPERATION: operation,
            names.TOOL_NAME: step.name,
            names.TOOL_TYPE: names.TOOL_KIND,
            names.TOOL_CALL_ID: cleaned(step.tool_call_id),
            names.AGENT_NAME: step.agent,
        }
    else:
        operation, subject = names.STEP, step.name
    if step.parent_key is None:
        parent = execution_span_id(step.run_id, step.execution)
    else:
        parent = span_id("step", step.run_id, step.execution, step.parent_key)
    return made(
        f"{operation} {subject}",
        step.run_id,
        step_span_id(step),
        parent,
        (step.started_at, step.ended_at),
        common(step, step.execution) | own,
    )


def turn_span(attempt: Attempt) -> SpanData:
    """`chat`: one logical model call with all its retries; usage is that of its last attempt."""
    model = clean(attempt.model)
    first = attempt.first_chunk_at
    chunk_s = max(first - attempt.turn_started_at, 0) / NS if attempt.stream and first is not None else None
    host, port = server(clean(attempt.url))
    return made(
        f"{names.CHAT} {model}",
        attempt.run_id,
        turn_span_id(attempt),
        span_id("step", attempt.run_id, attempt.execution, attempt.key),
        (attempt.turn_started_at, attempt.ended_at),
        common(attempt, attempt.execution)
        | {
            names.OPERATION: names.CHAT,
            names.PROVIDER: provider_name(attempt.provider),
            names.REQUEST_MODEL: model,
            names.REQUEST_MAX_TOKENS: attempt.max_tokens or None,
            names.REQUEST_REASONING: attempt.effort,
            names.REQUEST_STREAM: attempt.stream or None,
            names.RESPONSE_ID: cleaned(attempt.response_id),
            names.RESPONSE_MODEL: cleaned(attempt.response_model),
            names.FINISH_REASONS: _finish(attempt),
            names.FIRST_CHUNK: chunk_s,
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: port,
            names.ERROR_TYPE: _attempt_error(attempt),
        }
        | _usage(attempt),
        client=True,
    )


def attempt_span(attempt: Attempt) -> SpanData:
    """`POST`: one request. Its tokens and cost are `agentobs.*`: to the conventions it is no inference of its own."""
    url = clean(attempt.url)
    host, port = server(url)
    kinds = () if attempt.usage == UNKNOWN else names.TOKEN_KINDS
    tokens: dict[str, Value | None] = {names.TOKENS + kind: getattr(attempt, kind) for kind in kinds}
    return made(
        names.POST,
        attempt.run_id,
        attempt_span_id(attempt),
        turn_span_id(attempt),
        (attempt.started_at, attempt.ended_at),
        common(attempt, attempt.execution)
        | {
            names.HTTP_METHOD: names.POST,
            names.URL: url,
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: port,
            names.HTTP_STATUS: attempt.http_status,
            names.HTTP_RESEND: attempt.number - 1 or None,
            names.ERROR_TYPE: _attempt_error(attempt),
            names.ATTEMPT_NUMBER: attempt.number,
            names.RETRY_WAIT: attempt.wait_ns / NS if attempt.wait_ns else None,
            names.REQUEST_ID: cleaned(attempt.request_id),
            names.USAGE: attempt.usage,
            names.COST_USD: None if attempt.cost_pico is None else attempt.cost_pico / PICO,
        }
        | tokens,
        client=True,
    )


def _error(error_type: str | None, status: str) -> str | None:
    """error.type of a run, execution or step: none when it succeeded, else its own or what its status says."""
    if status == SUCCEEDED:
        return None
    return error_type or ("workflow_error" if status == FAILED else status)


def _attempt_error(attempt: Attempt) -> str | None:
    return None if attempt.outcome == OK else attempt.outcome or CANCELLED


def _finish(attempt: Attempt) -> tuple[str, ...] | None:
    if attempt.stop_reason is not None:
        return (clean(names.FINISH.get(attempt.stop_reason, attempt.stop_reason)),)
    return (names.FINISH_MISSING,) if attempt.outcome in _CUT else None


def _usage(attempt: Attempt) -> dict[str, Value | None]:
    """As the conventions count: input includes cache reads and writes; breakdowns only when there is something."""
    if attempt.usage == UNKNOWN:
        return {}
    read, write = attempt.cache_read or 0, attempt.cache_write or 0
    return {
        names.USAGE_INPUT: (attempt.input_uncached or 0) + read + write,
        names.USAGE_OUTPUT: attempt.output or 0,
        names.USAGE_CACHE_READ: read or None,
        names.USAGE_CACHE_WRITE: write or None,
        names.USAGE_REASONING: attempt.reasoning or None,
    }
