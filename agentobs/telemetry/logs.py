"""Log lines: one pipeline for our events, and for what libraries and Python itself have to say.

Nothing of the content of runs may reach it (DESIGN.md, invariant 6). Our own lines are fields of records. Of what
libraries log, only text that stands in their source is shown, with the class of an exception: what was formatted
into it, and what an exception says, can quote a prompt.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agentobs.telemetry import names
from agentobs.telemetry.loglines import Lines
from agentobs.telemetry.published import Published
from agentobs.telemetry.writer import EXIT_S, LineWriter

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
OURS: Final = "agentobs"
_FRAMES: Final = 16  # how far up the stack the function that logs is looked for
# What asyncio says of itself; the rest of its messages quotes the exception.
_ASYNCIO: Final = frozenset(
    {
        "Task exception was never retrieved",
        "Future exception was never retrieved",
        "Task was destroyed but it is pending!",
        "Unhandled exception in event loop",
    }
)
_RECORD_KEYS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _State:
    """What `configure` set, for this process."""

    def __init__(self) -> None:
        self.level = LEVELS["info"]
        self.writer: LineWriter | None = None
        self.write: Callable[[str], None] | None = None
        self.render: Callable[[Any, str, EventDict], Any] | None = None
        self.undo: list[Callable[[], object]] = []


_state: Final = _State()


def configure(
    *,
    level: Level = "info",
    format: Literal["json", "console"] = "json",  # noqa: A002 -- the setting's name
    file: Path | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send all logging of this process to `file`, else to `stream` (default: stderr). Raises `OSError` for the file.

    Sets up structlog for user code too. Calling it again replaces what was set; `reset` undoes it.
    """
    reset()
    target = file if file is not None else stream or sys.stderr
    colors = not isinstance(target, Path) and target.isatty()
    render = _json if format == "json" else structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
    processors: list[Processor] = [structlog.processors.add_log_level, _stamp, _no_exception_text, render]
    writer = LineWriter(target, on_dropped=lambda count: _render_dropped(processors, count))
    output = _Output(writer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=True,
    )
    _state.level, _state.writer, _state.write, _state.render = LEVELS[level], writer, writer.write, render
    _state.undo = [structlog.reset_defaults, *_route_libraries(LEVELS[level]), writer.close]


def reset() -> None:
    """Write what is queued and undo `configure`."""
    _state.writer = _state.write = _state.render = None
    for undo in _state.undo:
        undo()
    _state.undo = []


def reopen() -> None:
    """Open the log file anew before the next line; for SIGHUP."""
    if _state.writer is not None:
        _state.writer.reopen()


def flush(timeout_s: float = EXIT_S) -> None:
    """Wait until what was logged is written; before a process leaves without its exit handlers."""
    if _state.writer is not None:
        _state.writer.flush(timeout_s)


def emit(event: str, level: Level = "info", /, **fields: object) -> None:
    """One line; `event` is one of `names.EVENTS`. Any thread. Silent until `configure`."""
    _write(event, level, time.time_ns(), fields)


def _write(event: str, level: Level, at: int, fields: Mapping[str, object]) -> None:
    # Not by way of a structlog logger, whose binding and processors do for user code what is known here.
    write, render = _state.write, _state.render
    if write is not None and render is not None and LEVELS[level] >= _state.level:
        with suppress(Exception):  # a line less; never a failure of what is logged
            write(render(None, level, {"timestamp": timestamp(at), "level": level, "event": event, **fields}))


class LogSubscriber:
    """The journal's subscriber that writes a line for each operation."""

    def __init__(self) -> None:
        self._lines = Lines()

    def observe(self, batch: Sequence[Published]) -> None:
        for unit in batch:
            for change in unit.changes:
                for line in self._lines.of(change):
                    _write(line.event, line.level, line.at, line.fields)


# ---- rendering ----


class _Output:
    """What structlog calls a logger: the end of the pipeline."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = self.log = writer.write


def timestamp(at_ns: int) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at_ns // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def _stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The common fields, first."""
    return {"timestamp": timestamp(time.time_ns()), "level": event.pop("level"), "event": event.pop("event"), **event}


