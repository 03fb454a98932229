"""The four books, read independently of each other and of the code under test, and what must hold between them.

- the **bill**: what the simulator would charge, a line a request
- the **journal**: its tables, read with SQL of our own after the fact
- the **spans** that the sink took
- the **metrics** of the last scrape

Of the code under test only `records.span_id` is used: it is part of the interface (the simulator is told of an attempt
by its span id).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from genai_prices import Usage as PriceUsage
from genai_prices import calc_price

from agentobs.records import span_id
from tests.otlp_sink import SinkSpan

Row: TypeAlias = dict[str, Any]
Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = Mapping[str, Mapping[Labels, float]]

CLASSES = ("input_uncached", "output", "cache_read", "cache_write")
SPAN_NAMES = {"agent": "invoke_agent", "tool": "execute_tool", "function": "step"}
NS = 10**9
PICO = 10**12
# How an attempt can have ended whose usage the provider told in part or never.
INEXACT = {
    "timeout", "connection_error", "stream_truncated", "stream_error", "bad_response", "cancelled", "interrupted",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the bill, its usage by our classes."""

    request_id: str
    client_ref: str | None
    at_ns: int
    model: str | None
    status: int | None
    stream: bool
    fault: str | None
    aborted: bool
    usage: dict[str, int]

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Line:
        usage = line["usage"]
        return cls(
            request_id=line["request_id"],
            client_ref=line["client_ref"],
            at_ns=int(datetime.fromisoformat(line["at"]).timestamp() * 1_000_000) * 1000,
            model=line["model"],
            status=line["status"],
            stream=line["stream"],
            fault=line["fault"],
            aborted=line["aborted"],
            usage={
                "input_uncached": usage["input_tokens"],
                "output": usage["output_tokens"],
                "cache_read": usage["cache_read_input_tokens"],
                "cache_write": usage["cache_creation_input_tokens"],
            },
        )


@dataclass(frozen=True)
class Journal:
    """Its tables as rows; a row of steps or attempts also has what identifies it, and its span ids."""

    runs: list[Row]
    executions: list[Row]
    steps: list[Row]
    attempts: list[Row]
    owed: int  # rows of the outbox

    @cached_property
    def run(self) -> dict[str, Row]:
        return {row["id"]: row for row in self.runs}

    @cached_property
    def attempt(self) -> dict[str, Row]:
        """By span id."""
        found = {row["span_id"]: row for row in self.attempts}
        assert len(found) == len(self.attempts), "two attempts with one span id"
        return found


_STEPS = """
SELECT s.*, r.workflow, u.saved_pico FROM steps s JOIN runs r ON r.id = s.run_id
LEFT JOIN reused_steps u ON u.run_id = s.run_id AND u.step = s.number ORDER BY s.run_id, s.number
"""
_ATTEMPTS = """
SELECT a.*, s.execution, s.key, s.agent, s.status AS step_status, r.workflow
FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step JOIN runs r ON r.id = a.run_id
ORDER BY a.run_id, a.step, a.turn, a.number
"""


