"""Panels: one function per type, and what they share. A dashboard gives them their identifiers and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from grafana_foundation_sdk.builders import barchart, bargauge, common, dashboard, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import heatmap as heatmap_sdk
from grafana_foundation_sdk.builders import stat as stat_sdk
from grafana_foundation_sdk.builders import table as table_sdk
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OK, INFO, WARNING, CRITICAL = "green", "blue", "orange", "red"
NEUTRAL = "#7d9bd1"
DARKER = "#4468b0"
GREY = "#8e8e99"

COUNT = "short"
WHOLE = "locale"
PER_SECOND = "reqps"
EVENTS_PER_SECOND = "suffix:/s"
SECONDS = "s"
HOURS = "suffix:h"
POINTS = "suffix:points"
SHARE = "percentunit"
BYTES = "bytes"
NATS = "suffix:nats"
DEVIATIONS = "suffix:σ"
BARE = "none"
TEXT = "string"
SINCE = "dateTimeFromNow"

NO_PROFILE = "no profile"

DATASOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

REFS = "ABCDEFGHIJKLMNOPQRST"


@dataclass(frozen=True)
class Query:
    """One expression of a panel.

    Attributes
    ----------
    expr
        PromQL.
    legend
        Name of the series, with ``{{label}}`` for labels.
    kind
        Evaluated over the time range, also as buckets of a heatmap, or at its end, also as rows of a table or buckets
        of a histogram.
    role
        How to draw it: a value, one of several series by rank, a value of an older version, a bound of a value's
        interval, a threshold, a past value, or a training value.
    """

    expr: str
    legend: str = "__auto"
    kind: Literal["range", "heatmap", "instant", "table", "buckets"] = "range"
    role: Literal["value", "ranked", "older", "bound", "threshold", "past", "reference"] = "value"


@dataclass(frozen=True)
class Link:
    """A link from a value, or from a panel's title."""

    title: str
    url: str
    outside: bool = False


def setting(name: str, value: object) -> models.DynamicConfigValue:
    """Return a field setting for an override."""
    return models.DynamicConfigValue(id_val=name, value=value)


def linked(link: Link) -> models.DynamicConfigValue:
    """Return the setting of a table's column whose cells are links."""
    return setting("links", [{"title": link.title, "url": link.url, "targetBlank": link.outside}])


NO_TICK_TEXT = setting("noValue", "\u200b")
"""Hides the text for no data, which a logarithmic axis writes at each tick without a number.

An empty text or a blank would be the number 0 to Grafana, which would then draw a 0 for each missing value.
"""


NO_NEGATIVE_TICK: list[models.ValueMapping] = [
    models.RangeMap(options=models.DashboardRangeMapOptions(to=-1e-12, result=models.ValueMappingResult(text="\u200b")))
]
"""Hides the tick below 0 that a logarithmic axis with a linear part writes, of values that are never negative."""


