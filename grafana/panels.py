"""Panels: one function per type, and what they share. A dashboard gives them their identifiers and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import stat as stat_sdk
from grafana_foundation_sdk.builders import table as table_sdk
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueJustifyMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    ScaleDistribution,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLink,
    DataTransformerConfig,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    MatcherConfig,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMapping,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.style import (
    BARE,
    DATASOURCE,
    GREY,
    NEUTRAL,
    NO_TICK_TEXT,
    REFS,
    ROLES,
    Link,
    Override,
    Query,
    for_query,
    palette,
    value_mappings,
)


class _Targets(Protocol):
    def build(self) -> Panel: ...


_FORMATS = {
    "range": PromQueryFormat.TIME_SERIES,
    "heatmap": PromQueryFormat.HEATMAP,
    "instant": PromQueryFormat.TIME_SERIES,
    "table": PromQueryFormat.TABLE,
    "buckets": PromQueryFormat.HEATMAP,
}


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).datasource(DATASOURCE)
    if query.kind in {"range", "heatmap"}:
        return target.range().format(_FORMATS[query.kind])
    return target.instant().format(_FORMATS[query.kind])


def finish(
    builder: _Targets,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    empty: str,
    overrides: Sequence[Override] = (),
    transformations: Sequence[DataTransformerConfig] = (),
    links: Sequence[Link] = (),
    value_links: Sequence[Link] = (),
    mappings: Sequence[ValueMapping] = (),
    decimals: int | None = None,
    least: float | None = None,
    most: float | None = None,
    state: bool = False,
) -> Panel:
    """Set what panels of all types share."""
    panel = builder.build()
    panel.title, panel.description = title, description
    panel.datasource = DATASOURCE
    panel.repeat_direction = None
    panel.targets = [_target(query, ref).build() for query, ref in zip(queries, REFS, strict=False)]
    panel.transformations = list(transformations) or None
    panel.links = [_link(link) for link in links] or None
    config = panel.field_config = panel.field_config or FieldConfigSource()
    field = config.defaults = config.defaults or FieldConfig()
    field.unit, field.no_value, field.decimals = unit, empty, decimals
    field.min_val, field.max_val = least, most
    field.mappings = list(mappings)
    field.links = [_link(link) for link in value_links] or None
    # One step without a number: series show thresholds, not the panel.
    field.thresholds = (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=None, color=GREY if state else NEUTRAL)])
        .build()
    )
    field.color = dashboard.FieldColor().mode(FieldColorModeId.SHADES).fixed_color(NEUTRAL).build()
    if state:
        field.color = dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS).build()
    elif isinstance(builder, bargauge.Panel):  # different shades of bars would suggest a meaning
        field.color.mode = FieldColorModeId.FIXED
    roles = [for_query(i, *ROLES[query.role]) for i, query in enumerate(queries) if query.role in ROLES]
    config.overrides = [
        dashboard.DashboardFieldConfigSourceOverrides().matcher(matcher).properties(settings).build()
        for matcher, settings in [*roles, *overrides]
    ]
    return panel


def _link(link: Link) -> DashboardLink:
    built = dashboard.DashboardLink(link.title).url(link.url).target_blank(link.outside).build()
    built.placement = None  # type: ignore[assignment]  # in sight, not in a menu
    return built


def legend(*, values: bool = True) -> common.VizLegendOptions:
    """Return a legend below the lines, each with its last value."""
    options = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull"] if values else [])
    return options.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)


def time_series(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stepped: bool = False,
    values: bool = True,
    top: float | None = None,
    least: float | None = 0,
    logarithmic_from: float | None = None,
    **more: Any,
) -> Panel:
    """Return lines over time. The legend shows each last value, unless there are too many lines.

    The axis reaches at least ``top``. Otherwise a series of zeros would get a scale up to 100. With
    ``logarithmic_from``, it is logarithmic from this value on and linear below, for values far below their threshold.
    """
    builder = (
        timeseries.Panel()
        .legend(legend(values=values))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .line_width(2)
        .fill_opacity(0)
        .show_points(VisibilityMode.AUTO)
        .span_nulls(False)
    )
    if top is not None:
        builder = builder.axis_soft_max(top)
    if logarithmic_from is not None:
        scale = common.ScaleDistributionConfig().type(ScaleDistribution.SYMLOG).log(10)
        builder = builder.scale_distribution(scale.linear_threshold(logarithmic_from))
    if stepped:
        builder = builder.line_interpolation(LineInterpolation.STEP_AFTER)
    named = [query.role == "value" and "{{" not in query.legend for query in queries]
    single = [i for i, query in enumerate(queries) if query.role == "ranked" or named[i]]
    overrides = [for_query(i, *palette(place)) for place, i in enumerate(single)] if len(single) > 1 else []
    if logarithmic_from is not None:
        overrides.append((MatcherConfig(id_val="byType", options="number"), [NO_TICK_TEXT]))
    overrides = [*overrides, *more.pop("overrides", ())]
    return finish(builder, title, description, unit, queries, overrides=overrides, least=least, **more)


def stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    state: bool = False,
    stacked: bool = False,
    named: bool = True,
    coloured: bool = False,
    sentences: bool = False,
    **more: Any,
) -> Panel:
    """Return large numbers, one per series, with their names if ``named``; ``stacked`` vertically if there is room.

    Names alone are shown if they are ``sentences``.

    Overrides determine the colours of those that are ``coloured``; the text for no data is grey.
    """
    plain = BigValueColorMode.VALUE if coloured else BigValueColorMode.NONE
    text = BigValueTextMode.VALUE_AND_NAME if named else BigValueTextMode.VALUE
    builder = (
        stat_sdk.Panel()
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND if state else plain)
        .justify_mode(BigValueJustifyMode.AUTO)
        .text_mode(BigValueTextMode.NAME if sentences else text)
        .orientation(VizOrientation.HORIZONTAL if stacked else VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    )
    if sentences:  # the largest size at which one has room in a line
        builder = builder.text(common.VizTextDisplayOptions().title_size(22).value_size(22))
    elif stacked or state:  # one size, so that panels of any width look alike
        builder = builder.text(common.VizTextDisplayOptions().title_size(13).value_size(18 if state else 20))
    return finish(builder, title, description, unit, queries, state=state or coloured, **more)


def state_timeline(
    title: str,
    description: str,
    *queries: Query,
    names: Mapping[str, str],
    levels: Sequence[ValueMapping] = (),
    show_values: bool = True,
    **more: Any,
) -> Panel:
    """Return states over time, one row per series, with texts if ``show_values``.

    States are the numbers of ``names``, or have the colours of ``levels``.
    """
    builder = (
        statetimeline.Panel()
        .show_value(VisibilityMode.AUTO if show_values else VisibilityMode.NEVER)
        .row_height(0.8)
        .merge_values(True)
        .fill_opacity(85)
        .line_width(0)
        .legend(common.VizLegendOptions().show_legend(False))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE))
    )
    return finish(builder, title, description, BARE, queries, mappings=levels or value_mappings(names), **more)


def table(title: str, description: str, unit: str, *queries: Query, sort: Sequence[str] = (), **more: Any) -> Panel:
    """Return a table, sorted by columns in descending order, or in ascending order where a name begins with ``+``."""
    builder = table_sdk.Panel().sort_by(
        [
            common.TableSortByFieldState().display_name(name.removeprefix("+")).desc(not name.startswith("+"))
            for name in sort
        ]
    )
    panel = finish(builder, title, description, unit, queries, **more)
    options: Any = panel.options
    options.footer = None
    return panel
