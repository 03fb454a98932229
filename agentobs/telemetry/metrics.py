"""What Prometheus scrapes: counters from the journal's totals and deltas, histograms and gauges from its changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agentobs.records import (
    AGENT,
    CANCELLED,
    CLOSED,
    NS,
    OK,
    OPENED,
    SETTLED,
    SUCCEEDED,
    TOOL,
    Attempt,
    Change,
    Execution,
    Note,
    Run,
    Step,
)
from agentobs.telemetry import names
from agentobs.telemetry.collectors import Counters, Histograms, Reading, Readings, SpanIdentity
from agentobs.telemetry.labels import WorkflowLabels, counter_sets, histogram_sets
from agentobs.telemetry.names import Metric
from agentobs.telemetry.published import Labels, Published
from agentobs.telemetry.text import clean, provider_name


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is asked at each scrape, in the scraping thread; none may block. One that raises costs its own metrics.

    `queue`: (workflow, queued runs, creation of the oldest in ns); `spans`: how many are pending, and when the oldest
    was committed (ns); `drift`: what the last audit found, by kind.
    """

    queue: Callable[[], Iterable[tuple[str, int, int]]] = tuple
    spans: Callable[[], tuple[int, int | None]] = lambda: (0, None)
    drift: Callable[[], Mapping[str, float]] = dict
    journal_errors: Callable[[], int] = int
    journal_bytes: Callable[[], int] | None = None
    disk_free_bytes: Callable[[], int] | None = None


