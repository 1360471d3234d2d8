"""Confidence intervals of measured numbers and of their differences.

Pure functions of counts. An estimate has an interval at any significance level; two estimates have a difference, with
its interval and its p-value, which is the level at which the interval just touches zero. So a p-value and the interval
beside it cannot disagree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import Floats

CONFIDENCE = 0.95
MIN_P_VALUE = 1e-15
"""Smaller p-values are reported as this one."""
_EXPONENT_TOLERANCE = 1e-9
_STANDARD = NormalDist()


class Interval(NamedTuple):
    """A confidence interval; the ends may be infinite."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A measured number.

    Attributes
    ----------
    value
        The best estimate.
    within
        Returns its interval at a significance level, which is one minus the confidence.
    """

    value: float
    within: Callable[[float], Interval]

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the interval at a confidence from 0 to 1."""
        return self.within(1 - confidence)


@dataclass(frozen=True)
class Difference:
    """One estimate minus another.

    Attributes
    ----------
    value
        The best estimate of the difference.
    within
        Returns its interval at a significance level.
    chance
        Returns the p-value; by default it is computed from the intervals.
    """

    value: float
    within: Callable[[float], Interval]
    chance: Callable[[], float] | None = None

    @functools.cached_property
    def interval(self) -> Interval:
        """The interval at a confidence of 95%."""
        return self.within(1 - CONFIDENCE)

    @functools.cached_property
    def p_value(self) -> float:
        """Probability of a difference at least as large by chance alone, at least `MIN_P_VALUE`."""
        if self.chance:
            return min(max(self.chance(), MIN_P_VALUE), 1.0)

        def zero_outside(exponent: float) -> bool:
            return excludes_zero(self.within(10**exponent))

        low, high = math.log10(MIN_P_VALUE), 0.0
        if zero_outside(low) or not zero_outside(high):
            return MIN_P_VALUE if zero_outside(low) else 1.0
        while high - low > _EXPONENT_TOLERANCE:
            middle = (low + high) / 2
            low, high = (low, middle) if zero_outside(middle) else (middle, high)
        return float(10**high)


def share(part: int, total: int) -> Estimate:
    """Estimate a share, such as of errors among requests, with the score interval of Wilson (1927).

    Parameters
    ----------
    part, total
        How many of how many; the total is above 0.

    Examples
    --------
    >>> share(0, 10).value, [round(end, 4) for end in share(7, 250).interval()]
    (0.0, [0.0136, 0.0567])
    """
    value = part / total

    def within(level: float) -> Interval:
        spread = _normal_quantile(level) ** 2 / total
        centre = (value + spread / 2) / (1 + spread)
        half = math.sqrt(spread * (value * (1 - value) + spread / 4)) / (1 + spread)
        return Interval(max(centre - half, 0.0) if part else 0.0, min(centre + half, 1.0) if part < total else 1.0)

    return Estimate(value, within)


def mean(total: float, total_of_squares: float, count: float) -> Estimate:
    """Estimate a mean from sums, with a normal interval.

    Parameters
    ----------
    total, total_of_squares
        Sums of the values and of their squares.
    count
        Number of values, above 0.

    Examples
    --------
    >>> estimate = mean(200.0, 500.0, 100.0)
    >>> estimate.value, [round(end, 3) for end in estimate.interval()]
    (2.0, [1.804, 2.196])
    """
    value = total / count
    error = math.sqrt(max(total_of_squares / count - value**2, 0.0) / count)
    return Estimate(value, lambda level: normal_interval(value, error, error, level))


def from_band(value: float, lower: float, upper: float) -> Estimate:
    """Return an estimate that is known by its 95% band; at other levels the band is scaled as a normal one.

    >>> [round(end, 3) for end in from_band(0.9, 0.85, 0.92).interval(0.99)]
    [0.834, 0.926]
    """
    quantile = _normal_quantile(1 - CONFIDENCE)
    below, above = (value - lower) / quantile, (upper - value) / quantile
    return Estimate(value, lambda level: normal_interval(value, below, above, level))


def normal_interval(value: float, below: float, above: float, level: float) -> Interval:
    """Return the normal interval of a value, given its standard error in either direction."""
    quantile = _normal_quantile(level)
    return Interval(value - quantile * below, value + quantile * above)


def difference(before: Estimate, after: Estimate) -> Difference:
    """Return the difference of two independent estimates by Newcombe's hybrid method.

    The distances from the values to the ends of their intervals are added by their squares, as errors are (Newcombe
    1998, method 10, for shares; Zou and Donner 2008 for any estimate).

    Examples
    --------
    Newcombe's own table, 56/70 against 48/80: 0.0524 to 0.3339.

    >>> [round(end, 4) for end in difference(share(48, 80), share(56, 70)).interval]
    [0.0524, 0.3339]
    """

    def within(level: float) -> Interval:
        old, new, value = before.within(level), after.within(level), after.value - before.value
        return Interval(
            value - math.hypot(after.value - new.low, old.high - before.value),
            value + math.hypot(new.high - after.value, before.value - old.low),
        )

    return Difference(after.value - before.value, within)


