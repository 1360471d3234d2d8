"""Collect the metrics of the models from their monitors.

The text of each line before its value is prepared once for a model version; a scrape only fills in the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from exporter.config import ModelConfig
from exporter.config.objectives import DURATION_BUCKETS
from exporter.metrics import families as f
from exporter.metrics.lines import (
    Family,
    FamilyLines,
    LineTemplate,
    histogram_template,
    histogram_values,
    render_lines,
    sample_line,
    series_prefix,
)
from exporter.metrics.quality import (
    QualityTemplates,
    quality_counters,
    quality_estimate,
    quality_windows,
    reference_quality,
)
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import CONFIDENCE_BUCKETS, DELAY_BUCKETS, VERDICTS
from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.feature_budget import FeatureBudget
from exporter.monitoring.hourly_reference import Expected
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.registry import IDLE_SECONDS, MonitorRegistry
from exporter.monitoring.window_stats import WindowStats


class _Templates:
    """The line templates of one monitor. It has no reference to the monitor, which is the key it is cached by."""

    def __init__(self, monitor: ModelMonitor) -> None:
        self._binner, self._windows, self._segments = monitor.binner, list(monitor.windows), monitor.segments
        self.labels = {"model": monitor.config.name, "version": monitor.version}
        self.durations = histogram_template(f.DURATION, DURATION_BUCKETS, **self.labels)
        self.confidences = histogram_template(f.CONFIDENCE, CONFIDENCE_BUCKETS, **self.labels)
        self.delays = histogram_template(f.DELAY, DELAY_BUCKETS, **self.labels)
        self.quality = QualityTemplates(monitor, **self.labels)
        self._noise: tuple[NoiseFloors | None, list[FamilyLines]] = None, []
        self._expected: tuple[Expected | None, list[FamilyLines]] = None, []
        self._bin_probability: tuple[Expected | None, list[FamilyLines]] = None, []
        self._budget: tuple[ModelConfig, FeatureBudget] | None = None

    def budget(self, config: ModelConfig) -> FeatureBudget:
        """Return the budget of false alarms that a configuration has."""
        if self._budget is None or self._budget[0] is not config:
            self._budget = config, FeatureBudget(config, self._binner.names if self._binner else [])
        return self._budget[1]

    @cached_property
    def features(self) -> dict[tuple[str, str], LineTemplate]:
        """A series for each feature, by the field of `WindowStats` and the window."""
        names = self._binner.names if self._binner else []
        return {
            (field, window): LineTemplate(
                series_prefix(family.name, **self.labels, feature=name, window=window) for name in names
            )
            for field, family in (f.FEATURE_WINDOW | f.FEATURE_DISTANCE).items()
            for window in self._windows
        }

    @cached_property
    def evidence(self) -> LineTemplate:
        """A series of evidence for each feature."""
        return self._by_feature(f.EVIDENCE)

    @cached_property
    def segments(self) -> dict[Family, LineTemplate]:
        """A series for each segment (counters), or each segment and feature (gauges)."""
        segments, binner = self._segments, self._binner
        if segments is None or binner is None:
            return {}
        features = [name for name in binner.names if name != segments.source]
        counters = (f.SEGMENT_ATTEMPTS, f.SEGMENT_CONFIDENT, f.SEGMENT_CORRECTIONS)
        return {
            family: LineTemplate(series_prefix(family.name, **self.labels, segment=name) for name in segments.names)
            for family in counters
        } | {
            family: LineTemplate(
                series_prefix(family.name, **self.labels, segment=segment, feature=name)
                for segment in segments.names
                for name in features
            )
            for family in (f.SEGMENT_KL, f.SEGMENT_NOISE)
        }

    @cached_property
    def bins(self) -> LineTemplate:
        """A series of observations for each bin of each feature."""
        return self._bins(f.OBSERVED)

    @cached_property
    def reference(self) -> list[FamilyLines]:
        """The lines about training that never change."""
        binner = self._binner
        if binner is None:
            return []
        count = len(binner.names)
        return [
            (f.REFERENCE_STDDEV, self._by_feature(f.REFERENCE_STDDEV).render(binner.stddev[:count])),
            (f.EVIDENCE_LIMIT, self._by_feature(f.EVIDENCE_LIMIT).render(np.full(count, LIMIT))),
            *self._weights(binner),
            *reference_quality(binner, self.labels),
        ]

    def expected(self, expected: Expected) -> list[FamilyLines]:
        """Return the lines of the training side of scores; those of the same are rendered once."""
        known, lines = self._expected
        if expected is not known and self._binner:
            means = self._reference_means
            mean = self._binner.mean + expected.shift * self._binner.scale
            lines = [(f.REFERENCE_MEAN, means.render(mean[: len(means)]))]
            self._expected = expected, lines
        return lines

    def bin_probability(self, expected: Expected) -> list[FamilyLines]:
        """Return the lines of the training probability of each bin; those of the same are rendered once."""
        known, lines = self._bin_probability
        if expected is not known:
            template = self._reference_bins
            lines = [(f.REFERENCE, template.render(expected.reference.probability[: len(template)]))]
            self._bin_probability = expected, lines
        return lines

    @cached_property
    def _reference_means(self) -> LineTemplate:
        return self._by_feature(f.REFERENCE_MEAN)

    @cached_property
    def _reference_bins(self) -> LineTemplate:
        return self._bins(f.REFERENCE)

    def _weights(self, binner: Binner) -> Iterator[FamilyLines]:
        """Yield how much the predictions depend on each feature, where the profile knows it."""
        if weights := binner.profile.weights:
            known = [weights.features[name] for name in binner.names]
            for family, values in zip(f.WEIGHT, ([w.weight for w in known], [w.upper for w in known]), strict=True):
                yield family, self._by_feature(family).render(np.array(values))

    def _by_feature(self, family: Family) -> LineTemplate:
        names = self._binner.names if self._binner else ()
        return LineTemplate(series_prefix(family.name, **self.labels, feature=name) for name in names)

    def noise(self, floors: NoiseFloors | None) -> list[FamilyLines]:
        """Return the lines of the noise ratios; those of the same floors are rendered once."""
        known, lines = self._noise
        if floors is not known and floors and self._binner:
            lines = list(_noise_ratios(self._binner.names, floors, self.labels))
            self._noise = floors, lines
        return lines

    def _bins(self, family: Family) -> LineTemplate:
        binner = self._binner
        return LineTemplate(
            series_prefix(family.name, **self.labels, feature=name, bin=label)
            for name, target in (zip(binner.names, binner.targets, strict=False) if binner else ())
            for label in target.labels()
        )


def _noise_ratios(names: Sequence[str], noise: NoiseFloors, labels: dict[str, str]) -> Iterator[FamilyLines]:
    """Return how much dependence raises the noise floors of features; nothing of those whose values do not depend."""
    ratio = noise.ratio
    dependent = [index for index in range(len(names)) if (ratio.ratio[index] > 1).any()]
    if not dependent:
        return
    sizes = [f"{size:.0f}" for size in ratio.sizes]
    prefixes = [
        series_prefix(f.NOISE_RATIO.name, **labels, feature=names[index], source=source, observations=size)
        for index in dependent
        for source in ["live" if index in noise.learned else "training"]
        for size in sizes
    ]
    yield f.NOISE_RATIO, render_lines(prefixes, ratio.ratio[dependent].ravel())
    prefixes = [series_prefix(f.NOISE_OBSERVATIONS.name, **labels, observations=size) for size in sizes]
    yield f.NOISE_OBSERVATIONS, render_lines(prefixes, ratio.sizes)


class ModelsCollector:
    """Collects the metrics of monitors; ``name`` is its ``collector`` label."""

    name = "models"

    def __init__(self) -> None:
        self._templates: WeakKeyDictionary[ModelMonitor, _Templates] = WeakKeyDictionary()

    def collect(self, monitors: MonitorRegistry) -> Iterator[FamilyLines]:
        """Return the lines of every model; the families are in no particular order."""
        now = time.monotonic()
        for model in monitors.models.values():
            yield from _thresholds(model, monitors.binners_of(model.name))
            yield from _objectives(model)
            yield sample_line(f.CONFIDENCE_THRESHOLD, model.confident_from(), model=model.name)
            yield sample_line(f.UNKNOWN, monitors.unknown_features[model.name], model=model.name)
        for monitor in monitors:
            templates = self._templates.get(monitor)
            if templates is None:
                templates = self._templates[monitor] = _Templates(monitor)
            yield from _counters(monitor, templates)
            yield from quality_counters(monitor, templates.quality)
            yield from _windows(monitor, templates, monitor.read(now), now)
            yield from quality_windows(monitor, templates.quality, now)
            if monitor.binner:
                if now - monitor.last_used <= IDLE_SECONDS:  # evidence of a version that was replaced never ends
                    evidence = monitor.read_evidence(now)[: len(monitor.binner.names)]
                    yield f.EVIDENCE, templates.evidence.render(evidence)
                expected = monitor.binner.expected_at(time.time())
                yield from templates.expected(expected)
                if _has_bins(monitor):
                    yield f.OBSERVED, templates.bins.render(monitor.observed[: len(templates.bins)])
                    yield from _for_sums(monitor, templates, expected)
            yield from _segment_counters(monitor, templates)
            yield from _segments(monitor, templates, now)
            yield from templates.reference


def window_lines(monitor: ModelMonitor, now: float) -> Iterator[FamilyLines]:
    """Return the gauges of a monitor at a monotonic time, without its counters."""
    templates = _Templates(monitor)
    yield _info(monitor, templates)
    windows = monitor.read(now)
    if windows:
        *_, longest = windows.values()
        yield from templates.expected(longest.expected)
        if _has_bins(monitor):
            yield from _for_sums(monitor, templates, longest.expected)
    yield from _thresholds(monitor.config, [monitor.binner] if monitor.binner else [])
    yield from _windows(monitor, templates, windows, now)
    yield from quality_windows(monitor, templates.quality, now)
    yield from _segments(monitor, templates, now)
    yield from templates.reference


def _has_bins(monitor: ModelMonitor) -> bool:
    return monitor.config.metrics == "full"


def _for_sums(monitor: ModelMonitor, templates: _Templates, expected: Expected) -> Iterator[FamilyLines]:
    """Yield the training side from which Prometheus computes the score and the noise floor of all replicas together."""
    yield from templates.bin_probability(expected)
    yield from templates.noise(monitor.noise)


def _thresholds(model: ModelConfig, binners: Sequence[Binner]) -> Iterator[FamilyLines]:
    owners: list[tuple[dict[str, str], dict[str, float]]] = [({}, model.alerts)]
    names = list(dict.fromkeys(name for binner in binners for name in binner.names))
    for name, feature in model.features.items():
        # The threshold of an input applies to each of its statistics, unless one has its own.
        scalars = [s for s in names if s == name or s.startswith(f"{name}.")]
        owners += [({"feature": s}, feature.alerts) for s in scalars if s == name or s not in model.features]
    for labels, alerts in owners:
        for alert, value in alerts.items():
            yield sample_line(f.THRESHOLD, value, model=model.name, **labels, alert=alert)


def _objectives(model: ModelConfig) -> Iterator[FamilyLines]:
    if model.objectives is None:
        return
    for name, share in model.objectives.shares().items():
        yield sample_line(f.OBJECTIVE, share, model=model.name, objective=name)
    if latency := model.objectives.latency:
        yield sample_line(f.OBJECTIVE_LATENCY, latency.below, model=model.name, bucket=str(latency.below))


def _info(monitor: ModelMonitor, templates: _Templates) -> FamilyLines:
    profile = monitor.binner.profile.hash[:12] if monitor.binner else "none"
    return sample_line(f.INFO, 1.0, **templates.labels, profile=profile)


def _counters(monitor: ModelMonitor, templates: _Templates) -> Iterator[FamilyLines]:
    labels, counters = templates.labels, monitor.counters
    yield _info(monitor, templates)
    for family, key, values in (
        (f.REQUESTS, "code", dict(counters.requests)),
        (f.FEEDBACK, "verdict", {verdict: counters.feedback[verdict] for verdict in VERDICTS}),
        (f.EVENTS, "event", dict(counters.events)),
    ):
        prefixes = [series_prefix(family.name, **labels, **{key: str(name)}) for name in values]
        yield family, render_lines(prefixes, [float(value) for value in values.values()])
    for family, value in (
        (f.ATTEMPTS, counters.attempts),
        (f.CONFIDENT, counters.confident),
        (f.CORRECTIONS, counters.corrections),
    ):
        yield sample_line(family, value, **labels)
    yield f.DURATION, templates.durations.render(histogram_values(monitor.durations))
    yield f.CONFIDENCE, templates.confidences.render(histogram_values(monitor.confidences))
    yield f.DELAY, templates.delays.render(histogram_values(monitor.delays))


def _windows(
    monitor: ModelMonitor, templates: _Templates, windows: Mapping[str, WindowStats], now: float
) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.noise is None:
        return
    count = len(monitor.binner.names)
    fields = f.FEATURE_WINDOW | {name: f.FEATURE_DISTANCE[name] for name in monitor.config.drift}
    past = monitor.read_past_variance(now)
    for window, stats in windows.items():
        for field, family in fields.items():
            yield family, templates.features[field, window].render(getattr(stats, field)[:count])
        drifted = templates.budget(monitor.config).count(monitor.noise, window, stats)
        for family, value in zip(f.FEATURE_COUNT, drifted, strict=True):
            yield sample_line(family, value, **templates.labels, window=window)
        yield from quality_estimate(monitor, templates.quality, window, stats.counts, past)
        if monitor.binner.copula:
            for family, value in zip(f.MULTIVARIATE, stats.multivariate, strict=True):
                yield sample_line(family, value, **templates.labels, window=window)
        for target, families in (
            (monitor.binner.prediction, f.PREDICTION_WINDOW),
            (monitor.binner.confidence, f.CONFIDENCE_WINDOW),
        ):
            if target is None:
                continue
            for field, family in families.items():
                yield sample_line(family, getattr(stats, field)[target], **templates.labels, window=window)


def _segment_counters(monitor: ModelMonitor, templates: _Templates) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    counters = monitor.segment_counters
    for family, values in (
        (f.SEGMENT_ATTEMPTS, counters.attempts),
        (f.SEGMENT_CONFIDENT, counters.confident),
        (f.SEGMENT_CORRECTIONS, counters.corrections),
    ):
        yield family, templates.segments[family].render(values)


def _segments(monitor: ModelMonitor, templates: _Templates, now: float) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    names = monitor.binner.names
    features = [index for index, name in enumerate(names) if name != monitor.segments.source]
    for family, scores in zip((f.SEGMENT_KL, f.SEGMENT_NOISE), monitor.read_segments(now), strict=True):
        yield family, templates.segments[family].render(scores[:, features].ravel())
