"""Records with sensible values, for tests that care about one or two of them."""

from __future__ import annotations

from typing import Any

from agentobs.records import AGENT, EXACT, FAILED, NS, OK, STARTED, SUCCEEDED, Attempt, Execution, Note, Run, Step

RUN_ID = "01930000-0000-7abc-8def-0123456789ab"
TRACE_ID = "0193000000007abc8def0123456789ab"
T0 = 1_780_000_000 * NS  # when the run was created
MODEL = "claude-haiku-4-5"
URL = "https://api.anthropic.com/v1/messages"


def seconds(value: float) -> int:
    """A time that many seconds after the run was created."""
    return T0 + round(value * NS)


def run(**fields: Any) -> Run:
    """A run that succeeded after 12 s; give `status` (and `error_type`) for another end."""
    status = fields.get("status", SUCCEEDED)
    error = fields.get("error_type")
    ended = fields.get("ended_at", seconds(12))
    defaults: dict[str, Any] = {
        "id": RUN_ID,
        "workflow": "article",
        "status": status,
        "version": "0.1.0",
        "input": '{"goal":"SECRET"}',
        "output": '"SECRET"',
        "created_at": T0,
        "started_at": seconds(1),
        "ended_at": ended,
        "error_message": None if status != FAILED else "SECRET",
        "first_status": status,
        "first_ended_at": ended,
        "first_error_type": error,
    }
    return Run(**(defaults | fields))


def execution(**fields: Any) -> Execution:
    defaults: dict[str, Any] = {
        "run_id": RUN_ID,
        "number": 1,
        "reason": STARTED,
        "worker": "worker-1",
        "owner": "owner",
        "epoch": 1,
        "version": "0.1.0",
        "started_at": seconds(1),
        "ended_at": seconds(12),
        "outcome": SUCCEEDED,
        "seq": 2,
        "workflow": "article",
    }
    return Execution(**(defaults | fields))


def step(**fields: Any) -> Step:
    """The call of agent `writer`, from second 2 to 5."""
    name = fields.get("name", "writer")
    kind = fields.get("kind", AGENT)
    defaults: dict[str, Any] = {
        "run_id": RUN_ID,
        "number": 1,
        "execution": 1,
        "key": "\0hash\0001",
        "kind": kind,
        "name": name,
        "agent": name if kind == AGENT else None,
        "model": MODEL if kind == AGENT else None,
        "status": SUCCEEDED,
        "input": '"SECRET"',
        "output": '"SECRET"',
        "started_at": seconds(2),
        "ended_at": seconds(5),
        "seq": 3,
        "workflow": "article",
        "version": "0.1.0",
    }
    return Step(**(defaults | fields))


def attempt(**fields: Any) -> Attempt:
    """The first and last attempt of turn 1 of `step()`, from second 2 to 4.5, with exact usage."""
    defaults: dict[str, Any] = {
        "run_id": RUN_ID,
        "step": 1,
        "turn": 1,
        "number": 1,
        "model": MODEL,
        "provider": "anthropic",
        "url": URL,
        "max_tokens": 4096,
        "started_at": seconds(2),
        "ended_at": seconds(4.5),
        "outcome": OK,
        "http_status": 200,
        "request_id": "req_1",
        "response_id": "msg_1",
        "response_model": "claude-haiku-4-5-20251001",
        "stop_reason": "end_turn",
        "usage": EXACT,
        "input_uncached": 100,
        "output": 50,
        "cache_read": 0,
        "cache_write": 0,
        "reasoning": 0,
        "cost_pico": 350_000_000,
        "price_version": "0.2.3",
        "final": True,
        "turn_started_at": seconds(2),
        "answer": '"SECRET"',
        "seq": 4,
        "key": "\0hash\0001",
        "agent": "writer",
        "workflow": "article",
        "version": "0.1.0",
    }
    return Attempt(**(defaults | fields))


def failed_attempt(**fields: Any) -> Attempt:
    """An attempt that was answered 529, and is not its turn's last."""
    defaults: dict[str, Any] = {
        "outcome": "overloaded",
        "http_status": 529,
        "error_class": "OverloadedError",
        "response_id": None,
        "response_model": None,
        "stop_reason": None,
        "input_uncached": 0,
        "output": 0,
        "cost_pico": 0,
        "final": False,
        "answer": None,
    }
    return attempt(**(defaults | fields))


def note(kind: str, value: str, **fields: Any) -> Note:
    defaults: dict[str, Any] = {"run_id": RUN_ID, "execution": 1, "seq": 9, "at": seconds(6), "workflow": "article"}
    return Note(**(defaults | {"kind": kind, "value": value} | fields))
