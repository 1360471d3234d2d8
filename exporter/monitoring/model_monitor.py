"""The live state of one version of one model: observe a batch, read it out."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.config import ModelConfig
from exporter.events import Prediction
from exporter.features.json_columns import InputTable
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import (
    CONFIDENCE_BUCKETS,
    DELAY_BUCKETS,
    DURATION_BUCKETS,
    Counters,
    Histogram,
    SegmentCounters,
)
from exporter.monitoring.segments import Segments
from exporter.monitoring.window import Ring, Ticks
from exporter.monitoring.window_stats import WindowStats, compute
from exporter.stats.divergence import Floats, Ints


class PredictionColumns(NamedTuple):
    """Predictions of one model version in columns: lists, or arrays of numbers.

    Attributes
    ----------
    rows
        How many.
    inputs
        By name; an input that is absent is missing.
    predictions
        Of those rows that have one.
    confidences
        Of each row, NaN where it has none; or empty.
    moments
        When they arrived, in Unix seconds: one for all or one each; None is the present.
    """

    rows: int
    inputs: Mapping[str, Any]
    predictions: Sequence[Any] | Floats = ()
    confidences: Sequence[float] | Floats = ()
    moments: float | Floats | None = None


class ModelMonitor:
    """Counters, histograms and windows of one model version; safe between threads.

    Parameters
    ----------
    config
        The model.
    version
        Value of the ``version`` label.
    binner
        Where the profile's bins lie; None without a profile: then inputs are not watched.
    windows
        Lengths in seconds by spelling, in place of the model's.
    """

    def __init__(
        self, config: ModelConfig, version: str, binner: Binner | None, windows: Mapping[str, float] | None = None
    ) -> None:
        self.config = config
        self.version = version
        self.binner = binner
        self.last_used = 0.0
        self.counters = Counters(events=dict.fromkeys(config.events, 0.0))
        self.durations = Histogram(DURATION_BUCKETS)
        self.confidences = Histogram(CONFIDENCE_BUCKETS)
        self.delays = Histogram(DELAY_BUCKETS)
        self.windows = dict(windows or config.window_seconds())
        self.observed = np.zeros(binner.bins if binner else 0)
        self.segments = Segments.from_config(config, binner.profile) if binner else None
        self.segment_counters = SegmentCounters(len(self.segments.names) if self.segments else 0)
        self._lock = threading.Lock()
        self._rings: dict[str, Ring] = {}
        self._shift = 0.0  # the rings' time less the monotonic one: they go on where an older process stopped
        if binner:
            longest = list(self.windows)[-1]
            for name, seconds in self.windows.items():
                reach = 2 if name == longest else 1  # the longest is also what each is compared with
                self._rings[name] = Ring(seconds, binner.width, 2 * len(binner.targets), reach)
            if self.segments:
                self._segment_ring = Ring(self.windows[longest], len(self.segments.names) * binner.bins)

    def observe(
        self,
        events: Sequence[Prediction],
        inputs: Sequence[Mapping[str, Any]] | InputTable,
        now: float,
        segments: Sequence[int] = (),
        confident: Sequence[bool] | None = None,
    ) -> int:
        """Count a batch of predictions.

        Parameters
        ----------
        events
            Predictions of this model and version.
        inputs
            The decoded inputs of those among them that have any, or what `Binner.read` made of them where the
            model has no segments.
        now
            Monotonic time in seconds.
        segments
            The place of each event's segment, where the model has segments.
        confident
            Whether each counts as confident; found out when None.

        Returns
        -------
        int
            How many features came that the profile does not know.
        """
        codes = Counter([200 if event.code is None else event.code for event in events])
        confidences = [event.confidence for event in events if event.confidence is not None]
        durations = [event.duration_seconds for event in events if event.duration_seconds is not None]
        if confident is None:
            confident = are_confident(events, self.config.confidence_threshold)
        unknown = 0
        row = lows = by_segment = None
        if self.binner:
            predictions = [event.prediction for event in events if event.prediction is not None]
            if isinstance(inputs, InputTable):
                row, lows = self.binner.count_columns(*inputs, predictions, confidences=confidences)
            else:
                whole = [] if self.segments else inputs
                row, lows, unknown = self.binner.count(whole, predictions, confidences=confidences)
                if self.segments:
                    unknown, by_segment = _count_segments(self.binner, self.segments, inputs, row, lows)
        with self._lock:
            self.counters.requests += codes
            self.counters.attempts += len(events)
            self.counters.confident += sum(confident)
            self.segment_counters.observe(segments, confident)
            if confidences:
                self.confidences.observe(confidences)
            if durations:
                self.durations.observe(durations)
            if row is not None and lows is not None:
                self._add(now, row, lows, by_segment)
        return unknown

    def observe_columns(self, batch: PredictionColumns, now: float) -> None:
        """Count predictions that come in columns, each answered without an error.

        Parameters
        ----------
        batch
            The columns.
        now
            Monotonic time in seconds.
        """
        sure = np.asarray(batch.confidences, dtype=np.float64)
        known = sure[~np.isnan(sure)]
        confident = sure >= self.config.confidence_threshold
        row = lows = by_segment = None
        places: Ints = np.empty(0, dtype=np.intp)
        if self.binner:
            row, lows = self.binner.count_columns(batch.inputs, batch.rows, batch.predictions, batch.moments, known)
            if self.segments:
                places = self.segments.indices_of(batch.inputs.get(self.segments.source, [None] * batch.rows))
                by_segment = _count_segments_of_columns(self.binner, len(self.segments.names), places, batch)
        with self._lock:
            self.counters.requests[200] += batch.rows
            self.counters.attempts += batch.rows
            self.counters.confident += int(confident.sum())
            self.segment_counters.observe(places, confident if len(sure) else np.zeros(len(places)))
            if len(known):
                self.confidences.observe(known)
            if row is not None and lows is not None:
                self._add(now, row, lows, by_segment)

    def _add(self, now: float, row: Floats, lows: Floats, by_segment: Floats | None) -> None:
        """Add sums and minima to the windows; the lock is held."""
        self.observed += row[: len(self.observed)]
        for ring in self._rings.values():
            ring.add(now + self._shift, row, lows)
        if by_segment is not None:
            self._segment_ring.add(now + self._shift, by_segment)

    def reconfigure(self, config: ModelConfig) -> None:
        """Go on with another configuration that counts alike."""
        with self._lock:
            self.config = config
            for event in config.events:
                self.counters.events.setdefault(event, 0.0)

    def count_feedback(
        self, verdict: str, correction: bool, segment: str | None = None, delay: float | None = None
    ) -> None:
        """Count a user's word.

        Parameters
        ----------
        verdict
            What the user said.
        correction
            Whether it corrects a confident prediction for the first time.
        segment
            The prediction's.
        delay
            Seconds since the prediction, where it is the first word on it.
        """
        with self._lock:
            if delay is not None:
                self.delays.observe([delay])
            self.counters.feedback[verdict] += 1
            self.counters.corrections += correction
            if self.segments:
                self.segment_counters.corrections[self.segments.index_of_name(segment)] += correction

    def count_event(self, event: str, value: float) -> None:
        """Count a declared business event."""
        with self._lock:
            self.counters.events[event] = self.counters.events.get(event, 0.0) + value

    def read(self, now: float) -> dict[str, WindowStats]:
        """The windows by their spelling, at the monotonic time ``now`` in seconds."""
        if not self.binner:
            return {}
        longest = self._rings[list(self.windows)[-1]]
        now += self._shift
        with self._lock:
            rows = {
                name: (ring.total(now), ring.lows(now), longest.total(now, skip=self.windows[name]))
                for name, ring in self._rings.items()
            }
        return {name: compute(self.binner, self.config.drift, *row) for name, row in rows.items()}

    def all_rings(self) -> list[Ring]:
        """Those of the windows, the shortest first, and that of the segments, if there are any."""
        return [*self._rings.values(), *([self._segment_ring] if self.binner and self.segments else [])]

    def saved(self, now: float) -> tuple[float, list[tuple[Ticks, Floats, Floats]]]:
        """The rings' own time at the monotonic time ``now``, and what they hold; copies."""
        with self._lock:
            return now + self._shift, [ring.saved(now + self._shift) for ring in self.all_rings()]

    def restore(self, now: float, time: float, rings: Sequence[tuple[Ticks, Floats, Floats]]) -> None:
        """Go on with what an older process saved.

        Parameters
        ----------
        now
            Monotonic time in seconds.
        time
            The rings' own time now: that at which they were saved, and what has passed since.
        rings
            What they held.

        Raises
        ------
        ValueError
            When they are of other rings.
        """
        with self._lock:
            for ring, (ticks, sums, lows) in zip(self.all_rings(), rings, strict=True):
                ring.restore(time, ticks, sums, lows)
            self._shift = time - now

    def read_segments(self, now: float) -> tuple[Floats, Floats]:
        """Divergence from training and its noise floor by segment, in the longest window.

        Returns
        -------
        tuple
            Two arrays of shape ``(S, T)``, NaN where nothing was observed; ``(0, 0)`` without segments.
        """
        if not self.binner or not self.segments:
            return np.empty((0, 0)), np.empty((0, 0))
        with self._lock:
            counts = self._segment_ring.total(now + self._shift)
        counts = counts.reshape(len(self.segments.names), self.binner.bins)
        reference = self.binner.reference
        observations = np.add.reduceat(counts, reference.starts, axis=1)
        there = observations > 0
        return (
            np.where(there, reference.kl_divergence(counts), np.nan),
            np.where(there, reference.noise(observations), np.nan),
        )


