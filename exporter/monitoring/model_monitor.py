"""The live state of one version of one model: counters, histograms and windows."""

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
from exporter.monitoring.confidence import are_confident
from exporter.monitoring.counters import (
    CONFIDENCE_BUCKETS,
    DELAY_BUCKETS,
    DURATION_BUCKETS,
    Counters,
    Histogram,
    SegmentCounters,
)
from exporter.monitoring.recent import Recent, RecentCounters
from exporter.monitoring.segments import Segments
from exporter.monitoring.window import Ring, Ticks
from exporter.monitoring.window_stats import WindowStats, compute
from exporter.stats.divergence import Floats, Ints


class PredictionColumns(NamedTuple):
    """Predictions of one model version in columns: lists, or arrays of numbers.

    Attributes
    ----------
    rows
        Number of predictions.
    inputs
        Columns by the input's name; an input that is absent is missing.
    predictions
        Predictions of those rows that have one.
    confidences
        Confidence of each row, NaN where it has none; or empty.
    times
        Unix time in seconds at which they arrived: one for all or one each; the present when None.
    """

    rows: int
    inputs: Mapping[str, Any]
    predictions: Sequence[Any] | Floats = ()
    confidences: Sequence[float] | Floats = ()
    times: float | Floats | None = None


class ModelMonitor:
    """Counters, histograms and windows of one model version; safe between threads.

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
        self.last_used = 0.0
        self.counters = Counters(events=dict.fromkeys(config.events, 0.0))
        self.durations = Histogram(DURATION_BUCKETS)
        self.confidences = Histogram(CONFIDENCE_BUCKETS)
        self.delays = Histogram(DELAY_BUCKETS)
        self._recent = RecentCounters()
        self.windows = dict(windows or config.window_seconds())
        self.observed = np.zeros(binner.bins if binner else 0)
        self.segments = Segments.from_config(config, binner.profile) if binner else None
        self.segment_counters = SegmentCounters(len(self.segments.names) if self.segments else 0)
        self._lock = threading.Lock()
        self._rings: dict[str, Ring] = {}
        self._clock_offset = 0.0  # the rings' time less the monotonic time: a restart continues the windows
        if binner:
            longest = list(self.windows)[-1]
            for name, seconds in self.windows.items():
                reach = 2 if name == longest else 1  # each window is compared with the longest one before it
                self._rings[name] = Ring(seconds, binner.width, 2 * len(binner.targets), reach)
            if self.segments:
                self._segment_ring = Ring(self.windows[longest], len(self.segments.names) * binner.bins)

    def observe(
        self,
        events: Sequence[Prediction],
        inputs: Sequence[Mapping[str, Any]] | InputTable,
        now: float,
        segments: Sequence[int] = (),
        confident: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
    ) -> int:
        """Count a batch of predictions.

        Parameters
        ----------
        events
            Predictions of this model and version.
        inputs
            Decoded inputs of those events that have any, or the result of `Binner.read` for a model without segments.
        now
            Monotonic time in seconds.
        segments
            Index of each event's segment, where the model has segments.
        confident
            Whether each event is confident; computed when None.

        Returns
        -------
        int
            Number of features received that the profile does not know.
        """
        codes = Counter([200 if event.code is None else event.code for event in events])
        confidences = [event.confidence for event in events if event.confidence is not None]
        durations = [event.duration_seconds for event in events if event.duration_seconds is not None]
        if confident is None:
            confident = are_confident(
                self.config, [event.confidence for event in events], [event.code for event in events]
            )
        unknown = 0
        row = minima = by_segment = None
        if self.binner:
            predictions = [event.prediction for event in events if event.prediction is not None]
            if isinstance(inputs, InputTable):
                row, minima = self.binner.count_columns(*inputs, predictions, confidences=confidences)
            elif self.segments:
                row, minima, _ = self.binner.count([], predictions, confidences=confidences)
                unknown, by_segment = _count_segments(self.binner, self.segments, inputs, row, minima)
            else:
                row, minima, unknown = self.binner.count(inputs, predictions, confidences=confidences)
        with self._lock:
            self.counters.requests += codes
            self.counters.attempts += len(events)
            confident_count = int(np.count_nonzero(confident))
            self.counters.confident += confident_count
            self.segment_counters.observe(segments, confident)
            errors = sum(times for code, times in codes.items() if code >= 500)
            self._recent.count_predictions(now, len(events), errors, confident_count)
            if confidences:
                self.confidences.observe(confidences)
            if durations:
                self._recent.count_durations(now, self.durations.observe(durations))
            if row is not None and minima is not None:
                self._add(now, row, minima, by_segment)
        return unknown

    def observe_columns(self, batch: PredictionColumns, now: float) -> None:
        """Count predictions in columns, none of which is an error.

        Parameters
        ----------
        batch
            The columns.
        now
            Monotonic time in seconds.
        """
        column = np.asarray(batch.confidences, dtype=np.float64)
        if not len(column):
            column = np.full(batch.rows, np.nan)
        confidences = column[~np.isnan(column)]
        confident = are_confident(self.config, column)
        row = minima = by_segment = None
        segments: Ints = np.empty(0, dtype=np.intp)
        if self.binner:
            row, minima = self.binner.count_columns(
                batch.inputs, batch.rows, batch.predictions, batch.times, confidences
            )
            if self.segments:
                segments = self.segments.indices_of(batch.inputs.get(self.segments.source, [None] * batch.rows))
                by_segment = _count_segments_of_columns(self.binner, len(self.segments.names), segments, batch)
        with self._lock:
            self.counters.requests[200] += batch.rows
            self.counters.attempts += batch.rows
            self.counters.confident += int(confident.sum())
            self.segment_counters.observe(segments, confident)
            if len(confidences):
                self.confidences.observe(confidences)
            if row is not None and minima is not None:
                self._add(now, row, minima, by_segment)

    def _add(self, now: float, row: Floats, minima: Floats, by_segment: Floats | None) -> None:
        """Add sums and minima to the windows. The caller holds the lock."""
        self.observed += row[: len(self.observed)]
        for ring in self._rings.values():
            ring.add(now + self._clock_offset, row, minima)
        if by_segment is not None:
            self._segment_ring.add(now + self._clock_offset, by_segment)

    def reconfigure(self, config: ModelConfig) -> None:
        """Use another configuration that counts in the same way."""
        with self._lock:
            self.config = config
            for event in config.events:
                self.counters.events.setdefault(event, 0.0)

    def count_feedback(
        self, verdict: str, correction: bool, now: float, segment: str | None = None, delay: float | None = None
    ) -> None:
        """Count a user's feedback.

        Parameters
        ----------
        verdict
            ``accepted`` or ``corrected``.
        correction
            Whether it is the first correction of a confident prediction.
        now
            Monotonic time in seconds.
        segment
            The prediction's segment.
        delay
            Seconds since the prediction, where it is the first feedback on it.
        """
        with self._lock:
            if delay is not None:
                self.delays.observe([delay])
            self.counters.feedback[verdict] += 1
            self.counters.corrections += correction
            if correction:
                self._recent.count_correction(now)
            if self.segments:
                self.segment_counters.corrections[self.segments.index_of_name(segment)] += correction

    def count_event(self, event: str, value: float) -> None:
        """Count a declared business event."""
        with self._lock:
            self.counters.events[event] = self.counters.events.get(event, 0.0) + value

    def recent(self, now: float) -> Recent:
        """Return the figures that alerts evaluate, at the monotonic time ``now`` in seconds.

        They begin with the process. A batch that `observe_columns` counted is not part of them.
        """
        with self._lock:
            return self._recent.read(now)

    def totals(self) -> Floats:
        """Return what was counted since the start as one array that can be added and subtracted.

        Returns
        -------
        ndarray
            The counters in the order of `TOTALS`, the histogram of durations, and the observations of each bin.
        """
        with self._lock:
            return np.concatenate((self.counters.totals(), self.durations.counts, self.observed))

    def read(self, now: float) -> dict[str, WindowStats]:
        """Return the statistics of each window at the monotonic time ``now`` in seconds, by its spelling."""
        if not self.binner:
            return {}
        longest = self._rings[list(self.windows)[-1]]
        now += self._clock_offset
        with self._lock:
            rows = {
                name: (ring.total(now), ring.minima(now), longest.total(now, skip=self.windows[name]))
                for name, ring in self._rings.items()
            }
        return {name: compute(self.binner, self.config.drift, *row) for name, row in rows.items()}

    def all_rings(self) -> list[Ring]:
        """Return the rings of the windows, the shortest first, and that of the segments, if there are any."""
        return [*self._rings.values(), *([self._segment_ring] if self.binner and self.segments else [])]

    def dump(self, now: float) -> tuple[float, list[tuple[Ticks, Floats, Floats]]]:
        """Return the rings' time at the monotonic time ``now``, and copies of their rows."""
        with self._lock:
            return now + self._clock_offset, [ring.dump(now + self._clock_offset) for ring in self.all_rings()]

    def restore(self, now: float, time: float, rings: Sequence[tuple[Ticks, Floats, Floats]]) -> None:
        """Continue with the windows of an older process.

        Parameters
        ----------
        now
            Monotonic time in seconds.
        time
            The rings' time now: the time at which they were dumped, and the seconds since.
        rings
            The rows of each ring, as from `dump`.

        Raises
        ------
        ValueError
            When they are not rows of such rings.
        """
        with self._lock:
            for ring, (ticks, sums, minima) in zip(self.all_rings(), rings, strict=True):
                ring.restore(time, ticks, sums, minima)
            self._clock_offset = time - now

    def read_segments(self, now: float) -> tuple[Floats, Floats]:
        """Return the divergence from training and its noise floor by segment, in the longest window.

        Returns
        -------
        tuple
            Two arrays of shape ``(S, T)``, NaN where nothing was observed; ``(0, 0)`` without segments.
        """
        if not self.binner or not self.segments:
            return np.empty((0, 0)), np.empty((0, 0))
        with self._lock:
            counts = self._segment_ring.total(now + self._clock_offset)
        counts = counts.reshape(len(self.segments.names), self.binner.bins)
        reference = self.binner.reference
        observations = np.add.reduceat(counts, reference.starts, axis=1)
        observed = observations > 0
        return (
            np.where(observed, reference.kl_divergence(counts), np.nan),
            np.where(observed, reference.noise(observations), np.nan),
        )


