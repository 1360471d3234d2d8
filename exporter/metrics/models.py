"""The metrics of the models, from their monitors: requests, inputs, drift, quality, segments, review and settings."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from exporter.config import ModelConfig
from exporter.metrics.lines import Cache, FamilyLines, Interval, Key, Metrics, Reading, bound_label
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import Histogram
from exporter.monitoring.drift_evidence import InputChanges, evidence_limit, model_evidence
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.quality import WindowQuality
from exporter.monitoring.registry import IDLE_SECONDS, MonitorRegistry
from exporter.monitoring.windows import WindowStats
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate
from exporter.wire.events import VERDICTS

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


REVIEW = Metrics[Reviewed]("Review and retraining")


@REVIEW.gauge("model")
def model_corrections_pending(one: Reviewed) -> Reading:
    """Corrections waiting for review."""
    return one.counts(one.state.pending)


@REVIEW.gauge("model")
def model_corrections_oldest_pending_seconds(one: Reviewed) -> Reading:
    """Age of the oldest correction waiting for review."""
    return one.ages({model: start for model, start in one.state.oldest.items() if model in one.models})


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
def model_positive_error_total(monitor: ModelMonitor) -> Reading:
    """Sum of errors of predictions above their label; twice this minus model_absolute_error_total is the signed sum."""
    return monitor.quality.positive_error if _may_be("regression", monitor) else None


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
def model_mean_error(window: WindowQuality) -> Reading:
    """Bias: mean of prediction minus label in the window; above 0 if predictions are too high."""
    return window.bias


@WINDOW_QUALITY.gauge()
def model_root_mean_squared_error(window: WindowQuality) -> Reading:
    """Root mean squared error of the window's labelled predictions."""
    return window.squared_error


@WINDOW_QUALITY.gauge()
def model_labelled_estimated_accuracy(window: WindowQuality) -> Reading:
    """Accuracy that the profile predicts for the window's labelled predictions, to compare with model_accuracy."""
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
    """Accuracy on the profile's labelled rows, the baseline of model_accuracy."""
    return binner.quality.overall if binner.quality and binner.quality.kind == "accuracy" else None


@PROFILE_QUALITY.gauge()
def model_reference_mean_absolute_error_overall(binner: Binner) -> Reading:
    """Mean absolute error on the profile's labelled rows."""
    return binner.quality.overall if binner.quality and binner.quality.kind != "accuracy" else None


@PROFILE_QUALITY.gauge("bin")
def model_reference_accuracy(binner: Binner) -> Reading:
    """Accuracy in a bin of the confidence, on the profile's labelled rows."""
    bins = _bins(binner)
    return dict(zip(bins, binner.quality.table, strict=True)) if bins and binner.quality else None


@PROFILE_QUALITY.gauge()
def model_reference_estimated_accuracy(binner: Binner) -> Reading:
    """Accuracy on the profile's labelled rows with a confidence, the baseline of model_estimated_accuracy."""
    return binner.quality.estimated_overall if _bins(binner) and binner.quality else None


_REQUESTS, _INPUTS, _SEGMENTS = "Requests and business", "Inputs and drift", "Segments"


# ---- settings


class Configured(NamedTuple):
    """A model as it is configured, with the names of the features in the profiles of its versions."""

    model: ModelConfig
    features: list[str]
    unknown: int = 0


THRESHOLDS = Metrics[Configured](_REQUESTS, "model")


@THRESHOLDS.gauge("feature", "alert")
def model_alert_threshold(one: Configured) -> Reading:
    """Alert threshold set in the configuration; -1 for off."""
    found: dict[Key, float] = {(None, alert): value for alert, value in one.model.alerts.items()}
    for name, feature in one.model.features.items():
        # The threshold of an input applies to each of its statistics, unless one has its own.
        scalars = [scalar for scalar in one.features if scalar == name or scalar.startswith(f"{name}.")]
        own = [scalar for scalar in scalars if scalar == name or scalar not in one.model.features]
        found |= {(scalar, alert): value for scalar in own for alert, value in feature.alerts.items()}
    return {key: -1 if math.isnan(value) else value for key, value in found.items()}


