"""Following a run over HTTP: the stream on a real server, `Prefer: wait`, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import httpx2
import pytest

from agentobs.api.app import create_app
from agentobs.api.live import Hub
from agentobs.api.prefer import MAX_WAIT_S, wait_s
from agentobs.api.views import event as view
from tests.engine_kit import ScriptedModel, engine_on, ok
from tests.integration.test_api import problem, serving
from tests.integration.test_events import fails_at_last, flaky, read_all, registry

RUN = {"workflow": "busy"}


class Behind:
    """A `ServicePort` on an engine."""

    def __init__(self, kit) -> None:
        self.kit = kit
        self.registry = registry()
        self.reader = kit.journal
        self.live = Hub(kit.journal)
        self.submit = kit.engine.submit
        self.resume = kit.engine.resume
        self.cancel = kit.engine.cancel
        kit.journal.subscribe(self.live.observe)

    def followers(self) -> int:
        return sum(map(len, self.live._watches.values()))


@asynccontextmanager
async def served(tmp_path, script=flaky, *, key=None, **more):
    async with engine_on(tmp_path / "journal.db", registry(), ScriptedModel(script), **more) as kit:
        behind = Behind(kit)
        async with serving(create_app(behind, api_key=key)) as port:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                yield behind, http
            behind.live.stop()


async def stream(http, run_id: str, after: int | None = None, cut: int = 10_000):
    """(id, event, data) of a stream, cut off after so many."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    got = []
    async with http.sse(f"/v1/runs/{run_id}/events", headers=headers) as source:
        assert source.response.status_code == 200
        async for sent in source:
            got.append((int(sent.id), sent.event, sent.json()))
            if len(got) == cut:
                break
    return got


