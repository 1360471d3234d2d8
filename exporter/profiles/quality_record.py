"""The part of a profile that says how good the model was on labelled rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from exporter.errors import ProfileError
from exporter.validation import preview

PREDICTION, CONFIDENCE = "(prediction)", "(confidence)"
"""Names of the outputs among the features."""
MAX_COMPONENTS, MAX_RESIDUALS = 4, 20
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(ge=0)]


class BinEffects(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The effect of each bin of a feature on an expected value.

    Attributes
    ----------
    rows
        Number of labelled rows in each of the feature's ``K`` bins.
    values
        What each bin adds.
    variances
        What each bin adds to the variance of the loss; empty where it is not used.
    """

    rows: tuple[_Count, ...]
    values: tuple[float, ...]
    variances: tuple[float, ...] = ()


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How good the model was on labelled rows. The loss of a row is 1 or 0, wrong or right, or the absolute error.

    Attributes
    ----------
    kind
        ``"accuracy"`` of a classifier, or the mean ``"absolute_error"`` of a regression.
    rows
        Number of rows with a prediction and a label that can be compared.
    overall
        Accuracy or mean absolute error over all of them.
    unusable
        Number of rows whose label cannot be compared with a prediction.
    calibration_rows, calibration_right
        Number of labelled rows in each bin of the confidence, and of those that are right; empty for a regression and
        without a confidence.
    sampled
        Number of rows from which everything below was learned.
    components
        For a regression, what the bins of a few features add to the expected error.
    residuals
        Features whose bins go with what the calibration or the components leave unexplained: the mean residual of
        each bin. Where such features shift, the estimate is less certain.
    variance
        For a regression, the variance of the error that the components leave.
    large
        For a regression, an error that 95 % of the rows do not exceed.
    between_periods
        Variance of the mean residual from one period to another; 0 where the times of the rows are not known.
    """

    kind: Literal["accuracy", "absolute_error"]
    rows: _Count
    overall: _Positive
    unusable: _Count = 0
    calibration_rows: tuple[_Count, ...] = ()
    calibration_right: tuple[_Count, ...] = ()
    sampled: _Count = 0
    components: dict[str, BinEffects] = {}
    residuals: dict[str, BinEffects] = {}
    variance: _Positive = 0.0
    large: _Positive = 0.0
    between_periods: _Positive = 0.0

    @property
    def calibrated_rows(self) -> int:
        """Number of labelled rows with a valid confidence, those that the calibration has."""
        return sum(self.calibration_rows[:-2])

    @property
    def calibrated_right(self) -> int:
        """Number of these rows that are right."""
        return sum(self.calibration_right[:-2])

    @property
    def without_confidence(self) -> float:
        """Share of the labelled rows without a valid confidence; 0 without a calibration."""
        rows = sum(self.calibration_rows)
        return 1 - self.calibrated_rows / rows if rows else 0.0


def check_quality(quality: Quality, bins: Mapping[str, int]) -> None:
    """Check that a quality does not contradict itself or its profile.

    Parameters
    ----------
    quality
        The quality.
    bins
        Number of bins of each feature and output of the profile.

    Raises
    ------
    ProfileError
        When it does.
    """
    if quality.kind == "accuracy" and quality.overall > 1:
        raise ProfileError("quality.overall: expected an accuracy from 0 to 1")
    rows, right = quality.calibration_rows, quality.calibration_right
    expected = bins.get(CONFIDENCE, 0)
    if rows and (len(rows) != expected or len(right) != expected or any(map(int.__gt__, right, rows))):
        detail = f"expected {expected} counts, one for each bin of the confidence, and no more right ones than rows"
        raise ProfileError(f"quality.calibration_rows: {detail}")
    for field, effects in (("components", quality.components), ("residuals", quality.residuals)):
        for name, effect in effects.items():
            if name not in bins:
                raise ProfileError(f"quality.{field}: {preview(name)} is not a feature of the profile")
            lengths = {len(effect.rows), len(effect.values), len(effect.variances) or bins[name]}
            if lengths != {bins[name]} or not _are_finite((*effect.values, *effect.variances)):
                raise ProfileError(f"quality.{field}.{name}: expected {bins[name]} numbers, one for each bin")
    if not _are_finite((quality.overall, quality.variance, quality.large, quality.between_periods)):
        raise ProfileError("quality: expected finite numbers")


def _are_finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))
