"""Measure the correlation of features in training data of any size, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from exporter.profiles.block_record import CorrelationScores
from exporter.profiles.correlation import Copula, score_variance
from exporter.profiles.correlation_blocks import CorrelationBlocks
from exporter.profiles.profile import Correlation, Feature, NumericFeature
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints

MAX_FEATURES = 32
"""Only the first features of a profile are compared, so that memory and time stay small."""
_MIN_VARIANCE = 0.25  # of the scores; below it a feature is nearly constant: one value in more than 90 % of the rows
_MAX_EMPTY = 0.05  # share of rows without a value; only complete rows count, so such a feature would cost too many
GROUPS = 20
"""Groups to which rows are dealt."""


class CorrelationBuilder:
    """Measure the correlation of features over any number of batches.

    Rows are dealt to 20 groups in turn. The scale of the noise floor is how much the groups differ from all rows,
    relative to groups of a normal copula.

    Parameters
    ----------
    features
        All features of the profile, their bins frozen.
    ordered_rows
        Number of rows that will be added in the order in which they arrived; 0 if they have no such order.

    Attributes
    ----------
    names
        The features that are compared.
    """

    def __init__(self, features: Mapping[str, Feature], ordered_rows: int = 0) -> None:
        chosen = {
            name: feature
            for name, feature in features.items()
            if isinstance(feature, NumericFeature) and _is_compared(feature)
        }
        self.names = tuple(chosen)[:MAX_FEATURES]
        self._features = [chosen[name] for name in self.names]
        self._copula = Copula(self._features)
        self._groups = np.zeros((GROUPS, self._copula.width))
        self._rows = 0
        self._blocks = CorrelationBlocks(self._copula, len(self.names), ordered_rows)
        self._scores: Floats = np.empty((0, 0))

    def add(self, columns: Mapping[str, Floats], bins: Mapping[str, BinIndices] = MappingProxyType({})) -> None:
        """Add a batch: columns of ``n`` numbers of at least the features in `names`; see `Copula.sums`.

        Bins of the numbers are found, where they are not given; see `exporter.stats.digitize.bin_indices`.
        """
        if len(self.names) < 2:
            return
        chosen = [columns[name] for name in self.names]
        rows = len(chosen[0])
        if self._scores.shape[1] < rows:
            self._scores = np.empty((len(chosen), rows))
        scores = self._scores[:, :rows]
        complete = np.ones(rows, dtype=np.bool_)
        for index, column in enumerate(chosen):
            complete &= np.isfinite(column)
            found = bins.get(self.names[index])
            inner = None if found is None else np.minimum(found, len(self._features[index].edges))[None]
            scores[index] = self._copula.scores(column[None], inner, slice(index, index + 1))
        all_complete = complete.all()
        for group in range(GROUPS):
            rows_of_group = slice((group - self._rows) % GROUPS, None, GROUPS)
            part = scores[:, rows_of_group]
            part = np.ascontiguousarray(part) if all_complete else part.compress(complete[rows_of_group], axis=1)
            self._groups[group] += self._copula.sum_scores(part)
        self._blocks.add(scores, complete)
        self._rows += rows

    def add_sums(self, groups: Ints, sums: Floats) -> None:
        """Add rows of sums that were computed elsewhere, see `Copula.sums`, to the groups with the given numbers."""
        self._groups[groups] += sums

    def build(self) -> Correlation | None:
        """Return the correlation; None where fewer than two features vary, or too few rows are complete."""
        size = len(self.names)
        if size < 2:
            return None
        sums = self._groups.sum(axis=0)
        correlation, _ = self._copula.correlation(sums)
        rows = int(sums[0])
        if not np.isfinite(correlation).all() or rows < 2 * size:
            return None
        lower = tuple(np.round(correlation[np.tril_indices(size, -1)], 6).tolist())
        unscaled = Correlation(self.names, rows, 1.0, lower)
        return Correlation(self.names, rows, round(self._scale(unscaled), 4), lower)

    def build_blocks(self, training: Correlation) -> CorrelationScores | None:
        """Return the scores of blocks of consecutive rows, compared with the correlation of all."""
        return self._blocks.build(Copula(self._features, training), training)

    def _scale(self, training: Correlation) -> float:
        size = len(self.names)
        groups = next((g for g in (20, 10, 5, 4) if training.rows / g >= max(50, 4 * size)), 0)
        copula = Copula(self._features, training)
        excess = []
        for group in range(groups):
            sums = self._groups[group::groups].sum(axis=0)
            score, _ = copula.score(sums)
            if not np.isnan(score) and sums[0] < training.rows:
                difference = 1 / sums[0] - 1 / training.rows  # the group is part of the training rows
                expected = (sums[0] / (sums[0] + size)) ** 2 * size * (size - 1) / 4 * difference
                excess.append(score / expected)
        return max(1.0, float(np.mean(excess))) if excess else 1.0


def measure_correlation(columns: Mapping[str, Floats], features: Mapping[str, Feature]) -> Correlation | None:
    """Return the correlation of the features of a training set that is in memory; see `CorrelationBuilder`.

    >>> from exporter.profiles.bin_edges import numeric_feature
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=2000)
    >>> columns = {"x": x, "copy": np.exp(x), "alone": rng.normal(size=2000)}
    >>> result = measure_correlation(columns, {name: numeric_feature(column) for name, column in columns.items()})
    >>> [abs(round(value, 1)) for value in result.values]
    [1.0, 0.0, 0.0]
    """
    builder = CorrelationBuilder(features)
    builder.add(columns)
    return builder.build()


def _is_compared(feature: NumericFeature) -> bool:
    empty = sum(feature.counts[-2:])
    return empty <= _MAX_EMPTY * sum(feature.counts) and score_variance(feature) > _MIN_VARIANCE
