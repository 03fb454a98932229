"""The run engine: submit, claim, execute, cancel, drain. Story of a run from outside; execute.py is from inside.

submit ─▶ journal ─▶ dispatcher invites ─▶ claim (epoch + 1, new execution) ─▶ execute ─▶ the run's end
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentobs.encoding import canonical, decode, encode
from agentobs.errors import AgentobsError, Conflict, InvalidInput, JournalUnavailable, NotFound
from agentobs.journal.protocol import Claim, Submitted
from agentobs.records import NOTED, RECOVERED, Change, Run, new_run_id
from agentobs.runtime.dispatch import Dispatcher
from agentobs.runtime.execute import GRACE_S, execute
from agentobs.runtime.live import Live, Surroundings, shielded
from agentobs.runtime.loop import name_tasks_after, named_task, run_of
from agentobs.workflows import Workflow

BATCH: Final = 100  # runs that a bulk call acts on in one commit; what running work commits waits for one at most
SUBMIT_WAIT_S: Final = 5.0  # for a journal that has stopped committing
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """See the settings of the same names."""

    max_runs_in_flight: int = 1000
    max_queued_runs: int = 100_000
    max_input_bytes: int = 2**20
    max_recoveries: int = 3


class Engine:
    """Runs claimed runs, at most `limits.max_runs_in_flight` at once. One per process."""

    def __init__(
        self,
        shared: Surroundings,
        workflows: Mapping[str, Workflow],
        dispatcher: Dispatcher,
        *,
        limits: Limits,
        worker: str,
        version: str,
    ) -> None:
        self._shared = shared
        self._journal = shared.journal
        self._workflows = workflows
        self._dispatcher = dispatcher
        self._limits = limits
        self._worker = worker
        self._version = version
        self._versions = {name: found.version for name, found in workflows.items()}
        self._live: dict[str, Live] = {}
        self._executions: set[asyncio.Task[None]] = set()
        self._claiming: set[str] = set()
        self._to_cancel: set[str] = set()
        self._draining = False
        self._loop_task: asyncio.Task[None] | None = None

    # ---- the outside ----

    async def submit(
        self,
        workflow: str,
        given: object,
        *,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """Accept a run: durable when this returns.

        Raises `UnknownWorkflow`, `InvalidInput`, `Conflict` (the key's first body was another), `QueueFull`,
        `JournalUnavailable`.
        """
        run = self._new_run(
            workflow,
            given,
            tags=encode(dict(tags or {}), "tags"),
            idempotency_key=idempotency_key,
            request_hash=_hash([workflow, given, dict(tags or {})]),
            traceparent=traceparent,
        )
        return await self._accept(run)

    async def fork(
        self,
        run_id: str,
        from_step: int,
        *,
        given: tuple[object] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """Accept a run of the same workflow that reuses what of `run_id` had succeeded before `from_step` began.

        `given`: another input. Raises as `submit`, and `NotFound` (no such run or step), `Conflict` (that step has not
        begun yet).
        """
        source, detail = await self._journal.run(run_id), await self._journal.detail(run_id, content=False)
        if source is None or detail is None:
            raise NotFound(f"there is no run {run_id!r:.60}")
        numbers = [step.number for step in detail.steps]
        if from_step not in numbers:
            begun = (
                f"the steps that it has begun are {min(numbers)} to {max(numbers)}" if numbers else "it has begun none"
            )
            if detail.run.ended_at is None and from_step > max(numbers, default=0):
                raise Conflict(f"run {run_id} has not got to step {from_step} yet: {begun}. Try again later")
            raise NotFound(f"run {run_id} has no step {from_step}: {begun}")
        run = self._new_run(
            source.workflow,
            decode(source.input) if given is None else given[0],
            tags=source.tags,
            idempotency_key=idempotency_key,
            request_hash=_hash(["fork", run_id, from_step, *(given or ())]),
            traceparent=traceparent,
            forked_from=run_id,
            forked_step=from_step,
        )
        return await self._accept(run)

    def _new_run(self, workflow: str, given: object, **more: Any) -> Run:
        declared = self._workflows[workflow]
        text = encode(given, f"the input of workflow {workflow!r}")
        if len(text) > self._limits.max_input_bytes:
            raise InvalidInput(
                f"the input has {len(text)} bytes, at most {self._limits.max_input_bytes} are allowed "
                "(AGENTOBS_MAX_INPUT_BYTES)",
                too_large=True,
            )
        declared.parse(given)
        now = self._shared.clock.now().wall
        return Run(
            id=new_run_id(now // 1_000_000, os.urandom(10)),
            workflow=workflow,
            version=self._version,
            input=text,
            created_at=now,
            **more,
        )

    async def _accept(self, run: Run) -> Submitted:
        if self._journal.trouble is not None:
            raise JournalUnavailable(f"nothing can be accepted now: {self._journal.trouble}. Try again later")
        work = asyncio.ensure_future(self._journal.submit(run, max_queued=self._limits.max_queued_runs))
        done, _ = await asyncio.wait({work}, timeout=SUBMIT_WAIT_S)
        if not done:
            work.add_done_callback(_seen)
            raise JournalUnavailable(
                f"the run may or may not be accepted: {self._journal.trouble or 'the journal is slow'}. Try again "
                "with an Idempotency-Key"
            )
        submitted = work.result()
        if submitted.created:
            self._dispatcher.invite(submitted.run.id)
        return submitted

    async def cancel(self, run_id: str) -> Run:
        """Stop a run's spending. Returns the run as it stands now. Raises `NotFound`, `Conflict`."""
        run = await self._journal.request_cancel(run_id)
        if run.owner == self._journal.owner and run.ended_at is None:
            live = self._live.get(run_id)
            if live is None:
                self._to_cancel.add(run_id)  # claimed a moment ago: its execution is about to begin
            else:
                live.stop("cancel")
        return run

    async def resume(self, run_id: str) -> Run:
        """Run a failed or cancelled run again, paying only for what failed or never ran. `NotFound`, `Conflict`."""
        run = await self._journal.request_resume(run_id)
        self._dispatcher.invite(run_id)
        return run

    async def cancel_all(self, run_ids: Sequence[str]) -> list[str]:
        """`cancel` each; returns those that were. What has ended meanwhile is passed over. `JournalUnavailable`."""
        return await self._each(run_ids, self.cancel)

    async def resume_all(self, run_ids: Sequence[str]) -> list[str]:
        """`resume` each; returns those that were. What goes on already is passed over. `JournalUnavailable`."""
        return await self._each(run_ids, self.resume)

    async def _each(self, run_ids: Sequence[str], act: Callable[[str], Coroutine[Any, Any, Run]]) -> list[str]:
        """In batches, one after the other: the units of a batch share a commit, and others' come in between."""
        acted: list[str] = []
        for at in range(0, len(run_ids), BATCH):
            batch = run_ids[at : at + BATCH]
            if self._journal.trouble is not None:
                raise JournalUnavailable(
                    f"{len(acted)} of {len(run_ids)} runs are done, then: {self._journal.trouble}. Call again later"
                )
            answers = await asyncio.gather(*(act(run_id) for run_id in batch), return_exceptions=True)
            for run_id, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Run):
                    acted.append(run_id)
                elif not isinstance(answer, (Conflict, NotFound)):
                    raise answer
        return acted

    @property
    def dispatching(self) -> bool:
        """Whether runs are being claimed."""
        return self._loop_task is not None and not self._loop_task.done()

    def in_flight(self) -> int:
        return len(self._live)

    def run_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """The run that a task belongs to. For the watchdog's thread, while the event loop stands still."""
        return None if task is None else run_of(task)

    # ---- running ----

    def start(self) -> None:
        """Begin to claim: unfinished runs of dead owners first (they are the oldest), then what is queued."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(named_task)
        self._loop_task = loop.create_task(self._dispatch())

    def stop_claiming(self) -> None:
        """From here on runs stay queued; those that run go on."""
        self._draining = True
        if self._loop_task is not None:
            self._loop_task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Claim nothing more, give running work `timeout_s`, then hand the rest back to the queue."""
        self.stop_claiming()
        until = asyncio.get_running_loop().time() + timeout_s
        while self._claiming or self._executions:
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            if self._executions:
                await asyncio.wait(set(self._executions), timeout=left)
            else:
                await asyncio.sleep(0.01)
        for live in list(self._live.values()):
            live.stop("drain")
        if self._executions:
            await asyncio.wait(set(self._executions), timeout=GRACE_S * 3)

    async def _dispatch(self) -> None:
        async for run_id in self._dispatcher.invitations(self._free_slots, list(self._workflows)):
            if run_id not in self._live and run_id not in self._claiming:
                self._claiming.add(run_id)
                claim = self._journal.claim(
                    run_id,
                    worker=self._worker,
                    version=self._version,
                    max_recoveries=self._limits.max_recoveries,
                    workflow_versions=self._versions,
                )
                claim.add_done_callback(lambda done, run_id=run_id: self._claimed(run_id, done))  # type: ignore[misc]

    def _free_slots(self) -> int:
        if self._draining or self._journal.trouble is not None:
            return 0
        return self._limits.max_runs_in_flight - len(self._live) - len(self._claiming)

    def _claimed(self, run_id: str, done: asyncio.Future[Claim | None]) -> None:
        self._claiming.discard(run_id)
        error = None if done.cancelled() else done.exception()
        if error is not None or done.cancelled():
            if not isinstance(error, AgentobsError):
                _log.warning("run.claim_failed", extra={"run_id": run_id, "error_class": type(error).__name__})
            self._dispatcher.slot_free()
            return
        claim = done.result()
        if claim is None:
            self._to_cancel.discard(run_id)
            self._dispatcher.slot_free()
            return
        live = Live(claim, self._workflows[claim.run.workflow], self._shared)
        self._live[run_id] = live
        if run_id in self._to_cancel:
            self._to_cancel.discard(run_id)
            live.stop("cancel")
        elif self._draining:
            live.stop("drain")
        task = asyncio.get_running_loop().create_task(self._execute(live))
        self._executions.add(task)
        task.add_done_callback(self._executions.discard)

    async def _execute(self, live: Live) -> None:
        name_tasks_after(live.run.id)
        try:
            await execute(live)
        except Exception as error:  # noqa: BLE001 -- one run must not take the engine down
            _log.error("run.engine_failed", extra={"run_id": live.run.id, "error_class": type(error).__name__})
            with contextlib.suppress(AgentobsError):  # back to the queue: the next claim counts it as a death
                await shielded(live.commit(Change(NOTED, dataclasses.replace(live.run, next_reason=RECOVERED))))
        finally:
            self._live.pop(live.run.id, None)
            self._dispatcher.slot_free()


def _hash(request: list[Any]) -> str:
    body = canonical(request, "the request")
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def _seen(future: asyncio.Future[Submitted]) -> None:
    if not future.cancelled():
        future.exception()
