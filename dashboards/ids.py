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
    SUCCESS_NOW = 11
    RUNS_ENDED = 12
    LATENCY_NOW = 13
    IN_FLIGHT_NOW = 14
    QUEUED_NOW = 15
    SPENT = 16


class Workflow(IntEnum):
    RUNS = 1
    FAILURES = 2
    DURATION = 3
    STEPS = 4
    DEBATE_ROUNDS = 5
    STRAGGLER = 6
    FAILED_TRACES = 7
    SUCCESS_NOW = 11
    RUNS_ENDED = 12
    LATENCY_NOW = 13
    COST_PER_RUN = 14
    OPEN_DEBATES = 15
    AGENT_CALLS = 16


class Models(IntEnum):
    ATTEMPTS = 1
    RETRIES = 2
    RETRY_WAIT = 3
    FIRST_CHUNK = 4
    RATE_LIMIT = 5
    REFUSALS = 6
    CUT_STREAMS = 7
    OK_NOW = 11
    RETRIES_NOW = 12
    FIRST_CHUNK_NOW = 13
    HEADROOM_NOW = 14
    ANSWERS = 15
    FAILING = 16


class Money(IntEnum):
    SPEND_RATE = 1
    BY_AGENT = 2
    WASTED = 3
    CACHE_HITS = 4
    SAVED = 5
    UNPRICED = 6
    DRIFT = 7
    SPENT = 11
    PER_RUN = 12
    WASTED_NOW = 13
    CACHE_HITS_NOW = 14
    SAVED_NOW = 15
    TOKENS = 16
    INEXACT = 17


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
    UP_NOW = 11
    VERSIONS = 12
    SPANS_PENDING_NOW = 13
    DISK_FREE_NOW = 14
    COLLECTOR_QUEUE = 15
    WORKFLOW_VERSIONS = 16


Panel: TypeAlias = Overview | Workflow | Models | Money | Service

UIDS: Final[dict[type[Panel], str]] = {
    Overview: "agentobs-overview",
    Workflow: "agentobs-workflow",
    Models: "agentobs-models",
    Money: "agentobs-money",
    Service: "agentobs-service",
}
VARIABLES: Final = ("workflow", "agent", "model")  # what a link may set
