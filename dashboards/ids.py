"""Uids of dashboards and ids of their panels: links from alerts hold them, so a number once given stays."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias


class Overview(IntEnum):
    RUN_SUCCESS = 1
    RUN_RATE = 2
    RUN_LATENCY = 3
    IN_FLIGHT = 4
    QUEUE_AGE = 5
    SPEND = 6
    FIRING = 7
    PROGRESS_AGE = 8


class Workflow(IntEnum):
    RUNS = 1
    FAILURES = 2
    DURATION = 3
    STEPS = 4
    DEBATE_ROUNDS = 5
    STRAGGLER = 6
    FAILED_TRACES = 7


class Models(IntEnum):
    ATTEMPTS = 1
    RETRIES = 2
    RETRY_WAIT = 3
    FIRST_CHUNK = 4
    RATE_LIMIT = 5
    REFUSALS = 6
    CUT_STREAMS = 7


class Money(IntEnum):
    SPEND_RATE = 1
    BY_AGENT = 2
    WASTED = 3
    CACHE_HITS = 4
    SAVED = 5
    UNPRICED = 6
    DRIFT = 7


class Service(IntEnum):
    COMMITS = 1
    LOOP_LAG = 2
    SPANS_PENDING = 3
    SPANS_AGE = 4
    RECOVERIES = 5
    EXPORTS = 6
    UP = 7
    JOURNAL_SIZE = 8
    DISK_FREE = 9
    JOURNAL_ERRORS = 10


Panel: TypeAlias = Overview | Workflow | Models | Money | Service

UIDS: Final[dict[type[Panel], str]] = {
    Overview: "agentobs-overview",
    Workflow: "agentobs-workflow",
    Models: "agentobs-models",
    Money: "agentobs-money",
    Service: "agentobs-service",
}
VARIABLES: Final = ("workflow", "agent", "model")  # what a link may set
