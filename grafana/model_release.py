"""Release comparison: the last two versions over the time in which both served; and two periods of one's choice."""

from __future__ import annotations

from collections.abc import Callable

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    Panel,
    ValueMap,
    ValueMappingResult,
    VariableModel,
    VariableOption,
)

from exporter.comparison.measures import GOOD
from exporter.comparison.report import WORDINGS
from grafana import layout
from grafana.layout import AFTER, BEFORE, EARLIER, MODEL, WINDOW, by_rank, increase
from grafana.panels import (
    BARE,
    COUNT,
    CRITICAL,
    DEVIATIONS,
    EVENTS_PER_SECOND,
    GREY,
    NATS,
    NOT_IN_LEGEND,
    OK,
    PALETTE,
    PER_SECOND,
    POINTS,
    SECONDS,
    SHARE,
    TEXT,
    WHOLE,
    Query,
    for_field,
    for_query,
    setting,
    stat,
    state_cell,
    table,
    time_series,
    transformation,
)

_OF = "before, after, measure"
_MEASURES = {
    "error_ratio": "Errors, % of requests",
    "latency_p95_seconds": "Latency p95, ms",
    "confident_ratio": "Confident, % of predictions",
    "correction_ratio": "Corrected, % of confident",
    "accuracy": "Right, % of predictions",
    "mean_absolute_error": "Mean absolute error",
    "worst_drift_nats": "Drift of the worst feature, nats",
}
"""How the table names a measure, in the unit that `_scaled` gives it."""
_DECISIONS = {"-1": ("rollback", CRITICAL), "0": ("wait", GREY), "1": ("promote", OK)}
_VERDICTS = {"-1": ("worse", CRITICAL), "0": ("not proven", GREY), "1": ("better", OK)}

_SENTENCES = {"-2": CRITICAL, "-1": GREY, "0": GREY, "2": OK}
"""Twice the verdict; -1 is that of a text for no data."""

_REPLICA = "model, before, after, instance, job"
_CHOSEN = f"topk (1, sum by ({_REPLICA}) (model_comparison_observations{{{MODEL}}}))"
"""The comparison of the replica that counted most: each has its own, unless all ask the same Prometheus."""


def _compared(name: str, by: str = _OF, selector: str = "") -> str:
    """Return a metric of the comparison, by one replica."""
    return f"max by ({by}) (model_comparison_{name}{{{MODEL}{selector}}} and on ({_REPLICA}) {_CHOSEN})"


def _scaled(name: str, selector: str = "") -> str:
    """Return a metric of the comparison with shares in percent, and seconds in milliseconds."""
    parts = (
        ("100 * ", 'measure=~".+_ratio|accuracy"'),
        ("1000 * ", 'measure=~".+_seconds"'),
        ("", 'measure!~".+_(ratio|seconds)|accuracy"'),
    )
    return " or ".join(f"{factor}{_compared(name, selector=f',{kind}{selector}')}" for factor, kind in parts)


def verdict() -> Panel:
    """Return a sentence for each difference that is proven, or one that says that none is."""
    every = _compared("verdict")
    nothing = f"vector(-1) unless on () {every}"
    return stat(
        "Verdict",
        (
            "How the new version differs from the one before, as far as it is proven. You may look at any time: if the "
            "versions are equal, a difference is ever shown in at most 5 % of comparisons."
        ),
        BARE,
        *(
            Query(
                f"2 * ({_named(f'{every} == {value}', value)})",
                "Version {{after}} {{says}} than version {{before}}",
                "instant",
            )
            for value in (-1, 1)
        ),
        Query(
            f"0 * group by (before, after) ({every}) unless on (before, after) {every} != 0",
            "Version {{after}} is not proven to be better or worse than version {{before}}",
            "instant",
        ),
        Query(
            f'label_replace({nothing}, "says", "No two versions served at the same time", "", "")',
            "{{says}}",
            "instant",
        ),
        state=True,
        sentences=True,
        mappings=[ValueMap(options={v: ValueMappingResult(color=colour) for v, colour in _SENTENCES.items()})],
        empty="no two versions served at the same time",
    )


def _named(expr: str, verdict: int) -> str:
    """Return verdicts of one kind with what they say of the new version as a label."""
    for name, wording in WORDINGS.items():
        says = wording.more if verdict == GOOD[name] else wording.less
        expr = f'label_replace({expr}, "says", "{says}", "measure", "{name}")'
    return expr


def decision() -> Panel:
    """Return what the comparison says to do with the new version."""
    return stat(
        "Decision",
        (
            "Promote: each measure that is needed is proven not to be worse by more than its margin. Rollback: one is "
            "proven to be worse by more. Wait: neither is proven yet. The margins are release_margins of exporter.yml."
        ),
        BARE,
        Query(_compared("decision", "before, after"), "decision", "instant"),
        state=True,
        named=False,
        mappings=[
            ValueMap(
                options={v: ValueMappingResult(text=text, color=colour) for v, (text, colour) in _DECISIONS.items()}
            )
        ],
        empty="nothing to compare",
    )


