"""`agentobs migrate`."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from agentobs.errors import JournalUnavailable
from agentobs.journal import migrate
from agentobs.journal.ownership import LockFile


def migrate_journal(path: Path, worker: str) -> tuple[int, int]:
    """The schema versions before and after. Raises `JournalLocked`, `SchemaMismatch`, `JournalUnavailable`."""
    migrate.sqlite_version(path)  # what is no journal is not touched, nor locked
    lock = LockFile(path)
    lock.acquire(f"{worker}, migrating")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # made as the service would make it
        versions = migrate.migrate_sqlite(path)
    except (OSError, sqlite3.Error) as error:
        raise JournalUnavailable(
            f"{path} cannot be migrated ({error}); expected a file that this user may write to, on a disk with room"
        ) from None
    finally:
        lock.release()
    migrate.check(path)
    return versions
