"""How well a measured number is known, and whether two of them differ by more than chance explains.

Pure functions of counts. An estimate gives its interval at any confidence; two estimates give their
difference with its interval, and the probability of so large a difference by chance, which is one less the
confidence at which the interval just touches zero. So a verdict and the interval beside it cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import Floats, Reference

CONFIDENCE = 0.95
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """From where to where; the ends may be infinite."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A measured number.

    Attributes
    ----------
    value
        The best guess.
    within
        Its interval, given a two-sided confidence as a normal quantile (1.96 is 95 %).
    """

    value: float
    within: Callable[[float], Interval]

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """The interval at a confidence from 0 to 1."""
        return self.within(quantile(confidence))


class Difference(NamedTuple):
    """What came after less what was before.

    Attributes
    ----------
    value, interval
        The difference, and where it lies at 95 % confidence.
    chance
        Probability of a difference at least as large by chance alone.
    """

    value: float
    interval: Interval
    chance: float


def quantile(confidence: float) -> float:
    """Standard deviations of a normal distribution that hold so much of it, both sides together.

    >>> round(quantile(0.95), 4)
    1.96
    """
    return _NORMAL.inv_cdf((1 + confidence) / 2)


def wilson(part: float, whole: float, z: float) -> Interval:
    """Score interval of a share (Wilson 1927).

    Parameters
    ----------
    part, whole
        How many of how many; the whole is above 0.
    z
        Normal quantile of the confidence, see `quantile`.

    Examples
    --------
    >>> from scipy.stats import binomtest
    >>> ours, theirs = wilson(7, 250, quantile(0.95)), binomtest(7, 250).proportion_ci(0.95, method="wilson")
    >>> bool(abs(ours.low - theirs.low) < 1e-12 and abs(ours.high - theirs.high) < 1e-12)
    True
    """
    share = part / whole
    centre = share + z * z / (2 * whole)
    reach = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    scale = 1 + z * z / whole
    low = 0.0 if part <= 0 else max(0.0, (centre - reach) / scale)
    return Interval(low, 1.0 if part >= whole else min(1.0, (centre + reach) / scale))


def share(part: float, whole: float) -> Estimate:
    """A share, such as errors among requests; the whole is above 0."""
    return Estimate(part / whole, lambda z: wilson(part, whole, z))


def difference(before: Estimate, after: Estimate) -> Difference:
    """The difference of two independent estimates by Newcombe's hybrid method.

    The two intervals' arms are added as errors are, by their squares (Newcombe 1998, method 10, for shares;
    Zou and Donner 2008 for any estimate).

    Examples
    --------
    Newcombe's own table, 56/70 against 48/80: 0.0524 to 0.3339.

    >>> [round(end, 4) for end in difference(share(48, 80), share(56, 70)).interval]
    [0.0524, 0.3339]
    """

    def within(z: float) -> Interval:
        old, new, value = before.within(z), after.within(z), after.value - before.value
        return Interval(
            value - math.hypot(after.value - new.low, old.high - before.value),
            value + math.hypot(new.high - after.value, before.value - old.low),
        )

    return _difference(after.value - before.value, within)


def conservative_difference(before: Estimate, after: Estimate) -> Difference:
    """The difference of two estimates whose error is more than chance, such as the width of a bucket.

    The true difference lies anywhere between the far ends of the two intervals; so wide a statement is right
    more often than it claims.

    >>> [round(end, 4) for end in conservative_difference(share(48, 80), share(56, 70)).interval]
    [-0.0085, 0.3865]
    """

    def within(z: float) -> Interval:
        old, new = before.within(z), after.within(z)
        return Interval(new.low - old.high, new.high - old.low)

    return _difference(after.value - before.value, within)


def _difference(value: float, within: Callable[[float], Interval]) -> Difference:
    low, high = 0.0, 40.0  # the interval without zero, and the one with it
    if excludes_zero(within(high)):
        low = high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excludes_zero(within(middle)) else (low, middle)
    return Difference(value, within(quantile(CONFIDENCE)), math.erfc(low / math.sqrt(2)))


def excludes_zero(interval: Interval) -> bool:
    """Whether zero lies outside."""
    return interval.low > 0 or interval.high < 0


def bucket_quantile(bounds: Sequence[float], counts: Sequence[float], share_below: float) -> Estimate:
    """A quantile of what a histogram counted.

    The value is interpolated within its bucket as Prometheus does. The interval is the order statistics':
    an edge is an end of it where the share below that edge is surely smaller (or larger) than the quantile's, by
    its own score interval. Between edges nothing is known, so the interval is never narrower than a bucket, and
    it has no upper end where the last bucket may hold the quantile.

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
    whole = counts[-1]
    edges = [(0.0, 0.0), *zip(bounds, counts, strict=True)]

    def within(z: float) -> Interval:
        below = [edge for edge, count in edges if wilson(count, whole, z).high < share_below]
        above = [edge for edge, count in edges if wilson(count, whole, z).low > share_below]
        return Interval(max(below, default=0.0), min(above, default=math.inf))

    rank = share_below * whole
    place = next(place for place, count in enumerate(counts) if count >= rank)
    if math.isinf(bounds[place]):
        return Estimate(bounds[place - 1] if place else math.inf, within)
    (low, before), (high, until) = edges[place], edges[place + 1]
    return Estimate(low + (high - low) * (rank - before) / (until - before), within)


