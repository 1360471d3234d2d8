"""The metrics of the quality of predictions: measured with labels, and estimated without them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from exporter.metrics.lines import FamilyLines, Interval, Key, Metrics, Reading
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import Histogram
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import WindowQuality
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate

if TYPE_CHECKING:
    from exporter.storage import AccuracyCounts, ReviewState, Store


class Reviewed(NamedTuple):
    """What the store knows about the configured models at a Unix time."""

    state: ReviewState
    models: Collection[str]
    now: float

    def counts(self, counts: Mapping[str, float], *others: str) -> dict[Key, float]:
        """Return a count for each model, 0 where there is none, and for others."""
        return {model: counts.get(model, 0) for model in dict.fromkeys((*self.models, *others))}

    def ages(self, since: Mapping[str, float]) -> dict[Key, float]:
        """Return the seconds since a Unix time, of those that have one."""
        return {model: max(self.now - start, 0.0) for model, start in since.items()}

    def age(self, start: float | None) -> float | None:
        """Return the seconds since a Unix time, if there is one."""
        return None if start is None else max(self.now - start, 0.0)


def _of_models(reviewed: Reviewed, times: Mapping[str, float]) -> dict[str, float]:
    return {model: start for model, start in times.items() if model in reviewed.models}


REVIEW = Metrics[Reviewed]("Review and retraining")


@REVIEW.gauge("model")
def model_corrections_pending(one: Reviewed) -> Reading:
    """Corrections waiting for review."""
    return one.counts(one.state.pending)


@REVIEW.gauge("model")
def model_corrections_oldest_pending_seconds(one: Reviewed) -> Reading:
    """Age of the oldest correction waiting for review."""
    return one.ages(_of_models(one, one.state.oldest))


@REVIEW.counter("model")
def model_dataset_examples_total(one: Reviewed) -> Reading:
    """Corrections released in datasets."""
    return one.counts(one.state.examples)


@REVIEW.gauge("model")
def model_exporter_feedback_unjoined(one: Reviewed) -> Reading:
    """Feedback whose prediction has not arrived; the model is empty for feedback that names none."""
    return one.counts(one.state.unjoined, "", *one.state.unjoined)


@REVIEW.gauge("model")
def model_exporter_feedback_unjoined_oldest_seconds(one: Reviewed) -> Reading:
    """Age of the oldest feedback whose prediction has not arrived."""
    return one.ages(one.state.oldest_unjoined)


@REVIEW.gauge()
def model_exporter_labels_unjoined(one: Reviewed) -> Reading:
    """Labels whose prediction has not arrived."""
    return one.state.unjoined_labels


@REVIEW.gauge()
def model_exporter_labels_unjoined_oldest_seconds(one: Reviewed) -> Reading:
    """Age of the oldest label whose prediction has not arrived."""
    return one.age(one.state.oldest_unjoined_label)


ACCURACY: Metrics[AccuracyCounts] = Metrics("Review and retraining", "model", "version")


@ACCURACY.interval()
def model_reviewed_accuracy(counts: AccuracyCounts) -> Interval:
    """Share of confident predictions that were right, estimated from a reviewed sample."""
    return counts.estimate()


@ACCURACY.gauge()
def model_reviewed_predictions(counts: AccuracyCounts) -> Reading:
    """Sampled confident predictions decided by a reviewer."""
    return counts.decided


RETRAINING = Metrics[dict[Key, float]]("Review and retraining")


@RETRAINING.gauge("model")
def model_exporter_retrain_request_undelivered_seconds(ages: dict[Key, float]) -> Reading:
    """Age of the oldest request for retraining since the last one that the trainer accepted."""
    return ages


def review_lines(monitors: MonitorRegistry, store: Store) -> Iterator[FamilyLines]:
    """Return the lines about review: pending corrections, what waits for predictions, released examples, accuracy.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    state = store.review.state()
    yield from REVIEW.lines(Reviewed(state, monitors.models, time.time()))
    for (model, version), counts in state.accuracy_counts.items():
        if model in monitors.models:
            yield from ACCURACY.lines(counts, model=model, version=version)


_MEASURED, _ESTIMATED = "Measured quality", "Estimated quality"


def _may_be(task: str, monitor: ModelMonitor) -> bool:
    """Return whether predictions may be of a task; both may be if the task is not known."""
    return monitor.quality.scorer.task in (task, None)


def _bins(binner: Binner | None) -> list[str]:
    """Return the labels of the confidence's bins, if the profile knows the accuracy that goes with each of them."""
    if binner is None or binner.confidence is None or binner.quality is None or not binner.quality.known:
        return []
    return binner.targets[binner.confidence].labels() if len(binner.quality.table) else []


LABELS = Metrics[ModelMonitor](_MEASURED, "model", "version")


@LABELS.counter("predicted", "actual")
def model_outcomes_total(monitor: ModelMonitor) -> Reading:
    """Labelled predictions of a classification by the predicted and the actual class."""
    return dict(monitor.quality.outcomes)


@LABELS.counter()
def model_labelled_predictions_total(monitor: ModelMonitor) -> Reading:
    """Predictions whose label is known."""
    return monitor.quality.labelled


@LABELS.counter()
def model_correct_predictions_total(monitor: ModelMonitor) -> Reading:
    """Predictions that their label proves right; not for a regression."""
    return monitor.quality.correct if _may_be("classification", monitor) else None


