"""Monitors read into metric families.

The text before each value is made once a model version and kept: a scrape fills in numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

from exporter.config import ModelConfig
from exporter.metrics import families as f
from exporter.metrics.families import Family, LineTemplate, render_lines, series_prefix
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import CONFIDENCE_BUCKETS, DELAY_BUCKETS, DURATION_BUCKETS, VERDICTS, Histogram
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.accuracy import estimate_accuracy
from exporter.storage import Store

FamilyLines = tuple[Family, bytes]
"""Lines of one family."""


class _Series:
    """The series of one monitor, which it must not hold: it would keep itself alive."""

    def __init__(self, monitor: ModelMonitor) -> None:
        self._binner, self._windows, self._segments = monitor.binner, list(monitor.windows), monitor.segments
        self.labels = {"model": monitor.config.name, "version": monitor.version}
        self.durations = self._histogram(f.DURATION, DURATION_BUCKETS)
        self.confidences = self._histogram(f.CONFIDENCE, CONFIDENCE_BUCKETS)
        self.delays = self._histogram(f.DELAY, DELAY_BUCKETS)

    def _histogram(self, family: Family, bounds: Sequence[float]) -> LineTemplate:
        buckets = [series_prefix(f"{family.name}_bucket", **self.labels, le=le) for le in [*map(str, bounds), "+Inf"]]
        whole = [series_prefix(f"{family.name}_{what}", **self.labels) for what in ("count", "sum")]
        return LineTemplate([*buckets, *whole])

    @cached_property
    def features(self) -> dict[tuple[str, str], LineTemplate]:
        """By field of a window's reading and window: one series a feature."""
        names = self._binner.names if self._binner else []
        return {
            (field, window): LineTemplate(
                series_prefix(family.name, **self.labels, feature=name, window=window) for name in names
            )
            for field, family in (f.FEATURE_WINDOW | f.FEATURE_DISTANCE).items()
            for window in self._windows
        }

    @cached_property
    def segments(self) -> dict[Family, LineTemplate]:
        """One series of the counters a segment; of the gauges one a segment and feature."""
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
        """One series of the observations a bin of a feature."""
        return self._bins(f.OBSERVED)

    @cached_property
    def reference(self) -> list[FamilyLines]:
        """The training side, which never changes."""
        binner = self._binner
        if binner is None:
            return []
        names, count = binner.names, len(binner.names)
        probability = self._bins(f.REFERENCE)
        return [
            (
                family,
                render_lines(
                    [series_prefix(family.name, **self.labels, feature=name) for name in names], values[:count]
                ),
            )
            for family, values in ((f.REFERENCE_MEAN, binner.mean), (f.REFERENCE_STDDEV, binner.stddev))
        ] + [(f.REFERENCE, probability.render(binner.reference.probability[: len(probability)]))]

    def _bins(self, family: Family) -> LineTemplate:
        binner = self._binner
        return LineTemplate(
            series_prefix(family.name, **self.labels, feature=name, bin=label)
            for name, target in (zip(binner.names, binner.targets, strict=False) if binner else ())
            for label in target.labels()
        )


class ModelsCollector:
    """Reads monitors and the store; ``name`` is its ``collector`` label."""

    name = "models"

    def __init__(self) -> None:
        self._series: WeakKeyDictionary[ModelMonitor, _Series] = WeakKeyDictionary()

    def collect(self, monitors: MonitorRegistry) -> Iterator[FamilyLines]:
        """The samples of every model, families in no order."""
        now = time.monotonic()
        for model in monitors.models.values():
            yield from _thresholds(model, monitors.binners_of(model.name))
            unknown = float(monitors.unknown_features[model.name])
            yield f.UNKNOWN, render_lines([series_prefix(f.UNKNOWN.name, model=model.name)], [unknown])
        for monitor in monitors:
            known = self._series.get(monitor)
            if known is None:
                known = self._series[monitor] = _Series(monitor)
            yield from _counters(monitor, known)
            yield from _windows(monitor, known, now)
            if monitor.binner:
                yield f.OBSERVED, known.bins.render(monitor.observed[: len(known.bins)])
            yield from _segment_counters(monitor, known)
            yield from _segments(monitor, known, now)
            yield from known.reference


def window_lines(monitor: ModelMonitor, now: float) -> Iterator[FamilyLines]:
    """What is true of the windows of a monitor at a monotonic time, without what only ever grows."""
    known = _Series(monitor)
    yield _info(monitor, known)
    yield from _thresholds(monitor.config, [monitor.binner] if monitor.binner else [])
    yield from _windows(monitor, known, now)
    yield from _segments(monitor, known, now)
    yield from known.reference


def _thresholds(model: ModelConfig, binners: Sequence[Binner]) -> Iterator[FamilyLines]:
    owners: list[tuple[dict[str, str], dict[str, float]]] = [({}, model.alerts)]
    names = list(dict.fromkeys(name for binner in binners for name in binner.names))
    for name, feature in model.features.items():
        # An image's threshold is that of each of its scalar features, unless one has its own.
        scalars = [s for s in names if s == name or s.startswith(f"{name}.")]
        owners += [({"feature": s}, feature.alerts) for s in scalars if s == name or s not in model.features]
    for labels, alerts in owners:
        for alert, value in alerts.items():
            text = series_prefix(f.THRESHOLD.name, model=model.name, **labels, alert=alert)
            yield f.THRESHOLD, render_lines([text], [float(value)])


