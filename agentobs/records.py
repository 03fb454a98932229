"""What is stored, and what every projection reads: the journal's records and the words in them.

A record is a frozen dataclass whose fields are the columns of its table (and, marked *context*, a few columns
of its parents, so that a projection needs nothing else). Times are integer nanoseconds since the Unix epoch;
an end is its start plus a monotonic duration. Text that users or models wrote (`input`, `output`, `answer`,
`error_detail`) is JSON with ASCII escapes, so that NULs and lone surrogates survive every backend.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

# ---- words: run and step statuses, execution reasons and outcomes ----

QUEUED: Final = "queued"
RUNNING: Final = "running"
WAITING: Final = "waiting"  # paused by a human, a budget or the operator; never a retry wait
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
INTERRUPTED: Final = "interrupted"  # of executions, steps, attempts: their owner died
DRAINED: Final = "drained"  # of executions: their owner was asked to stop
RUN_STATUSES: Final = (QUEUED, RUNNING, WAITING, SUCCEEDED, FAILED, CANCELLED)
TERMINAL: Final = frozenset({SUCCEEDED, FAILED, CANCELLED})

STARTED: Final = "started"
RECOVERED: Final = "recovered"
RESUMED: Final = "resumed"
REASONS: Final = (STARTED, RECOVERED, RESUMED)

AGENT: Final = "agent"
TOOL: Final = "tool"
FUNCTION: Final = "function"

OK: Final = "ok"
EXACT: Final = "exact"
PARTIAL: Final = "partial"
UNKNOWN: Final = "unknown"

# The closed set of error types of a run, step or attempt, each with what it means to an operator.
ERROR_TYPES: Final[dict[str, str]] = {
    "rate_limited": "429: our own quota at the provider",
    "overloaded": "529: the provider's capacity",
    "server_error": "5xx: the provider failed",
    "timeout": "no answer in the agent's time, or the run used up its deadline",
    "connection_error": "no connection, or it broke before an answer began",
    "stream_truncated": "the answer stopped before its end",
    "stream_error": "the provider broke a stream off with an error event",
    "bad_response": "an answer that is not what the API promises",
    "invalid_request": "400: the request is wrong; or none was sent, as the provider is not set up",
    "authentication": "401: the key is wrong; or there is none, and nothing was sent",
    "permission": "402, 403: the key may not do this, or the account cannot pay for it",
    "not_found": "404: no such model or endpoint",
    "too_large": "413: the request is too large; or an output beyond AGENTOBS_MAX_OUTPUT_BYTES",
    "refusal": "the model refused",
    "max_tokens": "the answer was cut at the agent's max_tokens",
    "context_window": "the conversation filled the model's context window",
    "tool_error": "a tool raised",
    "output_invalid": "the answer does not fit the asked schema after its repairs",
    "budget_exceeded": "a budget ended it",
    "cancelled": "someone cancelled it",
    "interrupted": "its owner died or drained",
    "diverged": "under strict=True: an unrecorded call before the recorded ones",
    "parked": "its owner died too often while it ran",
    "workflow_error": "the workflow's or a step's own code raised or returned something unusable",
}

PICO: Final = 10**12  # costs are integers of pico-dollars
NS: Final = 10**9

# What makes two spans of one record identity distinct.
SpanKind = Literal["run", "execution", "step", "turn", "attempt"]


# ---- records ----


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one model answer, by class; `input_uncached` excludes cache reads and writes.

    `cache_write_1h` is part of `cache_write`, `reasoning` part of `output`. `state` says how the provider told it:
    `exact`, `partial` (a stream that broke off), `unknown` (never: the numbers are then 0 and mean nothing).
    """

    input_uncached: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    web_searches: int = 0
    state: str = UNKNOWN

    @property
    def input(self) -> int:
        """All input, cached or not, as the semantic conventions count it."""
        return self.input_uncached + self.cache_read + self.cache_write


NO_USAGE: Final = Usage()
ZERO_USAGE: Final = Usage(state=EXACT)