NOT_IN_LEGEND = setting("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False})
"""Leaves series out of the legend, which has no room for all."""


def for_field(
    name: str, *settings: models.DynamicConfigValue, **more: object
) -> tuple[models.MatcherConfig, list[models.DynamicConfigValue]]:
    """Return settings of the field with a name; ``width`` and ``minWidth`` are those of a table's column."""
    named = [setting(f"custom.{key}" if key.lower().endswith("width") else key, value) for key, value in more.items()]
    return models.MatcherConfig(id_val="byName", options=name), [*named, *settings]


def for_query(
    index: int, *settings: models.DynamicConfigValue
) -> tuple[models.MatcherConfig, list[models.DynamicConfigValue]]:
    """Return settings of all series of a query, by its position in the panel."""
    return models.MatcherConfig(id_val="byFrameRefID", options=REFS[index]), list(settings)


Override = tuple[models.MatcherConfig, list[models.DynamicConfigValue]]


def transformation(name: str, *, queries: str | None = None, **options: object) -> models.DataTransformerConfig:
    """Return a transformation of all queries, or of those whose reference matches a regular expression."""
    chosen = None if queries is None else models.MatcherConfig(id_val="byRefId", options=f"/^(?:{queries})$/")
    return models.DataTransformerConfig(id_val=name, filter_val=chosen, options=options)


STATES = {
    "OK": OK,
    "no traffic": GREY,
    "info": INFO,
    "pending": INFO,
    "warning": WARNING,
    "unknown": GREY,
    "critical": CRITICAL,
}
"""States by their numbers, the worst last: ``no traffic`` without any prediction in the last hour, ``unknown`` if
its alerts are not evaluated."""
SUCCESS = {"failed": CRITICAL, "OK": OK}


def value_mappings(names: Mapping[str, str]) -> list[models.ValueMapping]:
    """Return a mapping of the numbers from 0 to texts in their colours, without numbers that have no name."""
    options = {
        str(number): models.ValueMappingResult(text=name, color=colour, index=number)
        for number, (name, colour) in enumerate(names.items())
        if name
    }
    return [models.ValueMap(options=options)]


_GAP = models.SpecialValueMap(
    options=models.DashboardSpecialValueMapOptions(
        match=models.SpecialValueMatch.NULL_AND_NAN,
        result=models.ValueMappingResult(text="no data", color="transparent"),
    )
)
"""A gap, which the legend names."""


def state_cell(shown: Mapping[str, tuple[str, str]], cell: str = "color-text") -> list[models.DynamicConfigValue]:
    """Return settings of a table's column of states: the text and the colour of each value."""
    options = {
        value: {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(shown.items())
    }
    return [
        setting("mappings", [{"type": "value", "options": options}]),
        setting("color", {"mode": "thresholds"}),
        setting("custom.align", "left"),
        setting(
            "custom.cellOptions", {"type": cell, "mode": "basic"} if cell == "color-background" else {"type": cell}
        ),
    ]


def state_column() -> list[models.DynamicConfigValue]:
    """Return settings of a table's column of numbers of `STATES`."""
    shown = {str(number): (name, colour) for number, (name, colour) in enumerate(STATES.items())}
    return state_cell(shown, "color-background")


def marked_cell() -> list[models.DynamicConfigValue]:
    """Return settings of a table's column of texts that end with the mark of a state: !! critical, ! warning."""
    marks = {"/!!$/": CRITICAL, "/!$/": WARNING}
    mappings = [
        {"type": "regex", "options": {"pattern": pattern, "result": {"color": colour, "index": index}}}
        for index, (pattern, colour) in enumerate(marks.items())
    ]
    return [
        setting("unit", TEXT),
        setting("mappings", mappings),
        setting("color", {"mode": "fixed", "fixedColor": "text"}),
        setting("custom.cellOptions", {"type": "color-text"}),
    ]


PALETTE = ("#56b4e9", "#997700", "#cc79a7", "#0072b2", "#ccbb44", "#aa3377")
"""Colours of Okabe and Ito (2008) and of Tol (2021) that are not those of states.

All pairs differ by at least 18 (CIE 1976), also with each form of colour blindness, and each has a contrast of at least
1.9 with the dark and the light background of Grafana. Grafana's own palettes contain the colours of states.
"""


def palette(index: int) -> list[models.DynamicConfigValue]:
    """Return the colour of a series by its position; from the seventh on, lines are dashed."""
    colour = setting("color", {"mode": "fixed", "fixedColor": PALETTE[index % len(PALETTE)]})
    if index < len(PALETTE):
        return [colour]
    return [colour, setting("custom.lineStyle", {"fill": "dash", "dash": [14, 5]})]


def named_series(names: Sequence[str]) -> list[Override]:
    """Return overrides that give each of these series its colour of the palette, whichever of them there are."""
    return [(models.MatcherConfig(id_val="byName", options=name), palette(index)) for index, name in enumerate(names)]


def matching_series(colours: Mapping[str, str]) -> list[Override]:
    """Return overrides for the series whose names match regular expressions, each with its colour."""
    return [
        (
            models.MatcherConfig(id_val="byRegexp", options=f"/{pattern}/"),
            [setting("color", {"mode": "fixed", "fixedColor": colour})],
        )
        for pattern, colour in colours.items()
    ]


def _line(colour: str, dash: list[int] | None = None) -> list[models.DynamicConfigValue]:
    return [
        setting("color", {"mode": "fixed", "fixedColor": colour}),
        *([setting("custom.lineStyle", {"fill": "dash", "dash": dash})] if dash else []),
        setting("custom.lineWidth", 1),
        setting("custom.fillOpacity", 0),
        setting("custom.showPoints", "never"),
    ]


ROLES: dict[str, list[models.DynamicConfigValue]] = {
    "older": [setting("color", {"mode": "shades", "fixedColor": DARKER}), setting("custom.lineWidth", 1)],
    "bound": _line(NEUTRAL),
    "threshold": _line(CRITICAL, dash=[8, 6]),
    "past": _line(GREY, dash=[3, 4]),
    "reference": _line(GREY),
}


class _Targets(Protocol):
    def build(self) -> models.Panel: ...


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
    unit: str,
    queries: Sequence[Query],
    *,
    empty: str = "",
    overrides: Sequence[Override] = (),
    transformations: Sequence[models.DataTransformerConfig] = (),
    links: Sequence[Link] = (),
    value_links: Sequence[Link] = (),
    mappings: Sequence[models.ValueMapping] = (),
    decimals: int | None = None,
    least: float | None = None,
    most: float | None = None,
    state: bool = False,
) -> models.Panel:
    """Set what panels of all types share; ``empty`` says which models have no data."""
    panel = builder.build()
    panel.title, panel.description = title, f"No data: {empty}." if empty else ""
    panel.datasource = DATASOURCE
    panel.repeat_direction = None
    panel.targets = [_target(query, ref).build() for query, ref in zip(queries, REFS, strict=False)]
    panel.transformations = list(transformations) or None
    panel.links = [_link(link) for link in links] or None
    config = panel.field_config = panel.field_config or models.FieldConfigSource()
    field = config.defaults = config.defaults or models.FieldConfig()
    field.unit, field.no_value, field.decimals = unit, "no data", decimals
    field.min_val, field.max_val = least, most
    field.mappings = list(mappings)
    field.links = [_link(link) for link in value_links] or None
    # One step without a number: series show thresholds, not the panel.
    field.thresholds = (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=None, color=GREY if state else NEUTRAL)])
        .build()
    )
    field.color = dashboard.FieldColor().mode(models.FieldColorModeId.SHADES).fixed_color(NEUTRAL).build()
    if state:
        field.color = dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS).build()
    elif isinstance(builder, bargauge.Panel):  # different shades of bars would suggest a meaning
        field.color.mode = models.FieldColorModeId.FIXED
    roles = [for_query(i, *ROLES[query.role]) for i, query in enumerate(queries) if query.role in ROLES]
    config.overrides = [
        dashboard.DashboardFieldConfigSourceOverrides().matcher(matcher).properties(settings).build()
        for matcher, settings in [*roles, *overrides]
    ]
    return panel


