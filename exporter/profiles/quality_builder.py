"""Learn from labelled rows how good a model is, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exporter.features.extract import is_missing, numeric_column, scalar_text
from exporter.profiles.profile import Feature, NumericFeature
from exporter.profiles.quality_learning import LARGE, LARGEST_ERROR, learn_accuracy, learn_error, most_rows, rounded
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION, Quality
from exporter.profiles.row_bins import RowBins, feature_bins
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints
from exporter.stats.labelled_bins import BinArrays


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
