"""Learn from samples of labelled rows how good a model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from exporter.features.base import is_missing, numeric_column, scalar_text
from exporter.profiles.bins import ExactMoments, RowBins, RowSample, feature_bins
from exporter.profiles.profile import (
    CONFIDENCE,
    MAX_COMPONENTS,
    MAX_RESIDUALS,
    PREDICTION,
    BinEffects,
    Feature,
    NumericFeature,
    Quality,
)
from exporter.stats.divergence import Floats, Ints
from exporter.stats.quality import Effects, LabelledBins, calibrated

LARGE = 0.95
"""Share of the rows that do not exceed `Quality.large`."""
LARGEST_ERROR = 1e75
"""A larger error is not used, so that sums of its fourth power stay finite."""
_CELLS = 20_000_000
_ROWS = 200_000


def most_rows(targets: int) -> int:
    """Return from how many rows at most is learned what goes with the quality, by the number of targets."""
    return max(min(_ROWS, _CELLS // max(targets, 1)), 1)


def learn_accuracy(
    quality: Quality,
    names: Sequence[str],
    labelled: LabelledBins,
    right: Floats,
    in_bin: Floats,
) -> Quality:
    """Return the quality with the calibration, and with the features that go with what it leaves unexplained.

    Parameters
    ----------
    quality
        The quality.
    names
        The targets.
    labelled
        Labelled rows with a valid confidence.
    right
        Whether each of these rows is right, 1 or 0.
    in_bin
        Number of all labelled rows in each bin of the confidence, and of those that are right, shape ``(2, K)``.
    """
    accuracy = np.zeros(in_bin.shape[1])
    accuracy[:-2] = calibrated(*in_bin[:, :-2])
    return _with_residuals(
        quality,
        names,
        labelled,
        labelled.less(right, 0.0, {names.index(CONFIDENCE): accuracy}),
        calibration_rows=tuple(map(int, in_bin[0])),
        calibration_right=tuple(map(int, in_bin[1])),
    )


def learn_error(
    quality: Quality, names: Sequence[str], labelled: LabelledBins, losses: Floats, large: float
) -> Quality:
    """Return the quality with the components of the error, and with the features that go with what they leave.

    Parameters
    ----------
    quality
        The quality.
    names
        The targets.
    labelled
        Labelled rows.
    losses
        The absolute error of each of them.
    large
        An error that `LARGE` of the rows do not exceed.
    """
    chosen = labelled.explaining(losses, MAX_COMPONENTS)
    effects = labelled.fit(losses, chosen)
    residuals = labelled.remaining(losses, chosen, effects)
    squares = np.square(residuals)
    spread = labelled.fit(squares, chosen)
    components = {
        names[target]: _bin_effects(effect, of_square)
        for target, effect, of_square in zip(chosen, effects, spread, strict=True)
    }
    return _with_residuals(
        quality,
        names,
        labelled,
        residuals,
        components=components,
        variance=rounded(labelled.moments(squares).mean),
        large=rounded(large),
    )


def _with_residuals(
    quality: Quality, names: Sequence[str], labelled: LabelledBins, residuals: Floats, **fields: Any
) -> Quality:
    associated = labelled.associated(residuals, MAX_RESIDUALS)
    return msgspec.structs.replace(
        quality,
        residuals={names[target]: _bin_effects(effect) for target, effect in associated.items()},
        between_periods=rounded(labelled.variance_between(residuals)),
        **fields,
    )


def _bin_effects(effect: Effects, of_square: Effects | None = None) -> BinEffects:
    variances = of_square.values.tolist() if of_square else []
    return BinEffects(
        tuple(map(int, effect.rows)), tuple(map(rounded, effect.values.tolist())), tuple(map(rounded, variances))
    )


def rounded(number: float) -> float:
    """Return a number with six digits: enough for an estimate, and short in the file."""
    return float(f"{number:.6g}")


class QualityBuilder:
    """Learn how good a model is from labelled rows, over any number of batches.

    The overall quality and the calibration are those of all rows. The rest is learned from a random sample of at most
    200,000 rows, fewer with many features; the same data give the same sample.

    Parameters
    ----------
    targets
        Frozen bins of the features and outputs, see `exporter.profiles.profile.Profile.targets`.
    """

    def __init__(self, targets: Mapping[str, Feature]) -> None:
        self._targets = targets
        self._bins = RowBins(targets)
        self._names = list(targets)
        self.is_regression = isinstance(targets[PREDICTION], NumericFeature)
        confidence = targets.get(CONFIDENCE)
        self._confidence = confidence if isinstance(confidence, NumericFeature) else None
        size = len(confidence.counts) if confidence else 0
        self._in_bin = np.zeros((2, size))  # labelled rows in each bin of the confidence, and those that are right
        self._rows = self._unusable = 0
        target = targets[PREDICTION]
        self._losses_sum = ExactMoments(0.0, (isinstance(target, NumericFeature) and target.stddev) or 1.0)
        self._sample = RowSample(most_rows(len(targets)))

    def add(
        self,
        predictions: Sequence[Any],
        labels: Sequence[Any],
        confidences: Floats | None,
        times: Sequence[float],
        columns: Callable[[Ints], Mapping[str, Sequence[Any] | Floats]],
        *,
        first: int = 0,
    ) -> None:
        """Add a batch of ``n`` rows.

        Parameters
        ----------
        predictions, labels
            Predictions and labels; None or NaN where there is none.
        confidences
            Confidence of each row, shape ``(n,)``; None where there is no such column.
        times
            When each row arrived, in Unix seconds; NaN where it is not known.
        columns
            Returns the columns of all targets for the rows with the given indices, see `RowBins.indices`.
        first
            Number of the first row.
        """
        losses, labelled = self._losses(predictions, labels)
        usable = np.flatnonzero(np.isfinite(losses))
        self._unusable += labelled - len(usable)
        self._rows += len(usable)
        losses = losses[usable]
        self._losses_sum.add(losses)
        if self._confidence and confidences is not None and not self.is_regression:
            bins = feature_bins(self._confidence, confidences[usable])
            size = self._in_bin.shape[1]
            self._in_bin += np.bincount(bins, minlength=size), np.bincount(bins, 1 - losses, size)
        chosen = self._sample.choose(first + usable)
        rows = usable[chosen]
        if len(rows):
            bins = self._bins.indices(columns(rows), len(rows))
            self._sample.add(first + rows, [losses[chosen], np.array(times)[rows], bins])

    def merge(self, later: QualityBuilder) -> None:
        """Add the rows of another builder."""
        self._in_bin += later._in_bin
        self._rows += later._rows
        self._unusable += later._unusable
        self._losses_sum.merge(later._losses_sum)
        self._sample.merge(later._sample)

    def _losses(self, predictions: Sequence[Any], labels: Sequence[Any]) -> tuple[Floats, int]:
        """Return the loss of each row, NaN where it has none, and how many rows have a prediction and a label."""
        if self.is_regression:
            predicted, actual = numeric_column(predictions), numeric_column(labels)
            with np.errstate(over="ignore", invalid="ignore"):
                losses = abs(predicted - actual)
            losses[~(losses <= LARGEST_ERROR)] = np.nan
            return losses, int((~np.isnan(predicted) & ~np.isnan(actual)).sum())
        present = [not (is_missing(a) or is_missing(b)) for a, b in zip(predictions, labels, strict=True)]
        pairs = zip(map(_text, predictions), map(_text, labels), present, strict=True)
        return (
            np.array([np.nan if not known or None in (a, b) else float(a != b) for a, b, known in pairs], dtype=float),
            sum(present),
        )

    def build(self) -> Quality | None:
        """Return the quality; None without labelled rows."""
        if not self._rows:
            return None
        columns = self._sample.columns()
        order = np.argsort(columns[1], kind="stable")
        losses, times, bins = (column[..., order] for column in columns)
        mean, size = self._losses_sum.read()[0], len(losses)
        if self.is_regression:
            quality = Quality("absolute_error", self._rows, rounded(mean), self._unusable, sampled=size)
            labelled = LabelledBins(bins, self._bins.sizes, int(np.isfinite(times).sum()))
            return learn_error(quality, self._names, labelled, losses, float(np.quantile(losses, LARGE)))
        quality = Quality("accuracy", self._rows, rounded(1 - mean), self._unusable, sampled=size)
        if not self._confidence:
            return quality
        known = bins[self._names.index(CONFIDENCE)] < self._in_bin.shape[1] - 2
        labelled = LabelledBins(bins[:, known], self._bins.sizes, int(np.isfinite(times[known]).sum()))
        return learn_accuracy(quality, self._names, labelled, 1 - losses[known], self._in_bin)


def _text(value: Any) -> str | None:
    """Return the text by which labels are compared; None for a value that is no label."""
    return scalar_text(value) if isinstance(value, str | bool | int | float) else None
