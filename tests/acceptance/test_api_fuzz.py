"""The HTTP API against its own OpenAPI document (schemathesis), and against requests that no client would send.

The service is a process of its own with a key. In the suite the same requests are made each time; a longer search,
with other requests each time, is

    AGENTOBS_FUZZ=500 make test ARGS=tests/acceptance/test_api_fuzz.py
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.harness import World, world

KEY = "correct-horse-battery-staple"
SECRET = "hunter2-XYZZY"
EXAMPLES = int(os.environ.get("AGENTOBS_FUZZ", "0"))
OPEN = {"/healthz", "/readyz"}
STREAM = "text/event-stream"
WORKFLOWS = ["echo", "fails", "endless"]
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fuzz")
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    with world(folder, AGENTOBS_WORKFLOWS="tests.acceptance.flows_fuzz", AGENTOBS_API_KEY_FILE=str(key)) as found:
        yield found
        assert found.service.running, f"it has ended\n{found.service.tail()}"
        output = "\n".join(found.service.output)
        assert SECRET not in output
        failed = found.service.events("request.failed")
        # What is not HTTP is answered by the server itself, and then there is no way to send our answer as well.
        assert [one for one in failed if one["error_class"] != "LocalProtocolError"] == []
        assert all(one["place"].startswith("h11.") for one in failed)
        assert "Traceback" not in output, output[output.index("Traceback") :][:2000]


def document(here: World) -> dict[str, Any]:
    answer = here.service.call("GET", "/openapi.json", headers=AUTHORIZED)
    assert answer.status_code == 200
    return dict(answer.json())


# ---- the document ----


def narrowed(found: dict[str, Any]) -> dict[str, Any]:
    """The document with what it cannot tell: which workflows there are. Endless answers are left out."""
    found["components"]["schemas"]["RunRequest"]["properties"]["workflow"]["enum"] = WORKFLOWS
    for path, operations in list(found["paths"].items()):
        for method, operation in list(operations.items()):
            if any(STREAM in response.get("content", {}) for response in operation["responses"].values()):
                del operations[method]
                _unlink(found, operation["operationId"])
            # Whatever is preferred is taken (RFC 7240, 2), and a fuzzer would wait for long.
            known = operation.get("parameters", [])
            operation["parameters"] = [one for one in known if one["name"].lower() != "prefer"]
        if not operations:
            del found["paths"][path]
    return found


def _unlink(found: dict[str, Any], operation_id: str) -> None:
    for operations in found["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response.get("links", {}).pop(operation_id, None)


@pytest.mark.timeout(300 + 10 * EXAMPLES)
def test_every_answer_is_as_the_document_says(here: World, tmp_path: Path) -> None:
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(narrowed(document(here))))
    searching = (
        ["--max-examples", str(EXAMPLES)] if EXAMPLES else ["--max-examples", "15", "--generation-deterministic"]
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(described)),
            *("--url", here.service.url, "--header", f"Authorization: Bearer {KEY}"),
            *("--phases", "coverage,fuzzing,stateful", "--checks", "all", "--continue-on-failure"),
            *("--request-timeout", "30", "--no-color", "--warnings", "off", *searching),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "API Links:" in ran.stdout and "API Links:    0 covered" not in ran.stdout, ran.stdout


def test_every_call_but_health_wants_the_key(here: World) -> None:
    calls = [(method.upper(), path) for path, operations in document(here)["paths"].items() for method in operations]
    calls += [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/no/such/path"), ("DELETE", "/v1/runs")]
    assert len(calls) > 10
    for method, path in calls:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": KEY},
        ):
            answer = here.service.call(method, path.replace("{run_id}", "0" * 32), headers=headers)
            if path in OPEN:
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == 401, f"{method} {path} {headers}: {answer.status_code}"
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")


# ---- requests that no client would send ----


def exchange(here: World, sent: bytes, *, hang_up: bool) -> bytes:
    """All that comes back for these bytes on a connection of their own; `hang_up`: after which nothing more is sent."""
    address = urlsplit(here.service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all was sent
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass  # it had unread bytes when it closed
        return received


def status_of(received: bytes) -> int:
    """The status of a single answer, which has to be one that can be given to a hostile request; 0: there is none."""
    if not received:
        return 0
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), received[:200]
    status = int(head[9:12])
    if status >= 400 and b"Invalid HTTP request received." not in body:  # the server's own word on what is not HTTP
        assert b"\r\ncontent-type: application/problem+json" in head.lower(), received[:500]
        problem = json.loads(body.partition(b"HTTP/1.1 ")[0])
        assert problem["status"] == status
    assert status < 500, received[:500]
    assert SECRET.encode() not in received, received[:1000]
    return status


def raw(*headers: str) -> bytes:
    return "\r\n".join(["GET /v1/runs HTTP/1.1", "Connection: close", *headers]).encode("latin-1") + b"\r\n\r\n"


def request(line: str = "GET /v1/runs HTTP/1.1", *headers: str, body: bytes = b"") -> bytes:
    head = [line, "Host: localhost", f"Authorization: Bearer {KEY}", "Connection: close", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def submission(body: bytes, *headers: str) -> bytes:
    return request(
        "POST /v1/runs HTTP/1.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
        body=body,
    )


def chunked(body: bytes) -> bytes:
    head = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    return request("POST /v1/runs HTTP/1.1", *head, body=body)


def order(input: str) -> bytes:
    return f'{{"workflow":"echo","input":{input}}}'.encode()


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


GOOD = order('"x"')
RUN = "/v1/runs/0193000000007abc8def0123456789ab"
# Each with the statuses that are right for it; 0 is a connection closed without an answer.
HOSTILE: dict[str, tuple[bytes, set[int]]] = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
    "an empty line alone": (b"\r\n\r\n", {0, 400}),
    "only a part of a head": (b"GET /v1/runs HTTP/1.1\r\nHost: loc", {0, 400}),
    "HTTP/9.9": (request("GET /v1/runs HTTP/9.9"), {200, 400}),
    "no path": (request("GET  HTTP/1.1"), {400}),
    "an unknown method": (request("BREW /v1/runs HTTP/1.1"), {405}),
    "a method of 10,000 letters": (request("A" * 10_000 + " /v1/runs HTTP/1.1"), {400, 405}),
    "CONNECT": (request("CONNECT localhost:80 HTTP/1.1"), {400, 404, 405}),
    "OPTIONS *": (request("OPTIONS * HTTP/1.1"), {400, 404, 405}),
    "an absolute URL": (request("GET http://elsewhere.example/v1/runs HTTP/1.1"), {200, 400, 404}),
    "a URL of 1 MB": (request(f"GET /v1/runs/{'a' * 1_000_000} HTTP/1.1"), {400, 0}),
    "a query of 60 kB": (request(f"GET /v1/runs?workflow={'a' * 60_000} HTTP/1.1"), {400, 422}),
    "a thousand query fields": (request(f"GET /v1/runs?{'&'.join(f'a{n}=1' for n in range(1000))} HTTP/1.1"), {422}),
    "the same field twice": (request("GET /v1/runs?limit=1&limit=2 HTTP/1.1"), {200, 422}),
    "a NUL in the path": (request(f"GET /v1/runs/{SECRET}\x00 HTTP/1.1"), {400}),
    "an escaped NUL in the path": (request("GET /v1/runs/%00 HTTP/1.1"), {404}),
    "an escaped NUL in a filter": (request("GET /v1/runs?workflow=%00&tag=a:%00 HTTP/1.1"), {200}),
    "invalid UTF-8 in the path": (request("GET /v1/runs/%ff%fe%80 HTTP/1.1"), {404}),
    "raw bytes in the path": (request("GET /v1/runs/\xff\xfe HTTP/1.1"), {400, 404}),
    "invalid UTF-8 in a filter": (request("GET /v1/runs?workflow=%ff&tag=%ff:%c0%80 HTTP/1.1"), {200}),
    "a surrogate in a filter": (request("GET /v1/runs?workflow=%ed%a0%80 HTTP/1.1"), {200}),
    "broken escapes": (request("GET /v1/runs/%zz%1?workflow=%&limit=%3 HTTP/1.1"), {404}),
    "broken escapes in a filter": (request("GET /v1/runs?workflow=%&limit=%31 HTTP/1.1"), {200}),
    "an escaped slash": (request(f"GET /v1%2fruns%2f..%2f..%2fetc%2fpasswd%3f{SECRET} HTTP/1.1"), {404}),
    "dots": (request("GET /../../../../etc/passwd HTTP/1.1"), {404}),
    "a limit beyond all": (request(f"GET /v1/runs?limit={'9' * 5000} HTTP/1.1"), {422}),
    "a limit in other digits": (request("GET /v1/runs?limit=%D9%A3 HTTP/1.1"), {200, 422}),
    "the last of all times": (request("GET /v1/runs?until=9999-12-31T23:59:59.999999-23:59 HTTP/1.1"), {200, 422}),
    "the first of all times": (request("GET /v1/runs?since=0001-01-01T00:00:00%2B23:59 HTTP/1.1"), {200, 422}),
    "a cursor of zeros": (request("GET /v1/runs?cursor=AQAAAAAAAAAAAAAAAAAAAAA HTTP/1.1"), {200}),
    "a cursor that is not ASCII": (request("GET /v1/runs?cursor=%C3%A9%00 HTTP/1.1"), {400}),
    "two Hosts": (request("GET /v1/runs HTTP/1.1", "Host: localhost"), {400}),
    "no Host": (f"GET /v1/runs HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(), {400}),
    "no Host in HTTP/1.0": (f"GET /v1/runs HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(), {400}),
    "another Host": (raw("Host: elsewhere.example"), {421}),
    "a Host of brackets": (raw("Host: [[::1]:x"), {400, 421}),
    "a Host that is no text": (raw("Host: \xff\xfe"), {400, 421}),
    "a key that is no text": (raw("Host: localhost", "Authorization: Bearer \xff\xe9"), {401}),
    "two keys": (request("GET /v1/runs HTTP/1.1", f"Authorization: Bearer {SECRET}"), {401}),
    "1,000 headers": (request("GET /v1/runs HTTP/1.1", *(f"X-{n}: {SECRET}" for n in range(1000))), {200, 400}),
    "a header of 1 MB": (request("GET /v1/runs HTTP/1.1", f"X: {SECRET * 70_000}"), {400, 0}),
    "a header folded": (request("GET /v1/runs HTTP/1.1", "X: a\r\n b"), {200, 400}),
    "a header without a colon": (request("GET /v1/runs HTTP/1.1", SECRET), {400}),
    "a NUL in a header": (request("GET /v1/runs HTTP/1.1", f"X: {SECRET}\x00"), {400}),
    "bytes in headers": (request("GET /v1/runs HTTP/1.1", "Accept: \xff", "X-\xff: 1"), {200, 400}),
    "a bad Accept": (request("GET /metrics HTTP/1.1", "Accept: ;;q=\xff,a/b;q=nan,*/*;q=1e999"), {200}),
    "a bad Range": (request("GET /v1/workflows HTTP/1.1", "Range: bytes=-1--1"), {200}),
    "an upgrade": (request("GET /v1/runs HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"), {200, 400, 426}),
    "a bad Origin": (submission(GOOD, "Origin: http://[::1"), {403}),
    "a bad traceparent": (submission(GOOD, "traceparent: 00-\xff"), {202}),
    "an idempotency key that is no text": (submission(GOOD, "Idempotency-Key: \xff\xfe"), {422}),
    "a length that is none": (request("POST /v1/runs HTTP/1.1", "Content-Length: x"), {400}),
    "a negative length": (request("POST /v1/runs HTTP/1.1", "Content-Length: -1"), {400}),
    "a length beyond all": (request("POST /v1/runs HTTP/1.1", f"Content-Length: {'9' * 19}"), {413}),
    "a length of 5,000 digits": (request("POST /v1/runs HTTP/1.1", f"Content-Length: {'9' * 5000}"), {400, 413}),
    "two lengths": (submission(GOOD, "Content-Length: 5"), {400}),
    "a body shorter than said": (submission(GOOD)[:-4], {0}),
    "a length and chunks": (
        submission(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD), "Transfer-Encoding: chunked"),
        {202, 400},
    ),
    "an unknown encoding": (request("POST /v1/runs HTTP/1.1", "Transfer-Encoding: gzip, chunked"), {400, 501}),
    "a chunk of no size": (chunked(b"\r\n\r\n"), {0, 400}),
    "a chunk of a bad size": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), {0, 400}),
    "a chunk of a negative size": (chunked(b"-1\r\n{}\r\n0\r\n\r\n"), {0, 400}),
    "a chunk beyond all": (chunked(b"f" * 20 + b"\r\n{}"), {0, 400}),
    "a chunk with a NUL": (chunked(b"2\r\n{}\x00\x00\x000\r\n\r\n"), {0, 400}),
    "chunks without an end": (chunked(b"2\r\n{}\r\n"), {0}),
    "chunks of 2 MB": (chunked((b"10000\r\n" + b" " * 65536 + b"\r\n") * 32 + b"0\r\n\r\n"), {0, 413}),
    "an encoded body": (submission(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"), {400, 415}),
    "another media type": (
        request("POST /v1/runs HTTP/1.1", "Content-Type: application/xml", "Content-Length: 4", body=b"<a/>"),
        {415},
    ),
    "no media type": (request("POST /v1/runs HTTP/1.1", f"Content-Length: {len(GOOD)}", body=GOOD), {415}),
    "a media type of another charset": (
        request(
            "POST /v1/runs HTTP/1.1",
            "Content-Type: application/json; charset=utf-16",
            f"Content-Length: {len(GOOD) * 2}",
            body=GOOD.decode().encode("utf-16-le"),
        ),
        {202, 400},
    ),
    "an empty body": (submission(b""), {400, 422}),
    "a body of NULs": (submission(b"\x00" * 100), {400}),
    "a byte order mark": (submission(b"\xef\xbb\xbf" + GOOD), {202, 400}),
    "invalid UTF-8": (submission(b'{"workflow":"\xff\xfe","input":"\xc0\x80\xed\xa0\x80"}'), {400}),
    "an array": (submission(b"[1,2]"), {422}),
    "null": (submission(b"null"), {422}),
    "a bare number": (submission(b"1e999"), {422}),
    "NaN": (submission(order("NaN")), {400, 422}),
    "Infinity": (submission(order("[-Infinity]")), {400, 422}),
    "a float beyond all": (submission(order("1e999")), {422}),
    "a float below all": (submission(order("1e-999")), {202}),
    "an integer of 65 bits": (submission(order(str(2**65))), {202}),
    "an integer of 4,300 digits": (submission(order("9" * 4300)), {202, 422}),
    "an integer of 5,000 digits": (submission(order("9" * 5000)), {400, 422}),
    "a lone surrogate": (submission(order(f'"\\ud800 {SECRET}"')), {202, 422}),
    "a lone surrogate as a workflow": (submission(rb'{"workflow":"\udcff","input":1}'), {404, 422}),
    "a lone surrogate as a key": (submission(order(rf'{{"\ud800{SECRET}":1}}')), {202, 422}),
    "lone surrogates as tags": (submission(rb'{"workflow":"echo","tags":{"\ud800":"\udfff"}}'), {202, 422}),
    "a NUL in a string": (submission(order(r'"\u0000"')), {202}),
    "a raw NUL in a string": (submission(order('"\x00"')), {400}),
    "a NUL as a tag": (submission(rb'{"workflow":"echo","tags":{"a":"\u0000"}}'), {202}),
    "a NUL in a workflow": (submission(rb'{"workflow":"echo\u0000"}'), {404, 422}),
    "the same key twice": (submission(b'{"workflow":"nowhere","workflow":"echo","input":1,"input":2}'), {202, 422}),
    "an unknown key": (submission(f'{{"workflow":"echo","{SECRET} !":1}}'.encode()), {422}),
    "10,000 unknown keys": (submission(json.dumps(dict.fromkeys(map(str, range(10_000)), 1)).encode()), {422}),
    "10,000 bad tags": (
        submission(json.dumps({"workflow": "echo", "tags": dict.fromkeys(map(str, range(10_000)))}).encode()),
        {422},
    ),
    "a wrong type": (submission(f'{{"workflow":["{SECRET}"],"tags":"{SECRET}"}}'.encode()), {422}),
    "an input of 1 MB": (submission(order(json.dumps("é" * 400_000))), {413}),
    "100,000 brackets": (submission(order("[" * 100_000)), {400}),
    "100,000 pairs of brackets": (submission(order(nested(100_000))), {400, 422}),
    "100,000 nested objects": (submission(order(nested(100_000, '{"a":', "}").replace(":}", ":1}", 1))), {400, 422}),
    "a body to a GET": (request("GET /v1/runs HTTP/1.1", "Content-Length: 3", body=b"{}}"), {200}),
    "a body to a cancel": (request(f"POST {RUN}/cancel HTTP/1.1", "Content-Length: 3", body=b"}}}"), {404}),
    "pipelined requests": (request() + b"\x00\xff" + request(), {200, 400}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_and_the_service_goes_on(here: World, name: str) -> None:
    sent, expected = HOSTILE[name]
    status = status_of(exchange(here, sent, hang_up=0 in expected))
    assert status in expected, f"{name}: {status}"
    assert here.service.readyz()[0] == 200


def mangled(whole: bytes) -> st.SearchStrategy[bytes]:
    """A few places of it cut out, doubled, or replaced by bytes that mean something to a parser."""
    place = st.integers(0, len(whole) - 1)
    piece = st.one_of(
        st.sampled_from(
            [b"\r\n", b"\n", b"\x00", b":", b"%", b"\xff", b'"', b"\\u", b"{", b"1e9999", b" ", b"\r", b"-1"]
        ),
        st.binary(max_size=4),
    )

    def apply(edits: list[tuple[int, int, bytes, bool]]) -> bytes:
        found = whole
        for at, length, new, doubled in edits:
            found = found[: at + length] + found[at:] if doubled else found[:at] + new + found[at + length :]
        return found

    return st.lists(st.tuples(place, st.integers(0, 12), piece, st.booleans()), min_size=1, max_size=3).map(apply)


@settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sent=st.one_of(
        mangled(submission(order('{"a":["b",1.5,null]}'), "Idempotency-Key: k-1", "traceparent: 00-1-2-01")),
        mangled(request("GET /v1/runs?limit=5&tag=a:b&since=2026-01-31T08:00:00Z&status=failed HTTP/1.1")),
        mangled(chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD))),
        mangled(request(f"GET {RUN}/summary HTTP/1.1", "Accept: application/json")),
    )
)
def test_a_mangled_request_never_breaks_the_service(here: World, sent: bytes) -> None:
    status_of(exchange(here, sent, hang_up=True))
    assert here.service.running


def test_what_is_accepted_can_be_read_at_every_depth(here: World) -> None:
    """What can be parsed at one depth of the stack must not be too deep at another."""
    accepted = []
    for depth in [*range(1, 260, 7), *range(196, 204), *range(850, 1000, 6)]:
        answer = here.service.call(
            "POST", "/v1/runs", content=order(nested(depth)), headers={**AUTHORIZED, "Content-Type": "application/json"}
        )
        assert answer.status_code in {202, 400, 422}, f"{depth}: {answer.status_code}"
        if answer.status_code == 202:
            accepted.append((depth, answer.json()["id"]))
    assert len(accepted) > 10
    for depth, run_id in accepted:
        ended = False
        while not ended:
            shown = here.service.call("GET", f"/v1/runs/{run_id}", headers=AUTHORIZED)
            assert shown.status_code == 200, f"{depth}: {shown.text}"
            ended = shown.json()["ended_at"] is not None
            time.sleep(0.01)
        assert shown.json()["status"] == "succeeded", f"{depth}: {shown.json()['error']}"
        assert shown.json()["output"] == json.loads(nested(depth))