def read_journal(path: Path) -> Journal:
    """One short read-only transaction; the service may be running."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        db.execute("BEGIN")

        def rows(query: str) -> list[Row]:
            return [dict(row) for row in db.execute(query)]

        executions = rows("SELECT e.*, r.workflow FROM executions e JOIN runs r ON r.id = e.run_id")
        steps, attempts = rows(_STEPS), rows(_ATTEMPTS)
        for step in steps:
            step["span_id"] = span_id("step", step["run_id"], step["execution"], step["key"])
        for one in attempts:
            place = (one["run_id"], one["execution"], one["key"], one["turn"])
            one["span_id"] = span_id("attempt", *place, one["number"])
            one["turn_span_id"] = span_id("turn", *place)
        owed = db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        return Journal(rows("SELECT * FROM runs ORDER BY id"), executions, steps, attempts, owed)
    finally:
        db.close()


@dataclass(frozen=True, kw_only=True)
class Books:
    """What each of them says once all has ended. `check` is all claims that hold in every case."""

    bill: list[Line]
    journal: Journal
    spans: list[SinkSpan]
    metrics: Samples
    summaries: list[Row] = field(default_factory=list)

    def check(self) -> None:
        check_ended(self.journal)
        check_bill(self.bill, self.journal)
        check_totals(self.bill, self.journal)
        check_spans(self.spans, self.journal)
        check_span_tokens(self.spans, self.journal)
        check_counters(self.metrics, self.journal)
        check_prices(self.journal)
        check_summaries(self.summaries, self.journal)
        check_paid_once(self.bill, self.journal)


# ---- the journal by itself ----


def check_ended(journal: Journal) -> None:
    """Nothing is left open."""
    for row in journal.runs:
        assert row["status"] in {"succeeded", "failed", "cancelled"}, row
        assert row["ended_at"] is not None and row["owner"] is None, row
        assert row["created_at"] <= row["first_ended_at"] <= row["ended_at"], row
    for row in [*journal.executions, *journal.steps, *journal.attempts]:
        assert row["ended_at"] is not None, f"left open: {row}"
        assert row["started_at"] <= row["ended_at"] <= journal.run[row["run_id"]]["ended_at"] + 10**7, row


# ---- bill and journal ----


def held(attempt: Row) -> dict[str, int]:
    """What the journal holds of an attempt's usage."""
    return {kind: attempt[kind] or 0 for kind in CLASSES}


def check_bill(bill: Sequence[Line], journal: Journal) -> None:
    """Line by line: an exact attempt is billed what it says; the others differ by what was not told."""
    seen: set[str] = set()
    for line in bill:
        assert line.client_ref is not None, f"a request without its attempt: {line}"
        assert line.client_ref not in seen, f"an attempt was sent twice: {line}"
        seen.add(line.client_ref)
        attempt = journal.attempt.get(line.client_ref)
        assert attempt is not None, f"billed, and not in the journal: {line}"
        _check_line(line, attempt)
    for ref in journal.attempt.keys() - seen:
        _check_unbilled(journal.attempt[ref])


def _check_line(line: Line, attempt: Row) -> None:
    both = f"\n{line}\n{attempt}"
    assert line.model == attempt["model"], both
    assert line.stream == bool(attempt["stream"]), both
    if attempt["http_status"] is not None:
        assert line.status == attempt["http_status"], both
    if attempt["request_id"] is not None:
        assert line.request_id == attempt["request_id"], both
    if line.status is not None and line.status >= 400 and attempt["outcome"] not in {"interrupted", "cancelled"}:
        assert attempt["usage"] == "exact" and not any(held(attempt).values()), f"an error costs nothing{both}"
    match attempt["usage"]:
        case "exact":
            assert line.usage == held(attempt), f"exact, and not what was billed{both}"
        case "partial":
            assert attempt["outcome"] in INEXACT, both
            for kind in CLASSES:
                assert attempt[kind] is not None and 0 <= attempt[kind] <= line.usage[kind], both
            for kind in ("input_uncached", "cache_read", "cache_write"):
                assert attempt[kind] == line.usage[kind], f"the input is told at a stream's start{both}"
        case "unknown":
            assert attempt["outcome"] in INEXACT, both
            assert all(attempt[kind] is None for kind in CLASSES) and attempt["cost_pico"] is None, both
        case other:
            raise AssertionError(f"usage {other!r}{both}")


def _check_unbilled(attempt: Row) -> None:
    """An attempt that never reached the provider: nobody can have told anything of it, and nothing is held."""
    assert attempt["outcome"] in {"interrupted", "cancelled", "timeout", "connection_error", "authentication"}, attempt
    assert attempt["http_status"] is None and attempt["request_id"] is None, attempt
    assert not any(held(attempt).values()) and not attempt["cost_pico"], attempt


