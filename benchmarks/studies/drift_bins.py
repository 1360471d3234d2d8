"""The bins, scores and noise floors of one training set, by the exporter's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from drift_streams import SHARES

from exporter.monitoring.noise_floors import NoiseFloors
from exporter.profiles.bins import categorical_feature, feature_bins, numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.profile import FILE, GROUPED, Blocks, CategoricalFeature, NumericFeature, Profile
from exporter.stats.divergence import Floats, Reference, chi2_quantiles

if TYPE_CHECKING:
    from drift_streams import Case

THRESHOLD = 0.3
_NAME = "x"


class Bins:
    """The bins of one training set, and the scores of windows, as in the exporter.

    Parameters
    ----------
    training
        The training rows in the order in which they were drawn, shape ``(N,)``.
    case
        Their stream.
    bins
        Number of bins, of numbers.

    Attributes
    ----------
    size
        Number of bins, with those of values that are missing or out of range.
    floors
        The noise floors of a profile of the rows in their order.
    independent
        The noise floors of independent values, which a profile without blocks gives.
    """

    def __init__(self, training: Floats, case: Case, bins: int = 20) -> None:
        self._feature: NumericFeature | CategoricalFeature = (
            categorical_feature({str(code): int((training == code).sum()) for code in range(len(SHARES))}, 0, 0)
            if case.categorical
            else numeric_feature(training.copy(), bins)
        )
        counts = np.array(self._feature.counts, dtype=np.float64)
        self.size = len(counts)
        quantiles = chi2_quantiles(self.size - 1)
        self.reference = Reference.from_counts(counts, [self.size], quantiles)
        self.independent = self._floors(None)
        self.floors = self.floors_of(training)

    def floors_of(self, rows: Floats) -> NoiseFloors:
        """Return the noise floors of a profile of the training rows in another order."""
        builder = BlockBuilder({_NAME: self._feature}, len(rows))
        builder.add({_NAME: self._column(rows)})
        blocks = Blocks(GROUPED) if builder.grouped() else Blocks(FILE, None, tuple(builder.sizes), builder.build())
        return self._floors(blocks)

    def _floors(self, blocks: Blocks | None) -> NoiseFloors:
        rows = int(self.reference.rows[0])
        profile = Profile(name="m", rows=rows, inputs={}, features={_NAME: self._feature}, blocks=blocks)
        return NoiseFloors.from_profile(profile, [_NAME], self.reference, None)

    def _column(self, values: Floats) -> Any:
        if isinstance(self._feature, NumericFeature):
            return values
        return [None if np.isnan(value) else str(int(value)) for value in values.tolist()]

    def places(self, values: Floats) -> npt.NDArray[np.intp]:
        """Return the bin of each value."""
        if isinstance(self._feature, NumericFeature):
            return feature_bins(self._feature, values.ravel()).astype(np.intp).reshape(values.shape)
        codes = [*range(len(SHARES) + 1), np.nan]  # the last but one is the category that training did not have
        places = feature_bins(self._feature, self._column(np.array(codes))).astype(np.intp)
        return np.asarray(places[np.nan_to_num(values, nan=len(codes) - 1).astype(int)])

    def counts(self, windows: Floats) -> Floats:
        """Return the counts, of shape ``(W, K)``, of windows of shape ``(W, n)``."""
        flat = self.places(windows) + self.size * np.arange(len(windows))[:, None]
        return np.bincount(flat.ravel(), minlength=self.size * len(windows)).reshape(-1, self.size).astype(float)

    def score(self, counts: Floats) -> Floats:
        """Return the score of each row of counts, shape ``(W,)``."""
        return self.reference.kl_divergence(counts)[..., 0]

    def alarms(
        self, counts: Floats, threshold: float = THRESHOLD, floors: NoiseFloors | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return whether the score of each row exceeds the threshold and its noise floor."""
        score = self.score(counts)
        floor = (floors or self.floors).training(counts.sum(axis=-1, keepdims=True))[..., 0]
        return (score > threshold) & (score > floor)
