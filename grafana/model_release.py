"""Release comparison: the last two versions over the time in which both served."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    Panel,
    ValueMap,
    ValueMappingResult,
)

from exporter.comparison.measures import KINDS
from grafana import layout
from grafana import panels as p
from grafana.layout import AFTER, BEFORE, MODEL, WINDOW, by_rank, increase

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
_DECISIONS = {"-1": ("rollback", p.CRITICAL), "0": ("wait", p.GREY), "1": ("promote", p.OK)}
_VERDICTS = {"-1": ("worse", p.WARNING), "0": ("not proven", p.GREY), "1": ("better", p.OK)}


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
    """Of the proven differences of the new version from the one before, the one that is largest beside its interval.
    The table has all. The intervals are anytime-valid: if the versions are equal, a difference is ever shown in at most
    5% of comparisons.
    """
    every = _compared("verdict")
    width = f"({_compared('difference_upper')} - {_compared('difference_lower')})"
    strongest = f"topk(1, abs({_compared('difference')}) / {width} and {every} == %s)"
    return p.stat(
        "Reason",
        p.BARE,
        *(
            p.Query(_named(expr, value), "Version {{after}} {{says}} than version {{before}}", "instant")
            for value, expr in ((-1, strongest % -1), (1, f"{strongest % 1} unless on () {every} == -1"))
        ),
        p.Query(
            f"0 * group by (before, after) ({every}) unless on (before, after) {every} != 0",
            "Version {{after}} is not proven to be better or worse than version {{before}}",
            "instant",
        ),
        state=True,
        sentences=True,
        empty="no two versions served at the same time",
    )


def _named(expr: str, verdict: int) -> str:
    """Return verdicts of one kind with what they say of the new version as a label."""
    for name, kind in KINDS.items():
        says = kind.more if verdict == kind.good else kind.less
        expr = f'label_replace({expr}, "says", "{says}", "measure", "{name}")'
    return expr


def decision() -> Panel:
    """Promote: each measure that is needed is proven not to be worse by more than its margin. Rollback: one is proven
    to be worse by more. Wait: neither is proven yet. The margins are release_margins of exporter.yml.
    """
    return p.stat(
        "Decision",
        p.BARE,
        p.Query(_compared("decision", "before, after"), "decision", "instant"),
        state=True,
        named=False,
        mappings=[
            ValueMap(
                options={v: ValueMappingResult(text=text, color=colour) for v, (text, colour) in _DECISIONS.items()}
            )
        ],
    )


def comparison() -> Panel:
    """The measures of both versions over the time in which both served, the difference with its 95% interval, and
    whether it is proven. n is the number of requests, predictions or values behind a measure.
    """
    columns = {
        "Verdict": _compared("verdict"),
        "Before": _scaled("value", ',side="before"'),
        "After": _scaled("value", ',side="after"'),
        "Difference": _scaled("difference"),
        "95% from": _scaled("difference_lower"),
        "95% to": _scaled("difference_upper"),
        "n before": _compared("observations", selector=',side="before"'),
        "n after": _compared("observations", selector=',side="after"'),
    }
    refs = dict(zip("ABCDEFGH", columns, strict=True))
    named = {name: {"text": _MEASURES[name], "index": index} for index, name in enumerate(KINDS)}
    return p.table(
        "Before and after",
        p.COUNT,
        *(p.Query(expr, kind="table") for expr in columns.values()),
        empty="no two versions served at the same time",
        transformations=[
            p.transformation("merge"),
            p.transformation(
                "organize",
                excludeByName={"Time": True, "before": True, "after": True},
                indexByName={"measure": 0, **{f"Value #{ref}": index for index, ref in enumerate(refs, 1)}},
                renameByName={"measure": "Measure", **{f"Value #{ref}": name for ref, name in refs.items()}},
            ),
        ],
        overrides=[
            p.for_field(
                "Measure", p.setting("mappings", [{"type": "value", "options": named}]), unit=p.TEXT, width=262
            ),
            p.for_field("Verdict", *p.state_cell(_VERDICTS), unit=p.BARE, noValue="–", width=110),
            *(p.for_field(name, unit=p.BARE, decimals=2, noValue="–", minWidth=85) for name in list(columns)[1:6]),
            *(p.for_field(name, unit=p.WHOLE, decimals=0, noValue="–", minWidth=85) for name in list(columns)[6:]),
        ],
    )


_DOTTED = p.setting("custom.lineStyle", {"fill": "dash", "dash": [3, 4]})


def quality_over_time() -> Panel:
    """The share of right predictions of $window, or of a regression the mean absolute error in the unit of
    the label: measured with labels, if there are 20, and estimated without them. Grey: the 95% interval of the
    estimate, for what labels will show. Dotted: the version before.
    """
    least = f'max(model_version_basis:reference_accuracy:max{{{AFTER},basis="measured"}}'
    least += f" - on (model) group_left () model:threshold:ModelAccuracyLow{{{MODEL}}})"
    most = f"max(model_version:threshold:ModelAccuracyLowError{{{AFTER}}})"
    of_accuracy = _quality("accuracy", least)
    overrides: list[p.Override] = []
    for start in (0, len(of_accuracy)):
        for side in (0, 4):  # after, before
            lines = [[p.setting("color", {"mode": "fixed", "fixedColor": p.PALETTE[i]})] for i in (0, 1)]
            for i, settings in enumerate([*lines, [p.NOT_IN_LEGEND], [p.NOT_IN_LEGEND]]):
                overrides.append(p.for_query(start + side + i, *settings, *([_DOTTED] if side else [])))
    return p.time_series(
        "$quality, $window",
        p.SHARE,
        *of_accuracy,
        of_numbers=_quality("mean_absolute_error", most),
        empty="fewer than 20 labels, and no labelled rows in the profile",
        overrides=overrides,
    )


def _quality(name: str, threshold: str) -> list[p.Query]:
    """Return what is measured and estimated of each version, and the interval of the estimates.

    Estimates of replicas cannot be added up: the value is their mean, and the interval contains those of all.
    """
    queries: list[p.Query] = []
    for side, version in (("after", AFTER), ("before", BEFORE)):
        selector = f"{{{version},{WINDOW}}}"
        of = f"{side}: ${side}"
        queries += [
            p.Query(_shared(f"max(model_version_window:{name}:measured{selector})"), f"measured, {of}"),
            p.Query(_shared(f"avg(model_estimated_{name}{selector})"), f"estimated, {of}"),
            p.Query(_shared(f"min(model_estimated_{name}_lower{selector})"), f"at least, {of}", role="reference"),
            p.Query(_shared(f"max(model_estimated_{name}_upper{selector})"), f"at most, {of}", role="reference"),
        ]
    return [*queries, p.Query(threshold, "threshold", role="threshold")]


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
    """How often the answer of a version in shadow mode differs from the one that users saw, since the exporter
    started, with its 95% interval, which holds whenever you look; for numbers also the mean absolute difference.
    Not compared and Failed are shares of the answers in shadow mode.
    """
    ratio, difference = "model_shadow_disagreement_ratio", "model_shadow_mean_absolute_difference"
    columns = {
        "Compared": _of_pair("model_shadow_pairs_total"),
        "Different": _of_pair(ratio),
        "95% from": _of_pair(f"{ratio}_lower"),
        "95% to": _of_pair(f"{ratio}_upper"),
        "Mean difference": _of_pair(difference),
        "from": _of_pair(f"{difference}_lower"),
        "to": _of_pair(f"{difference}_upper"),
        "Not compared": _share_of_answers("model_shadow_unpaired_total"),
        "Failed": _share_of_answers("model_shadow_errors_total"),
    }
    refs = dict(zip("ABCDEFGHI", columns, strict=True))
    return p.table(
        "Versions in shadow mode",
        p.SHARE,
        *(p.Query(expr, kind="table") for expr in columns.values()),
        sort=("Compared",),
        transformations=[
            p.transformation("merge"),
            p.transformation(
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
            *(p.for_field(name, unit=p.TEXT, width=135) for name in ("In shadow mode", "Users saw")),
            p.for_field("Compared", unit=p.WHOLE, decimals=0, minWidth=95),
            *(
                p.for_field(name, decimals=2, noValue="–", minWidth=95)
                for name in list(columns)[1:4] + list(columns)[7:]
            ),
            p.for_field("Mean difference", unit=p.COUNT, noValue="–", width=135),
            *(p.for_field(name, unit=p.COUNT, noValue="–", minWidth=70) for name in ("from", "to")),
        ],
    )


def different() -> Panel:
    """Share of the requests of 15 minutes to which the version in shadow mode gave another answer than users saw:
    another class, or a number that differs by more than the tolerance. At most six pairs of versions.
    """
    size = f"sum by ({_PAIR}) (increase(model_shadow_pairs_total{{{MODEL}}}[$__range] @ end()))"
    different = increase("model_shadow_disagreements_total", MODEL, _PAIR, "15m")
    compared = increase("model_shadow_pairs_total", MODEL, _PAIR, "15m")
    return p.time_series(
        "Different answers",
        p.SHARE,
        *by_rank(
            f"({different} / ({compared} > 0))",
            size,
            _PAIR,
            legend="{{after}} instead of {{before}}",
        ),
        top=0.01,
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
            layout.quality_window_variable(),
        ],
        [
            layout.row(103, "Last two versions, over the time both served", 0),
            *layout.side_by_side(1, 3, {19: decision, 14: verdict}, (4, 20)),
            *layout.side_by_side(4, 8, {16: comparison}),
            layout.row(101, "Over time, while both serve: versions $before and $after", 12),
            *layout.side_by_side(13, 8, {8: errors_over_time, 9: latency_over_time, 12: drift_over_time}),
            *layout.side_by_side(21, 8, {10: confident_over_time, 11: corrected_over_time}),
            *layout.side_by_side(29, 8, {17: quality_over_time}),
            layout.row(
                104,
                "Shadow mode: answers that no user sees",
                37,
                [*layout.side_by_side(38, 6, {20: pairs}), *layout.side_by_side(44, 8, {21: different})],
            ),
        ],
        links=[
            layout.page_link("drift", layout.DRIFT.title, model="model", version="after"),
            layout.page_link("review", layout.REVIEW.title, model="model", version="after"),
        ],
        alerts=".+",
    )


_BOTH_SERVE = " and ".join(f"sum(model_version:attempts:increase1h{{{side}}}) > 0" for side in (BEFORE, AFTER))


def _shared(expr: str) -> str:
    """Return a value while both versions serve, or always if they never do in the time range."""
    never = f"max_over_time(({_BOTH_SERVE})[$__range:1m] @ end())"
    return f"{expr} and on () ({_BOTH_SERVE}) or {expr} unless on () {never}"


def _over_time(title: str, unit: str, series: str, threshold: str, *of_numbers: p.Query) -> Panel:
    return p.time_series(
        title,
        unit,
        p.Query(_shared(f"max({series}{{{BEFORE}}})"), "before: $before", role="past"),
        p.Query(_shared(f"max({series}{{{AFTER}}})"), "after: $after"),
        p.Query(threshold, "threshold", role="threshold"),
        of_numbers=of_numbers,
    )


def errors_over_time() -> Panel:
    """Share of requests answered with a 5xx, over one minute."""
    return _over_time(
        "Errors",
        p.SHARE,
        "model_version:request_error_ratio:rate1m",
        f"max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
    )


def latency_over_time() -> Panel:
    """95% of requests are faster, over five minutes."""
    return _over_time(
        "Latency p95",
        p.SECONDS,
        "model_version:request_duration_seconds:p95_rate5m",
        f"max(model:threshold:ModelLatencyHigh{{{MODEL}}})",
    )


def confident_over_time() -> Panel:
    """Share of predictions at or above the confidence threshold, over one hour. Of a regression, the bias."""
    return _over_time(
        "$confidence",
        p.SHARE,
        "model_version:confident_ratio:rate1h",
        f"max(model:threshold:ModelConfidentRatioLow{{{MODEL}}})",
        p.Query(_shared(f"max({layout.bias(BEFORE)})"), "before: $before", role="past"),
        p.Query(_shared(f"max({layout.bias(AFTER)})"), "after: $after"),
    )


def corrected_over_time() -> Panel:
    """Share of confident predictions that users corrected, over one hour."""
    return _over_time(
        "Corrected",
        p.SHARE,
        "model_version:correction_ratio:rate1h",
        f"max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}})",
    )


def drift_over_time() -> Panel:
    """KL divergence of the feature that is furthest above its threshold; 0 is below the noise floor."""
    before, _ = layout.worst_drift(BEFORE)
    after, threshold = layout.worst_drift(AFTER)
    return p.time_series(
        "Worst drift",
        p.NATS,
        p.Query(_shared(f"max({before})"), "before: $before", role="past"),
        p.Query(_shared(f"max({after})"), "after: $after"),
        p.Query(f"min({threshold})", "threshold", role="threshold"),
    )
