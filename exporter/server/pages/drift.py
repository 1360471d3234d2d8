"""The drift page: the change of each feature since training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, render_template, request

from exporter.monitoring.drift_report import OUTPUTS, TargetDrift, target_drifts, worst
from exporter.monitoring.feature_budget import FeatureBudget
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.server.application import Exporter
from exporter.server.pages import drift_charts
from exporter.server.pages.drift_text import describe, describe_dependence, describe_importance, describe_season, share
from exporter.server.pages.model_choice import UnknownError, check, choose
from exporter.server.pages.review_filters import parameters
from exporter.server.pages.slices import slices_parameters

MAX_OPEN_ROWS = 40
"""Rows that are visible; the others are behind a click."""
STATUS = {
    "drifted": "drifted",
    "slight": "small change",
    "same": "as in training",
    "few": "too few values",
    "empty": "no values",
}
SMALL_CHART_SPECIAL_WIDTH = 6.0


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the page ``/drift``."""
    routes = Blueprint("drift", __name__)
    routes.add_app_template_filter(describe)
    routes.add_app_template_filter(describe_dependence)
    routes.add_app_template_filter(describe_importance)
    routes.add_app_template_filter(describe_season)
    routes.add_app_template_filter(status_text)
    routes.add_app_template_filter(share)

    @routes.get("/drift")
    def page() -> tuple[str, int]:
        exporter.pipeline.settle(0.2)
        now = time.monotonic()
        monitors = list(exporter.pipeline.monitors)
        exporter.drift_history.sample(monitors, now)
        context: dict[str, Any] = {"monitors": monitors, "names": [model.name for model in exporter.config.models]}
        try:
            context |= _context(exporter, monitors, now)
        except UnknownError as error:
            return render_template("drift.html", **context, unknown=str(error)), 404
        return render_template("drift.html", **context), 200

    return routes


def status_text(drift: TargetDrift) -> str:
    """Return the status of a target in a few words."""
    return (
        f"{STATUS[drift.status]}, hardly used"
        if drift.status == "drifted" and drift.is_hardly_used
        else STATUS[drift.status]
    )


def _context(exporter: Exporter, monitors: list[ModelMonitor], now: float) -> dict[str, Any]:
    """Return the values of the page for the model, version, window and feature in the address.

    Raises
    ------
    UnknownError
        When one of them does not exist.
    """
    model, version, window, feature = map(parameters(request.args).get, ("model", "version", "window", "feature"))
    chosen = choose([settings.name for settings in exporter.config.models], monitors, model, version)
    context: dict[str, Any] = {"model": chosen.model, "versions": chosen.versions}
    if chosen.monitor is None:
        return {**context, "silent": True, "profiled": bool(exporter.pipeline.monitors.binners_of(chosen.model))}
    return context | _monitor_context(exporter, chosen.monitor, window, feature, now)


def _monitor_context(
    exporter: Exporter, monitor: ModelMonitor, window: str | None, feature: str | None, now: float
) -> dict[str, Any]:
    model = monitor.config.name
    windows = list(monitor.windows)
    if window is not None:
        check("window", window, windows, f"of {model} is configured")
    if window is None:  # the one that the home page shows
        drifted = worst(monitor, now, feature)
        window = drifted[0] if drifted else windows[-1]
    context = {
        "monitor": monitor,
        "version": monitor.version,
        "window": window,
        "windows": windows,
    }
    if monitor.binner is None or monitor.noise is None:
        return context
    stats = monitor.read(now)[window]
    drifts = target_drifts(monitor, stats, monitor.read_evidence(now))
    by_name = {drift.name: drift for drift in drifts}
    if feature is not None:
        check("feature", feature, by_name, f"is in the profile of {model}")
    ages, scores = exporter.drift_history.scores(monitor, window, now)
    selected = by_name[feature] if feature is not None else drifts[0] if drifts else None
    return {
        **context,
        "rows": [_row(drift, ages, scores, SMALL_CHART_SPECIAL_WIDTH) for drift in drifts],
        "max_open_rows": MAX_OPEN_ROWS,
        "selected": selected
        and {**_row(selected, ages, scores, drift_charts.SPECIAL_WIDTH), "table": drift_charts.table(selected)},
        "drifted": _drifted(drifts),
        "hardly_used": sum(drift.status == "drifted" and drift.is_hardly_used for drift in drifts),
        "weighted": any(drift.importance for drift in drifts),
        "count": FeatureBudget(monitor.config, monitor.binner.names).count(monitor.noise, window, stats),
        "interval": monitor.config.drift_false_alarm_interval,
        "outputs_listed": any(name in OUTPUTS for name in by_name),
        "outputs": OUTPUTS,
        "slices": slices_parameters(model, monitor.version, "drift"),
        "time": datetime.now(UTC),
    }


def _drifted(drifts: Sequence[TargetDrift]) -> str:
    """Return the beginning of a sentence: which have drifted, with their verb. Nothing if none has."""
    names = [drift.name for drift in drifts if drift.status == "drifted"]
    features = sum(name not in OUTPUTS for name in names)
    total = sum(drift.name not in OUTPUTS for drift in drifts)
    parts = [f"{features} of {total} feature{'s' if total > 1 else ''}"] if features else []
    parts += [f"the {text}" for name, text in OUTPUTS.items() if name in names]
    *first, last = parts or [""]
    verb = "has" if len(names) == 1 else "have"
    text = f"{', '.join(first)} and {last} {verb}" if first else last and f"{last} {verb}"
    return text[:1].upper() + text[1:]


def _row(drift: TargetDrift, ages: Any, scores: Any, special_width: float) -> dict[str, Any]:
    return {
        "drift": drift,
        "chart": drift_charts.distribution(drift, special_width),
        "trend": drift_charts.trend(ages, scores[:, drift.index] if len(ages) else ages, drift),
    }
