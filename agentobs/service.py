"""The composition root: what is wired to what, how the service starts, and how it stops.

settings ─▶ journal ─▶ engine ─▶ HTTP
               └──▶ metrics, logs, trace outbox (subscribers of what was committed)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import agentobs.examples as _examples  # noqa: F401 -- registers the shipped workflows
from agentobs.api.app import create_app
from agentobs.api.live import Hub
from agentobs.drift import Audit
from agentobs.errors import InvalidSettings
from agentobs.journal.protocol import Delta, Reader, Submitted
from agentobs.journal.sampling import Sampling
from agentobs.journal.sqlite import SqliteJournal, open_journal
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.providers import models_for, warm_up
from agentobs.records import NS, Run
from agentobs.runtime.clock import SystemClock
from agentobs.runtime.dispatch import LocalDispatcher
from agentobs.runtime.engine import Engine, Limits
from agentobs.runtime.live import Surroundings
from agentobs.runtime.loop import all_imported
from agentobs.runtime.watchdog import Watchdog
from agentobs.serving import Server, bind, raise_file_limit, signals, url_of
from agentobs.settings import NO_MODEL_KEY, Settings, TraceExport
from agentobs.shown import Shown
from agentobs.telemetry import logs, names
from agentobs.telemetry.context import install_user_tracing, step_context
from agentobs.telemetry.deltas import deltas
from agentobs.telemetry.labels import AgentLabels, WorkflowLabels
from agentobs.telemetry.metrics import Metrics
from agentobs.telemetry.otlp import OtlpSender
from agentobs.telemetry.outbox import TraceOutbox
from agentobs.version import __version__
from agentobs.workflows import REGISTRY, Registry, Workflow

T = TypeVar("T")

BLAME_S: Final = 2.0
FLUSH_S: Final = 3.0  # for spans at the end; what is left then waits in the journal
SPARE_FILES: Final = 512  # open files beside model connections: HTTP clients, journal, exporter


class Service:
    """Everything behind the HTTP API and the command line. Made by `open_service`."""

    def __init__(
        self,
        journal: SqliteJournal,
        engine: Engine,
        metrics: Metrics,
        registry: Registry,
        *,
        audited: Callable[[Mapping[str, int]], None],
        runs: bool,
    ) -> None:
        self._journal = journal
        self._engine = engine
        self._metrics = metrics
        self._registry = registry
        self._audited = audited
        self._runs = runs
        self.stopping = False
        self.live = Hub(journal)
        journal.subscribe(self.live.observe)

    @property
    def reader(self) -> Reader:
        return self._journal

    @property
    def registry(self) -> Mapping[str, Workflow]:
        return self._registry

    async def submit(
        self,
        workflow: str,
        input: object,  # noqa: A002 -- the word of the API
        *,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """See `Engine.submit`."""
        return await self._engine.submit(
            workflow, input, tags=tags, idempotency_key=idempotency_key, traceparent=traceparent
        )

    async def cancel(self, run_id: str) -> Run:
        """See `Engine.cancel`."""
        return await self._engine.cancel(run_id)

    async def resume(self, run_id: str) -> Run:
        """See `Engine.resume`."""
        return await self._engine.resume(run_id)

    async def fork(
        self,
        run_id: str,
        from_step: int,
        *,
        given: tuple[object] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """See `Engine.fork`."""
        return await self._engine.fork(
            run_id, from_step, given=given, idempotency_key=idempotency_key, traceparent=traceparent
        )

    async def cancel_all(self, run_ids: Sequence[str]) -> list[str]:
        """See `Engine.cancel_all`."""
        return await self._engine.cancel_all(run_ids)

    async def resume_all(self, run_ids: Sequence[str]) -> list[str]:
        """See `Engine.resume_all`."""
        return await self._engine.resume_all(run_ids)

    async def record_audit(self, audit: Audit) -> int:
        """See `ServicePort.record_audit`."""
        number = await self._journal.record_audit(audit)
        self._audited(audit.drift)
        return number

    def stop(self) -> None:
        """A stop was asked for: no run is claimed any more, and `readyz` says so."""
        self.stopping = True
        self._engine.stop_claiming()
        self.live.stop()

    def readiness(self) -> Sequence[str]:
        """Why nothing can be accepted or run now; empty when it can."""
        reasons = []
        if self._journal.trouble is not None:
            reasons.append(f"the journal cannot commit: {self._journal.trouble}; runs are paused, nothing is lost")
        if self.stopping:
            reasons.append("draining: this process is about to stop")
        if self._runs and not self._engine.dispatching:
            reasons.append("the dispatcher is not running")
        return reasons

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The Prometheus exposition and its content type."""
        return self._metrics.render(accept)


