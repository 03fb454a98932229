"""What is made of a journal without a service: a run's log lines once more, and an audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentobs.audit.journal import Statement
from agentobs.audit.journal import audit as audit_journal
from agentobs.drift import Audit
from agentobs.journal.protocol import RunDetail
from agentobs.journal.sqlite import read_only
from agentobs.telemetry import names
from agentobs.telemetry.deltas import deltas
from agentobs.telemetry.reprint import printed


def log_lines(detail: RunDetail) -> Iterator[dict[str, Any]]:
    """A run's log lines, made again from what the journal holds of it: JSON objects in the order they were logged."""
    return printed((detail.run, *detail.executions, *detail.steps, *detail.attempts))


def audit_file(path: Path, statement: Statement = None) -> Audit:
    """Hold a journal's books against each other and against what the provider says. Reads alone; takes its time."""
    return audit_journal(read_only(path), deltas=deltas, exported=names.SPANS_EXPORTED.name, statement=statement)
