"""The stack with its servers' APIs, and traffic in it: what the tests look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.books import Books, Line, read_journal
from tests.acceptance.harness import until
from tests.stack import compose, traffic
from tests.stack.backends import Grafana, Jaeger, Loki, Prometheus, Webhook
from tests.stack.runner import Stack

SERVICES = ("loki", "jaeger", "collector", "alertmanager", "prometheus", "grafana", "simulator", "agentobs")
SECRETS = {
    "agentobs_api_key": "stack-test-key-0123456789abcdef",
    "anthropic_api_key": "sk-ant-stack-test",
    "grafana_admin_password": "stack-test-password",
}


@dataclass
class World:
    """The stack after the traffic, and its servers' APIs."""

    stack: Stack
    client: traffic.Client
    webhook: Webhook
    runs: dict[str, str]

    def __post_init__(self) -> None:
        url = self.stack.url
        self.prometheus = Prometheus(url("prometheus"))
        self.jaeger = Jaeger(url("jaeger"))
        self.loki = Loki(url("loki"))
        self.grafana = Grafana(url("grafana"), SECRETS["grafana_admin_password"])

    @property
    def database(self) -> Path:
        return self.stack.folder / "volumes/agentobs-data/agentobs.db"

    def books(self) -> Books:
        bill = [Line.of(line) for line in self.client.bill()]
        return Books(bill=bill, journal=read_journal(self.database), spans=[], metrics={}, summaries=[])

    def log_lines(self) -> list[str]:
        return (self.stack.folder / "volumes/agentobs-logs/agentobs.jsonl").read_text().splitlines()


@contextmanager
def started(folder: Path) -> Iterator[World]:
    """All of the stack but its demo's traffic generator; Alertmanager notifies. Gone in the end whatever its state."""
    webhook = Webhook()
    variables = {
        "AGENTOBS_ALERTS_BY": "alertmanager",
        "ANTHROPIC_BASE_URL": "http://simulator:9100",
        "AGENTOBS_WORKFLOWS": "tests.acceptance.flows",  # for tools and parallel branches, which the examples lack
    }
    stack = Stack(
        folder=folder,
        variables=variables,
        secrets={**SECRETS, "alert_webhook_url": webhook.url},
        environ={
            "agentobs": {
                "PYTHONPATH": str(compose.ROOT),
                **{name: value for name, value in os.environ.items() if name.startswith("COV")},
            }
        },
    )
    try:
        stack.start(SERVICES)
        stack.wait_ready([name for name in SERVICES if name != "loki"])  # its start takes 15 s of waiting
        found = World(stack, traffic.Client(stack), webhook, {})
        found.prometheus.scraped()  # an increase needs a value before it
        found.runs = traffic.run(found.client, found.prometheus.scraped)
        until(lambda: found.client.spans_pending() == 0, "all spans to be delivered", 30)
        found.prometheus.scraped()
        stack.wait_ready(["loki"])
        yield found
    finally:
        stack.close()
        webhook.close()
