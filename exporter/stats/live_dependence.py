"""Estimate the dependence of successive live values from the counts of sub-windows.

Neighbouring groups of sub-windows are compared with each other, as by the overlapping Allan variance (Howe, Allan and
Barnes 1981). Independent values differ by chance; values that depend on each other differ more. A change of the
distribution makes only those groups differ between which it lies, and is no dependence. So the variance is measured
robustly (as by McGonigle and Cho 2023): by the median.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from exporter.stats.divergence import Floats

SIZES: Floats = np.array([20.0 * 2**doubling for doubling in range(10)])
"""Numbers of values for which the dependence is given."""
MIN_SUB_WINDOWS = 20
_LEAST_GROUPS = 14  # of each size: both ends of a fault are then in less than a third of the differences
_SIGNIFICANCE = 2.5  # standard errors
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
    mean square follows from the median and the effective degrees, the 99 % quantile of a new difference from both and
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
    if significance.max() < _SIGNIFICANCE:
        return LiveDependence(np.ones(len(SIZES)), np.ones(len(SIZES)), dependent=False)
    sizes = np.log(counts.sum() / len(counts) * 2 ** np.arange(len(levels)))
    inflation, ratio = (
        np.interp(np.log(SIZES), sizes, np.maximum.accumulate(np.maximum(values, 1.0)[::-1])[::-1])
        for values in (means / degrees, quantiles / _chi2_quantile(degrees, _Z99))
    )
    return LiveDependence(ratio, np.minimum(inflation, SIZES), dependent=True)


def _compare_neighbours(counts: Floats, group: int, share: Floats, smoothed: Floats) -> tuple[float, float, float]:
    """Return the mean square of the differences of neighbouring groups, the 99 % quantile, and the significance."""
    degrees = float((share * (1 - share) / smoothed).sum())
    differences, observed = _differences(counts, group, smoothed)
    squares = (differences**2).sum(axis=1)
    ordered = np.sort(squares)
    median = float(ordered[len(squares) // 2])
    effective_degrees = max(min(_effective_degrees(differences, squares, median, 2 * group), degrees), 1.0)
    mean = median / _chi2_quantile(effective_degrees, 0.0) * effective_degrees
    independent = 6 * group * len(counts) / (4 * group**2 + 5)  # differences with the same information (Howe)
    known = effective_degrees * independent / _median_error(effective_degrees) ** 2
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


def _median_error(degrees: float) -> float:
    """Return the standard error of a mean that follows from the median, relative to that of the mean itself."""
    return math.sqrt(math.pi / 2) / (1 - 2 / (9 * degrees))


def _f_quantile(degrees: float, known: float) -> float:
    """Return the 99 % quantile of the F distribution with these degrees of freedom (Paulson 1942)."""
    a, b = 2 / (9 * degrees), 2 / (9 * known)
    root = math.sqrt((1 - b) ** 2 * a + (1 - a) ** 2 * b - a * b * _Z99**2)
    return float((((1 - a) * (1 - b) + _Z99 * root) / ((1 - b) ** 2 - b * _Z99**2)) ** 3)
