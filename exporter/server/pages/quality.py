"""The quality page: how often a model version is right, or how far off it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import Blueprint, render_template, request

from exporter.errors import StoreError
from exporter.monitoring.leading_quality import ALERT, Kind, kind_of, leading_quality, measured
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.window_quality import WindowQuality
from exporter.server.application import Exporter
from exporter.server.pages.confusion import confusion
from exporter.server.pages.model_choice import UnknownError, choose
from exporter.server.pages.quality_text import (
    NAMES,
    counted,
    describe_absence,
    describe_calibration,
    describe_delay,
    describe_errors,
    describe_estimates,
    describe_leading,
    describe_limit,
    describe_waiting,
    figure,
    interval,
)
from exporter.server.pages.review_filters import parameters
from exporter.stats.accuracy import IntervalEstimate, wilson

_NOTHING = IntervalEstimate(math.nan, math.nan, math.nan)


class Row(NamedTuple):
    """A line of a table: a window or a segment, its figures, and the predictions that they are of.

    Attributes
    ----------
    name
        The window or the segment.
    estimate
        The accuracy or error with its interval.
    numbers
        Further figures, in the order of the table's columns.
    note
        What is said below the last of them.
    remark
        Why there is no figure.
    """

    name: str
    estimate: IntervalEstimate
    numbers: tuple[str, ...]
    remark: str = ""
    note: str = ""


class Axis(NamedTuple):
    """The range of values that the pictures of intervals share."""

    low: float
    high: float

    def position(self, value: float) -> float:
        """Return the position of a value in percent of the width."""
        return 100 * (value - self.low) / ((self.high - self.low) or 1.0)


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the page ``/quality``."""
    routes = Blueprint("quality", __name__)
    routes.add_app_template_filter(counted)

    @routes.get("/quality")
    def page() -> tuple[str, int]:
        exporter.pipeline.settle(0.2)
        monitors = list(exporter.pipeline.monitors)
        names = [model.name for model in exporter.config.models]
        model, version = map(parameters(request.args).get, ("model", "version"))
        try:
            chosen = choose(names, monitors, model, version)
        except UnknownError as error:
            return render_template("quality.html", names=names, unknown=str(error)), 404
        context: dict[str, Any] = {"names": names, "model": chosen.model, "versions": chosen.versions}
        if chosen.monitor is not None:
            context |= _context(chosen.monitor, time.monotonic())
        else:
            binners = exporter.pipeline.monitors.binners_of(chosen.model)
            context["estimator"] = next((binner.quality for binner in binners if binner.quality), None)
        context["waiting"] = _waiting_labels(exporter)
        return render_template("quality.html", **context), 200

    return routes


def _waiting_labels(exporter: Exporter) -> str:
    """Describe the labels without a prediction; nothing if there is none, or while the database is not available."""
    try:
        state = exporter.store.review_state()
    except StoreError:
        return ""
    oldest = state.oldest_unjoined_label
    return "" if oldest is None else describe_waiting(state.unjoined_labels, time.time() - oldest)


def _context(monitor: ModelMonitor, now: float) -> dict[str, Any]:
    kind = kind_of(monitor)
    windows = {name: window for name, window in monitor.read_quality(now).items() if name in monitor.quality.rings}
    estimator = monitor.binner.quality if monitor.binner else None
    estimates, estimated_rows = _estimates(monitor, kind, now)
    measured_rows = [_measured_row(kind, name, window) for name, window in windows.items()]
    segments = _segment_rows(monitor, kind)
    references = (estimator.overall, estimator.estimated_overall) if estimator else (math.nan,)
    labelled = {name: window for name, window in windows.items() if measured(window, kind)}
    leading = leading_quality(monitor, now)
    return {
        "version": monitor.version,
        "time": datetime.now(UTC),
        "kind": kind,
        "name": NAMES[kind],
        "estimator": estimator,
        "profiled": monitor.binner is not None,
        "axis": _axis(kind, [*measured_rows, *estimated_rows, *segments], references),
        "reference": references[0],
        "measured": measured_rows,
        "estimated": estimated_rows,
        "segments": segments,
        "segment_source": monitor.segments.source if monitor.segments else "",
        "lead": describe_leading(kind, leading, estimator) if leading else "",
        "beyond": describe_limit(kind, leading) if leading else "",
        "alert": ALERT,
        "delay": describe_delay(monitor.quality.delays),
        "errors": describe_errors(list(labelled.values())[-1]) if labelled and kind == "absolute_error" else "",
        "checked": _checked(monitor, labelled, estimates, now),
        "confusion": confusion(dict(monitor.quality.outcomes)) if kind == "accuracy" else None,
        "figure": figure,
        "interval": interval,
    }


def _estimates(monitor: ModelMonitor, kind: Kind, now: float) -> tuple[dict[str, IntervalEstimate], list[Row]]:
    """Return what is estimated for each window that has an estimate, and a row for each window."""
    estimates: dict[str, IntervalEstimate] = {}
    rows: list[Row] = []
    if monitor.binner and (estimator := monitor.binner.quality):
        past = monitor.read_past_variance(now)
        for name, counts in monitor.read_counts(now).items():
            estimate = estimator.estimate(counts, past)
            if estimate:
                estimates[name] = estimate
            remark = "" if estimate else describe_absence(estimator.absence(counts), kind)
            rows.append(Row(name, estimate or _NOTHING, (), remark))
    return estimates, rows


def _measured_row(kind: Kind, name: str, window: WindowQuality) -> Row:
    further, note = figure(kind, window.squared_error), ""
    if kind == "accuracy":
        further, note = describe_calibration(window)
    numbers = (f"{window.labelled:,.0f}", f"{window.unlabelled:,.0f}", further)
    return Row(name, measured(window, kind) or _NOTHING, numbers, note=note)


def _segment_rows(monitor: ModelMonitor, kind: Kind) -> list[Row]:
    """Return the segments that have labels."""
    rows = []
    names = monitor.segments.names if monitor.segments else ()
    for name, (labelled, right, error) in zip(names, monitor.quality.by_segment.T.tolist(), strict=True):
        if labelled and kind == "accuracy":
            rows.append(Row(name, wilson(round(right), round(labelled)), (f"{labelled:,.0f}",)))
        elif labelled:
            rows.append(Row(name, IntervalEstimate(error / labelled, math.nan, math.nan), (f"{labelled:,.0f}",)))
    return rows


def _axis(kind: Kind, rows: Sequence[Row], references: Sequence[float]) -> Axis:
    """Return an axis on which all intervals and references have room."""
    values = [*(value for row in rows for value in row.estimate), *references]
    values = [value for value in values if not math.isnan(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    return Axis(max(low - margin, 0.0), min(high + margin, 1.0) if kind == "accuracy" else high + margin)


def _checked(
    monitor: ModelMonitor, labelled: Mapping[str, WindowQuality], estimates: Mapping[str, IntervalEstimate], now: float
) -> str:
    """Say how good the estimates were in the longest window that tells."""
    kind, estimator = kind_of(monitor), monitor.binner.quality if monitor.binner else None
    learned: dict[str, float] = {}
    if estimator:
        learned = {name: estimator.learned_variance(counts) for name, counts in monitor.read_counts(now).items()}
    texts = (
        describe_estimates(kind, name, window, estimates.get(name), learned.get(name, 0.0))
        for name, window in reversed(list(labelled.items()))
    )
    return next(filter(None, texts), "")
