"""Whether a run's rows can all have been written by one history: executions, steps, turns and attempts have no gap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agentobs.audit.reading import Account
from agentobs.audit.spans import due
from agentobs.audit.tally import Tally
from agentobs.records import AGENT, SUCCEEDED, Attempt

KIND = "records"


def check(account: Account, tally: Tally) -> None:
    tally.compare(KIND)
    for text in _contradictions(account):
        tally.differ(KIND, text, [account.run_id])


def _contradictions(account: Account) -> Iterator[str]:
    if account.run is None:
        yield "records of a run that is not there"
        return
    yield from _gaps("execution", [one.number for one in account.executions])
    yield from _gaps("step", [one.number for one in account.steps])
    executions = {one.number for one in account.executions}
    steps = {one.number: one for one in account.steps}
    for step in account.steps:
        if step.execution not in executions:
            yield f"step {step.number} is of execution {step.execution}, which is not there"
        if step.parent is not None and step.parent not in steps:
            yield f"step {step.number} is called by step {step.parent}, which is not there"
    if account.run.ended_at is not None:
        ends = [one.ended_at for one in account.executions] + [one.ended_at for one in account.steps]
        ends += [one.ended_at for one in account.attempts]
        if left := ends.count(None):
            yield f"the run has ended, and {left} of its records are open"
    yield from _turns(account)
    known = due(account).keys()
    if missing := [key for key in account.owed if key not in known]:
        kind, number, turn, attempt = missing[0]
        place = "".join(f" {word} {n}" for word, n in (("number", number), ("turn", turn), ("attempt", attempt)) if n)
        yield f"the outbox owes the span of a record that is not there, or is open: {kind}{place}"


def _gaps(name: str, numbers: list[int]) -> Iterator[str]:
    expected = set(range(1, max(numbers, default=0) + 1))
    for number in sorted(expected - set(numbers)):
        yield f"{name} {number} is not there, and a later one is"


def _turns(account: Account) -> Iterator[str]:
    steps = {one.number: one for one in account.steps}
    turns: defaultdict[tuple[int, int], list[Attempt]] = defaultdict(list)
    paid: defaultdict[str, set[int]] = defaultdict(set)  # turns by the step's key, over all executions
    for attempt in account.attempts:
        turns[attempt.step, attempt.turn].append(attempt)
        paid[attempt.key].add(attempt.turn)
    for (number, turn), attempts in turns.items():
        where = f"step {number}, turn {turn}"
        if number not in steps:
            yield f"{where} is of a step that is not there"
            continue
        for gap in _gaps("attempt", [one.number for one in attempts]):
            yield f"{where}: {gap}"
        last = [one.number for one in attempts if one.final]
        if steps[number].ended_at is not None and last != [attempts[-1].number]:
            yield f"{where}: the last attempt is {attempts[-1].number}, marked as its turn's last is {last or 'none'}"
    for step in account.steps:
        if step.kind == AGENT and step.status == SUCCEEDED and not step.reused:
            told = paid.get(step.key, set())
            if not told:
                yield f"step {step.number} succeeded without an attempt"
            for gap in _gaps("turn", sorted(told)):
                yield f"step {step.number}: {gap}"
