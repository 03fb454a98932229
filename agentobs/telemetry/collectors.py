"""Prometheus collectors: counters of exact integers, histograms, and what is read at scrape.

None has `_created` series, and exemplars cost nothing before they are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from agentobs.records import SpanKind, span_id, trace_id
from agentobs.telemetry.names import Metric
from agentobs.telemetry.published import Labels


class SpanIdentity(NamedTuple):
    """Arguments of `records.span_id`: hashed only when an exemplar is shown."""

    kind: SpanKind
    run_id: str
    execution: int = 0
    key: str = ""
    turn: int = 0
    number: int = 0

    def labels(self) -> dict[str, str]:
        return {"trace_id": trace_id(self.run_id), "span_id": span_id(*self)}


class Counters(Collector):
    """Counters as integers in their metric's unit, divided by its scale only when shown.

    Written on the event loop; `collect` may run in any thread, since copying a dict is atomic.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics: Final = {metric.name: metric for metric in metrics}
        self._values: Final[dict[str, dict[Labels, int]]] = {name: {} for name in self._metrics}
        self._exemplars: Final[dict[str, dict[Labels, tuple[SpanIdentity, int, float]]]] = {
            name: {} for name in self._metrics
        }

    def add(self, name: str, labels: Labels, value: int, span: SpanIdentity | None = None, at: float = 0.0) -> None:
        """Add to a counter; names and labels that names.py does not declare (an older version's) are passed over."""
        values = self._values.get(name)
        if values is None:
            return
        known = values.get(labels)
        if known is None:
            if len(labels) != len(self._metrics[name].labels):
                return
            known = 0
        values[labels] = known + value
        if span is not None:
            self._exemplars[name][labels] = (span, value, at)

    def value(self, name: str, labels: Labels) -> int:
        return self._values[name].get(labels, 0)

    def collect(self) -> Iterable[Family]:
        for metric in self._metrics.values():
            family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            exemplars = self._exemplars[metric.name].copy()
            for labels, value in self._values[metric.name].copy().items():
                told = exemplars.get(labels)
                exemplar = Exemplar(told[0].labels(), told[1] / metric.scale, told[2]) if told else None
                shown = value if metric.scale == 1 else value / metric.scale
                family.add_metric(labels, shown, exemplar=exemplar)
            yield family

    def describe(self) -> Iterable[Family]:
        return [CounterMetricFamily(metric.name, metric.help) for metric in self._metrics.values()]


class Series:
    """One label set of a histogram. Written by one thread; read by any."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, tuple[SpanIdentity, float, float]] = {}

    def observe(self, value: float, span: SpanIdentity | None = None, at: float = 0.0) -> None:
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if span is not None:
            self.exemplars[bucket] = (span, value, at)


class Histograms(Collector):
    """Classic histograms. The client's own take a lock and check the exemplar's labels at each observation."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics: Final = {metric.name: metric for metric in metrics}
        self._series: Final[dict[str, dict[Labels, Series]]] = {name: {} for name in self._metrics}

    def series(self, metric: Metric, labels: Labels = ()) -> Series:
        family = self._series[metric.name]
        found = family.get(labels)
        if found is None:
            found = family[labels] = Series(metric.buckets)
        return found

    def collect(self) -> Iterable[Family]:
        for metric in self._metrics.values():
            family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            edges = [floatToGoString(bound) for bound in (*metric.buckets, float("inf"))]  # type: ignore[no-untyped-call]
            for labels, series in self._series[metric.name].copy().items():
                told = series.exemplars.copy()
                exemplars = (
                    Exemplar(told[i][0].labels(), told[i][1], told[i][2]) if i in told else None
                    for i in range(len(edges))
                )
                # (The client's annotation leaves out the exemplar, which its code takes.)
                buckets: Any = list(zip(edges, accumulate(series.counts.copy()), exemplars, strict=True))
                family.add_metric(labels, buckets, series.total)
            yield family

    def describe(self) -> Iterable[Family]:
        return [HistogramMetricFamily(metric.name, metric.help) for metric in self._metrics.values()]


# Label values to what is shown; a metric without labels has the key ().
Reading: TypeAlias = Mapping[Labels, float]


class Readings(Collector):
    """Gauges (and counters kept elsewhere) whose values are asked for at scrape, in the scraping thread."""

    def __init__(self) -> None:
        self._reads: Final[list[tuple[tuple[Metric, ...], Callable[[], tuple[Reading, ...]]]]] = []

    def add(self, metrics: tuple[Metric, ...], read: Callable[[], tuple[Reading, ...]]) -> None:
        """`read` gives one reading for each of `metrics`."""
        self._reads.append((metrics, read))

    def collect(self) -> Iterable[Family]:
        for metrics, read in self._reads:
            for metric, reading in zip(metrics, _read(read), strict=False):
                family = _family(metric)
                for labels, value in reading.items():
                    family.add_metric(labels, value)
                yield family

    def describe(self) -> Iterable[Family]:
        return [_family(metric) for metrics, _ in self._reads for metric in metrics]


def _read(read: Callable[[], tuple[Reading, ...]]) -> tuple[Reading, ...]:
    try:
        return read()
    except Exception:  # noqa: BLE001 -- a source that raises costs its own metrics, never the scrape
        return ()


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)
