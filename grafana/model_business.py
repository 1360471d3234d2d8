"""Business and flywheel: attempts, confident predictions, corrections, and the next training set."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import panels as p
from grafana.layout import BOTH, DAY_AGO, MODEL, alerts_over_time, by_rank, by_version, increase


def _of_model(metric: str) -> str:
    """Return a gauge that is from the database, and so the same on all replicas."""
    return f"max by (model) ({metric}{{{MODEL}}})"


def retraining() -> Panel:
    """Time since the oldest request for a new version that the trainer has not taken. It is repeated."""
    return p.time_series(
        "Retraining request not delivered",
        p.SECONDS,
        p.Query(_of_model("model_exporter_retrain_request_undelivered_seconds"), "{{model}}"),
    )


_NO_SEGMENTS = "no segment_by in the model's configuration"
_SEGMENT_SIZE = f"sum by (segment) (increase(model_segment_attempts_total{{{BOTH}}}[$__range] @ end()))"


def _of_segment(metric: str) -> str:
    return increase(metric, BOTH, "segment", "1h")


def corrections() -> Panel:
    """Share of confident predictions that users corrected, over one hour, for each of the six largest segments. An
    average over all segments can hide a problem of one.
    """
    corrected = _of_segment("model_segment_corrections_total")
    sure = _of_segment("model_segment_confident_predictions_total")
    return p.time_series(
        "Correction share by segment",
        p.SHARE,
        *by_rank(f"({corrected} / ({sure} > 0))", _SEGMENT_SIZE, "segment"),
        empty=_NO_SEGMENTS,
        top=0.01,
    )


def events() -> Panel:
    """The business events that the model's configuration declares, over one hour, the most frequent first."""
    size = f"sum by (event) (increase(model_business_events_total{{{BOTH}}}[$__range] @ end()))"
    return p.time_series(
        "Business events an hour",
        p.COUNT,
        *by_rank(increase("model_business_events_total", BOTH, "event", "1h"), size, "event"),
        empty="no events in the model's configuration",
    )


def slices() -> Panel:
    """What the corrected predictions have in common: the share of the corrections that are in the slice, and of the
    confident predictions. The exporter searches while users correct more than ModelCorrectionRatioHigh allows, and
    at least 5 predictions an hour; the last values of the time range. Click one for all slices.
    """
    of, found = f'{{{BOTH},of="corrections"}}', "max by (model, version, slice) (last_over_time({}{}[$__range]))"
    share, traffic = (found.format(name, of) for name in ("model_slice_share", "model_slice_traffic_share"))
    worst = f"topk(10, {share})"
    return p.table(
        "Slices with many corrections",
        p.SHARE,
        p.Query(worst, kind="table"),
        p.Query(f"{traffic} and on (model, version, slice) {worst}", kind="table"),
        empty="few corrections, or no slice has more than its share",
        sort=("Corrections",),
        transformations=[
            p.transformation("merge"),
            p.transformation(
                "organize",
                excludeByName={"Time": True, "model": True},
                indexByName={"slice": 0, "Value #A": 1, "Value #B": 2, "version": 3},
                renameByName={
                    "slice": "Slice",
                    "Value #A": "Corrections",
                    "Value #B": "Predictions",
                    "version": "Version",
                },
            ),
        ],
        overrides=[
            p.for_field(
                "Slice",
                p.linked(layout.page_link("slices", "Explain", model="model", version="__data.fields.Version")),
                p.setting("custom.cellOptions", {"type": "auto", "wrapText": True}),
                unit=p.TEXT,
                minWidth=100,
            ),
            *(p.for_field(name, decimals=0, width=124) for name in ("Corrections", "Predictions")),
            p.for_field("Version", unit=p.TEXT, width=74),
        ],
    )


_MISTAKES = layout.page_link(
    "review", "Review corrections", model="__field.labels.model", version="__field.labels.version"
)


_ALERTS = alerts_over_time(
    "Alerts of the business layer",
    f'layer="business",{MODEL}',
    "version",
    f"model_info{{{MODEL}}}",
)


