"""Marked secrets, where to look for them, and a provider that puts them into everything that it answers.

A secret is one word of small letters, so that no encoding changes it and the simulator hands it on in its answers.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.acceptance.harness import World


def secret(of: str) -> str:
    """A word that is nowhere else; `of` says in it where it was put."""
    return "canary" + of + "".join(random.choices("bcdfghjklmnpqrstvwxz", k=10))


def found(secrets: Mapping[str, str], shown: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Which secret stands in what was shown where: pairs of their names, with what is around it on stdout."""
    leaks = set()
    for place, text in shown.items():
        for name, word in secrets.items():
            at = text.lower().find(word.encode())
            if at >= 0:
                print(f"LEAK of {name} in {place}: …{text[max(0, at - 200) : at + 100]!r}…")
                leaks.add((name, place))
    return leaks


def shown(here: World) -> dict[str, bytes]:
    """Everything of a service that is not the journal and not a run's content, as bytes."""
    service = here.service

    def got(path: str, accept: str = "*/*") -> bytes:
        return service.call("GET", path, headers={"Accept": accept}).content

    summaries = [got(f"/v1/runs/{one['id']}/summary") for one in service.summaries()]
    metrics = got("/metrics", "text/plain") + got("/metrics", "application/openmetrics-text; version=1.0.0")
    assert b"trace_id" in metrics, "exemplars are looked at too"
    listed = got("/v1/runs?limit=200") + got("/v1/workflows") + got("/openapi.json")
    with here.sink._lock:
        spans = [span.raw for request in here.sink.requests for span in request.spans]
    assert spans and service.output
    return {
        "spans": b"\n".join(spans),
        "logs": "\n".join(service.output).encode(),
        "metrics": metrics,
        "summaries": b"\n".join([*summaries, listed]),
    }


# ---- a provider that tells secrets ----

SECRETS: Final = {
    name: secret(name)
    for name in ("prompt", "system", "output", "thought", "body", "header", "event", "protocol", "location")
}
_BODY, _HEADER, _EVENT = SECRETS["body"], SECRETS["header"], SECRETS["event"]
_ERROR = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": f"bad: {_BODY}"}})
_START: Final = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": [],
        "stop_reason": None, "usage": {"input_tokens": 5, "output_tokens": 1},
    },
}  # fmt: skip
_WHOLE: Final = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "stop_reason": "end_turn",
    "content": [
        {"type": "thinking", "thinking": SECRETS["thought"], "signature": "x"},
        {"type": "text", "text": f"So it is: {SECRETS['output']}"},
    ],
    "usage": {"input_tokens": 5, "output_tokens": 7},
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """Raw: status line and headers as given; `length` False leaves the body's length out and closes behind it."""

    status: str
    body: str
    headers: tuple[str, ...] = ("content-type: application/json",)
    length: bool = True

    def raw(self) -> bytes:
        body = self.body.encode()
        own = [f"x-secret: {_HEADER}", f"www-authenticate: Bearer {_HEADER}", *self.headers]
        if self.length:
            own.append(f"content-length: {len(body)}")
        return "\r\n".join([f"HTTP/1.1 {self.status}", *own, "connection: close", "", ""]).encode() + body


def _events(*events: Any) -> str:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts)


def _stream(*events: Any) -> Answer:
    return Answer("200 OK", _events(*events), ("content-type: text/event-stream",), length=False)


_ERROR_EVENT: Final = {"type": "error", "error": {"type": f"{_EVENT}_error", "message": f"oh no {_EVENT}"}}
_JSON: Final = "content-type: application/json"

