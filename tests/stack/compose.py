"""docker-compose.yml as data: what its services run, mount, publish and are asked for their health by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/[^\s'\"]*)")


@dataclass(frozen=True)
class Mount:
    """A file or folder of the repository, or (`volume`) a named volume, and where a container finds it."""

    source: str
    target: str
    volume: bool = False
    read_only: bool = False


@dataclass(frozen=True)
class Service:
    name: str
    image: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    secrets: tuple[str, ...]
    published: Mapping[int, int]
    """Ports of the host, and which of the container's each is."""
    profiles: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def health(self) -> tuple[int, str] | None:
        """Port and path that the health check asks."""
        found = _URL.search(" ".join(map(str, self.raw.get("healthcheck", {}).get("test", ()))))
        return (int(found[1]), found[2]) if found else None

    @property
    def ports(self) -> frozenset[int]:
        """Those published or exposed to the other services."""
        return frozenset([*self.published.values(), *map(int, self.raw.get("expose", ()))])


@dataclass(frozen=True)
class Compose:
    services: Mapping[str, Service]
    secrets: Mapping[str, str]
    volumes: frozenset[str]


def read(environ: Mapping[str, str] | None = None, file: Path = FILE) -> Compose:
    """The file with variables filled in from `environ`, as `docker compose` does."""
    given = environ or {}

    def value(found: re.Match[str]) -> str:
        return given.get(found[1]) or found[2] or ""

    data = yaml.safe_load(_VARIABLE.sub(value, file.read_text()))
    return Compose(
        services={name: _service(name, raw) for name, raw in data["services"].items()},
        secrets={name: raw["file"] for name, raw in data["secrets"].items()},
        volumes=frozenset(data["volumes"]),
    )


def _service(name: str, raw: Mapping[str, Any]) -> Service:
    return Service(
        name=name,
        image=raw["image"],
        entrypoint=tuple(raw.get("entrypoint", ())),
        command=tuple(raw.get("command", ())),
        environment={key: str(value or "") for key, value in raw.get("environment", {}).items()},
        mounts=tuple(_mount(mount) for mount in raw.get("volumes", ())),
        secrets=tuple(raw.get("secrets", ())),
        published=dict(_published(port) for port in raw.get("ports", ())),
        profiles=tuple(raw.get("profiles", ())),
        raw=raw,
    )


def _published(port: str) -> tuple[int, int]:
    *_, host, container = port.split(":")
    return int(host), int(container)


def _mount(mount: str | Mapping[str, Any]) -> Mount:
    if isinstance(mount, str):
        volume, target, *mode = mount.split(":")
        return Mount(volume, target, volume=True, read_only=mode == ["ro"])
    return Mount(mount["source"], mount["target"], read_only=mount["read_only"])