def conservative_difference(before: Estimate, after: Estimate) -> Difference:
    """Return the difference of two estimates whose error is not only random, such as the width of a bucket.

    The true difference may lie anywhere between the far ends of the two intervals, so that this interval holds it
    more often than its confidence says.

    >>> [round(end, 4) for end in conservative_difference(share(48, 80), share(56, 70)).interval]
    [-0.0085, 0.3865]
    """

    def within(level: float) -> Interval:
        old, new = before.within(level), after.within(level)
        return Interval(new.low - old.high, new.high - old.low)

    return Difference(after.value - before.value, within)


def excludes_zero(interval: Interval) -> bool:
    """Return whether zero lies outside an interval."""
    return interval.low > 0 or interval.high < 0


def bucket_quantile(bounds: Sequence[float], counts: Sequence[float], share_below: float) -> Estimate:
    """Estimate a quantile from a histogram's buckets.

    The value is interpolated within its bucket as Prometheus does. The interval ends at the nearest bounds for which
    a score test rejects that the share of values below them is ``share_below``. Between bounds nothing is known: the
    interval is never narrower than a bucket, and has no upper end where the last bucket may hold the quantile.

    Parameters
    ----------
    bounds
        Upper bounds of the buckets, increasing, the last one infinite; shape ``(B,)``.
    counts
        Values at or below each bound, shape ``(B,)``; the last is above 0.
    share_below
        Such as 0.95.

    Examples
    --------
    >>> p95 = bucket_quantile([0.1, 0.5, 1.0, math.inf], [900, 980, 1000, 1000], 0.95)
    >>> round(p95.value, 4), p95.interval()
    (0.35, Interval(low=0.1, high=0.5))

    With ten values, the largest may be anywhere above:

    >>> bucket_quantile([0.1, 0.5, 1.0, math.inf], [9, 10, 10, 10], 0.95).interval()
    Interval(low=0.0, high=inf)
    """
    total = counts[-1]
    edges = [(0.0, 0.0), *zip(bounds, counts, strict=True)]

    def within(level: float) -> Interval:
        margin = _normal_quantile(level) * math.sqrt(share_below * (1 - share_below) / total)
        below = [edge for edge, count in edges if count / total < share_below - margin]
        above = [edge for edge, count in edges if count / total > share_below + margin]
        return Interval(max(below, default=0.0), min(above, default=math.inf))

    rank = share_below * total
    index = next(index for index, count in enumerate(counts) if count >= rank)
    if math.isinf(bounds[index]):
        return Estimate(bounds[index - 1] if index else math.inf, within)
    (low, before), (high, until) = edges[index], edges[index + 1]
    return Estimate(low + (high - low) * (rank - before) / (until - before), within)


def divergence(counts: Floats, probability: Floats) -> Estimate:
    """Estimate the KL divergence of observations from training, in nats, as `exporter.stats.divergence` defines it.

    Sampling alone adds ``(K - 1)/2n`` to the score, times the prior's shrinkage. The value is the score without that
    bias, with an interval by the delta method with the second-order term.

    Parameters
    ----------
    counts
        Observations in each of ``K`` bins, shape ``(K,)``, at least one in all.
    probability
        Smoothed training probabilities, shape ``(K,)``; the interval does not include their own sampling error.

    Examples
    --------
    The true divergence of (0.7, 0.2, 0.1) from (0.5, 0.3, 0.2) is 0.0851 nats.

    >>> drift = divergence(np.array([7000.0, 2000.0, 1000.0]), np.array([0.5, 0.3, 0.2]))
    >>> round(drift.value, 4), [round(end, 4) for end in drift.interval()]
    (0.085, [0.0773, 0.0927])
    """
    bins = len(counts)
    n, prior = float(counts.sum()), bins / 2
    live = (counts + prior * probability) / (n + prior)
    score = max(float((live * np.log(live / probability)).sum()), 0.0)
    surprise = np.log(live / probability)
    degrees = max(int((live * n >= 1).sum()) - 1, 1)
    shrinkage = (n / (n + prior)) ** 2
    spread = max(float((live * surprise**2).sum()) - score**2, 0.0)
    error = math.sqrt(shrinkage * (spread / n + degrees / (2 * n * n)))
    centre = max(score - shrinkage * degrees / (2 * n), 0.0)

    def within(level: float) -> Interval:
        margin = _normal_quantile(level) * error
        return Interval(max(0.0, centre - margin), centre + margin)

    return Estimate(centre, within)


def largest(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate the largest of several numbers.

    The worst of many features is also the one that chance raised most, so its interval is one that all of them meet
    together (Bonferroni).

    >>> largest([share(1, 10), share(5, 10)]).value
    0.5
    """

    def within(level: float) -> Interval:
        intervals = [estimate.within(level / len(estimates)) for estimate in estimates]
        return Interval(max(interval.low for interval in intervals), max(interval.high for interval in intervals))

    return Estimate(max(estimate.value for estimate in estimates), within)


@functools.lru_cache(maxsize=1024)  # for many features at the same level
def _normal_quantile(level: float) -> float:
    """Return how many standard deviations hold all but ``level`` of a normal distribution, on both sides together."""
    return -_STANDARD.inv_cdf(level / 2)