@LABELS.counter()
def model_absolute_error_total(monitor: ModelMonitor) -> Reading:
    """Sum of the absolute errors of labelled predictions, in the label's unit."""
    return monitor.quality.absolute_error if _may_be("regression", monitor) else None


@LABELS.counter()
def model_squared_error_total(monitor: ModelMonitor) -> Reading:
    """Sum of the squared errors of labelled predictions."""
    return monitor.quality.squared_error if _may_be("regression", monitor) else None


@LABELS.histogram()
def model_label_delay_seconds(monitor: ModelMonitor) -> Histogram:
    """Time from a prediction to its first label."""
    return monitor.quality.delays


@LABELS.counter("bin")
def model_confidence_observations_total(monitor: ModelMonitor) -> Reading:
    """Confidences by bin of the training profile, for estimated accuracies."""
    if monitor.binner is None or not (bins := _bins(monitor.binner)):
        return None
    start = monitor.binner.starts[-1]  # the confidence is the last target
    return dict(zip(bins, monitor.observed[start : monitor.binner.bins].tolist(), strict=True))


SEGMENT_LABELS = Metrics[ModelMonitor](
    "Segments",
    "model",
    "version",
    "segment",
    names=lambda monitor: monitor.segments.names if monitor.segments else (),
)


@SEGMENT_LABELS.counter()
def model_segment_labelled_predictions_total(monitor: ModelMonitor) -> Reading:
    """Predictions whose label is known, by segment."""
    labelled: Floats = monitor.quality.by_segment[0]
    return labelled


@SEGMENT_LABELS.counter()
def model_segment_correct_predictions_total(monitor: ModelMonitor) -> Reading:
    """Predictions that their label proves right, by segment."""
    return monitor.quality.by_segment[1] if _may_be("classification", monitor) else None


@SEGMENT_LABELS.counter()
def model_segment_absolute_error_total(monitor: ModelMonitor) -> Reading:
    """Sum of the absolute errors of labelled predictions, in the label's unit, by segment."""
    return monitor.quality.by_segment[2] if _may_be("regression", monitor) else None


WINDOW_QUALITY = Metrics[WindowQuality](_MEASURED, "model", "version", "window")


@WINDOW_QUALITY.gauge()
def model_window_labelled_predictions(window: WindowQuality) -> Reading:
    """Predictions made in the window whose label is known."""
    return window.labelled


@WINDOW_QUALITY.gauge()
def model_window_unlabelled_predictions(window: WindowQuality) -> Reading:
    """Predictions in the window that have no label yet."""
    return window.unlabelled


@WINDOW_QUALITY.interval()
def model_accuracy(window: WindowQuality) -> Interval:
    """Share of the window's labelled predictions that are right, with Wilson's interval."""
    return window.accuracy


@WINDOW_QUALITY.gauge()
def model_calibration_error(window: WindowQuality) -> Reading:
    """Expected calibration error of the confidences of the window's labelled predictions, over ten bins."""
    return window.calibration_error


@WINDOW_QUALITY.interval()
def model_mean_absolute_error(window: WindowQuality) -> Interval:
    """Mean absolute error of the window's labelled predictions; the interval is absent with fewer than 20 labels."""
    return window.absolute_error


@WINDOW_QUALITY.gauge()
def model_root_mean_squared_error(window: WindowQuality) -> Reading:
    """Root mean squared error of the window's labelled predictions."""
    return window.squared_error


@WINDOW_QUALITY.gauge()
def model_labelled_estimated_accuracy(window: WindowQuality) -> Reading:
    """Accuracy that the profile's calibration expects of the window's labelled predictions, beside model_accuracy."""
    return window.expected


ESTIMATES = Metrics[tuple[str, IntervalEstimate]](_ESTIMATED, "model", "version", "window")


@ESTIMATES.interval()
def model_estimated_accuracy(one: tuple[str, IntervalEstimate]) -> Interval:
    """Share of the window's predictions that are right, estimated without labels."""
    return one[1] if one[0] == "accuracy" else None


@ESTIMATES.interval()
def model_estimated_mean_absolute_error(one: tuple[str, IntervalEstimate]) -> Interval:
    """Mean absolute error of the window's predictions, estimated without labels."""
    return one[1] if one[0] != "accuracy" else None


PROFILE_QUALITY = Metrics[Binner](_ESTIMATED, "model", "version", state=lambda binner: binner)


@PROFILE_QUALITY.gauge()
def model_reference_accuracy_overall(binner: Binner) -> Reading:
    """Accuracy on the profile's labelled rows, which model_accuracy is compared with."""
    return binner.quality.overall if binner.quality and binner.quality.kind == "accuracy" else None


@PROFILE_QUALITY.gauge()
def model_reference_mean_absolute_error_overall(binner: Binner) -> Reading:
    """Mean absolute error on the profile's labelled rows."""
    return binner.quality.overall if binner.quality and binner.quality.kind != "accuracy" else None


@PROFILE_QUALITY.gauge("bin")
def model_reference_accuracy(binner: Binner) -> Reading:
    """Accuracy that goes with a bin of the confidence, by the profile's labelled rows."""
    bins = _bins(binner)
    return dict(zip(bins, binner.quality.table, strict=True)) if bins and binner.quality else None


@PROFILE_QUALITY.gauge()
def model_reference_estimated_accuracy(binner: Binner) -> Reading:
    """Accuracy on the profile's labelled rows with a confidence, which model_estimated_accuracy is compared with."""
    return binner.quality.estimated_overall if _bins(binner) and binner.quality else None
