"""What the demo shows besides summaries: the same facts in log, metrics, bill and trace, and that they agree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from agentobs.cli import books
from agentobs.cli.books import Figures, Metrics
from agentobs.cli.figures import counted, dollars
from agentobs.cli.terminal import prose
from agentobs.cli.waterfall import DIM
from agentobs.records import PICO
from agentobs.setting_types import masked

if TYPE_CHECKING:
    from agentobs.cli.stage import Stage

_SETTLE_S: Final = 3.0  # metrics and log lines are told a moment after the journal has it
_RUNS: Final = "agentobs_runs_total"
_PENDING: Final = "agentobs_spans_pending"
_FINISHED: Final = "run.finished"
_SHOWN_METRICS: Final = (books.ATTEMPTS, books.TOKENS, books.COST)
JAEGER: Final = "http://localhost:16686"


async def scrape(on: Stage) -> Metrics:
    return books.parse_metrics(await on.service.text("/metrics"))


async def settled(on: Stage, run: Mapping[str, Any], *, ended: int) -> Metrics:
    """A scrape that knows of so many ended runs, taken once the run's last log line is written."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SETTLE_S
    while True:
        found = await scrape(on)
        counted_runs = sum(value for (name, _), value in found.items() if name == _RUNS)
        logged = any(_FINISHED in line for line in books.lines_of(on.log_file, run["id"]))
        if (counted_runs >= ended and logged) or loop.time() > until:
            return found
        await asyncio.sleep(0.02)


def side_by_side(
    on: Stage, run: Mapping[str, Any], number: int, before: Metrics, after: Metrics, bill: Sequence[Mapping[str, Any]]
) -> list[Text | str]:
    """One run's figures from each source, and a few lines of the sources themselves."""
    raw = books.lines_of(on.log_file, run["id"])
    refs = {attempt["span_id"] for step in run["steps"] for attempt in step["attempts"]}
    columns = {
        "run summary": books.of_runs([run]),
        "log lines": books.of_logs(books.parsed(raw)),
        "/metrics": books.of_metrics(after, before),
        "bill": books.of_bill([line for line in bill if line["client_ref"] in refs]),
    }
    title = Text(f"Run {number} as its summary, its log, the metrics and the bill tell it", "bold")
    lines: list[Text | str] = [title, *_table(columns, books.untold([run], bill))]
    step = [step for step in run["steps"] if len(step["attempts"]) > 1][-1]
    own = [line for line in raw if f'"agent":"{step["name"]}"' in line]
    lines += ["", Text(f"{on.log_file.name}, {len(own)} of the run's {len(raw)} lines: the {step['name']}'s", DIM)]
    lines += own
    moved = [
        f"{_series(name, labels)} {before.get((name, labels), 0):g} -> {value:g}"
        for (name, labels), value in after.items()
        if name in _SHOWN_METRICS and ("agent", step["name"]) in labels and value != before.get((name, labels), 0)
    ]
    lines += ["", Text(f"{on.service.url}/metrics, what the {step['name']} moved in this run", DIM), *moved]
    return lines


def _series(name: str, labels: books.Labels) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels) + "}"


def _table(columns: Mapping[str, Figures], beyond: Sequence[books.Untold]) -> list[Text]:
    """A column each; where the bill knows more than it told, that follows a plus."""
    outcomes = dict.fromkeys(name for figures in columns.values() for name, _ in figures.failed or ())
    rows = [("attempts", [_number(figures.attempts) for figures in columns.values()])]
    for outcome in outcomes:
        failed = [figures.failed for figures in columns.values()]
        rows.append((f"  {outcome}", [_number(None if one is None else dict(one).get(outcome, 0)) for one in failed]))
    rows.append(("input tokens", [_number(figures.input) for figures in columns.values()]))
    rows.append(("output tokens", [_number(figures.output) for figures in columns.values()]))
    rows.append(("cost", [_dollars(figures.cost_pico) for figures in columns.values()]))
    if beyond:
        told, more = books.less(columns["bill"], beyond), books.beyond(beyond)
        rows[-3][1][-1] = f"{_number(told.input)} + {_number(more.input)}"
        rows[-2][1][-1] = f"{_number(told.output)} + {_number(more.output)}"
        rows[-1][1][-1] = f"{_dollars(told.cost_pico)} + {_dollars(more.cost_pico)}"
    names = max(len(name) for name, _ in rows)
    table = [("", list(columns)), *rows]
    widths = [max(len(cells[at]) for _, cells in table) for at in range(len(columns))]
    lines = [
        f"  {name.ljust(names)}" + "".join("  " + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for name, cells in table
    ]
    return [Text(line.rstrip(), DIM if at == 0 else "") for at, line in enumerate(lines)]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _dollars(pico: int | None) -> str:
    return dollars(None if pico is None else str(Decimal(pico) / PICO))


def agreement(
    runs: Sequence[Mapping[str, Any]], metrics: Metrics, bill: Sequence[Mapping[str, Any]]
) -> tuple[list[Text | str], list[str]]:
    """The line that says so, and what differs (nothing, unless agentobs is at fault)."""
    journal = books.of_runs(runs)
    beyond = books.untold(runs, bill)
    wrong = books.differences(journal, books.of_metrics(metrics), books.of_bill(bill), beyond)
    if wrong:
        return [], wrong
    lines: list[Text | str] = [
        Text(
            f"bill, journal and metrics agree: {journal.input:,} input, {journal.output:,} output tokens, "
            f"{_dollars(journal.cost_pico)}",
            "bold",
        )
    ]
    if beyond:  # an answer that broke off: `usage_inexact` in the summary counts these
        more = books.beyond(beyond)
        lines += prose(
            f"the bill has {more.input:,} input, {more.output:,} output tokens, {_dollars(more.cost_pico)} besides: "
            f"{counted(len(beyond), 'answer')} cut off before the usage was told",
            indent="  ",
        )
    return lines, []


async def trace(on: Stage, run: Mapping[str, Any]) -> list[Text | str]:
    """How to find the run's trace."""
    endpoint = on.settings.trace_endpoint
    if endpoint is None:
        how = "Not sent: set OTEL_EXPORTER_OTLP_ENDPOINT first, for a local Jaeger to http://localhost:4318."
    elif pending := await _pending(on):
        spans = counted(pending, "span")
        how = f"{masked('ENDPOINT', endpoint)} does not take it now: {spans} of these runs wait in the journal."
    else:
        how = f"Its spans are at {masked('ENDPOINT', endpoint)}."
    return [f"Trace {run['trace_id']}, in Jaeger:", f"  {JAEGER}/trace/{run['trace_id']}", *prose(how, indent="  ")]


async def _pending(on: Stage) -> int:
    """Spans that are not delivered, after a moment for delivery."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SETTLE_S
    while True:
        pending = round((await scrape(on)).get((_PENDING, ()), 0))
        if not pending or loop.time() > until:
            return pending
        await asyncio.sleep(0.1)
