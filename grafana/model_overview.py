"""One model: what is wrong, since when, and each layer compared with its threshold and a day ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana import panels as p
from grafana.layout import BOTH, DAY_AGO, MODEL, state

_CONFIDENT = f"sum(model_version:confident_predictions:increase1h{{{BOTH}}})"


def numbers() -> Panel:
    """Of the selected versions together: the share of requests without a 5xx code; of the errors or slow requests that
    the model's objectives allow in 30 days, the lower share that is left, of all versions; of predictions, the
    share at or above the confidence threshold; of these, the share that users corrected. Of the worst version: the
    accuracy, or the mean absolute error and the bias of a regression, measured in the shortest window with 20 labels,
    or estimated for the last hour. Red or orange: beyond the threshold of the alert.
    """
    every = f"sum(increase(model_requests_total{{{BOTH}}}[1h]))"
    failed = f'sum(increase(model_requests_total{{{BOTH},code=~"5.."}}[1h]))'
    attempts, corrections = (f"sum(model_version:{name}:increase1h{{{BOTH}}})" for name in ("attempts", "corrections"))
    firing = f'and on () ALERTS{{alertname="ModelAccuracyLow",alertstate="firing",{BOTH}}}'
    bias = layout.bias(BOTH)
    return _numbers(
        [
            _Number(
                "Successful, 1h",
                f"1 - ({failed} or 0 * {every}) / ({every} > 0)",
                f"< 1 - max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
            )
        ],
        [_Number("Budget left", f"min(model:error_budget_remaining:ratio30d{{{MODEL}}})", "< 0", decimals=0)],
        [
            _Number(
                "Confident, 1h",
                f"{_CONFIDENT} / ({attempts} > 0) and sum(model_prediction_confidence_count{{{BOTH}}}) > 0",
                f"< max(model:threshold:ModelConfidentRatioLow{{{MODEL}}}) and {attempts} >= 20",
                colour=p.WARNING,
                place="$confidence",
            ),
            _Number("Bias", f"{bias} and topk(1, abs({bias}))", "", p.COUNT),
        ],
        [
            _Number(
                "Corrected, 1h",
                f"({corrections} or 0 * {_CONFIDENT}) / ({_CONFIDENT} > 0) and sum(model_feedback_total{{{BOTH}}}) > 0",
                f"> max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}}) and {corrections} >= 3",
            )
        ],
        [
            _Number("Accuracy", f"min({layout.best_known('accuracy', BOTH)})", firing, place="$quality"),
            _Number("Error", f"max({layout.best_known('mean_absolute_error', BOTH)})", firing, p.COUNT),
        ],
    )


class _Number(NamedTuple):
    """A large number, in a colour while ``beyond`` leaves a result of it; empty, if it has no threshold."""

    name: str
    value: str
    beyond: str
    unit: str = p.SHARE
    colour: str = p.CRITICAL
    decimals: int = 1
    place: str = ""


def _numbers(*places: Sequence[_Number]) -> Panel:
    """Return numbers beside each other: of each place the one that is known, or "no data" with the place's name."""
    queries: list[p.Query] = []
    overrides: list[p.Override] = []
    for shown in places:
        known = " or ".join(f"({one.value})" for one in shown)
        coloured = [(shown[0].place or shown[0].name, f"vector(NaN) unless on () ({known})", p.GREY, shown[0])]
        for one in shown:
            bad = f"(({one.value}) {one.beyond})"
            coloured.append((one.name, f"({one.value}) unless {bad}" if one.beyond else one.value, "text", one))
            coloured += [(one.name, bad, one.colour, one)] if one.beyond else []
        for name, expr, colour, one in coloured:
            settings = {"color": {"mode": "fixed", "fixedColor": colour}, "unit": one.unit, "decimals": one.decimals}
            overrides.append(p.for_query(len(queries), *(p.setting(*item) for item in settings.items())))
            queries.append(p.Query(expr, name, "instant"))
    # Without a title, so that the first number is near the top.
    return p.stat("", p.SHARE, *queries, coloured=True, sizes=(14, 26), overrides=overrides)


