"""An audit of a journal: one read-only transaction, one pass."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable

from agentobs.audit import structure
from agentobs.audit.bill import Bill, BillCheck
from agentobs.audit.costs import Costs
from agentobs.audit.reading import accounts, totals_of_all
from agentobs.audit.spans import Spans
from agentobs.audit.tally import Tally
from agentobs.audit.totals import Key, Totals
from agentobs.audit.usage_report import ReportCheck, UsageReport
from agentobs.drift import Audit
from agentobs.journal.protocol import NOT_REQUESTED, Deltas

Statement = Bill | UsageReport | None  # what the provider says


def audit(
    connect: Callable[[], sqlite3.Connection],
    *,
    deltas: Deltas,
    exported: str,
    statement: Statement = None,
    wall_ns: Callable[[], int] = time.time_ns,
) -> Audit:
    """Hold the books against each other. `exported` is the metric that counts spans by what became of them."""
    began = time.perf_counter_ns()
    tally = Tally()
    db = connect()
    try:
        db.execute("BEGIN")
        counted: defaultdict[Key, int] = defaultdict(int)
        for _, metric, labels, value in totals_of_all(db):
            counted[metric, tuple(json.loads(labels))] += value
        at = wall_ns()
        spans, costs = Spans(tally), Costs(tally)
        totals = Totals(tally, deltas, counted, apart={exported, NOT_REQUESTED, "opened"})
        bill = BillCheck(tally, statement) if isinstance(statement, Bill) else None
        report = ReportCheck(tally, statement) if isinstance(statement, UsageReport) else None
        tally.look_at(structure.KIND)
        for account in accounts(db):
            structure.check(account, tally)
            spans.see(account)
            totals.see(account)
            for attempt in account.attempts:
                costs.see(attempt)
                if bill is not None:
                    bill.see(attempt)
                if report is not None:
                    report.see(attempt)
    finally:
        db.close()
    spans.close(
        acknowledged=counted.get((exported, ("ok",)), 0) + counted.get((exported, ("rejected",)), 0),
        not_requested=counted.get((NOT_REQUESTED, ()), 0),
    )
    totals.close()
    costs.close()
    for check in (bill, report):
        if check is not None:
            check.close()
    return tally.result(at=at, took_ns=time.perf_counter_ns() - began)
