"""A board: where its panels are, its variables, its links, what is marked on its time axis, and its JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_b
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from agentobs.telemetry import names
from dashboards.alert import RUNBOOKS_URL
from dashboards.colours import BAD, BLUE
from dashboards.ids import UIDS, VARIABLES, Models, Money, Overview, Panel, Service, Workflow
from dashboards.panels import PROMETHEUS, PanelBuilder, link
from dashboards.promql import JOB, select

TITLES: Final[dict[type[Panel], str]] = {
    Overview: "Overview",
    Workflow: "Workflow",
    Models: "Models and agents",
    Money: "Money",
    Service: "Service",
}
GRID: Final = 24  # columns

# Each variable's values are those that go with the choices before it.
_VALUES: Final = {
    "workflow": select(names.RUNS),
    "agent": select(names.ATTEMPTS, 'workflow=~"$workflow"'),
    "model": select(names.ATTEMPTS, 'workflow=~"$workflow"', 'agent=~"$agent"'),
}
# A process's own count of loop delays begins at 0 when it starts: the series falls, or is new.
_BUILD: Final = select(names.BUILD_INFO, JOB)
_STARTS: Final = (
    f"{_BUILD} and on (instance) resets({select(names.LOOP_LAG, JOB, window='$__rate_interval', part='_count')}) > 0"
    f" or {_BUILD} unless {_BUILD} offset $__rate_interval"
)
FIRING: Final = 'ALERTS{alertstate="firing", severity!="none"}'  # all but the watchdog, which fires always
# When the condition of what fires began to hold, in ms: a line at that time and not a band until the end.
_BEGAN: Final = f"1000 * (ALERTS_FOR_STATE and ignoring (alertstate) {FIRING})"


@dataclass(frozen=True)
class Row:
    """Panels side by side, each with its width; together they are GRID wide."""

    height: int
    panels: tuple[tuple[PanelBuilder, int], ...]


def row(height: int, *panels: PanelBuilder, widths: tuple[int, ...] = ()) -> Row:
    """Panels of the same width if none is given; where that cannot be, the first are wider by one."""
    width, left = divmod(GRID, len(panels))
    even = tuple(width + (place < left) for place in range(len(panels)))
    return Row(height, tuple(zip(panels, widths or even, strict=True)))


def board(kind: type[Panel], about: str, variables: tuple[str, ...], *rows: Row) -> str:
    """The board's JSON. Variables that it does not use are hidden in it, so that links carry them on."""
    made = dashboard_b.Dashboard(f"agentobs / {TITLES[kind]}").uid(UIDS[kind]).description(about).tags(["agentobs"])
    made.editable().timezone("browser").time("now-6h", "now").refresh("30s").tooltip(
        dashboard.DashboardCursorSync.CROSSHAIR
    )
    for name in VARIABLES:
        made.with_variable(_variable(name, hidden=name not in variables))
    made.annotation(_annotation("Starts", _STARTS, BLUE, "agentobs {{version}} started", "{{instance}}"))
    alerts = _annotation("Firing alerts", _BEGAN, BAD, "{{alertname}}", "{{workflow}} {{model}} {{agent}}")
    made.annotation(alerts.use_value_for_time(True))
    for other, title in TITLES.items():
        if other is not kind:
            made.link(link(title, f"/d/{UIDS[other]}", keep=True))
    made.link(link("Runbooks", RUNBOOKS_URL, new_tab=True, about="What to do about each alert"))
    y = 0
    for each in rows:
        x = 0
        for panel, width in each.panels:
            placed = panel.build()
            placed.grid_pos = dashboard.GridPos(h=each.height, w=width, x=x, y=y)
            made.with_panel(panel)
            x += width
        y += each.height
    model = made.build()
    model.schema_version = 42
    return json.dumps(model, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _variable(name: str, *, hidden: bool) -> dashboard_b.QueryVariable:
    query = f"label_values({_VALUES[name]}, {name})"
    made = dashboard_b.QueryVariable(name).label(name.capitalize()).datasource(PROMETHEUS).multi(True)
    made.include_all(True).all_value(".*").refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    made.query({"query": query, "refId": f"variable-{name}"})
    made.current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    model = made.build()
    model.auto = model.auto_min = model.auto_count = None  # of interval variables; the SDK gives them to all
    return made.hide(dashboard.VariableHide.HIDE_VARIABLE if hidden else dashboard.VariableHide.DONT_HIDE)


def _annotation(name: str, expr: str, colour: str, title: str, text: str) -> dashboard_b.AnnotationQuery:
    made = dashboard_b.AnnotationQuery().name(name).datasource(PROMETHEUS).enable(True).icon_color(colour)
    return made.expr(expr).title_format(title).text_format(text).step("1m")