def _link(link: Link) -> models.DashboardLink:
    built = dashboard.DashboardLink(link.title).url(link.url).target_blank(link.outside).build()
    built.placement = None  # type: ignore[assignment]  # in sight, not in a menu
    return built


def legend(*, values: bool = True) -> common.VizLegendOptions:
    """Return a legend below the lines, each with its last value."""
    options = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull"] if values else [])
    return options.display_mode(common_models.LegendDisplayMode.LIST).placement(common_models.LegendPlacement.BOTTOM)


def time_series(
    title: str,
    unit: str,
    *queries: Query,
    stepped: bool = False,
    values: bool = True,
    top: float | None = None,
    least: float | None = 0,
    logarithmic_from: float | None = None,
    of_numbers: Sequence[Query] = (),
    **more: Any,
) -> models.Panel:
    """Return lines over time. The legend shows each last value, unless there are too many lines.

    A regression has ``of_numbers`` in the place of the others, of any sign and in the unit of its label.

    The axis reaches at least ``top``. Otherwise a series of zeros would get a scale up to 100. With
    ``logarithmic_from``, it is logarithmic from this value on and linear below, for values far below their threshold.
    """
    builder = (
        timeseries.Panel()
        .legend(legend(values=values))
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .line_width(2)
        .fill_opacity(0)
        .show_points(common_models.VisibilityMode.AUTO)
        .span_nulls(False)
    )
    if top is not None:
        builder = builder.axis_soft_max(top)
    if logarithmic_from is not None:
        scale = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.SYMLOG).log(10)
        builder = builder.scale_distribution(scale.linear_threshold(logarithmic_from))
    if stepped:
        builder = builder.line_interpolation(common_models.LineInterpolation.STEP_AFTER)
    # The axis contains 0, which says how far from it a bias is.
    of_axis = [setting("unit", COUNT), setting("custom.axisSoftMin", 0), setting("custom.axisSoftMax", 0)]
    in_units = [for_query(len(queries) + i, *of_axis) for i in range(len(of_numbers))]
    queries = (*queries, *of_numbers)
    # What a classification and a regression have in the same place has the same name and colour.
    keys = {i: one.legend for i, one in enumerate(queries) if one.role == "value" and "{{" not in one.legend}
    keys |= {i: str(i) for i, one in enumerate(queries) if one.role == "ranked"}
    order = list(dict.fromkeys(keys.values()))
    overrides = [for_query(i, *palette(order.index(key))) for i, key in keys.items()] if len(order) > 1 else []
    if logarithmic_from is not None:
        overrides.append((models.MatcherConfig(id_val="byType", options="number"), [NO_TICK_TEXT]))
        more.setdefault("mappings", NO_NEGATIVE_TICK)
    overrides = [*overrides, *more.pop("overrides", ()), *in_units]
    least = None if of_numbers else least
    return finish(builder, title, unit, queries, overrides=overrides, least=least, **more)


