"""Discrepancies to plant in a copied journal or bill, each an edit of a folder that tells which run it is of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.acceptance.books import read_journal


def sql(folder: Path, statement: str, *params: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "agentobs.db", isolation_level=None)) as db:
        return db.execute(statement, params).fetchall()


OK = "outcome = 'ok' AND usage = 'exact' AND output > 0 AND cost_pico > 0"  # one model has no price
Edit = Callable[[Path], str | None]  # edits a copy; the run it is of, if a run can be told


def one_attempt(folder: Path, where: str = OK) -> tuple[str, int, int, int]:
    found = sql(
        folder, f"SELECT run_id, step, turn, number FROM attempts WHERE {where} ORDER BY run_id LIMIT 1 OFFSET 5"
    )
    return found[0]


def changed_attempt(assignment: str, where: str = OK) -> Edit:
    def edit(folder: Path) -> str:
        place = one_attempt(folder, where)
        where_it_is = "run_id = ? AND step = ? AND turn = ? AND number = ?"
        sql(folder, f"UPDATE attempts SET {assignment} WHERE {where_it_is}", *place)
        return place[0]

    return edit


def missing_attempt(where: str) -> Edit:
    def edit(folder: Path) -> str:
        found = sql(folder, f"SELECT a.rowid, a.run_id FROM attempts a WHERE {where} LIMIT 1")
        sql(folder, "DELETE FROM attempts WHERE rowid = ?", found[0][0])
        return found[0][1]

    return edit


def deleted(table: str, where: str, run_id: str = "run_id") -> Edit:
    def edit(folder: Path) -> str:
        row = sql(folder, f"SELECT * FROM {table} WHERE {where} LIMIT 1")[0]
        columns = [column[1] for column in sql(folder, f"PRAGMA table_info({table})")]
        named = dict(zip(columns, row, strict=True))
        key = {name: named[name] for name in columns if name in {"id", "run_id", "number"}}
        sql(folder, f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in key)}", *key.values())
        return named[run_id]

    return edit


def total(statement: str) -> Edit:
    """Of a counter: the run that is named is one of those that added to it."""

    def edit(folder: Path) -> str:
        ((labels, run_id),) = sql(
            folder,
            "SELECT t.labels, max(a.run_id) FROM totals t, attempts a JOIN steps s ON s.run_id = a.run_id "
            "AND s.number = a.step JOIN runs r ON r.id = a.run_id WHERE t.metric = 'agentobs_attempts_total' AND "
            "replace(t.labels, ', ', ',') = json_array(r.workflow, s.agent, a.model, a.outcome) GROUP BY 1 LIMIT 1",
        )
        sql(folder, f"{statement} WHERE metric = 'agentobs_attempts_total' AND labels = ?", labels)
        return run_id

    return edit


def dropped_row(folder: Path) -> str:
    row, run_id = sql(folder, "SELECT id, run_id FROM outbox WHERE spans LIKE '%attempt%' ORDER BY id LIMIT 1")[0]
    sql(folder, "DELETE FROM outbox WHERE id = ?", row)
    return run_id


def edited_bill(edit: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> Edit:
    def apply(folder: Path) -> str:
        file = folder / "bill.json"
        bill = json.loads(file.read_text())
        attempts = read_journal(folder / "agentobs.db").attempt
        exact = {ref: row for ref, row in attempts.items() if row["outcome"] == "ok"}
        # Not of the first ones: attempts begun before the bill's first line are not looked for on it.
        line = [line for line in bill["requests"] if line["client_ref"] in exact][-10]
        edit(bill["requests"], line)
        file.write_text(json.dumps(bill))
        return exact[line["client_ref"]]["run_id"]

    return apply


def more_output(_: list[dict[str, Any]], line: dict[str, Any]) -> None:
    line["usage"]["output_tokens"] += 3


def second_line(lines: list[dict[str, Any]], line: dict[str, Any]) -> None:
    lines.append(line | {"request_id": "req_again"})


def stranger(lines: list[dict[str, Any]], line: dict[str, Any]) -> None:
    lines.append(line | {"request_id": "req_stranger", "client_ref": None})


def no_line(lines: list[dict[str, Any]], line: dict[str, Any]) -> None:
    lines.remove(line)


RETRIED = "a.number = 1 AND NOT a.final"
ALONE = (
    "a.outcome = 'ok' AND (SELECT count(*) FROM attempts b JOIN steps s ON s.run_id = b.run_id AND s.number = b.step "
    "WHERE b.run_id = a.run_id AND s.key = (SELECT key FROM steps WHERE run_id = a.run_id AND number = a.step)) = 1"
)
# What is planted, and the kinds that must be found; those in the first set name its run.
PLANTED: dict[str, tuple[Edit, set[str], set[str]]] = {
    "an attempt's tokens": (changed_attempt("output = output + 7"), {"cost", "bill_differs"}, {"totals"}),
    "an attempt's cost": (changed_attempt("cost_pico = cost_pico + 1000"), {"cost"}, {"totals"}),
    "an attempt's model": (changed_attempt("model = 'claude-other'"), {"bill_differs"}, {"totals"}),
    "an attempt is open": (changed_attempt("ended_at = NULL"), {"records"}, {"totals"}),
    "a retried attempt is missing": (missing_attempt(RETRIED), {"records"}, {"totals", "bill_unknown"}),
    "a step's only attempt is missing": (missing_attempt(ALONE), {"records"}, {"totals", "bill_unknown"}),
    "a step is missing": (deleted("steps", "number = 2"), {"records"}, {"totals", "bill_unknown"}),
    "an execution is missing": (
        deleted("executions", "number = 1 AND reason = 'started' AND outcome = 'interrupted'"),
        {"records"},
        {"totals"},
    ),
    "a run is missing": (deleted("runs", "status = 'succeeded'", "id"), {"records"}, {"totals"}),
    "a total is wrong": (total("UPDATE totals SET value = value + 1"), {"totals"}, set()),
    "a total is missing": (total("DELETE FROM totals"), {"totals"}, set()),
    "a row of the outbox is dropped": (dropped_row, {"spans"}, set()),
    "the bill has another usage": (edited_bill(more_output), {"bill_differs"}, set()),
    "the bill has an attempt twice": (edited_bill(second_line), {"bill_twice"}, set()),
    "the bill has a stranger's request": (edited_bill(stranger), set(), {"bill_unknown"}),
    "the bill lacks an attempt": (edited_bill(no_line), {"bill_missing"}, set()),
}
