"""Which runs a bulk call is for, and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentobs.api.schemas import Selection, one_of, whole
from agentobs.journal.protocol import RunQuery
from agentobs.records import CANCELLED, FAILED, RUN_STATUSES, TERMINAL

MAX_BULK: Final = 1000  # runs that one call cancels or resumes
UNENDED: Final = tuple(status for status in RUN_STATUSES if status not in TERMINAL)
RESUMABLE: Final = (FAILED, CANCELLED)
_Unended: TypeAlias = Annotated[str, AfterValidator(one_of(UNENDED)), Field(json_schema_extra={"enum": [*UNENDED]})]
_Stopped: TypeAlias = Annotated[str, AfterValidator(one_of(RESUMABLE)), Field(json_schema_extra={"enum": [*RESUMABLE]})]

_SELECTING: Final = ("workflow", "status", "error_type", "tag", "since", "until")


def _bulk(schema: dict[str, Any]) -> None:
    """What the validators below hold: a filter, or all said outright; and what is not meant is left out, not null."""
    for found in schema["properties"].values():
        kinds = found.pop("anyOf", [])
        found.update(next((kind for kind in kinds if kind != {"type": "null"}), {}))
        if found.get("default", "") is None:
            del found["default"]
    schema["anyOf"] = [{"required": [name]} for name in _SELECTING]
    schema["anyOf"].append({"required": ["all"], "properties": {"all": {"const": True}}})


class _BulkRequest(Selection):
    """Filters as GET /v1/runs has them. At least one, or `all`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_bulk)

    all: bool = Field(default=False, strict=True, description="Said outright where no filter is meant.")
    dry_run: bool = Field(default=False, strict=True, description="Tell what fits; nothing is done.")
    limit: Annotated[int, Field(ge=1, le=MAX_BULK), BeforeValidator(whole)] = Field(
        MAX_BULK, description="Runs a call."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict) and None in given.values():
            raise ValueError("null means nothing here; leave the field out")
        return given

    @model_validator(mode="after")
    def _some_filter(self) -> Self:
        if not self.all and self.model_fields_set.isdisjoint(_SELECTING):
            raise ValueError(f"should have a filter ({', '.join(_SELECTING)}), or all: true")
        return self


class CancelRequest(_BulkRequest):
    """Which runs to cancel: filters as GET /v1/runs has them, at least one, or `all`. The newest first."""

    model_config = ConfigDict(title="CancelRequest")

    status: _Unended | None = Field(None, description="Without it: every run that has not ended.")

    def query(self) -> RunQuery:
        return self.page(self.limit, self.status, () if self.status else UNENDED)


class ResumeRequest(_BulkRequest):
    """Which runs to resume: filters as GET /v1/runs has them, at least one, or `all`. The newest first."""

    model_config = ConfigDict(title="ResumeRequest")

    status: _Stopped | None = Field(None, description="Without it: failed. What was cancelled was so on purpose.")

    def query(self) -> RunQuery:
        return self.page(self.limit, self.status or FAILED)


class BulkAnswer(BaseModel):
    """What one call came upon and did."""

    matched: int = Field(description="Runs that fitted, on this page.")
    acted: int = Field(description="Of them, those cancelled or resumed; the others had changed meanwhile.")
    run_ids: list[str] = Field(description="Those acted on; of a dry run those matched.")
    next_cursor: str | None = Field(description="More may fit: send it with the same body.")
