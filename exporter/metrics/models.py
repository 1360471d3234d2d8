"""The metrics of the models, from their monitors: requests, inputs, drift, segments and settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from exporter.config import ModelConfig
from exporter.metrics.lines import Cache, FamilyLines, Key, Metrics, bound_label
from exporter.metrics.quality import (
    ESTIMATES,
    LABELS,
    REFERENCE_QUALITY,
    SEGMENT_LABELS,
    WINDOW_QUALITY,
    ReferenceQuality,
)
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import VERDICTS
from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.feature_budget import FeatureBudget, FeatureCount
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.registry import IDLE_SECONDS, MonitorRegistry
from exporter.monitoring.segments import Segments
from exporter.monitoring.window_stats import WindowStats
from exporter.stats.divergence import Floats


class ConfiguredModel(NamedTuple):
    """A model as it is configured, and what all its versions share."""

    config: ModelConfig
    statistics: list[str]
    """The names of the features in the profiles of its versions."""


def _thresholds(model: ConfiguredModel) -> dict[Key, float]:
    found: dict[Key, float] = {(None, alert): value for alert, value in model.config.alerts.items()}
    for name, feature in model.config.features.items():
        # The threshold of an input applies to each of its statistics, unless one has its own.
        for statistic in (one for one in model.statistics if one == name or one.startswith(f"{name}.")):
            if statistic == name or statistic not in model.config.features:
                found |= {(statistic, alert): value for alert, value in feature.alerts.items()}
    return found


THRESHOLDS = Metrics[ConfiguredModel]("Requests and business", "model")
THRESHOLDS.gauge("model_alert_threshold", "Alert threshold set in the configuration.", _thresholds, "feature", "alert")


def _bucket_of_objective(model: ModelConfig) -> dict[Key, float] | None:
    latency = model.objectives.latency if model.objectives else None
    return {bound_label(latency.below): latency.below} if latency else None


MODEL = Metrics[ModelConfig]("Requests and business", "model")
MODEL.gauge(
    "model_objective",
    "Objective set in the configuration: the share of requests that are to succeed.",
    lambda model: model.objectives.shares() if model.objectives else None,
    "objective",
)
MODEL.gauge(
    "model_objective_latency_seconds",
    "Latency of the objective; the bucket label is the le of the histogram's bucket that is fast enough.",
    _bucket_of_objective,
    "bucket",
)
MODEL.gauge(
    "model_confidence_threshold",
    "Confidence from which a prediction counts as confident.",
    ModelConfig.confident_from,
)
UNKNOWN_FEATURES = Metrics[int]("Requests and business", "model")
UNKNOWN_FEATURES.counter(
    "model_exporter_unknown_features_total", "Features received that are not in the profile.", float
)

INFO = Metrics[ModelMonitor]("Requests and business", "model", "version")
INFO.gauge(
    "model_info",
    "Information about a model version; the profile label is the start of the training profile's hash.",
    lambda monitor: {monitor.binner.profile.hash[:12] if monitor.binner else "none": 1.0},
    "profile",
)

COUNTERS = Metrics[ModelMonitor]("Requests and business", "model", "version")
COUNTERS.counter(
    "model_requests_total",
    "Requests to the model by HTTP code; an event without a code counts as 200.",
    lambda monitor: {str(code): count for code, count in dict(monitor.counters.requests).items()},
    "code",
)
COUNTERS.histogram(
    "model_request_duration_seconds", "Latency of requests to the model.", lambda monitor: monitor.durations
)
COUNTERS.counter("model_attempts_total", "Recorded predictions.", lambda monitor: monitor.counters.attempts)
COUNTERS.counter(
    "model_confident_predictions_total",
    "Predictions without an error at or above the confidence threshold.",
    lambda monitor: monitor.counters.confident,
)
COUNTERS.histogram("model_prediction_confidence", "Confidence of predictions.", lambda monitor: monitor.confidences)
COUNTERS.counter(
    "model_feedback_total",
    "User feedback on predictions by verdict; changed feedback counts again.",
    lambda monitor: {verdict: monitor.counters.feedback[verdict] for verdict in VERDICTS},
    "verdict",
)
COUNTERS.counter(
    "model_corrections_total",
    "Confident predictions corrected by a user, each counted once.",
    lambda monitor: monitor.counters.corrections,
)
COUNTERS.histogram(
    "model_feedback_delay_seconds",
    "Time from a prediction to the first feedback on it; 0 if the feedback arrived first.",
    lambda monitor: monitor.delays,
)
COUNTERS.counter(
    "model_business_events_total",
    "Sum of the values of business events declared in the configuration.",
    lambda monitor: dict(monitor.counters.events),
    "event",
)


class Window(NamedTuple):
    """A window of a version with a profile."""

    binner: Binner
    stats: WindowStats
    drifted: FeatureCount

    def of_target(self, target: int | None, values: Floats) -> float | None:
        """Return the value of the predictions or the confidences; None if the profile has none."""
        return None if target is None else float(values[target])


_NOISE = "Noise floor: the divergence that sampling alone exceeds with a probability of 1%."
FEATURES = Metrics[Window](
    "Inputs and drift", "model", "version", "feature", "window", names=lambda window: window.binner.names
)
FEATURES.gauge(
    "model_feature_window_observations",
    "Observations in the window, missing and invalid ones included.",
    lambda window: window.stats.observations,
)
FEATURES.gauge("model_feature_mean", "Mean in the window.", lambda window: window.stats.mean)
FEATURES.gauge("model_feature_stddev", "Standard deviation in the window.", lambda window: window.stats.stddev)
FEATURES.gauge("model_feature_min", "Smallest value in the window.", lambda window: window.stats.min)
FEATURES.gauge("model_feature_max", "Largest value in the window.", lambda window: window.stats.max)
FEATURES.gauge(
    "model_feature_missing_ratio",
    "Share of the window's observations without a value.",
    lambda window: window.stats.missing,
)
FEATURES.gauge(
    "model_feature_invalid_ratio",
    "Share of the window's observations of a wrong type.",
    lambda window: window.stats.invalid,
)
FEATURES.gauge(
    "model_feature_reference_missing_ratio",
    "Smoothed training probability of a missing or invalid value.",
    lambda window: window.stats.reference_missing,
)
FEATURES.gauge(
    "model_feature_unseen_ratio",
    "Share of the window's observations outside the training range or categories.",
    lambda window: window.stats.unseen,
)
FEATURES.gauge(
    "model_feature_mean_shift",
    "Mean in the window less the training mean, in training standard deviations.",
    lambda window: window.stats.shift,
)
FEATURES.gauge(
    "model_feature_kl_divergence",
    "KL divergence of the window from training, in nats.",
    lambda window: window.stats.kl,
)
FEATURES.gauge("model_feature_kl_divergence_noise", _NOISE, lambda window: window.stats.noise)
FEATURES.gauge(
    "model_feature_recent_kl_divergence",
    "KL divergence of the window from the longest window before it, in nats.",
    lambda window: window.stats.recent_kl,
)
FEATURES.gauge("model_feature_recent_kl_divergence_noise", _NOISE, lambda window: window.stats.recent_noise)

WINDOW = Metrics[Window]("Inputs and drift", "model", "version", "window")
WINDOW.gauge(
    "model_features_drifted",
    "Features in the window above their drift threshold, within the model's budget of false alarms.",
    lambda window: window.drifted.drifted,
)
WINDOW.gauge(
    "model_features_compared",
    "Features in the window with enough values to be counted as drifted.",
    lambda window: window.drifted.compared,
)
WINDOW.gauge(
    "model_multivariate_drift",
    "Divergence of the correlation between features from training, in nats.",
    lambda window: float(window.stats.multivariate[0]) if window.binner.copula else None,
)
WINDOW.gauge(
    "model_multivariate_drift_noise",
    _NOISE,
    lambda window: float(window.stats.multivariate[1]) if window.binner.copula else None,
)
WINDOW.gauge(
    "model_prediction_kl_divergence",
    "KL divergence of the window's predictions from training, in nats.",
    lambda window: window.of_target(window.binner.prediction, window.stats.kl),
)
WINDOW.gauge(
    "model_prediction_kl_divergence_noise",
    _NOISE,
    lambda window: window.of_target(window.binner.prediction, window.stats.noise),
)
WINDOW.gauge(
    "model_confidence_kl_divergence",
    "KL divergence of the window's confidences from training, in nats.",
    lambda window: window.of_target(window.binner.confidence, window.stats.kl),
)
WINDOW.gauge(
    "model_confidence_kl_divergence_noise",
    _NOISE,
    lambda window: window.of_target(window.binner.confidence, window.stats.noise),
)

ALL_REPLICAS = Metrics[tuple[Binner, WindowStats]](
    "Inputs and drift", "model", "version", "feature", names=lambda one: one[0].names
)
ALL_REPLICAS.gauge(
    "model_feature_replicas_kl_divergence",
    "KL divergence of the longest window of all replicas together from training, in nats.",
    lambda one: one[1].kl,
)
ALL_REPLICAS.gauge("model_feature_replicas_kl_divergence_noise", _NOISE, lambda one: one[1].noise)


class Evidence(NamedTuple):
    """The evidence of each feature."""

    binner: Binner
    values: Floats


EVIDENCE = Metrics[Evidence]("Inputs and drift", "model", "version", "feature", names=lambda one: one.binner.names)
EVIDENCE.gauge(
    "model_feature_drift_evidence",
    "Accumulated evidence that the feature differs from training for good, in nats.",
    lambda one: one.values,
)


class Training(NamedTuple):
    """What a version is compared with."""

    binner: Binner
    noise: NoiseFloors | None

    def weights(self, field: str) -> list[float] | None:
        """Return how much the predictions depend on each feature, where the profile knows it."""
        weights = self.binner.profile.weights
        return [getattr(weights.features[name], field) for name in self.binner.names] if weights else None

    def bins(self) -> Iterator[Key]:
        """Return the feature and the label of each bin."""
        for name, target in zip(self.binner.names, self.binner.targets, strict=False):
            yield from ((name, label) for label in target.labels())

    def noise_ratios(self) -> dict[Key, float]:
        """Return the factors by which dependence raises noise floors, of features whose values depend on each other."""
        found: dict[Key, float] = {}
        if self.noise:
            for index, name in enumerate(self.binner.names):
                source = "live" if index in self.noise.learned else "training"
                if (self.noise.ratio.ratio[index] > 1).any():
                    ratios = zip(self.noise.ratio.sizes, self.noise.ratio.ratio[index].tolist(), strict=True)
                    found |= {(name, source, f"{size:.0f}"): ratio for size, ratio in ratios}
        return found

    def noise_sizes(self) -> dict[Key, float] | None:
        """Return the numbers of values that `noise_ratios` has, if it has any."""
        if self.noise is None or not (self.noise.ratio.ratio[: len(self.binner.names)] > 1).any():
            return None
        return {f"{size:.0f}": size for size in self.noise.ratio.sizes.tolist()}


_FEATURE = ("Inputs and drift", "model", "version", "feature")
TRAINING = Metrics[Training](*_FEATURE, names=lambda one: one.binner.names, state=lambda one: one.binner)
TRAINING.gauge("model_feature_reference_mean", "Mean of the training values.", lambda one: one.binner.mean)
TRAINING.gauge(
    "model_feature_reference_stddev", "Standard deviation of the training values.", lambda one: one.binner.stddev
)
TRAINING.gauge(
    "model_feature_drift_evidence_limit",
    "Evidence that chance alone exceeds at most once a year, in nats.",
    lambda one: np.full(len(one.binner.names), LIMIT),
)
TRAINING.gauge(
    "model_feature_weight",
    "Share of the variation of the predictions that goes with a feature, in training.",
    lambda one: one.weights("weight"),
)
TRAINING.gauge(
    "model_feature_weight_upper",
    "Upper bound of the weight of a feature; 1 where it is not known.",
    lambda one: one.weights("upper"),
)

BINS = Metrics[Training](*_FEATURE, "bin", names=Training.bins, state=lambda one: one.binner)
BINS.gauge(
    "model_feature_reference_probability",
    "Smoothed training probability of a bin.",
    lambda one: one.binner.reference.probability,
)
OBSERVED = Metrics[tuple[Training, Floats]](*_FEATURE, "bin", names=lambda one: one[0].bins())
OBSERVED.counter(
    "model_feature_observations_total",
    "Observations of a feature by bin of the training profile, which sum over replicas.",
    lambda one: one[1],
)
NOISE = Metrics[Training]("Inputs and drift", "model", "version", state=lambda one: one.noise)
NOISE.gauge(
    "model_feature_noise_ratio",
    "Noise floor of a number of observations, relative to that of independent ones, by training or by live values.",
    Training.noise_ratios,
    "feature",
    "source",
    "observations",
)
NOISE.gauge(
    "model_noise_ratio_observations",
    "The numbers of observations for which noise ratios are known.",
    Training.noise_sizes,
    "observations",
)

SEGMENT = Metrics[tuple[Segments, ModelMonitor]](
    "Segments", "model", "version", "segment", names=lambda one: one[0].names
)
SEGMENT.counter(
    "model_segment_attempts_total", "Recorded predictions by segment.", lambda one: one[1].segment_counters.attempts
)
SEGMENT.counter(
    "model_segment_confident_predictions_total",
    "Predictions without an error at or above the confidence threshold, by segment.",
    lambda one: one[1].segment_counters.confident,
)
SEGMENT.counter(
    "model_segment_corrections_total",
    "Confident predictions corrected by a user, each counted once, by segment.",
    lambda one: one[1].segment_counters.corrections,
)


class SegmentScores(NamedTuple):
    """The scores of the longest window of each segment and target, and their noise floors, shape ``(S, T)`` each."""

    segments: Segments
    names: list[str]
    scores: tuple[Floats, Floats]

    def features(self) -> list[int]:
        """Return the indices of the features but the one that segments are made of."""
        return [index for index, name in enumerate(self.names) if name != self.segments.source]

    def keys(self) -> Iterator[tuple[str, str]]:
        """Return each segment and feature."""
        return itertools.product(self.segments.names, (self.names[index] for index in self.features()))


SEGMENT_DRIFT = Metrics[SegmentScores]("Segments", "model", "version", "segment", "feature", names=SegmentScores.keys)
SEGMENT_DRIFT.gauge(
    "model_segment_kl_divergence",
    "KL divergence of a segment's longest window from the whole training set, in nats.",
    lambda one: one.scores[0][:, one.features()].ravel(),
)
SEGMENT_DRIFT.gauge("model_segment_kl_divergence_noise", _NOISE, lambda one: one.scores[1][:, one.features()].ravel())


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

    def confident_ratio(self) -> float | None:
        """Return the share of confident rows; None if no row has a confidence."""
        known = self.monitor.confidences.counts.sum() > 0
        return self.monitor.counters.confident / self.rows if known else None


BATCH = Metrics[Batch]("Batches", "model", "version")
BATCH.gauge("model_batch_rows", "Rows counted in the last batch.", lambda batch: batch.rows)
BATCH.gauge("model_batch_rejected_rows", "Rows refused in the last batch.", lambda batch: batch.rejected)
BATCH.gauge(
    "model_batch_confident_ratio",
    "Share of the last batch's rows at or above the confidence threshold; absent if no row has a confidence.",
    Batch.confident_ratio,
)
BATCH.gauge("model_batch_duration_seconds", "Time taken to count the last batch.", lambda batch: batch.seconds)
BATCH.gauge(
    "model_batch_last_success_timestamp_seconds",
    "Unix time at which the last batch was counted.",
    lambda batch: batch.end,
)


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
            yield from THRESHOLDS.lines(ConfiguredModel(model, list(names)), model=model.name)
            yield from MODEL.lines(model, model=model.name)
            yield from UNKNOWN_FEATURES.lines(monitors.unknown_features[model.name], model=model.name)
        for monitor in monitors:
            cache = self._caches.setdefault(monitor, {})
            labels = {"model": monitor.config.name, "version": monitor.version}
            yield from INFO.lines(monitor, cache, **labels)
            yield from COUNTERS.lines(monitor, cache, **labels)
            yield from LABELS.lines(monitor, cache, **labels)
            if monitor.binner:
                training = Training(monitor.binner, monitor.noise)
                if now - monitor.last_used <= IDLE_SECONDS:  # evidence of a version that was replaced never ends
                    evidence = Evidence(monitor.binner, monitor.read_evidence(now))
                    yield from EVIDENCE.lines(evidence, cache, **labels)
                if monitor.config.metrics == "full":
                    yield from OBSERVED.lines((training, monitor.observed), cache, **labels)
                yield from _training(training, monitor, cache, labels)
                if monitor.segments:
                    yield from SEGMENT.lines((monitor.segments, monitor), cache, **labels)
                    yield from SEGMENT_LABELS.lines((monitor.segments, monitor.quality), cache, **labels)
            yield from _windows(monitor, monitor.read(now), now, cache, labels)


def window_lines(monitor: ModelMonitor, now: float) -> Iterator[FamilyLines]:
    """Return the gauges of a monitor at a monotonic time, without its counters."""
    labels = {"model": monitor.config.name, "version": monitor.version}
    cache: Cache = {}
    yield from INFO.lines(monitor, cache, **labels)
    configured = ConfiguredModel(monitor.config, monitor.binner.names if monitor.binner else [])
    yield from THRESHOLDS.lines(configured, model=monitor.config.name)
    windows = monitor.read(now)
    if monitor.binner:
        yield from _training(Training(monitor.binner, monitor.noise), monitor, cache, labels)
    yield from _windows(monitor, windows, now, cache, labels)


def _training(one: Training, monitor: ModelMonitor, cache: Cache, labels: dict[str, str]) -> Iterator[FamilyLines]:
    """Yield what the windows are compared with; where all replicas are to be summed, also each bin and noise ratio."""
    if monitor.config.metrics == "full":
        yield from BINS.lines(one, cache, **labels)
        yield from NOISE.lines(one, cache, **labels)
    yield from TRAINING.lines(one, cache, **labels)
    if one.binner.quality:
        yield from REFERENCE_QUALITY.lines(ReferenceQuality(one.binner, one.binner.quality), cache, **labels)


def _windows(
    monitor: ModelMonitor, windows: dict[str, WindowStats], now: float, cache: Cache, labels: dict[str, str]
) -> Iterator[FamilyLines]:
    binner, noise = monitor.binner, monitor.noise
    if binner and noise:
        past = monitor.read_past_variance(now)
        config, budget = cache.get(FeatureBudget, (None, None))
        if config is not monitor.config:
            budget = FeatureBudget(monitor.config, binner.names)
            cache[FeatureBudget] = monitor.config, budget
        for name, stats in windows.items():
            window = Window(binner, stats, budget.count(noise, name, stats))
            yield from FEATURES.lines(window, cache, **labels, window=name)
            yield from WINDOW.lines(window, cache, **labels, window=name)
            estimate = binner.quality.estimate(stats.counts, past) if binner.quality else None
            if binner.quality and estimate:
                yield from ESTIMATES.lines((binner.quality.kind, estimate), cache, **labels, window=name)
        if monitor.segments:
            scores = SegmentScores(monitor.segments, binner.names, monitor.read_segments(now))
            yield from SEGMENT_DRIFT.lines(scores, cache, **labels)
    for name, quality in monitor.read_quality(now).items():
        yield from WINDOW_QUALITY.lines(quality, cache, **labels, window=name)