def check_totals(bill: Sequence[Line], journal: Journal) -> None:
    """By model and class: the bill is the journal's sum and what the journal does not hold of inexact attempts."""
    billed, recorded, missing = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in bill:
        attempt = journal.attempt[line.client_ref or ""]
        for kind in CLASSES:
            billed[attempt["model"], kind] += line.usage[kind]
            if attempt["usage"] != "exact":
                missing[attempt["model"], kind] += line.usage[kind] - (attempt[kind] or 0)
    for attempt in journal.attempts:
        for kind in CLASSES:
            recorded[attempt["model"], kind] += attempt[kind] or 0
    for place in billed | recorded:
        assert billed[place] == recorded[place] + missing[place], (place, billed[place], recorded[place])
        assert missing[place] >= 0, place


def check_paid_once(bill: Sequence[Line], journal: Journal) -> None:
    """A finished step is never paid again: one success a key, and no request for it afterwards."""
    succeeded: dict[tuple[str, str], Row] = {}
    for step in journal.steps:
        if step["status"] == "succeeded":
            place = (step["run_id"], step["key"])
            assert place not in succeeded, f"succeeded twice: {step}"
            succeeded[place] = step
    for step in journal.steps:
        first = succeeded.get((step["run_id"], step["key"]))
        if first is not None:
            assert step["execution"] <= first["execution"], f"begun again after its success: {step}"
    answered = Counter((a["run_id"], a["key"], a["turn"]) for a in journal.attempts if a["outcome"] == "ok")
    assert all(count == 1 for count in answered.values()), "a turn was answered and paid twice"
    for line in bill:
        attempt = journal.attempt[line.client_ref or ""]
        first = succeeded.get((attempt["run_id"], attempt["key"]))
        if first is not None:
            assert line.at_ns <= first["ended_at"] + 1_000_000, f"paid after its success: {line}\n{first}"


# ---- spans ----


@dataclass(frozen=True, order=True)
class Due:
    """A span that the journal's columns call for."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: int
    end: int


def spans_due(journal: Journal) -> dict[tuple[str, str], Due]:
    """INTERFACE.md's tree, made from the tables alone, by (trace id, span id)."""
    due: list[Due] = []

    def add(name: str, run_id: str, own: str, parent: str | None, start: int, end: int) -> None:
        due.append(Due(name, run_id.replace("-", ""), own, parent, start, end))

    def execution_span(run_id: str, number: int) -> str:
        return span_id("run", run_id) if number == 1 else span_id("execution", run_id, number)

    for run in journal.runs:
        name = f"invoke_workflow {run['workflow']}"
        add(name, run["id"], span_id("run", run["id"]), None, run["created_at"], run["first_ended_at"])
    for found in journal.executions:
        if found["number"] > 1:
            own = execution_span(found["run_id"], found["number"])
            name = f"invoke_workflow {found['workflow']}"
            root = span_id("run", found["run_id"])
            add(name, found["run_id"], own, root, found["started_at"], found["ended_at"])
    numbered = {(step["run_id"], step["number"]): step for step in journal.steps}
    for step in journal.steps:
        if step["saved_pico"] is not None:
            continue  # answered by a fork's source, where its span is
        name = f"{SPAN_NAMES[step['kind']]} {step['name']}"
        parent = execution_span(step["run_id"], step["execution"])
        if step["parent"] is not None:
            caller = numbered[step["run_id"], step["parent"]]
            assert caller["execution"] == step["execution"], "a tool's step below one of another execution"
            parent = caller["span_id"]
        add(name, step["run_id"], step["span_id"], parent, step["started_at"], step["ended_at"])
    turns: dict[str, Row] = {}
    for attempt in journal.attempts:
        own, parent = attempt["span_id"], attempt["turn_span_id"]
        add("POST", attempt["run_id"], own, parent, attempt["started_at"], attempt["ended_at"])
        turns[attempt["turn_span_id"]] = attempt  # rows come in order: the last one stays
    for last in turns.values():
        step = span_id("step", last["run_id"], last["execution"], last["key"])
        own = last["turn_span_id"]
        add(f"chat {last['model']}", last["run_id"], own, step, last["turn_started_at"], last["ended_at"])
    found = {(one.trace_id, one.span_id): one for one in due}
    assert len(found) == len(due), "two spans with one id"
    return found


