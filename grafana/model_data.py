"""Data and drift: which features changed, and how one feature changed."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import BigValueTextMode
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardRangeMapOptions,
    DataTransformerConfig,
    Panel,
    RangeMap,
    ValueMappingResult,
)

from grafana import layout
from grafana import panels as p
from grafana.layout import BOTH, DAY_AGO, FEATURE, MODEL, WINDOW, alerts_over_time, by_rank

SCORE = f"model_version_feature:kl_divergence_above_noise:max{{{BOTH}}}"
THRESHOLD = f"model_feature:threshold:ModelFeatureDrift{{{MODEL}}}"
_HIGHEST = (
    f"max by (feature) (max_over_time({SCORE}[$__range] @ end())"
    f" / on (model, feature) group_left () last_over_time({THRESHOLD}[$__range] @ end()))"
)
"""The highest score over its threshold, of each feature, in the time range."""
WORST_FIRST = (
    f"sort_desc({_HIGHEST.replace(' @ end()', '')}"
    f" or -1 * group by (feature) (model_feature_reference_missing_ratio{{{BOTH}}}))"
)
"""All features, the one with the highest score over its threshold in the time range first."""
_LEVELS = (
    (0, 0, "below half its threshold", "rgba(125, 155, 209, 0.25)"),
    (1, 1, "from half its threshold", "rgba(125, 155, 209, 0.8)"),
    (2, 3, "above its threshold", "light-orange"),
    (4, 9, "twice its threshold or more", "orange"),
    (10, 10, "five times its threshold or more", "dark-orange"),
)
"""Of a score over its threshold, in halves."""
_ON_DRIFT_PAGE = layout.page_link(
    "drift", "Explanation", layout.VERSIONS, model="model", window="window", feature="__field.labels.feature"
)


def _levels(*levels: tuple[float, float, str, str]) -> list[Any]:
    return [
        RangeMap(
            options=DashboardRangeMapOptions(
                from_val=least, to=most, result=ValueMappingResult(text=text or None, color=colour, index=index)
            )
        )
        for index, (least, most, text, colour) in enumerate(levels)
    ]


def drifted() -> Panel:
    """Features whose divergence from training is above its noise floor and its threshold, in any window, now."""
    # PromQL has numbers in labels only by count_values.
    whole = f"count(max by (feature) ({SCORE}))"
    above = f"(count(max by (feature) ({SCORE} > on (model, feature) group_left () {THRESHOLD})) or 0 * {whole})"
    labels = f'count_values("above", {above}) * on () group_left (whole) count_values("whole", {whole})'
    both = f'label_join({above} + on () group_left (above, whole) 0 * ({labels}), "both", " of ", "above", "whole")'
    named = f'label_replace({both}, "text", "$1 drifted", "both", "(.+)")'
    expr = f'{named} or on () label_replace(vector(-1), "text", "{p.NO_PROFILE}", "", "")'
    panel = p.stat(
        "Drift",
        p.BARE,
        p.Query(expr, "{{text}}", "instant"),
        state=True,
        empty=p.NO_PROFILE,
        mappings=_levels((0, 0, "", p.OK), (1, 1e9, "", p.WARNING)),
        links=[layout.DRIFT],
    )
    options: Any = panel.options
    options.text_mode = BigValueTextMode.NAME
    return panel


def worst_feature() -> Panel:
    """The feature that is furthest above its threshold now, or nearest below it, and its score over the threshold."""
    return p.stat(
        "Worst feature",
        "suffix:× its threshold",
        p.Query(
            f"topk(1, max by (feature) ({SCORE} / on (model, feature) group_left () {THRESHOLD}) > 0)",
            "{{feature}}",
            "instant",
        ),
        state=True,
        empty="none above the noise, or no profile",
        decimals=1,
        mappings=_levels((0, 0.99999, "", p.OK), (1, 1e9, "", p.WARNING)),
        value_links=[_ON_DRIFT_PAGE],
    )


def features_by_time() -> Panel:
    """Score of each feature over its threshold: orange from the threshold on. With more than 30, those with the highest
    value in the time range. Click a feature for an explanation.
    """
    ratio = f"max by (feature) ({SCORE} / on (model, feature) group_left () {THRESHOLD})"
    return p.state_timeline(
        "Features over time: score over threshold",
        p.Query(f"clamp_max(floor(2 * {ratio}), 10) and on (feature) topk(30, {_HIGHEST})", "{{feature}}"),
        names={},
        levels=_levels(*_LEVELS),
        empty=p.NO_PROFILE,
        value_links=[_ON_DRIFT_PAGE],
    )


_ONE = f"{BOTH},{FEATURE}"
_WINDOWED = f"{_ONE},{WINDOW}"
_NO_BINS = f"{p.NO_PROFILE}, or metrics: summary"
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


_GROWN = f"sum by (bin) (increase(model_feature_observations_total{{{_ONE}}}[$__range]))"
_TRAINED = f"max by (version, bin) (avg_over_time(model_feature_reference_probability{{{_ONE}}}[$__range]))"
_LIVE_SHARE = f"{_GROWN} / on () group_left () (sum({_GROWN}) > 0)"
_TRAINED_SHARE = f"sum by (bin) ({_TRAINED}) / on () group_left () sum({_TRAINED})"


def _by_bin(**columns: str) -> list[DataTransformerConfig]:
    """Return transformations to a row for each bin, in the order of the bins."""
    return [
        p.transformation("merge"),
        p.transformation("sortBy", fields={}, sort=[{"field": "bin"}]),
        p.transformation("organize", excludeByName={"Time": True, "bin": True}, renameByName=columns),
    ]


def histogram() -> Panel:
    """Share of values in each bin, for all replicas over the whole time range, filled, and in training, outlined. A
    label is the lower edge of a numeric bin. The profile fixes the bins.
    """
    outline = [p.setting("custom.fillOpacity", 0), p.setting("custom.lineWidth", 2)]
    return p.bar_chart(
        "$feature: live values over training ones",
        p.SHARE,
        p.Query(_short(_LIVE_SHARE), "live", "table"),
        p.Query(_short(_TRAINED_SHARE), "training", "table"),
        by="edge",
        links=[_DRIFT],
        empty=_NO_BINS,
        least=0,
        transformations=_by_bin(**{"Value #A": "live", "Value #B": "training"}),
        overrides=[
            p.for_field("live", p.setting("color", {"mode": "fixed", "fixedColor": p.NEUTRAL})),
            p.for_field("training", p.setting("color", {"mode": "fixed", "fixedColor": p.GREY}), *outline),
            p.for_field("edge", unit=p.TEXT, noValue=" "),
        ],
    )


def score() -> Panel:
    """KL divergence from training in the window, and the noise floor, which sampling alone exceeds in 1% of windows.
    Only a score above both the noise floor and the threshold is significant.
    """
    return p.time_series(
        "$feature: divergence and its noise",
        p.NATS,
        p.Query(f"max(model_feature_kl_divergence{{{_WINDOWED}}})", "window $window"),
        p.Query(f"max(model_version_feature:kl_divergence:increase1h{{{_ONE}}})", "all replicas, 1h"),
        p.Query(f"max(model_feature_recent_kl_divergence{{{_WINDOWED}}})", "against the hours before"),
        p.Query(f"max(model_feature_kl_divergence_noise{{{_WINDOWED}}})", "noise", role="reference"),
        p.Query(f"max(model_feature:threshold:ModelFeatureDrift{{{MODEL},{FEATURE}}})", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=p.NO_PROFILE,
    )


def mean() -> Panel:
    """Mean in the window, and the training mean plus and minus one training standard deviation. Categories have no
    mean.
    """
    reference = f"max(model_feature_reference_mean{{{_ONE}}})"
    spread = f"max(model_feature_reference_stddev{{{_ONE}}})"
    band = [
        p.setting("custom.fillBelowTo", "training − 1 σ"),
        p.setting("custom.fillOpacity", 12),
        p.setting("custom.lineWidth", 0),
        p.setting("custom.lineStyle", {"fill": "solid"}),
    ]
    return p.time_series(
        "$feature: mean within the training band",
        p.COUNT,
        p.Query(f"avg(model_feature_mean{{{_WINDOWED}}})", "mean"),
        p.Query(f"avg(model_feature_mean{{{_WINDOWED}}}{DAY_AGO})", "a day ago", role="past"),
        p.Query(reference, "training mean", role="reference"),
        p.Query(f"{reference} + {spread}", "training + 1 σ", role="reference"),
        p.Query(f"{reference} - {spread}", "training − 1 σ", role="reference"),
        links=[_DRIFT],
        empty="a category, no profile",
        least=None,
        overrides=[p.for_query(3, *band), p.for_query(4, p.setting("custom.lineWidth", 0))],
    )


def missing() -> Panel:
    """Share of missing values, of values of a wrong type, and of values that training did not have, in the window. The
    threshold is that of missing and invalid values, relative to their share in training.
    """
    trained = f"max(model_feature_reference_missing_ratio{{{_WINDOWED}}})"
    threshold = f"max(model_feature:threshold:ModelFeatureMissing{{{MODEL},{FEATURE}}})"
    return p.time_series(
        "$feature: missing, invalid and unseen",
        p.SHARE,
        p.Query(f"max(model_feature_missing_ratio{{{_WINDOWED}}})", "missing"),
        p.Query(f"max(model_feature_invalid_ratio{{{_WINDOWED}}})", "invalid"),
        p.Query(f"max(model_feature_unseen_ratio{{{_WINDOWED}}})", "unseen"),
        p.Query(f"{trained} + {threshold}", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=p.NO_PROFILE,
    )


_NO_SEGMENTS = "no segment_by in the model's configuration, no profile"


def _above_noise(selector: str) -> str:
    """Return the divergences of segments, 0 where they are not above their noise floor."""
    divergence, noise = (f"model_segment_kl_divergence{part}{{{selector}}}" for part in ("", "_noise"))
    return f"({divergence} > {noise} or 0 * {divergence})"


def _highest(selector: str) -> str:
    """Return the highest divergence of each segment in the time range."""
    return f"max by (segment) (max_over_time(model_segment_kl_divergence{{{selector}}}[$__range] @ end()))"


def worst() -> Panel:
    """KL divergence from training of the feature that has the highest one above its noise floor, in the longest window,
    for the six segments with the highest in the time range. It is compared with all training data: a segment that
    differed in training already is always high, so compare it with its own past.
    """
    return p.time_series(
        "Highest divergence of any feature by segment",
        p.NATS,
        *by_rank(f"max by (segment) ({_above_noise(BOTH)})", _highest(BOTH), "segment"),
        empty=_NO_SEGMENTS,
    )


_EXPLANATION = layout.page_link(
    "drift",
    "Explanation",
    model="model",
    version="__data.fields.Version",
    window="window",
    feature="__data.fields.Feature",
)
_BELOW = layout.dashboard_link(
    "model-data", "Show it below", layout.VERSIONS, model="model", window="window", feature="__value.raw"
)
_MOVED = f"model_feature_mean_shift{{{BOTH}}}"
_SHIFT = f"{_MOVED} unless (abs({_MOVED}) * sqrt(model_feature_window_observations{{{BOTH}}}) < 2.58) or 0 * {_MOVED}"
"""Shifts of the mean in either direction; one that chance explains (2.58 standard errors) is 0."""
_ABSENT = f"model_feature_missing_ratio{{{BOTH}}} + model_feature_invalid_ratio{{{BOTH}}}"
_MISSING = f"clamp_min({_ABSENT} - model_feature_reference_missing_ratio{{{BOTH}}} or {_ABSENT}, 0)"
"""Missing and invalid values, above their share in training."""


_ALERTS = alerts_over_time("Alerts of the data layer", f'layer="data",{BOTH}', "feature", SCORE, empty=p.NO_PROFILE)


def dashboard() -> Dashboard:
    """Return the dashboard Data and drift."""
    return layout.build_dashboard(
        "model-data",
        "Models / Data and drift",
        "Live data compared with training data: features by drift score, and one feature in detail.",
        [
            layout.model_variable(),
            layout.version_variable(),
            layout.worst_feature_variable(WORST_FIRST),
            layout.window_variable("model_feature_window_observations"),
        ],
        [
            *layout.side_by_side(0, 3, {14: drifted, 15: worst_feature}),
            layout.row(100, "Features, version: $version", 3),
            *layout.side_by_side(4, 11, {1: features_by_score, 2: features_over_time}, (16, 8)),
            *layout.side_by_side(15, 7, {13: features_by_time}),
            *layout.side_by_side(22, 8, {3: _ALERTS}),
            layout.row(101, "$feature", 30),
            *layout.side_by_side(31, 10, {4: histogram, 5: score}, (14, 10)),
            *layout.side_by_side(41, 8, {6: mean, 8: missing}),
            layout.row(102, "Slow change, predictions, and correlations", 49),
            *layout.side_by_side(50, 9, {20: evidence, 10: prediction}),
            layout.row(103, "Segments, for models that have them", 59, layout.side_by_side(60, 9, {22: worst})),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="data",
    )


def features_by_score() -> Panel:
    """KL divergence from training in any window, in nats (0 if below the noise floor); its limit; shift of the mean;
    missing values above their share in training; values unseen in training. Click a feature to show it in the panels
    below, or its state for an explanation.
    """
    score = SCORE
    threshold = f"on (model, feature) group_left () {THRESHOLD}"
    by = "version, feature"
    each, lowest = f"max by ({by})", f"min by ({by}) ({_SHIFT})"
    columns = (
        f"{each} ({score} > bool {threshold})",
        f"{each} ({score})",
        f"{each} (0 * {score} + {threshold})",
        p.as_label(f"({each} ({_SHIFT}) > -1 * {lowest} or {lowest})", "shift", p.DEVIATIONS_CELL, by),
        p.as_label(f"{each} ({_MISSING})", "missing", p.TENTHS_PERCENT, by),
        p.as_label(f"{each} (model_feature_unseen_ratio{{{BOTH},{WINDOW}}})", "unseen", p.TENTHS_PERCENT, by),
    )
    names = {"Value #A": "State", "Value #B": "Score", "Value #C": "Limit"}
    texts = {"shift": "Shift", "missing": "Missing", "unseen": "Unseen"}
    right = p.setting("custom.align", "right")
    return p.table(
        "Features by score",
        p.NATS,
        *(p.Query(expr, kind="table") for expr in columns),
        empty=p.NO_PROFILE,
        sort=("Score",),
        transformations=[
            # Without its value, a query without a result has no column, and so does not keep "merge" from finding the
            # columns that all queries share.
            p.transformation(
                "filterFieldsByName",
                queries="[A-F]",
                exclude={"names": ["Time", *(f"Value #{ref}" for ref in "DEF")]},
            ),
            p.transformation("merge"),
            p.transformation(
                "organize",
                excludeByName={"Time": True},
                indexByName={
                    name: index
                    for index, name in enumerate(("feature", "version", "Value #A", "Value #B", "Value #C", *texts))
                },
                renameByName={"feature": "Feature", "version": "Version", **names, **texts},
            ),
        ],
        overrides=[
            p.for_field("Feature", p.linked(_BELOW), unit=p.TEXT, minWidth=150),
            p.for_field("Version", unit=p.TEXT, width=74),
            p.for_field(
                "State",
                *p.state_cell({"0": ("OK", p.OK), "1": ("drifted", p.WARNING)}),
                p.linked(_EXPLANATION),
                width=66,
            ),
            p.for_field("Score", unit=p.BARE, noValue="–", width=76, decimals=2),
            p.for_field("Limit", unit=p.BARE, noValue="–", width=64, decimals=2),
            *(p.for_field(name, right, noValue="–", unit=p.TEXT, width=76) for name in texts.values()),
        ],
    )


def features_over_time() -> Panel:
    """KL divergence from training over time, if above the noise floor, of the features with the highest score in the
    time range, the highest first, and the lowest threshold of any feature.
    """
    highest = f"max by (feature) (max_over_time({SCORE}[$__range] @ end())) > 0"
    return p.time_series(
        "Score of the six worst features",
        p.NATS,
        *by_rank(f"max by (feature) ({SCORE})", highest, "feature"),
        p.Query(f"min({THRESHOLD})", "lowest threshold", role="threshold"),
        empty=p.NO_PROFILE,
    )


def evidence() -> Panel:
    """Accumulated evidence of a small, lasting change, of the features with the highest one in the time range.
    ModelDrift fires when that of all features together is above the limit, which chance exceeds once in a year, or in
    drift_false_alarm_interval. Evidence stops rising some nats above it.
    """
    evidence = f"model_feature_drift_evidence{{{BOTH}}}"
    series = f"max by (feature) (ln(avg by (version, feature) (exp({evidence}))))"
    highest = f"max by (feature) (max_over_time({evidence}[$__range] @ end()))"
    return p.time_series(
        "Slow change: evidence of the six worst features",
        p.NATS,
        *by_rank(series, highest, "feature"),
        p.Query(f"max(model_version:drift_evidence:combined{{{BOTH}}})", "all together"),
        p.Query(f"max(model_version:threshold:ModelDrift{{{BOTH}}})", "limit of all together", role="threshold"),
        empty=p.NO_PROFILE,
    )


def prediction() -> Panel:
    """Divergence of predictions, of confidence, and of the correlations between numeric features in the window from
    training. Grey: their noise floors.
    """
    of_predictions = f"max(model_prediction_kl_divergence{{{BOTH},{WINDOW}}})"
    of_confidence = f"max(model_confidence_kl_divergence{{{BOTH},{WINDOW}}})"
    return p.time_series(
        "Divergence of predictions, confidence and correlations",
        p.NATS,
        p.Query(of_predictions, "predictions"),
        p.Query(of_confidence, "confidence"),
        p.Query(f"max(model_multivariate_drift{{{BOTH},{WINDOW}}})", "correlations"),
        p.Query(f"max(model_prediction_kl_divergence_noise{{{BOTH},{WINDOW}}})", "noise", role="reference"),
        p.Query(
            f"max(model_confidence_kl_divergence_noise{{{BOTH},{WINDOW}}})", "noise of confidence", role="reference"
        ),
        p.Query(f"max(model_multivariate_drift_noise{{{BOTH},{WINDOW}}})", "noise of correlations", role="reference"),
        p.Query(
            f"max(model:threshold:ModelPredictionDrift{{{MODEL}}}) and on () ({of_predictions} or {of_confidence})",
            "threshold",
            role="threshold",
        ),
        overrides=[p.for_query(i, p.NOT_IN_LEGEND) for i in (4, 5)],
        empty="no predictions in the profile",
    )
