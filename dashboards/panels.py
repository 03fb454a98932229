"""Building blocks of the boards: what their panels have in common is said here once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from string import ascii_uppercase
from typing import Any, Final, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common as common_b
from grafana_foundation_sdk.builders import dashboard as dashboard_b
from grafana_foundation_sdk.builders import heatmap as heatmap_b
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard, heatmap
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.table import Options as TableOptions

from dashboards.colours import BAD, COLOURS, GOOD, QUANTILES

PROMETHEUS: Final = common.DataSourceRef(type_val="prometheus", uid="prometheus")
JAEGER: Final = common.DataSourceRef(type_val="jaeger", uid="jaeger")

# Units, by what is measured.
SHARE: Final = "percentunit"
SECONDS: Final = "s"
USD: Final = "currencyUSD"
BYTES: Final = "bytes"
COUNT: Final = "short"
PER_MINUTE: Final = "suffix:/min"
RATIO: Final = "suffix:x"
TEXT: Final = "string"

PanelBuilder: TypeAlias = Builder[dashboard.Panel]
_P = TypeVar("_P", timeseries.Panel, stat.Panel, table.Panel, heatmap_b.Panel, statetimeline.Panel)
# (from this value on, colour); the first value is ignored: it is that of all below the second.
Steps: TypeAlias = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Query:
    """PromQL and what its series are called. An exemplar of a histogram or counter leads to its trace."""

    expr: str
    legend: str = ""
    exemplar: bool = False


class JaegerSearch(Builder[Dataquery], Dataquery):
    """A search for traces; the SDK has no query of Jaeger's."""

    def __init__(self, ref: str, **fields: Any) -> None:
        self._fields: Final = {"refId": ref, "datasource": JAEGER, "queryType": "search", **fields}

    def build(self) -> JaegerSearch:
        return self

    def to_json(self) -> dict[str, Any]:
        return self._fields


@dataclass(frozen=True, kw_only=True)
class Face:
    """What every panel tells: its id, title, unit, and in one sentence what a bad value means and what to do."""

    id: IntEnum
    title: str
    about: str
    unit: str
    none: str = "No data"  # what stands there when there is nothing to show


# ---- kinds of panels ----