class Metrics:
    """All metrics of this process, in a registry of its own.

    `restore` and `create_at_zero` once at start; `observe` is a subscriber of the journal; `render` may run in any
    thread.
    """

    def __init__(
        self, *, version: str, sources: Sources | None = None, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=False)
        self._wall_ns: Final = wall_ns
        self._counters: Final = Counters(names.COUNTERS)
        self.registry.register(self._counters)
        self._histograms: Final = Histograms(names.HISTOGRAMS)
        self.registry.register(self._histograms)
        self._readings: Final = Readings()
        self._workflows: tuple[str, ...] = ()
        self._versions: Reading = {}
        self._now = 0.0  # of the batch in hand, s
        self._traced = True  # the unit in hand: an exemplar must lead to a trace
        self._running: Final[dict[str, str]] = {}  # run: workflow
        self._progress: Final[dict[str, int]] = {}  # run: latest commit
        self._rate_limits: Final[dict[Labels, float]] = {}
        self._commits: Final = self._histograms.series(names.COMMIT_SECONDS)
        self._lags: Final = self._histograms.series(names.LOOP_LAG)
        self._add_readings(version, sources or Sources())
        self.registry.register(self._readings)

    def restore(self, totals: Mapping[tuple[str, Labels], int]) -> None:
        """Begin where this worker's earlier process left off (`journal.totals`)."""
        for (name, labels), value in totals.items():
            self._counters.add(name, labels, value)

    def create_at_zero(self, workflows: Sequence[WorkflowLabels]) -> None:
        """Make the label sets that alerts read, so that the first failure is an increase."""
        self._workflows = tuple(workflow.name for workflow in workflows)
        self._versions = {(workflow.name, workflow.version): 1.0 for workflow in workflows}
        for metric, labels in counter_sets(workflows):
            self._counters.add(metric.name, labels, 0)
        for metric, labels in histogram_sets(workflows):
            self._histograms.series(metric, labels)

    def observe(self, batch: Sequence[Published]) -> None:
        """Take in what the journal committed."""
        now = self._wall_ns()
        self._now = now / NS
        for unit in batch:
            self._traced = unit.traced
            spans = _spans(unit.changes) if unit.deltas and unit.traced else {}
            for name, labels, value in unit.deltas:
                metric = names.METRICS.get(name)
                span = spans.get(metric.span) if metric else None
                self._counters.add(name, labels, value, span, self._now)
            for change in unit.changes:
                self._observe(change, now)

    def commit(self, seconds: float) -> None:
        """One commit of the journal; called in its writer thread."""
        self._commits.observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop ran a timer."""
        self._lags.observe(seconds)

    def lost(self, run_id: str) -> None:
        """Another process took the run over: its end will not be published here."""
        self._running.pop(run_id, None)
        self._progress.pop(run_id, None)

    def render(self, accept_header: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics with exemplars where `Accept` asks for it, else text."""
        encoder, content_type = choose_encoder(accept_header)
        return encoder(self.registry), content_type

    # ---- changes ----

    def _observe(self, change: Change, now: int) -> None:
        verb, record = change
        if isinstance(record, Run):
            # A resumed run ends again, but its first end is the one that is timed.
            if verb == CLOSED and record.first_ended_at is not None and record.ended_at == record.first_ended_at:
                labels = (record.workflow, _run_error(record))
                self._time(names.RUN_SECONDS, labels, record.created_at, record.first_ended_at, record)
            return
        if record.run_id in self._running:
            self._progress[record.run_id] = now
        if isinstance(record, Attempt):
            if verb == CLOSED:
                self._limits(record)
            if verb == SETTLED or (verb == CLOSED and record.final):
                self._turn(record)
        elif isinstance(record, Step):
            if verb == CLOSED and not record.reused:
                self._step(record)
        elif isinstance(record, Execution):
            self._execution(verb, record, now)
        else:
            self._note(record)

    def _execution(self, verb: str, execution: Execution, now: int) -> None:
        if verb == OPENED:
            self._running[execution.run_id] = execution.workflow
            self._progress[execution.run_id] = now
        elif verb == CLOSED:
            self.lost(execution.run_id)

    def _step(self, step: Step) -> None:
        error = step.error_type or ("" if step.status == SUCCEEDED else step.status)
        if step.kind == AGENT:
            agent = (step.agent or step.name, clean(step.model or ""), error)
            self._time(names.AGENT_SECONDS, agent, step.started_at, step.ended_at, step)
        elif step.kind == TOOL:
            tool = (step.name, names.TOOL_KIND, step.agent or "", error)
            self._time(names.TOOL_SECONDS, tool, step.started_at, step.ended_at, step)

    def _turn(self, attempt: Attempt) -> None:
        labels = (names.CHAT, provider_name(attempt.provider), clean(attempt.model))
        error = "" if attempt.outcome == OK else attempt.outcome or ""
        self._time(names.INFERENCE_SECONDS, (*labels, error), attempt.turn_started_at, attempt.ended_at, attempt)
        if attempt.stream and attempt.first_chunk_at is not None:
            self._time(names.FIRST_CHUNK_SECONDS, labels, attempt.turn_started_at, attempt.first_chunk_at, attempt)

    def _limits(self, attempt: Attempt) -> None:
        for kind, limit, remaining in attempt.rate_limits:
            if kind in names.RATE_LIMIT_KINDS and limit > 0:
                self._rate_limits[clean(attempt.model), kind] = remaining / limit

    def _note(self, note: Note) -> None:
        try:
            if note.kind == names.NOTE_DEBATE:
                value = json.loads(note.value)
                labels = (note.workflow, "true" if value["converged"] else "false")
                self._show(names.DEBATE_ROUNDS, labels, float(value["rounds"]), note)
            elif note.kind == names.NOTE_STRAGGLER:
                self._show(names.STRAGGLER, (note.workflow,), float(json.loads(note.value)["ratio"]), note)
        except (ValueError, KeyError, TypeError):
            return  # not what patterns write; nothing to count

    def _time(self, metric: Metric, labels: Labels, start: int, end: int | None, record: Run | Step | Attempt) -> None:
        if end is not None:
            self._show(metric, labels, max(end - start, 0) / NS, record)

    def _show(self, metric: Metric, labels: Labels, value: float, record: Run | Step | Attempt | Note) -> None:
        span = _identities(record)[metric.span] if self._traced else None
        self._histograms.series(metric, labels).observe(value, span, self._now)

    # ---- gauges ----

    def _add_readings(self, version: str, sources: Sources) -> None:
        add = self._readings.add
        add((names.RUNS_IN_FLIGHT, names.OLDEST_PROGRESS), self._in_flight)
        add((names.RUNS_QUEUED, names.OLDEST_QUEUED), lambda: self._queue(sources.queue()))
        add((names.SPANS_PENDING, names.SPANS_OLDEST), lambda: self._pending(*sources.spans()))
        add((names.RATE_LIMIT,), lambda: (self._rate_limits.copy(),))
        add((names.DRIFT,), lambda: ({(kind,): value for kind, value in sources.drift().items()},))
        add((names.BUILD_INFO,), lambda: ({(version,): 1},))
        add((names.WORKFLOW_INFO,), lambda: (self._versions,))
        add((names.JOURNAL_ERRORS,), partial(_single, sources.journal_errors))
        for metric, read in ((names.JOURNAL_BYTES, sources.journal_bytes), (names.DISK_FREE, sources.disk_free_bytes)):
            if read is not None:
                add((metric,), partial(_single, read))

    def _in_flight(self) -> tuple[Reading, Reading]:
        now = self._wall_ns()
        progress = self._progress.copy()
        running: dict[Labels, float] = {(name,): 0.0 for name in self._workflows}
        ages = dict(running)
        for run_id, workflow in self._running.copy().items():
            running[workflow,] = running.get((workflow,), 0.0) + 1
            age = max(now - progress.get(run_id, now), 0) / NS
            ages[workflow,] = max(ages.get((workflow,), 0.0), age)
        return running, ages

    def _queue(self, states: Iterable[tuple[str, int, int]]) -> tuple[Reading, Reading]:
        now = self._wall_ns()
        queued: dict[Labels, float] = {(name,): 0.0 for name in self._workflows}
        ages = dict(queued)
        for workflow, count, oldest in states:
            queued[workflow,] = count
            ages[workflow,] = max(now - oldest, 0) / NS if count else 0.0
        return queued, ages

    def _pending(self, count: int, oldest: int | None) -> tuple[Reading, Reading]:
        return {(): count}, {(): 0.0 if oldest is None else max(self._wall_ns() - oldest, 0) / NS}


