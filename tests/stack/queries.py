"""Every query of the generated dashboards, and which of them may return nothing.

Reads what is committed in dashboards/generated, as Grafana does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.stack.compose import ROOT

GENERATED: Final = ROOT / "dashboards/generated"

# (dashboard's uid, panel's id, query's refId): why it returns nothing after the traffic of traffic.py.
PANELS_WITHOUT_DATA: Final[Mapping[tuple[str, int, str], str]] = {
    ("agentobs-money", 7, "A"): "what the last audit found; no audit has run",
}
# Selectors of rules, as Prometheus's parser tells them: why nothing matches.
SELECTORS_WITHOUT_DATA: Final[Mapping[str, str]] = {
    '{__name__="agentobs_accounting_drift"}': "the service tells it once an audit has run",
}
# Alerts whose value is absent while all is well.
ALERTS_WITHOUT_VALUE: Final[Mapping[str, str]] = {"AgentobsAccountingDrift": "as above"}


@dataclass(frozen=True)
class Query:
    dashboard: str
    panel: int
    title: str
    ref: str
    source: str
    """The uid of its data source."""
    model: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int, str]:
        return self.dashboard, self.panel, self.ref

    def asked(self) -> dict[str, Any]:
        """As a browser sends it: variables filled in with "all"."""
        text = filled(json.dumps(self.model))
        kind = self.model.get("datasource", {}).get("type", self.source)
        return {
            **json.loads(text),
            "datasource": {"uid": self.source, "type": kind},
            "intervalMs": 1000,
            "maxDataPoints": 500,
        }


def filled(text: str) -> str:
    """With "all" for each variable."""
    return re.sub(r"\$\{?(workflow|agent|model)(:\w+)?\}?(?!\w)", ".*", text)


def dashboards() -> dict[str, dict[str, Any]]:
    """By uid."""
    found = [json.loads(file.read_text()) for file in sorted(GENERATED.glob("*.json"))]
    return {one["uid"]: one for one in found}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())  # of a collapsed row


def queries() -> list[Query]:
    return [
        Query(
            dashboard=uid,
            panel=panel["id"],
            title=panel.get("title", ""),
            ref=target["refId"],
            source=(target.get("datasource") or panel["datasource"])["uid"],
            model=target,
        )
        for uid, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel.get("targets", ())
    ]


def variable_queries() -> list[tuple[str, str, str]]:
    """Dashboard, variable and the query that lists its values."""
    return [
        (uid, variable["name"], filled(variable["query"]["query"]))
        for uid, dashboard in dashboards().items()
        for variable in dashboard.get("templating", {}).get("list", ())
        if variable["type"] == "query"
    ]


def rule_files() -> list[Path]:
    return sorted((GENERATED / "prometheus").glob("*.yml"))
