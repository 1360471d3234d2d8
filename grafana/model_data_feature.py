"""One feature in detail, in the dashboard Data and drift."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana import layout
from grafana.panels import bar_chart, time_series
from grafana.queries import BOTH, DAY_AGO, FEATURE, MODEL, WINDOW
from grafana.style import COUNT, GREY, NATS, NEUTRAL, SHARE, Query, for_field, for_query, setting, transformation

NO_PROFILE = "no profile, or no data"
_ONE = f"{BOTH},{FEATURE}"
_WINDOWED = f"{_ONE},{WINDOW}"
_DRIFT = layout.page_link("drift", "Explanation", layout.VERSIONS, model="model", window="window", feature="feature")


def _short(expr: str) -> str:
    """Return the expression with the label ``01 ≥ 18`` for the bin ``01 [18, 22)``, because a bar has little room."""
    return f'label_replace({expr}, "bin", "$1 ≥ $2", "bin", "([0-9]+) .([-+.e0-9]+), .*")'


def histogram() -> Panel:
    grown = f"sum by (bin) (increase(model_feature_observations_total{{{_ONE}}}[$__range]))"
    trained = f"max by (version, bin) (model_feature_reference_probability{{{_ONE}}})"
    whole = f"sum(increase(model_feature_observations_total{{{_ONE}}}[$__range]))"
    return bar_chart(
        "$feature: live values over training ones",
        (
            "Share of values in each bin, for all replicas over the whole time range, next to the share in training. "
            "The profile fixes the bins."
        ),
        SHARE,
        Query(_short(f"{grown} / on () group_left () ({whole} > 0)"), "live", "table"),
        Query(_short(f"sum by (bin) ({trained}) / on () group_left () sum({trained})"), "training", "table"),
        by="bin",
        links=[_DRIFT],
        empty=NO_PROFILE,
        least=0,
        transformations=[
            transformation("joinByField", byField="bin", mode="outer"),
            transformation(
                "organize",
                excludeByName={"Time": True, "Time 1": True, "Time 2": True},
                renameByName={"Value #A": "live", "Value #B": "training"},
            ),
            transformation("sortBy", fields={}, sort=[{"field": "bin"}]),
        ],
        overrides=[
            for_field("live", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("training", setting("color", {"mode": "fixed", "fixedColor": GREY})),
            for_field("bin", noValue=" "),
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
    trained = f'sum(max by (bin) (model_feature_reference_probability{{{_ONE},bin=~"[0-9]+ (missing|invalid)"}}))'
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