def stat(
    title: str,
    unit: str,
    *queries: Query,
    state: bool = False,
    stacked: bool = False,
    named: bool = True,
    coloured: bool = False,
    sentences: bool = False,
    sizes: tuple[int, int] | None = None,
    **more: Any,
) -> models.Panel:
    """Return large numbers, one per series, with their names if ``named``; ``stacked`` vertically if there is room.

    Names alone are shown if they are ``sentences``. ``sizes`` are those of names and numbers, in pixels.

    Without a title, a name is beside its number.

    Overrides determine the colours of those that are ``coloured``; the text for no data is grey.
    """
    plain = common_models.BigValueColorMode.VALUE if coloured else common_models.BigValueColorMode.NONE
    text = common_models.BigValueTextMode.VALUE_AND_NAME if named else common_models.BigValueTextMode.VALUE
    builder = (
        stat_sdk.Panel()
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.BACKGROUND if state else plain)
        .justify_mode(common_models.BigValueJustifyMode.AUTO if title else common_models.BigValueJustifyMode.CENTER)
        .text_mode(common_models.BigValueTextMode.NAME if sentences else text)
        .orientation(common_models.VizOrientation.HORIZONTAL if stacked else common_models.VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    )
    if sentences:  # the largest size at which one has room in a line
        sizes = 22, 22
    elif stacked or state:  # one size, so that panels of any width look alike
        sizes = 13, 18 if state else 20
    elif sizes and title:  # names above numbers at any width
        builder = builder.wide_layout(False)
    if sizes:
        builder = builder.text(common.VizTextDisplayOptions().title_size(sizes[0]).value_size(sizes[1]))
    return finish(builder, title, unit, queries, state=state or coloured, **more)


def state_timeline(
    title: str,
    *queries: Query,
    names: Mapping[str, str],
    levels: Sequence[models.ValueMapping] = (),
    **more: Any,
) -> models.Panel:
    """Return states over time, one row per series. A text in a state would be cut, so that the legend has them.

    States are the numbers of ``names``, or have the colours of ``levels``.
    """
    builder = (
        statetimeline.Panel()
        .show_value(common_models.VisibilityMode.NEVER)
        .row_height(0.8)
        .merge_values(True)
        .fill_opacity(85)
        .line_width(0)
        .legend(legend(values=False))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.SINGLE))
    )
    panel = finish(builder, title, BARE, queries, mappings=[*(levels or value_mappings(names)), _GAP], **more)
    options: Any = panel.options
    options.per_page = 0  # no pager
    return panel


def table(title: str, unit: str, *queries: Query, sort: Sequence[str] = (), **more: Any) -> models.Panel:
    """Return a table, sorted by columns in descending order, or in ascending order where a name begins with ``+``."""
    builder = table_sdk.Panel().sort_by(
        [
            common.TableSortByFieldState().display_name(name.removeprefix("+")).desc(not name.startswith("+"))
            for name in sort
        ]
    )
    # A filter's icons would cover the link under the pointer.
    unfiltered = models.MatcherConfig(id_val="byType", options="string"), [setting("filterable", False)]
    panel = finish(builder, title, unit, queries, overrides=[unfiltered, *more.pop("overrides", ())], **more)
    options: Any = panel.options
    options.footer = None
    return panel


