"""The shape in which `agentobs audit` hands its result to the service that owns the journal."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agentobs.drift import DRIFT_KINDS, FINDINGS, RUN_IDS, TEXT, Audit, Finding

Kind: TypeAlias = Literal[tuple(DRIFT_KINDS)]  # type: ignore[valid-type]  # one list of kinds
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**53)]
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

    at: int = Field(ge=0, lt=2**63, description="When the journal was read, nanoseconds since the Unix epoch.")
    took_ns: int = Field(ge=0, lt=2**63)
    compared: Counts = Field(description="Agreements and differences together, by kind.")
    drift: Counts = Field(description="Differences, by kind.")
    findings: list[FindingBody] = Field(default=[], max_length=FINDINGS * len(DRIFT_KINDS))
    remarks: list[Line] = Field(default=[], max_length=20)

    def audit(self) -> Audit:
        return Audit(
            at=self.at,
            took_ns=self.took_ns,
            compared=self.compared,
            drift=self.drift,
            findings=tuple(Finding(kind=one.kind, text=one.text, run_ids=tuple(one.run_ids)) for one in self.findings),
            remarks=tuple(self.remarks),
        )


class Recorded(BaseModel):
    id: int = Field(description="The audit's number in the journal.")
