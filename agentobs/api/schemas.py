"""The shapes of the API's JSON. Requests are validated with them; of answers they are the documentation.

Answers are built by views.py and sent as they are: validating a large one again would block the event loop.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from agentobs.errors import NotFound, RequestError
from agentobs.journal.protocol import DEFAULT_LIMIT, RunQuery
from agentobs.records import (
    AGENT,
    ERROR_TYPES,
    EXACT,
    FUNCTION,
    OK,
    PARTIAL,
    REASONS,
    RUN_STATUSES,
    TOOL,
    UNKNOWN,
)

MAX_LIMIT: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_CURSOR_VERSION: Final = b"\x01"
_CURSOR: Final = "^A[Q-Za-f][A-Za-z0-9_-]{21}$"  # the version and 16 bytes
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT: Final = re.compile(r"(([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2})(-.*)?")


def one_of(words: Collection[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"should be one of {', '.join(words)}")
        return value

    return check


def _instant(value: object) -> datetime:
    try:
        # A '+' that was not percent-encoded arrives as a space.
        text = str(value).replace(" ", "+") if "T" in str(value) else str(value)
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("should be a date or time in ISO 8601, such as 2026-01-31T08:00:00Z") from None


def _tag(value: str) -> str:
    if not re.match(r"[^:]+:", value):
        raise ValueError("should be key:value")
    return value


Status: TypeAlias = Annotated[
    str, AfterValidator(one_of(RUN_STATUSES)), Field(json_schema_extra={"enum": [*RUN_STATUSES]})
]
ErrorType: TypeAlias = Annotated[
    str, AfterValidator(one_of(ERROR_TYPES)), Field(json_schema_extra={"enum": [*ERROR_TYPES]})
]
Instant: TypeAlias = Annotated[datetime, BeforeValidator(_instant)]
TagKey: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^:\x00-\x1f]+$")]
TagValue: TypeAlias = Annotated[str, StringConstraints(max_length=256)]
Dollars: TypeAlias = Annotated[str | None, Field(description="US dollars as exact decimal text; null: no known price.")]


class RunRequest(BaseModel):
    """What is to run."""

    model_config = ConfigDict(extra="forbid", title="RunRequest")

    workflow: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    input: Any = Field(None, description="The workflow's input; its schema is in GET /v1/workflows.")
    tags: Annotated[
        dict[TagKey, TagValue], Field(max_length=20, json_schema_extra={"additionalProperties": False})
    ] = {}


def whole(given: object) -> object:
    if isinstance(given, (str, bytes, bool)):
        raise ValueError("should be a whole number")  # noqa: TRY004 -- pydantic's way; 5.0 is one in JSON, "5" is none
    return given


class ForkRequest(BaseModel):
    """Where a fork begins anew, and what with."""

    model_config = ConfigDict(extra="forbid", title="ForkRequest")

    from_step: Annotated[int, Field(ge=1), BeforeValidator(whole)] = Field(
        description="Number of a step of the run; what had succeeded when it began is reused."
    )
    input: Any = Field(None, description="In place of the run's own; leave it out to keep that.")


class Selection(BaseModel):
    """Filters of runs."""

    model_config = ConfigDict(extra="forbid")

    workflow: Annotated[str, StringConstraints(max_length=64)] | None = None
    error_type: ErrorType | None = None
    tag: Annotated[str, AfterValidator(_tag), Field(json_schema_extra={"pattern": "^[^:]+:"})] | None = Field(
        None, description="key:value"
    )
    since: Instant | None = Field(None, description="Created at this time or later; UTC unless it says otherwise.")
    until: Instant | None = Field(None, description="Created before this time.")
    cursor: Annotated[str, Field(json_schema_extra={"pattern": _CURSOR})] | None = Field(
        None, description="next_cursor of the page before."
    )

    def page(self, limit: int, status: str | None, statuses: tuple[str, ...] = ()) -> RunQuery:
        """One run more than asked for, which tells whether there is a next page. Raises `RequestError`."""
        key, colon, value = (self.tag or "").partition(":")
        return RunQuery(
            workflow=self.workflow,
            status=status,
            statuses=statuses,
            error_type=self.error_type,
            tag=(key, value) if colon else None,
            since_ms=_unix_ms(self.since),
            until_ms=_unix_ms(self.until),
            before=from_cursor(self.cursor) if self.cursor is not None else None,
            limit=limit + 1,
        )


class Filters(Selection):
    """Which runs are listed."""

    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT

    def query(self) -> RunQuery:
        return self.page(self.limit, self.status)


def _unix_ms(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // timedelta(milliseconds=1)


def to_cursor(run_id: str) -> str:
    return base64.urlsafe_b64encode(_CURSOR_VERSION + uuid.UUID(run_id).bytes).decode().rstrip("=")


def from_cursor(cursor: str) -> str:
    """The run id after which the page begins. Raises `RequestError`."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 17 or raw[:1] != _CURSOR_VERSION:
        raise RequestError("the cursor is none of ours; expected next_cursor of an earlier answer, or no cursor")
    return str(uuid.UUID(bytes=raw[1:]))