MODEL = Metrics[Configured](_REQUESTS, "model")


@MODEL.gauge("objective")
def model_objective(one: Configured) -> Reading:
    """Objective set in the configuration: the share of requests that must succeed."""
    return one.model.objectives.shares() if one.model.objectives else None


@MODEL.gauge("bucket")
def model_objective_latency_seconds(one: Configured) -> Reading:
    """Latency of the objective; the label bucket is the le of the last bucket that is fast enough."""
    latency = one.model.objectives.latency if one.model.objectives else None
    return {bound_label(latency.below): latency.below} if latency else None


@MODEL.gauge()
def model_confidence_threshold(one: Configured) -> Reading:
    """Confidence from which a prediction counts as confident."""
    return one.model.confident_from()


@MODEL.counter()
def model_exporter_unknown_features_total(one: Configured) -> Reading:
    """Features received that are not in the profile."""
    return one.unknown


# ---- requests

INFO = Metrics[ModelMonitor](_REQUESTS, "model", "version")


@INFO.gauge("profile")
def model_info(monitor: ModelMonitor) -> Reading:
    """Information about a model version; the profile label is the start of the training profile's hash."""
    return {monitor.binner.profile.hash[:12] if monitor.binner else "none": 1.0}


COUNTERS = Metrics[ModelMonitor](_REQUESTS, "model", "version")


@COUNTERS.counter("code")
def model_requests_total(monitor: ModelMonitor) -> Reading:
    """Requests to the model by HTTP code. An event without a code counts as 200."""
    return {str(code): count for code, count in dict(monitor.counters.requests).items()}


@COUNTERS.histogram()
def model_request_duration_seconds(monitor: ModelMonitor) -> Histogram:
    """Latency of the requests that report one."""
    return monitor.durations


@COUNTERS.counter()
def model_attempts_total(monitor: ModelMonitor) -> Reading:
    """Recorded predictions."""
    return monitor.counters.attempts


@COUNTERS.counter()
def model_confident_predictions_total(monitor: ModelMonitor) -> Reading:
    """Predictions without an error at or above the confidence threshold, or without a confidence if none is set."""
    return monitor.counters.confident


@COUNTERS.histogram()
def model_prediction_confidence(monitor: ModelMonitor) -> Histogram:
    """Confidence of the predictions that report one."""
    return monitor.confidences


@COUNTERS.counter("verdict")
def model_feedback_total(monitor: ModelMonitor) -> Reading:
    """User feedback on predictions by verdict. Changed feedback counts again."""
    return {verdict: monitor.counters.feedback[verdict] for verdict in VERDICTS}


@COUNTERS.counter()
def model_corrections_total(monitor: ModelMonitor) -> Reading:
    """Confident predictions that a user corrected or rejected, each counted once."""
    return monitor.counters.corrections


@COUNTERS.counter()
def model_corrections_withdrawn_total(monitor: ModelMonitor) -> Reading:
    """Counted corrections that a reviewer rejected. One that is accepted after all, or sent again, counts anew."""
    return monitor.counters.withdrawn


@COUNTERS.histogram()
def model_feedback_delay_seconds(monitor: ModelMonitor) -> Histogram:
    """Time from a prediction to the first feedback on it; 0 if the feedback arrived first."""
    return monitor.delays


@COUNTERS.counter("event")
def model_business_events_total(monitor: ModelMonitor) -> Reading:
    """Sum of the values of business events declared in the configuration."""
    return dict(monitor.counters.events)


@COUNTERS.counter("evaluation", "label")
def model_evaluations_total(monitor: ModelMonitor) -> Reading:
    """Evaluations of predictions by others, such as a judge, by name and label; without a label if they have none."""
    return dict(monitor.counters.evaluations)


@COUNTERS.summary("evaluation")
def model_evaluation_score(monitor: ModelMonitor) -> Reading:
    """Scores of evaluations of predictions by others; the mean is the sum divided by the count."""
    return dict(monitor.counters.scores)