def _count_segments(
    binner: Binner, segments: Segments, inputs: Sequence[Mapping[str, Any]], row: Floats, minima: Floats
) -> tuple[int, Floats]:
    """Add a batch's inputs to its sums and minima, segment by segment.

    Returns the number of unknown features, and the counts by segment, shape ``(S · B,)``.
    """
    parts: list[list[Mapping[str, Any]]] = [[] for _ in segments.names]
    for event in inputs:
        parts[segments.index_of(event)].append(event)
    unknown = 0
    by_segment = np.zeros((len(parts), binner.bins))
    for index, part in enumerate(parts):
        if part:
            part_row, part_minima, part_unknown = binner.count(part, [])
            by_segment[index] = part_row[: binner.bins]
            row += part_row
            np.minimum(minima, part_minima, out=minima)
            unknown += part_unknown
    return unknown, by_segment.ravel()


def _count_segments_of_columns(binner: Binner, size: int, segments: Ints, batch: PredictionColumns) -> Floats:
    """Return the counts by segment, shape ``(S · B,)``."""
    by_segment = np.zeros((size, binner.bins))
    for segment in np.unique(segments):
        chosen = segments == segment
        part = {name: select_rows(batch.inputs[name], chosen) for name in binner.inputs if name in batch.inputs}
        times = batch.times[chosen] if isinstance(batch.times, np.ndarray) else batch.times
        row, _ = binner.count_columns(part, int(chosen.sum()), (), times)
        by_segment[segment] = row[: binner.bins]
    return by_segment.ravel()


def select_rows(column: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Return the chosen values of a column; ``chosen`` has shape ``(n,)``."""
    if isinstance(column, np.ndarray):
        return column[chosen]
    return list(itertools.compress(column, chosen.tolist()))
