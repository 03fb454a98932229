"""Service: the process itself, its journal, its spans, and what watches it."""

from __future__ import annotations

from agentobs.records import RECOVERED
from agentobs.telemetry import names
from dashboards.board import board, row
from dashboards.boards.queries import gauge, per_minute, quantile, some
from dashboards.colours import BAD, GOOD, WARN
from dashboards.ids import Service
from dashboards.panels import (
    BYTES,
    COUNT,
    PER_MINUTE,
    SECONDS,
    TEXT,
    Column,
    Face,
    Query,
    bars,
    coloured,
    lines,
    number,
    rows,
    states,
)
from dashboards.promql import JOB
from dashboards.thresholds import DISK_LOW, JOURNAL_LARGE, SPANS_OLD

QUANTILES = (0.5, 0.95, 0.99)


def made() -> str:
    return board(
        Service,
        "The process, its journal, the spans that it owes, and whether it and the servers around it answer.",
        (),
        row(
            5,
            number(
                Face(
                    id=Service.UP_NOW,
                    title="Processes up",
                    about="Processes of agentobs that answer Prometheus; fewer than you run means that one is dead, "
                    "hangs, or refuses the key that Prometheus sends.",
                    unit=COUNT,
                    none="none",
                ),
                Query(f"sum (up{{{JOB}}})"),
                (0, BAD),
                (1, GOOD),
            ),
            rows(
                Face(
                    id=Service.VERSIONS,
                    title="Versions",
                    about="What each process runs; two versions for longer than a deploy takes mean that it did not "
                    "reach all of them.",
                    unit=TEXT,
                ),
                Column(title="Process", label="instance"),
                Column(title="Version", label="version"),
                Column(query=gauge("max", names.BUILD_INFO, JOB, by=("instance", "version"))),
            ),
            rows(
                Face(
                    id=Service.WORKFLOW_VERSIONS,
                    title="Versions of workflows",
                    about="Which version of each workflow's code is run; two of one workflow for longer than a deploy "
                    "takes mean that it did not reach all processes.",
                    unit=TEXT,
                ),
                Column(title="Workflow", label="workflow"),
                Column(title="Version", label="version"),
                Column(query=gauge("max", names.WORKFLOW_INFO, by=names.WORKFLOW_INFO.labels)),
            ),
            number(
                Face(
                    id=Service.SPANS_PENDING_NOW,
                    title="Spans pending",
                    about="Spans that are committed and not yet delivered; when they keep growing the trace backend "
                    "is down or too slow: see the exports below.",
                    unit=COUNT,
                ),
                Query(gauge("max", names.SPANS_PENDING)),
            ),
            number(
                Face(
                    id=Service.DISK_FREE_NOW,
                    title="Free on disk",
                    about="When it is full nothing can be committed and no attempt starts: free some, or move the "
                    "journal to a larger disk.",
                    unit=BYTES,
                ),
                Query(gauge("min", names.DISK_FREE)),
                (0, BAD),
                (DISK_LOW, WARN),
                (5 * DISK_LOW, GOOD),
            ),
        ),
        row(
            8,
            states(
                Face(
                    id=Service.UP,
                    title="Scraped",
                    about="Red while a process does not answer Prometheus: dead, hanging, unreachable, or the key is "
                    "wrong, which its log tells.",
                    unit=TEXT,
                ),
                Query("min by (job, instance) (up)", "{{job}} {{instance}}"),
                {"1": ("answers", GOOD), "0": ("does not answer", BAD)},
            ),
            coloured(
                lines(
                    Face(
                        id=Service.COMMITS,
                        title="Commit of the journal",
                        about="How long a commit takes; above some 50 ms every run slows down: the disk is slow or "
                        "something else writes to it.",
                        unit=SECONDS,
                    ),
                    *(Query(quantile(q, names.COMMIT_SECONDS), f"p{q * 100:.0f}") for q in QUANTILES),
                ),
                ("p50", "p95", "p99"),
            ),
            coloured(
                lines(
                    Face(
                        id=Service.LOOP_LAG,
                        title="Lag of the event loop",
                        about="How late a timer runs; above some 100 ms a workflow computes or blocks on the loop, or "
                        "the machine is too small: the log's loop.blocked lines tell where.",
                        unit=SECONDS,
                    ),
                    *(Query(quantile(q, names.LOOP_LAG), f"p{q * 100:.0f}") for q in QUANTILES),
                ),
                ("p50", "p95", "p99"),
            ),
        ),
        row(
            8,
            lines(
                Face(
                    id=Service.SPANS_PENDING,
                    title="Spans pending",
                    about="Spans that are committed and not yet delivered; a slope that does not turn means that the "
                    "collector is down or too slow, and none is lost meanwhile.",
                    unit=COUNT,
                ),
                Query(gauge("max", names.SPANS_PENDING), "pending"),
            ),
            lines(
                Face(
                    id=Service.SPANS_AGE,
                    title="Oldest pending span",
                    about="How late traces are; at the dashed line it is an alert: see whether the collector answers "
                    "and what the service's log says of export.failing.",
                    unit=SECONDS,
                ),
                Query(gauge("max", names.SPANS_OLDEST), "age"),
                limit=SPANS_OLD,
            ),
            coloured(
                bars(
                    Face(
                        id=Service.EXPORTS,
                        title="Spans sent, by outcome",
                        about="Orange is tries that will be repeated, red spans that the backend refused for good: "
                        "the service's log says why in export.rejected.",
                        unit=PER_MINUTE,
                    ),
                    Query(some(per_minute(names.SPANS_EXPORTED, by=("outcome",))), "{{outcome}}"),
                ),
                names.EXPORT_OUTCOMES,
            ),
            lines(
                Face(
                    id=Service.COLLECTOR_QUEUE,
                    title="Waiting in the collector",
                    about="Batches that the collector holds for each backend; a queue that grows means that this "
                    "backend is down or too slow, and at its capacity the collector refuses more.",
                    unit=COUNT,
                    none="No collector is scraped",
                ),
                Query("sum by (exporter) (otelcol_exporter_queue_size)", "{{exporter}}"),
            ),
        ),
        row(
            8,
            bars(
                Face(
                    id=Service.RECOVERIES,
                    title="Recovered, by workflow",
                    about="Runs taken over from an owner that died or drained; outside of deploys it means that "
                    "processes die: see their log and exit code, 70 is a blocked event loop.",
                    unit=PER_MINUTE,
                    none="None was recovered",
                ),
                Query(
                    some(per_minute(names.EXECUTIONS, f'reason="{RECOVERED}"', by=("workflow",))),
                    "{{workflow}}",
                    exemplar=True,
                ),
            ),
            lines(
                Face(
                    id=Service.JOURNAL_ERRORS,
                    title="Journal errors, by process",
                    about="Commits and units that failed; any at all stops new attempts until a commit succeeds: the "
                    "service's readyz and its log say why.",
                    unit=PER_MINUTE,
                ),
                Query(per_minute(names.JOURNAL_ERRORS, by=("instance",)), "{{instance}}"),
            ),
            lines(
                Face(
                    id=Service.JOURNAL_SIZE,
                    title="Size of the journal",
                    about="Backups and migrations take longer with its size; at the dashed line archive it and begin "
                    "a new one.",
                    unit=BYTES,
                ),
                Query(gauge("max", names.JOURNAL_BYTES), "journal"),
                limit=JOURNAL_LARGE,
            ),
            lines(
                Face(
                    id=Service.DISK_FREE,
                    title="Free on the journal's disk",
                    about="When it reaches 0 nothing can be committed and no attempt starts; a line that falls needs "
                    "space before it gets to the dashed one.",
                    unit=BYTES,
                ),
                Query(gauge("min", names.DISK_FREE, by=("instance",)), "{{instance}}"),
                limit=DISK_LOW,
                below=True,
            ),
        ),
    )