@dataclass(frozen=True, kw_only=True)
class Run:
    id: str  # UUIDv7, 36 characters
    workflow: str
    status: str = QUEUED
    version: str  # of agentobs, when the run was created
    input: str  # JSON
    output: str | None = None  # JSON
    tags: str = "{}"  # JSON object of strings
    idempotency_key: str | None = None
    request_hash: str = ""  # of workflow, input and tags: the same key with another body is a conflict
    traceparent: str | None = None  # the caller's, kept as a span link
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_step: int | None = None
    error_agent: str | None = None
    error_detail: str | None = None  # JSON text: the traceback; content, so only in the journal and run detail
    epoch: int = 0
    owner: str | None = None
    next_reason: str = STARTED  # of the execution that the next claim begins
    resumed_from: int = 0  # number of the latest resumed execution; failures before it are run again
    recoveries: int = 0  # deaths of an owner; a drain does not count
    cancel_requested_at: int | None = None
    # Written once, at the first terminal status; the root span is made from these.
    first_status: str | None = None
    first_ended_at: int | None = None
    first_error_type: str | None = None
    seq: int = 1  # this record's place in the run's sequence of events
    end_seq: int | None = None
    # context
    workflow_version: str | None = None  # of execution 1, for which the root span stands
    forked_from: str | None = None  # the run whose finished steps this one reuses
    forked_step: int | None = None  # … as far as they had ended before this step of it began

    @property
    def trace_id(self) -> str:
        return trace_id(self.id)


@dataclass(frozen=True, kw_only=True)
class Execution:
    run_id: str
    number: int
    reason: str
    worker: str
    owner: str
    epoch: int
    version: str  # of agentobs, that ran it
    workflow_version: str | None = None  # what the workflow's code then called itself
    started_at: int
    ended_at: int | None = None
    outcome: str | None = None  # succeeded failed cancelled interrupted drained
    error_type: str | None = None
    reused: int = 0  # steps answered from earlier executions
    diverged: int = 0  # finished recorded steps that the function no longer asked for
    seq: int
    end_seq: int | None = None
    # context
    workflow: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    run_id: str
    number: int  # in its run, over all executions
    execution: int
    key: str  # branch, content hash, occurrence
    branch: str = ""
    kind: str
    name: str
    agent: str | None = None  # the agent that is called, or whose tool this is
    model: str | None = None  # the agent's declared model
    parent: int | None = None  # number of the agent step whose tool call this is
    tool_call_id: str | None = None
    status: str = RUNNING
    input: str = "null"  # JSON
    output: str | None = None  # JSON
    error_type: str | None = None
    error_detail: str | None = None  # JSON text: the traceback, or what of an answer does not fit; content
    started_at: int
    ended_at: int | None = None
    seq: int
    end_seq: int | None = None
    # context
    workflow: str = ""
    version: str = ""
    workflow_version: str | None = None
    reason: str = STARTED  # of its execution
    parent_key: str | None = None  # key of `parent`
    saved_pico: int | None = None  # what it had cost where it was paid; null: it was run here

    @property
    def reused(self) -> bool:
        """Answered in a fork from the source's journal: nothing was run or paid for it here."""
        return self.saved_pico is not None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    run_id: str
    step: int  # number of its step
    turn: int  # from 1 in its step
    number: int  # from 1 in its turn and execution
    model: str  # as declared by the agent
    provider: str
    url: str  # where it was sent
    stream: bool = False
    max_tokens: int = 0
    effort: str | None = None
    started_at: int
    first_chunk_at: int | None = None  # streamed answers only
    ended_at: int | None = None
    outcome: str | None = None  # ok or an error type
    http_status: int | None = None
    error_class: str | None = None  # the client's exception class, never its text
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    stop_reason: str | None = None
    usage: str = UNKNOWN
    input_uncached: int | None = None  # the classes are null while usage is unknown
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cost_pico: int | None = None  # null: no known price, or usage unknown
    price_version: str | None = None
    reserved_pico: int | None = None
    wait_ns: int = 0  # waited before it
    not_before: int | None = None  # when the next attempt of this turn may start
    final: bool = False  # the last attempt of its turn
    turn_started_at: int
    answer: str | None = None  # JSON: the turn's answer, where the step's output does not hold it
    seq: int
    end_seq: int | None = None
    # context
    execution: int = 1
    key: str = ""  # of its step
    agent: str = ""
    workflow: str = ""
    version: str = ""
    workflow_version: str | None = None
    reason: str = STARTED
    rate_limits: tuple[RateLimit, ...] = ()  # told by this answer's headers; not stored


