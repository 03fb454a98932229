"""What telemetry sees of the journal: the shapes of what it publishes, so that only records need be imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from agentobs.records import Change

Labels: TypeAlias = tuple[str, ...]  # label values in the order that names.py declares them
Delta: TypeAlias = tuple[str, Labels, int]  # metric, label values, what to add in the metric's integer unit


class SpanRef(Protocol):
    """Which span is owed: kind run, execution, step, turn or attempt; `number` is the execution's or the step's."""

    @property
    def kind(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def turn(self) -> int: ...
    @property
    def attempt(self) -> int: ...


class Owed(Protocol):
    """One row of the journal's outbox, committed at `at` (ns)."""

    @property
    def id(self) -> int: ...
    @property
    def at(self) -> int: ...
    @property
    def spans(self) -> Sequence[SpanRef]: ...
    @property
    def recalled(self) -> bool: ...


class Published(Protocol):
    """One committed unit."""

    @property
    def changes(self) -> Sequence[Change]: ...
    @property
    def deltas(self) -> Sequence[Delta]: ...
    @property
    def owed(self) -> Owed | None: ...
    @property
    def traced(self) -> bool: ...