def heatmap(title: str, unit: str, y_unit: str, query: Query, **more: Any) -> models.Panel:
    """Return the buckets of a histogram over time, as cells whose colour is their value; empty ones have none."""
    builder = (
        heatmap_sdk.Panel()
        .calculate(False)
        .color(heatmap_sdk.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32).exponent(0.5))
        .cell_gap(1)
        .filter_values(heatmap_sdk.FilterValueRange().le(1e-9))
        .y_axis(heatmap_sdk.YAxisConfig().unit(y_unit).axis_placement(common_models.AxisPlacement.LEFT))
        .cell_values(heatmap_sdk.CellValues().unit(unit))
        .tooltip(heatmap_sdk.HeatmapTooltip().mode(common_models.TooltipDisplayMode.SINGLE).y_histogram(False))
        .hide_legend()
    )
    return finish(builder, title, unit, [query], **more)


def bar_chart(title: str, unit: str, *queries: Query, by: str, stacked: bool = False, **more: Any) -> models.Panel:
    """Return vertical bars, by a text field: beside each other or ``stacked``. Labels without room are left out."""
    builder = (
        barchart.Panel()
        .x_field(by)
        .orientation(common_models.VizOrientation.VERTICAL)
        .show_value(common_models.VisibilityMode.NEVER)
        .stacking(common_models.StackingMode.NORMAL if stacked else common_models.StackingMode.NONE)
        .group_width(0.85)
        .bar_width(0.95)
        .line_width(1)
        .fill_opacity(85)
        .x_tick_label_rotation(0)
        .x_tick_label_max_length(12)
        .x_tick_label_spacing(100)
        .legend(legend(values=False))
        .tooltip(
            common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.NONE)
        )
    )
    return finish(builder, title, unit, queries, **more)


def bar_gauge(title: str, unit: str, *queries: Query, **more: Any) -> models.Panel:
    """Return horizontal bars, each with its name and number."""
    builder = (
        bargauge.Panel()
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .value_mode(common_models.BarGaugeValueMode.TEXT)
        .name_placement(common_models.BarGaugeNamePlacement.LEFT)
        .show_unfilled(True)
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .text(common.VizTextDisplayOptions().title_size(13).value_size(16))
    )
    return finish(builder, title, unit, queries, **more)


@dataclass(frozen=True)
class Form:
    """How a number becomes a text: scaled to a whole number, which a regular expression takes apart."""

    scaled: str
    pattern: str
    text: str


PERCENT = Form("1000000000 + round(10000 * ({}))", "10{0,6}(.+)(..)", "$1.$2%")
TENTHS_PERCENT = Form("1000000000 + round(1000 * ({}))", "10{0,7}(.+)(.)", "$1.$2%")
HUNDREDTHS = Form("1000000000 + round(100 * ({}))", "10{0,6}(.+)(..)", "$1.$2")
"""The leading 1 keeps the zeros of numbers below 1."""
DEVIATIONS_CELL = Form("round({}, 0.1)", "(.+)", "$1 σ")
MILLISECONDS = Form("round(1000 * ({}))", "(.+)", "$1 ms")
DIGITS = Form("round({}, 0.001)", "(-?(?:[0-9]{3,}|[0-9]{2}[.][0-9]|[0-9][.][0-9]{2}|[0-9.]+)).*", "$1")
"""Three digits or more, of any unit."""
OF_DIGITS, BIAS = replace(DIGITS, text=" of $1"), replace(DIGITS, text="bias $1")


def as_label(expr: str, label: str, form: Form, by: str = "model", mark: str = "") -> str:
    """Return an expression that has each value of ``expr`` as the text of a label."""
    counted = f'count_values by ({by}) ("{label}", {form.scaled.format(expr)})'
    return f'label_replace({counted}, "{label}", "{form.text}{mark}", "{label}", "{form.pattern}")'


def marked(expr: str, beyond: str, label: str, form: Form, mark: str) -> str:
    """Return values as texts, with a mark where ``beyond``, such as ``> on (model) t``, leaves a value of ``expr``."""
    return f"{as_label(f'{expr} {beyond}', label, form, mark=f' {mark}')} or on (model) {as_label(expr, label, form)}"