def dashboard() -> Dashboard:
    """Return the dashboard Business and flywheel."""
    return layout.build_dashboard(
        "model-business",
        "Models / Business and flywheel",
        "What users do with the predictions, and how their corrections become training data.",
        [layout.model_variable(), layout.versions_variable()],
        [
            *layout.side_by_side(0, 5, {17: _ALERTS}),
            layout.row(100, "From attempt to correction", 5),
            *layout.side_by_side(6, 9, {1: funnel, 2: correction_ratio}, (10, 14)),
            *layout.side_by_side(15, 9, {3: attempts, 4: confident_ratio, 18: slices}, (7, 7, 10)),
            layout.row(101, "The flywheel: review and release", 24),
            *layout.side_by_side(25, 8, {6: feedback, 8: oldest, 9: releases}),
            *layout.side_by_side(33, 8, {14: reviewed, 16: unjoined}),
            layout.row(
                102,
                "Confidence, segments, business events and retraining, for models that have them",
                41,
                layout.side_by_side(42, 8, {5: confidence, 11: corrections, 13: events, 21: retraining}),
            ),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts="business",
    )


def _total(metric: str, more: str = "") -> str:
    return increase(metric, BOTH + more)


def _share_of(part: tuple[str, str], whole: str, legend: str) -> p.Query:
    """Return a number with its percentage of another in its name; PromQL has numbers in labels by ``count_values``."""
    expr = _total(*part)
    parts, all_of = (f"sum(increase({metric}{{{BOTH}{more}}}[$__range]))" for metric, more in (part, (whole, "")))
    share = f'count_values("share", round(100 * {parts} / ({all_of} > 0), 0.1))'
    return p.Query(f"{expr} + on () group_left (share) 0 * {share}", f"{legend}, {{{{share}}}}%", "instant")


def confidence() -> Panel:
    """Predictions a second by their confidence. Empty cells are without predictions."""
    bucket = f"model_prediction_confidence_bucket{{{BOTH}}}"
    return p.heatmap(
        "Confidence over time",
        p.PER_SECOND,
        p.SHARE,
        p.Query(f"sum by (le) (rate({bucket}[$__rate_interval]))", "{{le}}", "heatmap"),
    )


def funnel() -> Panel:
    """All predictions; the confident ones, as a share of all; confident ones that users corrected, as a share of the
    confident ones; and predictions, confident or not, that users accepted, as a share of all. Feedback counts when it
    arrives, which may be long after its prediction.
    """
    attempts, confident = "model_attempts_total", "model_confident_predictions_total"
    accepted = "model_feedback_total", ',verdict="accepted"'
    return p.bar_gauge(
        "Funnel over the time range",
        p.WHOLE,
        p.Query(_total(attempts), "all", "instant"),
        _share_of((confident, ""), attempts, "confident"),
        _share_of(("model_corrections_total", ""), confident, "corrected"),
        _share_of(accepted, attempts, "accepted"),
        least=0,
        decimals=0,
    )


def correction_ratio() -> Panel:
    """Share of confident predictions that users corrected, over one hour. Click a value to review the corrections."""
    return p.time_series(
        "Correction share by version",
        p.SHARE,
        *by_version(f"model_version:correction_ratio:rate1h{{{BOTH}}}", "{{model}} {{version}}"),
        p.Query(f"model:threshold:ModelCorrectionRatioHigh{{{MODEL}}}", "threshold {{model}}", role="threshold"),
        value_links=[_MISTAKES],
    )


def attempts() -> Panel:
    """Predictions in the hour before, and at the rate of the last five minutes, which shows a stop at once.
    ModelAttemptsDrop fires if the hour is below the threshold for 30 minutes. The threshold is a share of the same
    hour a week ago, so it is low if that hour had few predictions.
    """
    return p.time_series(
        "Predictions an hour",
        p.COUNT,
        p.Query(f"sum(model_version:attempts:increase1h{{{BOTH}}})", "last hour"),
        p.Query(f"3600 * sum(rate(model_attempts_total{{{BOTH}}}[5m]))", "rate of 5 minutes"),
        p.Query(f"sum(model_version:attempts:increase1h{{{BOTH}}}{DAY_AGO})", "a day ago", role="past"),
        p.Query(
            f"model:threshold:ModelAttemptsDrop{{{MODEL}}}"
            f" * on (model) sum by (model) (model_version:attempts:increase1h{{{MODEL}}} offset 1w)",
            "threshold",
            role="threshold",
        ),
    )


def confident_ratio() -> Panel:
    """Share of predictions at or above the model's confidence threshold, over one hour; of a regression, the bias,
    predictions less labels on average. Unless exporter.yml sets ModelConfidentRatioLow, the alert's threshold is 80% of
    the model's own mean of seven days, so it falls during a long decline.
    """
    known = f"sum by (model, version) (model_prediction_confidence_count{{{BOTH}}}) > 0"
    return p.time_series(
        "$confidence by version",
        p.SHARE,
        *by_version(
            f"(model_version:confident_ratio:rate1h{{{BOTH}}} and on (model, version) {known})", "{{model}} {{version}}"
        ),
        p.Query(
            f"model:threshold:ModelConfidentRatioLow{{{MODEL}}} and on (model) {known}", "threshold", role="threshold"
        ),
        of_numbers=[p.Query(layout.bias(BOTH), "{{model}} {{version}}")],
        empty="no predictions with a confidence",
    )


def feedback() -> Panel:
    """Feedback over one hour: predictions that users accepted, corrected or rejected."""
    return p.time_series(
        "Feedback an hour",
        p.COUNT,
        *(
            p.Query(increase("model_feedback_total", f'{BOTH},verdict="{verdict}"', over="1h"), verdict)
            for verdict in ("accepted", "corrected", "rejected")
        ),
    )


def oldest() -> Panel:
    """Age of the correction that waits longest for a review; empty if none waits. The axis is logarithmic."""
    return p.time_series(
        "Oldest waiting correction",
        p.HOURS,
        p.Query(f"max by (model) (model_corrections_oldest_pending_seconds{{{MODEL}}}) / 3600", "{{model}}"),
        p.Query(f"max(model:threshold:ModelReviewBacklog{{{MODEL}}}) / 3600", "threshold", role="threshold"),
        logarithmic_from=0.1,
        value_links=[layout.page_link("review", "Review them", model="__field.labels.model")],
    )


def unjoined() -> Panel:
    """Feedback of the model, and labels of all models, whose prediction was not logged. They do not count until it
    arrives. Click a value to see the feedback.
    """
    return p.time_series(
        "Feedback without a prediction",
        p.COUNT,
        p.Query(f"max by (model) (model_exporter_feedback_unjoined{{{MODEL}}})", "{{model}}"),
        p.Query('max(model_exporter_feedback_unjoined{model=""})', "no model named"),
        p.Query("max(model_exporter_labels_unjoined)", "labels"),
        value_links=[layout.page_link("review", "List it", "joined=false", model="__field.labels.model")],
    )


def releases() -> Panel:
    """All reviewed corrections that have been released into a dataset, for the next training."""
    return p.time_series(
        "Corrections released into datasets",
        p.COUNT,
        p.Query(f"max by (model) (model_dataset_examples_total{{{MODEL}}})", "{{model}}"),
        stepped=True,
        top=1,
    )


def reviewed() -> Panel:
    """Share of right predictions among the confident ones, estimated from reviewed samples, with the 95% confidence
    interval. It includes mistakes that users do not report.
    """
    return p.time_series(
        "Accuracy in reviewed samples",
        p.SHARE,
        *by_version(f"max by (model, version) (model_reviewed_accuracy{{{BOTH}}})", "{{model}} {{version}}"),
        p.Query(
            f"max by (model, version) (model_reviewed_accuracy_lower{{{BOTH}}})",
            "{{model}} {{version}} at least",
            role="reference",
        ),
        p.Query(
            f"max by (model, version) (model_reviewed_accuracy_upper{{{BOTH}}})",
            "{{model}} {{version}} at most",
            role="reference",
        ),
        empty="no sample reviewed yet",
        least=None,
        most=1,
    )