# ---- windows of inputs


class Window(NamedTuple):
    """A window of a version with a profile."""

    binner: Binner
    stats: WindowStats
    change: Floats | None = None

    def of_target(self, target: int | None, values: Floats) -> float | None:
        """Return the value of the predictions or the confidences; None if the profile has none."""
        return None if target is None else float(values[target])


FEATURES = Metrics[Window](_INPUTS, "model", "version", "feature", "window", names=lambda window: window.binner.names)


@FEATURES.gauge()
def model_feature_window_observations(window: Window) -> Reading:
    """Observations in the window, missing and invalid ones included."""
    return window.stats.observations


@FEATURES.gauge()
def model_feature_mean(window: Window) -> Reading:
    """Mean in the window."""
    return window.stats.mean


@FEATURES.gauge()
def model_feature_stddev(window: Window) -> Reading:
    """Population standard deviation in the window."""
    return window.stats.stddev


@FEATURES.gauge()
def model_feature_min(window: Window) -> Reading:
    """Smallest value in the window."""
    return window.stats.min


@FEATURES.gauge()
def model_feature_max(window: Window) -> Reading:
    """Largest value in the window."""
    return window.stats.max


@FEATURES.gauge()
def model_feature_missing_ratio(window: Window) -> Reading:
    """Share of the window's observations without a value."""
    return window.stats.missing


@FEATURES.gauge()
def model_feature_invalid_ratio(window: Window) -> Reading:
    """Share of the window's observations of a wrong type."""
    return window.stats.invalid


@FEATURES.gauge()
def model_feature_reference_missing_ratio(window: Window) -> Reading:
    """Smoothed training probability of a missing or invalid value."""
    return window.stats.reference_missing


@FEATURES.gauge()
def model_feature_unseen_ratio(window: Window) -> Reading:
    """Share of the window's observations outside the training range or categories."""
    return window.stats.unseen


@FEATURES.gauge()
def model_feature_mean_shift(window: Window) -> Reading:
    """Mean in the window less the training mean, in training standard deviations; absent if training did not vary."""
    return window.stats.shift


@FEATURES.gauge()
def model_feature_kl_divergence(window: Window) -> Reading:
    """KL divergence of the window from training, in nats."""
    return window.stats.kl


@FEATURES.gauge()
def model_feature_kl_divergence_noise(window: Window) -> Reading:
    """Noise floor: the divergence that sampling alone exceeds with a probability of 1%."""
    return window.stats.noise


@FEATURES.gauge()
def model_feature_recent_kl_divergence(window: Window) -> Reading:
    """KL divergence of the window from the longest window before it, in nats; absent until there is one."""
    return window.stats.recent_kl


@FEATURES.gauge()
def model_feature_recent_kl_divergence_noise(window: Window) -> Reading:
    """Noise floor of the recent divergence."""
    return window.stats.recent_noise


@FEATURES.gauge()
def model_feature_change_kl_divergence(window: Window) -> Reading:
    """KL divergence from training of features that have changed abruptly, in nats; absent for the others."""
    return window.change


WINDOW = Metrics[Window](_INPUTS, "model", "version", "window")


@WINDOW.gauge()
def model_multivariate_drift(window: Window) -> Reading:
    """Divergence of the correlations between numeric features from training, in nats."""
    return window.stats.multivariate[0] if window.binner.copula else None


@WINDOW.gauge()
def model_multivariate_drift_noise(window: Window) -> Reading:
    """Noise floor of the divergence of the correlations."""
    return window.stats.multivariate[1] if window.binner.copula else None


@WINDOW.gauge()
def model_prediction_kl_divergence(window: Window) -> Reading:
    """KL divergence of the window's predictions from training, in nats; needs a profile with a prediction column."""
    return window.of_target(window.binner.prediction, window.stats.kl)


@WINDOW.gauge()
def model_prediction_kl_divergence_noise(window: Window) -> Reading:
    """Noise floor of the divergence of predictions."""
    return window.of_target(window.binner.prediction, window.stats.noise)


