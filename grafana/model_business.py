"""Business and flywheel: attempts, confident predictions, corrections, and the next training set."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana.panels import bar_gauge, stat, time_series
from grafana.queries import BOTH, DAY_AGO, MODEL, by_version, increase
from grafana.style import COUNT, HOURS, SECONDS, SHARE, WHOLE, Query

_MISTAKES = layout.page_link(
    "review", "Review corrections", model="__field.labels.model", version="__field.labels.version"
)
_NO_PREDICTIONS = "no predictions"
_NO_SEGMENTS = "no segment_by in the model's configuration, or no data"


def dashboard() -> Dashboard:
    """Return the dashboard Business and flywheel."""
    return layout.build_dashboard(
        "model-business",
        "Models / Business and flywheel",
        "What users do with the predictions, and how their corrections become training data.",
        [layout.model_variable(), layout.versions_variable()],
        [
            layout.row(100, "From attempt to correction", 0),
            *layout.side_by_side(1, 9, {1: funnel(), 2: correction_ratio()}, (10, 14)),
            *layout.side_by_side(10, 9, {3: attempts(), 4: confident_ratio()}),
            *layout.side_by_side(19, 10, {5: confidence(), 6: feedback()}),
            layout.row(101, "The flywheel: review and release", 29),
            *layout.side_by_side(30, 8, {7: pending(), 8: oldest(), 9: releases(), 10: flywheel()}, (7, 7, 6, 4)),
            *layout.side_by_side(38, 8, {14: reviewed(), 15: delay(), 16: unjoined()}),
            layout.row(102, "Segments and business events", 46),
            *layout.side_by_side(47, 7, {11: segment_corrections(), 12: segment_attempts(), 13: events()}),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="business",
    )


def _total(metric: str, more: str = "") -> str:
    return f"sum(increase({metric}{{{BOTH}{more}}}[$__range]))"


def funnel() -> Panel:
    return bar_gauge(
        "Funnel over the time range",
        (
            "All predictions, confident predictions, predictions that users confirmed, and confident predictions that "
            "users corrected."
        ),
        WHOLE,
        Query(_total("model_attempts_total"), "attempts", "instant"),
        Query(_total("model_confident_predictions_total"), "confident", "instant"),
        Query(_total("model_feedback_total", ',verdict="accepted"'), "accepted by users", "instant"),
        Query(_total("model_corrections_total"), "corrected", "instant"),
        empty=_NO_PREDICTIONS,
        least=0,
        decimals=0,
    )


def correction_ratio() -> Panel:
    return time_series(
        "Correction share by version",
        (
            "Share of confident predictions that users corrected, over one hour. Click a value to review the "
            "corrections."
        ),
        SHARE,
        *by_version(f"model_version:correction_ratio:rate1h{{{BOTH}}}", "{{model}} {{version}}"),
        Query(f"model:threshold:ModelCorrectionRatioHigh{{{MODEL}}}", "threshold {{model}}", role="threshold"),
        empty="no confident predictions",
        value_links=[_MISTAKES],
    )


def attempts() -> Panel:
    return time_series(
        "Predictions an hour",
        (
            "Predictions per hour by model, and a day ago. ModelAttemptsDrop fires below the threshold, a share of "
            "the same hour a week ago."
        ),
        COUNT,
        Query(f"sum by (model) (model_version:attempts:increase1h{{{BOTH}}})", "{{model}}"),
        Query(
            f"sum by (model) (model_version:attempts:increase1h{{{BOTH}}}{DAY_AGO})",
            "{{model}}, a day ago",
            role="past",
        ),
        Query(
            f"model:threshold:ModelAttemptsDrop{{{MODEL}}}"
            f" * on (model) sum by (model) (model_version:attempts:increase1h{{{MODEL}}} offset 1w)",
            "threshold {{model}}",
            role="threshold",
        ),
        empty=_NO_PREDICTIONS,
    )


def confident_ratio() -> Panel:
    return time_series(
        "Confident share by version",
        "Share of predictions at or above the model's confidence threshold, over one hour.",
        SHARE,
        *by_version(f"model_version:confident_ratio:rate1h{{{BOTH}}}", "{{model}} {{version}}"),
        Query(f"model:threshold:ModelConfidentRatioLow{{{MODEL}}}", "threshold {{model}}", role="threshold"),
        empty=_NO_PREDICTIONS,
        most=1,
    )


def confidence() -> Panel:
    buckets = increase("model_prediction_confidence_bucket", f'{BOTH},le!="+Inf"', "le")  # no confidence is above 1
    return bar_gauge(
        "Confidence of the predictions",
        (
            "Predictions in the time range by confidence. Each bar counts those up to its value and above that of the "
            "bar before."
        ),
        WHOLE,
        Query(buckets, "{{le}}", "buckets"),
        empty="no confidence values",
        least=0,
        decimals=0,
    )


def feedback() -> Panel:
    return time_series(
        "Feedback an hour",
        "Feedback over one hour: predictions that users accepted or corrected.",
        COUNT,
        *(
            Query(f'sum(increase(model_feedback_total{{{BOTH},verdict="{verdict}"}}[1h]))', verdict)
            for verdict in ("accepted", "corrected")
        ),
        empty="no feedback",
    )


def pending() -> Panel:
    return time_series(
        "Corrections waiting for review",
        "Corrections without a review decision. The link Review opens them.",
        COUNT,
        Query(f"max by (model) (model_corrections_pending{{{MODEL}}})", "{{model}}"),
        empty="no feedback",
        value_links=[layout.page_link("review", "Review them", model="__field.labels.model")],
    )


def oldest() -> Panel:
    return time_series(
        "Oldest waiting correction",
        "Age of the correction that has been waiting longest; empty if none is waiting.",
        HOURS,
        Query(f"max by (model) (model_corrections_oldest_pending_seconds{{{MODEL}}}) / 3600", "{{model}}"),
        Query(f"max(model:threshold:ModelReviewBacklog{{{MODEL}}}) / 3600", "threshold", role="threshold"),
        empty="none waiting, or no data",
    )


def releases() -> Panel:
    return time_series(
        "Corrections released into datasets",
        "All reviewed corrections that have been released into a dataset, for the next training.",
        COUNT,
        Query(f"max by (model) (model_dataset_examples_total{{{MODEL}}})", "{{model}}"),
        empty="nothing released yet, or no data",
        stepped=True,
        top=1,
    )


def flywheel() -> Panel:
    return stat(
        "In this time range",
        "Corrections from users, and corrections released into a dataset.",
        WHOLE,
        Query(_total("model_feedback_total", ',verdict="corrected"'), "corrected", "instant"),
        Query(
            f"sum(max by (model) (increase(model_dataset_examples_total{{{MODEL}}}[$__range])))", "released", "instant"
        ),
        empty="none",
        decimals=0,
    )


def reviewed() -> Panel:
    return time_series(
        "Accuracy of confident predictions, from a reviewed sample",
        (
            "Share of right predictions in a random sample of confident predictions that was reviewed, with the 95 % "
            "confidence interval. It includes mistakes that users do not report."
        ),
        SHARE,
        *by_version(f"max by (model, version) (model_reviewed_accuracy{{{BOTH}}})", "{{model}} {{version}}"),
        Query(
            f"max by (model, version) (model_reviewed_accuracy_lower{{{BOTH}}})",
            "{{model}} {{version}} at least",
            role="reference",
        ),
        Query(
            f"max by (model, version) (model_reviewed_accuracy_upper{{{BOTH}}})",
            "{{model}} {{version}} at most",
            role="reference",
        ),
        empty="no sample reviewed yet",
        least=None,
        most=1,
    )


def delay() -> Panel:
    buckets = increase("model_feedback_delay_seconds_bucket", BOTH, "le", "1h")
    return time_series(
        "Delay of feedback",
        (
            "Time from a prediction to its feedback, for the feedback of one hour. The correction shares of more "
            "recent predictions are still incomplete."
        ),
        SECONDS,
        Query(f"histogram_quantile(0.5, {buckets})", "half within"),
        Query(f"histogram_quantile(0.95, {buckets})", "95 % within"),
        empty="no feedback",
    )


def unjoined() -> Panel:
    return time_series(
        "Feedback without a prediction",
        (
            "Feedback whose prediction was not logged. It does not count until its prediction arrives. Click a value "
            "to see it."
        ),
        COUNT,
        Query(f"max by (model) (model_exporter_feedback_unjoined{{{MODEL}}})", "{{model}}"),
        Query('max(model_exporter_feedback_unjoined{model=""}) > 0', "no model named"),
        empty="no feedback",
        value_links=[layout.page_link("review", "List it", "joined=false", model="__field.labels.model")],
    )


_SEGMENTS = "model, version, segment"


def segment_corrections() -> Panel:
    corrected = increase("model_segment_corrections_total", BOTH, _SEGMENTS, "1h")
    sure = increase("model_segment_confident_predictions_total", BOTH, _SEGMENTS, "1h")
    return time_series(
        "Correction share by segment",
        (
            "Share of confident predictions that users corrected, over one hour, for each segment. An average over "
            "all segments can hide a problem of one."
        ),
        SHARE,
        Query(f"{corrected} / ({sure} > 0)", "{{model}} {{version}} {{segment}}"),
        empty=_NO_SEGMENTS,
        top=0.01,
    )


def segment_attempts() -> Panel:
    return time_series(
        "Predictions an hour by segment",
        "Predictions per hour, by segment.",
        COUNT,
        Query(increase("model_segment_attempts_total", BOTH, "model, segment", "1h"), "{{model}} {{segment}}"),
        empty=_NO_SEGMENTS,
    )


def events() -> Panel:
    return time_series(
        "Business events an hour",
        "The business events that the model's configuration declares, over one hour.",
        COUNT,
        Query(increase("model_business_events_total", BOTH, "model, event", "1h"), "{{model}} {{event}}"),
        empty="no events in the model's configuration, or no data",
    )