def unique_spans(spans: Iterable[SinkSpan]) -> dict[tuple[str, str], SinkSpan]:
    """Each span once; a copy must be the same byte for byte."""
    found: dict[tuple[str, str], SinkSpan] = {}
    for span in spans:
        first = found.setdefault((span.trace_id, span.span_id), span)
        assert first.raw == span.raw, f"copies differ:\n{first}\n{span}"
    return found


def check_spans(spans: Iterable[SinkSpan], journal: Journal) -> None:
    """Exactly the spans that are due, each under its run's trace id, where and when the journal has it."""
    found, due = unique_spans(spans), spans_due(journal)
    missing = [one for key, one in due.items() if key not in found]
    assert not missing, f"{len(missing)} spans never came, such as {missing[:3]}"
    more = [span for key, span in found.items() if key not in due]
    assert not more, f"{len(more)} spans that nothing calls for, such as {more[:3]}"
    for key, one in due.items():
        span = found[key]
        there = Due(span.name, span.trace_id, span.span_id, span.parent_id, span.start, span.end)
        assert there == one, f"\nsink    {there}\njournal {one}"
        assert span.parent_id is None or (span.trace_id, span.parent_id) in found, f"its parent never came: {span}"
    assert {span.trace_id for span in found.values()} == {row["id"].replace("-", "") for row in journal.runs}


def check_span_tokens(spans: Iterable[SinkSpan], journal: Journal) -> None:
    """Attempt spans carry the journal's tokens and cost: one by one, and so in every sum."""
    found = {s.span_id: s.attributes for s in unique_spans(spans).values() if s.name == "POST"}
    assert found.keys() == journal.attempt.keys()
    for own, attempt in journal.attempt.items():
        told = found[own]
        assert told["agentobs.usage"] == attempt["usage"], (told, attempt)
        for kind in CLASSES:
            assert told.get(f"agentobs.tokens.{kind}") == attempt[kind], (told, attempt)
        cost = told.get("agentobs.cost_usd")
        assert (None if cost is None else round(cost * PICO)) == attempt["cost_pico"], (told, attempt)


# ---- metrics ----


def counters_due(journal: Journal) -> dict[str, dict[Labels, float]]:
    """What each counter must say, from the tables alone; label sets at 0 are left out."""
    sums: defaultdict[str, Counter[Labels]] = defaultdict(Counter)

    def add(metric: str, value: int, **labels: str) -> None:
        sums[metric][frozenset(labels.items())] += value

    for run in journal.runs:
        error_type = run["error_type"] or ""
        add("agentobs_runs_total", 1, workflow=run["workflow"], outcome=run["status"], error_type=error_type)
    for found in journal.executions:
        add("agentobs_executions_total", 1, workflow=found["workflow"], reason=found["reason"])
    for step in journal.steps:
        if step["saved_pico"] is not None:
            continue
        labels = {"workflow": step["workflow"], "kind": step["kind"], "name": step["name"], "outcome": step["status"]}
        add("agentobs_steps_total", 1, **labels)
    for attempt in journal.attempts:
        who = {key: attempt[key] for key in ("workflow", "agent", "model")}
        add("agentobs_attempts_total", 1, **who, outcome=attempt["outcome"])
        add("agentobs_retry_wait_seconds_total", attempt["wait_ns"], **who)
        if attempt["usage"] != "exact":
            add("agentobs_attempt_usage_inexact_total", 1, **who, usage=attempt["usage"])
        for kind in CLASSES:
            add("agentobs_tokens_total", attempt[kind] or 0, **who, kind=kind)
        add("agentobs_cost_usd_total", attempt["cost_pico"] or 0, **who, outcome=attempt["outcome"])
        if attempt["cost_pico"] is None and any(held(attempt).values()):
            add("agentobs_unpriced_attempts_total", 1, model=attempt["model"])
    scales = {"agentobs_retry_wait_seconds_total": NS, "agentobs_cost_usd_total": PICO}
    return {
        metric: {labels: total / scales.get(metric, 1) for labels, total in totals.items() if total}
        for metric, totals in sums.items()
    }


