"""Mixed traffic for the stack: every example workflow, every fault, a death, a resume, a cancel: half a minute."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import httpx2

from agentobs.simulator import faults as simulator
from tests.acceptance.harness import TERMINAL, until
from tests.stack.runner import Stack

# Each is aimed at a run by words of its prompt. What is survived is met once; the rest ends its run.
FAULTS: list[dict[str, Any]] = [
    {"fault": "rate_limited", "retry_after_s": 0.2, "match": {"contains": "Research: rate limits"}, "times": 1},
    {"fault": "overloaded", "match": {"contains": "Research: overload"}, "times": 1},
    {"fault": "server_error", "match": {"contains": "Research: server errors"}, "times": 1},
    {"fault": "slow", "delay_s": 1.5, "match": {"contains": "Research: slowness"}, "times": 1},
    {"fault": "reset", "match": {"contains": "Research: resets"}, "times": 1},
    {"fault": "garbage", "match": {"contains": "Research: garbage"}, "times": 1},
    {"fault": "cut_stream", "after_deltas": 3, "match": {"contains": "Write about: cut streams"}, "times": 1},
    {"fault": "error_in_stream", "after_deltas": 2, "match": {"contains": "Write about: broken streams"}, "times": 1},
    {"fault": "low_limits", "left": 0.5, "match": {"contains": "Research: low limits"}, "times": 1},
    {"fault": "hang", "match": {"contains": "Check"}, "times": 1},
    {"fault": "misfit", "text": "{}", "match": {"contains": "a misfit"}, "times": 1},
    # No misfit to the critic's schema, but what it would not say by itself.
    {"fault": "misfit", "text": '{"accepted": false, "critique": "Name the tea."}', "match": {"contains": "No tea"}},
    {"fault": "bad_request", "match": {"contains": "Research: nonsense"}},
    {"fault": "bad_request", "match": {"contains": "Edit: "}, "times": 1},
    {"fault": "unauthorized", "match": {"contains": "Research: no key"}},
    {"fault": "refusal", "match": {"contains": "Research: a refusal"}},
    {"fault": "max_tokens", "match": {"contains": "Research: too long"}},
    {"fault": "slow", "delay_s": 60, "match": {"contains": "until cancelled"}},
    {"fault": "hang", "after_deltas": 2, "match": {"contains": "Write it, until killed"}, "times": 1},
]
EVERYTHING_FAILS = [{"fault": "bad_request", "message": "the drill"}]
SURVIVED = (
    "rate limits",
    "overload",
    "server errors",
    "slowness",
    "resets",
    "garbage",
    "cut streams",
    "broken streams",
    "low limits",
)
FAILING = {"nonsense": "invalid_request", "no key": "authentication", "a refusal": "refusal", "too long": "max_tokens"}
CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


class Client:
    """The service, with its key, by the port that docker-compose.yml publishes."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        headers = {"Authorization": f"Bearer {stack.secrets['agentobs_api_key']}"}
        self.http = httpx2.Client(base_url=stack.url("agentobs"), headers=headers, timeout=30)
        self.simulator = httpx2.Client(base_url=stack.url("simulator"), timeout=30)

    def faults(self, rules: list[dict[str, Any]]) -> None:
        assert self.simulator.put("/_faults", json=rules).status_code == 200

    def bill(self) -> list[dict[str, Any]]:
        return list(self.simulator.get("/_bill").json()["requests"])

    def submit(self, workflow: str, given: object, **headers: str) -> str:
        """The id of an accepted run."""
        answer = self.http.post("/v1/runs", json={"workflow": workflow, "input": given}, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def post(self, run: str, what: str) -> None:
        answer = self.http.post(f"/v1/runs/{run}/{what}")
        assert answer.status_code == 202, answer.text

    def summary(self, run: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/runs/{run}/summary").raise_for_status().json())

    def ended(self, run: str, timeout_s: float = 60) -> dict[str, Any]:
        """Its summary once it has ended."""
        until(lambda: self.summary(run)["status"] in TERMINAL, f"run {run} to end", timeout_s, every_s=0.05)
        return self.summary(run)

    def attempts(self, run: str) -> list[dict[str, Any]]:
        steps = self.http.get(f"/v1/runs/{run}").raise_for_status().json()["steps"]
        return [attempt for step in steps for attempt in step["attempts"]]

    def metrics(self, accept: str = "text/plain") -> str:
        answer = self.http.get("/metrics", headers={"Accept": accept})
        assert answer.status_code == 200
        return answer.text

    def spans_pending(self) -> float:
        (line,) = (one for one in self.metrics().splitlines() if one.startswith("agentobs_spans_pending "))
        return float(line.split()[1])


def run(client: Client, scraped: Callable[[], None]) -> dict[str, str]:
    """Ids of all runs by what they were about. `scraped` waits until what is told now has been seen."""
    client.faults(FAULTS)
    # The first article's editor fails for good: that run is resumed below.
    runs = {"resumed": client.submit("article", {"goal": "what is resumed"})}
    assert client.ended(runs["resumed"])["status"] == "failed"
    runs["plain"] = client.submit("article", {"goal": "tea"}, traceparent=f"00-{CALLER[0]}-{CALLER[1]}-01")
    for goal in SURVIVED:
        runs[goal] = client.submit("article", {"goal": goal})
    runs["report"] = client.submit("report", {"question": "Is tea better than coffee?"})
    runs["notes"] = client.submit("release_notes", {"version": "1.0", "changes": ["Tea is served"], "rounds": 3})
    runs["notes undecided"] = client.submit("release_notes", {"version": "1.1", "changes": ["No tea"], "rounds": 1})
    tickets = ["My tea is cold", "a misfit", "The cup leaks", "I was billed twice"]
    runs["triage"] = client.submit("triage", {"tickets": tickets, "at_once": 2})
    runs["hang"] = client.submit("sequence", {"topic": "what hangs once"})
    runs["fanout"] = client.submit("fanout", {"topic": "parallel tea"})
    runs["tools"] = client.submit("enquiry", {"topic": "tea house"})
    runs["cancelled"] = client.submit("article", {"goal": "this, until cancelled"})
    client.post(runs["resumed"], "resume")
    until(lambda: client.attempts(runs["cancelled"]), "its request to be sent", 20)
    client.post(runs["cancelled"], "cancel")
    for run_id in runs.values():
        client.ended(run_id)
    # Last, so that most of what has ended has succeeded at any time: no alert fires yet.
    for goal in FAILING:
        runs[goal] = client.submit("article", {"goal": goal})
        assert client.ended(runs[goal])["status"] == "failed"
    # The series of a histogram that no alert reads is born with its first observation: only the second one is an
    # increase. And a scrape must see it before the process dies, which keeps totals alone.
    runs["triage again"] = client.submit("triage", {"tickets": tickets, "at_once": 2})
    client.ended(runs["triage again"])
    scraped()
    runs["recovered"] = _kill(client)
    never = [rule["fault"] for rule in client.simulator.get("/_faults").json() if not rule["applied"]]
    assert never == [] and {rule["fault"] for rule in FAULTS} == set(simulator.FAULTS), "every fault there is"
    return runs


def _kill(client: Client) -> str:
    """The service dies by kill -9 while a stream hangs, and is started again."""
    run_id = client.submit("sequence", {"topic": "it, until killed"})

    def streaming() -> bool:
        return any(one["outcome"] is None and one["usage"] == "partial" for one in client.attempts(run_id))

    until(streaming, "the stream to begin", 30, every_s=0.05)
    client.stack.stop("agentobs", signal.SIGKILL)
    client.stack.restart("agentobs")
    client.stack.wait_ready(["agentobs"])
    assert client.ended(run_id)["status"] == "succeeded"
    return run_id
