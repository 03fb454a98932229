"""The rate-limit headers of the API. Only shown, never enforced: faults do that when asked.

Limits are per model and minute, and large enough that a load test leaves something.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = "anthropic-ratelimit-"
REQUESTS = 1_000_000
INPUT_TOKENS = 200_000_000
OUTPUT_TOKENS = 100_000_000
_WINDOW_S = 60


@dataclass(slots=True)
class _Used:
    window: int
    """Which minute since the epoch."""
    requests: int = 0
    input: int = 0
    output: int = 0


class RateLimits:
    """What each model has used of its current minute."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._used: dict[str, _Used] = {}

    def headers(self, model: str, input_tokens: int, output_tokens: int, left: float | None = None) -> dict[str, str]:
        """Count one request and say what is left; `left` is a share of each limit to be told instead."""
        window = int(self._wall_clock()) // _WINDOW_S
        used = self._used.get(model)
        if used is None or used.window != window:
            used = self._used[model] = _Used(window)
        used.requests += 1
        used.input += input_tokens
        used.output += output_tokens
        if left is not None:
            gone = 1 - left
            used = _Used(window, round(REQUESTS * gone), round(INPUT_TOKENS * gone), round(OUTPUT_TOKENS * gone))
        return _headers(used, window)

    def exhausted(self, model: str) -> dict[str, str]:
        """The headers of a 429: no input tokens left until the window ends."""
        window = int(self._wall_clock()) // _WINDOW_S
        used = self._used.get(model) or _Used(window)
        return _headers(_Used(window, used.requests, INPUT_TOKENS, used.output), window)


@lru_cache(maxsize=4)
def _reset(window: int) -> str:
    return datetime.fromtimestamp((window + 1) * _WINDOW_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _headers(used: _Used, window: int) -> dict[str, str]:
    reset = _reset(window)
    input_left = max(0, INPUT_TOKENS - used.input)
    output_left = max(0, OUTPUT_TOKENS - used.output)
    return {
        f"{_PREFIX}requests-limit": str(REQUESTS),
        f"{_PREFIX}requests-remaining": str(max(0, REQUESTS - used.requests)),
        f"{_PREFIX}requests-reset": reset,
        f"{_PREFIX}input-tokens-limit": str(INPUT_TOKENS),
        f"{_PREFIX}input-tokens-remaining": str(input_left),
        f"{_PREFIX}input-tokens-reset": reset,
        f"{_PREFIX}output-tokens-limit": str(OUTPUT_TOKENS),
        f"{_PREFIX}output-tokens-remaining": str(output_left),
        f"{_PREFIX}output-tokens-reset": reset,
        f"{_PREFIX}tokens-limit": str(INPUT_TOKENS + OUTPUT_TOKENS),
        f"{_PREFIX}tokens-remaining": str(input_left + output_left),
        f"{_PREFIX}tokens-reset": reset,
    }
