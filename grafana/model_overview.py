"""One screen: what is wrong, since when, and each layer compared with its threshold and a day ago."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import layout
from grafana.panels import stat, state_timeline, table, time_series
from grafana.queries import BOTH, DAY_AGO, MODEL, MODEL_OR_NONE, firing_seconds, ranked, severity
from grafana.style import (
    BARE,
    COUNT,
    CRITICAL,
    DEVIATIONS,
    INFO,
    MARKS,
    NATS,
    PER_SECOND,
    SECONDS,
    SEVERITIES,
    SHARE,
    WARNING,
    Link,
    Query,
    for_field,
    for_query,
    setting,
    state_cell,
    transformation,
    value_mappings,
)

_NO_PROFILE = "no profile, or no data"
_NO_REQUESTS = "no requests"
_WIDTHS = (2, 5, 5, 5)
"""Of the state of a layer, and its three panels."""
_DAY_AGO = for_query(1, setting("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False}))
"""Grey and dotted on each panel. The description and the tooltip name it, because the legend has room for two."""

_SEVERITY = {"3": ("!!", CRITICAL), "2": ("!", WARNING), "1": ("i", INFO)}


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
            *layout.side_by_side(0, 5, {1: models_state()}, (7,)),
            *layout.side_by_side(
                0, 5, {3: system_state(), 6: request_rate(), 7: error_ratio(), 8: latency()}, _WIDTHS, x=7
            ),
            *layout.side_by_side(5, 10, {2: firing_alerts()}, (7,)),
            *layout.side_by_side(
                5, 5, {4: data_state(), 9: worst_drift(), 10: worst_mean_shift(), 11: worst_missing()}, _WIDTHS, x=7
            ),
            *layout.side_by_side(
                10,
                5,
                {5: business_state(), 12: attempts(), 13: confident_share(), 14: correction_share()},
                _WIDTHS,
                x=7,
            ),
        ],
        links=[layout.DRIFT, layout.REVIEW],
        alerts=".+",
        only_deployments=True,
    )


def models_state() -> Panel:
    return state_timeline(
        "Models",
        (
            "State of each model over time: the highest severity of its firing alerts (!! critical, ! warning, i "
            "info). A gap means that the model was not monitored."
        ),
        Query(severity("model", 'model!=""', "model_info"), "{{model}}"),
        names=MARKS,
        empty="no model is monitored",
        value_links=[layout.dashboard_link("model-overview", "This model", model="__field.labels.model")],
    )


def firing_alerts() -> Panel:
    named = f'label_join({firing_seconds()}, "of", " ", "model", "version", "instance", "path", "reason")'
    expr = f'max by (rank, alert, of) (label_replace({ranked(named)}, "alert", "$1", "alertname", "Model(.+)"))'
    runbook = {"title": "Runbook", "url": f"{layout.EXPORTER}/runbooks/Model${{__value.raw}}", "targetBlank": True}
    return table(
        "Firing alerts, of all models",
        (
            "Firing alerts and their duration, the most severe first (!! critical, ! warning, i info). Click an alert "
            "to open its runbook."
        ),
        SECONDS,
        Query(expr, kind="table"),
        empty="no alert is known to fire",
        sort=(" ", "For"),
        transformations=[
            transformation(
                "organize",
                indexByName={"rank": 0, "alert": 1, "of": 2, "Value": 3},
                renameByName={"rank": " ", "alert": "Alert", "of": "Of", "Value": "For"},
                excludeByName={"Time": True},
            )
        ],
        overrides=[
            for_field(" ", *state_cell(_SEVERITY), width=50),
            for_field("Alert", setting("links", [runbook]), width=162),
            for_field("Of", minWidth=60),
            for_field("For", width=64, decimals=0),
        ],
    )


def _detail(uid: str) -> Link:
    return Link("Details", f"/d/{uid}?${{__all_variables}}&${{__url_time_range}}")


_SYSTEM = [_detail("model-system")]
_DATA = [_detail("model-data"), layout.DRIFT]
_BUSINESS = [_detail("model-business"), layout.REVIEW]


def _layer(layer: str, title: str, uid: str, watched: str = "model_info") -> Panel:
    return stat(
        "",
        (
            "Highest severity of the firing alerts of this layer, for the model or for no particular model. Grey: not "
            "monitored."
        ),
        BARE,
        Query(severity("", f'layer="{layer}",{MODEL_OR_NONE}', f"{watched}{{{MODEL}}}"), title, "instant"),
        empty="not monitored",
        state=True,
        mappings=value_mappings(SEVERITIES),
        value_links=[_detail(uid)],
    )


def system_state() -> Panel:
    return _layer("system", "System", "model-system")


def data_state() -> Panel:
    return _layer("data", "Data", "model-data", "model_version_feature:kl_divergence_above_noise:max")


def business_state() -> Panel:
    return _layer("business", "Business", "model-business")


def request_rate() -> Panel:
    expr = f"sum(model_version:requests:rate1m{{{BOTH}}}"
    return time_series(
        "Requests",
        (
            "Requests a second, over one minute. Grey: a day ago. There is no threshold; ModelTrafficMissing fires if "
            "there are none."
        ),
        PER_SECOND,
        Query(f"{expr})", "now"),
        Query(f"{expr}{DAY_AGO})", "a day ago", role="past"),
        links=_SYSTEM,
        empty=_NO_REQUESTS,
        overrides=[_DAY_AGO],
    )


def error_ratio() -> Panel:
    return _worst(
        "Errors",
        "Share of requests answered with a 5xx over one minute, for the worst version.",
        SHARE,
        "model_version:request_error_ratio:rate1m",
        f"max(model:threshold:ModelErrorRatioHigh{{{MODEL}}})",
        _NO_REQUESTS,
        _SYSTEM,
    )


def latency() -> Panel:
    return _worst(
        "Latency p95",
        "95 % of requests are faster than this, over five minutes, for the slowest version.",
        SECONDS,
        "model_version:request_duration_seconds:p95_rate5m",
        f"max(model:threshold:ModelLatencyHigh{{{MODEL}}})",
        _NO_REQUESTS,
        _SYSTEM,
    )


def worst_drift() -> Panel:
    return _worst(
        "Worst drift",
        (
            "KL divergence from training of the feature that is furthest above its threshold; 0 is below the noise "
            "floor."
        ),
        NATS,
        "model_version:kl_divergence_above_noise:worst",
        f"min(model_version:threshold:ModelFeatureDrift{{{BOTH}}})",
        _NO_PROFILE,
        _DATA,
    )


def worst_mean_shift() -> Panel:
    return _worst(
        "Worst mean shift",
        ("Largest shift of a feature's mean in training standard deviations, in either direction; 0 is within chance."),
        DEVIATIONS,
        "model_version:mean_shift_above_noise:worst",
        f"min(model_version:threshold:ModelFeatureMeanShift{{{BOTH}}})",
        _NO_PROFILE,
        _DATA,
    )


def worst_missing() -> Panel:
    return _worst(
        "Worst missing",
        "Share of values that are missing or of a wrong type, above their share in training.",
        SHARE,
        "model_version:missing_excess_ratio:worst",
        f"min(model_version:threshold:ModelFeatureMissing{{{BOTH}}})",
        _NO_PROFILE,
        _DATA,
    )


def attempts() -> Panel:
    expr = f"sum(model_version:attempts:increase1h{{{BOTH}}}"
    return time_series(
        "Predictions an hour",
        "Predictions per hour. Grey: a day ago. The threshold is a share of the same hour a week ago.",
        COUNT,
        Query(f"{expr})", "now"),
        Query(f"{expr}{DAY_AGO})", "a day ago", role="past"),
        Query(
            f"max(model:threshold:ModelAttemptsDrop{{{MODEL}}})"
            f" * sum(model_version:attempts:increase1h{{{MODEL}}} offset 1w)",
            "threshold",
            role="threshold",
        ),
        links=_BUSINESS,
        empty="no predictions",
        overrides=[_DAY_AGO],
    )


def confident_share() -> Panel:
    return _worst(
        "Confident",
        (
            "Share of predictions at or above the model's confidence threshold over one hour, for the least confident "
            "version."
        ),
        SHARE,
        "model_version:confident_ratio:rate1h",
        f"max(model:threshold:ModelConfidentRatioLow{{{MODEL}}})",
        "no predictions",
        _BUSINESS,
        worst="min",
    )


def correction_share() -> Panel:
    return _worst(
        "Corrected",
        "Share of confident predictions that users corrected over one hour, for the worst version.",
        SHARE,
        "model_version:correction_ratio:rate1h",
        f"max(model:threshold:ModelCorrectionRatioHigh{{{MODEL}}})",
        "no confident predictions",
        _BUSINESS,
    )


def _worst(
    title: str,
    description: str,
    unit: str,
    series: str,
    threshold: str,
    empty: str,
    links: Sequence[Link],
    worst: str = "max",
) -> Panel:
    """Return a panel with the value of the worst version, its value a day ago, and its threshold."""
    return time_series(
        title,
        f"{description} Grey: a day ago.",
        unit,
        Query(f"{worst}({series}{{{BOTH}}})", "now"),
        Query(f"{worst}({series}{{{BOTH}}}{DAY_AGO})", "a day ago", role="past"),
        Query(threshold, "threshold", role="threshold"),
        links=links,
        empty=empty,
        overrides=[_DAY_AGO],
    )
