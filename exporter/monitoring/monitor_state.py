"""What is known of one version of one model, and how it outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from exporter.config import ModelConfig
from exporter.config.types import DURATION_BUCKETS
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import CONFIDENCE_BUCKETS, DELAY_BUCKETS, Counters, Histogram, SegmentCounters
from exporter.monitoring.drift_evidence import DriftEvidence
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.outcome import Scorer
from exporter.monitoring.quality import Quality
from exporter.monitoring.recent_counters import RecentCounters
from exporter.monitoring.ring import Ring
from exporter.monitoring.segments import Segments
from exporter.monitoring.windows import RingRows, Windows
from exporter.stats.divergence import Floats


class MonitorState:
    """Counters, histograms and windows of one model version, and their snapshots; safe between threads.

    Parameters
    ----------
    config
        The model.
    version
        Value of the ``version`` label.
    binner
        Counts inputs in the bins of the profile; None without a profile, then inputs are not counted.
    windows
        Window lengths in seconds by their spelling, instead of the model's.
    """

    def __init__(
        self, config: ModelConfig, version: str, binner: Binner | None, windows: Mapping[str, float] | None = None
    ) -> None:
        self.config = config
        self.version = version
        self.binner = binner
        self._noise = binner.profile_noise if binner else None
        self.last_used = 0.0
        self.counters = Counters(events=dict.fromkeys(config.events, 0.0))
        self.durations = Histogram(DURATION_BUCKETS)
        self.confidences = Histogram(CONFIDENCE_BUCKETS)
        self.delays = Histogram(DELAY_BUCKETS)
        self._recent = RecentCounters()
        self.windows = dict(windows or config.window_seconds())
        self.observed = np.zeros(binner.bins if binner else 0)
        self._evidence = DriftEvidence(binner, self.observed) if binner and binner.bins else None
        self.segments = Segments.from_config(config, binner.profile) if binner else None
        self.segment_counters = SegmentCounters(len(self.segments.names) if self.segments else 0)
        self.quality = Quality(
            Scorer.of_model(config, binner.profile if binner else None),
            windows or config.quality_window_seconds(),
            self.segments,
            binner.quality.expected if binner and binner.quality and binner.quality.kind == "accuracy" else None,
        )
        self._windows = Windows(self.windows, binner, self.segments, self.quality)
        self._lock = threading.Lock()

    @property
    def noise(self) -> NoiseFloors | None:
        """The noise floors, which `exporter.monitoring.noise_learner` sets by live values; None without a profile."""
        return self._noise

    @noise.setter
    def noise(self, noise: NoiseFloors) -> None:
        with self._lock:
            self._noise = noise
            if self._evidence:
                self._evidence.follow(noise)

    def reconfigure(self, config: ModelConfig) -> None:
        """Use another configuration that counts in the same way."""
        with self._lock:
            self.config = config
            for event in config.events:
                self.counters.events.setdefault(event, 0.0)

    def all_rings(self) -> list[Ring]:
        """Return the rings of the inputs' windows, the shortest first, and that of the segments, if there are any."""
        return self._windows.rings()

    def dump(self, now: float) -> tuple[float, list[RingRows], list[RingRows]]:
        """Return the rings' time at the monotonic time ``now``, and copies of the rows of inputs and of the quality."""
        with self._lock:
            return self._windows.dump(now)

    def dump_evidence(self) -> tuple[Floats, Floats]:
        """Return copies of what `DriftEvidence.restore` needs; empty without a profile."""
        with self._lock:
            return self._evidence.dump() if self._evidence else (np.empty(0), np.empty(0))

    def restore_evidence(self, state: Floats, counts: Floats) -> None:
        """Continue with the evidence of an older process; see `DriftEvidence.restore`."""
        with self._lock:
            if self._evidence:
                self._evidence.restore(state, counts)

    def restore(self, now: float, time: float, rings: Sequence[RingRows], quality: Sequence[RingRows]) -> None:
        """Continue with the windows of an older process.

        Parameters
        ----------
        now
            Monotonic time in seconds.
        time
            The rings' time now: the time at which they were dumped, and the seconds since.
        rings, quality
            The rows of each ring, as from `dump`; without ``quality`` its windows start empty.

        Raises
        ------
        ValueError
            When they are not rows of such rings.
        """
        with self._lock:
            self._windows.restore(now, time, rings, quality)