def to_run_id(given: str) -> str:
    """The canonical run id from one in any case, or from a trace id. Raises `NotFound`."""
    if not _ID.fullmatch(given):
        raise NotFound("no run has this id; expected a UUID (36 characters) or a trace id (32 hex digits)")
    return str(uuid.UUID(given))


def to_traceparent(given: str | None) -> str | None:
    """A caller's W3C traceparent; None for a malformed one, which is to be ignored."""
    found = _TRACEPARENT.fullmatch(given or "")
    if not found:
        return None
    header, version, trace, parent, more = found.groups()
    # Version 00 ends with its flags; a later one may go on, and is read as far as it is known.
    good = version != "ff" and int(trace, 16) and int(parent, 16) and not (version == "00" and more)
    return header if good else None


class Tokens(BaseModel):
    """Input includes cache, reasoning is inside output, total = input + output."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    total: int


class RunError(BaseModel):
    type: ErrorType
    message: str | None
    step: int | None
    agent: str | None


class Summary(BaseModel):
    id: str = Field(description="UUIDv7.")
    trace_id: str = Field(description="The id's 32 hex digits.")
    workflow: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    total_ms: float | None = Field(description="From creation to end.")
    steps: int = Field(description="Distinct steps.")
    step_names: list[str] = Field(description="One for each distinct step, in the order of their first start.")
    attempts: int
    retries: int = Field(description="Attempts beyond the first of their turn.")
    tokens: Tokens
    usage_inexact: int = Field(description="Ended attempts whose usage the provider told in part or never.")
    cost_usd: Dollars
    error: RunError | None
    tags: dict[str, str]


class AttemptView(BaseModel):
    number: int = Field(description="From 1 in its turn.")
    turn: int
    span_id: str
    model: str
    response_model: str | None
    outcome: str | None = Field(description=f"{OK} or an error type; null while it runs.")
    http_status: int | None
    request_id: str | None
    stop_reason: str | None
    wait_ms: float = Field(description="Waited before it.")
    started_at: datetime
    time_to_first_chunk_ms: float | None
    duration_ms: float | None
    tokens: Tokens | None = Field(description="Null when unknown.")
    usage: str = Field(json_schema_extra={"enum": [EXACT, PARTIAL, UNKNOWN]})
    cost_usd: Dollars


class AttemptEvent(AttemptView):
    """An attempt in the stream of a run's events."""

    step: int = Field(description="Number of its step.")
    execution: int
    agent: str


class StepView(BaseModel):
    """One row; a step cut off in one execution and run again in the next stands twice."""

    number: int
    execution: int
    kind: str = Field(json_schema_extra={"enum": [AGENT, TOOL, FUNCTION]})
    name: str
    branch: str
    input_preview: str | None = Field(description="At most 200 characters.")
    output_preview: str | None = Field(description="At most 200 characters; null while it runs.")
    status: str
    error_type: ErrorType | None = Field(description="Why it did not succeed; null where it did, or still runs.")
    duration_ms: float | None
    started_at: datetime
    reused: bool = Field(description="Answered in a fork from the source run's journal.")
    tokens: Tokens
    cost_usd: Dollars
    attempts: list[AttemptView]


class StepDetail(StepView):
    """A step as a run's detail has it."""

    error_detail: str | None = Field(
        description="The traceback where its own code raised; of output_invalid what did not fit, a field a line. "
        "Content: shown here alone."
    )


class ExecutionView(BaseModel):
    number: int
    reason: str = Field(json_schema_extra={"enum": [*REASONS]})
    worker: str
    workflow_version: str | None = Field(description="What the workflow's code called itself; null where it had none.")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None


class ForkedFrom(BaseModel):
    run_id: str
    step: int


class Detail(Summary):
    input: Any
    output: Any
    error_detail: str | None = Field(
        description="The traceback, where the workflow itself raised. Content: shown here alone."
    )
    forked_from: ForkedFrom | None
    forked_to: list[str] = Field(description="Ids of the runs that were forked from it.")
    executions: list[ExecutionView]
    steps: list[StepDetail]  # type: ignore[assignment]  # a summary counts them


class RunList(BaseModel):
    runs: list[Summary]
    next_cursor: str | None


class AgentView(BaseModel):
    name: str
    model: str


class WorkflowView(BaseModel):
    name: str
    version: str | None = Field(description="What this process's code of it calls itself.")
    description: str
    input_schema: dict[str, Any]
    agents: list[AgentView]


class WorkflowList(BaseModel):
    workflows: list[WorkflowView]


class Health(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    reasons: list[str] = []


class FieldProblem(BaseModel):
    location: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []
