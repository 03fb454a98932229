"""The lock file that makes one process the owner of a SQLite journal."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agentobs.errors import JournalLocked, JournalUnavailable


class LockFile:
    """An advisory lock (flock) beside the database; the kernel drops it when the process dies, however it dies."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self, label: str) -> None:
        """Raises `JournalLocked` with what the owner wrote about itself, `JournalUnavailable` for a bad folder."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnavailable(
                f"{self.path} cannot be opened ({error.strerror}); expected a folder that this user may write to. "
                "Set AGENTOBS_DATABASE_URL to another place"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise JournalLocked(
                f"{self.path.with_suffix('')} is owned by {holder}. Only one process may run a SQLite journal: "
                "let that one do it (agentobs run --server URL), stop it, or use another AGENTOBS_DATABASE_URL"
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} ({label})".encode(), 0)
        except OSError:
            pass  # a full disk must not keep an owner out; the text is only for people
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
