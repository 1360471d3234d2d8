"""Noise of values that depend on the values before them.

Successive values of real traffic resemble each other: users come in sessions, sensors drift. A window of them differs
more from training than one of independent values. How much more is measured in training: blocks of consecutive rows are
scored like windows, each against all other rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exporter.stats.change_evidence import rank_scores
from exporter.stats.divergence import NOISE_CONFIDENCE, Floats, Ints, Reference

_NULL_BLOCKS = 100  # blocks of independent values to which the blocks of training are compared
_NULL_VALUES = 10  # values for each bin, from which on the formula of the mean holds
_MIN_BLOCKS = 100  # with fewer, the 99% quantile is beyond the largest score
_SIGNIFICANCE = 3.0  # standard errors


@dataclass(frozen=True)
class BlockNoise:
    """The noise of one feature, by the scores of blocks of consecutive training rows.

    Attributes
    ----------
    quantiles
        The 99% quantile of the scores in nats, for each of ``S`` block sizes.
    effective
        How many independent values differ from training as much as a block does, for each size.
    dependent
        Whether the scores prove that successive values depend on each other.
    """

    quantiles: Floats
    effective: Floats
    dependent: bool


def block_sizes(rows: int) -> list[int]:
    """Return the block sizes for a training set: 20, 40, 80, and so on up to a tenth of the rows.

    >>> block_sizes(1000), block_sizes(100)
    ([20, 40, 80], [])
    """
    sizes = []
    size = 20
    while size * 10 <= rows:
        sizes.append(size)
        size *= 2
    return sizes


def leave_out_divergence(blocks: Floats, others: Floats) -> Floats:
    """Return KL(block ‖ other rows) in nats, smoothed like `Reference.kl_divergence`.

    The block is left out of the reference. Otherwise it would resemble the reference more than a live window does.

    Parameters
    ----------
    blocks, others
        Counts of each of ``M`` blocks, and of all other rows, shape ``(M, K)``.

    Returns
    -------
    ndarray
        Shape ``(M,)``.
    """
    prior = blocks.shape[1] / 2
    q = (others + 0.5) / (others.sum(axis=1, keepdims=True) + prior)
    p = (blocks + prior * q) / (blocks.sum(axis=1, keepdims=True) + prior)
    return np.asarray(np.maximum((p * np.log(p / q)).sum(axis=1), 0.0))


def measure_noise(scores: Sequence[Floats], sizes: Sequence[int], total: Floats) -> BlockNoise:
    """Return what the scores of blocks tell.

    The quantile of ``m`` blocks is taken at the rank ``0.99 (m + 1)``, which a new block exceeds in 1 of 100 cases
    (Weibull 1939). Blocks that overlap, or depend on each other, count for less than their number. From fewer than 100
    the quantile is the mean times the ratio of quantile and mean of the largest size that has 100.

    Parameters
    ----------
    scores
        `leave_out_divergence` of the blocks of each of ``S`` sizes.
    sizes
        Number of rows of a block.
    total
        Counts of all rows, shape ``(K,)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bins = np.repeat(rng.integers(4, size=2000), 5)  # each value comes five times
    >>> counts = np.stack([np.bincount(block, minlength=4) for block in bins.reshape(-1, 80)]).astype(float)
    >>> total = counts.sum(axis=0)
    >>> noise = measure_noise([leave_out_divergence(counts, total - counts)], [80], total)
    >>> noise.dependent, int(noise.effective[0].round())
    (True, 18)
    """
    rows, degrees = float(total.sum()), int((total > 0).sum()) - 1
    if degrees < 1 or not len(sizes):
        return BlockNoise(np.zeros(len(sizes)), np.array(sizes, dtype=np.float64), False)
    n = np.array(sizes, dtype=np.float64)
    mean, deviation = _independent_scores(n, total)
    return noise_of_scores(scores, mean, deviation, n, rows)


def noise_of_scores(
    scores: Sequence[Floats], expected: Floats, deviation: Floats | float, sizes: Floats, rows: float
) -> BlockNoise:
    """Return what the scores of blocks tell; see `measure_noise`.

    Parameters
    ----------
    scores
        Scores of the blocks of each of ``S`` sizes.
    expected
        Mean score of blocks of independent rows, shape ``(S,)``.
    deviation
        Standard deviation of their scores over the mean, of each size or of all.
    sizes
        Number of rows of a block, shape ``(S,)``.
    rows
        Number of all rows.
    """
    means = np.array([part.mean() for part in scores])
    inflation = means / expected
    blocks = np.minimum(rows / sizes, [len(part) for part in scores])
    errors = deviation * np.sqrt(1 / blocks + 1 / _NULL_BLOCKS)
    largest = max(float(inflation.max()), 1.0)
    quantiles = []
    tail = 1.0
    for size, part, mean in zip(sizes, scores, means, strict=True):
        different = min(rows / max(size / 2, largest), len(part))
        quantile = float(np.quantile(part, min(NOISE_CONFIDENCE * (different + 1) / different, 1.0)))
        if different >= _MIN_BLOCKS or size == sizes[0]:
            tail = max(quantile / max(mean, 1e-300), 1.0)
        quantiles.append(max(quantile, tail * mean) if different < _MIN_BLOCKS else quantile)
    dependent = bool(((inflation - 1) / errors).max() > _SIGNIFICANCE)
    return BlockNoise(np.array(quantiles), sizes / np.maximum(inflation, 1.0), dependent)


def _independent_scores(n: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Return the mean score of blocks of ``n`` independent values of the same distribution, and its relative deviation.

    The mean is about ``(n/(n+m))² (K′ − 1)/2 (1/n + 1/(N − n))``, and twice a score over its factors is about χ²
    distributed. How far that is off for rare values is simulated for small blocks: the more bins, the larger ones.
    """
    rows, prior = float(total.sum()), len(total) / 2
    degrees = int((total > 0).sum()) - 1

    def formula(size: Floats) -> Floats:
        return (size / (size + prior)) ** 2 * degrees / 2 * (1 / size + 1 / (rows - size))

    sizes = n[: int(n.searchsorted(_NULL_VALUES * len(total))) + 1]
    rng = np.random.default_rng(0)
    means, deviations = [], []
    for size in sizes:
        blocks = np.minimum(rng.multinomial(int(size), total / rows, _NULL_BLOCKS), total)
        scores = leave_out_divergence(blocks, total - blocks)
        means.append(scores.mean())
        deviations.append(max(scores.std() / scores.mean(), np.sqrt(2 / degrees)))
    logs = np.log(sizes)
    correction = np.interp(np.log(n), logs, np.array(means) / formula(sizes))
    return np.asarray(formula(n) * correction), np.interp(np.log(n), logs, deviations)


