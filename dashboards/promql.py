"""PromQL from the metrics of `names.py`. A label that a metric does not have is an error here, not an empty graph."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from agentobs.telemetry.names import Metric

TARGET_LABELS: Final = ("job", "instance")  # Prometheus adds them
JOB: Final = 'job="agentobs"'  # for metrics whose names are not ours alone
_PARTS: Final = {"histogram": ("_bucket", "_count", "_sum")}


def select(metric: Metric, *matchers: str, window: str = "", part: str = "") -> str:
    """`metric{matchers}[window]`; `part` is that of a histogram (`_bucket`, `_count`, `_sum`)."""
    if part not in _PARTS.get(metric.kind, ("",)):
        raise ValueError(f"{metric.name} is a {metric.kind}, found part {part!r}")
    for matcher in matchers:
        _check(metric, re.split(r"[=!]", matcher, maxsplit=1)[0])
    inside = f"{{{','.join(matchers)}}}" if matchers else ""
    return f"{metric.name}{part}{inside}" + (f"[{window}]" if window else "")


def increase(
    metric: Metric, *matchers: str, window: str, by: Iterable[str] = (), part: str = "", function: str = "increase"
) -> str:
    """How much a counter grew within `window`, all processes together, by the labels `by`."""
    by = tuple(by)
    for label in by:
        _check(metric, label)
    return f"{aggregate('sum', by)} ({function}({select(metric, *matchers, window=window, part=part)}))"


def aggregate(operator: str, by: Iterable[str]) -> str:
    """`sum by (a, b)`, or `sum` alone."""
    labels = ", ".join(by)
    return f"{operator} by ({labels})" if labels else operator


def one_of(label: str, values: Iterable[str]) -> str:
    return f'{label}=~"{"|".join(values)}"'


def number(value: float) -> str:
    """Twelve digits: bytes are whole, and 14.4 * 0.05 is 0.72."""
    return f"{value:.12g}"


def _check(metric: Metric, label: str) -> None:
    known = (*metric.labels, *TARGET_LABELS, *(("le",) if metric.kind == "histogram" else ()))
    if label not in known:
        raise ValueError(f"{metric.name} has no label {label!r}, expected one of {', '.join(known)}")
