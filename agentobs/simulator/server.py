"""The simulator as a server: its routes, its start and its stop.

Stand-in for the Messages API that official SDKs can call, with faults on demand and a bill that says what
a provider would charge. It imports nothing of agentobs, because tests use it as their judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from . import catalogue, dialect, messages
from .errors import ApiError
from .exchange import MOST_BYTES, new_provider
from .faults import FaultRuleError, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .bill import Bill
    from .exchange import Provider

_BACKLOG = 4_096
# Lines of the bill that are written before others get a turn.
_LINES_AT_ONCE = 500
_PLATFORMS = {
    "/model/{model}/{verb:invoke|invoke-with-response-stream}": dialect.BEDROCK,
    "/v1/projects/{project}/locations/{region}/publishers/anthropic/models/"
    "{model:[^/:]+}:{verb:rawPredict|streamRawPredict}": dialect.VERTEX,
    "/anthropic/v1/messages": dialect.FOUNDRY,
}


class Simulator:
    """A Messages API in the running event loop, also as Bedrock, Vertex and Foundry offer it.

        async with Simulator() as simulator:
            client = AsyncAnthropic(base_url=simulator.url, api_key="any")

    `seed` decides every answer and every draw of a fault rule. `latency_s` is how long an answer of some
    120 tokens takes; longer ones take a little longer. `clock` is the time by which cached prompts expire
    and fault rules come into force. Port 0 takes a free one.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        latency_s: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._port = port
        self._provider = new_provider(seed=seed, latency_s=latency_s, clock=clock)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:9100`: the SDK's `base_url`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def bill(self) -> Bill:
        """The bill itself: `lines`, `totals`, `report()` as `GET /_bill` answers, `clear()`."""
        return self._provider.bill

    def put_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """What `PUT /_faults` does. Raises FaultRuleError for a bad rule, and then changes nothing."""
        self._provider.faults.put(parse(list(rules)))

    def clear_faults(self) -> None:
        self._provider.faults.clear()

    async def start(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        runner = web.AppRunner(
            _app(self._provider),
            access_log=None,
            handler_cancellation=True,  # a caller who hangs up is noticed while the answer is generated
            shutdown_timeout=0.05,
        )
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, self._host, self._port, backlog=_BACKLOG).start()
        self._port = runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Close every connection; answers under way are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def serve(
    host: str = "127.0.0.1",
    port: int = 9100,
    *,
    seed: int = 1,
    latency_s: float = 0.2,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run a simulator until SIGINT or SIGTERM. `ready` is called with its URL once it listens."""
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(Simulator(seed=seed, latency_s=latency_s, host=host, port=port), ready))


async def _serve(simulator: Simulator, ready: Callable[[str], None] | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt ends it
            loop.add_signal_handler(number, stopped.set)
    async with simulator:
        if ready is not None:
            ready(simulator.url)
        await stopped.wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415  (not there on Windows)

    return uvloop.new_event_loop


def _raise_file_limit() -> None:
    """Let as many connections be open as the system allows: the usual soft limit is 1,024."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  (not there on Windows)

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _app(provider: Provider) -> web.Application:
    app = web.Application(client_max_size=MOST_BYTES)
    routes = app.router
    routes.add_post("/v1/messages", partial(messages.create, provider))
    for path, platform in _PLATFORMS.items():
        routes.add_post(path, partial(messages.create, provider, dialect=platform))
    routes.add_post("/v1/messages/count_tokens", partial(messages.count_tokens, provider))
    routes.add_get("/v1/models", partial(_models, provider), allow_head=False)
    routes.add_get("/v1/models/{name}", partial(_model, provider), allow_head=False)
    routes.add_get("/_bill", partial(_get_bill, provider), allow_head=False)
    routes.add_delete("/_bill", partial(_delete_bill, provider))
    routes.add_get("/_faults", partial(_get_faults, provider), allow_head=False)
    routes.add_put("/_faults", partial(_put_faults, provider))
    routes.add_delete("/_faults", partial(_delete_faults, provider))
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/_bill", "/_faults"):
        routes.add_route("*", path, partial(_wrong_method, provider))
    routes.add_route("*", "/{path:.*}", partial(_nowhere, provider))
    return app


def _refused(provider: Provider, error: ApiError) -> web.Response:
    request_id = provider.ids.new("req")
    return web.json_response(
        error.body(request_id), status=error.status, headers={"request-id": request_id, "x-should-retry": "false"}
    )


async def _models(provider: Provider, _: web.Request) -> web.Response:
    return web.json_response(catalogue.listing(), headers={"request-id": provider.ids.new("req")})


async def _model(provider: Provider, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    found = catalogue.described(name)
    if found is None:
        return _refused(provider, ApiError(404, "not_found_error", f"model: {name}"))
    return web.json_response(found, headers={"request-id": provider.ids.new("req")})


async def _get_bill(provider: Provider, request: web.Request) -> web.StreamResponse:
    """One moment's bill, written in pieces so that a long one does not hold up the requests of others.

    `?client_ref=` asks for the lines of one attempt, and their sum.
    """
    lines, totals = provider.bill.of(request.query.get("client_ref"))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"requests": [')
    for at in range(0, len(lines), _LINES_AT_ONCE):
        part = ",\n".join(json.dumps(line.as_json()) for line in lines[at : at + _LINES_AT_ONCE])
        await response.write(f"{',' if at else ''}\n{part}".encode())
        await asyncio.sleep(0)
    await response.write_eof(f'], "totals": {json.dumps(totals.as_json())}}}\n'.encode())
    return response


async def _delete_bill(provider: Provider, _: web.Request) -> web.Response:
    provider.bill.clear()
    return web.Response(status=204)


async def _get_faults(provider: Provider, _: web.Request) -> web.Response:
    return web.json_response(provider.faults.listing())


async def _put_faults(provider: Provider, request: web.Request) -> web.Response:
    try:
        rules = parse(json.loads(await request.text()))
    except FaultRuleError as error:
        return _refused(provider, ApiError(400, "invalid_request_error", str(error)))
    except ValueError as error:
        return _refused(provider, ApiError(400, "invalid_request_error", f"rules: not JSON: {error}"))
    provider.faults.put(rules)
    return web.json_response(provider.faults.listing())


async def _delete_faults(provider: Provider, _: web.Request) -> web.Response:
    provider.faults.clear()
    return web.Response(status=204)


async def _wrong_method(provider: Provider, _: web.Request) -> web.Response:
    return _refused(provider, ApiError(405, "invalid_request_error", "Method Not Allowed"))


async def _nowhere(provider: Provider, _: web.Request) -> web.Response:
    return _refused(provider, ApiError(404, "not_found_error", "Not Found"))