@asynccontextmanager
async def open_service(
    settings: Settings, *, run: bool = True, registry: Registry = REGISTRY
) -> AsyncIterator[Service]:
    """Own the journal, recover what is unfinished, and run; on leaving drain, deliver and close, in that order.

    With `run=False` runs are accepted and wait as queued. Raises `JournalError`, `UsageError` before anything started.
    """
    _configure_logs(settings)
    asyncio.get_running_loop().set_exception_handler(logs.asyncio_exception_handler)
    registry.load(settings.workflows)
    raise_file_limit(settings.max_calls_in_flight + SPARE_FILES)
    export = settings.trace_export
    shown = Shown()
    metrics = Metrics(version=__version__, sources=shown.sources())
    async with AsyncExitStack() as stack:
        journal = await open_journal(
            settings.sqlite_path,
            worker=settings.worker_name,
            deltas=deltas,
            export_requested=export is not None,
            sampling=_sampling(settings),
            observe_commit=metrics.commit,
        )
        stack.push_async_callback(journal.close)
        metrics.restore(await journal.totals(settings.worker_name))
        metrics.create_at_zero([_labels(workflow) for workflow in registry.values()])
        journal.subscribe(metrics.observe)
        journal.subscribe(logs.LogSubscriber().observe)
        shown.journal = journal
        shown.audited(await journal.drift())
        stack.push_async_callback(_cancelled, asyncio.create_task(shown.refresh()))
        if export is not None:
            await _start_export(stack, journal, export, settings.resource, shown)
        models = models_for(
            api_key=settings.model_key,
            base_url=settings.anthropic_base_url,
            max_connections=settings.max_calls_in_flight,
        )
        for model in models.values():
            stack.push_async_callback(model.close)
        engine = _engine(settings, journal, models, registry)
        watchdog = Watchdog(
            settings.loop_stall_s,
            observe_lag=metrics.loop_lag,
            on_blocked=_blocked,
            on_stalled=lambda task: _blame(journal, engine.run_of(task)),
        )
        stack.callback(watchdog.stop)
        watchdog.start()
        service = Service(journal, engine, metrics, registry, audited=shown.audited, runs=run)
        if run:
            warming = asyncio.create_task(_warm_up(models, registry))
            stack.push_async_callback(_cancelled, warming)
            engine.start()
        _started(settings, registry, run=run)
        try:
            yield service
        finally:
            service.stop()
            logs.emit(names.SERVICE_DRAINING, in_flight=engine.in_flight())
            await engine.drain(settings.drain_timeout_s if run else 0)
            logs.emit(names.SERVICE_STOPPED)


def _engine(
    settings: Settings, journal: SqliteJournal, models: Mapping[str, AnthropicModel], registry: Registry
) -> Engine:
    shared = Surroundings(
        journal=journal,
        models=dict(models),
        clock=SystemClock(),
        calls=asyncio.Semaphore(settings.max_calls_in_flight),
        step_context=partial(step_context, chosen=_sampling(settings).chooses),
        max_output_bytes=settings.max_output_bytes,
    )
    limits = Limits(
        max_runs_in_flight=settings.max_runs_in_flight,
        max_queued_runs=settings.max_queued_runs,
        max_input_bytes=settings.max_input_bytes,
        max_recoveries=settings.max_recoveries,
    )
    dispatcher = LocalDispatcher(journal)
    return Engine(shared, registry, dispatcher, limits=limits, worker=settings.worker_name, version=__version__)


