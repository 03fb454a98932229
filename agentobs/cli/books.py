"""Whether run summaries, log lines, metrics and the simulator's bill tell the same story."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from agentobs.models import pricing
from agentobs.models.usage import read_bill
from agentobs.records import EXACT, OK, PARTIAL, PICO

Json: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = tuple[tuple[str, str], ...]
Metrics: TypeAlias = dict[tuple[str, Labels], float]

# The counters that the demo looks at; the input classes add up to what a summary calls input.
TOKENS: Final = "agentobs_tokens_total"
COST: Final = "agentobs_cost_usd_total"
ATTEMPTS: Final = "agentobs_attempts_total"
_AGENT_CALL: Final = "agent.call"
_ATTEMPT_FAILED: Final = "attempt.failed"


class Figures(NamedTuple):
    """What one source tells. Costs are whole pico-dollars; None is what it does not tell."""

    attempts: int | None
    failed: tuple[tuple[str, int], ...] | None  # outcome, how often
    input: int
    output: int
    cost_pico: int | None


@dataclass(frozen=True)
class Untold:
    """An attempt of which the provider told less than it billed."""

    span_id: str
    outcome: str
    input: int
    output: int
    cost_pico: int | None


def of_runs(runs: Iterable[Json]) -> Figures:
    """From `GET /v1/runs/{id}`."""
    found = list(runs)
    outcomes = Counter(attempt["outcome"] for attempt in _attempts(found))
    return Figures(
        sum(run["attempts"] for run in found),
        _failures(outcomes),
        sum(run["tokens"]["input"] for run in found),
        sum(run["tokens"]["output"] for run in found),
        sum((_pico(Decimal(run["cost_usd"])) for run in found), 0),
    )


def of_logs(lines: Sequence[Json]) -> Figures:
    """From a run's log lines: `agent.call` tells attempts, tokens and cost, `attempt.failed` the outcomes."""
    calls = [line for line in lines if line["event"] == _AGENT_CALL]
    outcomes = Counter(line["error_type"] for line in lines if line["event"] == _ATTEMPT_FAILED)
    return Figures(
        sum(line["attempts"] for line in calls),
        _failures(outcomes),
        sum(line["tokens"]["input"] for line in calls),
        sum(line["tokens"]["output"] for line in calls),
        sum(_pico(Decimal(repr(line["cost_usd"]))) for line in calls),
    )


def of_metrics(now: Metrics, before: Metrics | None = None) -> Figures:
    """From /metrics: what the counters stand at, or moved by since `before`."""
    moved = {key: value - (before or {}).get(key, 0.0) for key, value in now.items()}

    def total(name: str, **wanted: Sequence[str]) -> float:
        return sum(
            value
            for (found, labels), value in moved.items()
            if found == name and all(dict(labels)[label] in values for label, values in wanted.items())
        )

    outcomes: Counter[str] = Counter()
    for (name, labels), value in moved.items():
        if name == ATTEMPTS:
            outcomes[dict(labels)["outcome"]] += round(value)
    return Figures(
        round(total(ATTEMPTS)),
        _failures(outcomes),
        round(total(TOKENS, kind=("input_uncached", "cache_read", "cache_write"))),
        round(total(TOKENS, kind=("output",))),
        sum(_pico(Decimal(value)) for (name, _), value in moved.items() if name == COST),
    )


def of_bill(lines: Sequence[Json]) -> Figures:
    """From `GET /_bill`; what its lines cost is priced anew, from the model that each names."""
    costs = [_cost_of(line) for line in lines]
    return Figures(
        len(lines),
        None,
        sum(_input(line["usage"]) for line in lines),
        sum(line["usage"]["output_tokens"] for line in lines),
        None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def untold(runs: Iterable[Json], bill: Sequence[Json]) -> list[Untold]:
    """Attempts whose usage the journal knows in part or not at all, by what the bill has of them beyond that."""
    lines = {line["client_ref"]: line for line in bill}
    found = []
    for attempt in _attempts(runs):
        line = lines.get(attempt["span_id"])
        if attempt["usage"] == EXACT or line is None:
            continue
        told = attempt["tokens"] or {"input": 0, "output": 0}
        cost = _cost_of(line)
        known = _pico(Decimal(attempt["cost_usd"])) if attempt["usage"] == PARTIAL and attempt["cost_usd"] else 0
        found.append(
            Untold(
                attempt["span_id"],
                attempt["outcome"],
                _input(line["usage"]) - told["input"],
                line["usage"]["output_tokens"] - told["output"],
                None if cost is None else cost - known,
            )
        )
    return found


def differences(journal: Figures, metrics: Figures, bill: Figures, unknown: Sequence[Untold]) -> list[str]:
    """What does not add up, in words: nothing, or there is a fault in agentobs."""
    return [
        f"{name}: the journal has {ours}, {source} {theirs}"
        for source, other in (("/metrics", metrics), ("the bill", less(bill, unknown)))
        for name, ours, theirs in zip(Figures._fields, journal, other, strict=True)
        if theirs is not None and ours != theirs
    ]


def less(bill: Figures, unknown: Sequence[Untold]) -> Figures:
    """The bill without what it alone can know."""
    more = beyond(unknown)
    cost = None if bill.cost_pico is None or more.cost_pico is None else bill.cost_pico - more.cost_pico
    return bill._replace(input=bill.input - more.input, output=bill.output - more.output, cost_pico=cost)


def beyond(unknown: Sequence[Untold]) -> Figures:
    """What the bill alone can know."""
    costs = [one.cost_pico for one in unknown]
    return Figures(
        None,
        None,
        sum(one.input for one in unknown),
        sum(one.output for one in unknown),
        None if None in costs else sum(cost for cost in costs if cost is not None),
    )


# ---- reading ----


def parse_metrics(text: str) -> Metrics:
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def lines_of(file: Path, run_id: str) -> list[str]:
    """The log lines of a run, as they stand in the file."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [line for line in text.splitlines() if f'"{run_id}"' in line]


def parsed(lines: Iterable[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _attempts(runs: Iterable[Json]) -> Iterator[Json]:
    for run in runs:
        for step in run["steps"]:
            yield from step["attempts"]


def _failures(outcomes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, number) for name, number in outcomes.items() if name != OK and number))


def _pico(value: Decimal) -> int:
    return round(value * PICO)


def _input(usage: Mapping[str, int]) -> int:
    return usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]


def _cost_of(line: Json) -> int | None:
    if not any(line["usage"].values()):
        return 0
    bill = read_bill(line["usage"], EXACT)
    return None if bill is None else pricing.price(bill, line["model"]).pico
