"""Tests: p-values of many features' scores, corrections for their number, and tests of concentration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints
from exporter.stats.intervals import CONFIDENCE

_Z99 = 2.326348
"""The 99% quantile of the normal distribution."""
_MOST_ROOT = 1 + _Z99**2 / 4
"""No scaled χ² distribution has a larger cube root of the ratio of its 99% quantile to its mean, by `tail_shape`."""


def tail_shape(ratio: Floats) -> Floats:
    """Return ``x = √(2/(9ν))`` of the χ² distribution with ``ν`` degrees of freedom whose tail is as long as given.

    The cube root of a χ² value, divided by its mean, is about normal with mean ``1 − x²`` and standard deviation ``x``
    (Wilson and Hilferty 1931).

    Parameters
    ----------
    ratio
        99% quantile divided by the mean, at least 1, shape ``(..., F)``.

    Examples
    --------
    >>> from scipy.stats import chi2
    >>> (2 / 9 / tail_shape(chi2.ppf(0.99, [1, 5, 23]) / [1, 5, 23]) ** 2).round(1).tolist()
    [1.0, 5.0, 23.1]
    """
    root = np.minimum(np.cbrt(ratio), _MOST_ROOT)
    return np.asarray((_Z99 - np.sqrt(_Z99**2 - 4 * (root - 1))) / 2)


def tail_ratio(shape: Floats) -> Floats:
    """Return the 99% quantile divided by the mean; the inverse of `tail_shape`.

    >>> tail_shape(tail_ratio(np.array([0.1, 0.4]))).round(9).tolist()
    [0.1, 0.4]
    """
    return np.asarray((1 - shape**2 + _Z99 * shape) ** 3)


def tail_probability(score: Floats, shape: Floats) -> Floats:
    """Return the probability that a scaled χ² value with mean 1 exceeds a score, by Wilson and Hilferty.

    For 3 to 60 degrees of freedom the error is below 40% where the probability is above 10⁻⁸; for 1 or 2 the result
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
    """Return which of several differences are significant, so that all verdicts together err in 5% of cases at most.

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


_TERMS = 2048  # of the tail's series, added up at once
_NEGLIGIBLE = 1e-9


def likelihood_ratio(held: Floats | Ints, size: Floats | Ints, marked: float, rows: float) -> Floats:
    """Return the log-likelihood ratio of parts that hold more than their share; 0 for others.

    About the negative logarithm of `upper_tail`, without its smaller factors: cheap for many parts at once.

    Parameters
    ----------
    held, size
        Marked rows, and all rows, of each part, shape ``(...)``.
    marked, rows
        The same of the population.

    Examples
    --------
    >>> likelihood_ratio(np.array([72.0, 4.0]), np.array([400.0, 400.0]), 100, 10_000).round(2).tolist()
    [180.05, 0.0]
    """
    held, size = np.asarray(held, dtype=np.float64), np.asarray(size, dtype=np.float64)
    total = np.zeros(np.broadcast_shapes(held.shape, size.shape))
    for observed, expected in (
        (held, size * (marked / rows)),
        (size - held, size * (1 - marked / rows)),
        (marked - held, (rows - size) * (marked / rows)),
        (rows - size - marked + held, (rows - size) * (1 - marked / rows)),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            term = observed * np.log(observed / expected)
        total += np.where(observed > 0, term, 0.0)
    return np.where(held * rows > size * marked, np.maximum(total, 0.0), 0.0)


def upper_tail(held: int, size: int, marked: int, rows: int) -> float:
    """Return the mid-p-value of Fisher's exact test: how probable it is that chance alone puts so much in a part.

    Parameters
    ----------
    held, size
        Marked rows, and all rows, of the part.
    marked, rows
        The same of the population.

    Examples
    --------
    >>> from scipy.stats import hypergeom
    >>> exact = hypergeom(1000, 50, 100)
    >>> bool(abs(upper_tail(12, 100, 50, 1000) / (exact.sf(12) + exact.pmf(12) / 2) - 1) < 1e-6)
    True
    >>> upper_tail(5, 100, 50, 1000)  # not more than its share
    1.0
    """
    held, size, marked, rows = int(held), int(size), int(marked), int(rows)
    if held * rows <= size * marked:
        return 1.0
    first = math.exp(_log_choose(marked, held) + _log_choose(rows - marked, size - held) - _log_choose(rows, size))
    total, last, start = 0.5, 1.0, held
    stop = min(size, marked)
    while start < stop and last > _NEGLIGIBLE * total:
        x = np.arange(start, min(start + _TERMS, stop), dtype=np.float64)
        terms = last * np.cumprod((marked - x) * (size - x) / ((x + 1) * (rows - marked - size + x + 1)))
        total += float(terms.sum())
        last, start = float(terms[-1]), start + len(x)
    return min(first * total, 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def clustered_upper_tail(users: Ints, inside: npt.NDArray[np.bool_], size: int, rows: int) -> float:
    """Return `upper_tail` where the marks of one user may depend on each other.

    The user who adds most to the part is left out, so that nobody makes a slice alone. The marks of the others are
    divided by the design effect: how much more users differ in the part's share than chance explains (Rao and Scott
    1992).

    Parameters
    ----------
    users
        Number of the user of each marked row, shape ``(marked,)``.
    inside
        Whether it is in the part, shape ``(marked,)``.
    size, rows
        Rows of the part, and of the population.

    Examples
    --------
    >>> clustered_upper_tail(np.zeros(50, dtype=int), np.ones(50, dtype=bool), 100, 1000)  # one user
    1.0
    >>> 50 * upper_tail(40, 100, 50, 1000) < clustered_upper_tail(np.arange(50), np.arange(50) < 40, 100, 1000) < 1e-20
    True
    """
    of_user, of_part = np.bincount(users), np.bincount(users, inside)
    top = int(of_part.argmax())
    of_user[top], of_part[top] = 0, 0
    marked, held = float(of_user.sum()), float(of_part.sum())
    if held <= 0:
        return 1.0
    share, number = held / marked, int(np.count_nonzero(of_user))
    independent = marked * share * (1 - share)
    effect = 1.0
    if number > 1 and independent > 0:
        between = float(np.square(of_part - share * of_user).sum()) * number / (number - 1)
        effect = max(between / independent, 1.0)
    return upper_tail(math.floor(held / effect), size, math.ceil(marked / effect), rows)


def block_design_effect(of_part: Floats, of_block: Floats, later: npt.NDArray[np.bool_]) -> float:
    """Return how much more the share of a part varies over blocks of time than chance explains, at least 1.

    Parameters
    ----------
    of_part, of_block
        Rows of the part, and all rows, in each of ``B`` blocks, shape ``(B,)``.
    later
        Whether a block belongs to the later of two periods, which are not compared here, shape ``(B,)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sizes, later = np.full(40, 1000.0), np.arange(40) >= 20
    >>> block_design_effect(rng.binomial(1000, 0.1, 40), sizes, later) < 2
    True
    >>> block_design_effect(rng.binomial(1000, rng.uniform(0, 0.2, 40)), sizes, later) > 10
    True
    """
    robust = independent = 0.0
    for period in (later, ~later):
        rows, part = of_block[period], of_part[period]
        total, number = float(rows.sum()), int(np.count_nonzero(rows))
        if number < 2:
            continue
        share = float(part.sum()) / total
        robust += float(np.square(part - share * rows).sum()) * number / (number - 1) / total**2
        independent += share * (1 - share) / total
    return max(robust / independent, 1.0) if independent > 0 else 1.0
