"""Render a model's metric names and labels once, and lines that rarely change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from exporter.config import ModelConfig
from exporter.config.types import DURATION_BUCKETS
from exporter.metrics import families as f
from exporter.metrics.lines import (
    Family,
    FamilyLines,
    LineTemplate,
    histogram_template,
    render_lines,
    series_prefix,
)
from exporter.metrics.quality import QualityTemplates, reference_quality
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import CONFIDENCE_BUCKETS, DELAY_BUCKETS
from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.feature_budget import FeatureBudget
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors


class ModelTemplates:
    """The line templates of one monitor. It has no reference to the monitor, which is the key it is cached by."""

    def __init__(self, monitor: ModelMonitor) -> None:
        self._binner, self._windows, self._segments = monitor.binner, list(monitor.windows), monitor.segments
        self.labels = {"model": monitor.config.name, "version": monitor.version}
        self.durations = histogram_template(f.DURATION, DURATION_BUCKETS, **self.labels)
        self.confidences = histogram_template(f.CONFIDENCE, CONFIDENCE_BUCKETS, **self.labels)
        self.delays = histogram_template(f.DELAY, DELAY_BUCKETS, **self.labels)
        self.quality = QualityTemplates(monitor, **self.labels)
        self._noise: tuple[NoiseFloors | None, list[FamilyLines]] = None, []
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
            for field, family in f.FEATURE_WINDOW.items()
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
            (f.REFERENCE_MEAN, self._by_feature(f.REFERENCE_MEAN).render(binner.mean[:count])),
            (f.REFERENCE_STDDEV, self._by_feature(f.REFERENCE_STDDEV).render(binner.stddev[:count])),
            (f.EVIDENCE_LIMIT, self._by_feature(f.EVIDENCE_LIMIT).render(np.full(count, LIMIT))),
            *self._weights(binner),
            *reference_quality(binner, self.labels),
        ]

    @cached_property
    def bin_probability(self) -> FamilyLines:
        """The lines of the training probability of each bin."""
        template, binner = self._bins(f.REFERENCE), self._binner
        return f.REFERENCE, template.render(binner.reference.probability[: len(template)]) if binner else b""

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
    """Return the factors by which dependence raises noise floors, of features whose values depend on each other."""
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
