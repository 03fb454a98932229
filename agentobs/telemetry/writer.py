"""Writing lines in a thread: a stalled pipe or disk must not block the event loop, and few writes carry many lines."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

MAX_LINES: Final = 20_000  # kept while nothing can be written; further ones are dropped and counted
GATHER_S: Final = 0.02
LOOK_S: Final = 1.0  # between checks whether the file was moved
EXIT_S: Final = 2.0  # how long the process's end waits for lines to be written


class _NoFileError(Exception):
    """There is nothing to write to now."""


class LineWriter:
    """Appends lines to a file, opened anew when it was moved, or to a text stream.

    `on_dropped(count)` gives the line that tells how many were dropped, once lines can be written again. A file that
    cannot be opened anew is tried again each second: until then lines go on into the file that was moved, and where
    that is gone they wait. Trouble with a file is told on stderr, once until it is over.
    """

    def __init__(self, target: Path | TextIO, *, on_dropped: Callable[[int], str], max_lines: int = MAX_LINES) -> None:
        self._target: Final = target
        self._on_dropped: Final = on_dropped
        self._max_lines: Final = max_lines
        self._lines: Final[deque[str]] = deque()
        self._dropped = 0
        self._wanted: Final = threading.Event()
        self._idle: Final = threading.Condition()
        self._writing = False
        self._stop = False
        self._looked = -LOOK_S
        self._troubled = False
        self._file: int | None = None
        if isinstance(target, Path):
            self._open(target)  # at once, so that a wrong path is told at start
        else:
            # Not through the stream, whose lock a thread that hangs in a pipe would hold when the process ends.
            with suppress(OSError, ValueError, AttributeError):
                self._file = os.dup(target.fileno())
        self._thread: Final = threading.Thread(target=self._work, name="agentobs-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: str) -> None:
        """Queue a line; never blocks, never raises."""
        if len(self._lines) >= self._max_lines:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    def reopen(self) -> None:
        """See before the next line whether the file was moved (SIGHUP, after a rotation)."""
        self._looked = -LOOK_S

    def flush(self, timeout_s: float = EXIT_S) -> bool:
        """Wait until everything queued so far is written; False when that takes longer."""
        self._wanted.set()
        with self._idle:
            return self._idle.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def close(self) -> None:
        """Write what is queued, for at most two seconds, and end the thread."""
        atexit.unregister(self.close)
        self.flush()
        self._stop = True
        self._wanted.set()
        self._thread.join(EXIT_S)
        if self._file is not None and not self._thread.is_alive():
            os.close(self._file)
            self._file = None

    # ---- the thread ----

    def _work(self) -> None:
        while not self._stop:
            self._wanted.wait()
            if not self._stop and len(self._lines) < self._max_lines // 2:
                time.sleep(GATHER_S)
            self._wanted.clear()
            self._writing = True
            lines = self._gathered()
            try:
                self._put("".join(f"{line}\n" for line in lines))
            except _NoFileError:
                self._lines.extendleft(reversed(lines))
                self._wanted.set()
                time.sleep(LOOK_S)
            except (OSError, ValueError) as error:  # the disk is full, the pipe or stream is closed
                self._dropped += len(lines)
                self._complain(error, "lines are lost, and counted once it can be written")
                time.sleep(GATHER_S)
            finally:
                with self._idle:
                    self._writing = False
                    self._idle.notify_all()

    def _gathered(self) -> list[str]:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if self._dropped and lines:
            dropped, self._dropped = self._dropped, 0
            lines.append(self._on_dropped(dropped))
        return lines

    def _put(self, text: str) -> None:
        if not text:
            return
        if isinstance(self._target, Path):
            self._look(self._target)
        if self._file is None:
            assert not isinstance(self._target, Path)
            self._target.write(text)
            self._target.flush()
            return
        data = text.encode("utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:
                if self._stop:
                    raise
                time.sleep(GATHER_S)
        if self._troubled and isinstance(self._target, Path) and _is_at(self._file, self._target):
            self._troubled = False

    def _look(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S and self._file is not None:
            return
        self._looked = now
        if _is_at(self._file, path):
            return
        try:
            self._open(path)
        except OSError as error:
            if self._file is not None and os.fstat(self._file).st_nlink:
                self._complain(error, "until it can be opened, lines go on into the file that was there before")
                return
            self._complain(
                error, f"until it can be opened or this process ends, up to {self._max_lines:,} lines wait in memory"
            )
            if self._file is not None:
                os.close(self._file)
                self._file = None
            raise _NoFileError from error

    def _complain(self, error: Exception, consequence: str) -> None:
        if self._troubled or not isinstance(self._target, Path):
            return
        self._troubled = True
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"agentobs: AGENTOBS_LOG_FILE {self._target}: {reason}; {consequence}\n")
            sys.stderr.flush()

    def _open(self, path: Path) -> None:
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        old, self._file = self._file, opened
        if old is not None:
            os.close(old)


def _is_at(file: int | None, path: Path) -> bool:
    if file is None:
        return False
    try:
        here, there = os.fstat(file), path.stat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
