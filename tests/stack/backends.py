"""What the servers of the stack are asked, over the HTTP APIs that their users and Grafana use."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from agentobs.telemetry import names
from dashboards import recording
from tests.acceptance.harness import until
from tests.otlp_sink import SinkSpan

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
STATUSES = {0: "UNSET", 1: "OK", 2: "ERROR"}


class Prometheus:
    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=20)

    def get(self, path: str, **params: Any) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, f"{path} {params}: {answer.text[:500]}"
        return answer.json()["data"]

    def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series; NaN, which says nothing, is left out."""
        found = self.get("query", query=query)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        values = [(one["metric"], float(one["value"][1])) for one in found["result"]]
        return [(labels, value) for labels, value in values if not math.isnan(value)]

    def scraped(self) -> None:
        """Until it has what the service tells now, and its recording rules have seen that."""
        for metric in (names.BUILD_INFO.name, recording.SPEND):
            now = time.time()
            until(lambda metric=metric, now=now: self.query(f"timestamp({metric}) > {now}"), f"a new {metric}", 30)

    def exemplars(self, query: str, over_s: float = 3600) -> list[dict[str, Any]]:
        """`labels`, `value` and `seriesLabels` of each."""
        now = time.time()
        found = self.get("query_exemplars", query=query, start=now - over_s, end=now + 1)
        return [{**one, "seriesLabels": series["seriesLabels"]} for series in found for one in series["exemplars"]]

    def selectors(self, query: str) -> set[str]:
        """Every metric that a query reads, with its matchers; by Prometheus's own parser."""
        found: set[str] = set()

        def walk(node: Any) -> None:
            if isinstance(node, list):
                for one in node:
                    walk(one)
            elif isinstance(node, dict):
                if node.get("type") in {"vectorSelector", "matrixSelector"}:
                    matchers = (f"{one['name']}{one['type']}{json.dumps(one['value'])}" for one in node["matchers"])
                    found.add("{" + ",".join(sorted(matchers)) + "}")
                walk(list(node.values()))

        walk(self.get("parse_query", query=query))
        return found


class Jaeger:
    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=20)

    def trace(self, trace_id: str) -> list[SinkSpan]:
        """The spans of a trace; none when there is no such trace."""
        answer = self._http.get(f"/api/v3/traces/{trace_id}")
        if answer.status_code == 404:
            return []
        assert answer.status_code == 200, answer.text
        return [
            _span(span, scope["scope"], _attributes(resource["resource"].get("attributes", [])))
            for resource in answer.json()["result"]["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def search(self, service: str, tags: Mapping[str, str]) -> set[str]:
        """Ids of traces with a span that has the tags, as the search form asks."""
        params = {"service": service, "tags": json.dumps(tags), "limit": 100, "lookback": "1h"}
        answer = self._http.get("/api/traces", params=params)
        assert answer.status_code == 200, answer.text
        return {trace["traceID"] for trace in answer.json()["data"]}


def _span(span: Mapping[str, Any], scope: Mapping[str, Any], resource: dict[str, Any]) -> SinkSpan:
    status = span.get("status", {})
    return SinkSpan(
        name=span["name"],
        kind=KINDS[span["kind"]],
        trace_id=_hex(span["traceId"]),
        span_id=_hex(span["spanId"]),
        parent_id=_hex(span["parentSpanId"]) if span.get("parentSpanId") else None,
        start=int(span["startTimeUnixNano"]),
        end=int(span["endTimeUnixNano"]),
        attributes=_attributes(span.get("attributes", [])),
        status=STATUSES[status.get("code", 0)],
        status_message=status.get("message", ""),
        links=[(_hex(link["traceId"]), _hex(link["spanId"])) for link in span.get("links", [])],
        events=[event["name"] for event in span.get("events", [])],
        scope=(scope.get("name", ""), scope.get("version", "")),
        resource=resource,
        raw=b"",
    )


def _hex(given: str) -> str:
    """An id as OTLP's JSON writes it (hex), or as JSON of protobuf does (base64)."""
    return given if len(given) in {16, 32} and not given.endswith("=") else base64.b64decode(given).hex()


def _attributes(given: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in given}


def _value(given: Mapping[str, Any]) -> Any:
    ((kind, value),) = given.items()
    if kind == "arrayValue":
        return [_value(one) for one in value.get("values", [])]
    return int(value) if kind == "intValue" else float(value) if kind == "doubleValue" else value


class Loki:
    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=20)

    def lines(self, query: str) -> list[tuple[dict[str, str], str]]:
        """Labels (structured metadata among them) and line, of the last hour."""
        now = time.time_ns()
        params = {"query": query, "start": now - 3600 * 10**9, "end": now + 10**9, "limit": 1000}
        answer = self._http.get("/loki/api/v1/query_range", params=params)
        if answer.status_code == 500 and "ring" in answer.text:
            return []  # it is still starting
        assert answer.status_code == 200, answer.text
        streams = answer.json()["data"]["result"]
        return [(stream["stream"], line) for stream in streams for _, line in stream["values"]]


class Grafana:
    def __init__(self, url: str, password: str) -> None:
        self.http = httpx2.Client(base_url=url, auth=("admin", password), timeout=60)

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def ask(self, queries: list[dict[str, Any]], over_s: float) -> dict[str, Any]:
        """Results by refId, as a panel gets them."""
        now = int(time.time() * 1000)
        body = {"queries": queries, "from": str(int(now - over_s * 1000)), "to": str(now)}
        answer = self.http.post("/api/ds/query", json=body)
        assert answer.status_code in {200, 207, 400}, answer.text[:500]
        return dict(answer.json()["results"])


def has_data(result: Mapping[str, Any]) -> bool:
    """Whether a frame of the result holds a value other than times and NaN (which JSON has as null) and exemplars."""
    for frame in result.get("frames", []):
        if frame["schema"].get("meta", {}).get("custom", {}).get("resultType") == "exemplar":
            continue
        fields = frame["schema"].get("fields", [])
        for about, column in zip(fields, frame["data"]["values"], strict=False):
            if about["type"] != "time" and any(value is not None for value in column):
                return True
    return False


@dataclass
class Webhook:
    """A receiver of alerts, in a thread: what came, and when."""

    posts: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                posts.append((time.monotonic(), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/alert"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def firing(self, name: str, since: float = 0) -> list[tuple[float, dict[str, Any]]]:
        """When it was told that the alert fires, and the alert."""
        return [
            (at, alert)
            for at, body in list(self.posts)
            for alert in body["alerts"]
            if at >= since and alert["status"] == "firing" and alert["labels"]["alertname"] == name
        ]