@WINDOW.gauge()
def model_confidence_kl_divergence(window: Window) -> Reading:
    """KL divergence of the window's confidences from training, in nats; needs a profile with a confidence column."""
    return window.of_target(window.binner.confidence, window.stats.kl)


@WINDOW.gauge()
def model_confidence_kl_divergence_noise(window: Window) -> Reading:
    """Noise floor of the divergence of confidences."""
    return window.of_target(window.binner.confidence, window.stats.noise)


ALL_REPLICAS = Metrics[Window](_INPUTS, "model", "version", "feature", names=lambda window: window.binner.names)


@ALL_REPLICAS.gauge()
def model_feature_replicas_kl_divergence(window: Window) -> Reading:
    """KL divergence of the longest window of all replicas together from training, in nats, with `metrics: summary`."""
    return window.stats.kl


@ALL_REPLICAS.gauge()
def model_feature_replicas_kl_divergence_noise(window: Window) -> Reading:
    """Noise floor of the divergence of all replicas together."""
    return window.stats.noise


# ---- what windows are compared with


class Profiled(NamedTuple):
    """A version with a profile."""

    monitor: ModelMonitor
    binner: Binner
    noise: NoiseFloors
    now: float

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return self.binner.names

    def bins(self) -> Iterator[Key]:
        """Return the feature and the label of each bin."""
        for name, target in zip(self.features, self.binner.targets, strict=False):
            yield from ((name, label) for label in target.labels())

    def dependent(self) -> list[int]:
        """Return the features whose values depend on each other."""
        return [index for index in range(len(self.features)) if (self.noise.ratio.ratio[index] > 1).any()]

    def segments(self) -> list[str]:
        """Return the names of the segments."""
        return list(self.monitor.segments.names) if self.monitor.segments else []

    def compared(self) -> list[int]:
        """Return the features that segments are compared by: not the one that they are made of."""
        source = self.monitor.segments.source if self.monitor.segments else ""
        return [index for index, name in enumerate(self.features) if name != source]

    def segments_and_features(self) -> Iterator[Key]:
        """Return each segment and feature."""
        return itertools.product(self.segments(), (self.features[index] for index in self.compared()))


PROFILE = Metrics[Profiled](
    _INPUTS, "model", "version", "feature", names=lambda one: one.features, state=lambda one: one.binner
)


@PROFILE.gauge()
def model_feature_reference_mean(one: Profiled) -> Reading:
    """Mean of the training values."""
    return one.binner.mean


@PROFILE.gauge()
def model_feature_reference_stddev(one: Profiled) -> Reading:
    """Standard deviation of the training values."""
    return one.binner.stddev


_BIN = (_INPUTS, "model", "version", "feature", "bin")
BINS = Metrics[Profiled](*_BIN, names=Profiled.bins, state=lambda one: one.binner)


@BINS.gauge()
def model_feature_reference_probability(one: Profiled) -> Reading:
    """Smoothed training probability of a bin."""
    return one.binner.reference.probability


OBSERVED = Metrics[Profiled](*_BIN, names=Profiled.bins)


@OBSERVED.counter()
def model_feature_observations_total(one: Profiled) -> Reading:
    """Observations of a feature by bin of the training profile, which can be summed over replicas."""
    return one.monitor.observed


NOISE = Metrics[Profiled](_INPUTS, "model", "version", state=lambda one: one.noise)


@NOISE.gauge("feature", "source", "observations")
def model_feature_noise_ratio(one: Profiled) -> Reading:
    """Factor by which autocorrelation raises the noise floor of a number of observations."""
    return {
        (one.features[index], "live" if index in one.noise.learned else "training", f"{size:.0f}"): ratio
        for index in one.dependent()
        for size, ratio in zip(one.noise.ratio.sizes, one.noise.ratio.ratio[index], strict=True)
    }


