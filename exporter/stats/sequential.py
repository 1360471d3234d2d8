"""Confidence intervals and differences that hold at every look: whenever and however often one looks.

The intervals of `exporter.stats.intervals` contain the truth in 95 of 100 cases at one moment that was chosen
beforehand. These contain it at all moments together in 95 of 100 cases, so one may stop as soon as they exclude zero
(confidence sequences; Howard, Ramdas, McAuliffe and Sekhon 2021). They are functions of cumulative counts alone.

An interval consists of the values that a bet has not refuted. Against the claim that a share is at most ``x``, stake
``κ`` on each observation ``y`` (0 or 1): the capital is multiplied by ``1 + κ(y − x)``, whose mean is at most 1 if the
claim is true. The probability that the capital ever reaches ``1/α`` is then at most ``α`` (Ville 1939; Waudby-Smith
and Ramdas 2024). Against the claim that ``after − before`` is at most ``d``, where a share ``ρ`` of the observations
are ``after``'s, an observation of ``after`` multiplies by ``1 + κ(y − b)/ρ`` and one of ``before`` by
``1 − κ(y − a)/(1 − ρ)``, with ``b − a = d`` (compare Turner and Grünwald 2023). The capital is spread over several
stakes and several ``a``, as the right ones are not known.

At one look this holds for any counts, however small. At all looks together it holds for any counts of a single share,
and for a difference where requests are split at random with a share ``ρ`` that is known; here it is estimated from the
counts, which `tests/stats/test_sequential.py` tests with constant and with changing shares. `mean_difference` and
`worst_divergence` also estimate a variance, which needs many observations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import Floats
from exporter.stats.intervals import Difference, Estimate, Interval

ODDS = np.exp(2.0 ** np.arange(-5, 3))
"""Ratios of odds that stakes are made for, from 1.03 to 55; shape ``(J,)``."""
BASES = np.array([[0.0], [0.15], [0.5], [0.85], [1.0]])
"""Shares that stakes are made for, shape ``(I, 1)``; 0 stands for rare events, 1 for events that rarely do not come."""
RARE = np.array([[0.80], [0.10], [0.04], [0.03], [0.03]])
"""How capital is spread over `BASES` for shares that are small, such as of errors."""
COMMON = np.array([[0.05], [0.10], [0.25], [0.40], [0.20]])
"""How it is spread for shares that are large, such as of right predictions."""
LARGE = 100
"""Observations of each side from which an estimated variance is relied on."""
_SMALLEST = 1e-12
_MOST_STAKE = 0.999
"""Of the stake that could lose everything."""
_RELATIVE_SPREAD = 0.1
"""Difference of means, in standard deviations, that is found with the fewest observations."""
_BISECTIONS = 50


class Part(NamedTuple):
    """A part of a total: whole numbers, the total above 0."""

    part: int
    total: int


def share(part: int, total: int) -> Estimate:
    """Estimate a share, with an interval that holds at every look, for any counts.

    Examples
    --------
    >>> share(0, 10).value, [round(end, 4) for end in share(7, 250).interval()]
    (0.0, [0.0056, 0.0764])
    """
    value = part / total

    def within(level: float) -> Interval:
        limit = math.log(2 / level)
        low = _last(lambda x: _share_evidence(part, total, x, 1) >= limit, 0.0, value) if part else 0.0
        high = _last(lambda x: _share_evidence(part, total, x, -1) >= limit, 1.0, value) if part < total else 1.0
        return Interval(low, high)

    return Estimate(value, within)


def _share_evidence(part: int, total: int, claimed: float, sign: int) -> float:
    """Return the log capital against the claim that a share is at most ``claimed``; at least, for a ``sign`` of -1."""
    claimed = min(max(claimed, _SMALLEST), 1 - _SMALLEST)
    odds = ODDS**sign
    scale = 1 - claimed + claimed * odds
    logs = part * np.log(odds / scale) - (total - part) * np.log(scale)
    return float(np.logaddexp.reduce(logs)) - math.log(len(odds))


def share_difference(before: Part, after: Part, spread: Floats) -> Difference:
    """Return the difference of two shares, with an interval that holds at every look.

    Parameters
    ----------
    before, after
        Counts of two versions between which the observations were split at random.
    spread
        `RARE` or `COMMON`: what is expected of the shares. It decides how narrow the interval is, not whether it holds.

    Examples
    --------
    >>> change = share_difference(Part(10, 1000), Part(40, 1000), RARE)
    >>> round(change.value, 4), [round(end, 4) for end in change.interval], round(change.p_value, 4)
    (0.03, [0.0073, 0.0562], 0.0016)
    """
    value = after.part / after.total - before.part / before.total
    weights = np.log(spread / len(ODDS))

    def evidence(claimed: float, sign: int) -> float:
        return _difference_evidence(before, after, claimed, sign, weights)

    def within(level: float) -> Interval:
        limit = math.log(2 / level)
        return Interval(
            _last(lambda claimed: evidence(claimed, 1) >= limit, -1.0, value),
            _last(lambda claimed: evidence(claimed, -1) >= limit, 1.0, value),
        )

    def chance() -> float:
        return 2 * math.exp(-max(evidence(0.0, 1), evidence(0.0, -1), 0.0))

    return Difference(value, within, chance)


def _difference_evidence(before: Part, after: Part, claimed: float, sign: int, weights: Floats) -> float:
    """Return the log capital against the claim that a difference is at most ``claimed``; at least, for -1."""
    split = after.total / (before.total + after.total)
    old = BASES * (1 - abs(claimed)) + max(-claimed, 0.0)
    new = old + claimed
    odds = ODDS ** np.where(BASES <= 0.5, sign, -sign)  # of what is rare, the events or what is no event
    stake = sign * split * (1 - split) * abs(odds - 1) / (1 - split + split * odds)
    most = np.minimum((1 - split) / np.maximum(1 - old, _SMALLEST), split / np.maximum(new, _SMALLEST))
    least = np.minimum(split / np.maximum(1 - new, _SMALLEST), (1 - split) / np.maximum(old, _SMALLEST))
    stake = np.clip(stake, -_MOST_STAKE * least, _MOST_STAKE * most)
    old_stake, new_stake = stake / (1 - split), stake / split
    logs = (
        before.part * np.log1p(-old_stake * (1 - old))
        + (before.total - before.part) * np.log1p(old_stake * old)
        + after.part * np.log1p(new_stake * (1 - new))
        + (after.total - after.part) * np.log1p(-new_stake * new)
    )
    return float(np.logaddexp.reduce((logs + weights).ravel()))


def _last(refuted: Callable[[float], bool], end: float, value: float) -> float:
    """Return the refuted number that is nearest to the estimate, given the end of the range; the end without any."""
    if not refuted(end):
        return end
    low, high = end, value
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def bucket_quantile(bounds: Sequence[float], counts: Sequence[float], share_below: float, value: float) -> Estimate:
    """Return a quantile of a histogram, with an interval between bounds of buckets that holds at every look.

    Parameters
    ----------
    bounds, counts, share_below
        As of `exporter.stats.intervals.bucket_quantile`.
    value
        The estimate.

    Examples
    --------
    >>> bucket_quantile([0.1, 0.5, 1.0, math.inf], [900, 980, 1000, 1000], 0.95, 0.35).interval()
    Interval(low=0.1, high=0.5)
    """
    total = round(counts[-1])

    def within(level: float) -> Interval:
        limit = math.log(2 / level)
        low, high = 0.0, math.inf
        for bound, count in zip(bounds, counts, strict=True):
            part = min(round(count), total)
            if part < share_below * total and _share_evidence(part, total, share_below, -1) >= limit:
                low = bound
            elif part > share_below * total and _share_evidence(part, total, share_below, 1) >= limit:
                high = min(high, bound)
        return Interval(low, high)

    return Estimate(value, within)


def far_difference(before: Estimate, after: Estimate) -> Difference:
    """Return the difference of two estimates as the far ends of their intervals, each at half the level.

    >>> [round(end, 4) for end in far_difference(share(48, 80), share(56, 70)).interval]
    [-0.1732, 0.5297]
    """

    def within(level: float) -> Interval:
        old, new = before.within(level / 2), after.within(level / 2)
        return Interval(new.low - old.high, new.high - old.low)

    return Difference(after.value - before.value, within)


class Sums(NamedTuple):
    """Sums of values and of their squares, and how many values there are, above 0."""

    total: float
    squares: float
    values: float

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return self.total / self.values

    @property
    def variance(self) -> float:
        """The variance of the values."""
        return max(self.squares / self.values - self.mean**2, 0.0)


def mean(sums: Sums) -> Estimate:
    """Estimate a mean, with an interval that holds at every look from `LARGE` values on.

    An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, with a normal mixture).

    >>> [round(end, 3) for end in mean(Sums(200.0, 500.0, 100.0)).interval()]
    [1.634, 2.366]
    """
    value, variance = sums.mean, sums.variance

    def within(level: float) -> Interval:
        half = _half_width(variance / sums.values, variance, level)
        return Interval(value - half, value + half)

    return Estimate(value, within)


def mean_difference(before: Sums, after: Sums) -> Difference:
    """Return the difference of two means, with an interval that holds at every look from `LARGE` values on.

    >>> change = mean_difference(Sums(200.0, 500.0, 100.0), Sums(150.0, 400.0, 100.0))
    >>> change.value, [round(end, 3) for end in change.interval]
    (-0.5, [-1.226, 0.226])
    """
    value = after.mean - before.mean
    error = before.variance / before.values + after.variance / after.values

    def within(level: float) -> Interval:
        half = _half_width(error, (before.variance + after.variance) / 2, level)
        return Interval(value - half, value + half)

    return Difference(value, within)


def _half_width(error: float, variance: float, level: float) -> float:
    """Return half the width of the interval of a normal mixture, given the variances of the estimate and of a value."""
    if error <= 0:
        return 0.0
    ratio = error / (_RELATIVE_SPREAD**2 * variance)
    return math.sqrt(error * (1 + ratio) * (2 * math.log(1 / level) + math.log1p(1 / ratio)))


def worst_divergence(counts: Sequence[Floats], probability: Sequence[Floats], value: float) -> Estimate:
    """Return the largest KL divergence of several features from training, with an interval that holds at every look.

    The divergence of the counts is that of the truth, plus the error of a mean, plus the divergence of the counts from
    the truth. The mean has an asymptotic interval; the last term is bounded for any counts by a Dirichlet mixture.

    Parameters
    ----------
    counts, probability
        Of each feature, observations by bin and training probabilities; shapes ``(K,)``.
    value
        The estimate.

    Examples
    --------
    >>> counts, training = np.array([7000.0, 2000.0, 1000.0]), np.array([0.5, 0.3, 0.2])
    >>> [round(end, 4) for end in worst_divergence([counts], [training], 0.0851).interval()]
    [0.0702, 0.0987]
    """
    parts = [_divergence_parts(*feature) for feature in zip(counts, probability, strict=True)]

    def within(level: float) -> Interval:
        each = level / len(parts) / 2
        ends = []
        for score, variance, total, regret in parts:
            half = _half_width(variance / total, variance, each)
            ends.append((score - half - (math.log(1 / each) + regret) / total, score + half))
        low, high = (max(end) for end in zip(*ends, strict=True))
        return Interval(max(min(low, value), 0.0), max(high, value))

    return Estimate(value, within)


def _divergence_parts(counts: Floats, probability: Floats) -> tuple[float, float, float, float]:
    """Return the score, the variance of its summands, the observations, and what a Dirichlet mixture loses in nats."""
    bins, total = len(counts), float(counts.sum())
    seen = counts > 0
    live = counts[seen] / total
    score = float((live * np.log(live / probability[seen])).sum())
    likelihood = float((counts[seen] * np.log(live)).sum())
    blend = (counts + 0.5) / (total + bins / 2)  # a bin without observations may still have some
    surprise = np.log(blend / probability)
    variance = max(float((blend * surprise**2).sum() - (blend * surprise).sum() ** 2), 0.0)
    mixture = math.lgamma(bins / 2) - math.lgamma(total + bins / 2) - bins * math.lgamma(0.5)
    mixture += sum(math.lgamma(count + 0.5) for count in counts.tolist())
    return score, variance, total, likelihood - mixture
