"""The calls of the HTTP API. Each asks the service or the reader, and sends what views.py makes of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from agentobs.api import views
from agentobs.api.audits import AuditBody, Recorded
from agentobs.api.events import add_events
from agentobs.api.port import ServicePort
from agentobs.api.prefer import MAX_WAIT_S, wait_s
from agentobs.api.problems import KINDS, Json
from agentobs.api.schemas import (
    Detail,
    Filters,
    ForkRequest,
    Health,
    Problem,
    Readiness,
    RunList,
    RunRequest,
    Summary,
    WorkflowList,
    to_cursor,
    to_run_id,
    to_traceparent,
)
from agentobs.api.selection import BulkAnswer, CancelRequest, ResumeRequest
from agentobs.errors import NotFound
from agentobs.journal.protocol import RunDetail
from agentobs.records import Run

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="The same key and body again answer 200 and the same run.",
    ),
]
Prefer = Annotated[
    list[str] | None,
    Header(
        alias="Prefer",
        description=f"wait=60: answer once the run has ended, after at most so many seconds (up to {MAX_WAIT_S}); "
        "Preference-Applied tells how many (RFC 7240).",
    ),
]
Traceparent = Annotated[str | None, Header(description="Kept as a link; a malformed one is ignored.")]


class _RunConvertor(StringConvertor):
    """A run's place in a path: what POST /v1/runs/cancel and the like are called is none."""

    regex = "(?!(?:cancel|resume)$)[^/]+"


register_url_convertor("run", _RunConvertor())


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": KINDS[status][1]} for status in statuses}


def router(service: ServicePort) -> APIRouter:
    api = APIRouter(redirect_slashes=False)
    _add_runs(api, service)
    _add_bulk(api, service)
    add_events(api, service)
    _add_operations(api, service)
    return api


def _add_runs(api: APIRouter, service: ServicePort) -> None:
    async def found(run_id: str, *, content: bool) -> RunDetail:
        detail = await service.reader.detail(run_id, content=content)
        if detail is None:
            raise NotFound(f"there is no run {run_id}")
        return detail

    async def summarized(run: Run) -> dict[str, Any]:
        return views.summary(await service.reader.detail(run.id, content=False) or RunDetail(run=run))

    @api.post(
        "/v1/runs",
        status_code=202,
        response_model=Summary,
        responses={
            200: {
                "model": Summary,
                "description": "This key and body had made the run before; or it ended within Prefer: wait",
            },
            **_problems(400, 404, 409, 413, 415, 422, 429, 503),
        },
        tags=["runs"],
    )
    async def submit(
        request: Request,
        body: RunRequest,
        idempotency_key: IdempotencyKey = None,
        prefer: Prefer = None,
        traceparent: Traceparent = None,
    ) -> Response:
        """Accept a run. Once 202 is sent, it cannot be lost."""
        run, created = await service.submit(
            body.workflow,
            body.input,
            tags=body.tags,
            idempotency_key=idempotency_key,
            traceparent=to_traceparent(traceparent),
        )
        headers = {"Location": f"/v1/runs/{run.id}"}
        wait = wait_s(prefer or ())
        if wait is None:
            summary = views.summary(RunDetail(run=run)) if created else await summarized(run)
            return Json(summary, 202 if created else 200, headers)
        headers["Preference-Applied"] = f"wait={wait}"
        ended = await first_of(service.live.ended(run.id), hung_up(request), timeout_s=wait)
        return Json(await summarized(run), 200 if ended or not created else 202, headers)

    @api.get("/v1/runs", response_model=RunList, responses=_problems(400, 422), tags=["runs"])
    async def list_runs(filters: Annotated[Filters, Query()]) -> Response:
        """Runs, newest first."""
        details = await service.reader.details(filters.query())
        page = details[: filters.limit]
        more = len(details) > len(page)
        return Json(views.run_list(page, to_cursor(page[-1].run.id) if more else None))

    @api.get("/v1/runs/{run_id:run}", response_model=Detail, responses=_problems(404), tags=["runs"])
    async def show(run_id: str) -> Response:
        """A run with its input, output, executions, steps and attempts."""
        return Json(views.run_detail(await found(to_run_id(run_id), content=True)))

    @api.get("/v1/runs/{run_id}/summary", response_model=Summary, responses=_problems(404), tags=["runs"])
    async def show_summary(run_id: str) -> Response:
        """The summary alone."""
        return Json(views.summary(await found(to_run_id(run_id), content=False)))

    @api.post(
        "/v1/runs/{run_id}/cancel",
        status_code=202,
        response_model=Summary,
        responses=_problems(404, 409, 503),
        tags=["runs"],
    )
    async def cancel(run_id: str) -> Response:
        """Stop a run and its spending; 409 when it has ended otherwise."""
        return Json(await summarized(await service.cancel(to_run_id(run_id))), 202)

    @api.post(
        "/v1/runs/{run_id}/resume",
        status_code=202,
        response_model=Summary,
        responses=_problems(404, 409, 503),
        tags=["runs"],
    )
    async def resume(run_id: str) -> Response:
        """Run a failed or cancelled run again, paying only for what failed or never ran; 409 in any other state."""
        return Json(await summarized(await service.resume(to_run_id(run_id))), 202)

    @api.post(
        "/v1/runs/{run_id}/fork",
        status_code=202,
        response_model=Summary,
        responses={
            200: {"model": Summary, "description": "This key and body had made the fork before"},
            **_problems(400, 404, 409, 413, 415, 422, 429, 503),
        },
        tags=["runs"],
    )
    async def fork(
        run_id: str, body: ForkRequest, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None
    ) -> Response:
        """A new run that reuses what of this one had succeeded before a step began; 409 when it has not begun."""
        run, created = await service.fork(
            to_run_id(run_id),
            body.from_step,
            given=(body.input,) if "input" in body.model_fields_set else None,
            idempotency_key=idempotency_key,
            traceparent=to_traceparent(traceparent),
        )
        summary = views.summary(RunDetail(run=run)) if created else await summarized(run)
        return Json(summary, 202 if created else 200, {"Location": f"/v1/runs/{run.id}"})