class RateLimit(NamedTuple):
    """One rate limit as a response header told it: kind is requests, input_tokens or output_tokens."""

    kind: str
    limit: int
    remaining: int


@dataclass(frozen=True, kw_only=True)
class Note:
    """A value that a pattern wants counted (rounds, convergence, stragglers), or one that is recorded so that a
    later execution sees it again (now, uuid, random): then `key` identifies it as a step's key does.
    """

    run_id: str
    execution: int
    seq: int
    kind: str
    key: str = ""
    value: str = "null"  # JSON
    at: int
    # context
    workflow: str = ""


ENDED: Final = "ended"  # kind of the note that keeps an end of the run which a resume takes off its row

Record: TypeAlias = Run | Execution | Step | Attempt | Note
R = TypeVar("R", Run, Execution, Step, Attempt, Note)

# What happened to a record when it was committed.
OPENED: Final = "opened"  # inserted
NOTED: Final = "noted"  # more is known while it is open: a stream began
CLOSED: Final = "closed"  # ended (a note and an already ended step are only ever CLOSED)
SETTLED: Final = "settled"  # of an attempt that ended earlier: it turned out to be its turn's last


def changed(record: R, **fields: Any) -> R:
    """The same record with other values in some fields: `dataclasses.replace` at a tenth of its time.

    Records are plain frozen dataclasses: they check nothing when they are made.
    """
    values = vars(record)
    if not fields.keys() <= values.keys():
        raise TypeError(f"a {type(record).__name__} has no {', '.join(sorted(fields.keys() - values.keys()))}")
    made = object.__new__(type(record))
    vars(made).update(values)
    vars(made).update(fields)
    return made


class Change(NamedTuple):
    """One committed fact. Projections are pure functions of it."""

    verb: str
    record: Record


# ---- identity ----


def trace_id(run_id: str) -> str:
    """The run's trace id: the 32 hex digits of its UUID."""
    return run_id.replace("-", "")


def span_id(kind: SpanKind, run_id: str, execution: int = 0, key: str = "", turn: int = 0, number: int = 0) -> str:
    """16 hex digits: a 64-bit hash of a record's identity and the kind of span, never 0.

    The same record gives the same span id in every process, so exporting twice, or after a crash, gives the
    same span.
    """
    identity = f"{kind}\0{run_id}\0{execution}\0{key}\0{turn}\0{number}".encode()
    digest = hashlib.blake2b(identity, digest_size=8).hexdigest()
    return digest if digest != "0" * 16 else "0" * 15 + "1"


def execution_span_id(run_id: str, number: int) -> str:
    """The run's root span stands for execution 1; later executions have their own."""
    return span_id("run", run_id) if number == 1 else span_id("execution", run_id, number)


def step_span_id(step: Step) -> str:
    return span_id("step", step.run_id, step.execution, step.key)


def attempt_span_id(attempt: Attempt) -> str:
    return span_id("attempt", attempt.run_id, attempt.execution, attempt.key, attempt.turn, attempt.number)


def turn_span_id(attempt: Attempt) -> str:
    return span_id("turn", attempt.run_id, attempt.execution, attempt.key, attempt.turn)


def new_run_id(unix_ms: int, random_bytes: bytes) -> str:
    """A UUIDv7 (RFC 9562, 5.7) from a time in milliseconds and 10 random bytes."""
    value = (unix_ms & (2**48 - 1)) << 80 | int.from_bytes(random_bytes, "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))
