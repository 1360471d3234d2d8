"""The quality page: how often a model version is right, or how far off it is."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import render_template, request

from exporter.errors import StoreError
from exporter.monitoring.counters import bucket_quantile, only_bucket
from exporter.monitoring.leading_quality import ALERT, Kind, Leading, kind_of, leading_quality, measured
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import OTHER, WindowQuality
from exporter.monitoring.registry import version_sort_key
from exporter.profiles.quality import LEAST_ROWS, QualityEstimator
from exporter.server.application import Exporter
from exporter.server.pages.drift import UnknownError, choose
from exporter.server.pages.home import ranked
from exporter.server.text import duration, figure, number, parameters, percent
from exporter.stats.quality import IntervalEstimate, Z, wilson

NAMES: dict[Kind, str] = {"accuracy": "accuracy", "absolute_error": "mean absolute error"}
_SHORT: dict[Kind, str] = {"accuracy": "accuracy", "absolute_error": "error"}


def interval(kind: Kind, estimate: IntervalEstimate) -> str:
    """Return the ends of an interval; a dash where they are not known.

    >>> interval("absolute_error", IntervalEstimate(4.2, 4.0, 4.4))
    '4 to 4.4'
    """
    if math.isnan(estimate.lower):
        return "–"
    return f"{figure(kind, estimate.lower)} to {figure(kind, estimate.upper)}"


def counted(count: float, noun: str) -> str:
    """
    >>> counted(1, "label"), counted(1200.0, "label")
    ('1 label', '1,200 labels')
    """
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def describe_leading(kind: Kind, leading: Leading, reference: QualityEstimator | None) -> str:
    """Describe in sentences how good a model is, and how that compares with the profile's labelled rows."""
    estimate, name = leading.estimate, leading.window
    if leading.basis == "estimated":
        value = figure(kind, estimate.value)
        return (
            f"The {NAMES[kind]} in the last {name} is estimated as {value} (95% interval {interval(kind, estimate)})."
        )
    labelled = f"labelled prediction{'' if leading.number == 1 else 's'} of the last {name}"
    bounds = "" if math.isnan(estimate.lower) else f" (95% interval {interval(kind, estimate)})"
    if kind == "accuracy":
        verb = "is" if leading.number == 1 else "are"
        text = f"{figure(kind, estimate.value)} of the {leading.number:,.0f} {labelled} {verb} right{bounds}."
    else:
        text = f"The mean absolute error of the {leading.number:,.0f} {labelled} is {number(estimate.value)}{bounds}."
    if kind == "accuracy" and estimate.value == 0 and leading.number >= LEAST_ROWS:
        return f"{text} No label equals its prediction: check that both have the same spelling, such as 1 or yes."
    return f"{text} {_compare(kind, estimate, reference)}" if reference else text


def _compare(kind: Kind, estimate: IntervalEstimate, reference: QualityEstimator) -> str:
    """Compare a measured quality with that on the profile's labelled rows."""
    overall = f"On the labelled rows of the profile, the {_SHORT[kind]} is {figure(kind, reference.overall)}"
    if math.isnan(estimate.lower):
        return f"{overall}."
    if estimate.lower <= reference.overall <= estimate.upper:
        return f"{overall}, which is within the interval."
    if _differ_by_chance(estimate, reference.reference):
        return f"{overall}: the difference is not more than chance explains."
    better = (estimate.value > reference.overall) == (kind == "accuracy")
    return f"{overall}: the model is {'better' if better else 'worse'} than there, by more than chance explains."


def _differ_by_chance(measured: IntervalEstimate, reference: IntervalEstimate) -> bool:
    """Return whether the 95% interval of a difference holds 0 (Newcombe, 1998, method 10).

    The reference is of few rows, then of many:

    >>> _differ_by_chance(IntervalEstimate(0.8, 0.76, 0.84), IntervalEstimate(0.85, 0.81, 0.88))
    True
    >>> _differ_by_chance(IntervalEstimate(0.8, 0.76, 0.84), IntervalEstimate(0.85, 0.84, 0.86))
    False
    """
    if measured.value > reference.value:
        return measured.value - reference.value <= math.hypot(
            measured.value - measured.lower, reference.upper - reference.value
        )
    return reference.value - measured.value <= math.hypot(
        measured.upper - measured.value, reference.value - reference.lower
    )


