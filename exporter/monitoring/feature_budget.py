"""How many features of a model version have drifted, with one budget of false alarms for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from exporter.config import ModelConfig
from exporter.monitoring.drift_report import thresholds
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.window_stats import WindowStats
from exporter.stats.divergence import Floats
from exporter.stats.multiple_tests import adjusted_p_values

LOOKS = 10
"""How many independent windows give as many false alarms as one window that slides by its length.

Simulated, see the documentation's section "Many features".
"""


class FeatureCount(NamedTuple):
    """The number of drifted features, and of compared ones."""

    drifted: float
    compared: float


def false_alarm_levels(windows: Iterable[tuple[str, float]], interval: float) -> dict[str, float]:
    """Return for each window the probability of a false alarm at one look that gives one in the interval.

    Parameters
    ----------
    windows
        Name and length in seconds of each window; they have equal parts in the false alarms.
    interval
        Time with one false alarm, in seconds.

    Examples
    --------
    >>> levels = false_alarm_levels([("5m", 300.0), ("1h", 3600.0)], 30 * 86400.0)
    >>> {window: f"{level:.2g}" for window, level in levels.items()}
    {'5m': '5.8e-06', '1h': '6.9e-05'}
    """
    lengths = dict(windows)
    return {window: min(seconds / (LOOKS * interval * len(lengths)), 1.0) for window, seconds in lengths.items()}


class FeatureBudget:
    """Counts the drifted features of a model version by their names, in the order of the targets.

    A feature has drifted when its score is above its threshold and its adjusted p-value is at most the window's level.
    Predictions and confidences are not features. A run of ``ingest`` is looked at once, and counts as one of a day.
    """

    def __init__(self, config: ModelConfig, names: list[str]) -> None:
        self._limits = thresholds(config, names)
        interval = config.false_alarm_seconds()
        self._levels = false_alarm_levels(config.window_seconds().items(), interval)
        self._level_of_run = min(86400 / interval, 1.0)

    def count(self, floors: NoiseFloors, window: str, stats: WindowStats) -> FeatureCount:
        """Return the count of a window; NaN where no feature has enough values.

        ``floors`` are the noise floors of the targets, of which the features are the first.
        """
        features = len(self._limits)
        observed = np.nan_to_num(stats.observations)
        p = floors.p_values(stats.kl, observed)[:features]
        level = self._levels.get(window, self._level_of_run)
        return count_drifted(p, stats.kl[:features], self._limits, level)


def count_drifted(p: Floats, score: Floats, limits: Floats, level: float) -> FeatureCount:
    """Return how many scores are above their limits and have an adjusted p-value of at most the level.

    >>> count_drifted(np.array([1e-9, 1e-9, 0.5]), np.array([0.4, 0.2, 0.1]), np.full(3, 0.3), 1e-5)
    FeatureCount(drifted=1.0, compared=3.0)
    """
    compared = int((~np.isnan(p)).sum())
    if not compared:
        return FeatureCount(math.nan, math.nan)
    drifted = (adjusted_p_values(p) <= level) & (score > limits)
    return FeatureCount(float(drifted.sum()), float(compared))
