"""The running totals of all workers against what the records come to by the function that counted them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from agentobs.audit.reading import Account
from agentobs.audit.tally import Tally
from agentobs.drift import RUN_IDS
from agentobs.journal.protocol import Deltas, Labels
from agentobs.records import CLOSED, ENDED, OPENED, Change, Record

KIND: Final = "totals"
Key = tuple[str, Labels]


class Totals:
    """`counted`: the totals by metric and label values, over all workers. `apart`: metrics that no record tells of."""

    def __init__(self, tally: Tally, deltas: Deltas, counted: Mapping[Key, int], apart: Collection[str]) -> None:
        self._tally = tally
        self._deltas = deltas
        self._counted = {key: value for key, value in counted.items() if key[0] not in apart}
        self._due: defaultdict[Key, int] = defaultdict(int)
        self._behind: defaultdict[Key, list[str]] = defaultdict(list)  # the latest runs that added to it
        tally.look_at(KIND)

    def see(self, account: Account) -> None:
        if account.run is None:
            return  # without a workflow: told as a missing row
        for change in _changes(account):
            for metric, labels, value in self._deltas(change):
                key = (metric, labels)
                self._due[key] += value
                behind = self._behind[key]
                if not behind or behind[-1] != account.run_id:
                    behind.append(account.run_id)
                    del behind[:-RUN_IDS]

    def close(self) -> None:
        for key in sorted(self._due.keys() | self._counted.keys()):
            due, told = self._due.get(key, 0), self._counted.get(key, 0)
            self._tally.compare(KIND)
            if due != told:
                metric, labels = key
                text = f"{metric} {json.dumps(labels)}: the counter stands at {told}, the records come to {due}"
                self._tally.differ(KIND, text, reversed(self._behind.get(key, [])))


def _changes(account: Account) -> list[Change]:
    """What counted, when it was committed. A turn that was settled later adds what it would have added at its end."""
    assert account.run is not None
    records: list[tuple[str, Record]] = [(OPENED, one) for one in account.executions]
    records += [(CLOSED, step) for step in account.steps if step.ended_at is not None]
    records += [(CLOSED, attempt) for attempt in account.attempts if attempt.ended_at is not None]
    for note in account.notes:
        records.append((CLOSED, note))
        if note.kind == ENDED:  # an end that a resume took off the run's row
            then = json.loads(note.value)
            records.append((CLOSED, replace(account.run, status=then["status"], error_type=then["error_type"])))
    if account.run.ended_at is not None:
        records.append((CLOSED, account.run))
    return [Change(verb, record) for verb, record in records]
