"""Beyond what an alert fires, each with its reason; those of the run-success objective are in `recording.py`."""

from __future__ import annotations

from typing import Final

# Shares, of 1.
WORKFLOW_FAILING: Final = 0.25  # five times what the objective allows
PROVIDER_FAILING: Final = 0.2  # up to here three attempts a turn hide it: one turn in 125 fails
RATE_LIMIT_LEFT: Final = 0.1  # below, a burst is enough for 429s
MONEY_ON_FAILURES: Final = 0.2  # paid for nothing
DEBATES_OPEN: Final = 0.5  # more end at their last round than by agreement
REFUSED: Final = 0.05  # a model refuses the same prompt again: a change of prompts or model shows here
STREAMS_CUT: Final = 0.05  # each is paid in part, and once more in whole
# Seconds.
NO_PROGRESS: Final = 900  # an attempt may take its agent's whole timeout (600 by default), then wait
QUEUE_OLD: Final = 600  # accepted, and nobody works on it
RUN_SLOW_FLOOR: Final = 60  # nobody is woken because 5 seconds became 11
SPANS_OLD: Final = 300  # a Collector that restarts is back long before
DISK_HORIZON: Final = 4 * 3600  # time to act before it is full
# US dollars within an hour.
SPEND_FLOOR: Final = 10  # below, doubling is noise
WASTED_FLOOR: Final = 1
# Bytes.
JOURNAL_LARGE: Final = 10 * 2**30  # a backup or a VACUUM of it takes minutes
DISK_LOW: Final = 2**30  # the journal's log and what is committed meanwhile need room
# Counts and factors.
RETRIES_PER_SUCCESS: Final = 1  # each answer takes more than two requests
MIN_RETRIES: Final = 10  # within 10 minutes
MIN_FAULTS: Final = 5  # failing attempts within 5 minutes
RUN_SLOW_FACTOR: Final = 2  # times its p95 of the day before
MIN_RUNS: Final = 10  # a p95 of fewer is their maximum
SPEND_FACTOR: Final = 2  # times its own busy hour
OCCASIONS: Final = 2  # a deploy recovers runs once or twice; a process that keeps dying does so again and again
