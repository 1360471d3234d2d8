"""One feature in detail, in the dashboard Data and drift."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, Panel

from grafana import layout
from grafana.bars import bar_chart
from grafana.panels import time_series
from grafana.queries import BOTH, DAY_AGO, FEATURE, MODEL, WINDOW, increase
from grafana.style import (
    COUNT,
    GREY,
    NATS,
    NEUTRAL,
    NO_PROFILE,
    NO_TICK_TEXT,
    SHARE,
    TEXT,
    Query,
    for_field,
    for_query,
    setting,
    transformation,
)

_ONE = f"{BOTH},{FEATURE}"
_WINDOWED = f"{_ONE},{WINDOW}"
_NO_BINS = f"{NO_PROFILE}, or metrics: summary"
_DRIFT = layout.page_link("drift", "Explanation", layout.VERSIONS, model="model", window="window", feature="feature")


_NUMBER = r"(-?0\\.0*[1-9][0-9]?|-?[0-9]{3,}|-?[0-9]{1,2}(?:\\.[0-9]{1,2})?)[.0-9]*(e[-+]?[0-9]+)?"
"""A number, in groups that hold it with few digits."""
_EDGE = rf"[0-9]+ [\\[(]{_NUMBER}, .*"
"""The bin ``07 [0.526316, 1.25)``, with its lower edge."""


def _short(expr: str) -> str:
    """Return the expression with a short label ``edge`` beside ``bin``: the lower edge, or the category."""
    named = f'label_replace({expr}, "edge", "$1", "bin", "[0-9]+ (.+)")'
    for text, sign in (("below", "<"), ("above", ">")):
        named = f'label_replace({named}, "edge", "{sign} $1$2", "bin", "[0-9]+ {text} {_NUMBER}")'
    return f'label_replace({named}, "edge", "$1$2", "bin", "{_EDGE}")'


_GROWN = increase("model_feature_observations_total", _ONE, "bin")
_TRAINED = f"max by (version, bin) (avg_over_time(model_feature_reference_probability{{{_ONE}}}[$__range]))"
_LIVE_SHARE = f"{_GROWN} / on () group_left () (sum({_GROWN}) > 0)"
_TRAINED_SHARE = f"sum by (bin) ({_TRAINED}) / on () group_left () sum({_TRAINED})"


def _by_bin(**columns: str) -> list[DataTransformerConfig]:
    """Return transformations to a row for each bin, in the order of the bins."""
    return [
        transformation("merge"),
        transformation("sortBy", fields={}, sort=[{"field": "bin"}]),
        transformation("organize", excludeByName={"Time": True, "bin": True}, renameByName=columns),
    ]


def histogram() -> Panel:
    outline = [setting("custom.fillOpacity", 0), setting("custom.lineWidth", 2)]
    return bar_chart(
        "$feature: live values over training ones",
        (
            "Share of values in each bin, for all replicas over the whole time range, filled, and in training, "
            "outlined. A label is the lower edge of a numeric bin. The profile fixes the bins."
        ),
        SHARE,
        Query(_short(_LIVE_SHARE), "live", "table"),
        Query(_short(_TRAINED_SHARE), "training", "table"),
        by="edge",
        links=[_DRIFT],
        empty=_NO_BINS,
        least=0,
        transformations=_by_bin(**{"Value #A": "live", "Value #B": "training"}),
        overrides=[
            for_field("live", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("training", setting("color", {"mode": "fixed", "fixedColor": GREY}), *outline),
            for_field("edge", unit=TEXT, noValue=" "),
        ],
    )


def ratio() -> Panel:
    smoothed = f"({_LIVE_SHARE} or 0 * {_TRAINED_SHARE} and on () {_GROWN} > 0)"
    return bar_chart(
        "$feature: ratio of live to training",
        "Share of values in each bin over its share in training: 1 is as in training. The axis is logarithmic.",
        "suffix:×",
        Query(_short(f"clamp({smoothed} / on (bin) ({_TRAINED_SHARE}), 0.1, 10)"), "ratio", "table"),
        by="edge",
        links=[_DRIFT],
        empty=_NO_BINS,
        transformations=_by_bin(Value="ratio"),
        overrides=[
            for_field(
                "ratio",
                setting("color", {"mode": "fixed", "fixedColor": NEUTRAL}),
                setting("custom.scaleDistribution", {"type": "log", "log": 10}),
                NO_TICK_TEXT,
            ),
            for_field("edge", unit=TEXT, noValue=" "),
        ],
    )


def score() -> Panel:
    return time_series(
        "$feature: divergence and its noise",
        (
            "KL divergence from training in the window, and the noise floor, which sampling alone exceeds in 1 % of "
            "windows. Only a score above both the noise floor and the threshold is significant."
        ),
        NATS,
        Query(f"max(model_feature_kl_divergence{{{_WINDOWED}}})", "window $window"),
        Query(f"max(model_version_feature:kl_divergence:increase1h{{{_ONE}}})", "all replicas, 1h"),
        Query(f"max(model_feature_recent_kl_divergence{{{_WINDOWED}}})", "against the hours before"),
        Query(f"max(model_feature_kl_divergence_noise{{{_WINDOWED}}})", "noise", role="reference"),
        Query(f"max(model_feature:threshold:ModelFeatureDrift{{{MODEL},{FEATURE}}})", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=NO_PROFILE,
    )


def mean() -> Panel:
    reference = f"max(model_feature_reference_mean{{{_ONE}}})"
    spread = f"max(model_feature_reference_stddev{{{_ONE}}})"
    band = [
        setting("custom.fillBelowTo", "training − 1 σ"),
        setting("custom.fillOpacity", 12),
        setting("custom.lineWidth", 0),
        setting("custom.lineStyle", {"fill": "solid"}),
    ]
    return time_series(
        "$feature: mean within the training band",
        (
            "Mean in the window, and the training mean plus and minus one training standard deviation. Categories "
            "have no mean."
        ),
        COUNT,
        Query(f"avg(model_feature_mean{{{_WINDOWED}}})", "mean"),
        Query(f"avg(model_feature_mean{{{_WINDOWED}}}{DAY_AGO})", "a day ago", role="past"),
        Query(reference, "training mean", role="reference"),
        Query(f"{reference} + {spread}", "training + 1 σ", role="reference"),
        Query(f"{reference} - {spread}", "training − 1 σ", role="reference"),
        links=[_DRIFT],
        empty="a category, no profile, or no data",
        least=None,
        overrides=[for_query(3, *band), for_query(4, setting("custom.lineWidth", 0))],
    )


def stddev() -> Panel:
    return time_series(
        "$feature: spread and extremes",
        "Standard deviation, minimum and maximum in the window, and the standard deviation in training.",
        COUNT,
        Query(f"avg(model_feature_stddev{{{_WINDOWED}}})", "σ"),
        Query(f"max(model_feature_reference_stddev{{{_ONE}}})", "training σ", role="reference"),
        Query(f"min(model_feature_min{{{_WINDOWED}}})", "least"),
        Query(f"max(model_feature_max{{{_WINDOWED}}})", "most"),
        links=[_DRIFT],
        empty="a category, no profile, or no data",
        least=None,
    )


def missing() -> Panel:
    trained = f"max(model_feature_reference_missing_ratio{{{_WINDOWED}}})"
    threshold = f"max(model_feature:threshold:ModelFeatureMissing{{{MODEL},{FEATURE}}})"
    return time_series(
        "$feature: missing and invalid",
        (
            "Share of missing values and of values of a wrong type in the window. The threshold is relative to their "
            "share in training."
        ),
        SHARE,
        Query(f"max(model_feature_missing_ratio{{{_WINDOWED}}})", "missing"),
        Query(f"max(model_feature_invalid_ratio{{{_WINDOWED}}})", "invalid"),
        Query(f"{trained} + {threshold}", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=NO_PROFILE,
    )


def unseen() -> Panel:
    return time_series(
        "$feature: unseen in training",
        "Share of values outside the training range, or of categories that training did not have.",
        SHARE,
        Query(f"max(model_feature_unseen_ratio{{{_WINDOWED}}})", "unseen"),
        Query(f"max(model_feature_unseen_ratio{{{_WINDOWED}}}{DAY_AGO})", "a day ago", role="past"),
        links=[_DRIFT],
        empty=NO_PROFILE,
        top=0.1,
    )
