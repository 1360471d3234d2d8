"""Colours, units, texts and the small parts of a panel.

Colour means state: green, blue, orange and red are ok, info, warning and critical. A threshold is red and dashed.
One value, and the versions of a model, are in shades of a neutral blue; comparisons are grey. Series of different
kinds, such as features, windows and event kinds, have the colours of `PALETTE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    MatcherConfig,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

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

NO_PROFILE = "no profile, or no data"

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

REFS = "ABCDEFGHIJKLMNOP"


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


def setting(name: str, value: object) -> DynamicConfigValue:
    """Return a field setting for an override."""
    return DynamicConfigValue(id_val=name, value=value)


NO_TICK_TEXT = setting("noValue", "\u200b")
"""Hides the text for no data, which a logarithmic axis writes at each tick without a number.

An empty text or a blank would be the number 0 to Grafana, which would then draw a 0 for each missing value.
"""


NOT_IN_LEGEND = setting("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False})
"""Leaves series out of the legend, which has no room for all."""


def for_field(
    name: str, *settings: DynamicConfigValue, **more: object
) -> tuple[MatcherConfig, list[DynamicConfigValue]]:
    """Return settings of the field with a name; ``width`` and ``minWidth`` are those of a table's column."""
    named = [setting(f"custom.{key}" if key.lower().endswith("width") else key, value) for key, value in more.items()]
    return MatcherConfig(id_val="byName", options=name), [*named, *settings]


def for_query(index: int, *settings: DynamicConfigValue) -> tuple[MatcherConfig, list[DynamicConfigValue]]:
    """Return settings of all series of a query, by its position in the panel."""
    return MatcherConfig(id_val="byFrameRefID", options=REFS[index]), list(settings)


Override = tuple[MatcherConfig, list[DynamicConfigValue]]


def transformation(name: str, *, queries: str | None = None, **options: object) -> DataTransformerConfig:
    """Return a transformation of all queries, or of those whose reference matches a regular expression."""
    chosen = None if queries is None else MatcherConfig(id_val="byRefId", options=f"/^(?:{queries})$/")
    return DataTransformerConfig(id_val=name, filter_val=chosen, options=options)


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


def value_mappings(names: Mapping[str, str]) -> list[ValueMapping]:
    """Return a mapping of the numbers from 0 to texts in their colours, without numbers that have no name."""
    options = {
        str(number): ValueMappingResult(text=name, color=colour, index=number)
        for number, (name, colour) in enumerate(names.items())
        if name
    }
    return [ValueMap(options=options)]


def state_cell(shown: Mapping[str, tuple[str, str]], cell: str = "color-text") -> list[DynamicConfigValue]:
    """Return settings of a table's column of states: the text and the colour of each value."""
    options = {
        value: {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(shown.items())
    }
    return [
        setting("mappings", [{"type": "value", "options": options}]),
        setting("color", {"mode": "thresholds"}),
        setting(
            "custom.cellOptions", {"type": cell, "mode": "basic"} if cell == "color-background" else {"type": cell}
        ),
    ]


def state_column() -> list[DynamicConfigValue]:
    """Return settings of a table's column of numbers of `STATES`."""
    shown = {str(number): (name, colour) for number, (name, colour) in enumerate(STATES.items())}
    return state_cell(shown, "color-background")


def marked_cell() -> list[DynamicConfigValue]:
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


def palette(index: int) -> list[DynamicConfigValue]:
    """Return the colour of a series by its position; from the seventh on, lines are dashed."""
    colour = setting("color", {"mode": "fixed", "fixedColor": PALETTE[index % len(PALETTE)]})
    if index < len(PALETTE):
        return [colour]
    return [colour, setting("custom.lineStyle", {"fill": "dash", "dash": [14, 5]})]


def named_series(names: Sequence[str]) -> list[Override]:
    """Return overrides that give each of these series its colour of the palette, whichever of them there are."""
    return [(MatcherConfig(id_val="byName", options=name), palette(index)) for index, name in enumerate(names)]


def matching_series(colours: Mapping[str, str]) -> list[Override]:
    """Return overrides for the series whose names match regular expressions, each with its colour."""
    return [
        (
            MatcherConfig(id_val="byRegexp", options=f"/{pattern}/"),
            [setting("color", {"mode": "fixed", "fixedColor": colour})],
        )
        for pattern, colour in colours.items()
    ]


def _line(colour: str, dash: list[int] | None = None) -> list[DynamicConfigValue]:
    return [
        setting("color", {"mode": "fixed", "fixedColor": colour}),
        *([setting("custom.lineStyle", {"fill": "dash", "dash": dash})] if dash else []),
        setting("custom.lineWidth", 1),
        setting("custom.fillOpacity", 0),
        setting("custom.showPoints", "never"),
    ]


ROLES: dict[str, list[DynamicConfigValue]] = {
    "older": [setting("color", {"mode": "shades", "fixedColor": DARKER}), setting("custom.lineWidth", 1)],
    "bound": _line(NEUTRAL),
    "threshold": _line(CRITICAL, dash=[8, 6]),
    "past": _line(GREY, dash=[3, 4]),
    "reference": _line(GREY),
}
