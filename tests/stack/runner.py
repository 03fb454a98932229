"""The services of docker-compose.yml as local processes, with the very files, commands and ports that it names.

Mounted files are copied, and in the copies, in arguments and in the environment is translated what a container sees
otherwise: `service:port` and `localhost:port` to a free port of this machine, own listen addresses likewise, paths in
the container to a folder. Nothing else differs but what overrides.py lists.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.harness import until
from tests.stack import compose, overrides

STACK = Path(os.environ.get("AGENTOBS_STACK_DIR") or Path.home() / ".cache/agentobs-stack")
READY_S = 90.0


@dataclass(frozen=True)
class Image:
    """What an image brings along: its program, what its entry point adds, folders that are there."""

    program: Path
    arguments: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


_GRAFANA = "/etc/grafana/provisioning"
IMAGES = {
    "agentobs": Image(Path(sys.executable).with_name("agentobs")),
    "prom/prometheus": Image(STACK / "bin/prometheus"),
    "prom/alertmanager": Image(STACK / "bin/alertmanager"),
    "jaegertracing/jaeger": Image(STACK / "bin/jaeger"),
    "otel/opentelemetry-collector-contrib": Image(STACK / "bin/otelcol"),
    "grafana/loki": Image(STACK / "bin/loki"),
    "grafana/grafana": Image(
        STACK / "bin/grafana",
        # As its run.sh starts it.
        arguments=(
            "server",
            f"--homepath={STACK / 'grafana'}",
            "--config=/etc/grafana/grafana.ini",
            "cfg:default.paths.data=/var/lib/grafana",
            "cfg:default.paths.logs=/var/log/grafana",
            "cfg:default.paths.plugins=/var/lib/grafana/plugins",
            f"cfg:default.paths.provisioning={_GRAFANA}",
        ),
        folders=(
            "/var/log/grafana",
            "/var/lib/grafana/plugins",
            _GRAFANA,
            *(f"{_GRAFANA}/{name}" for name in ("access-control", "alerting", "datasources", "notifiers", "plugins")),
        ),
    ),
}


def missing() -> list[str]:
    """Programs that are not there."""
    wanted = [image.program for image in IMAGES.values()]
    return [str(program) for program in wanted if not program.exists()]


def image_name(image: str) -> str:
    return image.rpartition(":")[0]


class Ports:
    """A free port of this machine for each port of a service; kept for as long as the stack lives."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], int] = {}

    def local(self, service: str, port: int) -> int:
        if (service, port) not in self._taken:
            self._taken[service, port] = self._free()
        return self._taken[service, port]

    def _free(self) -> int:
        while True:
            # Below those that the system gives to outgoing connections.
            port = random.randrange(15_000, 32_000)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if port not in self._taken.values() and probe.connect_ex(("127.0.0.1", port)):
                    return port


