"""Log lines: one an operation, from a closed list, with nothing of what runs contain."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import re
import threading
import time
import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog

import agentobs
from agentobs.journal.protocol import Published
from agentobs.records import (
    CANCELLED,
    CLOSED,
    DRAINED,
    FAILED,
    FUNCTION,
    INTERRUPTED,
    NOTED,
    OPENED,
    PARTIAL,
    RECOVERED,
    RESUMED,
    SETTLED,
    TOOL,
    UNKNOWN,
    Change,
    attempt_span_id,
    execution_span_id,
    span_id,
    step_span_id,
)
from agentobs.telemetry import logs, names
from agentobs.telemetry.loglines import Lines, log_lines
from agentobs.telemetry.writer import LineWriter
from tests.factories import MODEL, RUN_ID, T0, TRACE_ID, attempt, execution, failed_attempt, note, run, seconds, step

WHERE = {"run_id": RUN_ID, "trace_id": TRACE_ID, "workflow": "article"}
ROOT = WHERE | {"span_id": span_id("run", RUN_ID)}


def only(verb: str, record: Any) -> Any:
    (line,) = log_lines(Change(verb, record))
    return line


# ---- the lines of changes ----


def test_an_accepted_run() -> None:
    assert only(OPENED, run()) == ("run.accepted", "info", T0, ROOT)


def test_an_execution_begins() -> None:
    started = only(OPENED, execution())
    assert started == ("run.started", "info", seconds(1), ROOT | {"execution": 1, "worker": "worker-1"})
    recovered = only(OPENED, execution(number=2, reason=RECOVERED))
    later = {"span_id": execution_span_id(RUN_ID, 2), "execution": 2, "worker": "worker-1"}
    assert recovered == ("run.recovered", "warning", seconds(1), WHERE | later)
    assert only(OPENED, execution(number=2, reason=RESUMED))[:2] == ("run.resumed", "info")


def test_an_execution_ends_silently_unless_it_drained_or_diverged() -> None:
    assert log_lines(Change(CLOSED, execution())) == []
    assert only(CLOSED, execution(outcome=DRAINED)).event == "run.drained"
    diverged = only(CLOSED, execution(diverged=3))
    assert (diverged.event, diverged.level, diverged.fields["steps"]) == ("run.diverged", "warning", 3)


def test_a_finished_run() -> None:
    assert only(CLOSED, run()) == (
        "run.finished",
        "info",
        seconds(12),
        ROOT | {"status": "succeeded", "duration_s": 12.0},
    )
    failed = only(CLOSED, run(status=FAILED, error_type="overloaded", error_step=1, error_agent="writer"))
    told = {"status": "failed", "error_type": "overloaded", "step": 1, "agent": "writer", "duration_s": 12.0}
    assert failed == ("run.finished", "error", seconds(12), ROOT | told)
    assert only(CLOSED, run(status=CANCELLED, error_type="cancelled")).level == "warning"


def test_an_agent_call_tells_what_all_its_attempts_came_to() -> None:
    lines = Lines()
    cut = failed_attempt(outcome="stream_truncated", usage=PARTIAL, input_uncached=9, output=1, cost_pico=500_000)
    last = attempt(number=2, cache_read=20, cache_write=5, reasoning=7)
    assert [line.event for line in lines.of(Change(CLOSED, cut))] == ["attempt.failed"]
    assert lines.of(Change(CLOSED, last)) == ()
    (line,) = lines.of(Change(CLOSED, step()))
    assert line.fields == WHERE | {
        "span_id": step_span_id(step()),
        "agent": "writer",
        "model": MODEL,
        "step": 1,
        "status": "succeeded",
        "duration_s": 3.0,
        "attempts": 2,
        "usage_inexact": 1,
        "tokens": {"input": 134, "output": 51, "cache_read": 20, "cache_write": 5, "reasoning": 7, "total": 185},
        "cost_usd": 0.0003505,
    }
    assert (line.event, line.level, line.at) == ("agent.call", "info", seconds(5))
    assert not lines._open[RUN_ID]  # nothing is remembered of an ended step


def test_a_cost_that_is_not_known_is_null() -> None:
    lines = Lines()
    lines.of(Change(CLOSED, attempt(cost_pico=None)))
    (line,) = lines.of(Change(CLOSED, step()))
    assert line.fields["cost_usd"] is None
    lines.of(Change(CLOSED, attempt(step=2, usage=UNKNOWN, cost_pico=None, outcome="timeout")))
    (line,) = lines.of(Change(CLOSED, step(number=2, status=FAILED, error_type="timeout")))
    assert (line.fields["cost_usd"], line.fields["usage_inexact"], line.level) == (0.0, 1, "warning")


def test_what_a_lost_run_spent_is_forgotten(monkeypatch: Any) -> None:
    lines = Lines()
    lines.of(Change(CLOSED, attempt()))
    lines.of(Change(CLOSED, execution()))
    assert lines._open == {}
    monkeypatch.setattr("agentobs.telemetry.loglines.MAX_RUNS", 3)
    for number in range(10):
        lines.of(Change(CLOSED, attempt(run_id=str(number))))
    assert list(lines._open) == ["7", "8", "9"]


def test_tool_calls_and_function_steps() -> None:
    tool = step(kind=TOOL, name="search", agent="writer", number=2, status=FAILED, error_type="tool_error")
    told = {
        "agent": "writer",
        "tool": "search",
        "step": 2,
        "status": "failed",
        "error_type": "tool_error",
        "duration_s": 3.0,
    }
    assert only(CLOSED, tool) == ("tool.call", "warning", seconds(5), WHERE | {"span_id": step_span_id(tool)} | told)
    fetch = step(kind=FUNCTION, name="fetch", number=3)
    told = {"name": "fetch", "step": 3, "status": "succeeded", "duration_s": 3.0}
    assert only(CLOSED, fetch) == ("step.finished", "info", seconds(5), WHERE | {"span_id": step_span_id(fetch)} | told)


def test_a_failed_attempt() -> None:
    failed = failed_attempt(number=2, wait_ns=1_500_000_000)
    assert only(CLOSED, failed) == (
        "attempt.failed",
        "warning",
        seconds(4.5),
        WHERE
        | {
            "span_id": attempt_span_id(failed),
            "agent": "writer",
            "model": MODEL,
            "step": 1,
            "turn": 1,
            "attempt": 2,
            "error_type": "overloaded",
            "error_class": "OverloadedError",
            "http_status": 529,
            "request_id": "req_1",
            "usage": "exact",
            "wait_s": 1.5,
            "duration_s": 2.5,
        },
    )


@pytest.mark.parametrize(
    ("verb", "record"),
    [
        (CLOSED, attempt()),
        (OPENED, attempt(outcome=None)),
        (NOTED, attempt()),
        (SETTLED, failed_attempt(final=True)),
        (OPENED, step()),
        (CLOSED, note("now", '"SECRET"')),
    ],
)
def test_what_gives_no_line(verb: str, record: Any) -> None:
    assert not log_lines(Change(verb, record))


def test_every_line_is_of_a_known_event_and_holds_no_content() -> None:
    detail = {"error_detail": '"SECRET"'}
    records = [
        run(),
        run(status=FAILED, error_type="refusal", **detail),
        execution(outcome=DRAINED, diverged=1),
        step(status=INTERRUPTED, **detail),
        step(kind=TOOL),
        step(kind=FUNCTION),
        failed_attempt(answer='"SECRET"'),
    ]
    for record in records:
        for verb in (OPENED, CLOSED, SETTLED):
            for line in log_lines(Change(verb, record)):
                assert line.event in names.EVENTS
                assert "SECRET" not in json.dumps(line)


# ---- the pipeline ----


class Captured:
    def __init__(self, stream: StringIO) -> None:
        self._stream = stream

    def text(self) -> str:
        logs.flush()
        return self._stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def captured() -> Any:
    stream = StringIO()
    logs.configure(level="info", stream=stream)
    yield Captured(stream)
    logs.reset()


def test_a_line_is_one_line_of_json_with_the_common_fields_first(captured: Captured) -> None:
    subscriber = logs.LogSubscriber()
    subscriber.observe([Published((Change(CLOSED, attempt()), Change(CLOSED, step())), (), None)])
    (line,) = captured.text().splitlines()
    assert list(json.loads(line))[:7] == ["timestamp", "level", "event", "run_id", "trace_id", "span_id", "workflow"]
    assert json.loads(line)["timestamp"] == "2026-05-28T20:26:45.000Z"  # when the step ended


def test_the_level_is_heeded() -> None:
    stream = StringIO()
    logs.configure(level="warning", stream=stream)
    logs.emit("service.started")
    logs.emit("service.warning", "warning", reason="x")
    logs.reset()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["service.warning"]


def test_nothing_is_written_before_it_is_configured(capfd: Any) -> None:
    logs.reset()
    logs.emit("service.started")
    assert capfd.readouterr() == ("", "")


def test_a_line_that_cannot_be_rendered_raises_nothing(captured: Captured) -> None:
    loop: list[Any] = []
    loop.append(loop)
    logs.emit("service.started", version=loop)
    logs.emit("service.stopped")
    assert [line["event"] for line in captured.lines()] == ["service.stopped"]


def test_console_lines_are_for_people() -> None:
    stream = StringIO()
    logs.configure(level="info", format="console", stream=stream)
    logs.emit("service.started", version="0.1.0")
    logs.reset()
    assert re.search(r"service\.started +version=0\.1\.0", stream.getvalue())
    assert "\x1b" not in stream.getvalue()


def test_our_own_layers_log_events_by_name(captured: Captured) -> None:
    logging.getLogger("agentobs.journal.writer").warning("journal.paused", extra={"reason": "the disk is full"})
    logging.getLogger("agentobs.journal.writer").info("journal.resumed")
    assert [{**line, "timestamp": ""} for line in captured.lines()] == [
        {"timestamp": "", "level": "warning", "event": "journal.paused", "reason": "the disk is full"},
        {"timestamp": "", "level": "info", "event": "journal.resumed"},
    ]


def test_every_event_that_our_layers_log_is_on_the_list() -> None:
    found = set()
    for path in Path(agentobs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                message = node.args[0]
                if node.func.attr in {"debug", "info", "warning", "error"} and isinstance(message, ast.Constant):
                    found.add(message.value)
    events = {text for text in found if isinstance(text, str) and re.fullmatch(r"[a-z]+\.[a-z_.]+", text)}
    assert events >= {"journal.paused", "journal.resumed"}
    assert events <= names.EVENTS


def noisy(log: logging.Logger, prompt: str) -> None:
    """A library that quotes what it was given in every way there is."""
    log.info("not at this level")
    log.warning("a fixed message")
    log.warning("could not read %s", prompt)
    log.warning(f"could not read {prompt}")  # noqa: G004
    log.warning("could not read {}".format(prompt))  # noqa: G001, UP032
    try:
        raise ValueError(prompt)
    except ValueError as error:
        log.exception("failed")
        log.error(str(error), exc_info=error)
        log.error(error)


def test_library_messages_are_shown_only_as_they_stand_in_the_source(captured: Captured) -> None:
    noisy(logging.getLogger("some.library"), "SECRET")
    assert "SECRET" not in captured.text()
    told = [(line["level"], line.get("message"), line.get("error_class")) for line in captured.lines()]
    assert told == [
        ("warning", "a fixed message", None),
        ("warning", "could not read %s", None),
        ("warning", None, None),
        ("warning", None, None),
        ("error", "failed", "ValueError"),
        ("error", None, "ValueError"),
        ("error", None, None),
    ]
    first = captured.lines()[0]
    assert (first["event"], first["logger"]) == ("library.message", "some.library")
    assert re.fullmatch(r"test_logs:\d+", first["where"])


def test_user_code_may_use_structlog_and_its_exceptions_show_as_their_class(captured: Captured) -> None:
    log = structlog.get_logger()
    try:
        raise KeyError("SECRET")
    except KeyError as error:
        log.exception("mine", order=7)
        log.error("mine too", exc_info=error)
        log.error("and this", exc_info=(KeyError, error, None))
    assert "SECRET" not in captured.text()
    assert [(line["event"], line["error_class"]) for line in captured.lines()] == [
        ("mine", "KeyError"),
        ("mine too", "KeyError"),
        ("and this", "KeyError"),
    ]


def test_warnings_go_the_same_way(captured: Captured) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs._show_warning  # (pytest has put its own there)
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
        warnings.warn(f"about {'SECRET'!s}", UserWarning, stacklevel=1)
    assert "SECRET" not in captured.text()
    told = [(line["event"], line["category"], line.get("message")) for line in captured.lines()]
    assert told == [
        ("library.warning", "DeprecationWarning", "this is old"),
        ("library.warning", "UserWarning", None),
    ]


def test_what_asyncio_reports_is_told_without_the_exceptions_text(captured: Captured) -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("SECRET")

        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        del task

    asyncio.run(main())  # by asyncio's own handler,

    async def handled() -> None:
        asyncio.get_running_loop().set_exception_handler(logs.asyncio_exception_handler)
        await main()

    asyncio.run(handled())  # and by ours
    assert "SECRET" not in captured.text()
    own, ours = captured.lines()
    assert (own["logger"], own.get("message"), own["error_class"]) == ("asyncio", None, "ValueError")
    assert (ours["logger"], ours["message"], ours["error_class"]) == (
        "asyncio",
        "Task exception was never retrieved",
        "ValueError",
    )


def test_configuring_again_leaves_one_pipeline_and_reset_none() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, warnings.showwarning)
    first, second = StringIO(), StringIO()
    logs.configure(stream=first)
    logs.configure(stream=second)
    logs.emit("service.started")
    logging.getLogger("x").warning("hello")
    logs.reset()
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 2
    assert (root.handlers, root.level, warnings.showwarning) == before


# ---- files ----


@pytest.fixture
def file(tmp_path: Path) -> Any:
    path = tmp_path / "agentobs.log"
    logs.configure(file=path)
    yield path
    logs.reset()


def events(path: Path) -> list[str]:
    logs.flush()
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_a_file_is_appended_to(file: Path) -> None:
    logs.emit("service.started")
    logs.configure(file=file)
    logs.emit("service.stopped")
    assert events(file) == ["service.started", "service.stopped"]


def test_a_file_is_reopened_on_request(file: Path) -> None:
    logs.emit("service.started")
    logs.flush()
    file.rename(file.with_suffix(".1"))
    logs.reopen()
    logs.emit("service.stopped")
    assert events(file) == ["service.stopped"]
    assert events(file.with_suffix(".1")) == ["service.started"]


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_file_that_was_moved_is_noticed(file: Path, how: str, monkeypatch: Any) -> None:
    logs.emit("service.started")
    logs.flush()
    monkeypatch.setattr("agentobs.telemetry.writer.LOOK_S", 0.0)
    if how == "removed":
        file.unlink()
    else:
        file.rename(file.with_suffix(".1"))
    if how == "replaced":
        file.touch()
    logs.emit("service.stopped")
    assert events(file) == ["service.stopped"]


def trouble(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "AGENTOBS_LOG_FILE" in line]


def test_a_moved_file_is_written_on_until_its_path_can_be_opened(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder went with the file: no line is lost, stderr says so once, and the path is tried again."""
    monkeypatch.setattr("agentobs.telemetry.writer.LOOK_S", 0.0)
    folder, moved = tmp_path / "logs", tmp_path / "old"
    folder.mkdir()
    path = folder / "agentobs.log"
    logs.configure(file=path)
    try:
        for number in range(3):
            logs.emit("service.warning", "warning", number=number)
            logs.flush()
            if number == 0:
                folder.rename(moved)
        assert len(events(moved / "agentobs.log")) == 3
        (told,) = trouble(capsys)
        assert told == (
            f"agentobs: AGENTOBS_LOG_FILE {path}: No such file or directory; until it can be opened, lines go on into "
            "the file that was there before"
        )
        folder.mkdir()
        logs.emit("service.stopped")
        assert events(path) == ["service.stopped"]
        folder.rename(tmp_path / "again")
        logs.emit("service.stopped")
        logs.flush()
        assert len(trouble(capsys)) == 1, "trouble that was over is told anew"
    finally:
        logs.reset()


