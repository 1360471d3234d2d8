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
            layout.quality_variable(),
            layout.title_variable("outcomes", "Outcomes by class", "Errors by window"),
        ],
        [
            *layout.side_by_side(0, 4, {1: alerts}),
            *layout.side_by_side(4, 10, {2: quality}),
            *layout.side_by_side(14, 8, {4: labels, 6: calibration}),
            *layout.side_by_side(22, 9, {7: outcomes}),
            layout.row(100, "Segments, for models that have them", 31, layout.side_by_side(32, 9, {8: by_segment})),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="business",
    )


def alerts() -> Panel:
    """Blue while pending or info, orange for a warning, red if critical, green if there is none, grey if alerts are not
    evaluated. With more than 15, those active for longest.
    """
    return alerts_over_time(
        "Alerts on the quality",
        f'alertname="ModelAccuracyLow",{MODEL}',
        "version",
        f"model_info{{{MODEL}}}",
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
    value, labels = f"(model_{name}{{{_IN_WINDOW}}} >= 0)", f"model_window_labelled_predictions{{{_IN_WINDOW}}}"
    return [
        p.Query(f"sum {_BY} ({value} * {labels}) / sum {_BY} ({labels} and {value})", f"measured {of}"),
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
    queries = [*of_accuracy, *of_error]
    hidden = [i for i, query in enumerate(queries) if query.role in {"reference", "past", "bound"}]
    first = len(of_accuracy)
    colours = {start + i: p.PALETTE[i] for start in (0, first) for i in range(2)}
    return p.time_series(
        "$quality, $window",
        p.SHARE,
        *queries,
        empty=_NO_QUALITY,
        least=None,
        overrides=[
            *(p.for_query(i, p.setting("color", {"mode": "shades", "fixedColor": c})) for i, c in colours.items()),
            *(p.for_query(i, p.setting("unit", p.COUNT)) for i in range(first, len(queries))),
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
    predictions with a confidence of 90% may be right in 80% of cases.
    """
    return p.time_series(
        "Calibration error",
        p.SHARE,
        p.Query(f"max {_BY} (model_calibration_error{{{_IN_WINDOW}}})", "version {{version}}"),
        empty=f"{_NO_LABELS}, or no confidences",
        top=0.01,
    )


def _mean(value: str) -> str:
    """Return the mean of a measure of windows over the labels of all replicas and versions."""
    labels = f"model_window_labelled_predictions{{{BOTH}}}"
    return f"sum by (of) ({_OF.format(f'({value} * {labels})', 'window')}) / " + (
        f"sum by (of) ({_OF.format(f'({labels} and {value})', 'window')})"
    )


_OF = 'label_replace({}, "of", "$1", "{}", "(.*)")'


def outcomes() -> Panel:
    """Recall: of the predictions with this label, the share that was predicted so. Precision: of those predicted so,
    the share that has this label. For the labels that arrived in the time range. Of a regression: the mean absolute
    error, and the root of the mean squared error, which large errors raise, of the labelled predictions of each window.
    """
    counted = increase("model_outcomes_total", BOTH, "predicted, actual")
    # Predicted and actual are equal: PromQL compares labels of two sides only.
    classes = f"group by (predicted) (model_outcomes_total{{{BOTH}}})"
    diagonal = f'label_replace({classes}, "actual", "$1", "predicted", "(.*)")'
    right = f"sum by (of) ({_OF.format(f'({counted} and on (predicted, actual) {diagonal})', 'predicted')})"
    predicted = f"sum by (of) ({_OF.format(counted, 'predicted')})"
    actual = f"sum by (of) ({_OF.format(counted, 'actual')})"
    errors = [f"(model_{name}{{{BOTH}}} >= 0)" for name in ("mean_absolute_error", "root_mean_squared_error")]
    columns = {
        "Recall": f"{right} / ({actual} > 0)",
        "Precision": f"{right} / ({predicted} > 0)",
        "Error": _mean(errors[0]),
        "RMSE": f"sqrt({_mean(f'{errors[1]} ^ 2')})",
        "Labels": f"{actual} > 0 or "
        + f"sum by (of) ({_OF.format(f'(model_window_labelled_predictions{{{BOTH}}} and {errors[0]})', 'window')})",
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
                renameByName={"of": "Of"} | {f"Value #{ref}": name for ref, name in zip("ABCDE", columns, strict=True)},
            ),
        ],
        overrides=[
            p.for_field("Of", unit=p.TEXT, minWidth=110),
            *(p.for_field(name, unit=p.COUNT, noValue="–", width=90) for name in ("Error", "RMSE")),
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
