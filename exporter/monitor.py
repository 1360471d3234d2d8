"""The live state of one version of one model: observe a batch, read it out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from exporter.binning import Layout, Sums
from exporter.config import ModelConfig
from exporter.drift import Floats, Reference, ratio
from exporter.events import NO_VERSION, Prediction
from exporter.window import Ring

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
VERDICTS = ("accepted", "corrected")
OTHER_VERSION = "other"
IDLE_SECONDS = 86400.0
"""A version unused for so long makes room for a new one."""


class Histogram:
    """Counts under upper bounds, as Prometheus has them.

    >>> histogram = Histogram((0.1, 1.0))
    >>> histogram.observe([0.1, 0.5, 3.0])
    >>> histogram.cumulative().tolist(), histogram.sum
    ([1.0, 2.0, 3.0], 3.6)
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._bounds = np.array(bounds)
        self.counts = np.zeros(len(bounds) + 1)
        self.sum = 0.0

    def observe(self, values: Sequence[float]) -> None:
        """Add values."""
        column = np.array(values, dtype=np.float64)
        self.counts += np.bincount(self._bounds.searchsorted(column), minlength=len(self.counts))
        self.sum += float(column.sum())

    def cumulative(self) -> Floats:
        """Values at or below each bound, the last one without a bound, shape ``(bounds + 1,)``."""
        return np.cumsum(self.counts)


@dataclass
class Counters:
    """What only ever grows."""

    requests: Counter[int] = field(default_factory=Counter)
    attempts: int = 0
    confident: int = 0
    corrections: int = 0
    feedback: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(VERDICTS, 0)))
    events: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowReading:
    """One window of the targets, arrays of shape ``(T,)``; NaN where there is nothing to say.

    Attributes
    ----------
    counts
        Observations in each bin, shape ``(B,)``.
    kl, noise
        Against training.
    recent_kl, recent_noise
        Against the longest window before this one.
    """

    counts: Floats
    observations: Floats
    mean: Floats
    stddev: Floats
    min: Floats
    max: Floats
    missing: Floats
    invalid: Floats
    unseen: Floats
    shift: Floats
    kl: Floats
    noise: Floats
    recent_kl: Floats
    recent_noise: Floats


class Monitor:
    """Counters, histograms and windows of one model version; safe between threads.

    Parameters
    ----------
    config
        The model.
    version
        Value of the ``version`` label.
    layout
        Where the profile's bins lie; None without a profile: then inputs are not watched.
    """

    def __init__(self, config: ModelConfig, version: str, layout: Layout | None) -> None:
        self.config = config
        self.version = version
        self.layout = layout
        self.last_used = 0.0
        self.counters = Counters(events=dict.fromkeys(config.events, 0.0))
        self.durations = Histogram(DURATION_BUCKETS)
        self.confidences = Histogram(CONFIDENCE_BUCKETS)
        self.windows = config.window_seconds()
        self.observed = np.zeros(layout.bins if layout else 0)
        self._lock = threading.Lock()
        self._rings: dict[str, Ring] = {}
        if layout:
            longest = list(self.windows)[-1]
            for name, seconds in self.windows.items():
                reach = 2 if name == longest else 1  # the longest is also what each is compared with
                self._rings[name] = Ring(seconds, layout.width, 2 * len(layout.targets), reach)

    def observe(self, events: Sequence[Prediction], inputs: Sequence[Mapping[str, Any]], now: float) -> int:
        """Count a batch of predictions.

        Parameters
        ----------
        events
            Predictions of this model and version.
        inputs
            The decoded inputs of those among them that have any.
        now
            Monotonic time in seconds.

        Returns
        -------
        int
            How many features came that the profile does not know.
        """
        codes = Counter([200 if event.code is None else event.code for event in events])
        confidences = [event.confidence for event in events if event.confidence is not None]
        durations = [event.duration_seconds for event in events if event.duration_seconds is not None]
        confident = sum(is_confident(event, self.config.confidence_threshold) for event in events)
        unknown = 0
        row = lows = None
        if self.layout:
            predictions = [event.prediction for event in events if event.prediction is not None]
            row, lows, unknown = self.layout.count(inputs, predictions)
        with self._lock:
            self.counters.requests += codes
            self.counters.attempts += len(events)
            self.counters.confident += confident
            if confidences:
                self.confidences.observe(confidences)
            if durations:
                self.durations.observe(durations)
            if row is not None:
                self.observed += row[: len(self.observed)]
                for ring in self._rings.values():
                    ring.add(now, row, lows)
        return unknown

    def reconfigure(self, config: ModelConfig) -> None:
        """Go on with another configuration that counts alike."""
        with self._lock:
            self.config = config
            for event in config.events:
                self.counters.events.setdefault(event, 0.0)

    def count_feedback(self, verdict: str, correction: bool) -> None:
        """Count a user's word, and whether it corrects a confident prediction for the first time."""
        with self._lock:
            self.counters.feedback[verdict] += 1
            self.counters.corrections += correction

    def count_event(self, event: str, value: float) -> None:
        """Count a declared business event."""
        with self._lock:
            self.counters.events[event] = self.counters.events.get(event, 0.0) + value

    def read(self, now: float) -> dict[str, WindowReading]:
        """The windows by their spelling, at the monotonic time ``now`` in seconds."""
        if not self.layout:
            return {}
        longest = self._rings[list(self.windows)[-1]]
        with self._lock:
            rows = {
                name: (ring.total(now), ring.lows(now), longest.total(now, skip=self.windows[name]))
                for name, ring in self._rings.items()
            }
        return {name: _reading(self.layout, *row) for name, row in rows.items()}


