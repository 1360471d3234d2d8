"""Quality: is the model still right? Measured with labels, and estimated without."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import panels as p
from grafana.layout import BOTH, MODEL, WINDOW, alerts_over_time, by_rank, increase

_IN_WINDOW = f"{BOTH},{WINDOW}"
_BY = "by (model, version)"
_NO_LABELS = "no labels"
_NO_QUALITY = "no labels, and no labelled rows in the profile"


_ALERTS = alerts_over_time(
    "Alerts on the quality",
    f'alertname="ModelAccuracyLow",{MODEL}',
    "version",
    f"model_info{{{MODEL}}}",
)


def dashboard() -> Dashboard:
    """Return the dashboard Quality."""
    return layout.build_dashboard(
        "model-quality",
        "Models / Quality",
        "Is the model still right? Measured where the labels are known, and estimated before they are.",
        [
            layout.model_variable(),
            layout.versions_variable(),
            layout.quality_window_variable(),
        ],
        [
            *layout.side_by_side(0, 4, {1: _ALERTS}),
            *layout.side_by_side(4, 10, {2: quality}),
            *layout.side_by_side(14, 8, {4: labels, 6: calibration}),
            *layout.side_by_side(22, 9, {7: outcomes}),
            layout.row(100, "Segments, for models that have them", 31, layout.side_by_side(32, 9, {8: by_segment})),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="business",
    )


def _estimated_and_measured(
    name: str, most: str, least: str, limit: str, of_estimates: Sequence[p.Query] = ()
) -> list[p.Query]:
    """Return queries of a quantity that labels show and that the profile estimates, each with its interval.

    What is measured is of the labels of all replicas, with an interval from 20 labels on. Estimates of replicas cannot
    be added up: the value is their mean, and the interval contains those of all.

    Parameters
    ----------
    most, least
        The ends of the interval of the measured value.
    limit
        What the measured values are compared with by the alert.
    of_estimates
        What the profile had and the limit, where they are others for estimates.
    """
    of = "{{version}}"
    value = f"(model_{name}{{{_IN_WINDOW}}} >= 0)"
    return [
        p.Query(layout.mean_over_labels(value, _IN_WINDOW, "model, version"), f"measured {of}"),
        p.Query(f"avg {_BY} (model_estimated_{name}{{{_IN_WINDOW}}})", f"estimated {of}"),
        p.Query(f"min {_BY} (model_estimated_{name}_lower{{{_IN_WINDOW}}})", f"at least {of}", role="reference"),
        p.Query(f"max {_BY} (model_estimated_{name}_upper{{{_IN_WINDOW}}})", f"at most {of}", role="reference"),
        p.Query(
            f"max {_BY} (model_reference_{name}_overall{{{BOTH}}})", f"labelled rows of the profile {of}", role="past"
        ),
        p.Query(limit, f"threshold {of}", role="threshold"),
        p.Query(f"max {_BY} ({least})", f"measured, at least {of}", role="bound"),
        p.Query(f"max {_BY} ({most})", f"measured, at most {of}", role="bound"),
        *of_estimates,
    ]


def _accuracy() -> list[p.Query]:
    overall = f"max {_BY} (model_reference_accuracy_overall{{{BOTH}}})"
    # Drawn only where it differs, because some labelled rows have no confidence.
    of_confident = f"max {_BY} (model_reference_estimated_accuracy{{{BOTH}}}) != {overall}"
    less_threshold = f"- on (model) group_left () model:threshold:ModelAccuracyLow{{{MODEL}}}"
    # The ends of Wilson's interval lie on both sides of its middle: prometheus/rules/business.yml.
    labels, measured, most = (
        f"model_version_window:{name}{{{_IN_WINDOW}}}"
        for name in ("labelled_predictions:sum", "accuracy:measured", "accuracy_upper:measured")
    )
    return _estimated_and_measured(
        "accuracy",
        most,
        f"2 * ({labels} * {measured} + 1.92073) / ({labels} + 3.841459) - {most}",
        f"{overall} {less_threshold}",
        (
            p.Query(of_confident, "labelled rows with a confidence {{version}}", role="past"),
            p.Query(f"({of_confident}) {less_threshold}", "threshold of the estimate {{version}}", role="threshold"),
        ),
    )


def _absolute_error() -> list[p.Query]:
    error = f"model_version_window:mean_absolute_error:measured{{{_IN_WINDOW}}}"
    root = f"(model_root_mean_squared_error{{{_IN_WINDOW}}} >= 0)"
    labels = f"model_window_labelled_predictions{{{_IN_WINDOW}}}"
    by = "sum by (model, version, window)"
    squares = f"{by} ({root} ^ 2 * {labels}) / {by} ({labels} and {root})"
    half = f"1.959964 * sqrt(clamp_min({squares} - {error} ^ 2, 0) / ({by} ({labels} and {root}) - 1))"
    return _estimated_and_measured(
        "mean_absolute_error",
        f"{error} + {half}",
        f"{error} - {half}",
        f"model_version:threshold:ModelAccuracyLowError{{{BOTH}}}",
    )


def quality() -> Panel:
    """The share of right predictions of $window, or of a regression the mean absolute error in the unit of
    the label: measured with labels, and estimated without them. Thin lines: the 95% interval of the measured value,
    from 20 labels on, and, in grey, of the estimate for what labels will show. Dotted: on the labelled rows of the
    profile.
    """
    of_accuracy, of_error = _accuracy(), _absolute_error()
    unnamed = {"reference", "past", "bound"}
    hidden = [i for i, query in enumerate((*of_accuracy, *of_error)) if query.role in unnamed]
    colours = {start + i: p.PALETTE[i] for start in (0, len(of_accuracy)) for i in range(2)}
    return p.time_series(
        "$quality, $window",
        p.SHARE,
        *of_accuracy,
        of_numbers=of_error,
        links=[layout.details("model-release", "Compare versions")],
        empty=_NO_QUALITY,
        overrides=[
            *(p.for_query(i, p.setting("color", {"mode": "shades", "fixedColor": c})) for i, c in colours.items()),
            *(p.for_query(i, p.NOT_IN_LEGEND) for i in hidden),
        ],
    )


def labels() -> Panel:
    """Predictions of $window whose label is known, and those that still wait for theirs. Labels whose prediction never
    arrived are on the dashboard Business and flywheel.
    """
    return p.time_series(
        "Labels of the window",
        p.COUNT,
        p.Query(f"sum(model_window_labelled_predictions{{{_IN_WINDOW}}})", "labelled"),
        p.Query(f"sum(model_window_unlabelled_predictions{{{_IN_WINDOW}}})", "waiting for their label"),
        empty=_NO_LABELS,
    )


def calibration() -> Panel:
    """How far the confidences of the labelled predictions are from the shares that are right, on average. At 10%,
    predictions with a confidence of 90% may be right in 80% of cases. Of a regression, the bias: the mean
    of the labelled predictions less their labels, above 0 if they are too high.
    """
    return p.time_series(
        "$calibration",
        p.SHARE,
        p.Query(f"max {_BY} (model_calibration_error{{{_IN_WINDOW}}})", "version {{version}}"),
        of_numbers=[
            p.Query(layout.mean_over_labels(f"model_mean_error{{{_IN_WINDOW}}}", _IN_WINDOW), "version {{version}}")
        ],
        empty=f"{_NO_LABELS}, or no confidences",
        top=0.01,
        overrides=[p.for_query(0, p.setting("min", 0))],
    )


_OF = 'sum by (of) (label_replace({}, "of", "$1", "{}", "(.*)"))'


def _by_window(name: str, power: str = "") -> str:
    value = f"(model_{name}{{{BOTH}}} > -Inf){power}"
    return _OF.format(layout.mean_over_labels(f"({value})", BOTH, "window"), "window")


def outcomes() -> Panel:
    """Recall: of the predictions with this label, the share that was predicted so. Precision: of those predicted so,
    the share that has this label. For the labels that arrived in the time range. Of a regression: the mean absolute
    error, the root of the mean squared error, which large errors raise, and the bias of each window.
    """
    counted = increase("model_outcomes_total", BOTH, "predicted, actual")
    # Predicted and actual are equal: PromQL compares labels of two sides only.
    classes = f"group by (predicted) (model_outcomes_total{{{BOTH}}})"
    diagonal = f'label_replace({classes}, "actual", "$1", "predicted", "(.*)")'
    right = _OF.format(f"({counted} and on (predicted, actual) {diagonal})", "predicted")
    predicted, actual = (_OF.format(counted, kind) for kind in ("predicted", "actual"))
    columns = {
        "Recall": f"{right} / ({actual} > 0)",
        "Precision": f"{right} / ({predicted} > 0)",
        "Error": _by_window("mean_absolute_error"),
        "RMSE": f"sqrt({_by_window('root_mean_squared_error', ' ^ 2')})",
        "Bias": _by_window("mean_error"),
        "Labels": f"{actual} > 0 or "
        + _OF.format(f"sum by (window) (model_window_labelled_predictions{{{BOTH}}} and model_mean_error)", "window"),
    }
    return p.table(
        "$outcomes",
        p.SHARE,
        *(p.Query(expr, kind="table") for expr in columns.values()),
        empty=_NO_LABELS,
        sort=("+Recall", "+Labels"),
        transformations=[
            p.transformation("filterFieldsByName", exclude={"names": ["Time"]}),
            p.transformation("joinByField", byField="of", mode="outer"),
            p.transformation(
                "organize",
                renameByName={"of": "Of"}
                | {f"Value #{ref}": name for ref, name in zip("ABCDEF", columns, strict=True)},
            ),
        ],
        overrides=[
            p.for_field("Of", unit=p.TEXT, minWidth=110),
            *(p.for_field(name, unit=p.COUNT, noValue="–", width=90) for name in ("Error", "RMSE", "Bias")),
            *(p.for_field(name, decimals=1, noValue="–", width=90) for name in ("Recall", "Precision")),
            p.for_field("Labels", unit=p.WHOLE, decimals=0, noValue="–", width=96),
        ],
    )


def by_segment() -> Panel:
    """Share of right predictions among the labels of a day, for each of the six segments with most labels."""
    labelled = increase("model_segment_labelled_predictions_total", BOTH, "segment", "1d")
    correct = increase("model_segment_correct_predictions_total", BOTH, "segment", "1d")
    size = f"sum by (segment) (increase(model_segment_labelled_predictions_total{{{BOTH}}}[$__range] @ end()))"
    return p.time_series(
        "Accuracy by segment",
        p.SHARE,
        *by_rank(f"({correct} / ({labelled} > 0))", size, "segment"),
        empty=f"no segment_by in the model's configuration, a regression, or {_NO_LABELS}",
        least=None,
        most=1,
    )