@NOISE.gauge("observations")
def model_noise_ratio_observations(one: Profiled) -> Reading:
    """The numbers of observations for which noise ratios are known."""
    return {f"{size:.0f}": size for size in one.noise.ratio.sizes} if one.dependent() else None


EVIDENCE = Metrics[Profiled](
    *(_INPUTS, "model", "version", "feature"),
    names=lambda one: one.binner.target_names + ["(correlation)"] * (one.binner.copula is not None),
)


@EVIDENCE.gauge()
def model_feature_drift_evidence(one: Profiled) -> Reading:
    """Evidence that a feature or output, or the correlation, differs from training, in nats; absent when idle."""
    # Evidence of a version that was replaced never ends.
    return one.monitor.read_evidence(one.now) if one.now - one.monitor.last_used <= IDLE_SECONDS else None


VERSION_EVIDENCE = Metrics[Profiled](_INPUTS, "model", "version")


@VERSION_EVIDENCE.gauge()
def model_drift_evidence(one: Profiled) -> Reading:
    """Evidence that inputs or predictions differ from training, the log of their mean e-detector, in nats."""
    if one.now - one.monitor.last_used > IDLE_SECONDS:
        return None
    evidence = model_evidence(one.monitor.read_evidence(one.now))
    return None if math.isnan(evidence) else evidence


@VERSION_EVIDENCE.gauge()
def model_drift_evidence_limit(one: Profiled) -> Reading:
    """Evidence that chance exceeds once in drift_false_alarm_interval, in nats."""
    return evidence_limit(one.monitor.config.false_alarm_seconds())


# ---- segments

SEGMENT = Metrics[Profiled](_SEGMENTS, "model", "version", "segment", names=Profiled.segments)


@SEGMENT.counter()
def model_segment_attempts_total(one: Profiled) -> Reading:
    """Recorded predictions by segment."""
    return one.monitor.segment_counters.attempts


@SEGMENT.counter()
def model_segment_confident_predictions_total(one: Profiled) -> Reading:
    """Predictions without an error at or above the confidence threshold, by segment."""
    return one.monitor.segment_counters.confident


@SEGMENT.counter()
def model_segment_corrections_total(one: Profiled) -> Reading:
    """Confident predictions that a user corrected or rejected, each counted once, by segment."""
    return one.monitor.segment_counters.corrections


SEGMENT_DRIFT = Metrics[Profiled](
    _SEGMENTS, "model", "version", "segment", "feature", names=Profiled.segments_and_features
)


@SEGMENT_DRIFT.gauge()
def model_segment_kl_divergence(one: Profiled) -> Reading:
    """KL divergence of a segment's longest window from the whole training set, in nats."""
    return one.monitor.read_segments(one.now)[0][:, one.compared()].ravel()


@SEGMENT_DRIFT.gauge()
def model_segment_kl_divergence_noise(one: Profiled) -> Reading:
    """Noise floor of the divergence of a segment."""
    return one.monitor.read_segments(one.now)[1][:, one.compared()].ravel()


# ---- runs of ingest


class Batch(NamedTuple):
    """A run of ``ingest`` for one model version."""

    monitor: ModelMonitor
    rows: int
    rejected: int
    seconds: float
    end: float

    def lines(self, now: float) -> Iterator[FamilyLines]:
        """Return the gauges of the run, and of its monitor at a monotonic time."""
        yield from BATCH.lines(self, model=self.monitor.config.name, version=self.monitor.version)
        yield from window_lines(self.monitor, now)


BATCH = Metrics[Batch]("Batches", "model", "version")


@BATCH.gauge()
def model_batch_rows(batch: Batch) -> Reading:
    """Rows counted in the last batch."""
    return batch.rows


@BATCH.gauge()
def model_batch_rejected_rows(batch: Batch) -> Reading:
    """Rows refused in the last batch."""
    return batch.rejected


@BATCH.gauge()
def model_batch_confident_ratio(batch: Batch) -> Reading:
    """Share of the last batch's rows at or above the confidence threshold; absent if no row has a confidence."""
    known = batch.monitor.confidences.counts.sum() > 0
    return batch.monitor.counters.confident / batch.rows if known else None