def divergence(counts: Floats, probability: Floats) -> Estimate:
    """KL divergence of pooled observations from training, in nats, as `exporter.stats.divergence` defines it.

    Sampling alone adds ``(K - 1)/2n`` to the score, times the prior's shrinkage. The value is the score without
    it, and the interval lies around that, by the delta method with the second-order term.

    Parameters
    ----------
    counts
        Observations in each of ``K`` bins, shape ``(K,)``, at least one in all.
    probability
        Smoothed training probabilities, shape ``(K,)``; what training's own sampling added is not in the interval.

    Examples
    --------
    The true divergence of (0.7, 0.2, 0.1) from (0.5, 0.3, 0.2) is 0.0851 nats.

    >>> drift = divergence(np.array([7000.0, 2000.0, 1000.0]), np.array([0.5, 0.3, 0.2]))
    >>> round(drift.value, 4), [round(end, 4) for end in drift.interval()]
    (0.085, [0.0773, 0.0927])
    """
    bins = len(counts)
    n, prior = float(counts.sum()), bins / 2
    reference = Reference(
        starts=np.zeros(1, np.intp),
        owner=np.zeros(bins, np.intp),
        rows=np.zeros(1),
        prior=np.array([prior]),
        probability=probability,
        quantile=np.zeros(1),
    )
    score = float(reference.kl_divergence(counts)[0])
    live = reference.smoothed(counts)
    surprise = np.log(live / probability)
    degrees = max(int((live * n >= 1).sum()) - 1, 1)
    shrinkage = (n / (n + prior)) ** 2
    spread = max(float((live * surprise**2).sum()) - score**2, 0.0)
    error = math.sqrt(shrinkage * (spread / n + degrees / (2 * n * n)))
    centre = max(score - shrinkage * degrees / (2 * n), 0.0)
    return Estimate(centre, lambda z: Interval(max(0.0, centre - z * error), centre + z * error))


def largest(estimates: Sequence[Estimate]) -> Estimate:
    """The largest of several estimates, each held to a confidence that makes all of them right together.

    Whoever picks the worst of fifty features has picked what chance raised; so each interval is Bonferroni's.

    >>> largest([share(1, 10), share(5, 10)]).value
    0.5
    """

    def within(z: float) -> Interval:
        chance = max(math.erfc(z / math.sqrt(2)) / len(estimates), 1e-300)
        each = [one.within(-_NORMAL.inv_cdf(chance / 2)) for one in estimates]
        return Interval(max(one.low for one in each), max(one.high for one in each))

    return Estimate(max(one.value for one in estimates), within)


def holm(chances: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which of several differences are real, so that all verdicts together err in 5 % of comparisons at most.

    The step-down method of Holm (1979): the smallest probability against ``level/m``, the next against
    ``level/(m - 1)``, until the first that fails.

    >>> holm([0.04, 0.001, 0.012])
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03])
    [False, True, False]
    """
    real = [False] * len(chances)
    for passed, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[place] > level / (len(chances) - passed):
            break
        real[place] = True
    return real
