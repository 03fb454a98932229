"""The processes of a bench: the canned API, and each system under test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from agentobs.bench.subject import Order, Took
from agentobs.errors import AgentobsError

_OURS: Final = ("AGENTOBS_", "ANTHROPIC_", "OTEL_")


@contextmanager
def canned() -> Iterator[str]:
    """The canned API and OTLP endpoint: its URL, to which a model's time in milliseconds may be added."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentobs.bench.canned"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()
        process.kill()


def environment(folder: Path, url: str, *, model_s: float = 0.0, collector: str | None = None) -> dict[str, str]:
    """What a system is set up with: the user's environment without what would change a measurement."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {
        "AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}",
        "AGENTOBS_LOG_FILE": str(folder / "agentobs.log"),
        "AGENTOBS_LOG_FORMAT": "json",
        "AGENTOBS_PORT": "0",
        "AGENTOBS_WORKER_NAME": "bench",
        "AGENTOBS_WORKFLOWS": "agentobs.bench.flows",
        "ANTHROPIC_API_KEY": "canned",
        "ANTHROPIC_BASE_URL": f"{url}/{round(model_s * 1000)}",
        "NO_PROXY": "127.0.0.1,localhost",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector or url,
    }


class Subject:
    """A system under test; see `subject.py`. Use it in `with`."""

    def __init__(self, system: str, folder: Path, variables: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.system = system
        self.folder = folder
        self._errors = folder / "stderr"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command
                [sys.executable, "-m", "agentobs.bench.subject", system],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(variables),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let it end by itself: a service drains, and its journal is whole."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()

    def ask(self, question: object) -> dict[str, Any]:
        """One line to it, one line back."""
        self.tell(question)
        return self.line()

    def tell(self, question: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AgentobsError(
                f"{self.system} ended with exit code {self.process.wait()}; it said: "
                f"{self._errors.read_text()[-2000:] or '(nothing)'}"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def does(self, order: Order) -> Took:
        """Carry the order out and wait for it."""
        return Took(**self.ask(asdict(order)))
