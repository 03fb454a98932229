"""The HTTP server around the API: its socket, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn

from agentobs.errors import InvalidSettings

# For requests in hand once a stop was asked for. A client that is stuck is then cut off: it must not hold up a drain.
LAST_ANSWERS_S: Final = 3
_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn whose signals are ours: a drain comes between the last request and the end."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            backlog=2048,
            ws="none",
            timeout_graceful_shutdown=LAST_ANSWERS_S,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def signals(stopping: asyncio.Event, *, on_hangup: Callable[[], object]) -> Iterator[None]:
    """SIGTERM and SIGINT set `stopping`; SIGHUP calls `on_hangup`."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)
    try:
        for number in handled:
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        yield
    finally:
        for number in (*handled, signal.SIGHUP):
            loop.remove_signal_handler(number)


def bind(host: str, port: int) -> socket.socket:
    """Listen before anything is started, so that a taken port costs nothing. Raises `InvalidSettings`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InvalidSettings(
            f"AGENTOBS_HOST {host!r} and AGENTOBS_PORT {port} cannot be listened on ({error.strerror}); stop what uses "
            "it, or choose another port"
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit(needed: int) -> None:
    """Let this process open as many files as it needs, or as many as it may; then a warning says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            _log.warning("service.few_open_files", extra={"allowed": allowed, "needed": needed})