def _info(monitor: ModelMonitor, known: _Series) -> FamilyLines:
    profile = monitor.binner.profile.hash[:12] if monitor.binner else "none"
    return f.INFO, render_lines([series_prefix(f.INFO.name, **known.labels, profile=profile)], [1.0])


def _counters(monitor: ModelMonitor, known: _Series) -> Iterator[FamilyLines]:
    labels, counters = known.labels, monitor.counters
    yield _info(monitor, known)
    for family, key, values in (
        (f.REQUESTS, "code", dict(counters.requests)),
        (f.FEEDBACK, "verdict", {verdict: counters.feedback[verdict] for verdict in VERDICTS}),
        (f.EVENTS, "event", dict(counters.events)),
    ):
        texts = [series_prefix(family.name, **labels, **{key: str(name)}) for name in values]
        yield family, render_lines(texts, [float(value) for value in values.values()])
    for family, value in (
        (f.ATTEMPTS, counters.attempts),
        (f.CONFIDENT, counters.confident),
        (f.CORRECTIONS, counters.corrections),
    ):
        yield family, render_lines([series_prefix(family.name, **labels)], [float(value)])
    yield f.DURATION, known.durations.render(_histogram(monitor.durations))
    yield f.CONFIDENCE, known.confidences.render(_histogram(monitor.confidences))
    yield f.DELAY, known.delays.render(_histogram(monitor.delays))


def _histogram(histogram: Histogram) -> list[float]:
    cumulative = histogram.cumulative().tolist()
    return [*cumulative, cumulative[-1], histogram.sum]


def _windows(monitor: ModelMonitor, known: _Series, now: float) -> Iterator[FamilyLines]:
    if monitor.binner is None:
        return
    count = len(monitor.binner.names)
    fields = f.FEATURE_WINDOW | {name: f.FEATURE_DISTANCE[name] for name in monitor.config.drift}
    for window, reading in monitor.read(now).items():
        for field, family in fields.items():
            yield family, known.features[field, window].render(getattr(reading, field)[:count])
        if monitor.binner.copula:
            for family, value in zip(f.MULTIVARIATE, reading.multivariate, strict=True):
                yield family, render_lines([series_prefix(family.name, **known.labels, window=window)], [value])
        for place, families in (
            (monitor.binner.prediction, f.PREDICTION_WINDOW),
            (monitor.binner.confidence, f.CONFIDENCE_WINDOW),
        ):
            if place is None:
                continue
            for field, family in families.items():
                text = series_prefix(family.name, **known.labels, window=window)
                yield family, render_lines([text], getattr(reading, field)[place : place + 1])


def _segment_counters(monitor: ModelMonitor, known: _Series) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    counters = monitor.segment_counters
    for family, values in (
        (f.SEGMENT_ATTEMPTS, counters.attempts),
        (f.SEGMENT_CONFIDENT, counters.confident),
        (f.SEGMENT_CORRECTIONS, counters.corrections),
    ):
        yield family, known.segments[family].render(values)


def _segments(monitor: ModelMonitor, known: _Series, now: float) -> Iterator[FamilyLines]:
    if monitor.binner is None or monitor.segments is None:
        return
    names = monitor.binner.names
    others = [place for place, name in enumerate(names) if name != monitor.segments.source]
    for family, scores in zip((f.SEGMENT_KL, f.SEGMENT_NOISE), monitor.read_segments(now), strict=True):
        yield family, known.segments[family].render(scores[:, others].ravel())


def review_lines(monitors: MonitorRegistry, store: Store) -> Iterator[FamilyLines]:
    """What waits for review, what was released, and how right the model is by what was reviewed.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    state = store.review_state()
    now = time.time()
    for model in monitors.models:
        labels = {"model": model}
        yield f.PENDING, render_lines([series_prefix(f.PENDING.name, **labels)], [float(state.pending.get(model, 0))])
        if model in state.oldest:
            age = max(now - state.oldest[model], 0.0)
            yield f.OLDEST, render_lines([series_prefix(f.OLDEST.name, **labels)], [age])
        yield (
            f.EXAMPLES,
            render_lines([series_prefix(f.EXAMPLES.name, **labels)], [float(state.examples.get(model, 0))]),
        )
    for (model, version), one in state.accuracy_counts.items():
        if model not in monitors.models:
            continue
        labels = {"model": model, "version": version}
        estimate = estimate_accuracy(one.population, one.known, one.known_right, one.decided, one.right)
        for family, value in zip(f.REVIEWED_ACCURACY, estimate, strict=True):
            yield family, render_lines([series_prefix(family.name, **labels)], [value])
        yield f.REVIEWED, render_lines([series_prefix(f.REVIEWED.name, **labels)], [float(one.decided)])
