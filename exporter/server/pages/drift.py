"""The drift page: what changed since training, feature by feature."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, render_template, request

from exporter.monitoring.drift_report import OUTPUTS, TargetDrift, target_drifts
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.server.application import Exporter
from exporter.server.pages import drift_charts
from exporter.server.pages.drift_text import sentence, share
from exporter.server.pages.review_filters import parameters
from exporter.validation import preview, suggestion

SHOWN = 40
"""Rows that stand open; those below are a click away."""
STATUS = {
    "drifted": "drifted",
    "slight": "changed a little",
    "same": "as in training",
    "few": "too few values",
    "empty": "no values",
}


class _UnknownError(Exception):
    """The address names what is not there; the text says what was meant perhaps."""


def blueprint(exporter: Exporter) -> Blueprint:
    """The page ``/drift``."""
    routes = Blueprint("drift", __name__)
    routes.add_app_template_filter(sentence)
    routes.add_app_template_filter(share)

    @routes.get("/drift")
    def page() -> tuple[str, int]:
        exporter.pipeline.settle(0.2)
        now = time.monotonic()
        monitors = list(exporter.pipeline.monitors)
        exporter.trends.sample(monitors, now)
        context: dict[str, Any] = {"monitors": monitors, "names": [model.name for model in exporter.config.models]}
        try:
            context |= _chosen(exporter, monitors, now)
        except _UnknownError as error:
            return render_template("drift.html", **context, unknown=str(error)), 404
        return render_template("drift.html", **context), 200

    return routes


def _chosen(exporter: Exporter, monitors: list[ModelMonitor], now: float) -> dict[str, Any]:
    """What the page shows of the model, version, window and feature that the address names, or of the best ones."""
    model, version, window, feature = map(parameters(request.args).get, ("model", "version", "window", "feature"))
    configured = {one.name: one for one in exporter.config.models}
    if model is not None:
        _check("model", model, configured, "is configured")
        monitors = [monitor for monitor in monitors if monitor.config.name == model]
    versions = sorted({monitor.version for monitor in monitors})
    context: dict[str, Any] = {"model": model or next(iter(configured)), "versions": versions if model else []}
    if version is not None:
        _check("version", version, versions, f"of {context['model']} has sent a prediction since the exporter started")
        monitors = [monitor for monitor in monitors if monitor.version == version]
    if not monitors:
        profiled = bool(exporter.pipeline.monitors.binners_of(context["model"]))
        return {**context, "silent": True, "profiled": profiled}
    monitor = max(monitors, key=lambda one: (one.binner is not None, one.last_used))
    context |= {"monitor": monitor, "model": monitor.config.name, "version": monitor.version}
    context["versions"] = sorted(
        other.version for other in exporter.pipeline.monitors if other.config.name == monitor.config.name
    )
    windows = list(monitor.windows)
    if window is not None:
        _check("window", window, windows, f"of {monitor.config.name} is configured")
    window = window or windows[-1]
    context |= {"window": window, "windows": windows}
    if monitor.binner is None:
        return context
    found = target_drifts(monitor, monitor.read(now)[window])
    by_name = {change.name: change for change in found}
    if feature is not None:
        _check("feature", feature, by_name, f"is in the profile of {monitor.config.name}")
    ages, scores = exporter.trends.scores(monitor, window, now)
    rows = [_row(change, ages, scores, 6.0) for change in found]
    chosen = by_name[feature] if feature is not None else found[0] if found else None
    return {
        **context,
        "rows": rows,
        "shown": SHOWN,
        "chosen": chosen and {**_row(chosen, ages, scores, drift_charts.APART), "table": drift_charts.table(chosen)},
        "drifted": sum(change.status == "drifted" for change in found),
        "status": STATUS,
        "outputs": OUTPUTS,
        "time": datetime.now(UTC),
    }


def _check(what: str, word: str, known: Iterable[str], where: str) -> None:
    if word not in known:
        raise _UnknownError(f"No {what} {preview(word)} {where}; {suggestion(word, known)}")


def _row(change: TargetDrift, ages: Any, scores: Any, apart: float) -> dict[str, Any]:
    way = scores[:, change.index] if len(ages) else ages
    return {
        "change": change,
        "chart": drift_charts.distribution(change, apart),
        "trend": drift_charts.trend(ages, way, change),
    }
