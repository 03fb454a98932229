"""`GET /v1/runs/{id}/events`: a run's events as a stream of server-sent events, from any of them on.

Annotations are not put off here: FastAPI could not find the local function that one of them names.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from agentobs.api import views
from agentobs.api.port import ServicePort
from agentobs.api.problems import Json
from agentobs.api.schemas import AttemptEvent, ExecutionView, Problem, StepView, Summary, to_run_id
from agentobs.errors import NotFound, RequestError
from agentobs.journal.protocol import Events

_NUMBER: Final = re.compile(r"[0-9]{1,18}")

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The id of the last event that was received: those after it are sent."),
]


@dataclass(frozen=True)
class _Start:
    run_id: str
    after: int
    found: Events


def add_events(api: APIRouter, service: ServicePort) -> None:
    async def start(run_id: str, last_event_id: LastEventId = None) -> _Start:
        """Read before the answer begins, which can then still be a problem."""
        run_id, after = to_run_id(run_id), to_seq(last_event_id)
        found = await service.reader.events(run_id, after)
        if found is None:
            raise NotFound(f"there is no run {run_id}")
        if after > found.last_seq:
            raise RequestError(
                f"Last-Event-ID is {after}, and the run's last event so far is {found.last_seq}; expected the id of an "
                "event of this run, or no Last-Event-ID"
            )
        return _Start(run_id, after, found)

    @api.get(
        "/v1/runs/{run_id}/events",
        response_class=EventSourceResponse,
        responses={status: {"model": Problem} for status in (400, 404)},
        tags=["runs"],
    )
    async def events(
        request: Request, begun: Annotated[_Start, Depends(start)]
    ) -> AsyncIterator[Summary | ExecutionView | StepView | AttemptEvent]:
        """Follow a run: server-sent events of what is committed, until it has ended.

        `id` is the event's number in its run; after a lost connection send the last one as `Last-Event-ID`, as browsers
        do by themselves. The last event is `run.ended`; a stream that ends otherwise was cut off by a stop of the
        service.
        """
        if request.scope.get("agentobs.head"):
            return
        async for event in service.live.events(begun.run_id, begun.found, begun.after):
            name, data = views.event(event)
            yield ServerSentEvent(id=str(event.seq), event=name, raw_data=Json.text(data))  # type: ignore[misc]


def to_seq(given: str | None) -> int:
    """The number after which events are sent. Raises `RequestError`."""
    if not given:
        return 0
    if not _NUMBER.fullmatch(given):
        raise RequestError("Last-Event-ID is not the id of an event; expected its decimal digits, or no Last-Event-ID")
    return int(given)
