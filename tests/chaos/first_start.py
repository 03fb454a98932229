"""Dies by SIGKILL before the n-th SQL statement of a journal's making, for every n, and tries to open what is left.

    python tests/chaos/first_start.py FOLDER

Prints a JSON object: how many moments there were, and after which of them the journal could not be opened. Forks from
one process that has imported everything, since starting Python for each moment would take minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yoyo  # noqa: F401 -- imported here, before the forks

from agentobs.journal.sqlite import open_journal

ENOUGH = 5  # moments that go wrong
_connect = sqlite3.connect


def forked(work: Callable[[], Any]) -> tuple[int, str]:
    """Exit status (negative: by a signal) of a process that does `work`, and what went wrong in it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 0
        try:
            work()
        except BaseException as error:  # told to the parent
            os.write(writing, f"{type(error).__name__}: {error}"[:1000].encode())
            status = 1
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as told:
        wrong = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), wrong


async def _open_and_close(path: Path) -> None:
    journal = await open_journal(path, worker="first start")
    await journal.close()


def opened(path: Path) -> None:
    asyncio.run(_open_and_close(path))


def opened_dying_at(path: Path, nth: int) -> None:
    """Open, and die before the n-th statement. Pages leave the cache at once, so that files are half written."""
    count = 0

    def before(_: str) -> None:
        nonlocal count
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(*args: Any, **more: Any) -> sqlite3.Connection:
        db = _connect(*args, **more)
        db.execute("PRAGMA cache_size = 1")
        db.set_trace_callback(before)
        return db

    sqlite3.connect = connect  # type: ignore[assignment]
    opened(path)


def main(folder: Path) -> dict[str, Any]:
    broken: dict[int, str] = {}
    nth = 0
    while True:
        nth += 1
        path = folder / str(nth) / "agentobs.db"
        path.parent.mkdir(parents=True)
        status, wrong = forked(lambda path=path, nth=nth: opened_dying_at(path, nth))
        if status == 0:
            return {"moments": nth - 1, "broken": broken}
        if status != -signal.SIGKILL:
            raise RuntimeError(f"before statement {nth} it should have died, and ended with {status}: {wrong}")
        status, wrong = forked(lambda path=path: opened(path))
        if status != 0:
            broken[nth] = wrong
            if len(broken) == ENOUGH:
                return {"moments": nth, "broken": broken}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
