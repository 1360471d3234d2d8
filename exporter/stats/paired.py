"""Compare two models on the same examples."""

from __future__ import annotations

import math

import numpy as np

from exporter.stats.divergence import Floats, Ints
from exporter.stats.intervals import Difference, Estimate, Interval, mean, normal_interval


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided mid-p-value of McNemar's exact test.

    Of the examples on which exactly one of the models is right, each one is the better with the probability 1/2 if both
    are equally good. The mid-p-value is nearer to its level than the exact one (Fagerland, Lydersen and Laake, *The
    McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact conditional*, 2013).

    Parameters
    ----------
    gained, lost
        Examples on which only the second model, and only the first model, is right.

    Examples
    --------
    One against seven of 21 children (Fagerland et al., table 1): 0.0391.

    >>> round(mcnemar(1, 7), 4), mcnemar(0, 0), mcnemar(3, 3)
    (0.0391, 1.0, 1.0)
    """
    pairs, fewer = gained + lost, min(gained, lost)
    if not pairs or gained == lost:
        return 1.0
    term = math.exp(
        math.lgamma(pairs + 1) - math.lgamma(fewer + 1) - math.lgamma(pairs - fewer + 1) - pairs * math.log(2)
    )
    total = term / 2
    for k in range(fewer, 0, -1):
        term *= k / (pairs - k + 1)
        total += term
        if term < 1e-18 * total:
            break
    return min(2 * total, 1.0)


def paired_share_difference(gained: int, lost: int, total: int) -> Difference:
    """Return the second share minus the first of the same examples, with the interval of Bonett and Price (2012).

    It is Wald's after one example was added on each side; the p-value is that of `mcnemar`.

    Parameters
    ----------
    gained, lost
        See `mcnemar`.
    total
        All examples, at least one.

    Examples
    --------
    >>> difference = paired_share_difference(1, 7, 21)
    >>> round(difference.value, 3), [round(end, 3) for end in difference.interval], round(difference.p_value, 4)
    (-0.286, [-0.508, -0.013], 0.0391)
    """
    more, less, size = (gained + 1) / (total + 2), (lost + 1) / (total + 2), total + 2
    centre, error = more - less, math.sqrt((more + less - (more - less) ** 2) / size)

    def within(level: float) -> Interval:
        low, high = normal_interval(centre, error, error, level)
        return Interval(max(low, -1.0), min(high, 1.0))

    return Difference((gained - lost) / total, within, lambda: mcnemar(gained, lost))


def paired_mean_difference(differences: Floats) -> Difference:
    """Return the mean of the differences of each example, with a normal interval.

    Parameters
    ----------
    differences
        The second value minus the first of ``n`` examples, at least one, shape ``(n,)``.

    Examples
    --------
    >>> import numpy as np
    >>> difference = paired_mean_difference(np.tile([1.0, 3.0], 50))
    >>> difference.value, [round(end, 3) for end in difference.interval]
    (2.0, [1.804, 2.196])
    """
    estimate = mean(float(differences.sum()), float(differences @ differences), len(differences))
    return Difference(estimate.value, estimate.within)


def stratified_mean(values: Floats, strata: Ints, sizes: Floats) -> Estimate | None:
    """Estimate the mean of a population from a sample that is random within each stratum, with a normal interval.

    Strata without values are left out; one with a single value takes the variance of all values (Cochran, *Sampling
    Techniques*, 1977, 5.3).

    Parameters
    ----------
    values
        Of the ``n`` sampled, at least one, shape ``(n,)``.
    strata
        Stratum of each, shape ``(n,)``.
    sizes
        Size of the ``H`` strata, shape ``(H,)``.

    Examples
    --------
    >>> import numpy as np
    >>> found = stratified_mean(np.array([1.0, 3.0, 10.0, 10.0]), np.array([0, 0, 1, 1]), np.array([90.0, 10.0, 5.0]))
    >>> round(found.value, 3), [round(end, 3) for end in found.interval()]
    (2.8, [1.036, 4.564])
    """
    number = np.bincount(strata, minlength=len(sizes))
    weights = np.where(number > 0, sizes, 0.0)
    if not weights.any():
        return None
    weights = weights / weights.sum()
    means = np.bincount(strata, values, len(sizes)) / np.maximum(number, 1)
    squares = np.bincount(strata, np.square(values - means[strata]), len(sizes))
    variances = np.where(number > 1, squares / np.maximum(number - 1, 1), float(np.var(values)))
    error = math.sqrt(float(np.sum(weights**2 * variances / np.maximum(number, 1))))
    value = float(weights @ means)
    return Estimate(value, lambda level: normal_interval(value, error, error, level))
