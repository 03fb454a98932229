"""PromQL as panels ask it: per time of the graph, or over the whole time that a board shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentobs.telemetry.names import Metric
from dashboards.promql import aggregate, increase, select

WORKFLOW: Final = 'workflow=~"$workflow"'
AGENT: Final = 'agent=~"$agent"'
MODEL: Final = 'model=~"$model"'
WHO: Final = (WORKFLOW, AGENT, MODEL)

_STEP: Final = "$__rate_interval"
_RANGE: Final = "$__range"


def rate(metric: Metric, *matchers: str, by: Iterable[str] = (), part: str = "") -> str:
    """A counter's growth a second, all processes together."""
    return increase(metric, *matchers, window=_STEP, by=by, part=part, function="rate")


def grown(metric: Metric, *matchers: str, by: Iterable[str] = (), part: str = "") -> str:
    """A counter's growth within the time that the board shows."""
    return increase(metric, *matchers, window=_RANGE, by=by, part=part)


def per_minute(metric: Metric, *matchers: str, by: Iterable[str] = (), part: str = "") -> str:
    return f"60 * {rate(metric, *matchers, by=by, part=part)}"


def per_hour(metric: Metric, *matchers: str, by: Iterable[str] = ()) -> str:
    return f"3600 * {rate(metric, *matchers, by=by)}"


def some(expr: str) -> str:
    """Without the series that are 0: of many outcomes few occur."""
    return f"{expr} > 0"


def share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def quantile(q: float, metric: Metric, *matchers: str, by: Iterable[str] = (), whole: bool = False) -> str:
    """Of a histogram; `whole`: over the time that the board shows."""
    take = grown if whole else rate
    return f"histogram_quantile({q}, {take(metric, *matchers, by=(*by, 'le'), part='_bucket')})"


def gauge(operator: str, metric: Metric, *matchers: str, by: Iterable[str] = ()) -> str:
    """`operator` is how the metric's HELP says that processes are combined."""
    return f"{aggregate(operator, by)} ({select(metric, *matchers)})"
