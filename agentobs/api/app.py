"""The HTTP API as an ASGI application."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.types import Lifespan

from agentobs.api import docs, openapi, problems, routes
from agentobs.api.guard import Guard
from agentobs.api.port import ServicePort
from agentobs.errors import AgentobsError
from agentobs.version import __version__

DEFAULT_MAX_INPUT_BYTES: Final = 1024 * 1024


class Api(FastAPI):
    """FastAPI with a whole OpenAPI document."""

    key_needed: bool | None = None  # None: where the service was given one

    def openapi(self) -> dict[str, Any]:
        return openapi.completed(super().openapi(), key_needed=self.key_needed)


def create_app(
    service: ServicePort,
    *,
    max_input_bytes: int = DEFAULT_MAX_INPUT_BYTES,
    allowed_hosts: Collection[str] = (),
    api_key: str | None = None,
    lifespan: Lifespan[Any] | None = None,
) -> Api:
    """The application. `allowed_hosts` are answered besides loopback names; without `api_key` none is asked for."""
    app = Api(
        title="agentobs",
        version=__version__,
        summary="Durable, observable multi-agent Claude workflows.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # Its own spans and logs would hold exception text, and could be exported by a variable that we do not read.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.key_needed = api_key is not None
    app.include_router(routes.router(service))
    app.add_exception_handler(AgentobsError, problems.on_agentobs_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_middleware(Guard, max_input_bytes=max_input_bytes, allowed_hosts=allowed_hosts, api_key=api_key)

    @app.get("/docs", include_in_schema=False)
    async def readable() -> HTMLResponse:
        return HTMLResponse(docs.page(app.openapi()), headers={"Content-Security-Policy": docs.POLICY})

    return app
