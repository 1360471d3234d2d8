"""Find the hours in which inputs of a model version had drifted, from recorded bins."""

from __future__ import annotations

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_report import thresholds
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.divergence import Floats
from exporter.storage import BlockFilter, RecordedBins

HOUR = 3600
MAX_ROWS = 5_000_000
"""Predictions of an hour whose bins are read: the last ones, if there are more."""
REMEMBERED = 1000
"""Hours of versions whose answer is remembered."""


class DriftingHours:
    """Tells whether the condition of ModelFeatureDrift held for an hour of predictions; used by one thread alone.

    It holds if the divergence of an input from training is above its threshold and above its noise floor.

    Parameters
    ----------
    monitors
        The monitors, which have no predictions.
    bins
        The recorded bins.
    """

    def __init__(self, monitors: MonitorRegistry, bins: RecordedBins) -> None:
        self._monitors, self._bins = monitors, bins
        self._known: dict[tuple[str, str, int], bool] = {}

    def __call__(self, model: str, version: str, received: float) -> bool:
        """Return whether there was drift in the clock hour in which a prediction was received.

        Parameters
        ----------
        model, version
            Of the prediction. Without a profile, or recorded bins, there is no drift.
        received
            Unix time in seconds.
        """
        key = model, version, int(received // HOUR)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._drifted(*key)
        return self._known[key]

    def _drifted(self, model: str, version: str, hour: int) -> bool:
        binner, config = self._monitors.binner(model, version), self._monitors.models.get(model)
        if binner is None or config is None:
            return False
        chosen = BlockFilter(model, binner.layout, version, hour * HOUR, (hour + 1) * HOUR)
        counts = self._counts(binner, chosen)
        observed = np.add.reduceat(counts, binner.starts) if len(binner.starts) else counts
        limits = thresholds(config, binner.target_names)
        drifted = binner.reference.kl_divergence(counts) > np.maximum(limits, binner.profile_noise.training(observed))
        return bool(drifted[: len(binner.names)].any())

    def _counts(self, binner: Binner, chosen: BlockFilter) -> Floats:
        """Return the number of values in each bin, shape ``(B,)``."""
        counts = np.zeros(binner.bins)
        blocks, _ = self._bins.newest(chosen, MAX_ROWS)
        for _, _, _, codes in self._bins.read(blocks, len(binner.targets), binner.code_type):
            flat = codes + binner.starts[:, None]
            counts += np.bincount(flat.ravel(), minlength=binner.bins)[: binner.bins]
        return counts
