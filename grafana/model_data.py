"""Data and drift: which features changed, and how one feature changed."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel, VariableSort

from grafana import layout, model_data_feature, model_data_segments
from grafana.alert_timeline import alerts_over_time
from grafana.cells import DEVIATIONS, TENTHS_PERCENT, as_label
from grafana.model_data_summary import (
    SCORE,
    THRESHOLD,
    WORST_FIRST,
    drifted,
    features_by_time,
    missing,
    shifted,
    window_size,
    worst,
)
from grafana.panels import table, time_series
from grafana.queries import BOTH, MODEL, WINDOW, by_rank
from grafana.style import (
    COUNT,
    NATS,
    NO_PROFILE,
    NOT_IN_LEGEND,
    OK,
    TEXT,
    WARNING,
    Query,
    for_field,
    for_query,
    setting,
    state_cell,
    transformation,
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
_WEIGHT = f"model_feature_weight{{{BOTH}}} and model_feature_weight_upper < 1 and on (model, version, feature) {SCORE}"
"""Of the features with a score, where it is known."""


def dashboard() -> Dashboard:
    """Return the dashboard Data and drift."""
    windows = f"label_values(model_feature_window_observations{{{BOTH}}}, window)"
    return layout.build_dashboard(
        "model-data",
        "Models / Data and drift",
        "Live data compared with training data: features by drift score, and one feature in detail.",
        [
            layout.model_variable(),
            layout.version_variable(),
            layout.worst_feature_variable(WORST_FIRST),
            layout.query_variable("window", "Window", windows, sort=VariableSort.NUMERICAL_DESC),
        ],
        [
            *layout.side_by_side(
                0, 4, {14: drifted(), 15: worst(), 16: shifted(), 17: missing(), 18: window_size()}, (5, 7, 4, 4, 4)
            ),
            layout.row(100, "Features, version: $version", 4),
            *layout.side_by_side(5, 11, {1: features_by_score(), 2: features_over_time()}, (16, 8)),
            *layout.side_by_side(16, 12, {13: features_by_time(), 3: data_alerts()}),
            layout.row(101, "$feature", 28),
            *layout.side_by_side(29, 10, {4: model_data_feature.histogram(), 5: model_data_feature.score()}, (14, 10)),
            *layout.side_by_side(39, 8, {19: model_data_feature.ratio(), 6: model_data_feature.mean()}, (14, 10)),
            *layout.side_by_side(
                47, 8, {7: model_data_feature.stddev(), 8: model_data_feature.missing(), 9: model_data_feature.unseen()}
            ),
            layout.row(102, "Slow change, all features together, predictions, and correlations between features", 55),
            *layout.side_by_side(56, 9, {20: evidence(), 21: many(), 10: prediction()}),
            *layout.side_by_side(65, 8, {11: together(), 12: observations()}),
            layout.row(
                103,
                "Segments, for models that have them",
                73,
                layout.side_by_side(74, 9, {22: model_data_segments.worst(), 23: model_data_segments.of_feature()}),
            ),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="data",
    )


def features_by_score() -> Panel:
    score = SCORE
    threshold = f"on (model, feature) group_left () {THRESHOLD}"
    by = "version, feature"
    each = f"max by ({by})"
    columns = (
        f"{each} ({score} > bool {threshold})",
        f"{each} ({score})",
        f"{each} (0 * {score} + {threshold})",
        as_label(f"{each} ({_WEIGHT})", "weight", TENTHS_PERCENT, by),
        as_label(f"{each} (model_version_feature:mean_shift_above_noise:max{{{BOTH}}})", "shift", DEVIATIONS, by),
        as_label(f"{each} (model_version_feature:missing_excess_ratio:max{{{BOTH}}})", "missing", TENTHS_PERCENT, by),
        as_label(f"{each} (model_feature_unseen_ratio{{{BOTH},{WINDOW}}})", "unseen", TENTHS_PERCENT, by),
    )
    names = {"Value #A": "State", "Value #B": "Score", "Value #C": "Threshold"}
    texts = {"weight": "Weight", "shift": "Shift", "missing": "Missing", "unseen": "Unseen"}
    trend = "Trend #H"
    right = setting("custom.align", "right")
    return table(
        "Features by score",
        (
            "KL divergence from training in any window (0 if below the noise floor) and its threshold; how much the "
            "model's answers depend on the feature, where that is known; shift of the mean; missing values above their "
            "share in training; values unseen in training. Click a feature to show it in the panels below, or its "
            "state for an explanation."
        ),
        NATS,
        *(Query(expr, kind="table") for expr in columns),
        Query(f"{each} ({score})"),
        empty=NO_PROFILE,
        sort=("Score",),
        transformations=[
            # Without the time, Grafana does not read the rows of a moment as series. Without its value, a query without
            # a result has no column, and so does not keep "merge" from finding the columns that all queries share.
            transformation(
                "filterFieldsByName",
                queries="[A-G]",
                exclude={"names": ["Time", *(f"Value #{ref}" for ref in "DEFG")]},
            ),
            transformation("timeSeriesTable", H={"timeField": "Time", "stat": "max"}),
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True},
                indexByName={
                    name: index
                    for index, name in enumerate(
                        ("feature", "version", "Value #A", "Value #B", trend, "Value #C", *texts)
                    )
                },
                renameByName={"feature": "Feature", "version": "Version", trend: "Over time", **names, **texts},
            ),
        ],
        overrides=[
            for_field(
                "Feature",
                setting("links", [{"title": _BELOW.title, "url": _BELOW.url}]),
                unit=TEXT,
                minWidth=190,
            ),
            for_field("Version", unit=TEXT, width=66),
            for_field(
                "State",
                *state_cell({"0": ("OK", OK), "1": ("drifted", WARNING)}),
                setting("links", [{"title": _EXPLANATION.title, "url": _EXPLANATION.url, "targetBlank": True}]),
                width=66,
            ),
            for_field("Score", noValue="–", width=80, decimals=2),
            for_field("Threshold", noValue="–", width=84, decimals=2),
            *(for_field(name, right, noValue="–", unit=TEXT, width=76) for name in texts.values()),
            for_field(
                "Over time",
                setting(
                    "custom.cellOptions", {"type": "sparkline", "hideValue": True, "lineWidth": 1, "fillOpacity": 20}
                ),
                minWidth=80,
            ),
        ],
    )


def features_over_time() -> Panel:
    highest = f"max by (feature) (max_over_time({SCORE}[$__range] @ end())) > 0"
    return time_series(
        "Score of the six worst features",
        (
            "KL divergence from training over time, if above the noise floor, of the features with the highest score "
            "in the time range, the highest first, and the lowest threshold of any feature."
        ),
        NATS,
        *by_rank(f"max by (feature) ({SCORE})", highest, "feature"),
        Query(f"min({THRESHOLD})", "lowest threshold", role="threshold"),
        empty=NO_PROFILE,
    )


def data_alerts() -> Panel:
    title = "Alerts of the data layer"
    return alerts_over_time(title, f'layer="data",{BOTH}', "feature", SCORE, empty=NO_PROFILE)


def evidence() -> Panel:
    series = f"max by (feature) (model_version_feature:drift_evidence:combined{{{BOTH}}})"
    highest = (
        f"max by (feature) (max_over_time(model_version_feature:drift_evidence:combined{{{BOTH}}}[$__range] @ end()))"
    )
    return time_series(
        "Slow change: evidence of the six worst features",
        (
            "Accumulated evidence of a small, lasting change, of the features with the highest one in the time range. "
            "Chance alone exceeds the limit at most once a year. Evidence stops rising some nats above it."
        ),
        NATS,
        *by_rank(series, highest, "feature"),
        Query(f"max(model_version_feature:threshold:ModelFeatureDriftSlow{{{BOTH}}})", "threshold", role="threshold"),
        empty=NO_PROFILE,
    )


def many() -> Panel:
    return time_series(
        "Features drifted, with one budget",
        (
            "Features above their threshold in any window, by more than the model's budget of false alarms explains, "
            "of those that have enough values. ModelFeaturesDrifted fires when it is above 0."
        ),
        COUNT,
        Query(f"max(model_version:features_drifted:max{{{BOTH}}})", "drifted"),
        empty=NO_PROFILE,
    )


def prediction() -> Panel:
    of_predictions = f"max(model_prediction_kl_divergence{{{BOTH},{WINDOW}}})"
    of_confidence = f"max(model_confidence_kl_divergence{{{BOTH},{WINDOW}}})"
    return time_series(
        "Predictions and confidence: divergence from training",
        "KL divergence of predictions and of confidence in the window from training, and their noise floors.",
        NATS,
        Query(of_predictions, "predictions"),
        Query(of_confidence, "confidence"),
        Query(f"max(model_prediction_kl_divergence_noise{{{BOTH},{WINDOW}}})", "noise", role="reference"),
        Query(f"max(model_confidence_kl_divergence_noise{{{BOTH},{WINDOW}}})", "noise of confidence", role="reference"),
        Query(
            f"max(model:threshold:ModelPredictionDrift{{{MODEL}}}) and on () ({of_predictions} or {of_confidence})",
            "threshold",
            role="threshold",
        ),
        overrides=[for_query(3, NOT_IN_LEGEND)],
        empty="no predictions in the profile, or no data",
    )


def together() -> Panel:
    return time_series(
        "Correlations between features",
        (
            "Difference of the correlations between numeric features from training, which the histogram of a single "
            "feature does not show. The noise is the threshold."
        ),
        NATS,
        Query(f"max(model_multivariate_drift{{{BOTH},{WINDOW}}})", "together"),
        Query(f"max(model_multivariate_drift_noise{{{BOTH},{WINDOW}}})", "noise", role="threshold"),
        empty="fewer than two numeric features, or no data",
    )


def observations() -> Panel:
    return time_series(
        "Observations in the window",
        ("Number of values in the window, for the feature that has most. With few values a score has little meaning."),
        COUNT,
        Query(f"max(model_feature_window_observations{{{BOTH},{WINDOW}}})", "values in $window"),
        empty=NO_PROFILE,
    )
