"""Dependence of live values on those before them, measured by the counts of successive sub-windows.

Neighbouring groups of sub-windows are compared with each other, as by the Allan variance (Allan 1966): a lasting change
is in one pair of them only, a slow one in none. Independent values differ by chance; values that depend on each other
differ more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.stats.divergence import Floats

SIZES: Floats = np.array([20.0 * 2**doubling for doubling in range(10)])
"""Numbers of values for which the dependence is given."""
MIN_SUB_WINDOWS = 20
_MIN_PAIRS = 3
_LEFT_OUT = 0.1  # share of the pairs, those that differ most: a change of the distribution is among them
_SIGNIFICANCE = 3.0  # standard errors


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
    the degrees of freedom if values are independent. Its quantile follows from the first two moments of the difference
    (Satterthwaite 1946), since a few directions in the space of the bins have most of the dependence. Groups that are
    shorter than the dependence resemble their neighbours; so a size has at least the ratio of larger ones.

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
    (True, 10.9)
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
    while len(counts) // (2 * group) >= _MIN_PAIRS:
        levels.append(_compare_neighbours(counts, group, share, smoothed))
        group *= 2
    means, quantiles, significance = np.array(levels).T
    if significance.max() < _SIGNIFICANCE:
        return LiveDependence(np.ones(len(SIZES)), np.ones(len(SIZES)), dependent=False)
    sizes = np.log(counts.sum() / len(counts) * 2 ** np.arange(len(levels)))
    inflation, ratio = (
        np.interp(np.log(SIZES), sizes, np.maximum.accumulate(np.maximum(values, 1.0)[::-1])[::-1])
        for values in (means / degrees, quantiles / _quantile(degrees))
    )
    return LiveDependence(ratio, np.minimum(inflation, SIZES), dependent=True)


def _compare_neighbours(counts: Floats, group: int, share: Floats, smoothed: Floats) -> tuple[float, float, float]:
    """Return the mean square of the differences of neighbouring groups, its 99 % quantile, and its significance."""
    degrees = float((share * (1 - share) / smoothed).sum())
    pairs = len(counts) // (2 * group)
    halves = counts[len(counts) - 2 * group * pairs :].reshape(pairs, 2, group, -1).sum(axis=2)
    observed = halves.sum(axis=2)
    first, second = (halves / observed[:, :, None]).swapaxes(0, 1)
    differences = (first - second) / np.sqrt(np.outer((1 / observed).sum(axis=1), smoothed))
    squares = (differences**2).sum(axis=1)
    kept = squares.argsort()[: pairs - max(1, int(pairs * _LEFT_OUT))]
    differences, squares = differences[kept], squares[kept]
    mean = float(squares.sum() + (pairs - len(kept)) * squares[-1]) / pairs
    products = differences.T @ differences
    moment = float((products**2).sum() - (squares**2).sum()) / (len(kept) * (len(kept) - 1))
    effective_degrees = min(max(mean**2 / max(moment, 1e-300), 1.0), degrees)
    excess = max(float((share / smoothed**2).sum()) - degrees**2, 0.0) * float((1 / observed).mean())  # of rare values
    error = np.sqrt((2 * degrees + excess) / pairs) / degrees
    return mean, mean / effective_degrees * _quantile(effective_degrees), (mean / degrees - 1) / error


def _quantile(degrees: float) -> float:
    """Return the 99 % quantile of χ², for any positive number of degrees (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + 2.326348 * np.sqrt(part)) ** 3)
