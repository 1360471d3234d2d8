"""The accuracy of confident predictions, from users' feedback and reviewed samples of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, floor, lgamma, log, log1p, sqrt
from typing import NamedTuple

Z = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""


class IntervalEstimate(NamedTuple):
    """An estimated share or error with its 95 % confidence interval."""

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