def shared_time() -> Panel:
    """Return how long both versions served, and which versions they are."""
    return stat(
        "Both served",
        "The time in which both versions served, without gaps; only what they counted then counts.",
        SECONDS,
        Query(_compared("shared_seconds", "before, after"), "version {{after}} against version {{before}}", "instant"),
        stacked=True,
        empty="no two versions served at the same time",
    )


def comparison() -> Panel:
    """Return the table of the measures, with intervals and verdicts."""
    columns = {
        "Verdict": _compared("verdict"),
        "Before": _scaled("value", ',side="before"'),
        "After": _scaled("value", ',side="after"'),
        "Difference": _scaled("difference"),
        "95 % from": _scaled("difference_lower"),
        "95 % to": _scaled("difference_upper"),
        "n before": _compared("observations", selector=',side="before"'),
        "n after": _compared("observations", selector=',side="after"'),
    }
    refs = dict(zip("ABCDEFGH", columns, strict=True))
    return table(
        "Before and after",
        (
            "The measures of both versions over the time in which both served, the difference with its 95 % interval, "
            "and whether it is proven. n is the number of requests, predictions or values behind a measure."
        ),
        COUNT,
        *(Query(expr, kind="table") for expr in columns.values()),
        empty="no two versions served at the same time",
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True, "before": True, "after": True},
                indexByName={"measure": 0, **{f"Value #{ref}": index for index, ref in enumerate(refs, 1)}},
                renameByName={"measure": "Measure", **{f"Value #{ref}": name for ref, name in refs.items()}},
            ),
        ],
        overrides=[
            for_field("Measure", setting("mappings", _named_measures()), unit=TEXT, width=262),
            for_field("Verdict", *state_cell(_VERDICTS), unit=BARE, noValue="–", width=110),
            *(for_field(name, unit=BARE, decimals=2, noValue="–", minWidth=85) for name in list(columns)[1:6]),
            *(for_field(name, unit=WHOLE, decimals=0, noValue="–", minWidth=85) for name in list(columns)[6:]),
        ],
    )


def _named_measures() -> list[dict[str, object]]:
    options = {name: {"text": _MEASURES[name], "index": index} for index, name in enumerate(WORDINGS)}
    return [{"type": "value", "options": options}]


_NO_QUALITY = "fewer than 20 labels, and no labelled rows in the profile"
_DOTTED = setting("custom.lineStyle", {"fill": "dash", "dash": [3, 4]})


def accuracy_over_time() -> Panel:
    """Return the accuracy of both versions."""
    return _quality(
        "Accuracy",
        "Share of the predictions of $window that are right.",
        SHARE,
        "accuracy",
        f'max(model_version_basis:reference_accuracy:max{{{AFTER},basis="measured"}}'
        f" - on (model) group_left () model:threshold:ModelAccuracyLow{{{MODEL}}})",
        f"a regression, or {_NO_QUALITY}",
    )


def error_over_time() -> Panel:
    """Return the mean absolute error of both versions."""
    return _quality(
        "Mean absolute error",
        "Of a regression, in the unit of the label, for the predictions of $window.",
        COUNT,
        "mean_absolute_error",
        f"max(model_version:threshold:ModelAccuracyLowError{{{AFTER}}})",
        f"a classification, or {_NO_QUALITY}",
    )


def _quality(title: str, description: str, unit: str, name: str, threshold: str, empty: str) -> Panel:
    """Return a panel with what is measured and estimated of each version, and the interval of the estimates.

    Estimates of replicas cannot be added up: the value is their mean, and the interval contains those of all.
    """
    queries: list[Query] = []
    for side, version, ago in (("after", AFTER, ""), ("before", BEFORE, EARLIER)):
        selector = f"{{{version},{WINDOW}}}{ago}"
        of = f"{side}: ${side}"
        queries += [
            Query(f"max(model_version_window:{name}:measured{selector})", f"measured, {of}"),
            Query(f"avg(model_estimated_{name}{selector})", f"estimated, {of}"),
            Query(f"min(model_estimated_{name}_lower{selector})", f"at least, {of}", role="reference"),
            Query(f"max(model_estimated_{name}_upper{selector})", f"at most, {of}", role="reference"),
        ]
    return time_series(
        title,
        (
            f"{description} Measured with labels, if there are 20, and estimated without them. Grey: the 95 % interval "
            "of the estimate, for what labels will show. Dotted: the version before."
        ),
        unit,
        *queries,
        Query(threshold, "threshold", role="threshold"),
        empty=empty,
        least=None,
        overrides=[
            *(for_query(i + 4, setting("color", {"mode": "fixed", "fixedColor": PALETTE[i]}), _DOTTED) for i in (0, 1)),
            *(for_query(i, _DOTTED) for i in (6, 7)),
            *(for_query(i, NOT_IN_LEGEND) for i in (2, 3, 6, 7)),
        ],
    )


