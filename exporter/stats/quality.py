"""Learn from labelled rows how often predictions are right, or how large their error is, from frozen bins.

Pure numpy. A row is known by the indices of its bins, so what is learned can be applied to counts of bins alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from math import exp, floor, lgamma, log, log1p, sqrt
from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import BinIndices, Floats, Ints, ratio

_GROWTH_BY_CHANCE = 1.5  # standard deviation of the growth of the variogram without a difference, for 20 periods


def isotonic(values: Floats, weights: Floats) -> Floats:
    """Return the increasing sequence that is nearest to the values: weighted pool-adjacent-violators.

    Source: M. Ayer et al., *An empirical distribution function for sampling with incomplete information*, 1955.

    Parameters
    ----------
    values, weights
        Shape ``(n,)``; the weights are above 0.

    Examples
    --------
    >>> isotonic(np.array([0.2, 0.6, 0.4, 0.9]), np.array([10.0, 10.0, 30.0, 10.0])).round(3).tolist()
    [0.2, 0.45, 0.45, 0.9]
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, size = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, mass, count = blocks.pop()
            mean, total, size = (before * mass + mean * total) / (mass + total), mass + total, size + count
        blocks.append((mean, total, size))
    means: Floats = np.array([mean for mean, _, _ in blocks])
    return means.repeat([size for _, _, size in blocks])


def calibrated(rows: Floats, right: Floats) -> Floats:
    """Return the accuracy that goes with each bin of the confidence: isotonic regression over the bins.

    Source: B. Zadrozny and C. Elkan, *Transforming classifier scores into accurate multiclass probability estimates*,
    KDD 2002.

    Parameters
    ----------
    rows, right
        Number of labelled rows in each bin, and of those whose prediction is right, shape ``(K,)``.

    Returns
    -------
    ndarray
        Shape ``(K,)``. A bin without rows has the accuracy of the nearest one below it that has rows, or, without
        one, of the nearest above it; NaN without any rows.

    Examples
    --------
    >>> calibrated(np.array([0.0, 10, 0, 10, 0]), np.array([0.0, 5, 0, 9, 0])).tolist()
    [0.5, 0.5, 0.5, 0.9, 0.9]
    """
    known = rows > 0
    accuracy = np.full(len(rows), np.nan)
    accuracy[known] = isotonic(right[known] / rows[known], rows[known])
    return nearest_known(accuracy, rows)


def nearest_known(values: Floats, rows: Floats) -> Floats:
    """Return the values of ordered bins, those of bins without rows taken from the nearest bin below that has rows.

    Below the first bin with rows its value is taken; without rows nothing changes. Shapes ``(K,)``.
    """
    known = np.flatnonzero(rows)
    if not len(known):
        return values
    filled: Floats = values[known[np.maximum(known.searchsorted(np.arange(len(rows)), side="right") - 1, 0)]]
    return filled


def bin_resolution(values: Floats, rows: Floats) -> Floats:
    """Return how far the value of each ordered bin may be off where live values gather at one of its ends.

    Where the density within a bin tilts, the mean of values that change linearly moves by a twelfth of the step to the
    neighbouring bin. The outermost bins are wide, and the mean may move by half of the step. Shapes ``(K,)``.

    >>> rows = np.array([0.0, 9, 9, 9, 9, 0])
    >>> bin_resolution(np.array([0.4, 0.4, 0.64, 0.64, 0.6, 0.6]), rows).round(3).tolist()
    [0.12, 0.12, 0.01, 0.002, 0.02, 0.02]
    """
    known = np.flatnonzero(rows)
    resolution = np.zeros(len(values))
    if len(known) > 1:
        steps = abs(np.diff(values[known]))
        resolution[known] = (np.append(0.0, steps) + np.append(steps, 0.0)) / 24
        resolution[known[[0, -1]]] = steps[[0, -1]] / 2
    return nearest_known(resolution, rows)


def shrunken_means(sums: Floats, rows: Floats, variance: float) -> Floats:
    """Return the mean of each bin, shrunk towards 0 by as much as chance explains the differences of the bins.

    The bins' true means are taken as draws with mean 0 and a variance τ², which is estimated by moments: a bin of
    ``n`` rows keeps the share ``τ²/(τ² + σ²/n)``. This is the positive-part estimator of James and Stein for bins of
    different sizes (B. Efron and C. Morris, *Data analysis using Stein's estimator and its generalizations*, 1975).

    Parameters
    ----------
    sums
        Sum of the values of each of ``K`` bins, whose mean over all bins is 0.
    rows
        Number of values in each bin.
    variance
        Variance ``σ²`` of a value within its bin.

    Examples
    --------
    >>> shrunken_means(np.array([10.0, -10.0]), np.array([100.0, 100.0]), 1.0).tolist()
    [0.05, -0.05]
    >>> shrunken_means(np.array([1.0, -1.0]), np.array([100.0, 100.0]), 1.0).any()
    np.False_
    """
    return sums / (rows + shrinkage_rows(sums, rows, variance))


