"""Where the checks put what they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agentobs.drift import FINDINGS, RUN_IDS, TEXT, Audit, Finding


class Tally:
    """Counts by kind, and the first findings of each."""

    def __init__(self) -> None:
        self._compared: Counter[str] = Counter()
        self._drift: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._remarks: list[str] = []

    def look_at(self, *kinds: str) -> None:
        """These kinds are looked at: they count from 0."""
        for kind in kinds:
            self._compared[kind] += 0
            self._drift[kind] += 0

    def compare(self, kind: str, count: int = 1) -> None:
        self._compared[kind] += count

    def differ(self, kind: str, text: str, run_ids: Iterable[str] = (), *, count: int = 1) -> None:
        before = self._drift[kind]
        self._drift[kind] += count
        if before < FINDINGS:
            self._findings.append(Finding(kind=kind, text=text[:TEXT], run_ids=tuple(run_ids)[:RUN_IDS]))

    def remark(self, text: str) -> None:
        self._remarks.append(text[:TEXT])

    def result(self, *, at: int, took_ns: int) -> Audit:
        return Audit(
            at=at,
            took_ns=took_ns,
            compared=dict(self._compared),
            drift=dict(self._drift),
            findings=tuple(self._findings),
            remarks=tuple(self._remarks),
        )
