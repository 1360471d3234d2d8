"""Several tests at once: p-values of many features' scores, and corrections for the number of tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exporter.stats.divergence import Floats
from exporter.stats.intervals import CONFIDENCE

_Z99 = 2.326348
"""The 99 % quantile of the normal distribution."""
_MOST_ROOT = 1 + _Z99**2 / 4
"""No scaled χ² distribution has a larger cube root of the ratio of its 99 % quantile to its mean, by `tail_shape`."""


def tail_shape(ratio: Floats) -> Floats:
    """Return ``x = √(2/(9ν))`` of the χ² distribution with ``ν`` degrees of freedom whose tail is as long as given.

    The cube root of a χ² value, divided by its mean, is about normal with mean ``1 − x²`` and standard deviation ``x``
    (Wilson and Hilferty 1931).

    Parameters
    ----------
    ratio
        99 % quantile divided by the mean, at least 1, shape ``(..., F)``.

    Examples
    --------
    >>> from scipy.stats import chi2
    >>> (2 / 9 / tail_shape(chi2.ppf(0.99, [1, 5, 23]) / [1, 5, 23]) ** 2).round(1).tolist()
    [1.0, 5.0, 23.1]
    """
    root = np.minimum(np.cbrt(ratio), _MOST_ROOT)
    return np.asarray((_Z99 - np.sqrt(_Z99**2 - 4 * (root - 1))) / 2)


def tail_ratio(shape: Floats) -> Floats:
    """Return the 99 % quantile divided by the mean; the inverse of `tail_shape`.

    >>> tail_shape(tail_ratio(np.array([0.1, 0.4]))).round(9).tolist()
    [0.1, 0.4]
    """
    return np.asarray((1 - shape**2 + _Z99 * shape) ** 3)


def tail_probability(score: Floats, shape: Floats) -> Floats:
    """Return the probability that a scaled χ² value with mean 1 exceeds a score, by Wilson and Hilferty.

    For 3 to 60 degrees of freedom the error is below 40 % where the probability is above 10⁻⁸; for 1 or 2 the result
    is too large, by up to a factor of 8.

    Parameters
    ----------
    score
        The value divided by its mean, NaN where there is none, shape ``(..., F)``.
    shape
        `tail_shape`, above 0, shape ``(..., F)``.

    Examples
    --------
    >>> tail_probability(np.array([41.64 / 23, np.nan]), np.sqrt(2 / 9 / np.array([23.0, 23.0]))).round(4).tolist()
    [0.0101, nan]
    """
    deviate = (np.cbrt(score) - 1 + shape**2) / shape
    tail = [math.erfc(value) / 2 for value in (deviate / math.sqrt(2)).ravel().tolist()]
    return np.array(tail).reshape(deviate.shape)


def adjusted_p_values(p: Floats) -> Floats:
    """Return p-values adjusted for their number, whatever they have to do with each other.

    Where those at most ``q`` count as discoveries, the expected share of false ones among them is at most ``q``
    (Benjamini and Yekutieli 2001); if nothing has changed, so is the probability of any.

    Parameters
    ----------
    p
        p-values, NaN for features that are not tested, shape ``(..., F)``.

    Examples
    --------
    >>> adjusted_p_values(np.array([0.5, 0.001, np.nan, 0.002])).round(4).tolist()
    [0.9167, 0.0055, nan, 0.0055]
    """
    count = (~np.isnan(p)).sum(axis=-1, keepdims=True)
    rank = np.arange(1, p.shape[-1] + 1)
    harmonic = np.concatenate(([0.0], np.cumsum(1 / rank)))[count]
    order = np.argsort(p, axis=-1)  # NaN last
    scaled = np.take_along_axis(p, order, axis=-1) * count * harmonic / rank
    smallest = np.fmin.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(smallest, 1.0), axis=-1)
    return np.where(np.isnan(p), np.nan, adjusted)


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Return which of several differences are significant, so that all verdicts together err in 5 % of cases at most.

    The step-down method of Holm (1979), which scipy does not have: the smallest p-value is held against ``level/m``,
    the next against ``level/(m - 1)``, until the first that fails.

    >>> holm([0.04, 0.001, 0.012])
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03])
    [False, True, False]
    """
    significant = [False] * len(p_values)
    for passed, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - passed):
            break
        significant[index] = True
    return significant