def is_confident(event: Prediction, threshold: float) -> bool:
    """Whether a prediction counts as confident: at or above the threshold, and no error."""
    return event.confidence is not None and event.confidence >= threshold and (event.code or 200) < 400


def _reading(layout: Layout, row: Floats, lows: Floats, earlier: Floats) -> WindowReading:
    sums: Sums = layout.split(row)
    observations = np.add.reduceat(sums.counts, layout.starts) if layout.bins else np.empty(0)
    there = observations > 0
    smallest, largest = lows[: len(there)], -lows[len(there) :]
    offset = ratio(sums.first, sums.valid)
    variance = np.maximum(ratio(sums.second, sums.valid) - offset**2, 0.0)
    with np.errstate(over="ignore"):
        mean, stddev = layout.centre + offset * layout.scale, np.sqrt(variance) * layout.scale
    before = layout.split(earlier).counts
    sizes = np.diff(layout.starts, append=layout.bins)
    recent = Reference.of(before, sizes.tolist())
    known = there & (recent.rows > 0)
    return WindowReading(
        counts=sums.counts,
        observations=np.where(there, observations, np.nan),
        mean=mean,
        stddev=np.where(smallest == largest, 0.0, stddev),  # exact for a value that is stuck
        min=np.where(np.isfinite(smallest), smallest, np.nan),
        max=np.where(np.isfinite(largest), largest, np.nan),
        missing=ratio(sums.counts[layout.missing], observations),
        invalid=ratio(sums.counts[layout.invalid], observations),
        unseen=ratio(sums.unseen, observations),
        shift=np.where(layout.stddev > 0, offset, np.nan),
        kl=np.where(there, layout.reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(there, layout.reference.noise(observations), np.nan),
        recent_kl=np.where(known, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(known, recent.noise(observations), np.nan),
    )


class Monitors:
    """The monitors of every model and version, versions capped; safe between threads.

    Parameters
    ----------
    models
        The configured models by name.
    layouts
        The layout of each model that has a profile.
    """

    def __init__(self, models: Mapping[str, ModelConfig], layouts: Mapping[str, Layout]) -> None:
        self.models = models
        self.layouts = layouts
        self.unknown_features: Counter[str] = Counter(dict.fromkeys(models, 0))
        self._monitors: dict[str, dict[str, Monitor]] = {name: {} for name in models}
        self._lock = threading.Lock()

    def get(self, model: str, version: str | None, now: float) -> Monitor:
        """The monitor of a configured model's version, made on first use.

        Past the cap, a version unused for a day makes room; else what is new is counted as
        ``version="other"``.
        """
        name = version or NO_VERSION
        versions = self._monitors[model]
        if monitor := versions.get(name):
            monitor.last_used = now
            return monitor
        with self._lock:
            named = {key: monitor for key, monitor in versions.items() if key != OTHER_VERSION}
            if name not in versions and len(named) >= self.models[model].max_versions:
                oldest = min(named, key=lambda key: named[key].last_used)
                if now - named[oldest].last_used > IDLE_SECONDS:
                    del versions[oldest]
                else:
                    name = OTHER_VERSION
            if name not in versions:
                monitor = Monitor(self.models[model], name, self.layouts.get(model))
                monitor.last_used = now
                versions[name] = monitor
            return versions[name]

    def __iter__(self) -> Iterator[Monitor]:
        for versions in list(self._monitors.values()):
            yield from list(versions.values())

    def adopt(self, older: Monitors) -> None:
        """Keep the state of models that count as before; thresholds and events may have changed."""
        for name, model in self.models.items():
            ours, theirs = self.layouts.get(name), older.layouts.get(name)
            same_profile = (ours and ours.profile.hash) == (theirs and theirs.profile.hash)
            before = older.models.get(name)
            if before and same_profile and _counts_alike(model, before):
                self._monitors[name] = older._monitors[name]
                for monitor in list(self._monitors[name].values()):
                    monitor.reconfigure(model)
            if name in older.unknown_features:
                self.unknown_features[name] = older.unknown_features[name]


def _counts_alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether windows and counters of one configuration are right for the other."""

    def counted(model: ModelConfig) -> ModelConfig:
        return msgspec.structs.replace(
            model, alerts={}, features={}, events=(), confidence_threshold=0.0, max_versions=1, profile=None
        )

    return counted(one) == counted(other)
