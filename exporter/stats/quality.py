"""Learn from labelled rows how often predictions are right, or how large their error is, from frozen bins.

Pure numpy. A row is known by the indices of its bins, so what is learned can be applied to counts of bins alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints, ratio

_FOLDS = 5
_SMALLEST_GAIN = 0.002
"""A component must explain this share of the variance of the loss, by cross-validation."""
_ROUNDS = 10
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


class Effects(NamedTuple):
    """What the bins of a target add to an expected value.

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
    """Labelled rows in bins.

    Parameters
    ----------
    bins
        Bin of each of ``n`` rows within each of ``T`` targets, shape ``(T, n)``; in the order of time, if it is known.
    sizes
        Number of bins of each target.
    """

    def __init__(self, bins: BinIndices, sizes: Sequence[int]) -> None:
        self._bins, self._sizes = bins, sizes
        rows = bins.shape[1]
        self._folds: Ints = np.arange(rows, dtype=np.intp) * _FOLDS // max(rows, 1)

    def rows(self, target: int) -> Floats:
        """Return the number of rows in each bin of a target."""
        return np.bincount(self._bins[target], minlength=self._sizes[target]).astype(np.float64)

    def _sums(self, target: int, values: Floats) -> Floats:
        return np.bincount(self._bins[target], values, self._sizes[target]).astype(np.float64, copy=False)

    def explaining(self, values: Floats, most: int) -> list[int]:
        """Return the targets whose bins together explain the values best, the best first.

        Targets are added one at a time, while the added one explains enough of rows that it was not fitted on: those of
        another fifth of the time.

        Parameters
        ----------
        values
            Shape ``(n,)``.
        most
            Most targets to return.
        """
        rest = values - values.mean()
        least = _SMALLEST_GAIN * float(rest @ rest)
        chosen: list[int] = []
        while len(chosen) < min(most, len(self._sizes)):
            gains = [-np.inf if t in chosen else self._gain(t, rest) for t in range(len(self._sizes))]
            best = int(np.argmax(gains))
            if not gains[best] > least:
                break
            chosen.append(best)
            effects = self.fit(values, chosen)
            rest = values - values.mean() - self.expected(chosen, effects)
        return chosen

    def _gain(self, target: int, values: Floats) -> float:
        """Return how much of the squares of values the bins of a target explain, by cross-validation."""
        key = self._bins[target] * np.intp(_FOLDS) + self._folds
        size = self._sizes[target] * _FOLDS
        rows = np.bincount(key, minlength=size).reshape(-1, _FOLDS)
        sums = np.bincount(key, values, size).reshape(-1, _FOLDS)
        ridge = shrinkage_rows(sums.sum(axis=1), rows.sum(axis=1).astype(np.float64), float(values.var()))
        expected = (sums.sum(axis=1, keepdims=True) - sums) / (rows.sum(axis=1, keepdims=True) - rows + ridge)
        return float((2 * expected * sums - expected**2 * rows).sum())

    def fit(self, values: Floats, targets: Sequence[int]) -> list[Effects]:
        """Return the effects of the bins of some targets, whose sum is nearest to the values; by backfitting.

        Source: T. Hastie and R. Tibshirani, *Generalized additive models*, 1986. Each effect is shrunk, see
        `shrunken_means`.
        """
        centred = values - values.mean()
        effects = [Effects(self.rows(target), np.zeros(self._sizes[target])) for target in targets]
        fitted = np.zeros((len(targets), len(values)))
        for _ in range(_ROUNDS if len(targets) > 1 else 1):
            for index, target in enumerate(targets):
                rest = centred - fitted.sum(axis=0) + fitted[index]
                rows = effects[index].rows
                means = shrunken_means(self._sums(target, rest), rows, float((rest - fitted[index]).var()))
                means = np.where(rows > 0, means - (means @ rows) / len(values), 0.0)
                effects[index] = Effects(rows, means)
                fitted[index] = means[self._bins[target]]
        return effects

    def expected(self, targets: Sequence[int], effects: Sequence[Effects]) -> Floats:
        """Return the sum of the effects of each row's bins, shape ``(n,)``."""
        total = np.zeros(self._bins.shape[1])
        for target, effect in zip(targets, effects, strict=True):
            total += effect.values[self._bins[target]]
        return total

    def associated(self, residuals: Floats, most: int) -> dict[int, Effects]:
        """Return the targets whose bins go with residuals beyond chance, with the mean residual of each bin.

        Of those whose χ² exceeds its mean by three standard deviations, the ones that explain most are returned.

        Parameters
        ----------
        residuals
            What remains of ``n`` values, shape ``(n,)``.
        most
            Most targets to return.
        """
        if not len(residuals) or residuals.min() == residuals.max():
            return {}
        centred = residuals - residuals.mean()
        variance = float(centred.var())
        found: dict[int, Effects] = {}
        for target in range(len(self._sizes)):
            rows, sums = self.rows(target), self._sums(target, centred)
            degrees = max(int((rows > 0).sum()) - 1, 1)
            if np.nansum(ratio(sums**2, rows)) / variance <= degrees + 3 * np.sqrt(2 * degrees):
                continue
            means = shrunken_means(sums, rows, variance)
            means = np.where(rows > 0, means, 0.0)
            found[target] = Effects(rows, means)
        best = sorted(found, key=lambda t: -float(found[t].rows @ found[t].values ** 2))[:most]
        return {target: found[target] for target in best}


def variance_between(residuals: Floats, order: Floats, parts: int = 20, least: int = 30) -> float:
    """Return the variance to expect of the mean residual in a later period, without what sampling explains.

    The rows are divided into ``parts`` periods of equally many rows, fewer where a period would have less than
    ``least`` rows. The variance between the periods is that of moments (R. DerSimonian and N. Laird, *Meta-analysis in
    clinical trials*, 1986). Where periods differ more the further apart they are, this growth of the variogram is
    added, since a later period is as far away. From both a standard deviation by chance is subtracted, so that they are
    mostly 0 without a difference; and so is the result for fewer than five periods.

    Parameters
    ----------
    residuals
        Shape ``(n,)``.
    order
        When each row arrived; rows with NaN are left out.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> residuals, time = rng.normal(size=4000), np.arange(4000.0)
    >>> variance_between(residuals, time) < 0.001, variance_between(residuals + np.sin(time / 500), time) > 0.3
    (True, True)
    """
    known = np.flatnonzero(np.isfinite(order))
    number = min(parts, len(known) // least)
    if number < 5:
        return 0.0
    ordered = residuals[known[np.argsort(order[known], kind="stable")]]
    starts: Ints = np.linspace(0, len(ordered), number + 1).astype(np.intp)
    periods = [ordered[start:stop] for start, stop in pairwise(starts)]
    means = np.array([period.mean() for period in periods])
    sampling = np.mean([period.var(ddof=1) / len(period) for period in periods])
    between = max(float(means.var(ddof=1) - sampling * (1 + np.sqrt(2 / (number - 1)))), 0.0)
    distance = abs(np.subtract.outer(np.arange(number), np.arange(number)))
    squares = np.subtract.outer(means, means) ** 2
    growth = squares[distance >= number // 2].mean() - squares[distance == 1].mean() - _GROWTH_BY_CHANCE * sampling
    return between + max(float(growth), 0.0)
