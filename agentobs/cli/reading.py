"""Where the reading commands read: the service, or the journal file beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import ValidationError

from agentobs.api import views
from agentobs.api.schemas import Filters, to_cursor
from agentobs.api.selection import CancelRequest, ResumeRequest
from agentobs.cli.http import Client, client
from agentobs.cli.terminal import note
from agentobs.errors import NotFound, Unreachable, UsageError
from agentobs.journal.protocol import RunDetail
from agentobs.journal.sqlite import open_reader
from agentobs.settings import Settings

if TYPE_CHECKING:
    from agentobs.journal.reads import SqliteReader


_LOOK_S: Final = 0.2  # between two looks into the file for events


class Source(Protocol):
    """Both give what the HTTP API gives."""

    async def runs(self, filters: Mapping[str, Any]) -> dict[str, Any]: ...

    async def run(self, run_id: str) -> dict[str, Any]: ...

    def events(self, run_id: str, after: int) -> AsyncGenerator[tuple[str, dict[str, Any], int]]:
        """Name, data and number of each event after that one, until the run has ended or the stream is cut off."""
        ...


class JournalFile:
    """The journal, read-only, whether or not a process owns it."""

    def __init__(self, reader: SqliteReader, path: Path) -> None:
        self._reader = reader
        self._path = path

    async def runs(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        asked = Filters(**filters)
        details = await self._reader.details(asked.query())
        page = details[: asked.limit]
        return views.run_list(page, to_cursor(page[-1].run.id) if len(details) > len(page) else None)

    async def run(self, run_id: str) -> dict[str, Any]:
        return views.run_detail(await self.detail(run_id))

    async def events(self, run_id: str, after: int) -> AsyncGenerator[tuple[str, dict[str, Any], int]]:
        while True:
            found = await self._reader.events(run_id, after)
            if found is None:
                raise self._missing(run_id)
            for event in found.items:
                after = event.seq
                yield *views.event(event), event.seq
            if found.over:
                return
            if not found.items:
                await asyncio.sleep(_LOOK_S)

    async def detail(self, run_id: str) -> RunDetail:
        found = await self._reader.detail(run_id)
        if found is None:
            raise self._missing(run_id)
        return found

    def _missing(self, run_id: str) -> NotFound:
        return NotFound(f"there is no run {run_id} in {self._path}")


@asynccontextmanager
async def source(settings: Settings, server: str | None) -> AsyncIterator[Source]:
    """The service where one answers; else the journal file, unless a server was named outright.

    Raises `Unreachable` when there is neither.
    """
    async with client(settings, server) as http:
        silence = await _silence(http)
        if silence is None:
            yield http
            return
    path = settings.sqlite_path
    if server is not None:
        raise silence
    if not path.exists():
        raise Unreachable(f"{silence}, or a journal in AGENTOBS_DATABASE_URL: there is none at {path.absolute()}")
    async with journal(settings) as file:
        note(f"no service answers at {http.url}; read from the journal {path.absolute()}")
        yield file


@asynccontextmanager
async def journal(settings: Settings) -> AsyncIterator[JournalFile]:
    """Raises `JournalError` where there is none that can be read."""
    reader = open_reader(settings.sqlite_path)
    try:
        yield JournalFile(reader, settings.sqlite_path.absolute())
    finally:
        await reader.close()


async def _silence(http: Client) -> Unreachable | None:
    try:
        await http.check()
    except Unreachable as error:
        return error
    return None


def checked(given: Mapping[str, Any], kind: type[Filters | CancelRequest | ResumeRequest] = Filters) -> dict[str, Any]:
    """Filters of runs, as the HTTP API takes them. Raises `UsageError` naming the option at fault."""
    asked = {name: value for name, value in given.items() if value is not None}
    try:
        kind(**asked).query()
    except ValidationError as error:
        item = error.errors()[0]
        option = f"--{str(item['loc'][0]).replace('_', '-')}"
        why = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        raise UsageError(f"{option} is {item['input']!r:.80}: it {why}") from None
    return asked
