"""Business and flywheel: attempts, confident predictions, corrections, and the next training set."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import model_business_review as review
from grafana import model_business_segments as segments
from grafana.alert_timeline import alerts_over_time
from grafana.bars import bar_gauge
from grafana.confidence_histogram import confidence
from grafana.panels import stat, time_series
from grafana.queries import BOTH, DAY_AGO, MODEL, by_version, increase
from grafana.style import COUNT, HOURS, SECONDS, SHARE, WHOLE, Query, for_query, palette

_MISTAKES = layout.page_link(
    "review", "Review corrections", model="__field.labels.model", version="__field.labels.version"
)
_NO_PREDICTIONS = "no predictions"


def dashboard() -> Dashboard:
    """Return the dashboard Business and flywheel."""
    return layout.build_dashboard(
        "model-business",
        "Models / Business and flywheel",
        "What users do with the predictions, and how their corrections become training data.",
        [layout.model_variable(), layout.versions_variable()],
        [
            *layout.side_by_side(0, 7, {17: alerts()}),
            layout.row(100, "From attempt to correction", 7),
            *layout.side_by_side(8, 9, {1: funnel(), 2: correction_ratio()}, (10, 14)),
            *layout.side_by_side(17, 9, {3: attempts(), 4: confident_ratio(), 18: segments.slices()}, (7, 7, 10)),
            *layout.side_by_side(26, 10, {5: confidence(), 6: feedback()}),
            layout.row(101, "The flywheel: review and release", 36),
            *layout.side_by_side(37, 8, {7: pending(), 8: oldest(), 9: releases(), 10: flywheel()}, (7, 7, 6, 4)),
            *layout.side_by_side(45, 8, {14: reviewed(), 15: delay()}),
            *layout.side_by_side(53, 8, {16: unjoined(), 21: review.retraining()}),
            layout.row(
                102,
                "Segments and business events, for models that have them",
                61,
                layout.side_by_side(
                    62, 8, {11: segments.corrections(), 12: segments.attempts(), 13: segments.events()}
                ),
            ),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="business",
    )


def _total(metric: str, more: str = "") -> str:
    return increase(metric, BOTH + more)


def alerts() -> Panel:
    return alerts_over_time(
        "Alerts of the business layer",
        f'layer="business",{MODEL}',
        "version",
        f"model_info{{{MODEL}}}",
        empty="not monitored",
    )


def _share_of(expr: str, whole: str, legend: str, of: str) -> Query:
    """Return a number with its percentage of another in its name; PromQL has numbers in labels by ``count_values``."""
    share = f'count_values("share", round(100 * {expr} / ({whole} > 0), 0.1))'
    return Query(f"{expr} + on () group_left (share) 0 * {share}", f"{legend}: {{{{share}}}} % of {of}", "instant")


def funnel() -> Panel:
    attempts, confident = _total("model_attempts_total"), _total("model_confident_predictions_total")
    accepted = _total("model_feedback_total", ',verdict="accepted"')
    corrected = _total("model_corrections_total")
    return bar_gauge(
        "Funnel over the time range",
        (
            "All predictions; the confident ones; confident ones that users corrected; and predictions, confident or "
            "not, that users accepted. Feedback counts when it arrives, which may be long after its prediction."
        ),
        WHOLE,
        Query(attempts, "all", "instant"),
        _share_of(confident, attempts, "confident", "all"),
        _share_of(corrected, confident, "corrected", "confident"),
        _share_of(accepted, attempts, "accepted", "all"),
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
            "Predictions in the hour before, and at the rate of the last five minutes, which shows a stop at once. "
            "ModelAttemptsDrop fires if the hour is below the threshold for 30 minutes. The threshold is a share of "
            "the same hour a week ago, so it is low if that hour had few predictions."
        ),
        COUNT,
        Query(f"sum(model_version:attempts:increase1h{{{BOTH}}})", "last hour"),
        Query(f"3600 * sum(rate(model_attempts_total{{{BOTH}}}[5m]))", "rate of 5 minutes"),
        Query(f"sum(model_version:attempts:increase1h{{{BOTH}}}{DAY_AGO})", "a day ago", role="past"),
        Query(
            f"model:threshold:ModelAttemptsDrop{{{MODEL}}}"
            f" * on (model) sum by (model) (model_version:attempts:increase1h{{{MODEL}}} offset 1w)",
            "threshold",
            role="threshold",
        ),
        empty=_NO_PREDICTIONS,
    )


def confident_ratio() -> Panel:
    known = f"and on (model, version) sum by (model, version) (model_prediction_confidence_count{{{BOTH}}}) > 0"
    return time_series(
        "Confident share by version",
        (
            "Share of predictions at or above the model's confidence threshold, over one hour; empty for a model "
            "without confidences. Unless exporter.yml sets ModelConfidentRatioLow, the alert's threshold is 80 % of "
            "the model's own mean of seven days, so it sinks during a long decline."
        ),
        SHARE,
        *by_version(f"(model_version:confident_ratio:rate1h{{{BOTH}}} {known})", "{{model}} {{version}}"),
        Query(f"model:threshold:ModelConfidentRatioLow{{{MODEL}}}", "threshold {{model}}", role="threshold"),
        empty="no predictions with a confidence",
        most=1,
    )


def feedback() -> Panel:
    return time_series(
        "Feedback an hour",
        "Feedback over one hour: predictions that users accepted or corrected.",
        COUNT,
        *(
            Query(increase("model_feedback_total", f'{BOTH},verdict="{verdict}"', over="1h"), verdict)
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
        "Age of the correction that has been waiting longest; empty if none is waiting. The axis is logarithmic.",
        HOURS,
        Query(f"max by (model) (model_corrections_oldest_pending_seconds{{{MODEL}}}) / 3600", "{{model}}"),
        Query(f"max(model:threshold:ModelReviewBacklog{{{MODEL}}}) / 3600", "threshold", role="threshold"),
        empty="none waiting, or no data",
        logarithmic_from=0.1,
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
        "Accuracy in reviewed samples",
        (
            "Share of right predictions among the confident ones, estimated from reviewed samples, with the 95 % "
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
    unnamed = 'model_exporter_feedback_unjoined{model=""}'
    return time_series(
        "Feedback without a prediction",
        (
            "Feedback whose prediction was not logged. It does not count until its prediction arrives. Click a value "
            "to see it."
        ),
        COUNT,
        Query(f"max by (model) (model_exporter_feedback_unjoined{{{MODEL}}})", "{{model}}"),
        Query(
            f"max({unnamed}) and on () max(max_over_time({unnamed}[$__range] @ end())) > 0",
            "no model named",
        ),
        empty="no feedback",
        overrides=[for_query(1, *palette(0))],
        value_links=[layout.page_link("review", "List it", "joined=false", model="__field.labels.model")],
    )
