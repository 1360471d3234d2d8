"""Count what happens to one version of one model, and read it: counters, histograms and windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.features.json_columns import InputTable
from exporter.monitoring.batches import BatchSums, count_columns, count_events
from exporter.monitoring.binner import Codes
from exporter.monitoring.confidence import are_confident
from exporter.monitoring.monitor_state import MonitorState
from exporter.monitoring.prediction_columns import PredictionColumns
from exporter.monitoring.recent_counters import Recent
from exporter.monitoring.segments import segment_divergences
from exporter.monitoring.window_quality import WindowQuality
from exporter.monitoring.window_stats import WindowStats, compute
from exporter.stats.divergence import Floats
from exporter.wire.events import LabelledPrediction, Prediction

_LABELS = 2000
"""Labels that are counted at once."""


class ModelMonitor(MonitorState):
    """Counts the predictions, feedback and labels of one model version, and reads the counts; safe between threads."""

    def observe(
        self,
        events: Sequence[Prediction],
        inputs: Sequence[Mapping[str, Any]] | InputTable,
        now: float,
        segments: Sequence[int] = (),
        confident: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
        *,
        codes: Codes | None = None,
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
        codes
            Filled with the bins of the inputs, see `Binner.count`.

        Returns
        -------
        int
            Number of features received that the profile does not know.
        """
        requests = Counter([200 if event.code is None else event.code for event in events])
        confidences = [event.confidence for event in events if event.confidence is not None]
        durations = [event.duration_seconds for event in events if event.duration_seconds is not None]
        if confident is None:
            confident = are_confident(
                self.config, [event.confidence for event in events], [event.code for event in events]
            )
        predictions = [event.prediction for event in events if event.prediction is not None]
        sums, unknown = None, 0
        if self.binner:
            sums, unknown = count_events(self.binner, self.segments, inputs, predictions, confidences, codes=codes)
        with self._lock:
            self.counters.requests += requests
            self.counters.attempts += len(events)
            confident_count = int(np.count_nonzero(confident))
            self.counters.confident += confident_count
            self.segment_counters.observe(segments, confident)
            errors = sum(times for code, times in requests.items() if code >= 500)
            self._recent.count_predictions(now, len(events), errors, confident_count)
            if confidences:
                self.confidences.observe(confidences)
            if durations:
                self._recent.count_durations(now, self.durations.observe(durations))
            self._add(now, sums, len(predictions))
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
        sums, segments = None, np.empty(0, dtype=np.intp)
        if self.segments:
            segments = self.segments.indices_of(batch.inputs.get(self.segments.source, [None] * batch.rows))
        if self.binner:
            sums = count_columns(self.binner, self.segments, segments, batch, confidences)
        with self._lock:
            self.counters.requests[200] += batch.rows
            self.counters.attempts += batch.rows
            self.counters.confident += int(confident.sum())
            self.segment_counters.observe(segments, confident)
            if len(confidences):
                self.confidences.observe(confidences)
            self._add(now, sums, len(batch.predictions))

    def _add(self, now: float, sums: BatchSums | None, predictions: int) -> None:
        """Add a batch to the windows. The caller holds the lock."""
        self.quality.count_predictions(self._windows.time(now), predictions)
        if self._evidence:
            self._evidence.advance(now)
        if sums is not None:
            self.observed += sums.row[: len(self.observed)]
            self._windows.add(now, sums)

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

    def count_labels(self, labels: Sequence[LabelledPrediction], now: float, unix_now: float) -> None:
        """Count labels of predictions, in the windows by the time of the prediction.

        Parameters
        ----------
        labels
            Labels of predictions of this model and version.
        now, unix_now
            Monotonic and Unix time in seconds.
        """
        for start in range(0, len(labels), _LABELS):
            scored = self.quality.score(labels[start : start + _LABELS])
            with self._lock:
                self.quality.add(scored, self._windows.time(now), unix_now)

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
        if not self.binner or not self.noise:
            return {}
        rows = self.read_rows(now)
        return {name: compute(self.binner, self.noise, row) for name, row in rows.items()}

    def read_rows(self, now: float) -> dict[str, tuple[Floats, Floats, Floats]]:
        """Return the sums and minima of each window, the shortest first, and the sums of the longest one before it."""
        with self._lock:
            return self._windows.read(now)

    def read_counts(self, now: float) -> dict[str, Floats]:
        """Return the observations in each bin of all targets, shape ``(B,)``, by window; nothing without a profile."""
        rows = self.read_rows(now)
        return {name: self.binner.split(row).counts for name, (row, _, _) in rows.items() if self.binner}

    def read_evidence(self, now: float) -> Floats:
        """Return the evidence of slow change of each target in nats, shape ``(T,)``; see `DriftEvidence.read`."""
        with self._lock:
            return self._evidence.read(now) if self._evidence else np.empty(0)

    def history(self, now: float, bins: slice) -> Floats:
        """Return the observations in some bins in each sub-window of the longest window and of the one before it.

        Returns
        -------
        ndarray
            Shape ``(W, K)``, the oldest first, without those in which nothing was counted.
        """
        with self._lock:
            return self._windows.history(now, bins)

    def read_quality(self, now: float) -> dict[str, WindowQuality]:
        """Return the measured quality in each window that holds anything; nothing without a label in any of them."""
        with self._lock:
            return self.quality.read(self._windows.time(now))

    def read_past_variance(self, now: float) -> float:
        """Return what the labels of the longest window add to the variance of an estimated accuracy."""
        with self._lock:
            return self.quality.past_variance(self._windows.time(now))

    def read_segments(self, now: float) -> tuple[Floats, Floats]:
        """Return the divergence from training and its noise floor by segment, in the longest window.

        Returns
        -------
        tuple
            Two arrays of shape ``(S, T)``, NaN where nothing was observed; ``(0, 0)`` without segments.
        """
        with self._lock:
            counts = self._windows.segment_counts(now)
        if not self.binner or not self.noise or not self.segments or counts is None:
            return np.empty((0, 0)), np.empty((0, 0))
        return segment_divergences(self.binner, self.noise, self.segments, counts)
