"""Anthropic's Usage report (`GET /v1/organizations/usage_report/messages`, grouped by model), against the journal.

It has buckets of time and no requests: sums by bucket and model are all that can be compared.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from agentobs.audit.bill import CLASSES
from agentobs.audit.tally import Tally
from agentobs.drift import RUN_IDS
from agentobs.errors import UsageError
from agentobs.records import EXACT, NS, Attempt

KIND: Final = "usage_report"
_SNAPSHOT: Final = re.compile(r"[-@]20\d{6}$")


@dataclass(frozen=True, kw_only=True)
class UsageReport:
    buckets: Sequence[tuple[int, int]]  # begin and end (ns), in order, apart
    told: Mapping[tuple[int, str], Sequence[int]]  # by bucket and model: tokens in the order of CLASSES
    more: bool  # it is one page of several


@dataclass
class _Sum:
    least: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    most: list[int] = field(default_factory=lambda: [0] * len(CLASSES))  # with those that ran over an edge
    inexact: int = 0
    run_ids: list[str] = field(default_factory=list)


def read_report(pages: Sequence[Mapping[str, Any]]) -> UsageReport:
    """Raises `UsageError` for what is no usage report, or one that is not grouped by model."""
    times: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    try:
        for page in pages:
            for bucket in page["data"]:
                span = (_ns(bucket["starting_at"]), _ns(bucket["ending_at"]))
                times.setdefault(span, []).extend(bucket["results"])
        buckets = sorted(times)
        told: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * len(CLASSES))
        for number, span in enumerate(buckets):
            for result in times[span]:
                if not isinstance(result["model"], str):
                    raise UsageError(
                        "the usage report names no models; fetch it with group_by[]=model, and with api_key_ids[] of "
                        "the key that agentobs uses"
                    )
                sums = told[number, _model(result["model"])]
                written = result["cache_creation"]
                counts = (
                    result["uncached_input_tokens"],
                    result["output_tokens"],
                    result["cache_read_input_tokens"],
                    written["ephemeral_5m_input_tokens"] + written["ephemeral_1h_input_tokens"],
                )
                for at, count in enumerate(counts):
                    sums[at] += int(count)
        return UsageReport(buckets=buckets, told=dict(told), more=bool(pages and pages[-1].get("has_more")))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(
            "the usage report is none of Anthropic's; expected data, each with starting_at, ending_at and results, as "
            "GET /v1/organizations/usage_report/messages answers"
        ) from None


class ReportCheck:
    def __init__(self, tally: Tally, report: UsageReport) -> None:
        self._tally = tally
        self._report = report
        self._begins = [begin for begin, _ in report.buckets]
        self._sums: defaultdict[tuple[int, str], _Sum] = defaultdict(_Sum)
        tally.look_at(KIND)
        if report.more:
            tally.remark("usage report: has_more is true, and what follows is not looked at")

    def see(self, attempt: Attempt) -> None:
        if attempt.provider != "anthropic":
            return
        model = _model(attempt.response_model or attempt.model)
        at = {self._bucket(attempt.started_at), self._bucket(attempt.ended_at or attempt.started_at)} - {None}
        for number in at:
            assert number is not None
            found = self._sums[number, model]
            found.inexact += attempt.usage != EXACT
            for place, name in enumerate(CLASSES):
                count = getattr(attempt, name) or 0
                found.most[place] += count
                found.least[place] += count if self._within(attempt, number) else 0
            if attempt.run_id not in found.run_ids[-1:]:
                found.run_ids.append(attempt.run_id)
                del found.run_ids[:-RUN_IDS]

    def close(self) -> None:
        for number, model in sorted(self._report.told.keys() | self._sums.keys()):
            told = self._report.told.get((number, model), [0] * len(CLASSES))
            held = self._sums[number, model]
            begin = datetime.fromtimestamp(self._report.buckets[number][0] // NS, UTC).isoformat()
            for name, billed, least, most in zip(CLASSES, told, held.least, held.most, strict=True):
                self._tally.compare(KIND)
                if billed < least or (billed > most and not held.inexact):
                    text = f"{model} from {begin}: {name} {billed} in the report, {most} in the journal"
                    self._tally.differ(KIND, text, reversed(held.run_ids))

    def _bucket(self, at: int) -> int | None:
        number = bisect_right(self._begins, at) - 1
        return number if number >= 0 and at < self._report.buckets[number][1] else None

    def _within(self, attempt: Attempt, number: int) -> bool:
        begin, end = self._report.buckets[number]
        return begin <= attempt.started_at and attempt.ended_at is not None and attempt.ended_at < end


def _model(name: str) -> str:
    """Without its date: an alias is answered by a snapshot."""
    return _SNAPSHOT.sub("", name)


def _ns(text: str) -> int:
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()) * NS
