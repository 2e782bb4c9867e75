"""Panels in one style: title, what it means and what to do, unit, queries, limits.

A panel is built here with its size; `frame` gives it its place. Its id comes from its title, so that links to it hold
when others are added or move.
"""

import zlib
from collections.abc import Sequence

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, table
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as styles
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from msgspec import Struct

from tenantry_dashboards.queries import Query

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
REF_IDS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GREEN, YELLOW, RED = "green", "yellow", "red"

REQUESTS, SECONDS, SHARE, BYTES = "reqps", "s", "percentunit", "bytes"
COUNT, PER_SECOND, GPUS, TOKENS = "short", "ops", "suffix: GPU", "suffix: tokens/s"
MONEY_PER_HOUR = "suffix: /h"

Limits = Sequence[tuple[float | None, str]]
"""Colours from a value on, the first from anywhere (None)."""

Link = tuple[str, str]
"""Title and address."""


class Column(Struct, frozen=True, kw_only=True):
    """A column of a table: a query for single values, and how they are shown."""

    title: str
    expr: str
    unit: str
    limits: Limits = ()


def above(warn: float | None, bad: float) -> Limits:
    """Yellow from `warn` on, red from `bad` on."""
    first: list[tuple[float | None, str]] = [(None, GREEN)]
    return [*first, *([] if warn is None else [(warn, YELLOW)]), (bad, RED)]


def below(bad: float, warn: float) -> Limits:
    """Red below `bad`, yellow below `warn`."""
    return [(None, RED), (bad, YELLOW), (warn, GREEN)]


def line_chart(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    limits: Limits = (),
    links: Sequence[Link] = (),
    lowest: float | None = 0,
) -> model.Panel:
    """Show values over time, from `lowest` on."""
    panel = (
        lines.Panel()
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
        .show_points(styles.VisibilityMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .display_mode(styles.LegendDisplayMode.TABLE)
            .placement(styles.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
            .sort_by("Max")
            .sort_desc(True)
        )
        .tooltip(common.VizTooltipOptions().mode(styles.TooltipDisplayMode.MULTI).sort(styles.SortOrder.DESCENDING))
        .targets([_target(place, query) for place, query in enumerate(queries)])
        .data_links(_links(links))
    )
    if lowest is not None:
        panel.min(lowest)
    if stacked:
        panel.stacking(common.StackingConfig().mode(styles.StackingMode.NORMAL).group("A"))
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(styles.GraphTresholdsStyleMode.DASHED))
    return _finished(panel.build(), title, description, unit, limits, width=width, height=height)


def value(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    height: int = 4,
    limits: Limits = (),
    links: Sequence[Link] = (),
    decimals: int | None = None,
    of_all: bool = False,
) -> model.Panel:
    """Show a number for each query and label: the newest, with a small curve, or `of_all` the time that is shown."""
    panel = (
        stat.Panel()
        .graph_mode(styles.BigValueGraphMode.NONE if of_all else styles.BigValueGraphMode.AREA)
        .color_mode(styles.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .targets([_target(place, query, instant=of_all) for place, query in enumerate(queries)])
        .data_links(_links(links))
    )
    if decimals is not None:
        panel.decimals(decimals)
    return _finished(panel.build(), title, description, unit, limits or [(None, "blue")], width=width, height=height)


def bars(
    title: str, description: str, unit: str, *queries: Query, width: int = 8, height: int = 8, limits: Limits = (),
    most: float | None = None,
) -> model.Panel:  # fmt: skip
    """Show values of now side by side."""
    panel = (
        bargauge.Panel()
        .orientation(styles.VizOrientation.HORIZONTAL)
        .display_mode(styles.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .min(0)
        .targets([_target(place, query, instant=True) for place, query in enumerate(queries)])
    )
    if most is not None:
        panel.max(most)
    return _finished(panel.build(), title, description, unit, limits or [(None, "blue")], width=width, height=height)


def states(
    title: str, description: str, *queries: Query, names: dict[str, tuple[str, str]], width: int = 24, height: int = 6
) -> model.Panel:
    """Show what was the case when. `names` gives each value its word and colour."""
    options = {key: model.ValueMappingResult(text=text, color=colour) for key, (text, colour) in names.items()}
    panel = (
        statetimeline.Panel()
        .show_value(styles.VisibilityMode.NEVER)
        .row_height(0.8)
        .mappings([model.ValueMap(options=options)])
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .targets([_target(place, query) for place, query in enumerate(queries)])
    )
    return _finished(panel.build(), title, description, "short", [(None, "blue")], width=width, height=height)


def rows(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    sort_by: str,
    hide: Sequence[str] = (),
    links: dict[str, Sequence[Link]] | None = None,
    width: int = 24,
    height: int = 10,
) -> model.Panel:
    """Make a table: a row for each set of labels, which all queries agree in. `links` are those of a label's cells."""
    panel = (
        table.Panel()
        .targets(
            [_target(place, Query(expr=column.expr), instant=True, rows=True) for place, column in enumerate(columns)]
        )
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", *hide), True),
                    "renameByName": {
                        name: column.title
                        for place, column in enumerate(columns)
                        for name in (["Value", "Value #A"] if len(columns) == 1 else [f"Value #{REF_IDS[place]}"])
                    },
                },
            )
        )
    )
    for column in columns:
        properties = [model.DynamicConfigValue(id_val="unit", value=column.unit)]
        if column.limits:
            properties += [
                model.DynamicConfigValue(id_val="thresholds", value=_thresholds(column.limits).build()),
                model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
            ]
        panel.override_by_name(column.title, properties)
    for label, targets in (links or {}).items():
        panel.override_by_name(
            label, [model.DynamicConfigValue(id_val="links", value=[link.build() for link in _links(targets)])]
        )
    return _finished(panel.build(), title, description, columns[0].unit, (), width=width, height=height)


def _target(place: int, query: Query, *, instant: bool = False, rows: bool = False) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(REF_IDS[place]).expr(query.expr).datasource(DATASOURCE)
    target.format(PromQueryFormat.TABLE if rows else PromQueryFormat.TIME_SERIES)
    if query.legend:
        target.legend_format(query.legend)
    if query.exemplar:
        target.exemplar(True)
    return target.instant() if instant else target.range()


def _links(links: Sequence[Link]) -> list[Builder[model.DashboardLink]]:
    return [dashboard.DashboardLink(title).url(url) for title, url in links]


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=value, color=colour) for value, colour in limits]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _finished(
    panel: model.Panel, title: str, description: str, unit: str, limits: Limits, *, width: int, height: int
) -> model.Panel:
    panel.id_val = stable_id(title)
    panel.title, panel.description = title, description
    panel.datasource = DATASOURCE
    panel.grid_pos = model.GridPos(w=width, h=height)
    panel.field_config = panel.field_config or model.FieldConfigSource()
    panel.field_config.defaults.unit = unit
    if limits:
        panel.field_config.defaults.thresholds = _thresholds(limits).build()
    return panel


def stable_id(title: str) -> int:
    """Return a number that stays with a title. The linter refuses two that are the same in one dashboard."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1
