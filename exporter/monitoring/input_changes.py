"""Which inputs of a model version have changed abruptly, with one budget of false alarms for all of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import in_doubt
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.window_stats import WindowStats
from exporter.stats.divergence import Floats
from exporter.stats.multiple_tests import adjusted_p_values

UNKNOWN_RATIO = 6.0
"""How much noisier scores are assumed to be than those of independent values, while dependence is not known.

A correlation of 0.9 between successive values makes them 3 to 4 times as noisy.
"""
LOOKS = 10
"""How many independent windows give as many false alarms as one window that slides by its length.

Simulated, see the documentation's section "Many features".
"""


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


class InputChanges:
    """Finds the inputs whose latest values differ from those just before, and from training.

    An input has changed when the p-value of its divergence from the longest window before, adjusted for the number of
    inputs, is at most the level of the window, and its divergence from training is above the noise floor: values that
    return to what they were in training are no change. The noise of inputs whose dependence is not known yet is assumed
    to be `UNKNOWN_RATIO` times as large.

    A run of ``ingest`` has no time before it. It is compared with training, once a day.

    Parameters
    ----------
    binner
        Has the training distribution.
    windows
        Lengths of the windows in seconds by their names.
    interval
        Time with one false alarm of all inputs together, in seconds.
    """

    def __init__(self, binner: Binner, windows: Iterable[tuple[str, float]], interval: float) -> None:
        self._count = len(binner.names)
        self._in_doubt = in_doubt(binner)
        self._targets = len(binner.targets)
        self._levels = false_alarm_levels(windows, interval)
        self._level_of_run = min(86400 / interval, 1.0)

    def score(self, noise: NoiseFloors, window: str, stats: WindowStats) -> Floats:
        """Return the divergence from training of each input that has changed, in nats; NaN for the others."""
        ratio = np.ones(self._targets)
        ratio[[*(self._in_doubt - noise.confirmed - noise.learned)]] = UNKNOWN_RATIO
        observed = np.nan_to_num(stats.observations)
        if window in self._levels:
            p = noise.p_values(stats.recent_kl, observed, stats.recent, ratio)
        else:  # a run of ``ingest``, which is compared with training
            p = noise.p_values(stats.kl, observed, doubt=ratio)
        changed = adjusted_p_values(p[: self._count]) <= self._levels.get(window, self._level_of_run)
        score = stats.kl[: self._count]
        return np.where(changed & (score > stats.noise[: self._count]), score, np.nan)