def test_lines_wait_while_their_file_is_gone_and_cannot_be_made(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agentobs.telemetry.writer.LOOK_S", 0.5)  # one try, and then the one that succeeds
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "agentobs.log"
    writer = LineWriter(path, on_dropped=lambda count: f"dropped {count}", max_lines=100)
    try:
        path.unlink()
        folder.rmdir()
        writer.reopen()
        for number in range(150):
            writer.write(str(number))
        told: list[str] = []
        deadline = time.monotonic() + 30
        while not told and time.monotonic() < deadline:
            assert not writer.flush(0.05)
            told = trouble(capsys)
        assert told[0].endswith("until it can be opened or this process ends, up to 100 lines wait in memory")
        folder.mkdir()
        assert writer.flush(30)
        lines = path.read_text().splitlines()
        kept = [int(line) for line in lines if line.isdecimal()]
        lost = sum(int(line.removeprefix("dropped ")) for line in lines if not line.isdecimal())
        # Which ones were lost depends on when the thread had them in hand.
        assert kept[:100] == [*range(100)] and kept == sorted(set(kept))
        assert len(kept) + lost == 150
        assert trouble(capsys) == [], "told once"
    finally:
        writer.close()


@pytest.mark.parametrize("how", ["by the look of it", "on SIGHUP"])
def test_no_line_is_lost_or_doubled_when_the_file_is_rotated_while_it_is_written(
    file: Path, how: str, monkeypatch: Any
) -> None:
    """As logrotate does it: moved away, and (`create`) an empty file made in its place, again and again."""
    monkeypatch.setattr("agentobs.telemetry.writer.LOOK_S", 60.0 if how == "on SIGHUP" else 0.0)
    rotated = []
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            logs.emit("service.warning", "warning", number=number)
            number += 1
            if not number % 50:
                time.sleep(0.001)
        logs.flush()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for turn in range(8):
            deadline = time.monotonic() + 10
            while not file.exists() or not file.stat().st_size:
                assert time.monotonic() < deadline, "the new file is never written"
                time.sleep(0.005)
            rotated.append(file.with_suffix(f".{turn}"))
            file.rename(rotated[-1])
            if turn % 2:
                file.touch()
            if how == "on SIGHUP":
                logs.reopen()
    finally:
        done.set()
        writing.join()
    logs.emit("service.stopped")
    logs.flush()
    numbers = [json.loads(line).get("number") for path in (*rotated, file) for line in path.read_text().splitlines()]
    assert numbers == [*range(len(numbers) - 1), None]
    assert len(numbers) > 100


def test_a_wrong_path_is_told_at_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        logs.configure(file=tmp_path / "absent" / "agentobs.log")


# ---- never in the way ----


def test_a_reader_that_stalls_blocks_nobody_and_losses_are_counted() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stream:
        writer = LineWriter(stream, on_dropped=lambda count: f"dropped {count}", max_lines=1000)
        began = time.perf_counter()
        for _ in range(5000):
            writer.write("x" * 1000)  # far more than the pipe holds
        assert time.perf_counter() - began < 0.5
        time.sleep(0.1)
        assert not writer.flush(0.1)
        got: list[bytes] = []

        def drain() -> None:
            while data := os.read(reading, 65536):
                got.append(data)

        reader = threading.Thread(target=drain)
        reader.start()
        assert writer.flush(5)
        writer.write("after")
        assert writer.flush(5)
        writer.close()
    reader.join()
    os.close(reading)
    lines = b"".join(got).decode().splitlines()
    counted = sum(int(line.split()[1]) for line in lines if line.startswith("dropped"))
    assert counted > 0
    assert counted + sum(line.startswith("x") for line in lines) == 5000
    assert "after" in lines


def test_a_disk_that_is_full_costs_lines_and_nothing_else() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w", encoding="utf-8") as stream:
        writer = LineWriter(stream, on_dropped=str)
        writer.write("lost")
        assert writer.flush(5)
        assert writer._dropped == 1
        writer.close()


def test_lines_keep_their_order_across_threads(captured: Captured) -> None:
    def many(worker: int) -> None:
        for number in range(200):
            logs.emit("service.warning", "warning", worker=worker, number=number)

    threads = [threading.Thread(target=many, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = captured.lines()
    assert len(lines) == 800
    for worker in range(4):
        assert [line["number"] for line in lines if line["worker"] == worker] == list(range(200))
