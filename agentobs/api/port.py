"""What the HTTP API asks of the service behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agentobs.api.live import Hub
from agentobs.drift import Audit
from agentobs.journal.protocol import Reader, Submitted
from agentobs.records import Run
from agentobs.workflows import Workflow


class ServicePort(Protocol):
    @property
    def reader(self) -> Reader: ...

    @property
    def live(self) -> Hub: ...

    @property
    def registry(self) -> Mapping[str, Workflow]: ...

    async def submit(
        self,
        workflow: str,
        input: object,  # noqa: A002  # the word of the API
        *,
        tags: Mapping[str, str],
        idempotency_key: str | None,
        traceparent: str | None,
    ) -> Submitted:
        """Commit a new run, or find the one that this key and body made before.

        Raises `UnknownWorkflow`, `InvalidInput`, `Conflict`, `QueueFull`, `JournalUnavailable`.
        """
        ...

    async def cancel(self, run_id: str) -> Run:
        """Make the wish to cancel durable. Raises `NotFound`, `Conflict`."""
        ...

    async def resume(self, run_id: str) -> Run:
        """Queue a failed or cancelled run again. Raises `NotFound`, `Conflict`."""
        ...

    async def fork(
        self,
        run_id: str,
        from_step: int,
        *,
        given: tuple[object] | None,
        idempotency_key: str | None,
        traceparent: str | None,
    ) -> Submitted:
        """Commit a run that reuses what of another had succeeded before that step; `given`: another input.

        Raises as `submit`, and `NotFound`.
        """
        ...

    async def cancel_all(self, run_ids: Sequence[str]) -> list[str]:
        """Cancel each in bounded batches; the ids of those that were. Raises `JournalUnavailable`."""
        ...

    async def resume_all(self, run_ids: Sequence[str]) -> list[str]:
        """Resume each in bounded batches; the ids of those that were. Raises `JournalUnavailable`."""
        ...

    async def record_audit(self, audit: Audit) -> int:
        """Make an audit's result a record, and its number; from then on it is what the drift metric shows."""
        ...

    def readiness(self) -> Sequence[str]:
        """Why runs cannot be accepted or executed now; empty when they can."""
        ...

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the best format that `accept` allows, and its content type. Called on the event loop."""
        ...
