"""Spans: those that the records call for are acknowledged, still owed, or were never asked for."""

from __future__ import annotations

import heapq
from typing import Final

from agentobs.audit.reading import Account, SpanKey
from agentobs.audit.tally import Tally

KIND: Final = "spans"
_NAMED: Final = 1000  # of the latest spans that are not owed, kept to say whose are missing


def due(account: Account) -> dict[SpanKey, int]:
    """The spans that the run's committed records call for, each with when it ended. See `rows.owed_spans`."""
    found: dict[SpanKey, int] = {}
    run = account.run
    if run is not None and run.first_ended_at is not None:
        found["run", 0, 0, 0] = run.first_ended_at
    for execution in account.executions:
        if execution.number > 1 and execution.ended_at is not None:
            found["execution", execution.number, 0, 0] = execution.ended_at
    for step in account.steps:
        if step.ended_at is not None and not step.reused:
            found["step", step.number, 0, 0] = step.ended_at
    for one in account.attempts:
        if one.ended_at is not None:
            found["attempt", one.step, one.turn, one.number] = one.ended_at
            if one.final:
                found["turn", one.step, one.turn, one.number] = one.ended_at
    return found


class Spans:
    """Counts what is due and not owed, to be held against what was acknowledged.

    The journal keeps no line of a span that was delivered, only how many were. Delivery goes in the order of the
    commits: so what is missing is most likely the latest of what is no longer owed.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._gone = 0  # due, and no longer owed
        self._latest: list[tuple[int, str]] = []
        tally.look_at(KIND)

    def see(self, account: Account) -> None:
        called = due(account)
        self._tally.compare(KIND, 0 if account.withheld else len(called))
        if account.withheld:
            return
        owed = set(account.owed)
        for key, at in called.items():
            if key in owed:
                continue
            self._gone += 1
            if len(self._latest) < _NAMED:
                heapq.heappush(self._latest, (at, account.run_id))
            elif at > self._latest[0][0]:
                heapq.heapreplace(self._latest, (at, account.run_id))

    def close(self, *, acknowledged: int, not_requested: int) -> None:
        """More than was due is no difference: what was sent and not marked before a crash is sent and counted again."""
        missing = self._gone - acknowledged - not_requested
        if missing <= 0:
            return
        named = dict.fromkeys(run_id for _, run_id in heapq.nlargest(missing, self._latest))
        self._tally.differ(
            KIND,
            f"{missing} spans are neither acknowledged nor owed: {self._gone} are no longer owed, {acknowledged} were "
            f"acknowledged, {not_requested} never asked for; most likely those that ended last",
            named,
            count=missing,
        )
