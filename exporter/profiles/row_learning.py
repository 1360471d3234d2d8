"""Learn the quality from binned labelled rows, in the same way for files and for tables of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from exporter.features.extract import is_missing, numeric_column, scalar_text
from exporter.profiles.bins import RowBins, feature_bins
from exporter.profiles.profile import (
    CONFIDENCE,
    MAX_COMPONENTS,
    MAX_RESIDUALS,
    PREDICTION,
    BinEffects,
    CategoricalFeature,
    Feature,
    FeatureWeight,
    NumericFeature,
    Quality,
    Weights,
)
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints
from exporter.stats.feature_weights import measure_weights
from exporter.stats.labelled_bins import BinArrays, Effects, LabelledBins
from exporter.stats.quality import calibrated

LARGE = 0.95
"""Share of the rows that do not exceed `Quality.large`."""
LARGEST_ERROR = 1e75
"""A larger error is not used, so that sums of its fourth power stay finite."""
_CELLS = 20_000_000
_ROWS = 200_000
_Values = TypeVar("_Values")


def most_rows(targets: int) -> int:
    """Return from how many rows at most is learned what goes with the quality, by the number of targets."""
    return max(min(_ROWS, _CELLS // max(targets, 1)), 1)


def learn_accuracy(
    quality: Quality,
    names: Sequence[str],
    labelled: LabelledBins[_Values],
    right: _Values,
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
    quality: Quality, names: Sequence[str], labelled: LabelledBins[_Values], losses: _Values, large: float
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
    squares = labelled.squares(residuals)
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
    quality: Quality, names: Sequence[str], labelled: LabelledBins[_Values], residuals: _Values, **fields: Any
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


class _Sample(NamedTuple):
    """Rows of the sample: priorities, losses, times ``(n,)``, and bins ``(T, n)``."""

    priorities: Floats
    losses: Floats
    times: Floats
    bins: BinIndices

    def take(self, chosen: Ints) -> _Sample:
        return _Sample(self.priorities[chosen], self.losses[chosen], self.times[chosen], self.bins[:, chosen])


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
        self._total = 0.0
        self._most = most_rows(len(targets))
        self._random = np.random.default_rng(0)
        self._threshold = np.inf
        self._sample: list[_Sample] = []

    def add(
        self,
        predictions: Sequence[Any],
        labels: Sequence[Any],
        confidences: Floats | None,
        times: Sequence[float],
        columns: Callable[[Ints], Mapping[str, Sequence[Any] | Floats]],
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
        """
        losses, labelled = self._losses(predictions, labels)
        usable = np.flatnonzero(np.isfinite(losses))
        self._unusable += labelled - len(usable)
        self._rows += len(usable)
        losses = losses[usable]
        self._total += float(losses.sum())
        if self._confidence and confidences is not None and not self.is_regression:
            bins = feature_bins(self._confidence, confidences[usable])
            size = self._in_bin.shape[1]
            self._in_bin += np.bincount(bins, minlength=size), np.bincount(bins, 1 - losses, size)
        priorities = self._random.random(len(usable))
        chosen = np.flatnonzero(priorities < self._threshold)
        rows = usable[chosen]
        if len(rows):
            bins = self._bins.indices(columns(rows), len(rows))
            self._sample.append(_Sample(priorities[chosen], losses[chosen], np.array(times)[rows], bins))
            if sum(len(part.losses) for part in self._sample) > 2 * self._most:
                self._thin()

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

    def _thin(self) -> _Sample:
        """Keep the rows of the sample with the lowest priorities, and return them in the order of the file."""
        parts = self._sample
        sample = _Sample(
            np.concatenate([part.priorities for part in parts]),
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.bins for part in parts], axis=1),
        )
        if len(sample.losses) > self._most:
            kept = np.sort(np.argpartition(sample.priorities, self._most - 1)[: self._most])
            sample = sample.take(kept)
            self._threshold = float(sample.priorities.max())
        self._sample = [sample]
        return sample

    def build(self) -> Quality | None:
        """Return the quality; None without labelled rows."""
        if not self._rows:
            return None
        sample = self._thin()
        sample = sample.take(np.argsort(sample.times, kind="stable"))
        mean, size = self._total / self._rows, len(sample.losses)
        if self.is_regression:
            quality = Quality("absolute_error", self._rows, rounded(mean), self._unusable, sampled=size)
            large = float(np.quantile(sample.losses, LARGE))
            return learn_error(quality, self._names, self._labelled(sample), sample.losses, large)
        quality = Quality("accuracy", self._rows, rounded(1 - mean), self._unusable, sampled=size)
        if not self._confidence:
            return quality
        sample = sample.take(np.flatnonzero(sample.bins[self._names.index(CONFIDENCE)] < self._in_bin.shape[1] - 2))
        return learn_accuracy(quality, self._names, self._labelled(sample), 1 - sample.losses, self._in_bin)

    def _labelled(self, sample: _Sample) -> BinArrays:
        return BinArrays(sample.bins, self._bins.sizes, int(np.isfinite(sample.times).sum()))