def describe_estimates(
    kind: Kind, name: str, window: WindowQuality, estimate: IntervalEstimate | None, learned: float = 0.0
) -> str:
    """Say how good the estimates have been for labelled predictions; nothing where that is not known.

    Parameters
    ----------
    kind
        How the quality is measured.
    name
        The window.
    window
        What is measured in it.
    estimate
        What is estimated for it; for an accuracy, `WindowQuality.expected` is used in its place.
    learned
        For an accuracy, the variance of the calibration itself, see `QualityEstimator.learned_variance`.
    """
    found = measured(window, kind)
    value = found.value if found else math.nan
    if kind == "accuracy":
        estimate, value = _expected(window, learned), window.compared
    if estimate is None or math.isnan(value):
        return ""
    expected, range_text = figure(kind, estimate.value), interval(kind, estimate)
    if kind == "accuracy":
        text = f"Of the labelled predictions of the last {name}, {expected} were expected to be right ({range_text})"
        text += f", and {figure(kind, value)} are."
    else:
        text = f"In the last {name}, an error of {expected} is estimated ({range_text})"
        text += f", and {figure(kind, value)} is measured."
    if estimate.lower <= value <= estimate.upper:
        if window.labelled < LEAST_ROWS:
            return f"{text} The difference is not more than chance explains, but so few labels prove little."
        return f"{text} The estimate was good: the difference is not more than chance explains."
    too = "high" if value < estimate.value else "low"
    return (
        f"{text} The estimate was too {too}, by more than chance explains. Either inputs are unlike the "
        "labelled rows (see Drift), or the labelled predictions are not typical of all, or the same inputs have other "
        "labels than before. If it stays, and the inputs are right, make a profile from recent labelled rows."
    )


def _expected(window: WindowQuality, learned: float) -> IntervalEstimate:
    """Return the accuracy that was expected, with the 95% interval of what would then be measured."""
    mean, half = window.expected, Z * math.sqrt(window.expected_variance + learned)
    return IntervalEstimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def describe_calibration(window: WindowQuality) -> tuple[str, str]:
    """Return the calibration error of a window, and how large chance alone makes it; a dash if it is not larger."""
    error, by_chance = window.calibration_error, window.calibration_error_by_chance
    if math.isnan(error):
        return "–", ""
    return "–" if error <= by_chance else percent(error), f"by chance {percent(by_chance)}"


