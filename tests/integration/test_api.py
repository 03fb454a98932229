"""The HTTP API in front of a service that lives in memory: what it takes, answers, refuses and never repeats."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import httpx2
import pytest
import uvicorn
from pydantic import BaseModel

from agentobs.agents import Agent
from agentobs.api.__main__ import document
from agentobs.api.app import create_app
from agentobs.api.guard import ENVELOPE_BYTES
from agentobs.api.live import Hub
from agentobs.api.schemas import to_cursor
from agentobs.drift import Audit
from agentobs.encoding import encode
from agentobs.errors import Conflict, InvalidInput, JournalUnavailable, NotFound, QueueFull
from agentobs.journal.protocol import Events, RunDetail, RunQuery, Submitted
from agentobs.records import CANCELLED, NS, TERMINAL, Run, Step, new_run_id
from agentobs.telemetry import names
from agentobs.workflows import Registry, declare

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-XYZZY"
KEY = "correct-horse-battery-staple"
LIMIT = 10_000
AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Article(BaseModel, extra="forbid"):
    goal: str


async def article(run, order: Article) -> str:
    """Write one."""
    return order.goal


async def anything(run, order) -> None: ...


class MemoryService:
    """A `ServicePort` and its `Reader`, with a clock that moves one second a run."""

    def __init__(self) -> None:
        self.details_by_id: dict[str, RunDetail] = {}
        self.registry = Registry()
        self.registry.add(declare(article, agents=[Agent(name="writer", model="claude-x")], version="2026-11"))
        self.registry.add(declare(anything))
        self.reader = self
        self.live = Hub(self)
        self.reasons: list[str] = []
        self.failure: Exception | None = None
        self.queries: list[RunQuery] = []
        self.audits: list[Audit] = []

    async def submit(self, workflow, input, *, tags, idempotency_key, traceparent) -> Submitted:
        if self.failure:
            raise self.failure
        self.registry[workflow].parse(input)
        stored = encode(input, "input")
        if len(stored) > LIMIT:
            raise InvalidInput(f"the input has {len(stored)} bytes, at most {LIMIT} are taken", too_large=True)
        for found in self.details_by_id.values():
            if idempotency_key is not None and found.run.idempotency_key == idempotency_key:
                if (found.run.input, found.run.tags) != (stored, encode(tags, "tags")):
                    raise Conflict("this idempotency key was used with another body; use a new key")
                return Submitted(found.run, created=False)
        created_ms = AT_MS + 1000 * len(self.details_by_id)
        run = Run(
            id=new_run_id(created_ms, bytes(10)),
            workflow=workflow,
            version="1",
            input=stored,
            tags=encode(tags, "tags"),
            idempotency_key=idempotency_key,
            traceparent=traceparent,
            created_at=created_ms * 1_000_000,
        )
        self.details_by_id[run.id] = RunDetail(run=run)
        return Submitted(run, created=True)

    async def cancel(self, run_id: str) -> Run:
        if run_id not in self.details_by_id:
            raise NotFound(f"there is no run {run_id}")
        if self.details_by_id[run_id].run.status in TERMINAL:
            raise Conflict(f"run {run_id} has ended already")
        self.change(run_id, status=CANCELLED, error_type="cancelled", ended_at=AT_MS * 1_000_000 + 9 * NS)
        return self.details_by_id[run_id].run

    async def record_audit(self, audit) -> int:
        self.audits.append(audit)
        return len(self.audits)

    def change(self, run_id: str, **fields) -> None:
        detail = self.details_by_id[run_id]
        self.details_by_id[run_id] = replace(detail, run=replace(detail.run, **fields))

    def readiness(self) -> list[str]:
        return self.reasons

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        if "openmetrics" in accept:
            return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return b"up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def detail(self, run_id: str, *, content: bool = True) -> RunDetail | None:
        if self.failure:
            raise self.failure
        return self.details_by_id.get(run_id)

    async def events(self, run_id: str, after: int, *, limit: int = 100) -> Events | None:
        detail = self.details_by_id.get(run_id)
        return detail and Events(over=detail.run.status in TERMINAL, last_seq=detail.run.seq)

    async def details(self, query: RunQuery) -> list[RunDetail]:
        self.queries.append(query)
        newest = sorted(self.details_by_id.values(), key=lambda detail: detail.run.id, reverse=True)
        return [found for found in newest if query.before is None or found.run.id < query.before][: query.limit]


@pytest.fixture
def service():
    return MemoryService()


@asynccontextmanager
async def calling(app, **options) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", **options) as client:
        yield client


@pytest.fixture
async def api(service):
    async with calling(create_app(service, max_input_bytes=LIMIT)) as client:
        yield client


@asynccontextmanager
async def serving(app) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def problem(answer: httpx2.Response, status: int, kind: str) -> dict:
    """The answer is exactly this problem, and repeats no secret."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    shown = answer.json()
    assert shown["type"] == f"urn:agentobs:problem:{kind}"
    assert shown["status"] == status
    assert shown["title"]
    assert shown["detail"]
    assert set(shown) <= {"type", "title", "status", "detail", "errors"}
    assert SECRET not in answer.text
    return shown