async def _start_export(
    stack: AsyncExitStack, journal: SqliteJournal, export: TraceExport, resource_: Mapping[str, str], shown: Shown
) -> None:
    loop = asyncio.get_running_loop()
    sender = OtlpSender(export, resource_)

    def blocking(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def taken_off(rows: Sequence[int], counted: Sequence[Delta]) -> None:
        # Seen: should it fail, the rows stay owed and their spans are sent again.
        journal.delivered(rows, counted).add_done_callback(lambda done: done.cancelled() or done.exception())

    outbox = TraceOutbox(
        sender,
        read=lambda after, limit: blocking(journal.pending_spans(after, limit)),
        measure=lambda: blocking(journal.pending_span_stats()),
        delivered=lambda rows, counted: loop.call_soon_threadsafe(taken_off, rows, counted),
    )
    journal.subscribe(outbox.offer)
    shown.outbox = outbox
    outbox.start()
    stack.push_async_callback(outbox.close, FLUSH_S)
    user = install_user_tracing(export, resource_)
    if user is not None:
        stack.push_async_callback(user.close, FLUSH_S)


async def serve_http(
    settings: Settings,
    *,
    run: bool = True,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """The whole service over HTTP, until SIGTERM, SIGINT or `stop`. `ready` is called with its URL once it listens."""
    listening = bind(settings.host, settings.port)
    with listening:
        async with open_service(settings, run=run) as service:
            app = create_app(
                service,
                max_input_bytes=settings.max_input_bytes,
                allowed_hosts=settings.allowed_hosts,
                api_key=settings.api_key,
            )
            server = Server(app)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            stopping = stop or asyncio.Event()
            with signals(stopping, on_hangup=logs.reopen):
                while not server.started and not serving.done():  # noqa: ASYNC110 -- uvicorn offers a flag only
                    await asyncio.sleep(0.005)
                if ready is not None:
                    ready(url_of(listening))
                waiting = asyncio.create_task(stopping.wait())
                await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
                service.stop()
                server.should_exit = True
                waiting.cancel()
                await serving


def try_export(settings: Settings) -> tuple[str, str]:
    """Send an empty export to the trace endpoint: what it said and why, see `Sent`; ("", "") where none is set."""
    if settings.trace_export is None:
        return "", ""
    sender = OtlpSender(settings.trace_export, settings.resource)
    try:
        sent = sender.send(())
    finally:
        sender.close()
    return sent.verdict, sent.reason


# ---- small pieces ----


def _configure_logs(settings: Settings) -> None:
    on_terminal = settings.log_file is None and sys.stderr.isatty()
    try:
        logs.configure(
            level=settings.log_level,
            format=settings.log_format or ("console" if on_terminal else "json"),
            file=settings.log_file,
        )
    except OSError as error:
        raise InvalidSettings(
            f"AGENTOBS_LOG_FILE {str(settings.log_file)!r} cannot be written ({error.strerror}); expected a file in "
            "a folder that this user may write to"
        ) from None


def _sampling(settings: Settings) -> Sampling:
    return Sampling(settings.trace_sample, round(settings.trace_slow_s * NS))


def _labels(workflow: Workflow) -> WorkflowLabels:
    return WorkflowLabels(
        name=workflow.name,
        version=workflow.version or "",
        agents=tuple(
            AgentLabels(name=a.name, model=a.model, provider=a.provider, tools=tuple(tool.name for tool in a.functions))
            for a in workflow.agents
        ),
        steps=tuple(step.name for step in workflow.steps),
    )


def _started(settings: Settings, registry: Registry, *, run: bool) -> None:
    for warning in settings.warnings():
        logs.emit(names.SERVICE_WARNING, "warning", reason=warning)
    if run and not settings.has_model_key:
        logs.emit(names.SERVICE_WARNING, "warning", reason=NO_MODEL_KEY)
    versions = {workflow.name: workflow.version for workflow in registry.values()}
    logs.emit(
        names.SERVICE_STARTED, version=__version__, worker=settings.worker_name, runs=run, workflow_versions=versions
    )


def _blocked(seconds: float, stack: list[str]) -> None:
    logs.emit(names.LOOP_BLOCKED, "warning", blocked_s=round(seconds, 3), stack=stack)
    logs.flush()  # the next thing may be the end of the process


def _blame(journal: SqliteJournal, run_id: str | None) -> None:
    """The process is about to leave because of this run: its neighbours' recoveries shall not count against them."""
    if run_id is not None:
        journal.blame(run_id, timeout_s=BLAME_S)


async def _warm_up(models: Mapping[str, AnthropicModel], registry: Registry) -> None:
    async for warning in warm_up(models, registry.values()):
        logs.emit(names.SERVICE_WARNING, "warning", reason=warning)
    all_imported()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
