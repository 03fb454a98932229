"""What an audit finds: differences between books that must agree, by kind. A record of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# The closed set of kinds, each with what it means to an operator. They are labels of a metric, and stored.
DRIFT_KINDS: Final[dict[str, str]] = {
    "records": "a run's rows contradict each other: one is missing, or open where all has ended",
    "cost": "an attempt's cost is not what its tokens cost by the price data that it names",
    "totals": "a counter's running total is not the sum of the records",
    "spans": "spans of committed records were neither acknowledged by the trace backend nor are they still owed",
    "bill_unknown": "the bill has a request that no attempt of the journal made",
    "bill_twice": "the bill has several requests of one attempt",
    "bill_differs": "the bill and an attempt whose usage is exact disagree, or the bill has less than was told",
    "bill_missing": "an attempt that was answered is not on the bill",
    "usage_report": "the provider's usage report and the journal disagree on a model's tokens",
}

RUN_IDS: Final = 5  # named behind a finding
FINDINGS: Final = 20  # kept of a kind; all are counted
TEXT: Final = 400  # characters of a finding's or a remark's text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference, told in numbers; `run_ids` are runs behind it, at most `RUN_IDS` of them."""

    kind: str
    text: str
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One audit. `compared` and `drift` count by kind; a kind that was not looked at (no bill) is in neither."""

    at: int  # of the journal that was read, ns
    took_ns: int
    compared: Mapping[str, int]  # agreements and differences together
    drift: Mapping[str, int]
    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()  # what was left out, and why

    @property
    def differences(self) -> int:
        return sum(self.drift.values())