def _add_bulk(api: APIRouter, service: ServicePort) -> None:
    async def acted_on(asked: CancelRequest | ResumeRequest, act: Callable[[list[str]], Awaitable[list[str]]]) -> Json:
        found = await service.reader.ids(asked.query())
        page = list(found[: asked.limit])
        acted = [] if asked.dry_run else await act(page)
        cursor = to_cursor(page[-1]) if len(found) > len(page) else None
        return Json(views.bulk(len(page), acted, page if asked.dry_run else acted, cursor))

    @api.post("/v1/runs/cancel", response_model=BulkAnswer, responses=_problems(400, 413, 415, 422, 503), tags=["runs"])
    async def cancel_runs(body: CancelRequest) -> Response:
        """Cancel the runs that fit, at most `limit` a call. Call again with `next_cursor` until it is null."""
        return await acted_on(body, service.cancel_all)

    @api.post("/v1/runs/resume", response_model=BulkAnswer, responses=_problems(400, 413, 415, 422, 503), tags=["runs"])
    async def resume_runs(body: ResumeRequest) -> Response:
        """Resume the runs that fit, at most `limit` a call. Call again with `next_cursor` until it is null."""
        return await acted_on(body, service.resume_all)


async def first_of(wanted: Coroutine[Any, Any, bool], other: Coroutine[Any, Any, Any], *, timeout_s: float) -> bool:
    """What `wanted` returned; False if `other` ended before it, or the time was up. Neither is left running."""
    tasks = [asyncio.create_task(wanted), asyncio.create_task(other)]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done() and tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def hung_up(request: Request) -> None:
    """Returns when the caller no longer waits for the answer. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_operations(api: APIRouter, service: ServicePort) -> None:
    @api.get("/v1/workflows", response_model=WorkflowList, tags=["workflows"])
    async def workflows() -> Response:
        """What can be run: names, input schemas, agents with their models."""
        return Json(views.workflow_list(service.registry))

    @api.post(
        "/v1/audits",
        status_code=201,
        response_model=Recorded,
        responses=_problems(400, 413, 415, 422, 503),
        tags=["operation"],
    )
    async def record_audit(body: AuditBody) -> Response:
        """Take an audit's result into the journal: `agentobs audit` hands it over, since one process alone writes."""
        return Json({"id": await service.record_audit(body.audit())}, 201)

    @api.get("/healthz", response_model=Health, tags=["operation"])
    async def healthz() -> Response:
        """Alive. Asks for no key."""
        return Json({"status": "alive"})

    @api.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not ready"}},
        tags=["operation"],
    )
    async def readyz() -> Response:
        """Able to accept and execute runs, or why not. Asks for no key."""
        reasons = list(service.readiness())
        if reasons:
            return Json({"status": "not ready", "reasons": reasons}, 503)
        return Json({"status": "ready"})

    @api.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
        tags=["operation"],
    )
    async def metrics(request: Request) -> Response:
        """Prometheus text or OpenMetrics, as Accept asks."""
        body, content_type = service.render_metrics(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})
