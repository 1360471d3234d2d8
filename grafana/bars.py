"""Panels of bars and of cells: one function per type."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import barchart, bargauge, common
from grafana_foundation_sdk.builders import heatmap as heatmap_sdk
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    BarGaugeDisplayMode,
    BarGaugeNamePlacement,
    BarGaugeValueMode,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import Panel
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

from grafana.panels import finish, legend
from grafana.style import Query


def heatmap(title: str, description: str, unit: str, y_unit: str, query: Query, **more: Any) -> Panel:
    """Return the buckets of a histogram over time, as cells whose colour is their value; empty ones have none."""
    builder = (
        heatmap_sdk.Panel()
        .calculate(False)
        .color(heatmap_sdk.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32).exponent(0.5))
        .cell_gap(1)
        .filter_values(heatmap_sdk.FilterValueRange().le(1e-9))
        .y_axis(heatmap_sdk.YAxisConfig().unit(y_unit).axis_placement(AxisPlacement.LEFT))
        .cell_values(heatmap_sdk.CellValues().unit(unit))
        .tooltip(heatmap_sdk.HeatmapTooltip().mode(TooltipDisplayMode.SINGLE).y_histogram(False))
        .hide_legend()
    )
    return finish(builder, title, description, unit, [query], **more)


def bar_chart(
    title: str, description: str, unit: str, *queries: Query, by: str, stacked: bool = False, **more: Any
) -> Panel:
    """Return vertical bars, by a text field: beside each other or ``stacked``. Labels without room are left out."""
    builder = (
        barchart.Panel()
        .x_field(by)
        .orientation(VizOrientation.VERTICAL)
        .show_value(VisibilityMode.NEVER)
        .stacking(StackingMode.NORMAL if stacked else StackingMode.NONE)
        .group_width(0.85)
        .bar_width(0.95)
        .line_width(1)
        .fill_opacity(85)
        .x_tick_label_rotation(0)
        .x_tick_label_max_length(12)
        .x_tick_label_spacing(100)
        .legend(legend(values=False))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.NONE))
    )
    return finish(builder, title, description, unit, queries, **more)


def bar_gauge(title: str, description: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """Return horizontal bars, each with its name and number."""
    builder = (
        bargauge.Panel()
        .display_mode(BarGaugeDisplayMode.BASIC)
        .value_mode(BarGaugeValueMode.TEXT)
        .name_placement(BarGaugeNamePlacement.LEFT)
        .show_unfilled(True)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    )
    return finish(builder, title, description, unit, queries, **more)
