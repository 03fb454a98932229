"""Rows about the service around the runs: its start, its journal, its list of runs, its HTTP API."""

from __future__ import annotations

import asyncio
import http.client
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from agentobs.bench.figures import Line, ratio
from agentobs.bench.flows import CALLS
from agentobs.bench.processes import Subject, canned, environment
from agentobs.bench.rows import Size
from agentobs.bench.subject import Order

LONG_S: Final = 600.0  # a model that does not answer while a process is killed
RECOVER_S: Final = 3.0
POLL_S: Final = 0.1


def start(folder: Path, size: Size) -> Sequence[Line]:
    """From the command to its answer on /readyz, on a journal that exists; and the first time, when it is made."""
    variables = environment(folder, "http://127.0.0.1:9")
    took = [_start_s(variables) for _ in range(size.starts + 1)]
    bare = [_python_s(variables) for _ in range(size.starts)]
    details = f"first start {took[0]:.2f} s; Python itself {statistics.median(bare):.2f} s"
    return [
        Line(
            row="start",
            what="start to ready, embedded",
            value=statistics.median(took[1:]),
            unit="s",
            spread=(min(took[1:]), max(took[1:])),
            goal=1.0,
            details=details,
        )
    ]


def _start_s(variables: Mapping[str, str]) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "agentobs", "serve"]
    with subprocess.Popen(  # noqa: S603 -- our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(variables)
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2].rstrip(",")
        _get(url, "/readyz")
        took = time.perf_counter() - began
        process.terminate()
    return took


def _python_s(variables: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, env=dict(variables))
    return time.perf_counter() - began


def _get(url: str, path: str) -> bytes:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def listing(folder: Path, size: Size) -> Sequence[Line]:
    """A page of GET /v1/runs with a million runs against one with a thousand, asked in turn."""
    with ExitStack() as stack:
        url = stack.enter_context(canned())
        urls = []
        for count in size.listed:
            place = folder / str(count)
            variables = environment(place, url)
            with Subject("agentobs", place, variables) as subject:
                subject.does(Order(runs=1, at_once=1))
            _multiply(place / "agentobs.db", count)
            urls.append(stack.enter_context(Subject("http", place, variables)).line()["url"])
        connections = [stack.enter_context(closing(_connection(one))) for one in urls]
        took: list[list[float]] = [[], []]
        for turn in range(20 * size.pairs + 5):
            for which, connection in enumerate(connections):
                began = time.perf_counter()
                connection.request("GET", "/v1/runs")
                page = connection.getresponse()
                page.read()
                assert page.status == http.client.OK
                if turn >= 5:
                    took[which].append(1000 * (time.perf_counter() - began))
    few, many = size.listed
    found = ratio("list", f"a page of runs, of {many:,} against {few:,}", took[1], took[0], 1.5, "ms")
    return [found]


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port)


