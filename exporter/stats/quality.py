"""Learn from labelled rows how often predictions are right, or how large their error is, from frozen bins.

Pure numpy. A row is known by the indices of its bins, so what is learned can be applied to counts of bins alone.
"""

from __future__ import annotations

import numpy as np

from exporter.stats.divergence import Floats

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
