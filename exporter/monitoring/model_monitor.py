"""Count what happens to one version of one model, and read it: counters, histograms and windows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.config import DURATION_BUCKETS, ModelConfig
from exporter.features.json_inputs import decode_inputs
from exporter.monitoring import counters
from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.drift_evidence import DriftEvidence
from exporter.monitoring.event_warnings import EventWarnings
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.quality import Quality, Scorer, WindowQuality
from exporter.monitoring.windows import BatchSums, Ring, RingRows, Windows, WindowStats, compute
from exporter.stats.divergence import Floats
from exporter.validation import preview
from exporter.wire.batch import OK, Batch, Inputs
from exporter.wire.events import LabelledPrediction

_LABELS = 2000
"""Labels that are counted at once: some milliseconds."""
_FIRST_ERROR, _FIRST_FAILURE = 400, 500
_LATE_SECONDS = 60.0


class ModelMonitor:
    """Counts the predictions, feedback and labels of one model version, and reads the counts; safe between threads.

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

    Attributes
    ----------
    last_used, traffic
        Monotonic time of the last event, and the number of events; after a restart, those of the longest window.
    warnings
        What looks wrong in the newest events.
    noise
        The noise floors, which `exporter.monitoring.noise_learner` sets by live values; None without a profile.
    """

    def __init__(
        self, config: ModelConfig, version: str, binner: Binner | None, windows: Mapping[str, float] | None = None
    ) -> None:
        self.config = config
        self.version = version
        self.binner = binner
        self.noise: NoiseFloors | None = binner.profile_noise if binner else None
        self.last_used, self.traffic = 0.0, 0
        self.counters = counters.Counters(events=dict.fromkeys(config.events, 0.0))
        self.warnings = EventWarnings(f"{preview(config.name)} version {preview(version)}")
        self.durations = counters.Histogram(DURATION_BUCKETS)
        self.confidences = counters.Histogram(counters.CONFIDENCE_BUCKETS)
        self.delays = counters.Histogram(counters.DELAY_BUCKETS)
        self._recent = counters.RecentCounters()
        self.windows = dict(windows or config.window_seconds())
        self.observed = np.zeros(binner.bins if binner else 0)
        self._evidence = (
            DriftEvidence(binner, self.observed, config.false_alarm_seconds()) if binner and binner.bins else None
        )
        self.segments = counters.Segments.from_config(config, binner.profile) if binner else None
        segments = len(self.segments.names) if self.segments else 0
        self.segment_counters = counters.SegmentCounters(segments)
        self.quality = Quality(
            Scorer.of_model(config, binner.profile if binner else None),
            windows or config.quality_window_seconds(),
            self.segments,
            binner.quality.expected if binner and binner.quality and binner.quality.kind == "accuracy" else None,
        )
        width, minima, bins = (binner.width, 2 * len(binner.targets), binner.bins) if binner else (0, 0, 0)
        self._windows = Windows(self.windows, width, minima, segments * bins)
        self._lock = threading.Lock()

    @property
    def dispersion(self) -> Floats:
        """The dispersion of live values of each target, see `DriftEvidence`; none without a profile."""
        return self._evidence.dispersion if self._evidence else np.empty(0)

    def reconfigure(self, config: ModelConfig) -> None:
        """Use another configuration that counts in the same way."""
        with self._lock:
            self.config = config
            if self._evidence:
                self._evidence.interval = config.false_alarm_seconds()
            for event in config.events:
                self.counters.events.setdefault(event, 0.0)

    def all_rings(self) -> list[Ring]:
        """Return the rings of the inputs' windows, the shortest first, and that of the segments, if there are any."""
        return self._windows.rings()

    def dump(self, now: float) -> tuple[float, list[RingRows], list[RingRows]]:
        """Return the rings' time at the monotonic time ``now``, and copies of the rows of inputs and of the quality."""
        with self._lock:
            time = self._windows.time(now)
            return time, self._windows.dump(time), self.quality.dump(time)

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
            self._windows.restore(now, time, rings)
            self.quality.restore(time, quality)
            self.traffic = int(list(self.quality.rings.values())[-1].total(time)[0])

    def prepare(self, batch: Batch, *, decoded: bool = False) -> Batch:
        """Return a batch with what is known of its rows before they are counted: inputs, confidence and segments.

        Parameters
        ----------
        batch
            Predictions of this model and version.
        decoded
            Whether the inputs of each prediction are needed as they were sent.
        """
        inputs = batch.inputs
        if batch.raw:
            if self.binner:
                inputs = self.binner.read_inputs(batch.raw, decoded)
            elif decoded:
                inputs = Inputs(decoded=decode_inputs(batch.raw))
        confidences = batch.confidences if len(batch.confidences) else np.full(batch.rows, np.nan)
        confident = are_confident(self.config, confidences, batch.codes)
        if self.segments is None:
            return msgspec.structs.replace(batch, inputs=inputs, confident=confident)
        found = self.segments.indices_of(inputs.columns.get(self.segments.source, [None] * inputs.rows))
        if inputs.indices is not None:
            found, rows = self.segments.indices_of([None] * batch.rows), found
            found[inputs.indices] = rows
        names = self.segments.names
        return msgspec.structs.replace(batch, inputs=inputs, confident=confident, segments=found, segment_names=names)

    def observe(self, batch: Batch, now: float) -> Codes | None:
        """Count a batch.

        Parameters
        ----------
        batch
            From `prepare`.
        now
            Monotonic time in seconds.

        Returns
        -------
        ndarray or None
            The bins of the inputs, see `Counted.bins`, where inputs of the batch are to be stored.
        """
        requests = Counter(batch.codes) if len(batch.codes) else Counter({OK: batch.rows})
        confidences = np.asarray(batch.confidences, dtype=np.float64)
        confidences = confidences[~np.isnan(confidences)]
        durations = [seconds for seconds in batch.durations if seconds is not None]
        predictions = _given(batch.predictions)
        sums, bins = self._count(self.binner, batch, predictions, confidences) if self.binner else (None, None)
        ages = batch.ages(_LATE_SECONDS)
        with self._lock:
            self.counters.requests += requests
            self.counters.attempts += batch.rows
            confident = int(np.count_nonzero(batch.confident))
            self.counters.confident += confident
            self.segment_counters.observe(batch.segments, batch.confident)
            failures = sum(times for code, times in requests.items() if code >= _FIRST_FAILURE)
            self._recent.count_predictions(now, batch.rows, failures, confident)
            if len(confidences):
                self.confidences.observe(confidences)
            if durations:
                self._recent.count_durations(now, self.durations.observe(durations))
            self.quality.count_predictions(self._windows.time(now), len(predictions) - len(ages), ages)
            if self._evidence:
                self._evidence.advance(now)
            if sums is not None:
                self.observed += sums.row[: len(self.observed)]
                if self._evidence:
                    self._evidence.rows += sums.row[len(sums.row) - len(self._evidence.rows) :]
                self._windows.add(now, sums)
        self.warnings.observe(batch, now)
        return bins

    def _count(
        self, binner: Binner, batch: Batch, predictions: Any, confidences: Floats
    ) -> tuple[BatchSums, Codes | None]:
        """Return the sums of a batch, and the bins of its inputs where these are stored."""
        inputs, segments = batch.inputs, self.segments
        is_kept = any(batch.kept)
        with_bins = is_kept or segments is not None
        row, minima, bins = binner.count_columns(
            inputs.columns, inputs.rows, predictions, batch.received, confidences, with_bins=with_bins
        )
        by_segment = None
        if segments:
            parts = batch.segments if inputs.indices is None else batch.segments[inputs.indices]
            by_segment = binner.counts_of_parts(bins, parts, len(segments.names))
        return BatchSums(row, minima, by_segment), bins if is_kept else None

    def count_feedback(
        self, verdict: str, correction: bool, now: float, segment: str | None = None, delay: float | None = None
    ) -> None:
        """Count a user's feedback.

        Parameters
        ----------
        verdict
            One of `VERDICTS`.
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

    def count_decision(self, rejects: bool, now: float) -> None:
        """Count that a reviewer rejects a correction that was counted, or no longer does."""
        with self._lock:
            if rejects:
                self.counters.withdrawn += 1
            else:
                self.counters.corrections += 1
            self._recent.count_correction(now, -1 if rejects else 1)

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
            with self._lock:
                self.quality.add(labels[start : start + _LABELS], self._windows.time(now), unix_now)

    def count_event(self, event: str, value: float) -> None:
        """Count a declared business event."""
        with self._lock:
            self.counters.events[event] = self.counters.events.get(event, 0.0) + value

    def recent(self, now: float) -> counters.Recent:
        """Return the figures that alerts evaluate, at the monotonic time ``now`` in seconds."""
        with self._lock:
            return self._recent.read(now)

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
        return counters.segment_divergences(self.binner, self.noise, self.segments, counts)


def _given(predictions: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
    """Return the predictions that are there."""
    if isinstance(predictions, np.ndarray):
        return predictions[~np.isnan(predictions)]
    return [value for value in predictions if value is not None] if None in predictions else predictions


def are_confident(
    config: ModelConfig, confidences: Sequence[float | None] | Floats, codes: Sequence[int] = ()
) -> npt.NDArray[np.bool_]:
    """Return whether each prediction is confident: its confidence is at or above the threshold, and it is no error.

    A prediction without a confidence is confident, unless the model's configuration sets ``confidence_threshold``: so a
    regression has shares of corrected predictions, too.

    Parameters
    ----------
    config
        The model's configuration.
    confidences
        Confidence of each of ``n`` predictions; None or NaN where it has none.
    codes
        HTTP code of each prediction; empty where nothing failed.

    Returns
    -------
    ndarray
        Shape ``(n,)``.

    Examples
    --------
    >>> are_confident(ModelConfig("digits"), [0.9, 0.5, None, 0.9], [200, 200, 200, 500]).tolist()
    [True, False, True, False]
    >>> are_confident(ModelConfig("digits", confidence_threshold=0.8), [0.9, 0.5, None]).tolist()
    [True, False, False]
    """
    column = np.asarray(confidences, dtype=np.float64)
    confident: npt.NDArray[np.bool_] = column >= config.confident_from()
    if config.confidence_threshold is None:
        confident |= np.isnan(column)
    if max(codes, default=0) >= _FIRST_ERROR:
        confident &= np.asarray(codes) < _FIRST_ERROR
    return confident
