"""Which failed attempts are tried again, and when. tenacity is the loop; this is its policy.

Sources: the provider's SDK retries connection errors, timeouts, 408, 409, 429 and 5xx, and obeys `x-should-retry`,
`retry-after-ms` and `retry-after`; it never retries a stream that broke. Here a broken stream is retried too, and
no wait goes beyond the run's deadline.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tenacity import RetryCallState, wait_exponential_jitter

from agentobs.models.protocol import Reply
from agentobs.records import OK

RETRYABLE: Final = frozenset(
    {
        "rate_limited",
        "overloaded",
        "server_error",
        "timeout",
        "connection_error",
        "stream_truncated",
        "stream_error",
        "bad_response",
    }
)

# 0.5, 1, 2, … s and up to half a second more, at most 30 s.
_BACKOFF: Final = wait_exponential_jitter(multiplier=0.5, exp_base=2, max=30, jitter=0.5)


class Verdict(NamedTuple):
    """What follows an attempt: a further one after `wait_s`, or none (`wait_s` is None)."""

    wait_s: float | None = None


FINAL: Final = Verdict()


def verdict(reply: Reply, *, failures: int, allowed: int, seconds_left: float) -> Verdict:
    """`failures` counts this one and those of the turn before it; `allowed` is the agent's `attempts`.

    A wait that would end after the run's deadline is not begun: the turn fails now.
    """
    if reply.outcome == OK or failures >= allowed:
        return FINAL
    retryable = reply.outcome in RETRYABLE if reply.should_retry is None else reply.should_retry
    if not retryable:
        return FINAL
    wait_s = reply.retry_after_s if reply.retry_after_s is not None else backoff(failures)
    return Verdict(wait_s) if wait_s < seconds_left else FINAL


def backoff(failures: int) -> float:
    """Seconds to wait after the n-th failure where the provider gave none."""
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = failures
    return _BACKOFF(state)
