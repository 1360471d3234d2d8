"""Data and drift: which features changed, and how one of them did."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel, VariableSort

from grafana import frame
from grafana.queries import BOTH, DAY_AGO, FEATURE, MODEL, WINDOW
from grafana.style import (
    COUNT,
    CRITICAL,
    DEVIATIONS,
    GREY,
    INFO,
    NATS,
    NEUTRAL,
    OK,
    SHARE,
    WARNING,
    Query,
    at,
    bars,
    cell,
    for_field,
    for_query,
    lines,
    rows,
    setting,
    step,
    timeline,
)

_NO_PROFILE = "no profile, or nothing observed"
_ONE = f"{BOTH},{FEATURE}"
_WINDOWED = f"{_ONE},{WINDOW}"
_FEATURE = frame.page_of("drift", "In words", model="model", version="__data.fields.Version", feature="__value.raw")
_DRIFT = frame.page_of("drift", "In words", model="model", feature="feature")


def dashboard(exporter_url: str) -> Dashboard:
    """The dashboard Data and drift."""
    features = f"label_values(model_feature_reference_probability{{{BOTH}}}, feature)"
    windows = f"label_values(model_feature_window_observations{{{BOTH}}}, window)"
    return frame.board(
        "model-data",
        "Models / Data and drift",
        "The live data against the training data: features by their score, and one feature in detail.",
        [
            frame.model(),
            frame.version(),
            frame.choice("feature", "Feature", features),
            frame.choice("window", "Window", windows, sort=VariableSort.NUMERICAL_DESC),
        ],
        [
            frame.row(100, "Features of version $version", 0),
            features_by_score(),
            features_over_time(),
            data_alerts(),
            frame.row(101, "$feature", 20),
            histogram(),
            score(),
            mean(),
            stddev(),
            missing(),
            unseen(),
            frame.row(102, "Prediction, and features together", 47),
            prediction(),
            together(),
            observations(),
        ],
        exporter_url,
        links=[frame.DRIFT, frame.REVIEW],
        alerts="data",
    )


def features_by_score() -> Panel:
    score = f"model_version_feature:kl_divergence_above_noise:max{{{BOTH}}}"
    threshold = f"on (model, feature) group_left () model_feature:threshold:ModelFeatureDrift{{{MODEL}}}"
    each = "max by (version, feature)"
    columns = (
        f"{each} ({score} > bool {threshold})",
        f"{each} ({score})",
        f"{each} (0 * {score} + {threshold})",
        f"{each} (model_version_feature:mean_shift_above_noise:max{{{BOTH}}})",
        f"{each} (model_version_feature:missing_excess_ratio:max{{{BOTH}}})",
        f"{each} (model_feature_unseen_ratio{{{BOTH},{WINDOW}}})",
    )
    names = ("State", "Score", "Threshold", "Shift", "Missing", "Unseen")
    trend = "Trend #G"
    return rows(
        1,
        "Features by score",
        "KL divergence from training in any window, 0 where it is within the noise; its threshold; how far the mean "
        "moved; what is missing beyond training's share; what training never saw. A click on a feature tells it in "
        "words.",
        NATS,
        at(0, 1, 15, 11),
        *(Query(expr, kind="table") for expr in columns),
        Query(f"{each} ({score})"),
        empty=_NO_PROFILE,
        sort="Score",
        transformations=[
            step("timeSeriesTable", G={"timeField": "Time", "stat": "max"}),
            step("merge"),
            step(
                "organize",
                excludeByName={"Time": True},
                indexByName={
                    name: place
                    for place, name in enumerate(
                        ("feature", "version", "Value #A", "Value #B", trend, *(f"Value #{ref}" for ref in "CDEF"))
                    )
                },
                renameByName={
                    "feature": "Feature",
                    "version": "Version",
                    trend: "Over time",
                    **{f"Value #{ref}": name for ref, name in zip("ABCDEF", names, strict=True)},
                },
            ),
        ],
        overrides=[
            for_field(
                "Feature",
                setting("unit", "string"),
                setting("custom.minWidth", 150),
                setting("links", [{"title": _FEATURE.title, "url": _FEATURE.url, "targetBlank": True}]),
            ),
            for_field("Version", setting("unit", "string"), setting("custom.width", 64)),
            for_field("State", setting("custom.width", 66), *cell({"0": ("OK", OK), "1": ("drifted", CRITICAL)})),
            for_field("Score", setting("noValue", "–"), setting("custom.width", 86), setting("decimals", 2)),
            for_field("Threshold", setting("noValue", "–"), setting("custom.width", 86), setting("decimals", 2)),
            for_field(
                "Mean shift",
                setting("noValue", "–"),
                setting("custom.width", 70),
                setting("unit", DEVIATIONS),
                setting("decimals", 1),
            ),
            for_field(
                "Missing",
                setting("noValue", "–"),
                setting("custom.width", 72),
                setting("unit", SHARE),
                setting("decimals", 1),
            ),
            for_field(
                "Unseen",
                setting("noValue", "–"),
                setting("custom.width", 72),
                setting("unit", SHARE),
                setting("decimals", 1),
            ),
            for_field(
                "Over time",
                setting("custom.minWidth", 90),
                setting(
                    "custom.cellOptions", {"type": "sparkline", "hideValue": True, "lineWidth": 1, "fillOpacity": 20}
                ),
            ),
        ],
    )


def features_over_time() -> Panel:
    series = f"model_version_feature:kl_divergence_above_noise:max{{{BOTH}}}"
    expr = f"max by (feature) ({series})"
    return lines(
        2,
        "Score of the ten worst features",
        "KL divergence from training above the noise, over time; the lowest threshold of any feature.",
        NATS,
        at(15, 1, 9, 11),
        Query(
            f"{expr} and on (feature) topk(10, max_over_time({series}[$__range] @ end()))",
            "{{feature}}",
        ),
        Query(f"min(model_feature:threshold:ModelFeatureDrift{{{MODEL}}})", "lowest threshold", role="threshold"),
        empty=_NO_PROFILE,
        least=0,
    )


def data_alerts() -> Panel:
    alerts = f'ALERTS{{layer="data",{BOTH},severity="warning"'
    states = f'2 * {alerts},alertstate="firing"}} or {alerts},alertstate="pending"}}'
    return timeline(
        3,
        "Alerts of the data layer",
        "Since when which alert has been true, by feature: blue while it is pending, orange once it fires.",
        at(0, 12, 24, 8),
        Query(
            f'max by (alert, feature) (label_replace({states}, "alert", "$1", "alertname", "Model(.+)"))',
            "{{alert}} {{feature}}",
        ),
        told=False,
        names={"": NEUTRAL, "pending": INFO, "firing": WARNING},
        empty="no alert of the data layer in this time range",
    )


def histogram() -> Panel:
    grown = f"sum by (bin) (increase(model_feature_observations_total{{{_ONE}}}[$__range]))"
    trained = f"max by (version, bin) (model_feature_reference_probability{{{_ONE}}})"
    whole = f"sum(increase(model_feature_observations_total{{{_ONE}}}[$__range]))"
    return bars(
        4,
        "$feature: live values over training ones",
        "Share of values in each bin, all replicas, over the whole time range; beside it the share in training. The "
        "bins were frozen when the profile was made.",
        SHARE,
        at(0, 21, 14, 10),
        Query(f"{grown} / on () group_left () ({whole} > 0)", "live", "table"),
        Query(f"sum by (bin) ({trained}) / on () group_left () sum({trained})", "training", "table"),
        by="bin",
        links=[_DRIFT],
        empty=_NO_PROFILE,
        least=0,
        transformations=[
            step("joinByField", byField="bin", mode="outer"),
            step(
                "organize",
                excludeByName={"Time": True, "Time 1": True, "Time 2": True},
                renameByName={"Value #A": "live", "Value #B": "training"},
            ),
            step("sortBy", fields={}, sort=[{"field": "bin"}]),
        ],
        overrides=[
            for_field("live", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("training", setting("color", {"mode": "fixed", "fixedColor": GREY})),
            for_field("bin", setting("noValue", " ")),
        ],
    )


def score() -> Panel:
    return lines(
        5,
        "$feature: divergence and its noise",
        "KL divergence from training, in the window, and the noise floor that sampling alone exceeds in 1 % of "
        "windows. It tells something only above both floor and threshold.",
        NATS,
        at(14, 21, 10, 10),
        Query(f"max(model_feature_kl_divergence{{{_WINDOWED}}})", "window $window"),
        Query(f"max(model_version_feature:kl_divergence:increase1h{{{_ONE}}})", "all replicas, 1h"),
        Query(f"max(model_feature_recent_kl_divergence{{{_WINDOWED}}})", "against the hours before"),
        Query(f"max(model_feature_kl_divergence_noise{{{_WINDOWED}}})", "noise", role="reference"),
        Query(f"max(model_feature:threshold:ModelFeatureDrift{{{MODEL},{FEATURE}}})", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=_NO_PROFILE,
        least=0,
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
    return lines(
        6,
        "$feature: mean within the training band",
        "The mean in the window, and the training mean with one training standard deviation either way. The values "
        "of categories have no mean.",
        COUNT,
        at(0, 31, 14, 8),
        Query(f"avg(model_feature_mean{{{_WINDOWED}}})", "mean"),
        Query(f"avg(model_feature_mean{{{_WINDOWED}}}{DAY_AGO})", "a day ago", role="past"),
        Query(reference, "training mean", role="reference"),
        Query(f"{reference} + {spread}", "training + 1 σ", role="reference"),
        Query(f"{reference} - {spread}", "training − 1 σ", role="reference"),
        links=[_DRIFT],
        empty="a category, no profile, or nothing observed",
        overrides=[
            for_query(3, *band),
            for_query(4, setting("custom.lineWidth", 0)),
        ],
    )


def stddev() -> Panel:
    return lines(
        7,
        "$feature: spread and extremes",
        "Standard deviation, smallest and largest value in the window, and the standard deviation in training.",
        COUNT,
        at(14, 31, 10, 8),
        Query(f"avg(model_feature_stddev{{{_WINDOWED}}})", "σ"),
        Query(f"max(model_feature_reference_stddev{{{_ONE}}})", "training σ", role="reference"),
        Query(f"min(model_feature_min{{{_WINDOWED}}})", "least"),
        Query(f"max(model_feature_max{{{_WINDOWED}}})", "most"),
        links=[_DRIFT],
        empty="a category, no profile, or nothing observed",
    )


def missing() -> Panel:
    trained = f'sum(max by (bin) (model_feature_reference_probability{{{_ONE},bin=~"[0-9]+ (missing|invalid)"}}))'
    threshold = f"max(model_feature:threshold:ModelFeatureMissing{{{MODEL},{FEATURE}}})"
    return lines(
        8,
        "$feature: missing and invalid",
        "Share of values that are missing, and of a wrong type, in the window; the threshold lies above the share that "
        "training had.",
        SHARE,
        at(0, 39, 14, 8),
        Query(f"max(model_feature_missing_ratio{{{_WINDOWED}}})", "missing"),
        Query(f"max(model_feature_invalid_ratio{{{_WINDOWED}}})", "invalid"),
        Query(f"{trained} + {threshold}", "threshold", role="threshold"),
        links=[_DRIFT],
        empty=_NO_PROFILE,
        least=0,
    )


def unseen() -> Panel:
    return lines(
        9,
        "$feature: unseen in training",
        "Share of values outside the training range, or of categories that training never saw.",
        SHARE,
        at(14, 39, 10, 8),
        Query(f"max(model_feature_unseen_ratio{{{_WINDOWED}}})", "unseen"),
        Query(f"max(model_feature_unseen_ratio{{{_WINDOWED}}}{DAY_AGO})", "a day ago", role="past"),
        links=[_DRIFT],
        empty=_NO_PROFILE,
        least=0,
        top=0.1,
    )


def prediction() -> Panel:
    return lines(
        10,
        "Predictions: divergence from training",
        "KL divergence of the predictions in the window from those on training data, and its noise floor.",
        NATS,
        at(0, 48, 8, 8),
        Query(f"max(model_prediction_kl_divergence{{{BOTH},{WINDOW}}})", "predictions"),
        Query(f"max(model_prediction_kl_divergence_noise{{{BOTH},{WINDOW}}})", "noise", role="reference"),
        Query(f"max(model:threshold:ModelPredictionDrift{{{MODEL}}})", "threshold", role="threshold"),
        empty="the profile knows no predictions",
        least=0,
    )


def together() -> Panel:
    return lines(
        11,
        "Features together",
        "How differently numeric features go together than in training: what no histogram of one feature shows. It "
        "tells something above its noise, which is its threshold.",
        NATS,
        at(8, 48, 8, 8),
        Query(f"max(model_multivariate_drift{{{BOTH},{WINDOW}}})", "together"),
        Query(f"max(model_multivariate_drift_noise{{{BOTH},{WINDOW}}})", "noise", role="threshold"),
        empty="fewer than two numeric features, or nothing observed",
        least=0,
    )


def observations() -> Panel:
    return lines(
        12,
        "Observations in the window",
        "How many values of a feature the window holds, at most. With few of them a score tells little.",
        COUNT,
        at(16, 48, 8, 8),
        Query(f"max(model_feature_window_observations{{{BOTH},{WINDOW}}})", "values in $window"),
        empty=_NO_PROFILE,
        least=0,
    )
