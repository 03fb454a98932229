"""What a run came to, as its operators would see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agentobs.api import views
from agentobs.encoding import decode
from agentobs.errors import UsageError
from agentobs.journal.protocol import RunDetail
from agentobs.records import SUCCEEDED
from agentobs.telemetry import names
from agentobs.telemetry.metrics import Metrics
from agentobs.telemetry.spans import SpanData

_OF_HISTOGRAMS: Final = ("_count", "_sum", "_bucket")


class Result:
    """A run that has ended, and its signals: each is made from the journal by the code that serves it in production.

    `run` is what `GET /v1/runs/{id}` answers: status, output, tokens, cost, error, executions, steps with their
    attempts. `spans` are those that a backend gets, by their start; `logs` the lines, as JSON objects.
    """

    def __init__(
        self, detail: RunDetail, spans: Iterable[SpanData], metrics: Metrics, logs: Sequence[dict[str, Any]]
    ) -> None:
        self.run: Final = views.run_detail(detail)
        self.spans: Final = tuple(sorted({span.span_id: span for span in spans}.values(), key=lambda span: span.start))
        self.logs: Final = tuple(logs)
        self._detail = detail
        self._metrics = metrics

    @property
    def status(self) -> str:
        """`succeeded`, `failed` or `cancelled`."""
        return str(self.run["status"])

    @property
    def error_type(self) -> str | None:
        """Why it failed (a closed set: docs/operate.md), None if it did not. More is in `run["error"]`."""
        return self._detail.run.error_type

    @property
    def output(self) -> Any:
        """What the workflow returned, as JSON's values. Raises `UsageError` for a run that did not succeed."""
        run = self._detail.run
        if run.status != SUCCEEDED:
            error = UsageError(
                f"the output was asked of a run that {run.status} ({run.error_type}): {run.error_message}"
            )
            if run.error_detail is not None:
                error.add_note(str(decode(run.error_detail)))
            raise error
        return decode(run.output or "null")

    @property
    def diverged(self) -> int:
        """Finished steps that a recovered execution did not ask for again: above 0 they were paid in vain.

        The workflow then does not do the same again: see "Rules" in docs/write-a-workflow.md.
        """
        return sum(execution.diverged for execution in self._detail.executions)

    def metric(self, name: str, /, **labels: str) -> float:
        """What Prometheus would scrape: the sum over all label sets that have these values; 0 where there is none.

        Of a histogram, `name` ends in `_count` or `_sum`. Raises `UsageError` for a name or label that does not exist.
        """
        declared = names.METRICS.get(name)
        for suffix in _OF_HISTOGRAMS if declared is None else ():
            found = names.METRICS.get(name.removesuffix(suffix))
            declared = found if name.endswith(suffix) and found and found.kind == "histogram" else declared
        if declared is None:
            raise UsageError(f"there is no metric {name!r:.80}; the names are those that /metrics of a service shows")
        if wrong := sorted(set(labels) - {*declared.labels, "le"}):
            raise UsageError(f"metric {name!r} has no label {wrong[0]!r:.40}; it has: {', '.join(declared.labels)}")
        return sum(
            sample.value
            for family in self._metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def trace(self) -> str:
        """The spans as a tree of names, one a line, two spaces a level, with `error.type` behind those that failed."""
        children: Mapping[str | None, list[SpanData]] = defaultdict(list)
        known = {span.span_id for span in self.spans}
        for span in self.spans:
            children[span.parent_id if span.parent_id in known else None].append(span)

        def lines(parent: str | None, depth: int) -> Iterable[str]:
            for span in children[parent]:
                error = span.attributes.get(names.ERROR_TYPE)
                yield "  " * depth + span.name + (f" ({error})" if error else "")
                yield from lines(span.span_id, depth + 1)

        return "\n".join(lines(None, 0))

    def __repr__(self) -> str:
        error = f" ({self.error_type})" if self.error_type else ""
        return f"<{self.run['workflow']} {self.status}{error}: {self.run['attempts']} model calls>"
