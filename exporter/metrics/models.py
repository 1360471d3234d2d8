"""Collect the metrics of the models from their monitors.

The text of each line before its value is prepared once for a model version; a scrape only fills in the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

from exporter.config import ModelConfig
from exporter.metrics import families as f
from exporter.metrics.lines import (
    FamilyLines,
    histogram_values,
    render_lines,
    sample_line,
    series_prefix,
)
from exporter.metrics.quality import (
    quality_counters,
    quality_estimate,
    quality_windows,
)
from exporter.metrics.templates import ModelTemplates
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import VERDICTS
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import IDLE_SECONDS, MonitorRegistry
from exporter.monitoring.window_stats import WindowStats


class ModelsCollector:
    """Collects the metrics of monitors; ``name`` is its ``collector`` label."""

    name = "models"

    def __init__(self) -> None:
        self._templates: WeakKeyDictionary[ModelMonitor, ModelTemplates] = WeakKeyDictionary()

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
                templates = self._templates[monitor] = ModelTemplates(monitor)
            yield from _counters(monitor, templates)
            yield from quality_counters(monitor, templates.quality)
            yield from _windows(monitor, templates, monitor.read(now), now)
            yield from quality_windows(monitor, templates.quality, now)
            if monitor.binner:
                if now - monitor.last_used <= IDLE_SECONDS:  # evidence of a version that was replaced never ends
                    evidence = monitor.read_evidence(now)[: len(monitor.binner.names)]
                    yield f.EVIDENCE, templates.evidence.render(evidence)
                if _has_bins(monitor):
                    yield f.OBSERVED, templates.bins.render(monitor.observed[: len(templates.bins)])
                    yield from _for_sums(monitor, templates)
            yield from _segment_counters(monitor, templates)
            yield from _segments(monitor, templates, now)
            yield from templates.reference


def window_lines(monitor: ModelMonitor, now: float) -> Iterator[FamilyLines]:
    """Return the gauges of a monitor at a monotonic time, without its counters."""
    templates = ModelTemplates(monitor)
    yield _info(monitor, templates)
    windows = monitor.read(now)
    if windows and _has_bins(monitor):
        yield from _for_sums(monitor, templates)
    yield from _thresholds(monitor.config, [monitor.binner] if monitor.binner else [])
    yield from _windows(monitor, templates, windows, now)
    yield from quality_windows(monitor, templates.quality, now)
    yield from _segments(monitor, templates, now)
    yield from templates.reference


def _has_bins(monitor: ModelMonitor) -> bool:
    return monitor.config.metrics == "full"


def _for_sums(monitor: ModelMonitor, templates: ModelTemplates) -> Iterator[FamilyLines]:
    """Yield the training side from which Prometheus computes the score and the noise floor of all replicas together."""
    yield templates.bin_probability
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


def _info(monitor: ModelMonitor, templates: ModelTemplates) -> FamilyLines:
    profile = monitor.binner.profile.hash[:12] if monitor.binner else "none"
    return sample_line(f.INFO, 1.0, **templates.labels, profile=profile)


def _counters(monitor: ModelMonitor, templates: ModelTemplates) -> Iterator[FamilyLines]:
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
    monitor: ModelMonitor, templates: ModelTemplates, windows: Mapping[str, WindowStats], now: float
) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.noise is None:
        return
    count = len(monitor.binner.names)
    fields = f.FEATURE_WINDOW
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


def _segment_counters(monitor: ModelMonitor, templates: ModelTemplates) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    counters = monitor.segment_counters
    for family, values in (
        (f.SEGMENT_ATTEMPTS, counters.attempts),
        (f.SEGMENT_CONFIDENT, counters.confident),
        (f.SEGMENT_CORRECTIONS, counters.corrections),
    ):
        yield family, templates.segments[family].render(values)


def _segments(monitor: ModelMonitor, templates: ModelTemplates, now: float) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    names = monitor.binner.names
    features = [index for index, name in enumerate(names) if name != monitor.segments.source]
    for family, scores in zip((f.SEGMENT_KL, f.SEGMENT_NOISE), monitor.read_segments(now), strict=True):
        yield family, templates.segments[family].render(scores[:, features].ravel())
