"""What the API shows of a run: pure functions from records to JSON's dicts (schemas.py describes them)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from pydantic.errors import PydanticInvalidForJsonSchema

from agentobs.encoding import decode
from agentobs.journal.protocol import Event, RunDetail
from agentobs.records import (
    CLOSED,
    EXACT,
    PARTIAL,
    PICO,
    UNKNOWN,
    Attempt,
    Execution,
    Run,
    Step,
    attempt_span_id,
)
from agentobs.workflows import Workflow

Json: TypeAlias = dict[str, Any]

PREVIEW_CHARACTERS: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The beginning of stored text: enough escapes for the preview, whole ones only; a character can take two.
_TEXT: Final = re.compile(rf'"((?:[^"\\]|\\u[0-9a-fA-F]{{4}}|\\[^u]){{0,{2 * PREVIEW_CHARACTERS}}})')


def summary(detail: RunDetail) -> Json:
    run = detail.run
    names: dict[str, str] = {}  # by key: a step cut off and run again has two rows
    for found in _in_order(detail.steps):
        names.setdefault(found.key, found.name)
    ended = [attempt for attempt in detail.attempts if attempt.ended_at is not None]
    return {
        "id": run.id,
        "trace_id": run.trace_id,
        "workflow": run.workflow,
        "status": run.status,
        "created_at": instant(run.created_at),
        "started_at": instant(run.started_at),
        "ended_at": instant(run.ended_at),
        "total_ms": milliseconds(run.created_at, run.ended_at),
        "steps": len(names),
        "step_names": list(names.values()),
        "attempts": len(detail.attempts),
        "retries": len(detail.attempts) - len({(attempt.step, attempt.turn) for attempt in detail.attempts}),
        "tokens": tokens(ended),
        "usage_inexact": sum(attempt.usage in {PARTIAL, UNKNOWN} for attempt in ended),
        "cost_usd": cost(ended),
        "error": None if run.error_type is None else _error(run),
        "tags": decode(run.tags),
    }


def _error(run: Run) -> Json:
    return {
        "type": run.error_type,
        "message": run.error_message,
        "step": run.error_step,
        "agent": run.error_agent,
    }


def run_detail(detail: RunDetail) -> Json:
    """The summary with input, output, executions and steps; needs a detail that was read with its content."""
    attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
    for found in detail.attempts:
        attempts[found.step].append(found)
    return summary(detail) | {
        "input": _value(detail.run.input),
        "output": _value(detail.run.output),
        "error_detail": _value(detail.run.error_detail),
        "forked_from": _forked_from(detail.run),
        "forked_to": list(detail.forks),
        "executions": [execution(found) for found in sorted(detail.executions, key=lambda found: found.number)],
        "steps": [
            step(found, attempts[found.number]) | {"error_detail": _value(found.error_detail)}
            for found in _in_order(detail.steps)
        ],
    }


def _forked_from(run: Run) -> Json | None:
    return None if run.forked_from is None else {"run_id": run.forked_from, "step": run.forked_step}


def execution(found: Execution) -> Json:
    return {
        "number": found.number,
        "reason": found.reason,
        "worker": found.worker,
        "workflow_version": found.workflow_version,
        "started_at": instant(found.started_at),
        "ended_at": instant(found.ended_at),
        "outcome": found.outcome,
    }


def step(found: Step, attempts: Sequence[Attempt]) -> Json:
    """Without `error_detail`, which only the detail of a run has: this is an event's data too."""
    ended = [attempt for attempt in attempts if attempt.ended_at is not None]
    return {
        "number": found.number,
        "execution": found.execution,
        "kind": found.kind,
        "name": found.name,
        "branch": found.branch,
        "input_preview": preview(found.input),
        "output_preview": preview(found.output),
        "status": found.status,
        "error_type": found.error_type,
        "duration_ms": milliseconds(found.started_at, found.ended_at),
        "started_at": instant(found.started_at),
        "reused": found.reused,
        "tokens": tokens(ended),
        "cost_usd": cost(ended),
        "attempts": [attempt_view(attempt) for attempt in sorted(attempts, key=lambda one: (one.turn, one.number))],
    }