@dataclass
class Process:
    """A service's process and what it wrote."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    folder: Path
    popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                self.argv, env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.popen is None:
            return
        self.popen.send_signal(how)
        try:
            self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(30)
        self.popen = None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@dataclass
class Stack:
    """Started and stopped by service name. `variables` are those of docker-compose.yml, `secrets` their contents."""

    folder: Path
    variables: Mapping[str, str]
    secrets: Mapping[str, str]
    environ: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What a service's process needs on top, since it is no container."""
    ports: Ports = field(default_factory=Ports)
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.compose = compose.read(self.variables)

    # ---- addresses ----

    def url(self, service: str, port: int | None = None) -> str:
        """Where a service is reached, by default at its first published port."""
        port = port or next(iter(self.compose.services[service].published.values()))
        return f"http://127.0.0.1:{self.ports.local(service, port)}"

    def translate(self, text: str, service: str) -> str:
        """What a container of `service` would read, for a process on this machine."""
        services = self.compose.services.values()
        published = {host: (one.name, port) for one in services for host, port in one.published.items()}

        def address(found: re.Match[str]) -> str:
            host, port = found[1], int(found[2])
            if host == "localhost" and port not in published:
                return found[0]
            at = published[port] if host == "localhost" else (host if host in self.compose.services else service, port)
            return f"127.0.0.1:{self.ports.local(*at)}"

        def listen(found: re.Match[str]) -> str:
            return f"{found[1]}{self.ports.local(service, int(found[2]))}"

        hosts = "|".join([*self.compose.services, "localhost", r"0\.0\.0\.0", r"127\.0\.0\.1"])
        text = re.sub(rf"(?<![\w.-])({hosts}):(\d{{4,5}})\b", address, text)
        text = re.sub(r"(?i)(port\"?\s*[:=]\s*)(\d{4,5})\b", listen, text).replace("0.0.0.0", "127.0.0.1")
        one = self.compose.services[service]
        image = IMAGES[image_name(one.image)]
        places = {mount.target for mount in one.mounts} | {"/run/secrets", *image.folders}
        for place in sorted(places, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){place}(?=[/\s\"',}}]|$)", f"{self.root(service)}{place}", text)
        return text

    def root(self, service: str) -> Path:
        return self.folder / service / "root"

    # ---- files ----

    def prepare(self, service: str) -> Process:
        """Write what the service's container would see, and say how to start it."""
        one, root = self.compose.services[service], self.root(service)
        image = IMAGES[image_name(one.image)]
        shutil.rmtree(root, ignore_errors=True)
        for mount in one.mounts:
            self._mount(service, mount)
        for folder in (*image.folders, "/run/secrets"):
            self.at(root, folder).mkdir(parents=True, exist_ok=True)
        for secret in one.secrets:
            self.at(root, f"/run/secrets/{secret}").write_text(self.secrets[secret] + "\n")
        argv = [*one.entrypoint[1:], *image.arguments, *one.command, *overrides.ARGUMENTS.get(service, ())]
        named = [self.translate(f"{name}={value}", service) for name, value in one.environment.items() if value]
        return Process(
            argv=[str(image.program), *(self.translate(argument, service) for argument in argv)],
            environ={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder / service),
                **dict(pair.split("=", 1) for pair in named),
                **self.environ.get(service, {}),
            },
            folder=self.folder / service,
        )

    @staticmethod
    def at(root: Path, path: str) -> Path:
        return root / path.lstrip("/")

    def _mount(self, service: str, mount: compose.Mount) -> None:
        target = self.at(self.root(service), mount.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if mount.volume:
            (volume := self.folder / "volumes" / mount.source).mkdir(parents=True, exist_ok=True)
            target.symlink_to(volume)
            return
        source = compose.ROOT / mount.source
        assert source.exists(), f"docker-compose.yml mounts {mount.source}, which is missing"
        if source.is_dir():
            target.mkdir()
        applied = dict.fromkeys(overrides.of(mount.source), 0)
        for file in [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]:
            copy = target if source.is_file() else target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text()
            for override in applied:
                text, count = re.subn(override.old, override.new, text)
                applied[override] += count
            copy.write_text(self.translate(text, service))
        assert all(applied.values()), f"overrides that find nothing to change: {applied}"

    def health_command(self, service: str) -> list[str]:
        """The health check's own command, for this machine."""
        programs = {"python": sys.executable, "/usr/bin/loki": str(IMAGES["grafana/loki"].program)}
        _, program, *arguments = self.compose.services[service].raw["healthcheck"]["test"]
        return [programs.get(program, program), *(self.translate(one, service) for one in arguments)]

    # ---- processes ----

    def start(self, services: Iterable[str]) -> None:
        for service in services:
            self.processes[service] = self.prepare(service)
            self.processes[service].start()

    def wait_ready(self, services: Iterable[str], timeout_s: float = READY_S) -> dict[str, float]:
        """Until each answers its health check (or, without one, at its first exposed port); seconds by service."""
        began, took = time.monotonic(), {}
        for service in services:
            until(lambda name=service: self.is_ready(name), f"{service} to be ready", timeout_s, every_s=0.1)
            took[service] = time.monotonic() - began
        return took

    def is_ready(self, service: str) -> bool:
        one, process = self.compose.services[service], self.processes[service]
        assert process.popen is not None and process.popen.poll() is None, f"{service} ended:\n{process.tail()}"
        port, path = one.health or (int(one.raw["expose"][0]), "/metrics")
        try:
            with urllib.request.urlopen(f"{self.url(service, port)}{path}", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self, service: str, how: int = signal.SIGTERM) -> None:
        self.processes[service].stop(how)

    def restart(self, service: str) -> None:
        self.processes[service].start()

    def switch(self, **variables: str) -> list[str]:
        """Other values of docker-compose.yml's variables: services that see any of it are started anew, as by `up`."""
        before = self.compose
        self.variables = {**self.variables, **variables}
        self.compose = compose.read(self.variables)
        changed = [name for name in self.processes if before.services[name] != self.compose.services[name]]
        for service in changed:
            self.stop(service)
        self.start(changed)
        self.wait_ready(changed)
        return changed

    def close(self) -> None:
        for process in self.processes.values():
            if process.popen is not None:
                process.popen.terminate()
        for process in self.processes.values():
            process.stop()
