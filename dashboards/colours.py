"""One colour for one meaning, on every board. Names are those of Grafana's palette."""

from __future__ import annotations

from typing import Final

GOOD: Final = "green"
BAD: Final = "red"
WARN: Final = "orange"
GREY: Final = "#8e8e8e"
BLUE: Final = "blue"

# Outcomes of runs, steps, attempts and exports, and error types: shades of orange and yellow are the provider's,
# purple the wire's, red a wrong request's, blue the answer's own, pink our code's and limits', grey somebody's wish.
COLOURS: Final[dict[str, str]] = {
    "ok": GOOD,
    "succeeded": GOOD,
    "failed": BAD,
    "error": WARN,
    "rejected": BAD,
    "rate_limited": "yellow",
    "overloaded": "orange",
    "server_error": "dark-orange",
    "bad_response": "dark-yellow",
    "timeout": "purple",
    "connection_error": "dark-purple",
    "stream_truncated": "light-purple",
    "stream_error": "super-light-purple",
    "invalid_request": "dark-red",
    "authentication": "red",
    "permission": "semi-dark-red",
    "not_found": "light-red",
    "too_large": "super-light-red",
    "refusal": "dark-blue",
    "max_tokens": "blue",
    "context_window": "light-blue",
    "output_invalid": "super-light-blue",
    "tool_error": "#ff85c0",
    "workflow_error": "#e0488b",
    "budget_exceeded": "#b0005f",
    "diverged": "#ffb8d9",
    "parked": "#7a0042",
    "cancelled": GREY,
    "interrupted": "#c4c4c4",
}
QUANTILES: Final[dict[str, str]] = {"p50": BLUE, "p95": WARN, "p99": BAD}