def _single(read: Callable[[], float]) -> tuple[Reading]:
    return ({(): read()},)


def _run_error(run: Run) -> str:
    return run.first_error_type or (CANCELLED if run.first_status == CANCELLED else "")


def _identities(record: Run | Execution | Step | Attempt | Note) -> dict[str, SpanIdentity]:
    """The spans a record has, by kind."""
    if isinstance(record, Attempt):
        place = (record.run_id, record.execution, record.key, record.turn)
        return {"attempt": SpanIdentity("attempt", *place, record.number), "turn": SpanIdentity("turn", *place)}
    if isinstance(record, Step):
        return {"step": SpanIdentity("step", record.run_id, record.execution, record.key)}
    if isinstance(record, Run):
        return {"run": SpanIdentity("run", record.id)}
    number = record.execution if isinstance(record, Note) else record.number
    # The root span stands for execution 1.
    span = SpanIdentity("run", record.run_id) if number == 1 else SpanIdentity("execution", record.run_id, number)
    return {"execution": span}


def _spans(changes: Sequence[Change]) -> dict[str, SpanIdentity]:
    """The span of each kind that a unit's deltas belong to; a kind of which the unit has several is left out."""
    found: dict[str, SpanIdentity] = {}
    twice: set[str] = set()
    for verb, record in changes:
        counted = verb == OPENED if isinstance(record, Execution) else verb in (CLOSED, SETTLED)
        for kind, span in _identities(record).items() if counted else ():
            if found.setdefault(kind, span) != span:
                twice.add(kind)
    return {kind: span for kind, span in found.items() if kind not in twice}