def lines(
    face: Face, *queries: Query, limit: float | None = None, below: bool = False, top: float | None = None, to: str = ""
) -> timeseries.Panel:
    """Lines from 0 up. `limit`: an alert's threshold; `below`: bad is what is under it. `to`: a series' link."""
    panel = _face(timeseries.Panel(), face)
    _ranges(panel, queries)
    panel.fill_opacity(0).line_width(2).show_points(common.VisibilityMode.AUTO).min(0)
    _series(panel)
    if top is not None:
        panel.max(top)
    elif face.unit in (COUNT, PER_MINUTE):
        panel.axis_soft_max(1)  # or nothing at all is drawn on an axis up to 100
    elif face.unit == SHARE:
        panel.axis_soft_max(0.1)  # nor on one up to 10,000 %
    elif face.unit == SECONDS and limit is not None:
        panel.axis_soft_max(60)  # ages: milliseconds beside a limit of minutes are as good as 0
    if limit is not None:
        steps = [(0.0, BAD if below else GOOD), (limit, GOOD if below else BAD)]
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(common_b.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    if to:
        panel.data_links([link("The workflow's board", to)])
    return panel


def bars(face: Face, *queries: Query, to: str = "") -> timeseries.Panel:
    """Stacked bars: for rates by outcome, of which most are 0."""
    panel = _face(timeseries.Panel(), face)
    _ranges(panel, queries)
    panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(70).line_width(0).min(0)
    panel.stacking(common_b.StackingConfig().mode(common.StackingMode.NORMAL))
    _series(panel)
    if to:
        panel.data_links([link("The workflow's board", to)])
    return panel


def number(face: Face, query: Query, *steps: tuple[float, str], decimals: int | None = None) -> stat.Panel:
    """One number (or one a series), coloured by `steps`."""
    panel = _face(stat.Panel(), face)
    panel.with_target(_instant(query, "A"))
    panel.reduce_options(common_b.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.thresholds(_thresholds(steps or [(0, "text")]))
    panel.color_scheme(dashboard_b.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def heat(face: Face, query: Query, value: str) -> heatmap_b.Panel:
    """A histogram's buckets over time; its exemplars are the dots. `value`: what a cell counts."""
    panel = _face(heatmap_b.Panel(), face)
    panel.with_target(_range(query, "A").format(PromQueryFormat.HEATMAP))
    panel.calculate(False).cell_gap(1).exemplars_color("rgba(255,255,255,0.8)")
    panel.rows_frame(heatmap_b.RowsHeatmapOptions().value(value).layout(common.HeatmapCellLayout.LE))
    panel.color(
        heatmap_b.HeatmapColorOptions()
        .mode(heatmap.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .fill("dark-orange")
        .scale(heatmap.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .reverse(False)
    )
    panel.filter_values(heatmap_b.FilterValueRange().le(1e-9))  # empty cells are no cells
    panel.y_axis(heatmap_b.YAxisConfig().unit(face.unit).axis_placement(common.AxisPlacement.LEFT))
    panel.tooltip(heatmap_b.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
    return panel


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: a label, or (`query` set) the value of a query, not shown without a title."""

    title: str = ""
    label: str = ""
    query: str = ""
    unit: str = ""
    decimals: int | None = None
    width: int | None = None
    link: str = ""


def rows(face: Face, *columns: Column, sort: str = "") -> table.Panel:
    """A table of instant queries, merged by the labels that they share; `sort`: the column whose largest come first."""
    panel = _face(_table(), face)
    asked = [column for column in columns if column.query]
    fields = {column.label: column for column in columns if column.label}
    for ref, column in zip(ascii_uppercase, asked, strict=False):
        panel.with_target(_instant(Query(column.query), ref).format(PromQueryFormat.TABLE))
        fields["Value" if len(asked) == 1 else f"Value #{ref}"] = column
    if len(asked) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    organize = {
        "excludeByName": {"Time": True} | {field: True for field, column in fields.items() if not column.title},
        "indexByName": {field: columns.index(column) for field, column in fields.items()},
        "renameByName": {field: column.title for field, column in fields.items() if column.title},
    }
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=organize))
    for column in columns:
        if column.title:
            panel.override_by_name(column.title, list(_properties(column)))
    if sort:
        panel.sort_by([common_b.TableSortByFieldState().display_name(sort).desc(True)])
    return panel


def traces(face: Face, search: JaegerSearch) -> table.Panel:
    """The traces that a search in Jaeger finds; the data source makes each id a link to its trace."""
    panel = _face(_table(), face, JAEGER)
    panel.with_target(search)
    for field, width in (("Trace ID", 310), ("Start time", 170), ("Duration", 100)):
        panel.override_by_name(field, [dashboard.DynamicConfigValue("custom.width", width)])
    return panel.override_by_name("Trace name", [dashboard.DynamicConfigValue("custom.filterable", value=True)])


def states(face: Face, query: Query, words: Mapping[str, tuple[str, str]]) -> statetimeline.Panel:
    """A value's words and colours over time."""
    panel = _face(statetimeline.Panel(), face)
    _ranges(panel, (query,))
    results = {value: dashboard.ValueMappingResult(text=text, color=colour) for value, (text, colour) in words.items()}
    panel.mappings([dashboard.ValueMap(options=results)])
    panel.show_value(common.VisibilityMode.NEVER).row_height(0.8).merge_values(True)
    return panel


def link(
    title: str, url: str, *, keep: bool = False, new_tab: bool = False, about: str = ""
) -> dashboard_b.DashboardLink:
    """A link of a board or of a panel's data; `keep`: with the variables and the time of this board."""
    made = dashboard_b.DashboardLink(title).url(url).target_blank(new_tab).include_vars(keep).keep_time(keep)
    # The SDK's default hides links in a menu, and it leaves out what is None.
    made.build().placement = None  # type: ignore[assignment]
    return made.tooltip(about).type(dashboard.DashboardLinkType.LINK)


# ---- what they share ----


def _face(panel: _P, face: Face, source: common.DataSourceRef = PROMETHEUS) -> _P:
    panel.id(int(face.id)).title(face.title).description(face.about).unit(face.unit).no_value(face.none)
    return panel.datasource(source)


def _table() -> table.Panel:
    panel = table.Panel()
    options = panel.build().options
    assert isinstance(options, TableOptions)
    options.footer = None  # the SDK's default is one that Grafana no longer has
    return panel


def _range(query: Query, ref: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(ref).datasource(PROMETHEUS).expr(query.expr).range().exemplar(query.exemplar)
    return made.legend_format(query.legend or "__auto")


def _instant(query: Query, ref: str) -> prometheus.Dataquery:
    return _range(query, ref).instant()


def _ranges(panel: timeseries.Panel | statetimeline.Panel, queries: Iterable[Query]) -> None:
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_range(query, ref))


def _series(panel: timeseries.Panel) -> None:
    """Legend, tooltip, and the colours; Prometheus sorts series, so that the same ones have the same everywhere."""
    panel.legend(
        common_b.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    panel.tooltip(common_b.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    panel.color_scheme(dashboard_b.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))


def coloured(panel: timeseries.Panel, names: Iterable[str]) -> timeseries.Panel:
    """Give the series of these names their colour."""
    for name in names:
        colour = {"mode": "fixed", "fixedColor": (COLOURS | QUANTILES)[name]}
        panel.override_by_name(name, [dashboard.DynamicConfigValue("color", colour)])
    return panel


def _thresholds(steps: Steps) -> dashboard_b.ThresholdsConfig:
    made = [
        dashboard.Threshold(value=None if place == 0 else value, color=colour)
        for place, (value, colour) in enumerate(steps)
    ]
    return dashboard_b.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _properties(column: Column) -> Iterable[dashboard.DynamicConfigValue]:
    yield dashboard.DynamicConfigValue("noValue", "-")  # else each empty cell says what the empty table says
    if column.unit:
        yield dashboard.DynamicConfigValue("unit", column.unit)
    if column.decimals is not None:
        yield dashboard.DynamicConfigValue("decimals", column.decimals)
    if column.width is not None:
        yield dashboard.DynamicConfigValue("custom.width", column.width)
    if column.link:
        yield dashboard.DynamicConfigValue("links", [{"title": "Runbook", "url": column.link, "targetBlank": True}])
