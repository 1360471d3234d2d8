"""Find the frozen bins of each row, for what is learned from single rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.extract import category_bins
from exporter.profiles.profile import CategoricalFeature, Feature
from exporter.stats.digitize import BinIndices, bin_indices
from exporter.stats.divergence import Floats


class RowBins:
    """The bins of some features, or of other targets.

    Parameters
    ----------
    features
        Frozen bins of ``T`` features by name.

    Attributes
    ----------
    sizes
        Number of bins of each feature, in their order.
    """

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self._features = features
        self.sizes = [len(feature.counts) for feature in features.values()]

    def indices(self, columns: Mapping[str, Sequence[Any] | Floats], rows: int) -> BinIndices:
        """Return the bin of each value, in the order of `NumericFeature.counts` and `CategoricalFeature.counts`.

        Parameters
        ----------
        columns
            Columns of ``rows`` values by the feature's name: an array of numbers, in which NaN is missing and an
            infinity is invalid, or a list of categories.
        rows
            Number of rows.

        Returns
        -------
        ndarray
            Shape ``(T, rows)``.
        """
        result = np.empty((len(self._features), rows), dtype=np.int16)
        for row, (name, feature) in zip(result, self._features.items(), strict=True):
            row[:] = feature_bins(feature, columns[name])
        return result


def feature_bins(feature: Feature, values: Sequence[Any] | Floats) -> BinIndices:
    """Return the bin of each of ``n`` values of a feature, shape ``(n,)``; see `RowBins.indices`.

    >>> from exporter.profiles.profile import NumericFeature
    >>> feature_bins(NumericFeature((0.0, 1.0), (0, 1, 0, 0, 0)), np.array([-1, 0.5, 9, np.nan, np.inf])).tolist()
    [0, 1, 2, 3, 4]
    """
    if isinstance(feature, CategoricalFeature):
        known = {name: index for index, name in enumerate(feature.categories)}
        return category_bins(values, known, feature.rare).astype(np.int16)
    numbers = np.asarray(values, dtype=np.float64)
    if feature.precision:
        with np.errstate(over="ignore"):
            single = numbers.astype(np.float32).astype(np.float64)
        numbers = np.where(np.isinf(single), numbers, single)
    bins: BinIndices = bin_indices(np.array(feature.edges)[:, None], numbers[None])[0]
    if len(feature.edges) + 4 > np.iinfo(bins.dtype).max:  # two more than there are bins, which callers may use
        bins = bins.astype(np.int16)
    finite = np.isfinite(numbers)
    if not finite.all():
        bins[~finite] = len(feature.edges) + 2
        bins[np.isnan(numbers)] = len(feature.edges) + 1
    return bins
