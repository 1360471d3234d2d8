"""The metrics of the quality of predictions: measured with labels, and estimated without them."""

from __future__ import annotations

from typing import NamedTuple

from exporter.metrics.lines import Key, Metrics
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import Quality
from exporter.monitoring.segments import Segments
from exporter.monitoring.window_quality import WindowQuality
from exporter.profiles.quality import QualityEstimator
from exporter.stats.accuracy import IntervalEstimate

_MEASURED, _ESTIMATED = "Measured quality", "Estimated quality"


def _bins(binner: Binner | None) -> list[str]:
    """Return the labels of the confidence's bins, if the profile knows the accuracy that goes with each of them."""
    if binner is None or binner.confidence is None or binner.quality is None or not binner.quality.known:
        return []
    return binner.targets[binner.confidence].labels() if len(binner.quality.table) else []


def _confidences(monitor: ModelMonitor) -> dict[Key, float] | None:
    if monitor.binner is None or not (bins := _bins(monitor.binner)):
        return None
    start = monitor.binner.starts[-1]  # the confidence is the last target
    return dict(zip(bins, monitor.observed[start : monitor.binner.bins].tolist(), strict=True))


LABELS = Metrics[ModelMonitor](_MEASURED, "model", "version")
LABELS.counter(
    "model_outcomes_total",
    "Labelled predictions by the predicted and the actual class.",
    lambda monitor: dict(monitor.quality.outcomes),
    "predicted",
    "actual",
)
LABELS.counter(
    "model_labelled_predictions_total", "Predictions whose label is known.", lambda monitor: monitor.quality.labelled
)
LABELS.counter(
    "model_correct_predictions_total",
    "Predictions that their label proves right; not for a regression.",
    lambda monitor: monitor.quality.correct if _is_not("regression", monitor.quality) else None,
)
LABELS.counter(
    "model_absolute_error_total",
    "Sum of the absolute errors of labelled predictions, in the label's unit.",
    lambda monitor: monitor.quality.absolute_error if _is_not("classification", monitor.quality) else None,
)
LABELS.counter(
    "model_squared_error_total",
    "Sum of the squared errors of labelled predictions.",
    lambda monitor: monitor.quality.squared_error if _is_not("classification", monitor.quality) else None,
)
LABELS.histogram(
    "model_label_delay_seconds", "Time from a prediction to its label.", lambda monitor: monitor.quality.delays
)
LABELS.counter(
    "model_confidence_observations_total",
    "Confidences by bin of the training profile, for estimated accuracies.",
    _confidences,
    "bin",
)


def _is_not(task: str, quality: Quality) -> bool:
    """Return whether predictions may be of another task; both may be if the task is not known."""
    return quality.scorer.task != task


SEGMENT_LABELS = Metrics[tuple[Segments, Quality]](
    "Segments", "model", "version", "segment", names=lambda one: one[0].names
)
SEGMENT_LABELS.counter(
    "model_segment_labelled_predictions_total",
    "Predictions whose label is known, by segment.",
    lambda one: one[1].by_segment[0],
)
SEGMENT_LABELS.counter(
    "model_segment_correct_predictions_total",
    "Predictions that their label proves right, by segment.",
    lambda one: one[1].by_segment[1] if _is_not("regression", one[1]) else None,
)
SEGMENT_LABELS.counter(
    "model_segment_absolute_error_total",
    "Sum of the absolute errors of labelled predictions, in the label's unit, by segment.",
    lambda one: one[1].by_segment[2] if _is_not("classification", one[1]) else None,
)

WINDOW_QUALITY = Metrics[WindowQuality](_MEASURED, "model", "version", "window")
WINDOW_QUALITY.gauge(
    "model_window_labelled_predictions",
    "Predictions made in the window whose label is known.",
    lambda window: window.labelled,
)
WINDOW_QUALITY.gauge(
    "model_window_unlabelled_predictions",
    "Predictions that arrived in the window and have no label yet.",
    lambda window: window.unlabelled,
)
WINDOW_QUALITY.interval(
    "model_accuracy",
    "Share of the window's labelled predictions that are right.",
    "the accuracy",
    lambda window: window.accuracy,
)
WINDOW_QUALITY.gauge(
    "model_calibration_error",
    "Expected calibration error of the confidences of the window's labelled predictions.",
    lambda window: window.calibration_error,
)
WINDOW_QUALITY.interval(
    "model_mean_absolute_error",
    "Mean absolute error of the window's labelled predictions.",
    "the mean absolute error",
    lambda window: window.absolute_error,
)
WINDOW_QUALITY.gauge(
    "model_root_mean_squared_error",
    "Root mean squared error of the window's labelled predictions.",
    lambda window: window.squared_error,
)
WINDOW_QUALITY.gauge(
    "model_labelled_estimated_accuracy",
    "Accuracy that the profile's calibration expects of the window's labelled predictions.",
    lambda window: window.expected,
)

ESTIMATES = Metrics[tuple[str, IntervalEstimate]](_ESTIMATED, "model", "version", "window")
ESTIMATES.interval(
    "model_estimated_accuracy",
    "Share of the window's predictions that are right, estimated without labels.",
    "the estimated accuracy",
    lambda one: one[1] if one[0] == "accuracy" else None,
)
ESTIMATES.interval(
    "model_estimated_mean_absolute_error",
    "Mean absolute error of the window's predictions, estimated without labels.",
    "the estimated error",
    lambda one: one[1] if one[0] != "accuracy" else None,
)


class ReferenceQuality(NamedTuple):
    """The quality on the profile's labelled rows."""

    binner: Binner
    quality: QualityEstimator


REFERENCE_QUALITY = Metrics[ReferenceQuality](_ESTIMATED, "model", "version", state=lambda one: one.quality)
REFERENCE_QUALITY.gauge(
    "model_reference_accuracy_overall",
    "Accuracy on the profile's labelled rows.",
    lambda one: one.quality.overall if one.quality.kind == "accuracy" else None,
)
REFERENCE_QUALITY.gauge(
    "model_reference_mean_absolute_error_overall",
    "Mean absolute error on the profile's labelled rows.",
    lambda one: one.quality.overall if one.quality.kind != "accuracy" else None,
)
REFERENCE_QUALITY.gauge(
    "model_reference_accuracy",
    "Accuracy that goes with a bin of the confidence, by the profile's labelled rows.",
    lambda one: dict(zip(_bins(one.binner), one.quality.table.tolist(), strict=False)),
    "bin",
)
REFERENCE_QUALITY.gauge(
    "model_reference_estimated_accuracy",
    "Accuracy on the profile's labelled rows with a confidence, which alone are estimated.",
    lambda one: one.quality.estimated_overall if _bins(one.binner) else None,
)
