"""A journal run by run, in the order of their ids: however large it is, one run at a time is in memory.

No content is read: inputs, outputs, answers and tracebacks stay where they are.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from agentobs.journal.rows import CARRY, CONTENT, R
from agentobs.records import Attempt, Execution, Note, Run, Step

SpanKey: TypeAlias = tuple[str, int, int, int]  # kind; number of the execution or step, turn, attempt

_ORDER: Final[dict[type, str]] = {
    Run: "id",
    Execution: "run_id, number",
    Step: "run_id, number",
    Attempt: "run_id, step, turn, number",
    Note: "run_id, seq",
}


@dataclass(kw_only=True)
class Account:
    """Everything recorded under one run id. `run` is None, and a list holds orphans, where a row is missing."""

    run_id: str
    run: Run | None = None
    executions: list[Execution] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)  # in order of step, turn, number
    notes: list[Note] = field(default_factory=list)
    owed: list[SpanKey] = field(default_factory=list)  # by the outbox
    reused: dict[int, int] = field(default_factory=dict)  # steps that a fork's source answered: what they had cost
    withheld: bool = False  # sampling keeps its spans back


class _Row(NamedTuple):
    run_id: str
    found: Any


def accounts(db: sqlite3.Connection) -> Iterator[Account]:
    """Every run, inside the transaction that the caller has begun."""
    streams = {
        "runs": _records(db, Run),
        "executions": _records(db, Execution),
        "steps": _records(db, Step),
        "attempts": _records(db, Attempt),
        "notes": _records(db, Note),
        "reused": _rows(db, "SELECT run_id, json_array(step, saved_pico) FROM reused_steps ORDER BY run_id, step"),
        "owed": _rows(db, "SELECT run_id, spans FROM outbox ORDER BY run_id, id"),
        "withheld": _rows(db, "SELECT run_id, 1 FROM withheld ORDER BY run_id"),
    }
    heads = {name: next(stream, None) for name, stream in streams.items()}
    while waiting := [head.run_id for head in heads.values() if head is not None]:
        account = Account(run_id=min(waiting))
        for name, stream in streams.items():
            head = heads[name]
            while head is not None and head.run_id == account.run_id:
                _take(account, name, head.found)
                head = next(stream, None)
            heads[name] = head
        yield _with_context(account)


def _take(account: Account, name: str, found: Any) -> None:
    if name == "runs":
        account.run = found
    elif name == "owed":
        account.owed += [tuple(span) for span in json.loads(found)]
    elif name == "reused":
        account.reused.update([json.loads(found)])
    elif name == "withheld":
        account.withheld = True
    else:
        getattr(account, name).append(found)


def _with_context(account: Account) -> Account:
    """Records get what they need of their parents; those without parents stay as they are."""
    if account.run is None:
        return account
    workflow = account.run.workflow
    for one in (*account.executions, *account.steps, *account.attempts, *account.notes):
        vars(one)["workflow"] = workflow  # just made, and nobody's yet: no copy is needed
    steps = {step.number: step for step in account.steps}
    for number, saved_pico in account.reused.items():
        if number in steps:
            vars(steps[number])["saved_pico"] = saved_pico
    for attempt in account.attempts:
        if (step := steps.get(attempt.step)) is not None:
            vars(attempt).update(agent=step.agent or "", execution=step.execution, key=step.key)
    return account


def _records(db: sqlite3.Connection, kind: type[R]) -> Iterator[_Row]:
    """Records are made without their constructor, which would take most of an audit's time."""
    table, left_out = f"{kind.__name__.lower()}s", CONTENT.get(kind, {})
    known = {found.name for found in dataclasses.fields(kind)} - left_out.keys()
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] in known]
    defaults = {
        found.name: found.default for found in dataclasses.fields(kind) if found.default is not dataclasses.MISSING
    }
    defaults.update(left_out)
    place = columns.index("id" if kind is Run else "run_id")
    # Names of our own tables and columns, nothing that anybody wrote.
    for row in db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {_ORDER[kind]}"):  # noqa: S608
        made = object.__new__(kind)
        values = vars(made)
        values.update(defaults)
        values.update(zip(columns, row, strict=True))
        if kind is Attempt:
            values["final"], values["stream"] = bool(values["final"]), bool(values["stream"])
        yield _Row(row[place], made)


def attempts(db: sqlite3.Connection) -> Iterator[Attempt]:
    """All of them, without what stands in the rows of their steps and runs."""
    return (row.found for row in _records(db, Attempt))


def _rows(db: sqlite3.Connection, query: str) -> Iterator[_Row]:
    return (_Row(*row) for row in db.execute(query))


def totals_of_all(db: sqlite3.Connection) -> Sequence[tuple[str, str, str, int]]:
    """The totals of all workers: worker, metric, label values as JSON, value."""
    return [
        (worker, metric, labels, carry * CARRY + value)
        for worker, metric, labels, carry, value in db.execute(
            "SELECT worker, metric, labels, carry, value FROM totals"
        )
    ]
