"""Business and flywheel: attempts, confident predictions, corrections, and the next training set."""

from __future__ import annotations

from itertools import pairwise

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from exporter.monitoring.counters import CONFIDENCE_BUCKETS
from grafana import layout
from grafana.layout import BOTH, DAY_AGO, MODEL, alerts_over_time, by_rank, by_version, increase
from grafana.panels import (
    COUNT,
    GREY,
    HOURS,
    NEUTRAL,
    SECONDS,
    SHARE,
    TEXT,
    WHOLE,
    Query,
    bar_chart,
    bar_gauge,
    for_field,
    for_query,
    palette,
    setting,
    stat,
    table,
    time_series,
    transformation,
)


def _of_model(metric: str) -> str:
    """Return a gauge that is from the database, and so the same on all replicas."""
    return f"max by (model) ({metric}{{{MODEL}}})"


def retraining() -> Panel:
    return time_series(
        "Retraining request not delivered",
        (
            "Time since the oldest request for a new version that the trainer has not taken. "
            "ModelRetrainRequestsFailing fires when it is above ten minutes for five minutes."
        ),
        SECONDS,
        Query(_of_model("model_exporter_retrain_request_undelivered_seconds"), "{{model}}"),
        empty="all delivered, or none made",
    )


_NO_SEGMENTS = "no segment_by in the model's configuration, or no data"
_SEGMENT_SIZE = f"sum by (segment) (increase(model_segment_attempts_total{{{BOTH}}}[$__range] @ end()))"


def _of_segment(metric: str) -> str:
    return increase(metric, BOTH, "segment", "1h")


def corrections() -> Panel:
    corrected = _of_segment("model_segment_corrections_total")
    sure = _of_segment("model_segment_confident_predictions_total")
    return time_series(
        "Correction share by segment",
        (
            "Share of confident predictions that users corrected, over one hour, for each of the six largest segments. "
            "An average over all segments can hide a problem of one."
        ),
        SHARE,
        *by_rank(f"({corrected} / ({sure} > 0))", _SEGMENT_SIZE, "segment"),
        empty=_NO_SEGMENTS,
        top=0.01,
    )


def segment_attempts() -> Panel:
    return time_series(
        "Predictions an hour by segment",
        "Predictions per hour of the six largest segments, the largest first.",
        COUNT,
        *by_rank(_of_segment("model_segment_attempts_total"), _SEGMENT_SIZE, "segment"),
        empty=_NO_SEGMENTS,
    )


def events() -> Panel:
    size = f"sum by (event) (increase(model_business_events_total{{{BOTH}}}[$__range] @ end()))"
    return time_series(
        "Business events an hour",
        "The business events that the model's configuration declares, over one hour, the most frequent first.",
        COUNT,
        *by_rank(increase("model_business_events_total", BOTH, "event", "1h"), size, "event"),
        empty="no events in the model's configuration, or no data",
    )


def slices() -> Panel:
    """Return the table of the slices that the exporter found in the time range, at most ten."""
    of, found = f'{{{BOTH},of="corrections"}}', "max by (model, version, slice) (last_over_time({}{}[$__range]))"
    share, traffic = (found.format(name, of) for name in ("model_slice_share", "model_slice_traffic_share"))
    worst = f"topk(10, {share})"
    link = layout.page_link("slices", "Explain", model="model", version="__data.fields.Version")
    return table(
        "Slices with many corrections",
        (
            "What the corrected predictions have in common: the share of the corrections that are in the slice, and of "
            "the confident predictions. The exporter searches while users correct more than ModelCorrectionRatioHigh "
            "allows, and at least 5 predictions an hour; the last values of the time range. Click one for all slices."
        ),
        SHARE,
        Query(worst, kind="table"),
        Query(f"{traffic} and on (model, version, slice) {worst}", kind="table"),
        empty="few corrections, or no slice has more than its share",
        sort=("Corrections",),
        transformations=[
            transformation("merge"),
            transformation(
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
            for_field(
                "Slice",
                setting("links", [{"title": link.title, "url": link.url, "targetBlank": True}]),
                setting("custom.cellOptions", {"type": "auto", "wrapText": True}),
                unit=TEXT,
            ),
            *(for_field(name, decimals=0, width=95) for name in ("Corrections", "Predictions")),
            for_field("Version", unit=TEXT, width=70),
        ],
    )


def _in_bucket(below: float, bound: float) -> str:
    """Return the predictions of a bucket, which Prometheus counts with those of the buckets before."""

    def upto(le: float) -> str:
        return increase("model_prediction_confidence_bucket", f'{BOTH},le="{le}"')

    own = f"{upto(bound)} - {upto(below)}" if below else upto(bound)
    return f'label_replace({own}, "upto", "{bound}", "", "")'


_THRESHOLD = f"max(last_over_time(model_confidence_threshold{{{MODEL}}}[$__range]))"
_BUCKETS = tuple(pairwise((0.0, *CONFIDENCE_BUCKETS)))


def confidence() -> Panel:
    any_value = f"{increase('model_prediction_confidence_count', BOTH)} > 0"
    # A confidence of 1 may be the threshold, and then counts as confident.
    is_confident = {bound: f"{_THRESHOLD} < {bound}" if bound < 1 else _THRESHOLD for _, bound in _BUCKETS}
    confident = " or ".join(f"{_in_bucket(*bucket)} and on () {is_confident[bucket[1]]}" for bucket in _BUCKETS)
    others = " or ".join(f"{_in_bucket(*bucket)} unless on () {is_confident[bucket[1]]}" for bucket in _BUCKETS)
    names = {"Value #A": "confident", "Value #B": "not confident", "Value": "confident"}
    return bar_chart(
        "Confidence of the predictions",
        (
            "Predictions in the time range by confidence: blue from the model's confidence threshold on, grey below. "
            "Each bar counts those up to its value and above that of the bar before; one that contains the threshold "
            "is blue."
        ),
        WHOLE,
        Query(f"({confident}) and on () {any_value}", "confident", "table"),
        Query(f"({others}) and on () {any_value}", "not confident", "table"),
        by="upto",
        stacked=True,
        empty="no confidence values",
        least=0,
        decimals=0,
        transformations=[
            # An outer join ignores a query without a result; "merge" would merge nothing.
            transformation("filterFieldsByName", exclude={"names": ["Time"]}),
            transformation("joinByField", byField="upto", mode="outer"),
            transformation("sortBy", fields={}, sort=[{"field": "upto"}]),
            transformation("organize", renameByName=names),
        ],
        overrides=[
            for_field("confident", setting("color", {"mode": "fixed", "fixedColor": NEUTRAL})),
            for_field("not confident", setting("color", {"mode": "fixed", "fixedColor": GREY})),
            for_field("upto", unit=TEXT, noValue=" "),
        ],
    )


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
            *layout.side_by_side(17, 9, {3: attempts(), 4: confident_ratio(), 18: slices()}, (7, 7, 10)),
            *layout.side_by_side(26, 10, {5: confidence(), 6: feedback()}),
            layout.row(101, "The flywheel: review and release", 36),
            *layout.side_by_side(37, 8, {7: pending(), 8: oldest(), 9: releases(), 10: flywheel()}, (7, 7, 6, 4)),
            *layout.side_by_side(45, 8, {14: reviewed(), 15: delay()}),
            *layout.side_by_side(53, 8, {16: unjoined(), 21: retraining()}),
            layout.row(
                102,
                "Segments and business events, for models that have them",
                61,
                layout.side_by_side(62, 8, {11: corrections(), 12: segment_attempts(), 13: events()}),
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