def attempt_view(found: Attempt) -> Json:
    return {
        "number": found.number,
        "turn": found.turn,
        "span_id": attempt_span_id(found),
        "model": found.model,
        "response_model": found.response_model,
        "outcome": found.outcome,
        "http_status": found.http_status,
        "request_id": found.request_id,
        "stop_reason": found.stop_reason,
        "wait_ms": milliseconds(0, found.wait_ns),
        "started_at": instant(found.started_at),
        "time_to_first_chunk_ms": milliseconds(found.started_at, found.first_chunk_at),
        "duration_ms": milliseconds(found.started_at, found.ended_at),
        "tokens": tokens([found]) if found.usage in {EXACT, PARTIAL} else None,
        "usage": found.usage,
        "cost_usd": None if found.cost_pico is None else dollars(found.cost_pico),
    }


def event(found: Event) -> tuple[str, Json]:
    """An event's name and its data: what the API shows of the record, as it stood then."""
    verb = "ended" if found.verb == CLOSED else "started"
    record = found.record
    if isinstance(record, Run):
        detail = found.detail or RunDetail(run=record)
        return "run.ended" if found.verb == CLOSED else "run.accepted", summary(detail)
    if isinstance(record, Execution):
        return f"execution.{verb}", execution(record)
    if isinstance(record, Step):
        return f"step.{verb}", step(record, found.attempts)
    where = {"step": record.step, "execution": record.execution, "agent": record.agent}
    return f"attempt.{verb}", attempt_view(record) | where


def workflow(found: Workflow) -> Json:
    try:
        schema = found.schema()
    except PydanticInvalidForJsonSchema:
        schema = {}  # a type that only Python can check: anything may be sent, and it says what is wrong
    return {
        "name": found.name,
        "version": found.version,
        "description": found.description,
        "input_schema": schema,
        "agents": [{"name": agent.name, "model": agent.model} for agent in found.agents],
    }


def tokens(attempts: Iterable[Attempt]) -> Json:
    """Sums over attempts whose usage was told. `input` includes cache, `reasoning` is inside `output`."""
    told = [attempt for attempt in attempts if attempt.usage in {EXACT, PARTIAL}]
    cache_read = sum(attempt.cache_read or 0 for attempt in told)
    cache_write = sum(attempt.cache_write or 0 for attempt in told)
    asked = sum(attempt.input_uncached or 0 for attempt in told) + cache_read + cache_write
    answered = sum(attempt.output or 0 for attempt in told)
    return {
        "input": asked,
        "output": answered,
        "cache_read": cache_read,
        "cache_write": cache_write,
        "reasoning": sum(attempt.reasoning or 0 for attempt in told),
        "total": asked + answered,
    }


def cost(attempts: Iterable[Attempt]) -> str | None:
    """Dollars as text; None when an attempt used tokens of a model that has no known price."""
    told = [attempt for attempt in attempts if attempt.usage in {EXACT, PARTIAL}]
    if any(attempt.cost_pico is None and tokens([attempt])["total"] for attempt in told):
        return None
    return dollars(sum(attempt.cost_pico or 0 for attempt in told))


def dollars(pico: int) -> str:
    """Exact decimal text without trailing zeros: 1_500_000_000_000 is "1.5"."""
    whole, rest = divmod(pico, PICO)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def instant(ns: int | None) -> str | None:
    """ISO 8601, UTC, with microseconds."""
    if ns is None:
        return None
    return (_EPOCH + timedelta(microseconds=ns // 1000)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def milliseconds(start_ns: int, end_ns: int | None) -> float | None:
    """A duration with microseconds as its decimals."""
    return None if end_ns is None else (end_ns - start_ns) // 1000 / 1000


def preview(stored: str | None) -> str | None:
    """The first 200 characters of stored JSON: of the text itself if it is one, else of its JSON."""
    if not stored:
        return None
    if text := _TEXT.match(stored):  # only its beginning is decoded: texts can be long
        return str(decode(f'"{text[1]}"'))[:PREVIEW_CHARACTERS]
    return json.dumps(decode(stored), ensure_ascii=False)[:PREVIEW_CHARACTERS]


def _value(stored: str | None) -> Any:
    return decode(stored) if stored else None


def _in_order(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda found: found.number)


def run_list(details: Sequence[RunDetail], next_cursor: str | None) -> Json:
    return {"runs": [summary(detail) for detail in details], "next_cursor": next_cursor}


def bulk(matched: int, acted: Sequence[str], run_ids: Sequence[str], next_cursor: str | None) -> Json:
    return {"matched": matched, "acted": len(acted), "run_ids": list(run_ids), "next_cursor": next_cursor}


def workflow_list(registry: Mapping[str, Workflow]) -> Json:
    return {"workflows": [workflow(registry[name]) for name in registry]}