def are_confident(events: Sequence[Prediction], threshold: float) -> list[bool]:
    """Whether each prediction counts as confident: at or above the threshold, and no error."""
    return [e.confidence is not None and e.confidence >= threshold and (e.code or 200) < 400 for e in events]


def _count_segments(
    binner: Binner, segments: Segments, inputs: Sequence[Mapping[str, Any]], row: Floats, lows: Floats
) -> tuple[int, Floats]:
    """Add a batch's inputs to its row and minima; how many are unknown, and counts by segment, shape ``(S · B,)``."""
    parts: list[list[Mapping[str, Any]]] = [[] for _ in segments.names]
    for event in inputs:
        parts[segments.index_of(event)].append(event)
    unknown = 0
    by_segment = np.zeros((len(parts), binner.bins))
    for place, part in enumerate(parts):
        if part:
            own, own_lows, own_unknown = binner.count(part, [])
            by_segment[place] = own[: binner.bins]
            row += own
            np.minimum(lows, own_lows, out=lows)
            unknown += own_unknown
    return unknown, by_segment.ravel()


def _count_segments_of_columns(binner: Binner, size: int, places: Ints, batch: PredictionColumns) -> Floats:
    """Counts by segment, shape ``(S · B,)``."""
    by_segment = np.zeros((size, binner.bins))
    for place in np.unique(places):
        chosen = places == place
        part = {name: select_rows(batch.inputs[name], chosen) for name in binner.inputs if name in batch.inputs}
        moments = batch.moments[chosen] if isinstance(batch.moments, np.ndarray) else batch.moments
        row, _ = binner.count_columns(part, int(chosen.sum()), (), moments)
        by_segment[place] = row[: binner.bins]
    return by_segment.ravel()


def select_rows(column: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Those values of a column that are chosen, shape ``(n,)``."""
    if isinstance(column, np.ndarray):
        return column[chosen]
    return list(itertools.compress(column, chosen.tolist()))
