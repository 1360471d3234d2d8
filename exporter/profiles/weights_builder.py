"""Learn from training rows with predictions how much these depend on each feature, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.profiles.profile import CategoricalFeature, Feature
from exporter.profiles.quality_record import PREDICTION
from exporter.profiles.row_bins import RowBins
from exporter.profiles.weights_record import FeatureWeight, Weights
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints
from exporter.stats.feature_weights import measure_weights

_ROWS = 20_000
_CELLS = 5_000_000  # fewer rows with more than 250 features
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
        self.most = min(rows, _ROWS, max(_CELLS // (len(features) + 1), 1))
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