ORDER = {"workflow": "article", "input": {"goal": "otters"}}


async def submit(api, **changes) -> str:
    answer = await api.post("/v1/runs", json=ORDER | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


# ---- submitting ----


async def test_an_accepted_run_is_answered_with_its_summary_and_its_place(api, service):
    answer = await api.post("/v1/runs", json=ORDER | {"tags": {"team": "docs"}})
    assert answer.status_code == 202
    shown = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{shown['id']}"
    assert (shown["workflow"], shown["status"], shown["tags"]) == ("article", "queued", {"team": "docs"})
    assert json.loads(service.details_by_id[shown["id"]].run.input) == {"goal": "otters"}
    followed = await api.get(answer.headers["location"])
    assert followed.json()["input"] == {"goal": "otters"}


async def test_the_same_key_and_body_again_answer_200_and_the_same_run_as_it_is_now(api, service):
    first = await api.post("/v1/runs", json=ORDER, headers={"Idempotency-Key": "k"})
    service.change(first.json()["id"], status="running")
    again = await api.post("/v1/runs", json=ORDER, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["status"] == "running"
    assert again.headers["location"] == first.headers["location"]


async def test_the_same_key_with_another_body_is_a_conflict(api):
    await api.post("/v1/runs", json=ORDER, headers={"Idempotency-Key": "k"})
    other = ORDER | {"input": {"goal": SECRET}}
    problem(await api.post("/v1/runs", json=other, headers={"Idempotency-Key": "k"}), 409, "conflict")


async def test_a_callers_traceparent_is_kept_and_a_malformed_one_ignored(api, service):
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for header, kept in ((good, good), ("00-nonsense", None)):
        answer = await api.post("/v1/runs", json=ORDER, headers={"traceparent": header})
        assert service.details_by_id[answer.json()["id"]].run.traceparent == kept


async def test_a_wish_to_wait_is_not_in_the_way(api):
    answer = await api.post("/v1/runs", json=ORDER, headers={"Prefer": "respond-async, wait=0"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert answer.headers["Location"] == f"/v1/runs/{answer.json()['id']}"


async def test_an_unknown_workflow_is_refused(api):
    shown = problem(await api.post("/v1/runs", json={"workflow": "nope", "input": SECRET}), 404, "unknown-workflow")
    assert "nope" in shown["detail"]


async def test_an_input_that_does_not_fit_is_refused_with_the_field_and_without_its_value(api):
    shown = problem(await api.post("/v1/runs", json=ORDER | {"input": {"goal": [SECRET]}}), 422, "invalid-input")
    assert shown["errors"] == [{"location": "body.input.goal", "detail": "string_type"}]


async def test_a_missing_input_is_refused_where_the_workflow_wants_one(api):
    problem(await api.post("/v1/runs", json={"workflow": "article"}), 422, "invalid-input")


async def test_an_input_that_the_service_finds_too_large_is_refused(api):
    problem(await api.post("/v1/runs", json=ORDER | {"input": {"goal": SECRET * 1000}}), 413, "too-large")


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(api):
    body = json.dumps(ORDER | {"input": {"goal": SECRET + "x" * (LIMIT + ENVELOPE_BYTES)}})
    problem(await api.post("/v1/runs", content=body, headers={"Content-Type": "application/json"}), 413, "too-large")


@pytest.mark.parametrize(
    "body", [b'{"workflow": "' + SECRET.encode(), b"\xff\xfe{}", b"[" * 100_000, b"9" * 5000, b"not json"]
)
async def test_malformed_json_is_refused(service, body):
    async with calling(create_app(service, max_input_bytes=1_000_000)) as api:
        answer = await api.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed-json")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_a_body_of_another_type_is_refused(api, kind):
    headers = {"Content-Type": kind} if kind else {}
    problem(await api.post("/v1/runs", content=json.dumps(ORDER).encode(), headers=headers), 415,
            "unsupported-media-type")  # fmt: skip


async def test_a_missing_body_is_refused(api):
    assert problem(await api.post("/v1/runs"), 422, "invalid-request")["errors"][0]["location"] == "body"


async def test_an_unknown_field_of_the_body_is_refused(api):
    shown = problem(await api.post("/v1/runs", json=ORDER | {"inputs": SECRET}), 422, "invalid-request")
    assert shown["errors"] == [{"location": "body.inputs", "detail": "unknown; leave it out"}]


async def test_a_field_whose_name_is_text_is_refused_without_repeating_it(api):
    shown = problem(await api.post("/v1/runs", json=ORDER | {f"tell me {SECRET}": 1}), 422, "invalid-request")
    assert shown["errors"][0]["location"] == "body.?"


@pytest.mark.parametrize("body", [[SECRET], SECRET, 7, None])
async def test_a_body_that_is_no_object_is_refused(api, body):
    problem(await api.post("/v1/runs", json=body), 422, "invalid-request")


async def test_a_missing_workflow_is_refused(api):
    shown = problem(await api.post("/v1/runs", json={"input": SECRET}), 422, "invalid-request")
    assert shown["errors"] == [{"location": "body.workflow", "detail": "missing"}]


@pytest.mark.parametrize(
    "tags",
    [
        {str(number): "x" for number in range(21)},
        {"k" * 65: SECRET},
        {"": SECRET},
        {"k": SECRET * 40},
        {"a:b": SECRET},
        {"k": 7},
        {"k": None},
        [SECRET],
    ],
)
async def test_tags_beyond_their_limits_are_refused(api, tags):
    shown = problem(await api.post("/v1/runs", json=ORDER | {"tags": tags}), 422, "invalid-request")
    assert shown["errors"][0]["location"].startswith("body.tags")


async def test_tags_at_their_limits_are_taken(api):
    await submit(api, tags={f"{number:064}": "é" * 256 for number in range(20)})


@pytest.mark.parametrize("key", ["two words", "k" * 256, "\xe9", ""])
async def test_an_idempotency_key_of_other_than_visible_ascii_is_refused(api, key):
    answer = await api.post("/v1/runs", json=ORDER, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert problem(answer, 422, "invalid-request")["errors"][0]["location"] == "header.Idempotency-Key"


async def test_a_full_queue_is_said_with_when_to_come_back(api, service):
    service.failure = QueueFull("100000 runs are queued, at most 100000 are taken; try again later")
    answer = await api.post("/v1/runs", json=ORDER)
    problem(answer, 429, "queue-full")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_journal_in_trouble_is_said_with_the_reason_and_when_to_come_back(api, service):
    service.failure = JournalUnavailable("the disk is full")
    answer = await api.post("/v1/runs", json=ORDER)
    assert problem(answer, 503, "journal-unavailable")["detail"] == "the disk is full"
    assert int(answer.headers["retry-after"]) > 0


async def test_nuls_come_out_as_they_went_in(api):
    body = b'{"workflow":"anything","input":"\\u0000"}'
    answer = await api.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    shown = await api.get(answer.headers["location"])
    assert shown.json()["input"] == "\x00"


async def test_a_number_that_is_none_is_refused(api):
    body = b'{"workflow":"anything","input":NaN}'
    answer = await api.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, "usage")


async def test_stored_text_of_any_kind_can_be_shown(api, service):
    run_id = await submit(api)
    service.change(run_id, input='{"goal":"\\ud800\\u0000"}', output='"\\udfff"')
    answer = await api.get(f"/v1/runs/{run_id}")
    assert b'"output":"\\udfff"' in answer.content
    assert answer.json()["input"] == {"goal": "\ud800\x00"}


# ---- reading ----


async def test_runs_are_listed_newest_first_in_pages(api):
    ids = [await submit(api) for _ in range(5)]
    seen, cursor, pages = [], None, 0
    while True:
        answer = await api.get("/v1/runs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        assert set(answer.json()) == {"runs", "next_cursor"}
        seen += [run["id"] for run in answer.json()["runs"]]
        pages += 1
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert pages == 3


async def test_a_last_page_that_is_full_has_no_next(api):
    for _ in range(2):
        await submit(api)
    assert (await api.get("/v1/runs", params={"limit": 2})).json()["next_cursor"] is None


async def test_every_filter_reaches_the_journal(api, service):
    run_id = await submit(api)
    answer = await api.get(
        "/v1/runs",
        params={
            "workflow": "article",
            "status": "failed",
            "error_type": "rate_limited",
            "tag": "team:docs:x",
            "since": "2026-01-01T01:00:00+01:00",
            "until": "2026-01-02",
            "limit": "7",
            "cursor": to_cursor(run_id),
        },
    )
    assert answer.status_code == 200
    assert service.queries[-1] == RunQuery(
        workflow="article",
        status="failed",
        error_type="rate_limited",
        tag=("team", "docs:x"),
        since_ms=AT_MS,
        until_ms=AT_MS + 86_400_000,
        before=run_id,
        limit=8,
    )


async def test_a_plus_that_was_not_encoded_is_still_a_time_zone(api, service):
    assert (await api.get("/v1/runs?since=2026-01-01T01:00:00+01:00")).status_code == 200
    assert service.queries[-1].since_ms == AT_MS


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=many",
        "status=done",
        "error_type=boom",
        f"since={SECRET}",
        "until=0001-01-01T00:00:00%2B05:00",
        "tag=team",
        "tag=:x",
        f"stauts={SECRET}",
    ],
)
async def test_a_filter_that_is_none_is_refused(api, query):
    shown = problem(await api.get(f"/v1/runs?{query}"), 422, "invalid-request")
    assert shown["errors"][0]["location"] == f"query.{query.partition('=')[0]}"


@pytest.mark.parametrize(
    "cursor",
    [
        SECRET,
        "",
        "AAAA",
        "é",
        "x" * 5000,
        urlsafe_b64encode(b"\x02" + bytes(16)).decode(),
        to_cursor(new_run_id(1, bytes(10)))[:-1],
    ],
)
async def test_a_cursor_that_is_none_of_ours_is_refused(api, cursor):
    problem(await api.get("/v1/runs", params={"cursor": cursor}), 400, "bad-request")


async def test_the_summary_alone_is_the_detail_without_its_content(api, service):
    run_id = await submit(api)
    step = Step(run_id=run_id, number=1, execution=1, key="k", kind="function", name="f", started_at=0, seq=2)
    service.details_by_id[run_id] = replace(service.details_by_id[run_id], steps=(step,))
    summary = (await api.get(f"/v1/runs/{run_id}/summary")).json()
    detail = (await api.get(f"/v1/runs/{run_id}")).json()
    assert summary["steps"] == 1
    assert detail["steps"][0]["name"] == "f"
    more = {"input", "output", "error_detail", "executions", "forked_from", "forked_to"}
    assert set(detail) - set(summary) == more
    assert {name: detail[name] for name in summary if name != "steps"} == {
        name: value for name, value in summary.items() if name != "steps"
    }


async def test_a_run_is_found_by_its_trace_id_too(api):
    run_id = await submit(api)
    assert (await api.get(f"/v1/runs/{run_id.replace('-', '')}")).json()["id"] == run_id


@pytest.mark.parametrize("path", ["/v1/runs/{}", "/v1/runs/{}/summary"])
@pytest.mark.parametrize("run_id", [SECRET, "0", "00000000-0000-0000-0000-00000000000g", new_run_id(1, bytes(10))])
async def test_an_id_of_no_run_is_not_found(api, path, run_id):
    problem(await api.get(path.format(run_id)), 404, "not-found")


async def test_the_workflows_are_listed_with_their_schemas_and_models(api):
    assert (await api.get("/v1/workflows")).json() == {
        "workflows": [
            {"name": "anything", "version": None, "description": "", "input_schema": {}, "agents": []},
            {
                "name": "article",
                "version": "2026-11",
                "description": "Write one.",
                "input_schema": Article.model_json_schema(),
                "agents": [{"name": "writer", "model": "claude-x"}],
            },
        ]
    }


# ---- cancelling ----


async def test_cancelling_answers_202_and_the_run(api):
    run_id = await submit(api)
    answer = await api.post(f"/v1/runs/{run_id}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["id"], answer.json()["status"]) == (run_id, "cancelled")


async def test_cancelling_what_has_ended_is_a_conflict_and_what_never_was_is_not_found(api):
    run_id = await submit(api)
    await api.post(f"/v1/runs/{run_id}/cancel")
    problem(await api.post(f"/v1/runs/{run_id}/cancel"), 409, "conflict")
    problem(await api.post(f"/v1/runs/{new_run_id(1, bytes(10))}/cancel"), 404, "not-found")
    problem(await api.post(f"/v1/runs/{SECRET}/cancel"), 404, "not-found")


# ---- operation ----


async def test_health_says_alive_and_readiness_says_why_not(api, service):
    assert (await api.get("/healthz")).json() == {"status": "alive"}
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    service.reasons = ["the journal cannot be written: disk full"]
    not_ready = await api.get("/readyz")
    assert not_ready.status_code == 503
    assert not_ready.json() == {"status": "not ready", "reasons": ["the journal cannot be written: disk full"]}
    assert (await api.get("/healthz")).status_code == 200


async def test_metrics_come_in_the_format_that_was_asked_for(api):
    plain = await api.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    asked = await api.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.content == b"# EOF\n"


async def test_a_path_that_is_none_and_a_method_that_is_not_possible_are_problems(api):
    problem(await api.get(f"/v2/{SECRET}"), 404, "no-such-path")
    problem(await api.get("/v1/runs/"), 404, "no-such-path")
    answer = await api.delete("/v1/runs")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"


async def test_an_unexpected_exception_shows_its_text_to_nobody(api, service, caplog):
    service.failure = RuntimeError(SECRET)
    with caplog.at_level(logging.DEBUG):
        problem(await api.get(f"/v1/runs/{new_run_id(1, bytes(10))}"), 500, "internal")
    assert SECRET not in caplog.text
    (line,) = [one for one in caplog.records if one.msg == "request.failed"]
    assert line.msg in names.EVENTS  # which are logged with their fields; of other messages only the text is
    assert line.error_class == "RuntimeError"
    assert re.fullmatch(r"\S*test_api:\d+", line.place)


async def test_answers_are_not_cached_and_not_sniffed(api):
    for path in ("/v1/runs", "/healthz", "/nope"):
        headers = (await api.get(path)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


# ---- audits ----

AUDIT = {
    "at": 1_764_000_000_000_000_000,
    "took_ns": 5,
    "compared": {"totals": 3},
    "drift": {"totals": 1},
    "findings": [{"kind": "totals", "text": "one too many", "run_ids": ["r"]}],
    "remarks": ["said"],
}


async def test_an_audits_result_is_taken_as_it_was_told(api, service):
    answer = await api.post("/v1/audits", json=AUDIT)
    assert (answer.status_code, answer.json()) == (201, {"id": 1})
    (taken,) = service.audits
    assert json.loads(json.dumps(asdict(taken))) == AUDIT


@pytest.mark.parametrize(
    "wrong",
    [
        {"drift": {"spelled wrong": 1}},
        {"drift": {"totals": -1}},
        {"at": "yesterday"},
        {"findings": [{"kind": "run-42", "text": ""}]},
        {"findings": [{"kind": "totals", "text": "x" * 401}]},
        {"findings": [{"kind": "totals", "text": "", "run_ids": ["r"] * 6}]},
        {"more": 1},
    ],
)
async def test_what_is_no_audit_is_refused_and_kinds_are_a_closed_set(api, service, wrong):
    answer = await api.post("/v1/audits", json=AUDIT | wrong)
    assert answer.status_code == 422 and not service.audits


async def test_a_page_of_another_origin_cannot_record_an_audit(api, service):
    answer = await api.post("/v1/audits", json=AUDIT, headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403 and not service.audits


# ---- documents ----


async def test_the_readable_docs_name_every_call_and_load_nothing(api):
    answer = await api.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", answer.text)
    for path in (await api.get("/openapi.json")).json()["paths"]:
        assert path in answer.text


async def test_every_error_in_the_openapi_document_is_a_problem(api):
    shown = (await api.get("/openapi.json")).json()
    for path, operations in shown["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (path, status)
    assert "HTTPValidationError" not in shown["components"]["schemas"]


@pytest.mark.generated
def test_the_committed_openapi_document_is_what_the_code_generates():
    committed = (ROOT / "docs" / "openapi.json").read_text()
    assert committed == document(), "run: python -m agentobs.api > docs/openapi.json"


# ---- who may call: Host, Origin, key ----


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST.", "127.0.0.1:1", "127.8.8.8", "[::1]:8080"]
)
async def test_loopback_names_are_answered(api, host):
    assert (await api.get("/v1/runs", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "a@localhost", "::1"]
)
async def test_any_other_host_is_refused(api, host):
    problem(await api.get("/v1/runs", headers={"Host": host}), 421, "host-not-allowed")


async def test_a_listed_host_is_answered_on_any_port(service):
    async with calling(create_app(service, allowed_hosts=["obs.example", "[fd00::7]"])) as api:
        for host in ("obs.example", "OBS.example:443", "obs.example.", "[fd00::7]:80"):
            assert (await api.get("/v1/runs", headers={"Host": host})).status_code == 200, host
        problem(await api.get("/v1/runs", headers={"Host": "x.obs.example"}), 421, "host-not-allowed")


async def test_two_host_headers_or_none_are_refused(service):
    for hosts in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/v1/runs", "query_string": b"", "headers": hosts}
        await create_app(service)(scope, None, send)
        assert sent[0]["status"] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_an_unsafe_call_from_another_origin_is_refused_and_has_no_effect(api, service, headers):
    problem(await api.post("/v1/runs", json=ORDER, headers=headers), 403, "origin-not-allowed")
    assert not service.details_by_id


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_an_unsafe_call_from_the_same_origin_or_from_no_page_is_taken(api, headers):
    assert (await api.post("/v1/runs", json=ORDER, headers=headers)).status_code == 202


async def test_reading_is_possible_from_a_link_on_another_site(api):
    assert (await api.get("/v1/runs", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200


@pytest.fixture
async def locked(service):
    async with calling(create_app(service, api_key=KEY)) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/workflows", "/metrics", "/docs", "/openapi.json", "/nope"])
async def test_with_a_key_every_call_but_health_wants_it(locked, path):
    answer = await locked.get(path)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="agentobs"'
    answer = await locked.get(path, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == (404 if path == "/nope" else 200)


@pytest.mark.parametrize(
    "value", ["Bearer wrong", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xe9"]
)
async def test_a_wrong_key_is_refused(locked, value):
    answer = await locked.get("/v1/runs", headers=[(b"Authorization", value.encode("latin-1"))])
    shown = problem(answer, 401, "unauthorized")
    assert KEY not in json.dumps(shown)
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_health_needs_no_key(locked):
    assert (await locked.get("/healthz")).status_code == 200
    assert (await locked.get("/readyz")).status_code == 200


async def test_a_key_does_not_make_another_host_or_origin_good(locked):
    headers = {"Authorization": f"Bearer {KEY}"}
    problem(await locked.get("/v1/runs", headers=headers | {"Host": "evil.example"}), 421, "host-not-allowed")
    answer = await locked.post("/v1/runs", json=ORDER, headers=headers | {"Origin": "https://evil.example"})
    problem(answer, 403, "origin-not-allowed")


# ---- over a real connection ----


async def test_a_chunked_body_beyond_the_limit_is_refused(service):
    async def chunks():
        yield b'{"workflow": "article", "input": {"goal": "'
        for _ in range(40):
            yield b"x" * 10_000

    async with serving(create_app(service, max_input_bytes=LIMIT)) as port, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/v1/runs"
        answer = await client.post(url, content=chunks(), headers={"Content-Type": "application/json"})
        problem(answer, 413, "too-large")
        assert (await client.post(url, json=ORDER)).status_code == 202


async def test_an_oversize_body_gets_its_answer_although_it_is_not_read(service):
    async with serving(create_app(service, max_input_bytes=LIMIT)) as port, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/v1/runs"
        answer = await client.post(url, json=ORDER | {"input": {"goal": "x" * 1_000_000}})
        problem(answer, 413, "too-large")


async def test_health_answers_head_requests(service):
    async with serving(create_app(service)) as port, httpx2.AsyncClient() as client:
        answer = await client.head(f"http://localhost:{port}/healthz")
        assert answer.status_code == 200
        assert answer.content == b""


async def test_fastapi_exports_nothing_of_its_own_whatever_the_environment_says(service, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    app = create_app(service)
    assert not app._native_telemetry.enabled()
    assert app._telemetry["auto_configure"] is False


async def test_an_origin_that_is_no_url_is_refused_like_any_other(api):
    answer = await api.post("/v1/runs", json={}, headers={"Origin": "http://[::1"})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
