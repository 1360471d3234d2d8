"""Learn from live traffic how much values depend on each other, where training does not show it.

A model version learns from the sub-windows of its longest window and of the one before it. It does not learn from
drift: a fault that begins and ends once is no dependence, see `measure_dependence`. Nothing is learned while the
longest window has drifted further than what would be learned explains, and, once a version has learned for twice as
long as the longest window, nothing where any window has drifted for more than a tenth of the time. What was as long ago
as the longest window counts e times less than what is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_report import thresholds
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import LEAST_VALUES, UNKNOWN_RATIO
from exporter.monitoring.registry import MonitorRegistry
from exporter.scheduler import Task
from exporter.stats.dependence import MIN_SUB_WINDOWS, LiveDependence, live_dispersion, measure_dependence
from exporter.stats.divergence import Floats, Reference

log = logging.getLogger(__name__)

SECONDS = 60.0
_LATEST = 5  # sub-windows in which a change that is no dispersion may have begun
_MOST_DRIFT = 0.1
_GROWS = 2.0  # more than the dispersion of four times as many values does if it is nearly that of any number
_KEPT = 24.0
"""Lengths of the longest window for which dependence is kept after its last proof: weak one is proven now and then."""
_BUSY_SHARE = 0.05
"""Most of the time that the thread may take."""


@dataclass
class _Learned:
    """What a version has learned.

    Attributes
    ----------
    drifted
        Weighted share of the time in which each target has drifted in any window, shape ``(T,)``.
    live, since, proven
        What is learned of a target, by its index, the monotonic time from which on it was, and that of the last proof.
    """

    drifted: Floats
    at: float = -math.inf
    attempts: int = -1
    live: dict[int, LiveDependence] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)
    proven: dict[int, float] = field(default_factory=dict)


class NoiseLearner(Task):
    """Set the noise floors of all model versions by their past.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    """

    def __init__(self, monitors: Callable[[], MonitorRegistry]) -> None:
        super().__init__(
            "noise", "noise floors are not learned", SECONDS, lane="memory", busy_share=_BUSY_SHARE, at_once=True
        )
        self._monitors = monitors
        self._learned: WeakKeyDictionary[ModelMonitor, _Learned] = WeakKeyDictionary()

    def refresh(self) -> None:
        """Set the noise floors of all versions."""
        for monitor in self._monitors():
            if self.closing.is_set():
                return
            try:
                self.learn(monitor, time.monotonic())
            except Exception:  # an error of one version may not stop the others
                log.exception("noise floors of %r are not learned", monitor.config.name)

    def learn(self, monitor: ModelMonitor, now: float) -> None:
        """Set the noise floors of a version by its past, at the monotonic time ``now`` in seconds."""
        binner = monitor.binner
        if binner is None:
            return
        learned = self._learned.setdefault(monitor, _Learned(np.zeros(len(binner.targets))))
        if learned.attempts == monitor.counters.attempts:
            return
        learned.attempts = monitor.counters.attempts
        longest, seconds = list(monitor.windows.items())[-1]
        limits = thresholds(monitor.config, binner.target_names)
        windows = monitor.read(now)
        above = np.any([stats.kl > np.maximum(limits, stats.noise) for stats in windows.values()], axis=0)
        learned.drifted += (above - learned.drifted) * -math.expm1((learned.at - now) / seconds)
        learned.at = now
        candidates = {
            index: dependence
            for index, (bins, ratio) in enumerate(zip(binner.ranges, binner.profile_noise.ratio.ratio, strict=True))
            if not (ratio > 1).any()  # independent as far as training shows
            if now - learned.since.get(index, now) < 2 * seconds or learned.drifted[index] <= _MOST_DRIFT
            if (dependence := measure_dependence(monitor.history(now, bins), binner.reference.probability[bins]))
        }
        explained = binner.profile_noise.with_live(candidates).training(windows[longest].observations)
        unexplained = windows[longest].kl > np.maximum(limits, explained)
        for index, dependence in candidates.items():
            if unexplained[index]:
                continue
            learned.since.setdefault(index, now)
            if dependence.dependent:
                learned.live[index], learned.proven[index] = dependence, now
            elif now - learned.proven.get(index, -math.inf) > _KEPT * seconds:
                learned.live.pop(index, None)
        dispersion = {
            index: found for index in binner.in_doubt if (found := self._disperse(monitor, binner, index, now))
        }
        monitor.noise = binner.profile_noise.with_live(learned.live, dispersion)

    def _disperse(self, monitor: ModelMonitor, binner: Binner, index: int, now: float) -> float | None:
        """Return the dispersion of live values over 4 and 16 sub-windows, without the latest; None if not known yet.

        It is at least that of hours where it grows with the number of values, or where these differ from training as
        few independent values do.
        """
        bins = binner.ranges[index]
        counts = monitor.history(now, bins)[:-_LATEST]
        counts = counts[counts.sum(axis=1) > 0]
        if len(counts) < MIN_SUB_WINDOWS:
            return None
        of_hours = float(monitor.dispersion[index])  # infinite until a day is known
        (small, of_small), (large, of_large) = live_dispersion(counts, (4, 16), binner.numeric[index] is not None)
        training = Reference.from_counts(binner.training[bins], [len(counts[0])])
        is_few = 2 * LEAST_VALUES * training.kl_divergence(counts.sum(axis=0))[0] > training.degrees[0]
        is_unknown = is_few or (large > UNKNOWN_RATIO and of_large > _GROWS * of_small)
        least = of_hours if is_unknown else min(of_hours, UNKNOWN_RATIO)  # rare events need a day
        return float(max(small, large, least)) if math.isfinite(least) else None
