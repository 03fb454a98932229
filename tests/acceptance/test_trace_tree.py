"""At the sink: the whole tree of a run, with exactly the attributes that INTERFACE.md and TELEMETRY.md name.

Trees are written out by hand, a line a span. What the attributes' values must be comes from the journal's columns and
from the bill; the dicts are complete, so an attribute too many fails as one too few.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentobs import __version__
from tests.acceptance.books import CLASSES, Books, Row, spans_due, unique_spans
from tests.acceptance.harness import World, until, world
from tests.otlp_sink import SinkSpan

SLOW = [
    {"fault": "slow", "delay_s": 60, "match": {"contains": "until cancelled"}},
    {"fault": "hang", "after_deltas": 2, "match": {"contains": "Write it, until killed"}, "times": 1},
]
FAULTS = [
    {"fault": "overloaded", "match": {"contains": "Research: twice"}, "times": 1},
    {"fault": "rate_limited", "retry_after_s": 0.3, "match": {"contains": "Research: twice"}, "times": 1},
    {"fault": "cut_stream", "match": {"contains": "Write a cut stream"}, "times": 1, "after_deltas": 3},
    {"fault": "bad_request", "match": {"contains": "Research: nonsense"}},
    {"fault": "refusal", "match": {"contains": "Research: a refusal"}},
    {"fault": "max_tokens", "match": {"contains": "Research: too long"}},
    *SLOW,
]
CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
SETTINGS = {
    "AGENTOBS_WORKFLOWS": "tests.acceptance.flows,tests.acceptance.flows_bad",
    "OTEL_SERVICE_NAME": "tree",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
}
RESOURCE = {
    "service.name": "tree",
    "deployment.environment.name": "test",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
}
HAIKU, SONNET, OPUS, MYTHOS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-mythos-5"

pytestmark = pytest.mark.timeout(180)


class Told:
    """All runs of this module, by name: what the sink and the journal have of them."""

    def __init__(self, books: Books, runs: dict[str, str]) -> None:
        self.books = books
        self.runs = runs
        self.spans = unique_spans(books.spans)

    def of(self, run: str) -> list[SinkSpan]:
        trace_id = self.runs[run].replace("-", "")
        return [span for span in self.spans.values() if span.trace_id == trace_id]

    def tree(self, run: str) -> list[str]:
        """A line a span, indented: its name, and `!` with its error type. Siblings by start."""
        spans = self.of(run)
        lines: list[str] = []

        def add(span: SinkSpan, depth: int) -> None:
            error = span.attributes.get("error.type")
            lines.append("  " * depth + span.name + (f" !{error}" if error else ""))
            children = [one for one in spans if one.parent_id == span.span_id]
            for child in sorted(children, key=lambda one: (one.start, one.name)):
                add(child, depth + 1)

        roots = [span for span in spans if span.parent_id is None]
        assert len(roots) == 1
        add(roots[0], 0)
        assert len(lines) == len(spans), "a span that hangs on nothing"
        return lines

    def attempts(self, run: str) -> list[dict[str, Any]]:
        found = sorted((span for span in self.of(run) if span.name == "POST"), key=lambda span: span.start)
        return [span.attributes for span in found]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder: Path = tmp_path_factory.mktemp("tree")
    runs: dict[str, str] = {}
    with world(folder, latency_s=0.05, faults=FAULTS, **SETTINGS) as here:
        service = here.service

        def run(name: str, workflow: str, given: Any, **headers: str) -> None:
            runs[name] = service.submit(workflow, given, **headers)["id"]
            service.wait_ended([runs[name]])

        run("warm", "article", {"goal": "tea"})
        run("success", "sequence", {"topic": "tea"}, traceparent=f"00-{CALLER[0]}-{CALLER[1]}-01")
        run("retry", "article", {"goal": "twice"}, traceparent="not one")
        run("cut", "sequence", {"topic": "a cut stream"})
        run("failure", "article", {"goal": "nonsense"})
        run("refusal", "article", {"goal": "a refusal"})
        run("max_tokens", "article", {"goal": "too long"})
        run("step failure", "step_raises", "tea")
        run("own failure", "raises", "tea")
        run("parallel", "fanout", {"topic": "tea"})
        run("beside", "fails_beside", {"how": "step", "after_s": 0})
        _cancel(here, runs)
        _kill(here, runs)
        books = here.close_the_books()
    books.check()
    return Told(books, runs)


def _cancel(here: World, runs: dict[str, str]) -> None:
    before = here.simulator.requests
    runs["cancel"] = here.service.submit("waits", "it, until cancelled")["id"]
    until(lambda: here.simulator.requests > before, "the request")
    here.service.cancel(runs["cancel"])
    here.service.wait_ended([runs["cancel"]])


def _kill(here: World, runs: dict[str, str]) -> None:
    """Killed while a stream hangs in its middle, after two steps had finished."""
    runs["recovery"] = here.service.submit("sequence", {"topic": "it, until killed"})["id"]

    def streaming() -> bool:
        attempts = [a for a in here.service.journal().attempts if a["run_id"] == runs["recovery"]]
        return any(a["ended_at"] is None and a["usage"] == "partial" for a in attempts)

    until(streaming, "the stream to begin", 20)
    here.service.kill()
    here.service.start()
    here.service.wait_ended([runs["recovery"]])


# ---- trees ----


def agent(name: str, model: str, *attempts: str, error: str = "") -> list[str]:
    """The lines of an agent call of one turn; `attempts` are the error types of its attempts, "" for none."""

    def line(text: str, error_type: str) -> str:
        return text + (f" !{error_type}" if error_type else "")

    return [
        line(f"  invoke_agent {name}", error),
        line(f"    chat {model}", attempts[-1]),
        *[line("      POST", attempt) for attempt in attempts],
    ]


def test_success(told: Told):
    assert told.tree("success") == [
        "invoke_workflow sequence",
        "  step collect",
        *agent("planner", SONNET, ""),
        *agent("scribe", HAIKU, ""),
        *agent("clerk", HAIKU, ""),
        "  step publish",
    ]


def test_retry(told: Told):
    assert told.tree("retry") == [
        "invoke_workflow article",
        *agent("researcher", HAIKU, "overloaded", "rate_limited", ""),
        *agent("writer", HAIKU, ""),
        *agent("editor", OPUS, ""),
    ]
    first, second, third, *_ = told.attempts("retry")
    assert [one.get("http.request.resend_count") for one in (first, second, third)] == [None, 1, 2]
    assert [one["agentobs.attempt.number"] for one in (first, second, third)] == [1, 2, 3]
    assert [one["http.response.status_code"] for one in (first, second, third)] == [529, 429, 200]
    assert [one["agentobs.usage"] for one in (first, second, third)] == ["exact"] * 3
    assert "agentobs.retry.wait_s" not in first
    assert 0.5 <= second["agentobs.retry.wait_s"] < 2
    assert 0.3 <= third["agentobs.retry.wait_s"] < 0.5, "as the provider asked"


def test_a_stream_that_was_cut(told: Told):
    assert told.tree("cut")[5:8] == ["  invoke_agent scribe", f"    chat {HAIKU}", "      POST !stream_truncated"]
    assert told.tree("cut")[8] == "      POST"
    cut = next(one for one in told.attempts("cut") if "error.type" in one)
    assert (cut["http.response.status_code"], cut["agentobs.usage"]) == (200, "partial")
    assert cut["agentobs.tokens.output"] > 0


@pytest.mark.parametrize(
    ("run", "error", "status"),
    [("failure", "invalid_request", 400), ("refusal", "refusal", 200), ("max_tokens", "max_tokens", 200)],
)
def test_failure(told: Told, run: str, error: str, status: int):
    assert told.tree(run) == [f"invoke_workflow article !{error}", *agent("researcher", HAIKU, error, error=error)]
    assert told.attempts(run)[0]["http.response.status_code"] == status


def test_failures_of_user_code(told: Told):
    assert told.tree("step failure") == [
        "invoke_workflow step_raises !workflow_error",
        "  step explode !workflow_error",
    ]
    assert told.tree("own failure") == ["invoke_workflow raises !workflow_error", *agent("plain", HAIKU, "")]


def test_cancel(told: Told):
    assert told.tree("cancel") == [
        "invoke_workflow waits !cancelled",
        *agent("slow", HAIKU, "cancelled", error="cancelled"),
    ]
    (attempt,) = told.attempts("cancel")
    assert attempt["agentobs.usage"] == "unknown"
    assert not [name for name in attempt if name.startswith("agentobs.tokens") or "cost" in name]


def test_parallel_branches(told: Told):
    tree = told.tree("parallel")
    assert tree[0] == "invoke_workflow fanout"
    calls = [tuple(tree[at : at + 3]) for at in range(1, len(tree), 3)]
    wanted = [
        ("critic", OPUS),
        ("critic", OPUS),
        ("oracle", MYTHOS),
        ("oracle", MYTHOS),
        ("clerk", HAIKU),
        ("clerk", HAIKU),
    ]
    assert sorted(calls[:6]) == sorted(tuple(agent(*one, "")) for one in wanted)
    assert list(calls[6]) == agent("joiner", SONNET, "") and len(calls) == 7
    first = [span for span in told.of("parallel") if span.name.startswith("invoke_agent")]
    assert max(span.start for span in first if span.attributes["agentobs.step.number"] <= 3) < min(
        span.end for span in first
    ), "the branches ran side by side"


def test_branches_that_a_failure_beside_them_cut_off(told: Told):
    tree = told.tree("beside")
    assert tree[0] == "invoke_workflow fails_beside !workflow_error"
    assert "  step linger" in tree and "  step explode !workflow_error" in tree
    assert [line for line in tree if line.startswith("  invoke_agent") and not line.endswith("!cancelled")] == []
    assert sum(line.startswith("  invoke_agent") for line in tree) == 6


def test_recovery(told: Told):
    root = "invoke_workflow sequence"
    assert told.tree("recovery") == [
        root,
        "  step collect",
        *agent("planner", SONNET, ""),
        *agent("scribe", HAIKU, "interrupted", error="interrupted"),
        f"  {root}",
        *["  " + line for line in agent("scribe", HAIKU, "")],
        *["  " + line for line in agent("clerk", HAIKU, "")],
        "    step publish",
    ]
    later = [span for span in told.of("recovery") if span.name == root and span.parent_id]
    assert [span.attributes["agentobs.execution.reason"] for span in later] == ["recovered"]
    under = [span for span in told.of("recovery") if span.attributes.get("agentobs.execution.number") == 2]
    assert len(under) == 8, "everything of the second execution says so, and nothing of the first"
    cut_off = next(one for one in told.attempts("recovery") if one.get("error.type"))
    assert cut_off["agentobs.usage"] == "partial", "what message_start had told was on the books"


def test_a_callers_traceparent_is_a_link(told: Told):
    for name in told.runs:
        root = next(span for span in told.of(name) if span.parent_id is None)
        assert root.links == ([CALLER] if name == "success" else []), name
        assert not [span for span in told.of(name) if span.parent_id and span.links]


# ---- attributes ----


def test_every_span_has_exactly_its_attributes(told: Told):
    due = Due(told.books)
    for (trace_id, span_id), span in told.spans.items():
        attributes, client = due.of(span, trace_id, span_id)
        assert span.attributes == attributes, f"\n{span}"
        assert span.kind == ("CLIENT" if client else "INTERNAL"), span
        assert span.status == ("ERROR" if "error.type" in attributes else "UNSET"), span
        assert (span.status_message, span.events, span.scope) == ("", [], ("agentobs", "")), span
        assert span.resource == RESOURCE, span
    names = {span.name.split()[0] for span in told.spans.values()}
    assert names == {"invoke_workflow", "invoke_agent", "chat", "POST", "step"}


class Due:
    """Attributes by the two documents, from the journal's columns and the bill."""

    def __init__(self, books: Books) -> None:
        self._journal = books.journal
        self._lines = {line.client_ref: line for line in books.bill}
        self._due = spans_due(books.journal)
        self._steps = {step["span_id"]: step for step in books.journal.steps}
        self._turns = {attempt["turn_span_id"]: attempt for attempt in books.journal.attempts}  # the last stays
        self._executions = {(one["run_id"], one["number"]): one for one in books.journal.executions}

    def of(self, span: SinkSpan, trace_id: str, span_id: str) -> tuple[dict[str, Any], bool]:
        """The attributes, and whether it is a client's span."""
        run_id = next(run for run in self._journal.run if run.replace("-", "") == trace_id)
        run = self._journal.run[run_id]
        if span_id in self._steps:
            found, client = self._step(self._steps[span_id]), False
        elif span_id in self._turns:
            found, client = self._turn(self._turns[span_id]), True
        elif span_id in self._journal.attempt:
            found, client = self._attempt(self._journal.attempt[span_id]), True
        elif span.parent_id is None:
            found = self._workflow(run, 1, run["first_status"], run["first_error_type"])
            client = False
        else:
            ours = [
                one
                for (of, number), one in self._executions.items()
                if of == run_id and number > 1 and one["started_at"] == span.start
            ]
            found, client = self._workflow(run, ours[0]["number"], ours[0]["outcome"], ours[0]["error_type"]), False
        return {key: value for key, value in found.items() if value is not None}, client

    def _common(self, run_id: str, execution: int) -> dict[str, Any]:
        found = {
            "agentobs.run.id": run_id,
            "agentobs.workflow": self._journal.run[run_id]["workflow"],
            "agentobs.version": __version__,
        }
        if found["agentobs.workflow"] == "sequence":  # which alone says its version
            found["agentobs.workflow.version"] = "2026.11"
        if execution > 1:
            found["agentobs.execution.number"] = execution
            found["agentobs.execution.reason"] = self._executions[run_id, execution]["reason"]
        return found

    def _workflow(self, run: Row, execution: int, status: str, error_type: str | None) -> dict[str, Any]:
        return self._common(run["id"], execution) | {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": run["workflow"],
            "error.type": None if status in {"succeeded", "drained"} else error_type,
        }

    def _step(self, step: Row) -> dict[str, Any]:
        found = self._common(step["run_id"], step["execution"])
        found |= {"agentobs.step.number": step["number"], "error.type": step["error_type"]}
        if step["kind"] == "agent":
            found |= {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": step["agent"],
                "gen_ai.request.model": step["model"],
            }
        return found

    def _turn(self, last: Row) -> dict[str, Any]:
        stop = {"end_turn": "stop", "max_tokens": "length", "refusal": "refusal"}
        reasons = [stop[last["stop_reason"]]] if last["stop_reason"] else None
        if reasons is None and last["outcome"] in {"stream_truncated", "stream_error"}:
            reasons = ["error"]
        told = last["usage"] != "unknown"
        chunk = last["first_chunk_at"]
        return self._common(last["run_id"], last["execution"]) | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": last["model"],
            "gen_ai.request.max_tokens": last["max_tokens"],
            "gen_ai.request.reasoning.level": last["effort"],
            "gen_ai.request.stream": True if last["stream"] else None,
            "gen_ai.response.id": last["response_id"],
            "gen_ai.response.model": last["response_model"],
            "gen_ai.response.finish_reasons": reasons,
            "gen_ai.response.time_to_first_chunk": None if chunk is None else (chunk - last["turn_started_at"]) / 1e9,
            "gen_ai.usage.input_tokens": sum(last[kind] for kind in CLASSES if kind != "output") if told else None,
            "gen_ai.usage.output_tokens": last["output"],
            "gen_ai.usage.cache_read.input_tokens": last["cache_read"] or None,
            "gen_ai.usage.cache_write.input_tokens": last["cache_write"] or None,
            "gen_ai.usage.reasoning.output_tokens": last["reasoning"] or None,
            "error.type": None if last["outcome"] == "ok" else last["outcome"],
            **self._server(last),
        }

    def _attempt(self, attempt: Row) -> dict[str, Any]:
        line = self._lines[attempt["span_id"]]
        found = self._common(attempt["run_id"], attempt["execution"]) | {
            "http.request.method": "POST",
            "http.request.resend_count": attempt["number"] - 1 or None,
            "url.full": attempt["url"],
            "error.type": None if attempt["outcome"] == "ok" else attempt["outcome"],
            "agentobs.attempt.number": attempt["number"],
            "agentobs.retry.wait_s": attempt["wait_ns"] / 1e9 or None,
            "agentobs.usage": attempt["usage"],
            **self._server(attempt),
        }
        if attempt["http_status"] is not None:
            found |= {"http.response.status_code": line.status, "agentobs.request_id": line.request_id}
        if attempt["usage"] != "unknown":
            usage = line.usage if attempt["usage"] == "exact" else {kind: attempt[kind] for kind in CLASSES}
            found |= {f"agentobs.tokens.{kind}": usage[kind] for kind in CLASSES}
        if attempt["cost_pico"] is not None:
            found["agentobs.cost_usd"] = attempt["cost_pico"] / 1e12
        return found

    @staticmethod
    def _server(attempt: Row) -> dict[str, Any]:
        url = urlsplit(attempt["url"])
        return {"server.address": url.hostname, "server.port": url.port}
