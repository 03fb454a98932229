"""Schema versions: yoyo applies the migrations; this says whether a database fits the code.

A process accepts its own schema version and the next, so that a rolling upgrade can migrate first.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from agentobs.errors import JournalUnavailable, SchemaMismatch

_FOLDER: Final = Path(__file__).parent / "migrations"
_ID: Final = re.compile(r"(\d{4})_\w+")
_log = logging.getLogger(__name__)


def known_version(backend: str = "sqlite") -> int:
    """The number of the newest migration that this code ships."""
    return max(int(path.name[:4]) for path in (_FOLDER / backend).glob("*.sql") if ".rollback" not in path.name)


def sqlite_version(path: Path) -> int:
    """The newest migration applied to the file; 0 for a file that is not there, empty, or not a journal yet."""
    if not path.exists() or not path.stat().st_size:
        return 0
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "_yoyo_migration" not in tables:
                if tables:
                    raise SchemaMismatch(
                        f"{path} is a SQLite database but not a journal of agentobs; "
                        "set AGENTOBS_DATABASE_URL to another file"
                    )
                return 0
            applied = [found for (found,) in db.execute("SELECT migration_id FROM _yoyo_migration")]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise JournalUnavailable(
            f"{path} cannot be read as a journal (SQLite says {error}); expected a database that agentobs made. "
            "Check the file and its permissions, or set AGENTOBS_DATABASE_URL to another"
        ) from error
    return max((int(match[1]) for found in applied if (match := _ID.fullmatch(found))), default=0)


def check(path: Path) -> None:
    """Raise `SchemaMismatch` unless the file's schema is this code's, or the next one's."""
    found, known = sqlite_version(path), known_version()
    if found < known:
        raise SchemaMismatch(
            f"{path} has schema version {found}, this agentobs needs {known}; back it up, then run 'agentobs migrate'"
        )
    if found > known + 1:
        raise SchemaMismatch(
            f"{path} has schema version {found}, this agentobs knows {known} and accepts {known + 1}; "
            "upgrade agentobs to the version that migrated it"
        )


def migrate_sqlite(path: Path) -> tuple[int, int]:
    """Bring the file to this code's schema; returns the versions before and after. The caller owns the lock."""
    import yoyo  # noqa: PLC0415 -- a tenth of a second that only a migration needs to spend

    before = sqlite_version(path)
    backend = yoyo.get_backend(f"sqlite:///{quote(str(path))}")
    try:
        migrations = yoyo.read_migrations(str(_FOLDER / "sqlite"))
        with backend.lock():
            backend.apply_migrations(backend.to_apply(migrations))
    finally:
        backend.connection.close()
    return before, sqlite_version(path)
