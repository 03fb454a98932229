"""Committed changes as log lines: one an operation, from a closed list of events, without any content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from agentobs.records import (
    AGENT,
    CANCELLED,
    CLOSED,
    DRAINED,
    EXACT,
    FAILED,
    NS,
    OK,
    OPENED,
    PICO,
    RECOVERED,
    RESUMED,
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
)
from agentobs.telemetry import names
from agentobs.telemetry.text import clean

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

MAX_RUNS: Final = 50_000  # whose open steps are remembered; of a run that was lost no end is published here
_TOLD: Final = ("input_uncached", "output", "cache_read", "cache_write", "reasoning")


class Line(NamedTuple):
    """One log line: when it happened (ns), and its fields in order."""

    event: str
    level: Level
    at: int
    fields: dict[str, Any]


class Spent(NamedTuple):
    """What attempts of a step came to."""

    attempts: int = 0
    inexact: int = 0  # of them, those whose usage is not exactly known
    unpriced: int = 0  # of them, those that used tokens without a known price
    cost_pico: int = 0
    tokens: tuple[int, ...] = (0,) * len(_TOLD)  # in the order of _TOLD

    def plus(self, attempt: Attempt) -> Spent:
        known = attempt.usage != UNKNOWN
        tokens = tuple((getattr(attempt, kind) or 0) if known else 0 for kind in _TOLD)
        return Spent(
            self.attempts + 1,
            self.inexact + (attempt.usage != EXACT),
            self.unpriced + (attempt.cost_pico is None and any(tokens)),
            self.cost_pico + (attempt.cost_pico or 0),
            tuple(a + b for a, b in zip(self.tokens, tokens, strict=True)),
        )

    def fields(self) -> dict[str, Any]:
        """As in a run's summary: input includes the cache, total is input and output."""
        uncached, output, read, write, reasoning = self.tokens
        total_in = uncached + read + write
        return {
            "attempts": self.attempts,
            "usage_inexact": self.inexact or None,
            "tokens": {
                "input": total_in,
                "output": output,
                "cache_read": read,
                "cache_write": write,
                "reasoning": reasoning,
                "total": total_in + output,
            },
            "cost_usd": None if self.unpriced else self.cost_pico / PICO,
        }


class Lines:
    """The lines of changes as they come; remembers what each open step has spent."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, Spent]] = {}

    def of(self, change: Change) -> Sequence[Line]:
        verb, record = change
        spent = Spent()
        if verb == CLOSED:
            if isinstance(record, Attempt):
                steps = self._open.setdefault(record.run_id, {})
                steps[record.step] = steps.get(record.step, spent).plus(record)
                if len(self._open) > MAX_RUNS:
                    del self._open[next(iter(self._open))]
            elif isinstance(record, Step):
                spent = self._open.get(record.run_id, {}).pop(record.number, spent)
            elif isinstance(record, Execution):
                self._open.pop(record.run_id, None)
        return log_lines(change, spent)


def log_lines(change: Change, spent: Spent = Spent()) -> Sequence[Line]:  # noqa: B008 -- a constant
    """The lines of one change; `spent` is what the attempts of a step that ends here came to."""
    verb, record = change
    match record:
        case Attempt() if verb == CLOSED and record.outcome != OK:
            return (_attempt(record),)
        case Step() if verb == CLOSED and not record.reused:
            return (_step(record, spent),)
        case Run() if verb == OPENED:
            return (Line(names.RUN_ACCEPTED, "info", record.created_at, _where(record)),)
        case Run() if verb == CLOSED:
            return (_finished(record),)
        case Execution() if verb == OPENED:
            return (_begun(record),)
        case Execution() if verb == CLOSED:
            return _execution_ended(record)
        case _:
            return ()


def _where(record: Run | Execution | Step | Attempt) -> dict[str, Any]:
    match record:
        case Run():
            run_id, span = record.id, span_id("run", record.id)
        case Execution():
            run_id, span = record.run_id, execution_span_id(record.run_id, record.number)
        case Step():
            run_id, span = record.run_id, step_span_id(record)
        case Attempt():
            run_id, span = record.run_id, attempt_span_id(record)
    return {"run_id": run_id, "trace_id": trace_id(run_id), "span_id": span, "workflow": record.workflow}


def _begun(execution: Execution) -> Line:
    event, level = names.RUN_STARTED, "info"
    if execution.reason == RECOVERED:
        event, level = names.RUN_RECOVERED, "warning"
    elif execution.reason == RESUMED:
        event = names.RUN_RESUMED
    fields = _where(execution) | {"execution": execution.number, "worker": execution.worker}
    return _line(event, level, execution.started_at, fields)


def _execution_ended(execution: Execution) -> Sequence[Line]:
    at = execution.ended_at or execution.started_at
    fields = _where(execution) | {"execution": execution.number, "worker": execution.worker}
    lines = []
    if execution.outcome == DRAINED:
        lines.append(_line(names.RUN_DRAINED, "info", at, fields))
    if execution.diverged:
        lines.append(_line(names.RUN_DIVERGED, "warning", at, fields | {"steps": execution.diverged}))
    return lines


def _finished(run: Run) -> Line:
    level = {FAILED: "error", CANCELLED: "warning"}.get(run.status, "info")
    at = run.ended_at or run.created_at
    fields = _where(run) | {
        "status": run.status,
        "error_type": run.error_type,
        "step": run.error_step,
        "agent": run.error_agent,
        "duration_s": _seconds(run.created_at, at),
    }
    return _line(names.RUN_FINISHED, level, at, fields)


def _step(step: Step, spent: Spent) -> Line:
    at = step.ended_at or step.started_at
    fields = _where(step)
    if step.kind == AGENT:
        event = names.AGENT_CALL
        fields |= {"agent": step.agent or step.name, "model": clean(step.model or "")}
    elif step.kind == TOOL:
        event = names.TOOL_CALL
        fields |= {"agent": step.agent, "tool": step.name}
    else:
        event = names.STEP_FINISHED
        fields |= {"name": step.name}
    fields |= {
        "step": step.number,
        "status": step.status,
        "error_type": step.error_type,
        "duration_s": _seconds(step.started_at, at),
    }
    line = _line(event, "info" if step.status == SUCCEEDED else "warning", at, fields)
    if step.kind == AGENT:
        line.fields.update((key, value) for key, value in spent.fields().items() if key != "usage_inexact" or value)
    return line


def _attempt(attempt: Attempt) -> Line:
    at = attempt.ended_at or attempt.started_at
    fields = _where(attempt) | {
        "agent": attempt.agent,
        "model": clean(attempt.model),
        "step": attempt.step,
        "turn": attempt.turn,
        "attempt": attempt.number,
        "error_type": attempt.outcome,
        "error_class": attempt.error_class,
        "http_status": attempt.http_status,
        "request_id": clean(attempt.request_id or "") or None,
        "usage": attempt.usage,
        "wait_s": attempt.wait_ns / NS or None,
        "duration_s": _seconds(attempt.started_at, at),
    }
    return _line(names.ATTEMPT_FAILED, "warning", at, fields)


def _line(event: str, level: str, at: int, fields: dict[str, Any]) -> Line:
    return Line(event, level, at, {key: value for key, value in fields.items() if value is not None})  # type: ignore[arg-type]


def _seconds(start: int, end: int) -> float:
    return round(max(end - start, 0) / NS, 6)
