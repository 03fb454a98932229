"""`agentobs audit`: nothing differs in the books of a journal that lived through faults, kills and a resume; and each
planted discrepancy is found and leads to its run.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from agentobs.cli.auditing.statement import read_statement
from agentobs.drift import DRIFT_KINDS, Audit
from agentobs.errors import Unreachable, UsageError
from agentobs.journal.ownership import LockFile
from agentobs.journal.sqlite import open_reader
from agentobs.service import audit_file
from tests.acceptance.books import Books, read_journal
from tests.acceptance.flows import mixed_input
from tests.acceptance.harness import World, environment, until, world
from tests.acceptance.plants import PLANTED, dropped_row, edited_bill, more_output, sql, stranger
from tests.acceptance.test_books import RULES

RUNS = 40
JOURNAL_KINDS = {"records", "cost", "totals", "spans"}
BILL_KINDS = {"bill_unknown", "bill_twice", "bill_differs", "bill_missing"}


class Kept(NamedTuple):
    """What the service left behind; files are copied before they are edited."""

    clean: Path  # a folder: agentobs.db and bill.json, all spans delivered
    owing: Path  # the same, two runs later and with their spans in the outbox
    books: Books
    env: dict[str, str]
    beside: subprocess.CompletedProcess[str]  # `audit --bill URL` beside the running service
    gauges: list[Mapping[Any, float] | None]  # before it, after it, after a restart


def cli(folder: Path, env: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("agentobs"), "audit", *args]
    return subprocess.run(command, check=False, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=120)


def gauge(here: World) -> Mapping[Any, float] | None:
    return here.service.metrics().get("agentobs_accounting_drift")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("audited")
    faults = [{"probability": 0.02} | rule for rule in RULES]
    with world(folder, latency_s=0.02, faults=faults) as here:
        service = here.service
        runs = [service.submit(*mixed_input(number))["id"] for number in range(RUNS)]
        for requests in (40, 90):
            until(lambda requests=requests: here.simulator.requests >= requests, "requests")
            service.kill()
            service.start()
        failed = [run_id for run_id, run in service.wait_ended(runs).items() if run["status"] == "failed"]
        here.simulator.faults()
        for run_id in failed[:5]:
            service.call("POST", f"/v1/runs/{run_id}/resume")
        service.wait_idle()
        here.wait_delivered()
        env = service.environ | {"AGENTOBS_URL": service.url}
        gauges = [gauge(here)]
        beside = cli(folder, env, "--bill", here.simulator.url, "--json")
        gauges.append(gauge(here))
        service.stop()
        service.start()
        gauges.append(gauge(here))
        service.stop()
        clean = keep(folder, "clean", here.simulator.url)
        books = Books(
            bill=here.simulator.bill(),
            journal=read_journal(clean / "agentobs.db"),
            spans=list(here.sink.spans),
            metrics={},
        )
        here.sink.stop()
        service.start()
        service.wait_ended([service.submit(*mixed_input(number))["id"] for number in (1, 2)])
        service.kill()
        owing = keep(folder, "owing", here.simulator.url)
    return Kept(clean, owing, books, env, beside, gauges)


def keep(folder: Path, name: str, simulator: str) -> Path:
    kept = folder / name
    kept.mkdir()
    for file in folder.glob("agentobs.db*"):
        shutil.copy(file, kept)
    (kept / "bill.json").write_text(httpx2.get(f"{simulator}/_bill").raise_for_status().text)
    return kept


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def audited(folder: Path, *, bill: bool = True) -> Audit:
    return audit_file(folder / "agentobs.db", read_statement(str(folder / "bill.json")) if bill else None)


# ---- agreement ----


def test_the_journal_lived_through_something(kept: Kept) -> None:
    """Else that nothing differs would say little."""
    attempts = kept.books.journal.attempts
    assert {row["usage"] for row in attempts} == {"exact", "partial", "unknown"}
    assert any(row["stream"] for row in attempts) and any(row["number"] > 1 for row in attempts)
    reasons = {row["reason"] for row in kept.books.journal.executions}
    assert reasons == {"started", "recovered", "resumed"}
    assert any(row["cost_pico"] is None and row["usage"] == "exact" for row in attempts), "one model has no price"


def test_nothing_differs_and_the_result_goes_through_the_running_service(kept: Kept) -> None:
    assert kept.beside.returncode == 0, kept.beside.stdout + kept.beside.stderr
    told = json.loads(kept.beside.stdout)
    assert told["id"] == 1 and told["differences"] == 0 and not told["findings"]
    assert set(told["drift"]) == JOURNAL_KINDS | BILL_KINDS
    attempts, spans = len(kept.books.journal.attempts), len({span.span_id for span in kept.books.spans})
    assert told["compared"]["spans"] == spans
    assert told["compared"]["bill_unknown"] == len(kept.books.bill)
    assert 0 < told["compared"]["bill_differs"] <= attempts
    assert told["compared"]["records"] == len(kept.books.journal.runs)
    recorded = sql(kept.clean, "SELECT id, at, drift, findings FROM audits")
    assert [(row[0], row[1], json.loads(row[2])) for row in recorded] == [(1, told["at"], told["drift"])]


def test_the_gauge_is_there_once_an_audit_has_run_and_after_a_restart(kept: Kept) -> None:
    zeros = {frozenset({("kind", kind)}): 0.0 for kind in DRIFT_KINDS}
    assert kept.gauges == [None, zeros, zeros]


def test_without_a_service_the_command_writes_the_record_itself(kept: Kept, tmp_path: Path) -> None:
    folder = copied(kept.clean, tmp_path)
    env = kept.env | {"AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}"}
    done = cli(folder, env, "--bill", "bill.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the books agree" in done.stdout and "audit 2 of the journal" in done.stdout
    assert sql(folder, "SELECT count(*) FROM audits") == [(2,)]


def test_spans_that_are_owed_are_no_difference(kept: Kept) -> None:
    assert sql(kept.owing, "SELECT count(*) FROM outbox")[0][0] > 10
    assert audited(kept.owing).drift == dict.fromkeys([*JOURNAL_KINDS, *BILL_KINDS], 0)


def test_spans_that_nobody_asked_for_are_no_difference(kept: Kept, tmp_path: Path) -> None:
    env = environment(tmp_path, simulator="http://127.0.0.1:9", sink=None)
    command = [Path(sys.executable).with_name("agentobs"), "run", "article", "--set", "goal=tea"]
    subprocess.run(command, check=False, env=env, cwd=tmp_path, capture_output=True, timeout=120)
    found = audit_file(tmp_path / "agentobs.db")
    assert found.compared["spans"] > 3 and found.differences == 0, found


# ---- planted discrepancies ----


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_leads_to_its_run(name: str, kept: Kept, tmp_path: Path) -> None:
    edit, naming, others = PLANTED[name]
    folder = copied(kept.owing if edit is dropped_row else kept.clean, tmp_path)
    run_id = edit(folder)
    found = audited(folder)
    assert {kind for kind, count in found.drift.items() if count} >= naming | others, found
    for kind in naming:
        named = {one for finding in found.findings if finding.kind == kind for one in finding.run_ids}
        assert run_id in named, (kind, found)
        if kind != "totals":
            assert named == {run_id}, (kind, found)


def test_a_strangers_request_is_told_by_its_id(kept: Kept, tmp_path: Path) -> None:
    folder = copied(kept.clean, tmp_path)
    edited_bill(stranger)(folder)
    (finding,) = audited(folder).findings
    assert "req_stranger" in finding.text and "not agentobs'" in finding.text


def test_drift_is_exit_code_4_and_the_gauge_of_the_next_start(kept: Kept, tmp_path: Path) -> None:
    folder = copied(kept.clean, tmp_path)
    env = kept.env | {"AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}"}
    run_id = edited_bill(more_output)(folder)
    done = cli(folder, env, "--bill", "bill.json")
    assert done.returncode == 4 and run_id in done.stdout and "1 differences" in done.stdout, done.stdout + done.stderr
    again = cli(folder, env)  # looks at no bill: what the last one found of it stands
    assert again.returncode == 0, again.stdout + again.stderr
    told = asyncio.run(latest_drift(folder))
    assert told["bill_differs"] == 1 and sum(told.values()) == 1


async def latest_drift(folder: Path) -> Mapping[str, int]:
    reader = open_reader(folder / "agentobs.db")
    try:
        return await reader.drift()
    finally:
        await reader.close()


# ---- the provider's usage report ----


def report(books: Books, more: int = 0) -> dict[str, Any]:
    """As the Admin API would tell the bill: one day, by model."""
    day = datetime.fromtimestamp(books.bill[0].at_ns // 10**9, UTC).replace(hour=0, minute=0, second=0)
    results: dict[str, dict[str, Any]] = {}
    for line in books.bill:
        if line.model is None:
            continue
        one = results.setdefault(
            line.model,
            {
                "model": line.model, "uncached_input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            },
        )  # fmt: skip
        one["uncached_input_tokens"] += line.usage["input_uncached"]
        one["output_tokens"] += line.usage["output"]
        one["cache_read_input_tokens"] += line.usage["cache_read"]
        one["cache_creation"]["ephemeral_5m_input_tokens"] += line.usage["cache_write"]
    inexact = {row["model"] for row in books.journal.attempts if row["usage"] != "exact"}
    changed = next(iter(results)) if more < 0 else next((name for name in results if name not in inexact), None)
    if changed is not None:
        results[changed]["uncached_input_tokens"] += more
    end = datetime.fromtimestamp(day.timestamp() + 2 * 86_400, UTC)  # whatever the time of day
    times = {"starting_at": day.isoformat(), "ending_at": end.isoformat()}
    return {"data": [times | {"results": [*results.values()]}], "has_more": False, "next_page": None}


@pytest.mark.parametrize(("more", "kinds"), [(0, set()), (-50_000, {"usage_report"})])
def test_a_usage_report_is_compared_by_model(kept: Kept, tmp_path: Path, more: int, kinds: set[str]) -> None:
    folder = copied(kept.clean, tmp_path)
    (folder / "bill.json").write_text(json.dumps(report(kept.books, more)))
    found = audited(folder)
    assert {kind for kind, count in found.drift.items() if count} == kinds, found
    assert found.compared["usage_report"] >= 12 and "bill_unknown" not in found.drift


# ---- what it refuses ----


def test_without_journal_or_bill_it_is_not_reachable(kept: Kept, tmp_path: Path) -> None:
    done = cli(tmp_path, environment(tmp_path, simulator="http://127.0.0.1:9", sink=None))
    assert done.returncode == 3 and "there is no journal" in done.stderr
    for source in ("http://127.0.0.1:9", str(tmp_path / "none.json")):
        with pytest.raises(Unreachable):
            read_statement(source)
    for text in ("{}", "[]", "not JSON", '{"requests": [{"request_id": 1}]}', '{"data": [{}]}'):
        (tmp_path / "bill").write_text(text)
        with pytest.raises(UsageError):
            read_statement(str(tmp_path / "bill"))


def test_a_result_that_the_owner_does_not_take_is_shown_all_the_same(kept: Kept, tmp_path: Path) -> None:
    folder = copied(kept.clean, tmp_path)
    env = kept.env | {
        "AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}",
        "AGENTOBS_URL": "http://127.0.0.1:9",
    }
    lock = LockFile(folder / "agentobs.db")
    lock.acquire("somebody")
    try:
        done = cli(folder, env)
    finally:
        lock.release()
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the books agree" in done.stdout and "not recorded: no service answers" in done.stderr


# ---- at today's prices ----


def test_reprice_tells_the_costs_by_model_and_changes_nothing(kept: Kept, tmp_path: Path) -> None:
    folder = copied(kept.clean, tmp_path)
    env = kept.env | {"AGENTOBS_DATABASE_URL": f"sqlite:///{folder / 'agentobs.db'}"}
    sql(folder, "UPDATE attempts SET cost_pico = 2 * cost_pico WHERE cost_pico > 0")
    before = (folder / "agentobs.db").read_bytes()
    done = cli(folder, env, "--reprice", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    total = told["total"]
    recorded, today = float(total["recorded_usd"]), float(total["today_usd"])
    assert recorded == pytest.approx(2 * today) and today > 0
    assert total["attempts"] == len(kept.books.journal.attempts) and total["unpriced_today"] > 0
    assert (folder / "agentobs.db").read_bytes() == before
    assert cli(folder, env, "--reprice", "--bill", "bill.json").returncode == 2
