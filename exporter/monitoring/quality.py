"""The measured quality of a model version: its predictions compared with their labels.

Counters start with the process. Windows are by the time of the prediction, whose label may come days later.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.features.extract import scalar_text
from exporter.monitoring.counters import DELAY_BUCKETS, Histogram
from exporter.monitoring.outcome import LabelNames, Scorer
from exporter.monitoring.ring import Ring, Ticks
from exporter.monitoring.segments import Segments
from exporter.monitoring.window_quality import (
    PERIODS,
    WIDTH,
    WindowQuality,
    past_variance,
    sums_of_arrivals,
    sums_of_labels,
    window_quality,
)
from exporter.stats.divergence import Floats, Ints
from exporter.wire.events import LabelledPrediction

ZERO_CLASSES = 10
"""Classes whose outcomes exist from the start, at 0: Prometheus sees no increase in a series that begins above 0."""
Expect = Callable[[Floats], Floats]
"""Takes confidences, shape ``(n,)``; returns how often such predictions are right, NaN where that is not known."""


class ScoredLabels(NamedTuple):
    """Labels compared with their predictions.

    Attributes
    ----------
    labels
        The ``n`` labels.
    losses
        How wrong each prediction is, NaN where that is not known; shape ``(n,)``.
    numbers
        Whether each prediction is a number.
    new
        Whether each label is the first usable one of its prediction.
    segments
        Index of the segment of each prediction.
    rows
        What each label adds to the sums of a window, shape ``(n, WIDTH)``.
    """

    labels: Sequence[LabelledPrediction]
    losses: Floats
    numbers: npt.NDArray[np.bool_]
    new: npt.NDArray[np.bool_]
    segments: Ints
    rows: Floats


class Quality:
    """Counters and windows of the predictions whose label is known.

    The caller holds the monitor's lock, except for `score`. Times are those of the monitor's windows, in seconds.

    Parameters
    ----------
    scorer
        Compares predictions with labels.
    windows
        Window lengths in seconds by their spelling.
    segments
        The model's segments, if it has any.
    expect
        Expected accuracy of confidences, where the profile has a calibration.

    Attributes
    ----------
    labelled, correct
        Labelled predictions, and those of them that are right.
    absolute_error, squared_error
        Sums of the errors of numbers and of their squares.
    outcomes
        Labelled predictions by the predicted and the actual class.
    delays
        Seconds from the prediction to its label.
    by_segment
        Labelled predictions, right ones and the sum of absolute errors by segment, shape ``(3, S)``.
    changes
        Number of batches that were counted: a snapshot is due when it has changed.
    since, until
        Unix times: the windows hold the labels that arrived since the first, and up to the second, that of the snapshot
        with which they began.
    is_labelled
        Whether labels were counted, in this process or the one before: versions without labels need no snapshot.
    """

    def __init__(
        self,
        scorer: Scorer,
        windows: Mapping[str, float],
        segments: Segments | None = None,
        expect: Expect | None = None,
    ) -> None:
        self.scorer = scorer
        self.labelled = self.correct = 0
        self.absolute_error = self.squared_error = 0.0
        self._predicted, self._actual = LabelNames(scorer.classes), LabelNames(scorer.classes)
        first = [self._predicted.name(text) for text in scorer.classes[:ZERO_CLASSES]]
        self.outcomes = Counter({(predicted, actual): 0 for predicted in first for actual in first})
        self.delays = Histogram(DELAY_BUCKETS)
        self.by_segment = np.zeros((3, len(segments.names) if segments else 0))
        self.changes = 0
        self.since, self.until = time.time(), -math.inf
        self.is_labelled = False
        self.rings = {name: Ring(seconds, WIDTH) for name, seconds in windows.items()}
        self._segments = segments
        self._expect = expect
        self._step = min(ring.step for ring in self.rings.values())
        self._arrived, self._arrival = 0, -math.inf

    def count_predictions(self, now: float, predictions: int) -> None:
        """Count predictions that arrive: their labels may follow."""
        if now - self._arrival >= self._step:  # the rings are changed once in a sub-window, not for each batch
            self._flush()
            self._arrival = now
        self._arrived += predictions

    def _flush(self) -> None:
        if self._arrived:
            row = sums_of_arrivals(self._arrived)
            for ring in self.rings.values():
                ring.add(self._arrival, row)
            self._arrived = 0

    def score(self, labels: Sequence[LabelledPrediction]) -> ScoredLabels:
        """Compare labels with their predictions; changes nothing."""
        loss = self.scorer.loss
        losses = _column(loss(label.prediction, label.label) for label in labels)
        numbers = np.array([self.scorer.is_number(label.prediction) for label in labels], dtype=np.bool_)
        confidences = _column(label.confidence for label in labels)
        expected = self._expect(confidences) if self._expect else np.full(len(labels), np.nan)
        rows = sums_of_labels(losses, numbers, confidences, expected)
        new = ~np.isnan(losses)
        changed = [index for index, label in enumerate(labels) if label.replaced is not None]
        if changed:
            earlier = _column(loss(labels[index].prediction, labels[index].replaced) for index in changed)
            before = sums_of_labels(earlier, numbers[changed], confidences[changed], expected[changed])
            is_held = np.array([self._holds(labels[index]) for index in changed])
            is_held |= np.isnan(earlier)  # such a label counted nowhere
            rows[changed] = np.where(is_held[:, None], rows[changed] - before, 0.0)
            new[changed] &= np.isnan(earlier)
        index = self._segments.index_of_name if self._segments else lambda _: 0
        segments = np.array([index(label.segment) for label in labels], dtype=np.intp)
        return ScoredLabels(labels, losses, numbers, new, segments, rows)

    def _holds(self, label: LabelledPrediction) -> bool:
        """Return whether the windows hold the label that another one replaces; if not, they keep what they have."""
        return label.first_received >= self.since or -math.inf < label.first_received <= self.until

    def add(self, scored: ScoredLabels, now: float, unix_now: float) -> None:
        """Count labels.

        Parameters
        ----------
        scored
            The labels, from `score`.
        now, unix_now
            The present, by the windows' time and as Unix time in seconds.
        """
        self._flush()
        self.changes += 1
        self.is_labelled = True
        times = now - unix_now + np.array([label.predicted for label in scored.labels])
        for ring in self.rings.values():
            ring.add_past(now, times, scored.rows)
        new, numbers = scored.new, scored.numbers
        errors = np.where(new & numbers, scored.losses, 0.0)
        right = new & ~numbers & (scored.losses == 0)
        self.labelled += int(new.sum())
        self.correct += int(right.sum())
        self.absolute_error += float(errors.sum())
        self.squared_error += float(errors @ errors)
        self.delays.observe([label.delay for label, is_new in zip(scored.labels, new, strict=True) if is_new])
        for index in np.flatnonzero(new & ~numbers).tolist():
            label = scored.labels[index]
            pair = self._predicted.name(scalar_text(label.prediction)), self._actual.name(scalar_text(label.label))
            self.outcomes[pair] += 1
        if self._segments:
            for row, weights in enumerate((new, right, errors)):
                size = self.by_segment.shape[1]
                self.by_segment[row] += np.bincount(scored.segments, weights=weights, minlength=size)

    def read(self, now: float) -> dict[str, WindowQuality]:
        """Return the quality in each window that holds anything; nothing if no window holds a label."""
        self._flush()
        windows = {name: window_quality(ring.total(now)) for name, ring in self.rings.items()}
        if not any(window.labelled for window in windows.values()):
            return {}
        return {name: window for name, window in windows.items() if window.labelled or window.predictions}

    def past_variance(self, now: float) -> float:
        """Return how far the calibration was off within the longest window, see `window_quality.past_variance`."""
        longest = list(self.rings.values())[-1]
        return past_variance(longest.parts(now, PERIODS)) if self.is_labelled and self._expect else 0.0

    def restore(self, now: float, rings: Sequence[tuple[Ticks, Floats, Floats]]) -> None:
        """Continue with rows from `dump`, if there are any.

        Raises
        ------
        ValueError
            When they are not rows of such rings.
        """
        if rings:
            for ring, rows in zip(self.rings.values(), rings, strict=True):
                ring.restore(now, *rows)
            self.is_labelled = bool(self.read(now))

    def dump(self, now: float) -> list[tuple[Ticks, Floats, Floats]]:
        """Return copies of the rows of the windows."""
        self._flush()
        return [ring.dump(now) for ring in self.rings.values()]


def _column(values: Iterable[float | None]) -> Floats:
    return np.array(list(values), dtype=np.float64)  # None becomes NaN
