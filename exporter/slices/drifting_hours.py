"""Find the hours in which inputs of a model version had drifted, from recorded bins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sqlalchemy as sa

from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_report import thresholds
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.divergence import Floats
from exporter.storage._bins import BlockFilter, list_blocks, read_blocks

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
        Returns the current monitors.
    """

    def __init__(self, monitors: Callable[[], MonitorRegistry]) -> None:
        self._monitors = monitors
        self._known: dict[tuple[str, str, int], bool] = {}

    def __call__(self, connection: sa.Connection, model: str, version: str, received: float) -> bool:
        """Return whether there was drift in the clock hour in which a prediction was received.

        Parameters
        ----------
        connection
            To read with.
        model, version
            Of the prediction. Without a profile, or recorded bins, there is no drift.
        received
            Unix time in seconds.
        """
        key = model, version, int(received // HOUR)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._drifted(connection, *key)
        return self._known[key]

    def _drifted(self, connection: sa.Connection, model: str, version: str, hour: int) -> bool:
        monitors = self._monitors()
        binner, config = monitors.binner(model, version), monitors.models.get(model)
        if binner is None or config is None:
            return False
        chosen = BlockFilter(model, binner.layout, version, hour * HOUR, (hour + 1) * HOUR)
        counts = _counts(connection, binner, chosen)
        observed = np.add.reduceat(counts, binner.starts) if len(binner.starts) else counts
        limits = thresholds(config, binner.target_names)
        drifted = binner.reference.kl_divergence(counts) > np.maximum(limits, binner.profile_noise.training(observed))
        return bool(drifted[: len(binner.names)].any())


def _counts(connection: sa.Connection, binner: Binner, chosen: BlockFilter) -> Floats:
    """Return the number of values in each bin, shape ``(B,)``."""
    counts = np.zeros(binner.bins)
    blocks, _ = list_blocks(connection, chosen, MAX_ROWS)
    for _, _, _, codes in read_blocks(connection, blocks, len(binner.targets), binner.code_type):
        flat = codes + binner.starts[:, None]
        counts += np.bincount(flat.ravel(), minlength=binner.bins)[: binner.bins]
    return counts