def _text(value: Any) -> str | None:
    """Return the text by which labels are compared; None for a value that is no label."""
    return scalar_text(value) if isinstance(value, str | bool | int | float) else None


_WEIGHT_ROWS = 20_000
_WEIGHT_CELLS = 5_000_000  # fewer rows with more than 250 features
_LEAST_ROWS = 500
_LEAST_ROWS_PER_FEATURE = 10
_LEAST_OTHER = 100  # rows whose answer is not the most frequent one
_MOST_CLASSES = 8


class WeightsBuilder:
    """Learn how much a model's answers depend on each feature, over any number of batches.

    It is learned from at most 20,000 rows, one drawn from each of as many equal parts of the data. The same data give
    the same rows.

    Parameters
    ----------
    features
        Frozen bins of the features.
    prediction
        Those of the prediction.
    rows
        Number of rows that will be added.

    Attributes
    ----------
    most
        From how many of them it is learned, at most.
    """

    def __init__(self, features: Mapping[str, Feature], prediction: Feature, rows: int) -> None:
        self._names, self._prediction = [*features], prediction
        self._bins = RowBins({**features, PREDICTION: prediction})
        self.most = min(rows, _WEIGHT_ROWS, max(_WEIGHT_CELLS // (len(features) + 1), 1))
        edges = np.linspace(0, rows, self.most + 1).astype(np.intp)
        self._chosen: Ints = np.random.default_rng(0).integers(edges[:-1], edges[1:])
        self._rows = 0
        self._sample: list[BinIndices] = []

    def add(self, rows: int, columns: Callable[[Ints], Mapping[str, Sequence[Any] | Floats]]) -> None:
        """Add a batch.

        Parameters
        ----------
        rows
            Number of its rows.
        columns
            Returns the columns of the features and of the prediction for the rows of the batch with the given indices,
            see `RowBins.indices`.
        """
        first, last = self._chosen.searchsorted([self._rows, self._rows + rows])
        chosen = self._chosen[first:last] - self._rows
        self._rows += rows
        if len(chosen):
            self._sample.append(self._bins.indices(columns(chosen), len(chosen)))

    def add_bins(self, bins: BinIndices) -> None:
        """Add rows that were chosen elsewhere: the bins of features, then those of the prediction, ``(T + 1, n)``."""
        self._sample.append(bins)

    def build(self) -> Weights | None:
        """Return the weights; None with too few rows with a prediction, or if nearly all predictions are the same."""
        if not self._sample:
            return None
        bins: BinIndices = np.concatenate(self._sample, axis=1, dtype=np.int16)
        bins = bins[:, bins[-1] < self._bins.sizes[-1] - 2]  # neither missing nor invalid
        counts = np.bincount(bins[-1], minlength=self._bins.sizes[-1])
        rows = bins.shape[1]
        if not self._names or rows < max(_LEAST_ROWS, _LEAST_ROWS_PER_FEATURE * len(self._names)):
            return None
        if rows - counts.max() < _LEAST_OTHER:
            return None
        classes = isinstance(self._prediction, CategoricalFeature)
        answers = _indicators(bins[-1], counts) if classes else _ranks(counts)[bins[-1]][None]
        found = measure_weights(bins[:-1], self._bins.sizes[:-1], answers, classes=classes)
        weights = zip(found.weights.tolist(), found.upper.tolist(), strict=True)
        return Weights(
            rows,
            _rounded(found.fidelity),
            {
                name: FeatureWeight(_rounded(weight), _rounded(upper))
                for name, (weight, upper) in zip(self._names, weights, strict=True)
            },
        )


def _ranks(counts: Ints) -> Floats:
    """Return the share of the rows below the middle of each bin."""
    ranks: Floats = (np.cumsum(counts) - counts / 2) / counts.sum()
    return ranks


def _indicators(predictions: BinIndices, counts: Ints) -> Floats:
    """Return for each of the most frequent classes whether a prediction is it; for one of two classes, that is all."""
    frequent = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
    frequent = frequent[counts[frequent] > 0]
    if np.count_nonzero(counts) == 2:
        frequent = frequent[:1]
    indicators: Floats = (predictions == frequent[:, None]).astype(np.float64)
    return indicators


def _rounded(share: float) -> float:
    """Return a share with four digits after the point: enough for an estimate, and short in the file."""
    return round(share, 4)
