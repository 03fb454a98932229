"""Money: what is spent, on what, and what of it for nothing."""

from __future__ import annotations

from agentobs.records import OK, PARTIAL, UNKNOWN
from agentobs.telemetry import names
from dashboards.board import board, row
from dashboards.boards.queries import MODEL, WHO, WORKFLOW, gauge, grown, per_hour, per_minute, rate, share, some
from dashboards.colours import BAD, GOOD, WARN
from dashboards.ids import Money
from dashboards.panels import (
    COUNT,
    PER_MINUTE,
    SHARE,
    USD,
    Column,
    Face,
    Query,
    bars,
    lines,
    number,
    rows,
)
from dashboards.promql import one_of
from dashboards.thresholds import MONEY_ON_FAILURES

READ = 'kind="cache_read"'
INPUT = one_of("kind", ("input_uncached", "cache_read", "cache_write"))
LOST = f'outcome!="{OK}"'
BY_WHO = ("workflow", "agent", "model")


def made() -> str:
    return board(
        Money,
        "What is spent, by whom, what of it for attempts that failed, and what caches and reuse save.",
        ("workflow", "agent", "model"),
        row(
            4,
            number(
                Face(
                    id=Money.SPENT,
                    title="Spent",
                    about="What all attempts with a known price cost in the time shown; more than you expect is "
                    "explained by the table below.",
                    unit=USD,
                ),
                Query(grown(names.COST, *WHO)),
            ),
            number(
                Face(
                    id=Money.PER_RUN,
                    title="Per run",
                    about="What was spent in the time shown by the number of runs that ended in it; when it grows "
                    "without more work in a run, look for retries and inputs that grew.",
                    unit=USD,
                    none="no run",
                ),
                Query(share(grown(names.COST, WORKFLOW), grown(names.RUNS, WORKFLOW))),
            ),
            number(
                Face(
                    id=Money.WASTED_NOW,
                    title="Spent on failed attempts",
                    about="Share of the money in the time shown that bought no usable answer; when it is high, the "
                    "outcomes on the Models board say why.",
                    unit=SHARE,
                    none="nothing spent",
                ),
                Query(share(grown(names.COST, *WHO, LOST), grown(names.COST, *WHO))),
                (0, GOOD),
                (0.05, WARN),
                (MONEY_ON_FAILURES, BAD),
                decimals=1,
            ),
            number(
                Face(
                    id=Money.CACHE_HITS_NOW,
                    title="Input read from the cache",
                    about="Share of the input tokens in the time shown that the provider read from its cache, at a "
                    "tenth of the price; low for long prompts means that their beginnings differ from call to call.",
                    unit=SHARE,
                    none="no input",
                ),
                Query(share(grown(names.TOKENS_TOTAL, *WHO, READ), grown(names.TOKENS_TOTAL, *WHO, INPUT))),
                decimals=1,
            ),
            number(
                Face(
                    id=Money.SAVED_NOW,
                    title="Saved by reuse",
                    about="What steps that were answered from the journal had cost; much in a short time means "
                    "that runs are often recovered or resumed: see Recoveries on the Service board.",
                    unit=USD,
                ),
                Query(grown(names.SAVED, WORKFLOW)),
            ),
        ),
        row(
            9,
            bars(
                Face(
                    id=Money.SPEND_RATE,
                    title="Spend per hour, by model",
                    about="What attempts cost, as a rate; a step up without more runs is a longer prompt, a loop or a "
                    "dearer model: the table beside it tells whose.",
                    unit=USD,
                ),
                Query(some(per_hour(names.COST, *WHO, by=("model",))), "{{model}}", exemplar=True),
            ),
            rows(
                Face(
                    id=Money.BY_AGENT,
                    title="By agent and model",
                    about="Who spent how much in the time shown, the dearest first; an agent with much spent on "
                    "failures is where prompts, limits or the model should change.",
                    unit=COUNT,
                    none="Nothing spent",
                ),
                Column(title="Workflow", label="workflow"),
                Column(title="Agent", label="agent"),
                Column(title="Model", label="model"),
                Column(title="Spent", query=some(grown(names.COST, *WHO, by=BY_WHO)), unit=USD, width=80),
                Column(
                    title="On failures",
                    query=share(grown(names.COST, *WHO, LOST, by=BY_WHO), grown(names.COST, *WHO, by=BY_WHO)),
                    unit=SHARE,
                    decimals=1,
                    width=100,
                ),
                Column(title="Tokens", query=some(grown(names.TOKENS_TOTAL, *WHO, by=BY_WHO)), decimals=0, width=80),
                sort="Spent",
            ),
            widths=(10, 14),
        ),
        row(
            8,
            lines(
                Face(
                    id=Money.WASTED,
                    title="Share spent on failed attempts, by workflow",
                    about="Money for answers that were cut, refused or too long; above the dashed line too much is "
                    "lost: see which outcome grows on the Models board.",
                    unit=SHARE,
                ),
                Query(
                    share(rate(names.COST, *WHO, LOST, by=("workflow",)), rate(names.COST, *WHO, by=("workflow",))),
                    "{{workflow}}",
                ),
                limit=MONEY_ON_FAILURES,
                top=1,
            ),
            lines(
                Face(
                    id=Money.CACHE_HITS,
                    title="Input read from the cache, by agent",
                    about="Share of an agent's input tokens that the provider read from its cache; when it falls, what "
                    "stands first in its prompt has begun to change from call to call.",
                    unit=SHARE,
                ),
                Query(
                    share(
                        rate(names.TOKENS_TOTAL, *WHO, READ, by=("agent",)),
                        rate(names.TOKENS_TOTAL, *WHO, INPUT, by=("agent",)),
                    ),
                    "{{agent}}",
                ),
                top=1,
            ),
            bars(
                Face(
                    id=Money.TOKENS,
                    title="Tokens per minute, by class",
                    about="What is paid for: output is the dearest class, cache reads the cheapest; input that grows "
                    "without more runs is conversations that grow.",
                    unit=COUNT,
                ),
                Query(some(per_minute(names.TOKENS_TOTAL, *WHO, by=("kind",))), "{{kind}}", exemplar=True),
            ),
        ),
        row(
            8,
            bars(
                Face(
                    id=Money.SAVED,
                    title="Saved by reuse per hour, by workflow",
                    about="What steps answered from the journal had cost, as a rate; a lasting one means that runs "
                    "keep being recovered or resumed: find out why on the Service board.",
                    unit=USD,
                    none="Nothing was reused",
                ),
                Query(some(per_hour(names.SAVED, WORKFLOW, by=("workflow",))), "{{workflow}}", exemplar=True),
            ),
            bars(
                Face(
                    id=Money.UNPRICED,
                    title="Unpriced attempts, by model",
                    about="What these models cost is missing in every sum of money here; teach agentobs their price or "
                    "correct the model's name in the agent.",
                    unit=PER_MINUTE,
                    none="All have a price",
                ),
                Query(some(per_minute(names.UNPRICED, MODEL, by=("model",))), "{{model}}", exemplar=True),
            ),
            bars(
                Face(
                    id=Money.INEXACT,
                    title="Attempts with inexact usage",
                    about="Requests whose tokens the provider told in part or never, so that its bill may be higher; "
                    "when they grow, look for cut streams and timeouts on the Models board.",
                    unit=PER_MINUTE,
                    none="All usage is exact",
                ),
                *(
                    Query(some(per_minute(names.INEXACT, *WHO, f'usage="{usage}"')), usage, exemplar=True)
                    for usage in (PARTIAL, UNKNOWN)
                ),
            ),
            rows(
                Face(
                    id=Money.DRIFT,
                    title="Accounting drift",
                    about="What the last audit found to differ, by kind; anything above 0 means that journal, spans or "
                    "bill do not agree: the runbook of AgentobsAccountingDrift says how to find the attempt.",
                    unit=COUNT,
                    none="No audit yet",
                ),
                Column(title="Kind", label="kind"),
                Column(title="Differences", query=gauge("max", names.DRIFT, by=("kind",)), width=110),
                sort="Differences",
            ),
        ),
    )