def _no_exception_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    if found:
        error = found if isinstance(found, BaseException) else sys.exc_info()[1]
        if isinstance(found, tuple):
            error = found[1]
        event["error_class"] = type(error).__name__
    event.pop("stack_info", None)
    return event


_encode: Final = json.JSONEncoder(separators=(",", ":"), default=repr).encode


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _encode(event)


def _render_dropped(processors: Sequence[Processor], count: int) -> str:
    event: Any = {"event": names.LOG_DROPPED, "lines": count}
    for process in processors:
        event = process(None, "warning", event)
    return str(event)


# ---- what others log ----


def _route_libraries(level: int) -> list[Callable[[], object]]:
    """Handlers for stdlib logging, warnings and what Python itself prints; returns what undoes it."""
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    before = (root.handlers[:], root.level, ours.level, warnings.showwarning)
    hooks = (threading.excepthook, sys.unraisablehook)

    def undo() -> None:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        warnings.showwarning = before[3]
        threading.excepthook, sys.unraisablehook = hooks

    root.handlers[:] = [_Handler()]
    root.setLevel(max(level, logging.WARNING))
    ours.setLevel(level)
    warnings.showwarning = _show_warning
    threading.excepthook, sys.unraisablehook = _thread_failed, _unraisable
    return [undo]


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """A thread of user code ended by an exception; Python would print its text."""
    if args.exc_type is not SystemExit:
        message = "Exception in a thread"
        emit(names.LIBRARY_MESSAGE, "error", logger="threading", message=message, error_class=args.exc_type.__name__)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """A destructor or a callback failed; Python would print its text and the object."""
    message = "Exception ignored"
    emit(names.LIBRARY_MESSAGE, "warning", logger="python", message=message, error_class=args.exc_type.__name__)


class _Handler(logging.Handler):
    """Our own layers log events by name with `extra` fields; of others, see the module."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # logging never fails what is logged
            level = _level(record.levelno)
            if _is_ours(record.name) and record.msg in names.EVENTS:
                fields = {key: value for key, value in vars(record).items() if key not in _RECORD_KEYS}
                emit(record.msg, level, **fields)
                return
            told: dict[str, object] = {"logger": record.name, "where": f"{record.module}:{record.lineno}"}
            text = record.msg
            if isinstance(text, str) and (text in _ASYNCIO or _in_source(text, record.pathname, record.lineno)):
                told["message"] = text
            if record.exc_info and record.exc_info[0] is not None:
                told["error_class"] = record.exc_info[0].__name__
            emit(names.LIBRARY_MESSAGE, level, **told)


def _is_ours(logger: str) -> bool:
    return logger == OURS or logger.startswith(f"{OURS}.")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line
    told = {"category": category.__name__, "where": f"{Path(filename).stem}:{lineno}"}
    if _in_source(str(message), filename, lineno):
        told["message"] = str(message)
    emit(names.LIBRARY_WARNING, "warning", **told)


def asyncio_exception_handler(_: object, context: Mapping[str, Any]) -> None:
    """For `loop.set_exception_handler`: asyncio's own would log the exception with its text."""
    message, error = context.get("message"), context.get("exception")
    told = {"logger": "asyncio"}
    if message in _ASYNCIO:
        told["message"] = str(message)
    if isinstance(error, BaseException):
        told["error_class"] = type(error).__name__
    emit(names.LIBRARY_MESSAGE, "error", **told)


def _in_source(text: str, filename: str, lineno: int) -> bool:
    """Whether the text is a constant of the running function that logs it: then nothing was formatted into it."""
    frame = inspect.currentframe()
    for _ in range(_FRAMES):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return False
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            return text in frame.f_code.co_consts
    return False


def _level(number: int) -> Level:
    if number >= LEVELS["error"]:
        return "error"
    if number >= LEVELS["warning"]:
        return "warning"
    return "info" if number >= LEVELS["info"] else "debug"