# By name, which a prompt says to get it. None of them is a sound answer but the last ones.
ANSWERS: Final[dict[str, Answer]] = {
    "status-400": Answer("400 Bad Request", _ERROR),
    "status-400-text": Answer("400 Bad Request", f"plain {_BODY}", ("content-type: text/plain",)),
    "status-400-phrase": Answer(f"400 {_HEADER}", _ERROR),
    "status-401": Answer("401 Unauthorized", _ERROR),
    "status-403": Answer("403 Forbidden", f"<html>{_BODY}</html>", ("content-type: text/html",)),
    "status-404": Answer("404 Not Found", _ERROR),
    "status-413": Answer("413 Payload Too Large", _ERROR),
    "status-429": Answer("429 Too Many", _ERROR, (_JSON, f"retry-after: {_HEADER}", "x-should-retry: false")),
    "status-500": Answer("500 Oops", f"Traceback: {_BODY}", (_JSON, "x-should-retry: false")),
    "status-529": Answer("529 Overloaded", _ERROR, (_JSON, "x-should-retry: false")),
    "redirect": Answer("302 Found", _BODY, (f"location: http://127.0.0.1:9/{SECRETS['location']}",)),
    "bad-json": Answer("200 OK", f'{{"content": "{_BODY}" oops'),
    "json-list": Answer("200 OK", json.dumps([_BODY])),
    "no-usage": Answer("200 OK", json.dumps(_WHOLE | {"usage": _BODY})),
    "odd-content": Answer("200 OK", json.dumps(_WHOLE | {"content": [{"type": "text", "text": {_BODY: 1}}]})),
    "odd-block": Answer("200 OK", json.dumps(_WHOLE | {"content": [{_BODY: _BODY}]})),
    "html": Answer("200 OK", f"<html>{_BODY}</html>", ("content-type: text/html",)),
    "charset": Answer("200 OK", json.dumps(_WHOLE) + _BODY, (f"content-type: application/json; charset={_HEADER}",)),
    "encoding": Answer("200 OK", f"not gzip: {_BODY}", (_JSON, "content-encoding: gzip")),
    "cut": Answer("200 OK", _BODY, (_JSON, "content-length: 9999"), length=False),
    "chunks": Answer("200 OK", f"{SECRETS['protocol']}\r\n", (_JSON, "transfer-encoding: chunked"), length=False),
    "odd-length": Answer("200 OK", _BODY, (_JSON, f"content-length: {SECRETS['protocol']}"), length=False),
    "odd-header": Answer("200 OK", _BODY, (_JSON, f"{SECRETS['protocol']} without a colon")),
    "stream-error-first": _stream(_ERROR_EVENT),
    "stream-error-later": _stream(_START, _ERROR_EVENT),
    "stream-bad-json": _stream(_START, f'{{"type": "{_EVENT}'),
    "stream-odd-delta": _stream(_START, {"type": "content_block_delta", "index": _EVENT, "delta": {"type": _EVENT}}),
    "stream-odd-event": _stream(_START, {"type": _EVENT, _EVENT: _EVENT}),
    "stream-no-event": _stream(f"[{json.dumps(_EVENT)}]"),
    "whole": Answer("200 OK", json.dumps(_WHOLE)),
    "refusal": Answer("200 OK", json.dumps(_WHOLE | {"stop_reason": "refusal"})),
    "max_tokens": Answer("200 OK", json.dumps(_WHOLE | {"stop_reason": "max_tokens"})),
}


def _call(name: str, given: object) -> Answer:
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}
    return Answer("200 OK", json.dumps(_WHOLE | {"stop_reason": "tool_use", "content": [block]}))


# Calls of tools, and an answer that is not what was asked for: each is asked for again until the turns are used up.
TOOL_ANSWERS: Final[dict[str, Answer]] = {
    "tool-called": _call("tell", {"word": SECRETS["output"]}),
    "tool-unknown": _call(SECRETS["output"], {SECRETS["output"]: 1}),
    "tool-misused": _call("tell", {SECRETS["output"]: SECRETS["output"]}),
    "tool-raises": _call("choke", {"word": SECRETS["output"]}),
    "misfit": ANSWERS["whole"],
}
NOT_HTTP: Final = "not-http"  # answered with a line that is no status line


class TellingProvider:
    """Answers with what `ANSWERS` has for the word behind "ANSWER " in the request; keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _work(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=_guarded(self._answer), args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            request = b""
            while b"\r\n\r\n" not in request:
                request += _received(connection)
            head, _, body = request.partition(b"\r\n\r\n")
            lengths = [
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            while len(body) < int(lengths[0]):
                body += _received(connection)
            self.requests.append(body)
            asked = body.decode().partition("ANSWER ")[2].split()[0].strip('",\\}]')
            raw = (
                f"{SECRETS['protocol']} is no HTTP\r\n\r\n".encode()
                if asked == NOT_HTTP
                else (ANSWERS | TOOL_ANSWERS)[asked].raw()
            )
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)


def _received(connection: socket.socket) -> bytes:
    if not (data := connection.recv(65536)):
        raise ConnectionError("the client went away")
    return data


def _guarded(answer: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def run(connection: socket.socket) -> None:
        try:
            answer(connection)
        except OSError:
            return  # the client's business

    return run


# A `sitecustomize.py` that makes the service leak in each place: what a mistake in it would look like.
LEAKING: Final = """
import dataclasses

import agentobs.api.problems as problems
import agentobs.runtime.execute as execute
import agentobs.telemetry.deltas as deltas
import agentobs.telemetry.loglines as loglines
import agentobs.telemetry.traces as traces

step_span, step_line, expected = traces.step_span, loglines._step, problems._expected


def leaky_span(step):
    span = step_span(step)
    return dataclasses.replace(span, attributes={**span.attributes, "leak": step.input})


def leaky_line(step, spent):
    line = step_line(step, spent)
    line.fields["leak"] = step.output
    return line


traces.step_span = leaky_span
loglines._step = leaky_line
deltas.run_labels = lambda run: (run.workflow, run.status, str(run.error_detail))
execute._where = lambda live, error: f" {error}"
problems._expected = lambda item: str(item["input"])
"""
