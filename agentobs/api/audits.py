"""The shape in which `agentobs audit` hands its result to the service that owns the journal."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from agentobs.api.schemas import whole
from agentobs.drift import DRIFT_KINDS, FINDINGS, RUN_IDS, TEXT, Audit, Finding

Kind: TypeAlias = Literal[tuple(DRIFT_KINDS)]  # type: ignore[valid-type]  # one list of kinds
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(whole)]
# No upper bound: JSON's numbers are too coarse to state that of the journal's integers.
Nanoseconds: TypeAlias = Annotated[int, Field(ge=0), BeforeValidator(whole)]
_MOST: Final = 2**63 - 1
Counts: TypeAlias = dict[Kind, Count]
# Told in an audit's own words and numbers, so ASCII; anything else is escaped before it is sent.
Line: TypeAlias = Annotated[str, StringConstraints(max_length=TEXT)]
RunId: TypeAlias = Annotated[str, StringConstraints(max_length=36)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FindingBody(_Strict):
    kind: Kind
    text: Line
    run_ids: list[RunId] = Field(default=[], max_length=RUN_IDS)


class AuditBody(_Strict):
    """What an audit found. A kind that was not looked at is left out of `compared` and `drift`."""

    at: Nanoseconds = Field(description="When the journal was read, since the Unix epoch.")
    took_ns: Nanoseconds
    compared: Counts = Field(description="Agreements and differences together, by kind.")
    drift: Counts = Field(description="Differences, by kind.")
    findings: list[FindingBody] = Field(default=[], max_length=FINDINGS * len(DRIFT_KINDS))
    remarks: list[Line] = Field(default=[], max_length=20)

    def audit(self) -> Audit:
        return Audit(
            at=min(self.at, _MOST),
            took_ns=min(self.took_ns, _MOST),
            compared=self.compared,
            drift=self.drift,
            findings=tuple(Finding(kind=one.kind, text=one.text, run_ids=tuple(one.run_ids)) for one in self.findings),
            remarks=tuple(self.remarks),
        )


class Recorded(BaseModel):
    id: int = Field(description="The audit's number in the journal.")
