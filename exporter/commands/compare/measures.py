"""Counts of two sides, compared."""

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


class Measure(NamedTuple):
    """One number of both sides.

    Attributes
    ----------
    name
        ``error_ratio``, ``latency_p95_seconds``, ``confident_ratio``, ``correction_ratio`` or ``worst_drift_nats``.
    before, after
        The estimates; None where there is nothing to estimate from.
    difference
        None unless both are there.
    real
        Whether the difference is more than chance explains, with all measures of the comparison in mind.
    good
        1 where more is better, -1 where less is.
    features
        The worst feature of each side, where drift is measured.
    """

    name: str
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    real: bool
    good: int
    features: tuple[str, str] | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``same`` (no more than chance) or ``unknown``."""
        if self.difference is None:
            return "unknown"
        if not self.real:
            return "same"
        return "better" if self.difference.value * self.good > 0 else "worse"


def _share(part: float, whole: float) -> Estimate | None:
    return share(min(part, whole), whole) if whole > 0 else None


def _latency(counts: Counts) -> Estimate | None:
    if not counts.durations or not counts.durations[-1]:
        return None
    return bucket_quantile(counts.bounds, counts.durations, 0.95)


def _drift(counts: Counts) -> Estimate | None:
    features = [divergence(*feature) for feature in counts.features.values()]
    return largest(features) if features else None


_Rule = tuple[str, int, Callable[[Counts], Estimate | None], Callable[[Estimate, Estimate], Difference]]
RULES: tuple[_Rule, ...] = (
    ("error_ratio", -1, lambda c: _share(c.errors, c.requests), difference),
    ("latency_p95_seconds", -1, _latency, conservative_difference),
    ("confident_ratio", 1, lambda c: _share(c.confident, c.attempts), difference),
    ("correction_ratio", -1, lambda c: _share(c.corrections, c.confident), difference),
    ("worst_drift_nats", -1, _drift, difference),
)


def compare(before: Counts, after: Counts) -> list[Measure]:
    """All measures of two sides; the verdicts are Holm's, over those that both sides have."""
    measures = []
    for name, good, estimate, compared in RULES:
        old, new = estimate(before), estimate(after)
        if name == "correction_ratio" and not before.feedback and not after.feedback:
            old = new = None  # nobody has a word: that is not agreement
        both = compared(old, new) if old and new else None
        features = (worst(before), worst(after)) if name == "worst_drift_nats" and both else None
        measures.append(Measure(name, old, new, both, False, good, features))
    there = [place for place, measure in enumerate(measures) if measure.difference]
    for place, real in zip(there, holm([m.difference.chance for m in measures if m.difference]), strict=True):
        measures[place] = measures[place]._replace(real=real)
    return measures


def worst(counts: Counts) -> str:
    """The feature that has drifted most; one at least was observed."""
    return max(counts.features, key=lambda name: divergence(*counts.features[name]).value)
