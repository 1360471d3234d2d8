"""Release comparison: the last two versions over the time in which both served; and two periods of one's choice."""

from __future__ import annotations

from collections.abc import Callable

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel, VariableModel, VariableOption

from grafana import layout
from grafana import model_release_shadow as shadow
from grafana.model_release_comparison import comparison, decision, shared_time, verdict
from grafana.model_release_quality import accuracy_over_time, error_over_time
from grafana.panels import stat, table, time_series
from grafana.queries import AFTER, BEFORE, EARLIER, MODEL
from grafana.style import (
    COUNT,
    DEVIATIONS,
    NATS,
    PER_SECOND,
    POINTS,
    SECONDS,
    SHARE,
    TEXT,
    Query,
    for_field,
    for_query,
    setting,
    transformation,
)


def dashboard() -> Dashboard:
    """Return the dashboard Release comparison."""
    return layout.build_dashboard(
        "model-release",
        "Models / Release comparison",
        "Is the new version better? Both versions over the time in which both served, with what chance explains.",
        [
            layout.model_variable(),
            layout.compared_version("before", "Before"),
            layout.compared_version("after", "After"),
            earlier(),
            layout.quality_window_variable(),
        ],
        [
            layout.row(103, "Last two versions, over the time both served", 0),
            *layout.side_by_side(1, 3, {14: verdict(), 19: decision(), 15: shared_time()}, (14, 4, 6)),
            *layout.side_by_side(4, 8, {16: comparison()}),
            layout.row(101, "Over time: versions $before and $after", 12),
            *layout.side_by_side(13, 8, {7: requests_over_time(), 8: errors_over_time(), 9: latency_over_time()}),
            *layout.side_by_side(21, 8, {10: confident_over_time(), 11: corrected_over_time(), 12: drift_over_time()}),
            *layout.side_by_side(29, 8, {17: accuracy_over_time(), 18: error_over_time()}),
            layout.row(104, "Shadow mode: answers that no user sees", 37),
            *layout.side_by_side(38, 6, {20: shadow.pairs()}),
            *layout.side_by_side(44, 8, {21: shadow.different(), 22: shadow.answers()}),
            layout.row(
                100,
                "Two periods: $before and $after over the whole time range",
                52,
                [
                    *layout.side_by_side(
                        53, 6, {1: requests(), 2: errors(), 3: latency(), 4: confident(), 5: corrected(), 6: drift()}
                    ),
                    *layout.side_by_side(59, 9, {13: features()}),
                ],
            ),
        ],
        links=[
            layout.page_link("drift", layout.DRIFT.title, model="model", version="after"),
            layout.page_link("review", layout.REVIEW.title, model="model", version="after"),
        ],
        alerts=".+",
        only_deployments=True,
    )


def earlier() -> VariableModel:
    """Return the variable for the offset of the first period; a millisecond means none, as 0 is not allowed."""
    periods = {"not at all": "1ms", "1h": "1h", "6h": "6h", "1d": "1d", "7d": "7d", "28d": "28d"}
    options = [VariableOption(selected=value == "1ms", text=text, value=value) for text, value in periods.items()]
    return (
        builders.CustomVariable("earlier")
        .label("Before is earlier by")
        .values(",".join(f"{text} : {value}" for text, value in periods.items()))
        .current(options[0])
        .options(options)
        .build()
    )


def _pair(title: str, description: str, unit: str, expr: Callable[[str, str], str], empty: str) -> Panel:
    """Return a panel with a value before, after, and the difference; ``expr`` takes a selector and an offset."""
    before, after = expr(BEFORE, EARLIER), expr(AFTER, "")
    # Equal values differ in their last digits, because no offset is a millisecond.
    difference = f"round(({after}) - ({before}), 0.00001)"
    points = unit == SHARE
    return stat(
        title,
        description,
        unit,
        Query(before, "before", "instant"),
        Query(after, "after", "instant"),
        Query(f"100 * {difference}" if points else difference, "difference", "instant"),
        overrides=[for_query(2, setting("unit", POINTS))] if points else [],
        empty=empty,
        stacked=True,
    )


def _ratio(part: str, whole: str) -> Callable[[str, str], str]:
    def expr(selector: str, ago: str) -> str:
        over = f"sum(increase({whole}{{{selector}}}[$__range]{ago}))"
        return f"(sum(increase({part % selector}[$__range]{ago})) or 0 * {over}) / ({over} > 0)"

    return expr


def _quantile(selector: str, ago: str) -> str:
    buckets = f"sum by (le) (increase(model_request_duration_seconds_bucket{{{selector}}}[$__range]{ago}))"
    return f"histogram_quantile(0.95, {buckets}) and on () sum({buckets}) > 0"


def _rate(selector: str, ago: str) -> str:
    return f"sum(rate(model_requests_total{{{selector}}}[$__range]{ago}))"


def _drift(selector: str, ago: str) -> str:
    return f"max(max_over_time(model_version:kl_divergence_above_noise:worst{{{selector}}}[$__range]{ago}))"


def requests() -> Panel:
    return _pair("Requests", "Requests a second, on average.", PER_SECOND, _rate, "no requests")