def shrinkage_rows(sums: Floats, rows: Floats, variance: float) -> float:
    """Return ``σ²/τ²``, the number of rows at which half of a bin's mean remains; infinite where τ² is 0."""
    total = rows.sum()
    between = np.sum(sums**2 / np.maximum(rows, 1))
    spread = total - np.sum(rows**2) / max(total, 1.0)
    excess = between - (np.count_nonzero(rows) - 1) * variance
    if excess <= 0 or spread <= 0:
        return np.inf
    return max(float(variance * spread / excess), 1e-9)


def variance_between(means: Floats, errors: Floats) -> float:
    """Return the variance to expect of the mean in a later period, without what sampling explains.

    The variance between the periods is that of moments (R. DerSimonian and N. Laird, *Meta-analysis in clinical
    trials*, 1986). Where periods differ more the further apart they are, this growth of the variogram is added, since a
    later period is as far away. From both a standard deviation by chance is subtracted, so that they are mostly 0
    without a difference.

    Parameters
    ----------
    means
        Means of successive periods, shape ``(P,)``.
    errors
        Their variances by sampling.

    Examples
    --------
    >>> variance_between(np.array([1.0, -1.0] * 10), np.full(20, 4.0))
    0.0
    >>> variance_between(np.arange(20.0), np.ones(20)) > 35
    True
    """
    number, sampling = len(means), np.mean(errors)
    between = max(float(means.var(ddof=1) - sampling * (1 + np.sqrt(2 / (number - 1)))), 0.0)
    distance = abs(np.subtract.outer(np.arange(number), np.arange(number)))
    squares = np.subtract.outer(means, means) ** 2
    growth = squares[distance >= number // 2].mean() - squares[distance == 1].mean() - _GROWTH_BY_CHANCE * sampling
    return between + max(float(growth), 0.0)


Z = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95%."""


class IntervalEstimate(NamedTuple):
    """An estimated share or error with its 95% confidence interval."""

    value: float
    lower: float
    upper: float


def wilson(right: float, decided: float) -> IntervalEstimate:
    """Return the share of a random sample with its score interval (Wilson, 1927).

    >>> [round(number, 4) for number in wilson(45, 50)]
    [0.9, 0.7864, 0.9565]
    """
    share, spread = right / decided, Z * Z / decided
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * sqrt(share * (1 - share) / decided + spread / decided / 4)
    # The ends at 0 and 1 are exact: rounding would leave 4e-17.
    return IntervalEstimate(
        share, max(centre - half, 0.0) if right else 0.0, min(centre + half, 1.0) if right < decided else 1.0
    )


def calibration_error_by_chance(rows: Sequence[float], confidences: Sequence[float]) -> float:
    """Return the expected calibration error of a calibrated model: what chance alone makes of a number of labels.

    It is the mean absolute deviation of the number of right rows of each bin, a binomial variable. For n rows with the
    chance p and m = floor(np) + 1 that is 2 m C(n, m) pᵐ (1 - p)ⁿ⁻ᵐ⁺¹ (A. de Moivre, 1730; P. Diaconis and S. Zabell,
    *Closed form summation for classical distributions*, 1991).

    Parameters
    ----------
    rows
        Labelled rows in each bin of the confidence; not all 0.
    confidences
        Sum of their confidences in each bin.

    Examples
    --------
    >>> round(calibration_error_by_chance([0, 1, 100], [0.0, 0.5, 90.0]), 4)
    0.0285
    """
    total = 0.0
    for count, sum_of_chances in zip(map(round, rows), confidences, strict=True):
        if 0 < sum_of_chances < count:
            chance, most = sum_of_chances / count, floor(sum_of_chances) + 1
            ways = lgamma(count + 1) - lgamma(most + 1) - lgamma(count - most + 1)
            total += 2 * most * exp(ways + most * log(chance) + (count - most + 1) * log1p(-chance))
    return total / sum(rows)


def estimate_accuracy(
    population: float, known: float, known_right: float, decided: float, right: float
) -> IntervalEstimate:
    """Return the accuracy of all confident predictions, estimated from a random sample.

    Predictions with feedback are known; the others are estimated from a random sample of them. With K of N predictions
    known, R of them right, and the share p of right samples, the accuracy is (R + (N - K) p) / N. The bounds are those
    of Wilson's interval of p in its place.

    Of 1000 predictions 20 were corrected by users, and of 50 sampled others 45 are right: 0.98 times 0.9 is 0.882.

    >>> [round(number, 4) for number in estimate_accuracy(1000, 20, 0, 50, 45)]
    [0.882, 0.7707, 0.9374]

    Parameters
    ----------
    population
        Number of confident predictions; at least the known ones.
    known, known_right
        Number of predictions with feedback, and of those that were right.
    decided, right
        Number of sampled others that a reviewer decided, at least one, and of those that were right.
    """
    others = max(population - known, 0.0)
    total = known + others
    bounds = wilson(right, decided)
    return IntervalEstimate(*((known_right + others * share) / total for share in bounds)) if total else bounds


FOLDS = 5
_SMALLEST_GAIN = 0.002
"""A component must explain this share of the variance of the loss, by cross-validation."""
_ROUNDS = 10
_PERIODS, _LEAST_PERIODS = 20, 5
_LEAST_IN_PERIOD = 30


class Effects(NamedTuple):
    """The effect of each bin of a target on an expected value.

    Attributes
    ----------
    rows
        Number of labelled rows in each of the target's ``K`` bins.
    values
        What the bin adds, shape ``(K,)``; weighted by the rows, the mean is 0.
    """

    rows: Floats
    values: Floats


class LabelledBins:
    """Labelled rows in bins. Values have a number for each row, shape ``(n,)``.

    Parameters
    ----------
    bins
        Bin of each of ``n`` rows within each of ``T`` targets, shape ``(T, n)``. Rows are in the order of time, where
        it is known.
    sizes
        Number of bins of each target.
    timed
        How many of the rows, the first ones, have a time.
    """

    def __init__(self, bins: BinIndices, sizes: Sequence[int], timed: int = 0) -> None:
        self._bins, self.sizes, self.rows = bins, sizes, bins.shape[1]
        self._folds: Ints = np.arange(self.rows, dtype=np.intp) * FOLDS // max(self.rows, 1)
        number = min(_PERIODS, timed // _LEAST_IN_PERIOD)
        self._periods: Ints = np.linspace(0, timed, number + 1 if number >= _LEAST_PERIODS else 1).astype(np.intp)

    def by_bin(self, target: int, values: Floats) -> tuple[Floats, Floats]:
        """Return the number of rows in each bin of a target and each of `FOLDS` parts of the rows, and their sum.

        Shapes ``(K, FOLDS)``.
        """
        key = self._bins[target] * np.intp(FOLDS) + self._folds
        size = self.sizes[target] * FOLDS
        rows, sums = np.bincount(key, minlength=size), np.bincount(key, values, size)
        return rows.reshape(-1, FOLDS).astype(np.float64), sums.reshape(-1, FOLDS).astype(np.float64, copy=False)

    def pairs(self, one: int, other: int) -> tuple[Ints, Ints, Floats]:
        """Return the bins of two targets in which rows are together, and the number of these rows."""
        size = self.sizes[other]
        keys, rows = np.unique(self._bins[one] * np.intp(size) + self._bins[other], return_counts=True)
        return keys // size, keys % size, rows.astype(np.float64)

    def moments(self, values: Floats) -> tuple[float, float]:
        """Return the mean and the variance, which is exactly 0 where all values are the same."""
        if not len(values) or values.min() == values.max():
            return float(values[0]) if len(values) else 0.0, 0.0
        return float(values.mean()), float(values.var())

    def explaining(self, values: Floats, most: int) -> list[int]:
        """Return the targets whose bins together explain the values best, the best first.

        Targets are added one at a time, while the added one explains enough of rows that it was not fitted on: those of
        another fifth of the time.

        Parameters
        ----------
        values
            The values.
        most
            Most targets to return.
        """
        mean, variance = self.moments(values)
        least = _SMALLEST_GAIN * variance * self.rows
        rest = values - mean
        chosen: list[int] = []
        while variance and len(chosen) < min(most, len(self.sizes)):
            gains = [-np.inf if t in chosen else self._gain(t, rest, variance) for t in range(len(self.sizes))]
            best = int(np.argmax(gains))
            if not gains[best] > least:
                break
            chosen.append(best)
            rest = self.remaining(values, chosen, self.fit(values, chosen))
            variance = self.moments(rest)[1]
        return chosen

    def _gain(self, target: int, values: Floats, variance: float) -> float:
        """Return how much of the squares of values the bins of a target explain, by cross-validation."""
        rows, sums = self.by_bin(target, values)
        ridge = shrinkage_rows(sums.sum(axis=1), rows.sum(axis=1), variance)
        expected = (sums.sum(axis=1, keepdims=True) - sums) / (rows.sum(axis=1, keepdims=True) - rows + ridge)
        return float((2 * expected * sums - expected**2 * rows).sum())

    def fit(self, values: Floats, targets: Sequence[int]) -> list[Effects]:
        """Return the effects of the bins of some targets, whose sum is nearest to the values; by backfitting.

        Source: T. Hastie and R. Tibshirani, *Generalized additive models*, 1986. Each effect is shrunk, see
        `shrunken_means`.
        """
        mean, variance = self.moments(values)
        found = [self.by_bin(target, values) for target in targets]
        rows = [part.sum(axis=1) for part, _ in found]
        sums = [part.sum(axis=1) - mean * size for (_, part), size in zip(found, rows, strict=True)]
        pairs = {}
        for (i, one), (j, other) in combinations(enumerate(targets), 2):
            left, right, together = self.pairs(one, other)
            pairs[i, j], pairs[j, i] = (left, right, together), (right, left, together)
        effects = [np.zeros(len(part)) for part in rows]

        def fitted(index: int) -> Floats:
            """Return the sum of the effects of the other targets over the rows of each bin."""
            total = np.zeros(len(rows[index]))
            for other, effect in enumerate(effects):
                if other != index:
                    own, theirs, together = pairs[index, other]
                    total += np.bincount(own, together * effect[theirs], len(total))
            return total

        for _ in range(_ROUNDS if len(targets) > 1 else 1):
            for index, size in enumerate(rows):
                explained = sum(
                    float(effect @ (2 * part - count * effect - fitted(other)))
                    for other, (effect, part, count) in enumerate(zip(effects, sums, rows, strict=True))
                )
                rest = max(variance - explained / self.rows, 0.0)
                means = shrunken_means(sums[index] - fitted(index), size, rest)
                effects[index] = np.where(size > 0, means - (means @ size) / self.rows, 0.0)
        return [Effects(*part) for part in zip(rows, effects, strict=True)]

    def remaining(self, values: Floats, targets: Sequence[int], effects: Sequence[Effects]) -> Floats:
        """Return the values less their mean and less the effects of the bins of some targets."""
        rest = values - self.moments(values)[0]
        for target, effect in zip(targets, effects, strict=True):
            rest -= effect.values[self._bins[target]]
        return rest

    def associated(self, residuals: Floats, most: int) -> dict[int, Effects]:
        """Return the targets whose bins go with residuals beyond chance, with the mean residual of each bin.

        Of those whose χ² exceeds its mean by three standard deviations, the ones that explain most are returned.

        Parameters
        ----------
        residuals
            What remains of values.
        most
            Most targets to return.
        """
        mean, variance = self.moments(residuals)
        if not variance:
            return {}
        found: dict[int, Effects] = {}
        for target in range(len(self.sizes)):
            rows, sums = (part.sum(axis=1) for part in self.by_bin(target, residuals))
            sums = sums - mean * rows
            degrees = max(int((rows > 0).sum()) - 1, 1)
            if np.nansum(ratio(sums**2, rows)) / variance <= degrees + 3 * np.sqrt(2 * degrees):
                continue
            means = shrunken_means(sums, rows, variance)
            found[target] = Effects(rows, np.where(rows > 0, means, 0.0))
        best = sorted(found, key=lambda t: -float(found[t].rows @ found[t].values ** 2))[:most]
        return {target: found[target] for target in best}

    def variance_between(self, residuals: Floats) -> float:
        """Return the variance of the mean residual from one period to another, see `variance_between`.

        The rows with a time are divided into 20 periods of equally many rows, fewer where a period would have less than
        30 rows. With fewer than five periods it is 0.
        """
        if len(self._periods) < 2:
            return 0.0
        parts = [residuals[start:stop] for start, stop in pairwise(self._periods)]
        means, variances = np.array([(part.mean(), part.var(ddof=1) / len(part)) for part in parts]).T
        return variance_between(means, variances)
