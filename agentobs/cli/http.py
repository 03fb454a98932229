"""A client of the service's HTTP API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
from pydantic import TypeAdapter, ValidationError

from agentobs.cli.figures import clean
from agentobs.cli.inputs import on_the_command_line
from agentobs.errors import AgentobsError, Refused, Unreachable, UsageError
from agentobs.setting_types import WebUrl, is_loopback, masked
from agentobs.settings import Settings

_PROBLEM: Final = "urn:agentobs:problem:"
_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 30.0
_HINTS: Final = {401: "; name the file that holds the service's key in AGENTOBS_API_KEY_FILE"}


class Client:
    """`async with Client(url, api_key) as client`. Raises `Unreachable` and `Refused`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = masked("AGENTOBS_URL", url).rstrip("/")  # as it may be shown
        self._base = url.rstrip("/")
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
            # A proxy that the environment names is for other hosts than this one.
            trust_env=not is_loopback(urlsplit(url).hostname or ""),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Raise `Unreachable` unless a service of ours is alive there."""
        if (await self._json("GET", "/healthz")).get("status") != "alive":
            raise self._foreign()

    async def submit(self, workflow: str, value: object, tags: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The new run's summary."""
        return await self._json(
            "POST", "/v1/runs", body={"workflow": workflow, "input": value, "tags": dict(tags or {})}
        )

    async def runs(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("GET", "/v1/runs", params=filters)

    async def run(self, run_id: str) -> dict[str, Any]:
        return await self._json("GET", f"/v1/runs/{run_id}")

    async def cancel(self, run_id: str) -> dict[str, Any]:
        return await self._json("POST", f"/v1/runs/{run_id}/cancel")

    async def resume(self, run_id: str) -> dict[str, Any]:
        return await self._json("POST", f"/v1/runs/{run_id}/resume")

    async def fork(self, run_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The new run's summary."""
        return await self._json("POST", f"/v1/runs/{run_id}/fork", body=body)

    async def bulk(self, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One page of runs that fit, cancelled or resumed; see `BulkAnswer`."""
        return await self._json("POST", f"/v1/runs/{verb}", body=body)

    async def record_audit(self, audit: Mapping[str, Any]) -> int:
        """The audit's number in the journal of that service."""
        return int((await self._json("POST", "/v1/audits", body=audit))["id"])

    async def workflows(self) -> dict[str, Any]:
        return await self._json("GET", "/v1/workflows")

    async def events(self, run_id: str, after: int) -> AsyncGenerator[tuple[str, dict[str, Any], int]]:
        """Name, data and number of each event after that one, until the service ends the stream."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._reaching():
            async with self._http.sse(f"{self._base}/v1/runs/{run_id}/events", headers=headers) as stream:
                if not stream.response.is_success:
                    await stream.response.aread()
                    raise self._problem(stream.response)
                async for sent in stream:
                    yield sent.event, json.loads(sent.data), int(sent.id)

    async def text(self, path: str) -> str:
        return (await self._send("GET", path)).text

    async def _json(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: object = None
    ) -> dict[str, Any]:
        response = await self._send(method, path, params=params, body=body)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._foreign()
        return found

    async def _send(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: object = None
    ) -> httpx2.Response:
        with self._reaching():
            response = await self._http.request(method, self._base + path, params=params, **_content(body))
        if response.is_success:
            return response
        raise self._problem(response)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """What may happen on the way to the service, as `Unreachable`."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise Unreachable(
                f"no service answers at {self.url}; start 'agentobs serve', or name another with --server or "
                "AGENTOBS_URL"
            ) from None
        except httpx2.TimeoutException:
            raise Unreachable(
                f"the service at {self.url} took the call but gave no answer in {_ANSWER_S:g} s; look at its log and "
                "/readyz"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(
                f"the call to {self.url} broke off ({type(error).__name__}); see that a service of agentobs listens "
                "there"
            ) from None

    def _problem(self, response: httpx2.Response) -> AgentobsError:
        try:
            told = response.json()
            slug, detail = str(told["type"]).removeprefix(_PROBLEM), str(told["detail"])
        except (ValueError, KeyError, TypeError):
            return self._foreign(response.status_code)
        status = response.status_code
        exit_code = _exit_codes().get(slug, 2 if status < 500 else 1)
        asked = response.headers.get("Retry-After", "")
        retry_after_s = float(asked) if asked.isdecimal() and asked.isascii() else None
        return Refused(on_the_command_line(clean(detail)) + _HINTS.get(status, ""), status, exit_code, retry_after_s)

    def _foreign(self, status: int | None = None) -> Unreachable:
        answer = f" (status {status})" if status else ""
        return Unreachable(
            f"what answers at {self.url}{answer} is not a service of agentobs; name one with --server or AGENTOBS_URL"
        )


def client(settings: Settings, server: str | None) -> Client:
    """For --server, else AGENTOBS_URL. Raises `UsageError` for what is no URL."""
    try:
        url = settings.url if server is None else TypeAdapter(WebUrl).validate_python(server)
    except ValidationError:
        raise UsageError(
            f"--server is {server!r:.200}; expected a URL that begins with http:// or https:// and names a host"
        ) from None
    return Client(url, settings.api_key)


def _content(body: object) -> dict[str, Any]:
    # ASCII: what was typed can hold bytes that are no UTF-8, and arrives as lone surrogates.
    return (
        {} if body is None else {"content": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}
    )


def _exit_codes() -> dict[str, int]:
    def tree(kind: type[AgentobsError]) -> Iterator[type[AgentobsError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    return {kind.problem: kind.exit_code for kind in tree(AgentobsError)}