def _multiply(path: Path, count: int) -> None:
    """Copy the one run of a journal until there are `count`, each with an id and times of its own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
        # A UUIDv7 of the template's time and the number of milliseconds that the copy is older.
        ms = "printf('%012x', (SELECT created_at FROM first) / 1000000 - i)"
        run_id = f"substr({ms}, 1, 8) || '-' || substr({ms}, 9, 4) || '-7000-8000-' || printf('%012x', i)"
        db.execute("CREATE TEMP TABLE first AS SELECT * FROM runs")
        for table, own in (("runs", "id"), ("executions", "run_id"), ("steps", "run_id"), ("attempts", "run_id")):
            columns = [column[1] for column in db.execute(f"PRAGMA table_info({table})")]
            values = [run_id if name == own else name for name in columns]
            db.execute(
                f"{numbers} INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "  # noqa: S608
                f"FROM n, (SELECT * FROM {table} LIMIT {CALLS})",
                {"count": count - 1},
            )
        db.execute("COMMIT")
        db.execute("ANALYZE")


def restart(folder: Path, size: Size) -> Sequence[Line]:
    """Kill a process with unfinished runs; time from opening their journal until all functions were entered again."""
    runs = size.unfinished
    limits = {"AGENTOBS_MAX_RUNS_IN_FLIGHT": str(runs), "AGENTOBS_MAX_CALLS_IN_FLIGHT": str(runs)}
    took = []
    with ExitStack() as stack:
        variables = environment(folder, stack.enter_context(canned()), model_s=LONG_S) | limits
        for turn in range(max(size.pairs // 2, 1)):
            where = folder / str(turn)
            variables["AGENTOBS_DATABASE_URL"] = f"sqlite:///{where / 'agentobs.db'}"
            with Subject("agentobs", where, variables) as first:
                first.tell({"runs": runs, "at_once": runs})
                _until_open(where / "agentobs.db", runs)
                first.kill()
            with Subject("recover", where, variables) as second:
                took.append(second.ask({"entered": runs})["seconds"])
                second.kill()
    return [
        Line(
            row="restart",
            what=f"restart with {runs:,} unfinished runs: all resumed",
            value=statistics.median(took),
            unit="s",
            spread=(min(took), max(took)),
            goal=RECOVER_S,
            details=f"{len(took)} restarts; from opening the journal, the SDK's import beside it",
        )
    ]


def _until_open(path: Path, runs: int) -> None:
    """Until every run has an attempt on its way."""
    while True:
        time.sleep(POLL_S)
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                try:
                    if db.execute("SELECT count(*) FROM attempts").fetchone()[0] >= runs:
                        return
                except sqlite3.OperationalError:  # its schema is not there yet
                    continue


def journal(folder: Path, size: Size) -> Sequence[Line]:
    """Bytes of the journal a step, without the text that users and models wrote; all spans delivered."""
    with ExitStack() as stack:
        variables = environment(folder, stack.enter_context(canned()))
        with Subject("agentobs", folder, variables) as subject:
            subject.does(Order(runs=size.runs, at_once=50))
    path = folder / "agentobs.db"
    with closing(sqlite3.connect(path)) as db:
        steps, text = db.execute(
            "SELECT count(*), sum(length(input) + coalesce(length(output), 0)) FROM steps"
        ).fetchone()
        text += db.execute("SELECT sum(length(input) + coalesce(length(output), 0)) FROM runs").fetchone()[0]
    whole = path.stat().st_size
    return [
        Line(
            row="journal",
            what="journal a step, beyond its text",
            value=(whole - text) / steps,
            unit="bytes",
            goal=2000,
            details=f"{steps:,} steps, {whole / steps:,.0f} bytes a step with the text",
        )
    ]


def submit(folder: Path, size: Size) -> Sequence[Line]:
    """CPU of the service a run when runs are submitted over HTTP, one request each."""
    with ExitStack() as stack:
        variables = environment(folder, stack.enter_context(canned()))
        subject = stack.enter_context(Subject("http", folder, variables))
        url = subject.line()["url"]
        took = []
        for turn in range(size.pairs + 1):
            before = subject.ask({})
            asyncio.run(_post(url, size.runs))
            while (after := subject.ask({}))["calls"] < (turn + 1) * size.runs * CALLS:
                time.sleep(POLL_S)
            time.sleep(1.5)  # the spans
            after = subject.ask({})
            took.append(1000 * (after["cpu_s"] - before["cpu_s"]) / size.runs)
    return [
        Line(
            row="http",
            what="CPU a run submitted over HTTP, 50 at once",
            value=statistics.median(took[1:]),
            unit="ms",
            spread=(min(took[1:]), max(took[1:])),
        )
    ]


async def _post(url: str, count: int) -> None:
    left = iter(range(count))
    async with aiohttp.ClientSession() as session:

        async def one_after_the_other() -> None:
            for number in left:
                body = {"workflow": "bench_plain", "input": f"topic {number}"}
                async with session.post(f"{url}/v1/runs", json=body) as answer:
                    answer.raise_for_status()

        await asyncio.gather(*(one_after_the_other() for _ in range(50)))
