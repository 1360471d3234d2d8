"""The accuracy of confident predictions, from users' feedback and a reviewed sample of the rest."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

Z = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""


class Estimate(NamedTuple):
    """A share with its 95 % confidence interval."""

    value: float
    lower: float
    upper: float


def wilson(right: int, decided: int) -> Estimate:
    """Return the share of a random sample with its score interval (Wilson, 1927).

    >>> [round(number, 4) for number in wilson(45, 50)]
    [0.9, 0.7864, 0.9565]
    """
    share, spread = right / decided, Z * Z / decided
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * sqrt(share * (1 - share) / decided + spread / decided / 4)
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0))


def estimate_accuracy(population: int, known: int, known_right: int, decided: int, right: int) -> Estimate:
    """Return the accuracy of all confident predictions, estimated in two strata.

    Predictions with feedback are known; the others are estimated from a random sample. With K of N predictions known, R
    of them right, and the share p of the sample that is right, the accuracy is (R + (N - K) p) / N. The bounds are
    those of p in its place.

    Of 1000 predictions 20 were corrected by users, and of 50 sampled others 45 are right: 0.98 times 0.9 is 0.882.

    >>> [round(number, 4) for number in estimate_accuracy(1000, 20, 0, 50, 45)]
    [0.882, 0.7707, 0.9374]

    Parameters
    ----------
    population
        Number of confident predictions, N; at least K.
    known, known_right
        Number of predictions with feedback, K, and of those that were right, R.
    decided, right
        Number of sampled others that a reviewer decided, at least 1, and of those that were right.
    """
    rest = max(population - known, 0)
    return Estimate(
        *((known_right + rest * share) / (known + rest) if known + rest else share for share in wilson(right, decided))
    )
