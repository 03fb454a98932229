"""Where alerts are seen: what Alertmanager or Grafana says fires, or what reached a webhook of the drill's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx2
from aiohttp import web

from agentobs.cli.drill.scenarios import Expected
from agentobs.errors import Unreachable, UsageError
from agentobs.setting_types import is_loopback

_TIMEOUT: Final = httpx2.Timeout(10, connect=3)
_OURS: Final = "Agentobs"
# Labels of ours that say what an alert is about; the rest differ between Prometheus and Grafana.
_ABOUT: Final = ("workflow", "agent", "model", "kind", "instance", "job")


@dataclass(frozen=True)
class Firing:
    """One alert that fires."""

    alert: str
    labels: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Firing:
        return cls(labels["alertname"], frozenset((name, labels[name]) for name in _ABOUT if name in labels))

    @property
    def about(self) -> str:
        found = dict(self.labels)
        return " ".join(found[name] for name in _ABOUT if name in found)

    def is_one_of(self, expected: Iterable[Expected]) -> bool:
        return any(self.alert == one.alert and one.labels.items() <= self.labels for one in expected)


class Source(Protocol):
    async def firing(self) -> frozenset[Firing]:
        """Alerts of ours that fire now. Raises `Unreachable`."""


def _ours(alerts: Iterable[Mapping[str, Any]]) -> frozenset[Firing]:
    return frozenset(Firing.of(one["labels"]) for one in alerts if one["labels"]["alertname"].startswith(_OURS))


# ---- an API ----


class Api:
    """JSON of a server, as `Unreachable` where there is none. `url` may name a user, whose password is `secret`."""

    def __init__(self, what: str, url: str, secret: str | None = None) -> None:
        parts = urlsplit(url)
        self.what = what
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        self._http = httpx2.AsyncClient(
            auth=httpx2.BasicAuth(parts.username, secret or parts.password or "") if parts.username else None,
            headers={"Authorization": f"Bearer {secret}"} if secret and not parts.username else {},
            timeout=_TIMEOUT,
            trust_env=not is_loopback(parts.hostname or ""),
        )

    async def get(self, path: str) -> Any:
        answer = await self.send("GET", path)
        try:
            return answer.json()
        except ValueError:
            raise self._foreign(path, "no JSON") from None

    async def ask(self, path: str) -> Any:
        """What `get` returns; None where something else answers."""
        answer = await self._request("GET", path)
        try:
            return answer.json() if answer.is_success else None
        except ValueError:
            return None

    async def send(self, method: str, path: str, body: object = None) -> httpx2.Response:
        answer = await self._request(method, path, body)
        if answer.status_code in {401, 403}:
            raise Unreachable(
                f"{self.what} at {self.url} refuses the caller (status {answer.status_code}); for Grafana, name a user "
                "in the URL and the file of its password (or that of a token) with --alerts-secret"
            )
        if not answer.is_success:
            raise self._foreign(path, f"status {answer.status_code}")
        return answer

    async def _request(self, method: str, path: str, body: object = None) -> httpx2.Response:
        try:
            return await self._http.request(method, self.url + path, json=body)
        except httpx2.HTTPError as error:
            raise Unreachable(f"{self.what} does not answer at {self.url} ({type(error).__name__})") from None

    def _foreign(self, path: str, found: str) -> Unreachable:
        return Unreachable(f"what answers at {self.url} is not {self.what}: {found} at {path}")

    async def close(self) -> None:
        await self._http.aclose()


@dataclass(frozen=True)
class Alerts:
    """Alertmanager, or Grafana's own."""

    kind: str
    api: Api
    path: str

    async def firing(self) -> frozenset[Firing]:
        return _ours(await self.api.get(self.path))


async def find(api: Api) -> Alerts:
    """Asks which of the two it is."""
    for kind, asked, known, path in (
        ("Alertmanager", "/api/v2/status", "cluster", "/api/v2/alerts"),
        ("Grafana", "/api/health", "database", "/api/alertmanager/grafana/api/v2/alerts"),
    ):
        found = await api.ask(asked)
        if isinstance(found, dict) and known in found:
            alerts = Alerts(kind, api, path)
            await alerts.firing()  # a wrong password is told now
            return alerts
    raise Unreachable(f"what answers at {api.url} is neither Alertmanager nor Grafana")


async def loaded(api: Api, kind: str) -> frozenset[str]:
    """Names of the alerting rules that Prometheus, or Grafana itself, evaluates."""
    path = "/api/prometheus/grafana/api/v1/rules" if kind == "Grafana" else "/api/v1/rules?type=alert"
    found = await api.get(path)
    try:
        groups = found["data"]["groups"]
    except (KeyError, TypeError):
        raise Unreachable(f"what answers at {api.url} tells no rules as {kind} does") from None
    return frozenset(rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting")


def read_secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--alerts-secret {str(path)!r} cannot be read: {reason}") from None


# ---- a webhook ----


@dataclass
class Webhook:
    """Takes what Alertmanager and Grafana send: a list `alerts`, each firing or resolved."""

    _firing: dict[Firing, None] = field(default_factory=dict)

    async def firing(self) -> frozenset[Firing]:
        return frozenset(self._firing)

    def take(self, body: Any) -> None:
        """Raises KeyError or TypeError for what is no notification."""
        for one in body["alerts"]:
            if not one["labels"]["alertname"].startswith(_OURS):
                continue
            alert = Firing.of(one["labels"])
            if one["status"] == "resolved":
                self._firing.pop(alert, None)
            else:
                self._firing[alert] = None

    async def _post(self, request: web.Request) -> web.Response:
        try:
            self.take(await request.json())
        except (ValueError, KeyError, TypeError):
            return web.Response(status=400, text="expected a notification of Alertmanager or Grafana\n")
        return web.Response(text="ok\n")


def address(listen: str) -> tuple[str, int]:
    host, found, port = listen.rpartition(":")
    if not found or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--listen is {listen!r:.80}; expected HOST:PORT, such as 0.0.0.0:9099")
    return host.strip("[]"), int(port)


@asynccontextmanager
async def listening(host: str, port: int) -> AsyncIterator[Webhook]:
    webhook = Webhook()
    app = web.Application()
    app.router.add_post("/{path:.*}", webhook._post)  # noqa: SLF001
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(f"--listen {host}:{port} cannot be listened on ({error.strerror})") from None
        yield webhook
    finally:
        await runner.cleanup()
