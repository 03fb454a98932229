"""Writing lines in a thread: a stalled pipe or disk must not block the event loop, and few writes carry many lines."""

from __future__ import annotations

import atexit
import os
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


class LineWriter:
    """Appends lines to a file, opened anew when it was moved or `reopen` was called, or to a text stream.

    `on_dropped(count)` gives the line that tells how many were dropped, once lines can be written again.
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
        self._reopen = False
        self._looked = 0.0
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
        """Open the file again before the next line (SIGHUP, after a rotation)."""
        self._reopen = True

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
            except (OSError, ValueError):  # the disk is full, the pipe or stream is closed
                self._dropped += len(lines)
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

    def _look(self, path: Path) -> None:
        now = time.monotonic()
        moved = False
        if now - self._looked >= LOOK_S or self._file is None:
            self._looked = now
            moved = not _is_at(self._file, path)
        if moved or self._reopen:
            self._reopen = False
            self._open(path)

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