_DAY_AGO = p.for_query(1, p.NOT_IN_LEGEND)
"""Grey and dotted on each panel. The description and the tooltip name it, because the legend has room for two."""


def dashboard() -> Dashboard:
    """Return the dashboard Overview."""
    return layout.build_dashboard(
        "model-overview",
        "Models / Overview",
        (
            "Is the model healthy? System, data and business at a glance, each compared with its threshold and with a "
            "day ago."
        ),
        [layout.model_variable(), layout.versions_variable()],
        [
            *layout.side_by_side(0, 2, {20: numbers}),
            *layout.side_by_side(2, 7, {23: states_over_time, 2: layout.alerts_of_model}, (9, 15)),
            *layout.side_by_side(9, 5, {6: request_rate, 7: error_ratio, 8: latency}),
            *layout.side_by_side(14, 5, {9: worst_drift, 26: quality_over_time}),
            *layout.side_by_side(19, 5, {12: attempts, 13: confident_share, 14: correction_share}),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts=".+",
    )


def states_over_time() -> Panel:
    """State of each layer: that of the worst alert of the model. Host: that of the worst alert of an exporter or
    its host. A gap means that it was not monitored.
    """
    return p.state_timeline(
        "State over time",
        *(p.Query(layer_state(layer), title) for title, (layer, _) in _LAYERS.items()),
        p.Query(MACHINES, "Host"),
        names=p.STATES,
    )


_SYSTEM = [layout.details("model-system")]
_BUSINESS = [layout.details("model-business"), layout.REVIEW]


_LAYERS = {
    "System": ("system", "model_info"),
    "Data": ("data", "model_version_feature:kl_divergence_above_noise:max"),
    "Business": ("business", "model_info"),
}
"""With what exists while the layer is monitored."""
MACHINES = state('model=""', 'up{job="model-exporter"}')
"""The state of exporters and their machines, which monitor any number of models."""


def layer_state(layer: str) -> str:
    """Return the state of a layer of the model, as a number."""
    watched = dict(_LAYERS.values())[layer]
    return state(f'layer="{layer}",{MODEL}', f"{watched}{{{MODEL}}}")


def request_rate() -> Panel:
    """Requests a second, over one minute. Grey: a day ago. There is no threshold; ModelTrafficMissing fires if there
    are none.
    """
    expr = f"sum(model_version:requests:rate1m{{{BOTH}}}"
    return p.time_series(
        "Requests",
        p.PER_SECOND,
        p.Query(f"{expr})", "all versions"),
        p.Query(f"{expr}{DAY_AGO})", "a day ago", role="past"),
        links=_SYSTEM,
        overrides=[_DAY_AGO],
    )


def error_ratio() -> Panel:
    """Share of requests answered with a 5xx over one minute, for the worst version. Grey: a day ago."""
    return _worst(
        "Errors",
        p.SHARE,
        "model_version:request_error_ratio:rate1m",
        f"max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
        _SYSTEM,
    )


def latency() -> Panel:
    """95% of requests are faster than this, over five minutes, for the slowest version. Grey: a day ago."""
    return _worst(
        "Latency p95",
        p.SECONDS,
        "model_version:request_duration_seconds:p95_rate5m",
        f"max(model:threshold:ModelLatencyHigh{{{MODEL}}})",
        _SYSTEM,
    )


def worst_drift() -> Panel:
    """KL divergence from training of the feature that is furthest above its threshold; 0 is below the noise floor.
    Grey: a day ago.
    """
    score, limit = layout.worst_drift(BOTH)
    ago, _ = layout.worst_drift(BOTH, offset=DAY_AGO)
    return p.time_series(
        "Worst drift",
        p.NATS,
        p.Query(f"max({score})", "worst feature"),
        p.Query(f"max({ago})", "a day ago", role="past"),
        p.Query(f"min({limit})", "threshold", role="threshold"),
        links=[layout.details("model-data"), layout.DRIFT],
        overrides=[_DAY_AGO],
    )


def quality_over_time() -> Panel:
    """Share of predictions that are right, or the mean absolute error of a regression in the label's unit, of the worst
    version: measured in the shortest window with 20 labels, or estimated.
    """
    measured, estimated = layout.quality("accuracy", BOTH)
    measured_error, estimated_error = layout.quality("mean_absolute_error", BOTH)
    least = f"model_version_basis:reference_accuracy:max{{{BOTH}}}"
    least += f" - on (model) group_left () model:threshold:ModelAccuracyLow{{{MODEL}}}"
    return p.time_series(
        "$quality",
        p.SHARE,
        p.Query(f"min({measured})", "measured"),
        p.Query(f"min({estimated})", "estimated"),
        p.Query(f"max({least})", "threshold", role="threshold"),
        of_numbers=[
            p.Query(f"max({measured_error})", "measured"),
            p.Query(f"max({estimated_error})", "estimated"),
            p.Query(f"min(model_version:threshold:ModelAccuracyLowError{{{BOTH}}})", "threshold", role="threshold"),
        ],
        links=[layout.details("model-quality")],
        empty="neither labels nor an estimate",
    )


def attempts() -> Panel:
    """Predictions per hour. Grey: a day ago. The threshold is a share of the same hour a week ago."""
    expr = f"sum(model_version:attempts:increase1h{{{BOTH}}}"
    return p.time_series(
        "Predictions an hour",
        p.COUNT,
        p.Query(f"{expr})", "all versions"),
        p.Query(f"{expr}{DAY_AGO})", "a day ago", role="past"),
        p.Query(
            f"max(model:threshold:ModelAttemptsDrop{{{MODEL}}})"
            f" * sum(model_version:attempts:increase1h{{{MODEL}}} offset 1w)",
            "threshold",
            role="threshold",
        ),
        links=_BUSINESS,
        overrides=[_DAY_AGO],
    )


def confident_share() -> Panel:
    """Share of predictions at or above the model's confidence threshold over one hour, for the least confident
    version. Of a regression, the bias of each version: predictions less labels, on average. Grey: a day ago.
    """
    return _worst(
        "$confidence",
        p.SHARE,
        "model_version:confident_ratio:rate1h",
        f"max(model:threshold:ModelConfidentRatioLow{{{MODEL}}})",
        _BUSINESS,
        p.Query(layout.bias(BOTH), "bias {{version}}"),
        worst="min",
        counter="model_prediction_confidence_count",
    )


def correction_share() -> Panel:
    """Share of confident predictions that users corrected over one hour, of the worst version. Grey: a day ago."""
    return _worst(
        "Corrected",
        p.SHARE,
        "model_version:correction_ratio:rate1h",
        f"max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}})",
        _BUSINESS,
        counter="model_feedback_total",
    )


def _worst(
    title: str,
    unit: str,
    series: str,
    threshold: str,
    links: Sequence[p.Link],
    *of_numbers: p.Query,
    worst: str = "max",
    counter: str = "",
) -> Panel:
    """Return a panel with the value of the worst version, its value a day ago, and its threshold.

    A version without a positive ``counter`` has no value: it never had a confidence, or feedback.
    """
    known = f" and on (model, version) sum by (model, version) ({counter}{{{BOTH}}}) > 0" if counter else ""
    limit = f"{threshold} and on () sum({counter}{{{BOTH}}}) > 0" if counter else threshold
    return p.time_series(
        title,
        unit,
        p.Query(f"{worst}({series}{{{BOTH}}}{known})", "worst version"),
        p.Query(f"{worst}({series}{{{BOTH}}}{DAY_AGO}{known})", "a day ago", role="past"),
        p.Query(limit, "threshold", role="threshold"),
        of_numbers=of_numbers,
        links=links,
        overrides=[_DAY_AGO],
    )