@BATCH.gauge()
def model_batch_duration_seconds(batch: Batch) -> Reading:
    """Time taken to count the last batch."""
    return batch.seconds


@BATCH.gauge()
def model_batch_last_success_timestamp_seconds(batch: Batch) -> Reading:
    """Unix time at which the last batch was counted."""
    return batch.end


# ---- collecting


class ModelsCollector:
    """Collects the metrics of monitors; ``name`` is its ``collector`` label."""

    name = "models"

    def __init__(self) -> None:
        self._caches: WeakKeyDictionary[ModelMonitor, Cache] = WeakKeyDictionary()

    def collect(self, monitors: MonitorRegistry) -> Iterator[FamilyLines]:
        """Return the lines of every model; the families are in no particular order."""
        now = time.monotonic()
        for model in monitors.models.values():
            names = dict.fromkeys(name for binner in monitors.binners_of(model.name) for name in binner.names)
            configured = Configured(model, list(names), monitors.unknown_features[model.name])
            for group in (THRESHOLDS, MODEL):
                yield from group.lines(configured, model=model.name)
        for monitor in monitors:
            cache, labels = self._caches.setdefault(monitor, {}), _labels(monitor)
            for of_monitor in (COUNTERS, LABELS):
                yield from of_monitor.lines(monitor, cache, **labels)
            if monitor.binner and monitor.noise:
                one = Profiled(monitor, monitor.binner, monitor.noise, now)
                for of_profile in (EVIDENCE, VERSION_EVIDENCE, SEGMENT):
                    yield from of_profile.lines(one, cache, **labels)
                if monitor.segments:
                    yield from SEGMENT_LABELS.lines(monitor, cache, **labels)
                if monitor.config.metrics == "full":
                    yield from OBSERVED.lines(one, cache, **labels)
            yield from _gauges(monitor, now, cache)


def window_lines(monitor: ModelMonitor, now: float) -> Iterator[FamilyLines]:
    """Return the gauges of a monitor at a monotonic time, without its counters."""
    names = monitor.binner.names if monitor.binner else []
    yield from THRESHOLDS.lines(Configured(monitor.config, names), model=monitor.config.name)
    yield from _gauges(monitor, now, {})


def _labels(monitor: ModelMonitor) -> dict[str, str]:
    return {"model": monitor.config.name, "version": monitor.version}


def _gauges(monitor: ModelMonitor, now: float, cache: Cache) -> Iterator[FamilyLines]:
    labels, binner, noise = _labels(monitor), monitor.binner, monitor.noise
    yield from INFO.lines(monitor, cache, **labels)
    if binner and noise:
        one = Profiled(monitor, binner, noise, now)
        # Prometheus computes the score and the noise floor of all replicas together from bins and noise ratios.
        of_profile = [PROFILE, *((BINS, NOISE) if monitor.config.metrics == "full" else ())]
        for group in [*of_profile, *((SEGMENT_DRIFT,) if monitor.segments else ())]:
            yield from group.lines(one, cache, **labels)
        yield from PROFILE_QUALITY.lines(binner, cache, **labels)
        config, changes = cache.get(InputChanges, (None, None))
        if config is not monitor.config:
            changes = InputChanges(
                binner, monitor.config.window_seconds().items(), monitor.config.false_alarm_seconds()
            )
            cache[InputChanges] = monitor.config, changes
        past = monitor.read_past_variance(now)
        for name, stats in monitor.read(now).items():
            window = Window(binner, stats, changes.score(noise, name, stats))
            for of_window in (FEATURES, WINDOW):
                yield from of_window.lines(window, cache, **labels, window=name)
            if binner.quality and (estimate := binner.quality.estimate(stats.counts, past)):
                yield from ESTIMATES.lines((binner.quality.kind, estimate), cache, **labels, window=name)
    for name, quality in monitor.read_quality(now).items():
        yield from WINDOW_QUALITY.lines(quality, cache, **labels, window=name)