def errors() -> Panel:
    expr = _ratio('model_requests_total{%s,code=~"5.."}', "model_requests_total")
    return _pair("Errors", "Share of requests answered with a 5xx.", SHARE, expr, "no requests")


def latency() -> Panel:
    return _pair("Latency p95", "95 % of requests were faster.", SECONDS, _quantile, "no durations")


def confident() -> Panel:
    expr = _ratio("model_confident_predictions_total{%s}", "model_attempts_total")
    text = "Share of predictions at or above the confidence threshold."
    return _pair("Confident", text, SHARE, expr, "no predictions")


def corrected() -> Panel:
    expr = _ratio("model_corrections_total{%s}", "model_confident_predictions_total")
    text = "Share of confident predictions that users corrected."
    return _pair("Corrected", text, SHARE, expr, "no confident predictions")


def drift() -> Panel:
    text = "Largest KL divergence of any feature from training, if above its noise floor."
    return _pair("Worst drift", text, NATS, _drift, "no profile, or no data")


def _over_time(title: str, description: str, unit: str, series: str, threshold: str | None, empty: str) -> Panel:
    queries = [
        Query(f"max({series}{{{BEFORE}}}{EARLIER})", "before: $before", role="past"),
        Query(f"max({series}{{{AFTER}}})", "after: $after"),
    ]
    if threshold is not None:
        queries.append(Query(threshold, "threshold", role="threshold"))
    return time_series(title, description, unit, *queries, empty=empty)


def requests_over_time() -> Panel:
    text = "Requests a second over one minute."
    return _over_time("Requests", text, PER_SECOND, "model_version:requests:rate1m", None, "no requests")


def errors_over_time() -> Panel:
    return _over_time(
        "Errors",
        "Share of requests answered with a 5xx, over one minute.",
        SHARE,
        "model_version:request_error_ratio:rate1m",
        f"max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
        "no requests",
    )


def latency_over_time() -> Panel:
    return _over_time(
        "Latency p95",
        "95 % of requests are faster, over five minutes.",
        SECONDS,
        "model_version:request_duration_seconds:p95_rate5m",
        f"max(model:threshold:ModelLatencyHigh{{{MODEL}}})",
        "no durations",
    )


def confident_over_time() -> Panel:
    return _over_time(
        "Confident",
        "Share of predictions at or above the confidence threshold, over one hour.",
        SHARE,
        "model_version:confident_ratio:rate1h",
        f"max(model:threshold:ModelConfidentRatioLow{{{MODEL}}})",
        "no predictions",
    )


def corrected_over_time() -> Panel:
    return _over_time(
        "Corrected",
        "Share of confident predictions that users corrected, over one hour.",
        SHARE,
        "model_version:correction_ratio:rate1h",
        f"max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}})",
        "no confident predictions",
    )


def drift_over_time() -> Panel:
    return _over_time(
        "Worst drift",
        "KL divergence of the feature that is furthest above its threshold; 0 is below the noise floor.",
        NATS,
        "model_version:kl_divergence_above_noise:worst",
        f"min(model_version:threshold:ModelFeatureDrift{{{AFTER}}})",
        "no profile, or no data",
    )


def features() -> Panel:
    score = "max by (feature) (max_over_time(model_version_feature:kl_divergence_above_noise:max{%s}[$__range]%s))"
    shift = "max by (feature) (max_over_time(model_version_feature:mean_shift_above_noise:max{%s}[$__range]%s))"
    mean = "avg by (feature) (avg_over_time(model_feature_reference_mean{%s}[$__range]%s))"
    columns = {
        "Score before": score % (BEFORE, EARLIER),
        "Score after": score % (AFTER, ""),
        "Score difference": f"{score % (AFTER, '')} - {score % (BEFORE, EARLIER)}",
        "Shift before": shift % (BEFORE, EARLIER),
        "Shift after": shift % (AFTER, ""),
        "Mean before": mean % (BEFORE, EARLIER),
        "Mean after": mean % (AFTER, ""),
    }
    refs = "ABCDEFG"
    return table(
        "Features, before and after",
        (
            "For each feature, the largest divergence from its training data and the largest shift of the mean in the "
            "time range, and the training means of both profiles."
        ),
        NATS,
        *(Query(expr, kind="table") for expr in columns.values()),
        empty="no profile, or no data",
        sort=("Score after",),
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True},
                indexByName={"feature": 0, **{f"Value #{ref}": i for i, ref in enumerate(refs, 1)}},
                renameByName={
                    "feature": "Feature",
                    **{f"Value #{ref}": name for ref, name in zip(refs, columns, strict=True)},
                },
            ),
        ],
        overrides=[
            for_field("Feature", unit=TEXT, width=230),
            *(for_field(name, decimals=2, noValue="–", minWidth=95) for name in columns if name.startswith("Score")),
            *(
                for_field(name, unit=DEVIATIONS, decimals=2, noValue="–", minWidth=95)
                for name in columns
                if name.startswith("Shift")
            ),
            *(for_field(name, unit=COUNT, noValue="–", minWidth=95) for name in columns if name.startswith("Mean")),
        ],
    )
