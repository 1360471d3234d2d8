"""The metrics of two sets of counts, compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from exporter.commands.compare.counts import Counts
from exporter.stats.intervals import (
    Difference,
    Estimate,
    bucket_quantile,
    conservative_difference,
    difference,
    divergence,
    holm,
    largest,
    share,
)


class Metric(NamedTuple):
    """One number of both sides, compared.

    Attributes
    ----------
    name
        ``error_ratio``, ``latency_p95_seconds``, ``confident_ratio``, ``correction_ratio`` or ``worst_drift_nats``.
    before, after
        The estimates; None where there is no data.
    difference
        None unless both sides have an estimate.
    significant
        Whether the difference is statistically significant among all metrics of the comparison.
    good
        1 where more is better, -1 where less is.
    features
        The worst feature of each side, where drift is measured.
    """

    name: str
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    significant: bool
    good: int
    features: tuple[str, str] | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``same`` (not significant) or ``unknown``."""
        if self.difference is None:
            return "unknown"
        if not self.significant:
            return "same"
        return "better" if self.difference.value * self.good > 0 else "worse"


def _share(part: float, total: float) -> Estimate | None:
    # After a reset of a counter the counts are estimates, which need not be whole.
    part, total = round(part), round(total)
    return share(min(part, total), total) if total > 0 else None


def _latency(counts: Counts) -> Estimate | None:
    if not counts.durations or not counts.durations[-1]:
        return None
    return bucket_quantile(counts.bounds, counts.durations, 0.95)


def _drift(counts: Counts) -> Estimate | None:
    features = [divergence(*feature) for feature in counts.features.values()]
    return largest(features) if features else None


class _Rule(NamedTuple):
    """How a metric is estimated and compared."""

    name: str
    good: int
    estimate: Callable[[Counts], Estimate | None]
    subtract: Callable[[Estimate, Estimate], Difference] = difference


_RULES = (
    _Rule("error_ratio", -1, lambda counts: _share(counts.errors, counts.requests)),
    _Rule("latency_p95_seconds", -1, _latency, conservative_difference),
    _Rule("confident_ratio", 1, lambda counts: _share(counts.confident, counts.attempts)),
    _Rule("correction_ratio", -1, lambda counts: _share(counts.corrections, counts.confident)),
    _Rule("worst_drift_nats", -1, _drift),
)


def compare(before: Counts, after: Counts) -> list[Metric]:
    """Return all metrics of two sides; which differences are significant is decided by Holm's method."""
    metrics = [_compare_metric(rule, before, after) for rule in _RULES]
    indices = [index for index, metric in enumerate(metrics) if metric.difference]
    p_values = [metric.difference.p_value for metric in metrics if metric.difference]
    for index, significant in zip(indices, holm(p_values), strict=True):
        metrics[index] = metrics[index]._replace(significant=significant)
    return metrics


def _compare_metric(rule: _Rule, before: Counts, after: Counts) -> Metric:
    old, new = rule.estimate(before), rule.estimate(after)
    if rule.name == "correction_ratio" and not before.feedback and not after.feedback:
        old = new = None  # without feedback, a lack of corrections means nothing
    change = rule.subtract(old, new) if old and new else None
    features = (worst_feature(before), worst_feature(after)) if rule.name == "worst_drift_nats" and change else None
    return Metric(rule.name, old, new, change, significant=False, good=rule.good, features=features)


def worst_feature(counts: Counts) -> str:
    """Return the feature that has drifted most; at least one must have observations."""
    return max(counts.features, key=lambda name: divergence(*counts.features[name]).value)
