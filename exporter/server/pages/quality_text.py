"""Describe in sentences how good a model is: measured with labels, and estimated without them."""

from __future__ import annotations

import math

from exporter.monitoring.counters import Histogram, bucket_quantile, only_bucket
from exporter.monitoring.leading_quality import Kind, Leading, measured
from exporter.monitoring.window_quality import WindowQuality
from exporter.profiles.quality_estimator import LEAST_ROWS, QualityEstimator
from exporter.server.elapsed import duration
from exporter.server.pages.drift_text import number, percent
from exporter.stats.accuracy import IntervalEstimate, Z

NAMES: dict[Kind, str] = {"accuracy": "accuracy", "absolute_error": "mean absolute error"}
_SHORT: dict[Kind, str] = {"accuracy": "accuracy", "absolute_error": "error"}
LARGE_ERRORS = 2.0
"""Root mean squared error, in mean absolute errors, from which some errors are much larger than most. Errors with a
normal distribution have 1.25."""


def figure(kind: Kind, value: float) -> str:
    """Return an accuracy or an error as text.

    >>> figure("accuracy", 0.912).replace("\\N{NO-BREAK SPACE}", " "), figure("absolute_error", 4.2061)
    ('91.2 %', '4.21')
    """
    return percent(value) if kind == "accuracy" else number(value)


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
            f"The {NAMES[kind]} in the last {name} is estimated as {value} (95 % interval {interval(kind, estimate)})."
        )
    labelled = f"labelled prediction{'' if leading.number == 1 else 's'} of the last {name}"
    bounds = "" if math.isnan(estimate.lower) else f" (95 % interval {interval(kind, estimate)})"
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
    """Return whether the 95 % interval of a difference holds 0 (Newcombe, 1998, method 10).

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


def describe_absence(reason: str, kind: Kind) -> str:
    """Say why there is no estimate; see `QualityEstimator.absence`."""
    needed = "has a valid confidence" if kind == "accuracy" else "is a number"
    return {
        "few": f"The profile has fewer than {LEAST_ROWS} labelled rows to estimate it from.",
        "empty": f"There is no prediction, or none that {needed}.",
        "unconfident": (
            "Too few predictions have a valid confidence: their share is less than half of that among the labelled "
            "rows of the profile."
        ),
        "unsupported": "More than half of the predictions are unlike any labelled row of the profile.",
        "wide": (
            "The predictions are so few, or so unlike the labelled rows of the profile, that any accuracy from 0 % to "
            "100 % is possible."
        ),
    }[reason]


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
            return f"{text} The difference is not more than chance explains, but so few labels tell little."
        return f"{text} The estimate was good: the difference is not more than chance explains."
    too = "high" if value < estimate.value else "low"
    return (
        f"{text} The estimate was too {too}, by more than chance explains. Either inputs are unlike those of the "
        "labelled rows (see Drift), or the labelled predictions are not typical of all, or the same inputs have other "
        "labels than before. If it stays, and the inputs are right, make a profile from recent labelled rows."
    )


def _expected(window: WindowQuality, learned: float) -> IntervalEstimate:
    """Return the accuracy that was expected, with the 95 % interval of what would then be measured."""
    mean, half = window.expected, Z * math.sqrt(window.expected_variance + learned)
    return IntervalEstimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def describe_calibration(window: WindowQuality) -> tuple[str, str]:
    """Return the calibration error of a window, and how large chance alone makes it; a dash if it is not larger."""
    error, by_chance = window.calibration_error, window.calibration_error_by_chance
    if math.isnan(error):
        return "–", ""
    return "–" if error <= by_chance else percent(error), f"by chance {percent(by_chance)}"


def describe_delay(delays: Histogram) -> str:
    """Say how long labels take. Unlike windows, this begins anew with each start of the exporter."""
    if not delays.counts.sum():
        return (
            "No label has arrived since the exporter started: the delay of labels, segments and classes are counted "
            "from then on."
        )
    since = "labels since the exporter started"
    if delays.cumulative()[-2] < delays.counts.sum() / 2:
        return f"More than half of the {since} came later than {duration(delays.bounds[-1])} after the prediction."
    if bucket := only_bucket(delays.bounds, delays.counts, 0.5):
        low, high = bucket
        between = f"within {duration(high)} of" if not low else f"between {duration(low)} and {duration(high)} after"
        return f"Half of the {since} came {between} the prediction."
    median = duration(bucket_quantile(delays.bounds, delays.counts, 0.5))
    return f"Half of the {since} came within about {median} of the prediction."


def describe_waiting(labels: int, seconds: float) -> str:
    """Say how many labels wait for their prediction, the oldest of them for how long, and why that may be.

    >>> describe_waiting(1, 7200)[:88]
    '1 label of any model waits for a prediction that has not arrived, the oldest for 2 hours'
    """
    return (
        f"{counted(labels, 'label')} of any model {'waits' if labels == 1 else 'wait'} for a prediction that has not "
        f"arrived, the oldest for {duration(seconds)}. If that stays, check that labels are sent to the exporter that "
        "got the predictions, with the identifiers (id) that these had, and before they are deleted (store.retention)."
    )


def describe_errors(window: WindowQuality) -> str:
    """Say whether some errors of a window are much larger than most; nothing without errors."""
    if window.absolute_error is None or not window.absolute_error.value:
        return ""
    ratio = window.squared_error / window.absolute_error.value
    text = f"The root mean squared error is {number(ratio)} times the mean absolute error"
    return f"{text}{': a few errors are much larger than most' if ratio >= LARGE_ERRORS else ', as is usual'}."


def summarize(kind: Kind, leading: Leading) -> str:
    """Return the quality of a model version in a few words."""
    return f"{_SHORT[kind]} {figure(kind, leading.estimate.value)}, {leading.basis}, {leading.window}"


def describe_limit(kind: Kind, leading: Leading) -> str:
    """Return the threshold that a quality violates, such as ``below 77.5 %``; nothing when it does not."""
    if not leading.excess:
        return ""
    return f"{'below' if kind == 'accuracy' else 'above'} {figure(kind, leading.limit)}"