def check_counters(metrics: Samples, journal: Journal) -> None:
    for metric, due in counters_due(journal).items():
        told = {labels: value for labels, value in metrics.get(metric, {}).items() if value}
        assert told == due, f"{metric}:\nmetrics {_shown(told)}\njournal {_shown(due)}"


def _shown(samples: Mapping[Labels, float]) -> str:
    return json.dumps(sorted([sorted(labels), value] for labels, value in samples.items()))


# ---- money ----


def check_prices(journal: Journal) -> None:
    """Each cost is what the price data says, asked here without the code under test; an unknown model has none."""
    for attempt in journal.attempts:
        if attempt["usage"] == "unknown":
            assert attempt["cost_pico"] is None, attempt
        elif not any(held(attempt).values()):
            assert attempt["cost_pico"] == 0, attempt
        else:
            provider = _PRICED_AS[attempt["provider"]]
            # On Bedrock the id that was asked says where it ran, which has a price.
            model = attempt["model"] if provider == "aws" else attempt["response_model"] or attempt["model"]
            assert attempt["cost_pico"] == _price(provider, model, tuple(held(attempt).items())), attempt


_PRICED_AS = {"anthropic": "anthropic", "bedrock": "aws", "vertex": "google", "foundry": "azure"}


def _price(provider: str, model: str, usage: tuple[tuple[str, int], ...]) -> int | None:
    tokens = dict(usage)
    asked = PriceUsage(
        input_tokens=tokens["input_uncached"] + tokens["cache_read"] + tokens["cache_write"],
        cache_read_tokens=tokens["cache_read"],
        cache_write_tokens=tokens["cache_write"],
        output_tokens=tokens["output"],
    )
    try:
        return int((Decimal(calc_price(asked, model, provider_id=provider).total_price) * PICO).to_integral_value())
    except LookupError:
        return None


# ---- the API's summaries ----


def check_summaries(summaries: Sequence[Row], journal: Journal) -> None:
    """What `GET /v1/runs` says of each run is what the journal's rows come to."""
    attempts: defaultdict[str, list[Row]] = defaultdict(list)
    for attempt in journal.attempts:
        attempts[attempt["run_id"]].append(attempt)
    assert {one["id"] for one in summaries} == journal.run.keys()
    for told in summaries:
        run, own = journal.run[told["id"]], attempts[told["id"]]
        sums = {kind: sum(a[kind] or 0 for a in own) for kind in CLASSES}
        asked = sums["input_uncached"] + sums["cache_read"] + sums["cache_write"]
        assert told["status"] == run["status"] and told["attempts"] == len(own), told
        assert (told["tokens"]["input"], told["tokens"]["output"]) == (asked, sums["output"]), told
        assert told["tokens"]["cache_read"] == sums["cache_read"], told
        assert told["tokens"]["cache_write"] == sums["cache_write"], told
        assert told["usage_inexact"] == sum(a["usage"] != "exact" for a in own), told
        unpriced = any(a["cost_pico"] is None and any(held(a).values()) for a in own)
        cost = None if told["cost_usd"] is None else int(Decimal(told["cost_usd"]) * PICO)
        assert cost == (None if unpriced else sum(a["cost_pico"] or 0 for a in own)), told