@dataclass(frozen=True)
class NoiseRatio:
    """How many times higher the noise floor is than that of independent values, by the number of values.

    Attributes
    ----------
    sizes
        Numbers of values for which the ratio is known, ascending, shape ``(S,)``.
    ratio
        The ratio of each of ``F`` features, at least 1, shape ``(F, S)``.
    """

    sizes: Floats
    ratio: Floats

    @classmethod
    def of_independent_values(cls, features: int) -> NoiseRatio:
        """Return the ratio 1 for each feature."""
        return cls(np.empty(0), np.ones((features, 0)))

    @classmethod
    def from_quantiles(cls, sizes: Floats, quantiles: Floats, reference: Reference) -> NoiseRatio:
        """Return the ratio of block quantiles, shape ``(F, S)``, NaN for independent values, to the noise floor."""
        floor = np.stack([reference.noise(np.full(len(reference.rows), size)) for size in sizes], axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(floor > 0, quantiles / floor, 1.0)
        return cls(sizes, np.fmax(ratio, 1.0))

    def at(self, observed: Floats) -> Floats:
        """Return the ratio for a number of values.

        It is interpolated between the sizes, linearly in the logarithms, and constant below and above them: far beyond
        the time over which values depend on each other, twice as many values are twice as precise.

        Parameters
        ----------
        observed
            Number of values of each feature, shape ``(..., F)``.

        Returns
        -------
        ndarray
            Shape ``(..., F)``.

        Examples
        --------
        >>> ratio = NoiseRatio(np.array([20.0, 80.0]), np.array([[1.0, 4.0]]))
        >>> ratio.at(np.array([[5.0], [40.0], [900.0]])).round(9).tolist()
        [[1.0], [2.0], [4.0]]
        """
        if not len(self.sizes):
            return np.ones_like(observed)
        knots, logs, slopes, features = self._segments
        with np.errstate(divide="ignore"):
            log_observed = np.clip(np.log(observed), knots[0], knots[-1])
        left = knots[1:].searchsorted(log_observed)
        return np.asarray(np.exp(logs[features, left] + (log_observed - knots[left]) * slopes[features, left]))

    @cached_property
    def _segments(self) -> tuple[Floats, Floats, Floats, Ints]:
        """The logarithms of sizes and ratios, the slope from each size to the next, and the indices of the features."""
        knots, logs = np.log(self.sizes), np.log(self.ratio)
        slopes = np.diff(logs, axis=1, append=logs[:, -1:]) / np.diff(knots, append=np.inf)
        return knots, logs, slopes, np.arange(len(logs))


_DISPERSION_SIGNIFICANCE = 4.0  # standard errors by which a dispersion must exceed 1, of hundreds that are measured
_LEAST_VARIANCE = 1e-9
_DOUBLINGS = 3
_TRAINING_BLOCKS = 10  # of the largest size, see `block_sizes`
_USUAL_GROWTH, _STEP_ERROR = 0.16, 0.21  # logarithms: growth in a doubling from 20 rows on, error in the last one
_MOST_GROWTH, _MOST_LOWERED = 0.4, 0.3  # logarithms: of a correlation that falls with √lag, and about an error


def measure_dispersion(
    blocks: Sequence[Floats],
    total: Floats,
    ordered: bool,
    *,
    proven: bool = True,
) -> Floats:
    """Return the dispersion of a feature by blocks of consecutive reference values, for each size, shape ``(S, 2)``.

    It is the ratio of the variance between blocks to that of independent values: the largest one of the statistics that
    `exporter.stats.change_evidence.ChangeEvidence` watches, at least 1; and, for `growth`, that of the statistic whose
    ratio is the largest in the first size.

    Parameters
    ----------
    blocks
        Counts of ``M`` blocks by bin for each size, shape ``(M, K)``; they need not be of exactly that size.
    total
        Counts of all values, shape ``(K,)``.
    ordered
        See `exporter.stats.change_evidence.ChangeEvidence`.
    proven
        Whether a ratio that independent values may well have counts as 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bins = np.repeat(rng.integers(4, size=2000), 5)  # each value comes five times
    >>> counts = np.stack([np.bincount(block, minlength=4) for block in bins.reshape(-1, 50)]).astype(float)
    >>> 4 < measure_dispersion([counts], counts.sum(axis=0), ordered=False)[0, 0].item() < 6
    True
    """
    rows, used = float(total.sum()), total > 0
    share = total[used] / max(rows, 1.0)
    absent = 1 - share
    scores = rank_scores(Reference.from_counts(total, [len(total)]))[: 2 * ordered, used]
    scores = scores - (scores @ share)[:, None]
    variance = np.concatenate((share * absent, scores**2 @ share))
    fourth = np.concatenate((share * absent * (absent**3 + share**3), scores**4 @ share))
    varying = variance > _LEAST_VARIANCE
    if not varying.any():
        return np.ones((len(blocks), 2))
    variance, fourth = variance[varying], fourth[varying]
    found, leading = [], -1
    for counts in blocks:
        values = counts.sum(axis=1, keepdims=True)
        size, expected = float(values.mean()), float((values * (1 - values / rows)).mean()) * variance
        deviation = counts[:, used] - values * share
        squares = np.concatenate(((deviation**2).mean(axis=0), ((deviation @ scores.T) ** 2).mean(axis=0)))[varying]
        ratio = squares / np.maximum(expected, _LEAST_VARIANCE)
        # The ratio of so many independent blocks is about χ²(degrees)/degrees; its cube root is nearly normal.
        degrees = min(rows / size, len(counts)) / (1 + (fourth / variance**2 - 3) / size / 2)
        chance = (1 - 2 / (9 * degrees) + _DISPERSION_SIGNIFICANCE * np.sqrt(2 / (9 * degrees))) ** 3
        leading = int(ratio.argmax()) if leading < 0 else leading
        found.append((np.where((ratio > chance) | (not proven), ratio, 1.0).max(initial=1.0), ratio[leading]))
    return np.array(found).reshape(-1, 2)


def growth(dispersion: Floats, blocks: int) -> float:
    """Return by how much the dispersion of a model's features grows when the size of blocks doubles: at least 1.

    That of one feature is not known exactly enough: if it is underestimated in one of fifty, this one is called drift.
    Features of a model come from the same users and times, so the mean of the dependent ones is taken, less its
    standard error. It is that of long memory, where the variance of a mean of n values falls slower than 1/n (the
    aggregated variance method; Beran 1994).

    Parameters
    ----------
    dispersion
        Those of `measure_dispersion` of each feature, shape ``(T, S, 2)``; each size is twice the one before.
    blocks
        Number of blocks of the largest size.
    """
    logs = np.log(np.maximum(dispersion[(dispersion[:, :, 0] > 1).any(axis=1), :, 1], _LEAST_VARIANCE))
    if not logs.size:
        return 1.0
    grown = float((logs[:, -1] - logs[:, 0]).mean()) - math.sqrt(2 / blocks / len(logs))
    return math.exp(max(grown, 0.0) / max(logs.shape[1] - 1, 1))


def extrapolated(dispersion: Floats) -> Floats:
    """Return the dispersion of features by those of blocks of training rows, shape ``(T,)``.

    Memory may be longer than blocks, so that of each size is extrapolated to `_DOUBLINGS` beyond the last, and the
    largest mean of two neighbouring sizes is taken. It goes on growing as the `growth` of the largest three sizes. A
    feature has a longer memory if its own growth over the largest five, of which each step tells half as much as the
    one before, exceeds that of the others by more than two standard errors; then its own goes on, plus its error: a
    long memory that is taken for a shorter one would be called drift again and again. The dispersions of the other
    features are drawn towards their mean, as far as chance explains how they differ (James and Stein 1961), and
    downwards by no more than `_MOST_LOWERED` (Efron and Morris 1972).
    """
    sizes, dependent = np.arange(dispersion.shape[1]), (dispersion[:, :, 0] > 1).any(axis=1)
    steps = np.diff(np.log(np.maximum(dispersion[:, -5:, 1], _LEAST_VARIANCE)), axis=1)
    weights = 2.0 ** np.arange(steps.shape[1])[::-1]  # as exactly as a step is known
    own, error = dependent * (steps @ weights) / max(weights.sum(), 1), _STEP_ERROR / math.sqrt(max(weights.sum(), 1))
    ended = dependent * (own - steps[:, -1:].sum(axis=1))
    usual = _USUAL_GROWTH / 2 ** abs(len(sizes) - 5)  # of fewer sizes, less is known
    is_longer = own > (usual + ended.sum() - ended) / max(dependent.sum(), 1) + 2 * error
    grown = np.where(is_longer, own + error, math.log(growth(dispersion[:, -3:], _TRAINING_BLOCKS)))
    logs = np.log(dispersion[:, :, 0]) + np.minimum(grown, _MOST_GROWTH)[:, None] * (sizes[::-1] + _DOUBLINGS)
    found = np.exp((logs + logs[:, np.maximum(sizes - 1, 0)]).max(axis=1, initial=0.0) / 2)
    logs = np.log(found[found > 1])
    if logs.size:
        known = max(1 - 2 / _TRAINING_BLOCKS / max(float(logs.var()), _LEAST_VARIANCE), 0.0)
        least = logs - _MOST_LOWERED * ~is_longer[found > 1]
        found[found > 1] = np.exp(np.maximum(least, logs.mean() + known * (logs - logs.mean())))
    return np.asarray(found)


def live_dispersion(counts: Floats, sizes: Sequence[int], ordered: bool, *, proven: bool = True) -> Floats:
    """Return `measure_dispersion` of successive counts, shape ``(W, K)``, in blocks of so many of them."""
    blocks = [np.add.reduceat(counts, np.arange(0, len(counts), size)) for size in sizes]
    return measure_dispersion(blocks, counts.sum(axis=0), ordered, proven=proven)


SIZES: Floats = np.array([20.0 * 2**doubling for doubling in range(10)])
"""Numbers of values for which the dependence is given."""
MIN_SUB_WINDOWS = 20
_LEAST_GROUPS = 14  # of each size: both ends of a fault are then in less than a third of the differences
_LIVE_SIGNIFICANCE = 2.5  # standard errors
_Z99 = 2.326348


@dataclass(frozen=True)
class LiveDependence:
    """How much one feature's live values depend on each other.

    Attributes
    ----------
    ratio
        Noise floor relative to that of independent values, at least 1, for each of `SIZES`.
    inflation
        How many values tell as much as one independent value, at least 1, for each of `SIZES`.
    dependent
        Whether they prove to depend on each other; otherwise the others are 1.
    """

    ratio: Floats
    inflation: Floats
    dependent: bool


def measure_dependence(counts: Floats, probability: Floats) -> LiveDependence | None:
    """Return how much values depend on each other; None for too few sub-windows, or where nothing varies.

    The difference of two groups, with each bin scaled to the variance of independent values, has the mean square of
    the degrees of freedom if values are independent. A few directions in the space of the bins have most of the
    dependence, so the squares have fewer effective degrees of freedom. These follow from the first two moments of the
    differences (Satterthwaite 1946), with squares above the median limited to it (Raymaekers and Rousseeuw 2019). The
    mean square follows from the median and the effective degrees, the 99% quantile of a new difference from both and
    from how exactly the mean is known. Groups that are shorter than the dependence resemble their neighbours; so a size
    has at least the ratio of larger ones. The dependence is proven only if it is without the largest differences, as
    many as have an end of one fault.

    Parameters
    ----------
    counts
        Number of values in each bin of successive sub-windows, shape ``(W, K)``; the last is the latest.
    probability
        Smoothed training probability of each bin, shape ``(K,)``.

    Examples
    --------
    >>> bins = np.repeat(np.random.default_rng(0).integers(4, size=480), 10)  # each value comes ten times
    >>> counts = np.stack([np.bincount(part, minlength=4) for part in bins.reshape(120, 40)]).astype(float)
    >>> dependence = measure_dependence(counts, np.full(4, 0.25))
    >>> dependence.dependent, float(dependence.inflation[1].round(1))
    (True, 12.5)
    """
    counts = counts[counts.sum(axis=1) > 0]
    total = counts.sum(axis=0)
    prior = len(total) / 2
    smoothed = (total + prior * probability) / (total.sum() + prior)
    share = total / max(total.sum(), 1.0)
    degrees = float((share * (1 - share) / smoothed).sum())
    if len(counts) < MIN_SUB_WINDOWS or degrees < 0.5:
        return None
    levels = []
    group = 1
    while len(counts) >= _LEAST_GROUPS * group:
        levels.append(_compare_neighbours(counts, group, share, smoothed))
        group *= 2
    means, quantiles, significance = np.array(levels).T
    if significance.max() < _LIVE_SIGNIFICANCE:
        return LiveDependence(np.ones(len(SIZES)), np.ones(len(SIZES)), dependent=False)
    sizes = np.log(counts.sum() / len(counts) * 2 ** np.arange(len(levels)))
    inflation, ratio = (
        np.interp(np.log(SIZES), sizes, np.maximum.accumulate(np.maximum(values, 1.0)[::-1])[::-1])
        for values in (means / degrees, quantiles / _chi2_quantile(degrees, _Z99))
    )
    return LiveDependence(ratio, np.minimum(inflation, SIZES), dependent=True)


def _compare_neighbours(counts: Floats, group: int, share: Floats, smoothed: Floats) -> tuple[float, float, float]:
    """Return the mean square of the differences of neighbouring groups, the 99% quantile, and the significance."""
    degrees = float((share * (1 - share) / smoothed).sum())
    differences, observed = _differences(counts, group, smoothed)
    squares = (differences**2).sum(axis=1)
    ordered = np.sort(squares)
    median = float(ordered[len(squares) // 2])
    effective_degrees = max(min(_effective_degrees(differences, squares, median, 2 * group), degrees), 1.0)
    mean = median / _chi2_quantile(effective_degrees, 0.0) * effective_degrees
    independent = 6 * group * len(counts) / (4 * group**2 + 5)  # differences with the same information (Howe)
    # The error of a mean that follows from the median is √(π/2)/(1 − 2/(9ν)) times as large as that of the mean itself.
    known = effective_degrees * independent * (1 - 2 / (9 * effective_degrees)) ** 2 / (math.pi / 2)
    excess = max(float((share / smoothed**2).sum()) - degrees**2, 0.0) / observed  # of rare values
    error = math.sqrt((2 * degrees + excess) / independent)
    ends = 2 * (2 * group - 1)  # differences that have an end of a fault
    least = float(ordered[:-ends].mean())
    return mean, mean * _f_quantile(effective_degrees, known), (least - degrees) / error


def _differences(counts: Floats, group: int, smoothed: Floats) -> tuple[Floats, float]:
    """Return the differences of all neighbouring groups, which overlap, and the harmonic mean of a group's values."""
    totals = np.pad(counts.cumsum(axis=0), ((1, 0), (0, 0)))
    groups = totals[group:] - totals[:-group]
    inverse = 1 / groups.sum(axis=1)
    shares = groups * inverse[:, None]
    scale = np.sqrt(np.outer(inverse[:-group] + inverse[group:], smoothed))
    return (shares[:-group] - shares[group:]) / scale, 1 / float(inverse.mean())


def _effective_degrees(differences: Floats, squares: Floats, limit: float, apart: int) -> float:
    """Return the degrees of freedom of differences with limited squares; within ``apart`` steps they overlap."""
    limited = np.minimum(squares, limit)
    directions = differences * np.sqrt(limited / np.maximum(squares, 1e-300))[:, None]
    rows = len(squares) // apart
    separate = directions[: rows * apart].reshape(rows, apart, -1).swapaxes(0, 1)  # in each row, none overlap
    products = separate.swapaxes(1, 2) @ separate
    moment = float((products**2).sum() - (limited[: rows * apart] ** 2).sum()) / (apart * rows * (rows - 1))
    return float(limited.mean()) ** 2 / max(moment, 1e-300)


def _chi2_quantile(degrees: float, z: float) -> float:
    """Return the quantile of χ² at that of the normal distribution, for any degrees (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + z * np.sqrt(part)) ** 3)


def _f_quantile(degrees: float, known: float) -> float:
    """Return the 99% quantile of the F distribution with these degrees of freedom (Paulson 1942)."""
    a, b = 2 / (9 * degrees), 2 / (9 * known)
    root = math.sqrt((1 - b) ** 2 * a + (1 - a) ** 2 * b - a * b * _Z99**2)
    return float((((1 - a) * (1 - b) + _Z99 * root) / ((1 - b) ** 2 - b * _Z99**2)) ** 3)
