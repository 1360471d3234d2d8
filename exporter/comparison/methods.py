"""Methods that estimate and subtract measures: for one look at a chosen moment, or for any number of looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from exporter.comparison.counts import Feature
from exporter.stats import intervals, sequential
from exporter.stats.divergence import Floats
from exporter.stats.intervals import CONFIDENCE, Difference, Estimate
from exporter.stats.multiple_tests import holm
from exporter.stats.sequential import Part, Sums

MEASURES = 6
"""Measures that a comparison may have; those without data count, too, as they may have some at the next look."""

EACH_LEVEL = (1 - CONFIDENCE) / MEASURES
"""Probability that a measure ever gets a wrong verdict, at most, if one may look at any time."""


class Method(NamedTuple):
    """The functions that estimate, subtract and test each kind of number.

    Attributes
    ----------
    share, share_difference
        Of parts of totals; the difference also takes what is expected of the shares, such as `sequential.RARE`.
    quantile, quantile_difference
        Of a histogram's bounds and cumulative counts.
    worst_divergence, divergence_difference
        Of the most drifted of several features.
    mean, mean_difference, fewest
        Of sums of values, and the values that each side needs.
    significant
        Takes p-values; returns which of them are significant together.
    estimates
        Whether quality that is estimated without labels can be compared.
    """

    share: Callable[[int, int], Estimate]
    share_difference: Callable[[Part, Part, Floats], Difference]
    quantile: Callable[[Sequence[float], Sequence[float], float], Estimate]
    quantile_difference: Callable[[Estimate, Estimate], Difference]
    worst_divergence: Callable[[Sequence[Feature]], Estimate]
    divergence_difference: Callable[[Estimate, Estimate], Difference]
    mean: Callable[[Sums], Estimate]
    mean_difference: Callable[[Sums, Sums], Difference]
    fewest: int
    significant: Callable[[Sequence[float]], list[bool]]
    estimates: bool


def _share_difference(before: Part, after: Part, _: Floats) -> Difference:
    return intervals.difference(intervals.share(*before), intervals.share(*after))


def _worst_divergence(features: Sequence[Feature]) -> Estimate:
    return intervals.largest([intervals.divergence(*feature) for feature in features])


def _mean(sums: Sums) -> Estimate:
    return intervals.mean(*sums)


def _mean_difference(before: Sums, after: Sums) -> Difference:
    return intervals.difference(_mean(before), _mean(after))


def _quantile(bounds: Sequence[float], counts: Sequence[float], share_below: float) -> Estimate:
    value = intervals.bucket_quantile(bounds, counts, share_below).value
    return sequential.bucket_quantile(bounds, counts, share_below, value)


def _worst_divergence_at_any_time(features: Sequence[Feature]) -> Estimate:
    counts, probability = zip(*features, strict=True)
    return sequential.worst_divergence(counts, probability, _worst_divergence(features).value)


def _significant_at_any_time(p_values: Sequence[float]) -> list[bool]:
    """Compare each p-value with its share of the level: which measures have data changes from look to look."""
    return [p_value <= EACH_LEVEL for p_value in p_values]


FIXED = Method(
    share=intervals.share,
    share_difference=_share_difference,
    quantile=intervals.bucket_quantile,
    quantile_difference=intervals.conservative_difference,
    worst_divergence=_worst_divergence,
    divergence_difference=intervals.difference,
    mean=_mean,
    mean_difference=_mean_difference,
    fewest=1,
    significant=holm,
    estimates=True,
)
"""For one look at a moment that was chosen beforehand."""
SEQUENTIAL = Method(
    share=sequential.share,
    share_difference=sequential.share_difference,
    quantile=_quantile,
    quantile_difference=sequential.far_difference,
    worst_divergence=_worst_divergence_at_any_time,
    divergence_difference=sequential.far_difference,
    mean=sequential.mean,
    mean_difference=sequential.mean_difference,
    fewest=sequential.LARGE,
    significant=_significant_at_any_time,
    estimates=False,
)
"""For any number of looks at any moments."""
