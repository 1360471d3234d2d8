"""Drift scores of the last hour in memory, for the drift page. Prometheus has the longer history."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from exporter.monitoring.model_monitor import ModelMonitor
from exporter.stats.divergence import Floats

STEP = 30.0
"""Least seconds between two samples."""
POINTS = 120
"""Number of samples that are kept; new ones replace the oldest."""


class _Ring:
    def __init__(self, windows: int, targets: int) -> None:
        self.times = np.full(POINTS, -np.inf)
        self.scores = np.full((POINTS, windows, targets), np.nan, dtype=np.float32)
        self.next = 0


class DriftHistory:
    """The drift scores of every model version over the last hour; safe between threads.

    It takes ``4 · POINTS`` bytes for each target in each window of each version, as long as the version lives.
    """

    def __init__(self) -> None:
        self._rings: WeakKeyDictionary[ModelMonitor, _Ring] = WeakKeyDictionary()
        self._last = -np.inf
        self._lock = threading.Lock()

    def sample(self, monitors: Iterable[ModelMonitor], now: float) -> None:
        """Take a sample at the monotonic time ``now`` in seconds, unless the last one is more recent than `STEP`."""
        with self._lock:
            if now - self._last < STEP:
                return
            self._last = now
            for monitor in monitors:
                windows = list(monitor.read(now).values())
                if not windows:
                    continue
                ring = self._rings.get(monitor)
                if ring is None:
                    ring = self._rings[monitor] = _Ring(len(windows), len(windows[0].kl))
                ring.times[ring.next] = now
                ring.scores[ring.next] = [stats.kl for stats in windows]
                ring.next = (ring.next + 1) % POINTS

    def scores(self, monitor: ModelMonitor, window: str, now: float) -> tuple[Floats, npt.NDArray[np.float32]]:
        """Return the samples of a window, oldest first.

        Returns
        -------
        tuple
            Their ages in seconds, shape ``(n,)``, and the scores, shape ``(n, T)``; NaN where the window was empty.
        """
        index = list(monitor.windows).index(window)
        with self._lock:
            ring = self._rings.get(monitor)
            if ring is None:
                return np.empty(0), np.empty((0, 0), dtype=np.float32)
            order = (ring.next + np.arange(POINTS)) % POINTS
            order = order[now - ring.times[order] <= STEP * POINTS]
            return now - ring.times[order], ring.scores[order, index]