async def test_cut_off_at_every_event_a_client_has_them_all_once(tmp_path, caplog):
    async with served(tmp_path, calls=2) as (behind, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        got = await stream(http, run_id, cut=1)
        while got[-1][1] != "run.ended":
            got += await stream(http, run_id, got[-1][0], cut=1)
        events, _ = await read_all(behind.kit.journal, run_id)
        assert got == [(event.seq, *json.loads(json.dumps(view(event)))) for event in events]
        assert await stream(http, run_id) == got
        assert await stream(http, run_id, got[-1][0]) == []
        await behind.kit.until(lambda: behind.followers() == 0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_resumed_run_is_followed_to_its_new_end(tmp_path):
    async with served(tmp_path, fails_at_last) as (_, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        first = await stream(http, run_id)
        assert first[-1][2]["status"] == "failed"
        assert (await http.post(f"/v1/runs/{run_id}/resume")).status_code == 202
        rest = await stream(http, run_id, first[-1][0])
        assert rest[0][1:] == ("execution.started", rest[0][2])
        assert rest[0][2]["reason"] == "resumed"
        assert rest[-1][2]["status"] == "succeeded"
        assert await stream(http, run_id) == first + rest


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "1e3", "0x1", "9" * 30, "\u0663"])
async def test_a_last_event_id_that_is_none_is_refused(tmp_path, given):
    async with served(tmp_path, start=False) as (_, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        headers = [(b"Last-Event-ID", given.encode())]
        problem(await http.get(f"/v1/runs/{run_id}/events", headers=headers), 400, "bad-request")


async def test_an_event_that_the_run_does_not_have_yet_cannot_be_the_last(tmp_path):
    async with served(tmp_path, start=False) as (_, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        answer = await http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "2"})
        assert "so far is 1" in problem(answer, 400, "bad-request")["detail"]


async def test_an_unknown_run_is_a_problem_and_head_does_not_wait(tmp_path):
    async with served(tmp_path, start=False) as (_, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        unknown = "/v1/runs/01930000-0000-7abc-8def-0123456789ab/events"
        problem(await http.get(unknown), 404, "not-found")
        assert (await http.head(unknown)).status_code == 404
        async with asyncio.timeout(20):
            answer = await http.head(f"/v1/runs/{run_id}/events")  # queued: a GET would wait for its end
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_the_stream_asks_for_the_key(tmp_path):
    async with served(tmp_path, key="a-key-of-sixteen-characters") as (_, http):
        path = "/v1/runs/01930000-0000-7abc-8def-0123456789ab/events"
        problem(await http.get(path), 401, "unauthorized")
        problem(await http.get(path, headers={"Host": "evil.example"}), 421, "host-not-allowed")


async def test_clients_that_go_away_leave_nothing_behind(tmp_path):
    async with served(tmp_path, start=False) as (behind, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        before = len(asyncio.all_tasks())
        clients = [asyncio.create_task(stream(http, run_id)) for _ in range(20)]
        waiting = [
            asyncio.create_task(http.post("/v1/runs", json=RUN, headers={"Prefer": "wait=600"})) for _ in range(20)
        ]
        await behind.kit.until(lambda: behind.followers() == 40)
        for client in clients + waiting:
            client.cancel()
        await asyncio.wait(clients + waiting)
        await behind.kit.until(lambda: behind.followers() == 0)
        await behind.kit.until(lambda: len(asyncio.all_tasks()) <= before)
        assert behind.live._rounds is None


async def test_an_idle_stream_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    async with served(tmp_path, start=False) as (_, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        async with http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
            lines = answer.aiter_lines()
            async with asyncio.timeout(20):
                while await anext(lines) != ": ping":
                    pass


async def test_a_stop_lets_the_server_end(tmp_path):
    async with served(tmp_path, start=False) as (behind, http):
        run_id = (await http.post("/v1/runs", json=RUN)).json()["id"]
        client = asyncio.create_task(stream(http, run_id))
        waiting = asyncio.create_task(http.post("/v1/runs", json=RUN, headers={"Prefer": "wait=600"}))
        await behind.kit.until(lambda: behind.followers() == 2)
        behind.live.stop()
        async with asyncio.timeout(20):
            assert [name for _, name, _ in await client] == ["run.accepted"]
            assert (await waiting).status_code == 202


# ---- Prefer: wait ----


async def test_who_waits_gets_the_end(tmp_path):
    async with served(tmp_path) as (_, http):
        answer = await http.post("/v1/runs", json=RUN, headers={"Prefer": "respond-async, wait=50"})
        assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=50")
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["Location"] == f"/v1/runs/{answer.json()['id']}"
        assert answer.json() == (await http.get(f"{answer.headers['Location']}/summary")).json()


async def test_who_has_waited_long_enough_is_told_that_it_is_accepted(tmp_path):
    async with served(tmp_path, start=False) as (behind, http):
        answer = await http.post("/v1/runs", json=RUN, headers={"Prefer": "wait=1"})
        assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
        assert answer.json()["status"] == "queued"
        assert await behind.kit.journal.run(answer.json()["id"]) is not None
        assert behind.followers() == 0


async def test_a_repeated_request_waits_for_the_same_run(tmp_path):
    go = asyncio.Event()

    async def held(call, n):
        await go.wait()
        return ok("fine")

    async with served(tmp_path, held) as (behind, http):
        key = {"Idempotency-Key": "k"}
        first = await http.post("/v1/runs", json=RUN, headers=key | {"Prefer": "wait=0"})
        assert first.status_code == 202
        again = asyncio.create_task(http.post("/v1/runs", json=RUN, headers=key | {"Prefer": "wait=50"}))
        await behind.kit.until(lambda: behind.followers() == 1)
        go.set()
        ended = await again
        assert (ended.status_code, ended.json()["status"]) == (200, "succeeded")
        assert ended.json()["id"] == first.json()["id"]
        once_more = await http.post("/v1/runs", json=RUN, headers=key | {"Prefer": "wait=50"})
        assert (once_more.status_code, once_more.json()) == (200, ended.json())


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (["wait=60"], 60),
        (["WAIT = 60"], 60),
        (['wait="60"'], 60),
        (["respond-async, wait=5;foo=bar"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5, wait=6"], 5),
        (["wait=100000"], MAX_WAIT_S),
        (["wait=0"], 0),
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (['wait="60'], None),
        (["waiting=60"], None),
        (["return=minimal"], None),
        (["wait=\u0663"], None),
    ],
)
def test_a_wish_to_wait_is_read_as_the_rfc_has_it(given, seconds):
    assert wait_s(given) == seconds
