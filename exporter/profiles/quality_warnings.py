"""Warn of labelled rows that make an estimate of the quality useless or wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from exporter.profiles.profile import NumericFeature, Profile
from exporter.profiles.quality_estimator import LEAST_ROWS
from exporter.profiles.quality_record import Quality
from exporter.stats.quality import calibrated

_FEW_ROWS = 500
_LEAST_RANGE = 0.02
_MOST_WITHOUT_CONFIDENCE = 0.05
_REVERSED = -3.0  # standard deviations of a correlation by chance


def label_warnings(profile: Profile) -> Iterator[str]:
    """Yield a line for each thing that makes the labels of a profile useless, with what to change."""
    quality = profile.quality
    if not quality:
        yield "no row has both a prediction and a label that can be compared with it, so no quality is known"
        return
    regression = quality.kind == "absolute_error"
    if quality.unusable:
        expected = "are not numbers, as the predictions are" if regression else "are neither text nor numbers"
        yield f"{quality.unusable} labels {expected}, and are left out"
    if quality.rows < LEAST_ROWS:
        yield f"only {quality.rows} rows have a label: with fewer than {LEAST_ROWS} nothing is estimated"
        return
    if quality.rows < _FEW_ROWS:
        yield f"{quality.rows} labelled rows are few: with at least {_FEW_ROWS} the intervals are narrower"
    if quality.overall == (0.0 if regression else 1.0):
        yield "every prediction is right: label rows that the model was not fitted on"
    elif quality.overall == 0.0:
        yield "no label equals its prediction: write both in the same way, such as 1 and 1, not 1 and yes"
    elif not regression:
        yield from _confidence(profile, quality)


def without_confidence(quality: Quality) -> str:
    """Say which part of the labelled rows is left out because it has no confidence; nothing where that is 5 % or less.

    Parameters
    ----------
    quality
        A classifier's.
    """
    rows, right = quality.calibrated_rows, quality.calibrated_right
    if quality.without_confidence <= _MOST_WITHOUT_CONFIDENCE or not rows:
        return ""
    return (
        f"{100 * quality.without_confidence:.1f} % of the labelled rows have no valid confidence, and are left out of "
        f"estimates and of what these are compared with: {100 * right / rows:.1f} % of the others are right, "
        f"{100 * quality.overall:.1f} % of all"
    )


def _confidence(profile: Profile, quality: Quality) -> Iterator[str]:
    """Yield what makes the calibration useless."""
    if not isinstance(profile.confidence, NumericFeature):
        yield "without a confidence, accuracy cannot be estimated for rows without labels: set --confidence-column"
        return
    rows = np.array(quality.calibration_rows[:-2], dtype=np.float64)
    right = np.array(quality.calibration_right[:-2], dtype=np.float64)
    if not rows.sum():
        yield "no labelled row has a confidence, so accuracy cannot be estimated for rows without labels"
        return
    if left_out := without_confidence(quality):
        yield f"{left_out}: give every prediction a confidence"
    if np.ptp(calibrated(rows, right)) < _LEAST_RANGE:
        if _correlation(rows, right) * np.sqrt(rows.sum()) < _REVERSED:
            yield "predictions with a higher confidence are wrong more often: check that the confidence is not reversed"
        else:
            yield "the confidence says nothing about which predictions are right: all estimates will be nearly equal"


def _correlation(rows: np.ndarray, right: np.ndarray) -> float:
    """Return the correlation of the confidence's rank and of being right."""
    total = rows.sum()
    rank = (np.cumsum(rows) - rows / 2) / total
    mean, accuracy = rank @ rows / total, right.sum() / total
    variance = (rank - mean) ** 2 @ rows / total
    covariance = (rank - mean) @ right / total
    spread = np.sqrt(variance * accuracy * (1 - accuracy))
    return float(covariance / spread) if spread > 0 else 0.0
