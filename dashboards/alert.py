"""What an alert is. The alerts themselves are in `alerts.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from dashboards.ids import UIDS, VARIABLES, Panel
from dashboards.promql import number

GRAFANA_URL: Final = "http://localhost:3000"  # where people open Grafana
RUNBOOKS_URL: Final = "https://github.com/agentobs/agentobs/blob/main/docs/runbooks"

# How a value is told: functions of the template language that Prometheus and Grafana share.
Unit = Literal["ratio", "seconds", "bytes", "count", "decimal"]
UNITS: Final[dict[Unit, str]] = {
    "ratio": "humanizePercentage",
    "seconds": "humanizeDuration",
    "bytes": "humanize1024",  # the summary says B
    "count": 'printf "%.0f"',
    "decimal": 'printf "%.2f"',
}


@dataclass(frozen=True, kw_only=True)
class Alert:
    """`expr` compared with the threshold, where `guard` holds; without a threshold, whatever `expr` returns.

    `by` are the labels that its series have, and the guard's. `summary` names labels and the value in braces.
    `on_error` is Grafana's state when Prometheus does not answer: one alert tells that, else each of them would.
    """

    name: str
    severity: Literal["critical", "warning", "none"]  # a page, a ticket, the watchdog
    expr: str
    op: Literal[">", "<"] = ">"
    threshold: float | None
    guard: str = ""
    by: tuple[str, ...] = ()
    for_: str = "0s"
    unit: Unit = "count"
    summary: str
    means: str
    panel: Panel
    on_error: Literal["OK", "Alerting"] = "OK"

    @property
    def rule(self) -> str:
        """The whole condition, as Prometheus evaluates it."""
        if self.threshold is None:
            return self.query
        return f"({self.expr}) {self.op} {number(self.threshold)}{self._guard}"

    @property
    def query(self) -> str:
        """What Grafana asks, to compare it itself: the value where the guard holds."""
        return f"({self.expr}){self._guard}" if self.guard else self.expr

    @property
    def _guard(self) -> str:
        return f"\nand (\n{self.guard}\n)" if self.guard else ""

    @property
    def dashboard(self) -> str:
        return UIDS[type(self.panel)]

    def annotations(self, value: str) -> dict[str, str]:
        """`value` is a template of the value, told as `{unit}`; without any `$`, which Grafana would expand."""
        words = {label: f"{{{{ .Labels.{label} }}}}" for label in self.by}
        words["value"] = value.replace("{unit}", UNITS[self.unit])
        variables = [f"var-{label}={{{{ .Labels.{label} | urlquery }}}}" for label in self.by if label in VARIABLES]
        return {
            "summary": self.summary.format_map(words),
            "description": self.means,
            "runbook_url": f"{RUNBOOKS_URL}/{self.name}.md",
            "dashboard_url": f"{GRAFANA_URL}/d/{self.dashboard}?" + "&".join([*variables, f"viewPanel={self.panel:d}"]),
            "__dashboardUid__": self.dashboard,
            "__panelId__": f"{self.panel:d}",
        }