def confusion(outcomes: Mapping[tuple[str, str], int]) -> dict[str, Any] | None:
    """Return the counts of the classes that occur, predicted and actual, in the order of their names; None without any.

    Parameters
    ----------
    outcomes
        Number of labelled predictions by the predicted and the actual class, see `Quality.outcomes`.

    >>> confusion({("no", "no"): 8, ("yes", "no"): 2, ("yes", "yes"): 1, ("maybe", "yes"): 0})["predicted"]
    {'no': 8, 'yes': 3}
    """
    predicted, actual = Counter[str](), Counter[str]()
    for (prediction, label), count in outcomes.items():
        predicted[prediction] += count
        actual[label] += count
    order = sorted(predicted + actual, key=lambda name: (name == OTHER, version_sort_key(name)))
    sides = ({name: side[name] for name in order if side[name]} for side in (predicted, actual))
    # Different classes beyond the named ones are all "other", so that a pair of them says nothing.
    return (
        dict(zip(("predicted", "actual"), sides, strict=True)) | {"counts": outcomes, "other": OTHER} if order else None
    )


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
        What is said below the last of them, or what is unlike the labelled rows, see `QualityEstimator.unlike`.
    remark
        Why there is no figure, see `QualityEstimator.absence`.
    """

    name: str
    estimate: IntervalEstimate
    numbers: tuple[str, ...]
    remark: str = ""
    note: str = ""


def page(exporter: Exporter) -> tuple[str, int]:
    """``GET /quality``: the quality page."""
    exporter.pipeline.settle(0.2)
    states = ranked(exporter)
    try:
        model, versions, monitor = choose(exporter, states, parameters(request.args))
    except UnknownError as error:
        return render_template("quality.html", states=states, unknown=str(error)), 404
    context: dict[str, Any] = {"states": states, "model": model, "versions": versions}
    if monitor is not None:
        siblings = exporter.pipeline.monitors.of_model(model).values()
        now = time.monotonic()
        context |= _context(monitor, leading_quality(siblings, now).get(monitor.version), now)
    else:
        binners = exporter.pipeline.monitors.binners_of(model)
        context["estimator"] = next((binner.quality for binner in binners if binner.quality), None)
    context["waiting"] = _waiting_labels(exporter)
    return render_template("quality.html", **context), 200


def _waiting_labels(exporter: Exporter) -> tuple[int, float] | None:
    """Return the number of labels without a prediction and the age of the oldest; None without any or a database."""
    try:
        state = exporter.store.review.state()
    except StoreError:
        return None
    oldest = state.oldest_unjoined_label
    return None if oldest is None else (state.unjoined_labels, time.time() - oldest)


def _context(monitor: ModelMonitor, leading: Leading | None, now: float) -> dict[str, Any]:
    kind = kind_of(monitor)
    windows = {name: window for name, window in monitor.read_quality(now).items() if name in monitor.quality.rings}
    estimator = monitor.binner.quality if monitor.binner else None
    estimates, estimated_rows = _estimates(monitor, now)
    measured_rows = [_measured_row(kind, name, window) for name, window in windows.items()]
    segments = _segment_rows(monitor, kind)
    references = (estimator.overall, estimator.estimated_overall) if estimator else (math.nan,)
    labelled = {name: window for name, window in windows.items() if measured(window, kind)}
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
        "leading": leading,
        "alert": ALERT,
        "monitor": monitor,
        "only_bucket": only_bucket,
        "bucket_quantile": bucket_quantile,
        "least_rows": LEAST_ROWS,
        "longest": list(labelled.values())[-1] if labelled else None,
        "checked": _checked(monitor, labelled, estimates, now),
        "confusion": confusion(dict(monitor.quality.outcomes)) if kind == "accuracy" else None,
        "figure": figure,
        "interval": interval,
    }


def _estimates(monitor: ModelMonitor, now: float) -> tuple[dict[str, IntervalEstimate], list[Row]]:
    """Return what is estimated for each window that has an estimate, and a row for each window."""
    estimates: dict[str, IntervalEstimate] = {}
    rows: list[Row] = []
    if monitor.binner and (estimator := monitor.binner.quality):
        past = monitor.read_past_variance(now)
        for name, counts in monitor.read_counts(now).items():
            estimate = estimator.estimate(counts, past)
            if estimate:
                estimates[name] = estimate
            remark = "" if estimate else estimator.absence(counts)
            rows.append(Row(name, estimate or _NOTHING, (), remark, " and of ".join(estimator.unlike(counts))))
    return estimates, rows


def _measured_row(kind: Kind, name: str, window: WindowQuality) -> Row:
    *numbers, note = figure(kind, window.squared_error), f"{window.bias:+.3g}".replace("-", "−"), ""
    if kind == "accuracy":
        *numbers, note = describe_calibration(window)
    counts = (f"{window.labelled:,.0f}", f"{window.unlabelled:,.0f}")
    return Row(name, measured(window, kind) or _NOTHING, (*counts, *numbers), note=note)


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


def _axis(kind: Kind, rows: Sequence[Row], references: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis on which all intervals and references have room."""
    values = [*(value for row in rows for value in row.estimate), *references]
    values = [value for value in values if not math.isnan(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    return max(low - margin, 0.0), min(high + margin, 1.0) if kind == "accuracy" else high + margin


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


FILTERS = {"counted": counted, "duration": duration}
"""Functions of the template."""
