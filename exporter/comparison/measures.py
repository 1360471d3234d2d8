"""The measures of two sets of counts, compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from exporter.comparison.counts import Counts, Period, Quality
from exporter.stats import accuracy
from exporter.stats.intervals import (
    Difference,
    Estimate,
    bucket_quantile,
    conservative_difference,
    difference,
    divergence,
    from_band,
    holm,
    largest,
    mean,
    share,
)

MIN_LABELS = 20
"""Labels that each side needs for its measured quality to be compared; with fewer, estimates are."""
Basis = Literal["measured", "estimated"]
Verdict = Literal["better", "worse", "not proven", "unknown"]
VERDICTS: dict[Verdict, float] = {"worse": -1.0, "not proven": 0.0, "better": 1.0}
"""The number of each verdict in the metrics; ``unknown`` has none."""


class Measure(NamedTuple):
    """One number of both sides, compared.

    Attributes
    ----------
    name
        ``error_ratio``, ``latency_p95_seconds``, ``confident_ratio``, ``correction_ratio``, ``worst_drift_nats``, and
        ``accuracy`` or ``mean_absolute_error`` where labels or estimates of them are there.
    before, after
        The estimates; None where there is no data.
    difference
        None unless both sides have an estimate that could differ.
    significant
        Whether the difference is statistically significant among all measures of the comparison.
    good
        1 where more is better, -1 where less is.
    observations
        What each side's estimate is computed from: a number of requests, predictions or values.
    features
        The worst feature of each side, where drift is measured.
    basis
        Whether the quality of the predictions is measured with labels, or estimated without; None for other measures.
    """

    name: str
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    significant: bool
    good: int
    observations: tuple[float, float]
    features: tuple[str, str] | None = None
    basis: Basis | None = None

    @property
    def verdict(self) -> Verdict:
        """``unknown`` where there is nothing to compare, ``not proven`` where the difference is not significant."""
        if self.difference is None:
            return "unknown"
        if not self.significant:
            return "not proven"
        return "better" if self.difference.value * self.good > 0 else "worse"


class Side(NamedTuple):
    """A version in a period, and its counts."""

    version: str
    period: Period
    counts: Counts


class Comparison(NamedTuple):
    """Two versions in a period, or one version in two.

    Attributes
    ----------
    shared_seconds
        Seconds in which both versions served, if both are compared over that time; None for two periods.
    """

    model: str
    before: Side
    after: Side
    measures: list[Measure]
    shared_seconds: float | None = None


def _share(part: float, total: float) -> Estimate | None:
    # After a reset of a counter the counts are estimates, which need not be whole.
    part, total = round(part), round(total)
    return share(min(part, total), total) if total > 0 else None


class _Measured(NamedTuple):
    """A measure of one side: the estimate, what it is computed from, and the worst feature."""

    estimate: Estimate | None
    observations: float
    feature: str | None = None


def _errors(counts: Counts) -> _Measured:
    return _Measured(_share(counts.errors, counts.requests), counts.requests)


def _latency(counts: Counts) -> _Measured:
    requests = counts.durations[-1] if counts.durations else 0.0
    return _Measured(bucket_quantile(counts.bounds, counts.durations, 0.95) if requests else None, requests)


def _confident(counts: Counts) -> _Measured:
    return _Measured(_share(counts.confident, counts.attempts), counts.attempts)


def _corrected(counts: Counts) -> _Measured:
    return _Measured(_share(counts.corrections, counts.confident), counts.confident)


def _drift(counts: Counts) -> _Measured:
    estimates = {name: divergence(*feature) for name, feature in counts.features.items()}
    if not estimates:
        return _Measured(None, 0.0)
    worst = max(estimates, key=lambda name: estimates[name].value)
    return _Measured(largest(list(estimates.values())), float(counts.features[worst].counts.sum()), worst)


class _Rule(NamedTuple):
    """How a number is measured and compared."""

    name: str
    good: int
    measure: Callable[[Counts], _Measured]
    subtract: Callable[[Estimate, Estimate], Difference] = difference


_RULES = (
    _Rule("error_ratio", -1, _errors),
    _Rule("latency_p95_seconds", -1, _latency, conservative_difference),
    _Rule("confident_ratio", 1, _confident),
    _Rule("correction_ratio", -1, _corrected),
    _Rule("worst_drift_nats", -1, _drift),
)
GOOD = {rule.name: rule.good for rule in _RULES} | {"accuracy": 1, "mean_absolute_error": -1}
"""Of each measure, 1 where more is better, -1 where less is."""


def compare(before: Counts, after: Counts) -> list[Measure]:
    """Return all measures of two sides; which differences are significant is decided by Holm's method."""
    measures = [_compare_measure(rule, before, after) for rule in _RULES]
    measures += filter(None, [_compare_quality(before, after)])
    indices = [index for index, measure in enumerate(measures) if measure.difference]
    p_values = [measure.difference.p_value for measure in measures if measure.difference]
    for index, significant in zip(indices, holm(p_values), strict=True):
        measures[index] = measures[index]._replace(significant=significant)
    return measures


def _is_constant(name: str, *sides: Estimate) -> bool:
    """Return whether every prediction is confident, as of a model without confidences.

    Such a measure proves nothing, and without it Holm's method asks less of the others (Tarone, Biometrics 46, 1990).
    """
    return name == "confident_ratio" and all(side.value == 1 for side in sides)


def _compare_measure(rule: _Rule, before: Counts, after: Counts) -> Measure:
    sides = rule.measure(before), rule.measure(after)
    old, new = (side.estimate for side in sides)
    if rule.name == "correction_ratio" and not before.feedback and not after.feedback:
        old = new = None  # without feedback, a lack of corrections means nothing
    change = rule.subtract(old, new) if old and new and not _is_constant(rule.name, old, new) else None
    names = tuple(side.feature for side in sides if side.feature)
    return Measure(
        name=rule.name,
        before=old,
        after=new,
        difference=change,
        significant=False,
        good=rule.good,
        observations=(sides[0].observations, sides[1].observations),
        features=(names[0], names[1]) if len(names) == len(sides) else None,
    )


def _compare_quality(before: Counts, after: Counts) -> Measure | None:
    """Compare the measured quality where both sides have labels, else the estimates; None where neither is there."""
    sides = before.quality, after.quality
    basis: Basis = "measured" if min(side.labelled for side in sides) >= MIN_LABELS else "estimated"
    if basis == "measured":
        estimates = [_measured_quality(side) for side in sides]
        observations = sides[0].labelled, sides[1].labelled
    else:
        estimates = [_from_band(side.estimated) for side in sides]
        observations = before.attempts, after.attempts
    old, new = estimates
    if old is None and new is None:
        return None
    regression = any(side.regression for side in sides)
    name = "mean_absolute_error" if regression else "accuracy"
    return Measure(
        name=name,
        before=old,
        after=new,
        difference=difference(old, new) if old and new else None,
        significant=False,
        good=GOOD[name],
        observations=observations,
        basis=basis,
    )


def _measured_quality(quality: Quality) -> Estimate | None:
    if quality.regression:
        return mean(quality.absolute_error, quality.squared_error, quality.labelled)
    return _share(quality.correct, quality.labelled)


def _from_band(band: accuracy.Estimate | None) -> Estimate | None:
    return band and from_band(*band)
