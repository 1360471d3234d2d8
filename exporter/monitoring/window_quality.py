"""The measured quality in a window, computed from its row of sums."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.accuracy import IntervalEstimate, Z, calibration_error_by_chance, wilson
from exporter.stats.divergence import Floats

CONFIDENCE_BINS = 10
"""Bins of equal width for the calibration error."""
PERIODS = 10
"""The longest window is divided into so many periods, in each of which the calibration is compared with labels."""
MIN_ERRORS = 20
"""With fewer errors their mean has no interval: it would be too narrow. A period with fewer labels is left out."""
_ROUNDING = 1e-9
_PREDICTIONS, _CLASSES, _RIGHT, _NUMBERS, _ABSOLUTE, _SQUARED = range(6)
_EXPECTED = slice(6, 10)  # predictions with an expected accuracy, those that are right, its sum, and its variance
_BINS = 10  # then, by bin of the confidence: predictions, the sum of their confidences, and those that are right
WIDTH = _BINS + 3 * CONFIDENCE_BINS
"""Number of sums of a window."""


def sums_of_labels(losses: Floats, numbers: npt.NDArray[np.bool_], confidences: Floats, expected: Floats) -> Floats:
    """Return what each label adds to the sums of a window, shape ``(n, WIDTH)``."""
    rows = np.zeros((len(losses), WIDTH))
    usable = ~np.isnan(losses)
    classes = usable & ~numbers
    right = classes & (losses == 0)
    errors = np.where(usable & numbers, losses, 0.0)
    rows[:, _CLASSES], rows[:, _RIGHT] = classes, right
    rows[:, _NUMBERS], rows[:, _ABSOLUTE], rows[:, _SQUARED] = usable & numbers, errors, errors**2
    known = classes & ~np.isnan(expected) & ~np.isnan(confidences)
    chances = np.where(known, expected, 0.0)
    rows[:, _EXPECTED] = np.stack((known, known & right, chances, chances * (1 - chances)), axis=1)
    rated = np.flatnonzero(classes & ~np.isnan(confidences))
    bins = _BINS + np.minimum((confidences[rated] * CONFIDENCE_BINS).astype(np.intp), CONFIDENCE_BINS - 1)
    rows[rated, bins] = 1.0
    rows[rated, bins + CONFIDENCE_BINS] = confidences[rated]
    rows[rated, bins + 2 * CONFIDENCE_BINS] = right[rated]
    return rows


class WindowQuality(NamedTuple):
    """The measured quality in a window. A figure of nothing is NaN, or None if it has an interval.

    Attributes
    ----------
    predictions, labelled
        Predictions that arrived in the window, and those made in the window whose label is known.
    accuracy
        Share of the labelled classes that are right, with its 95 % interval.
    calibration_error
        Expected calibration error of the confidences (M. P. Naeini, G. Cooper and M. Hauskrecht, *Obtaining well
        calibrated probabilities using Bayesian binning*, AAAI 2015), 0 to 1.
    rated
        Labelled predictions by bin of their confidence, and the sums of these confidences.
    absolute_error
        Mean absolute error of the labelled numbers, with its 95 % interval; the ends are NaN with fewer than
        `MIN_ERRORS`, and if rounding has made the sum of squares impossible.
    squared_error
        Root of the mean squared error; NaN in the second case.
    expected, expected_variance
        Accuracy that the profile's calibration had expected of the labelled predictions, and the variance by chance of
        what would be measured if the calibration were exact.
    compared
        Accuracy of exactly these predictions.
    """

    predictions: float
    labelled: float
    accuracy: IntervalEstimate | None
    calibration_error: float
    rated: tuple[list[float], list[float]]
    absolute_error: IntervalEstimate | None
    squared_error: float
    expected: float
    expected_variance: float
    compared: float

    @property
    def unlabelled(self) -> float:
        """Number of predictions whose label is not known yet."""
        return max(self.predictions - self.labelled, 0.0)

    @property
    def calibration_error_by_chance(self) -> float:
        """The calibration error to expect of as many labels if the confidences are exact; NaN without confidences."""
        return calibration_error_by_chance(*self.rated) if sum(self.rated[0]) > 0 else math.nan


def window_quality(row: Floats) -> WindowQuality:
    """Return the quality in a window, given its sums, shape ``(WIDTH,)``."""
    # A change of the clock may take away what another sub-window counted: then a sum is below 0.
    predictions, classes, right, numbers, absolute, squared = np.maximum(row[: _EXPECTED.start], 0.0).tolist()
    known, known_right, expected, variance = np.maximum(row[_EXPECTED], 0.0).tolist()
    rated, confidences, rated_right = row[_BINS:].reshape(3, CONFIDENCE_BINS)
    return WindowQuality(
        predictions=predictions,
        labelled=classes + numbers,
        accuracy=wilson(round(min(right, classes)), round(classes)) if classes else None,
        calibration_error=_share(float(np.abs(rated_right - confidences).sum()), float(rated.sum())),
        rated=(rated.tolist(), confidences.tolist()),
        absolute_error=_mean_error(numbers, absolute, squared) if numbers else None,
        squared_error=math.sqrt(squared / numbers) if numbers and _are_exact(numbers, absolute, squared) else math.nan,
        expected=_share(expected, known),
        expected_variance=variance / known**2 if known else math.nan,
        compared=_share(known_right, known),
    )


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else math.nan


def _mean_error(numbers: float, absolute: float, squared: float) -> IntervalEstimate:
    mean = absolute / numbers
    if numbers < MIN_ERRORS or not _are_exact(numbers, absolute, squared):
        return IntervalEstimate(mean, math.nan, math.nan)
    variance = max(squared / numbers - mean**2, 0.0) * numbers / (numbers - 1)
    half = Z * math.sqrt(variance / numbers)
    return IntervalEstimate(mean, max(mean - half, 0.0), mean + half)


def _are_exact(numbers: float, absolute: float, squared: float) -> bool:
    """Return whether a sum of squares is possible. A huge error that was added and taken away leaves its rounding."""
    return squared / numbers >= (1 - _ROUNDING) * (absolute / numbers) ** 2


def past_variance(rows: Floats) -> float:
    """Return how far the calibration was off in past periods: a variance to add to that of an estimated accuracy.

    Each period's accuracy is compared with what the calibration had expected of the same predictions.

    Parameters
    ----------
    rows
        Sums of ``k`` periods, shape ``(k, WIDTH)``.
    """
    known, right, expected, variance = rows[rows[:, _EXPECTED.start] >= MIN_ERRORS, _EXPECTED].T
    return miss_variance((right - expected) / known, np.maximum(variance, 0.0) / known**2)


def miss_variance(misses: Floats, chance: Floats) -> float:
    """Return the mean of the squared misses of estimates, beyond what chance explains.

    From the mean of the squares their mean by chance is subtracted, and one standard deviation of it by chance, so
    that the result is mostly 0 where estimates are right. Misses in one direction count in full: no mean is subtracted.

    Parameters
    ----------
    misses
        Measured less estimated quality in each of ``k`` periods.
    chance
        Variance of each by chance.

    Examples
    --------
    >>> round(miss_variance(np.array([0.1, -0.1]), np.array([0.001, 0.001])), 6)
    0.008
    >>> miss_variance(np.array([0.03, -0.03]), np.array([0.001, 0.001]))
    0.0
    """
    if not len(misses):
        return 0.0
    by_chance = float(chance.mean()) * (1 + math.sqrt(2 / len(misses)))
    return max(float((misses**2).mean()) - by_chance, 0.0)


def sums_of_arrivals(predictions: int) -> Floats:
    """Return what predictions that arrive add to the sums of a window, shape ``(WIDTH,)``."""
    row = np.zeros(WIDTH)
    row[_PREDICTIONS] = predictions
    return row