_NONE = "no version in shadow mode"
_PAIR = "before, after"
_SHADOW_REPLICA = f"{_PAIR}, instance, job"
_SHADOW_CHOSEN = f"topk by ({_PAIR}) (1, sum by ({_SHADOW_REPLICA}) (model_shadow_pairs_total{{{MODEL}}}))"
"""Of each pair of versions, the exporter that compared most: intervals of several cannot be added up."""


def _of_pair(metric: str) -> str:
    """Return a metric of the pairs, from the exporter that compared most."""
    return f"max by ({_PAIR}) ({metric}{{{MODEL}}} and on ({_SHADOW_REPLICA}) {_SHADOW_CHOSEN})"


def _share_of_answers(metric: str) -> str:
    """Return the share of a version's answers that a counter counts, for each pair that the version is in."""
    answers = f"sum by (version) (model_shadow_predictions_total{{{MODEL}}})"
    share = f"sum by (version) ({metric}{{{MODEL}}}) / ({answers} > 0)"
    of_after = f'label_replace({share}, "after", "$1", "version", "(.+)")'
    pairs = f"0 * sum by ({_PAIR}) (model_shadow_pairs_total{{{MODEL}}})"
    return f"{pairs} + on (after) group_left () sum by (after) ({of_after})"


def pairs() -> Panel:
    """Return the table of the pairs of versions: the one that users see, and the one in shadow mode."""
    ratio, difference = "model_shadow_disagreement_ratio", "model_shadow_mean_absolute_difference"
    columns = {
        "Compared": _of_pair("model_shadow_pairs_total"),
        "Different": _of_pair(ratio),
        "95 % from": _of_pair(f"{ratio}_lower"),
        "95 % to": _of_pair(f"{ratio}_upper"),
        "Mean difference": _of_pair(difference),
        "from": _of_pair(f"{difference}_lower"),
        "to": _of_pair(f"{difference}_upper"),
        "Not compared": _share_of_answers("model_shadow_unpaired_total"),
        "Failed": _share_of_answers("model_shadow_errors_total"),
    }
    refs = dict(zip("ABCDEFGHI", columns, strict=True))
    return table(
        "Versions in shadow mode",
        (
            "How often the answer of a version in shadow mode differs from the one that users saw, since the exporter "
            "started, with its 95 % interval, which holds whenever you look; for numbers also the mean absolute "
            "difference. Not compared and Failed are shares of the answers in shadow mode."
        ),
        SHARE,
        *(Query(expr, kind="table") for expr in columns.values()),
        empty=_NONE,
        sort=("Compared",),
        transformations=[
            transformation("merge"),
            transformation(
                "organize",
                excludeByName={"Time": True},
                indexByName={
                    "after": 0,
                    "before": 1,
                    **{f"Value #{ref}": index for index, ref in enumerate(refs, 2)},
                },
                renameByName={
                    "after": "In shadow mode",
                    "before": "Users saw",
                    **{f"Value #{ref}": name for ref, name in refs.items()},
                },
            ),
        ],
        overrides=[
            *(for_field(name, unit=TEXT, width=135) for name in ("In shadow mode", "Users saw")),
            for_field("Compared", unit=WHOLE, decimals=0, minWidth=95),
            *(for_field(name, decimals=2, noValue="–", minWidth=95) for name in list(columns)[1:4] + list(columns)[7:]),
            for_field("Mean difference", unit=COUNT, noValue="–", width=135),
            *(for_field(name, unit=COUNT, noValue="–", minWidth=70) for name in ("from", "to")),
        ],
    )


def different() -> Panel:
    """Return the share of different answers over time, of the six pairs of versions that were compared most."""
    size = f"sum by ({_PAIR}) (increase(model_shadow_pairs_total{{{MODEL}}}[$__range] @ end()))"
    different = increase("model_shadow_disagreements_total", MODEL, _PAIR, "15m")
    compared = increase("model_shadow_pairs_total", MODEL, _PAIR, "15m")
    return time_series(
        "Different answers",
        (
            "Share of the requests of 15 minutes to which the version in shadow mode gave another answer than users "
            "saw: another class, or a number that differs by more than the tolerance. At most six pairs of versions."
        ),
        SHARE,
        *by_rank(
            f"({different} / ({compared} > 0))",
            size,
            _PAIR,
            legend="{{after}} instead of {{before}}",
        ),
        empty=_NONE,
        top=0.01,
    )


def answers() -> Panel:
    """Return how many answers in shadow mode are compared, and how many not."""

    def rate(name: str) -> str:
        return f"sum(rate(model_shadow_{name}_total{{{MODEL}}}[$__rate_interval]))"

    return time_series(
        "Answers in shadow mode",
        (
            "Answers a second of versions in shadow mode: compared with what users saw, not compared because the other "
            "answer did not come within five minutes or is of another kind, and failed with a 5xx code."
        ),
        EVENTS_PER_SECOND,
        Query(rate("pairs"), "compared"),
        Query(rate("unpaired"), "not compared"),
        Query(rate("errors"), "failed"),
        empty=_NONE,
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
            *layout.side_by_side(38, 6, {20: pairs()}),
            *layout.side_by_side(44, 8, {21: different(), 22: answers()}),
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
