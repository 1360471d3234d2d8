"""Collect the metrics of the quality of predictions: measured with labels, and estimated without them."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import DELAY_BUCKETS
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.window_quality import WindowQuality
from exporter.stats.accuracy import IntervalEstimate
from exporter.stats.divergence import Floats

_ABSENT = IntervalEstimate(math.nan, math.nan, math.nan)
_MEASURED = (
    f.WINDOW_LABELLED,
    f.WINDOW_UNLABELLED,
    *f.ACCURACY,
    f.CALIBRATION_ERROR,
    *f.ABSOLUTE,
    f.SQUARED,
    f.LABELLED_ESTIMATE,
)


class QualityTemplates:
    """The line templates of the quality of one monitor, to which it has no reference."""

    def __init__(self, monitor: ModelMonitor, **labels: str) -> None:
        self.labels = labels
        self.delays = histogram_template(f.LABEL_DELAY, DELAY_BUCKETS, **labels)
        names = monitor.segments.names if monitor.segments else ()
        self.segments = {
            family: LineTemplate(series_prefix(family.name, **labels, segment=name) for name in names)
            for family in (f.SEGMENT_LABELLED, f.SEGMENT_CORRECT, f.SEGMENT_ABSOLUTE_ERROR)
        }
        families = _estimated(monitor.binner)
        self.estimates = {
            name: [LineTemplate([series_prefix(family.name, **labels, window=name)]) for family in families]
            for name in monitor.windows
        }
        self.confidences = LineTemplate(
            series_prefix(f.CONFIDENCE_OBSERVED.name, **labels, bin=label) for label in _calibrated_bins(monitor.binner)
        )
        self.windows = {
            name: [(family, LineTemplate([series_prefix(family.name, **labels, window=name)])) for family in _MEASURED]
            for name in monitor.quality.rings
        }


def _estimated(binner: Binner | None) -> tuple[Family, ...]:
    """Return the families of what is estimated without labels."""
    if binner is None or binner.quality is None:
        return ()
    return f.ESTIMATED_ACCURACY if binner.quality.kind == "accuracy" else f.ESTIMATED_ERROR


def _calibrated_bins(binner: Binner | None) -> list[str]:
    """Return the labels of the confidence's bins, if the profile knows the accuracy that goes with each of them."""
    if binner is None or binner.confidence is None or binner.quality is None or not binner.quality.known:
        return []
    return binner.targets[binner.confidence].labels() if len(binner.quality.table) else []


def quality_counters(monitor: ModelMonitor, templates: QualityTemplates) -> Iterator[FamilyLines]:
    """Return the counters of a monitor's labels: those of classes, of numbers, or both if the task is not known."""
    quality, labels = monitor.quality, templates.labels
    task = quality.scorer.task
    outcomes = dict(quality.outcomes)
    prefixes = [
        series_prefix(f.OUTCOMES.name, **labels, predicted=predicted, actual=actual) for predicted, actual in outcomes
    ]
    yield f.OUTCOMES, render_lines(prefixes, list(map(float, outcomes.values())))
    yield sample_line(f.LABELLED, quality.labelled, **labels)
    values: list[tuple[Family, float]] = []
    if task != "regression":
        values.append((f.CORRECT, quality.correct))
    if task != "classification":
        values += [(f.ABSOLUTE_ERROR, quality.absolute_error), (f.SQUARED_ERROR, quality.squared_error)]
    for family, value in values:
        yield sample_line(family, value, **labels)
    if len(templates.confidences) and monitor.binner:
        start = monitor.binner.starts[-1]  # the confidence is the last target
        yield f.CONFIDENCE_OBSERVED, templates.confidences.render(monitor.observed[start : monitor.binner.bins])
    yield f.LABEL_DELAY, templates.delays.render(histogram_values(quality.delays))
    shown = (True, task != "regression", task != "classification")
    for (family, template), row, is_shown in zip(templates.segments.items(), quality.by_segment, shown, strict=True):
        if is_shown:
            yield family, template.render(row)


def quality_windows(monitor: ModelMonitor, templates: QualityTemplates, now: float) -> Iterator[FamilyLines]:
    """Return the gauges of the measured quality at the monotonic time ``now`` in seconds."""
    for name, window in monitor.read_quality(now).items():
        for (family, template), value in zip(templates.windows[name], _measured(window), strict=True):
            yield family, template.render([value])


def quality_estimate(
    monitor: ModelMonitor, templates: QualityTemplates, window: str, counts: Floats, past: float = 0.0
) -> Iterator[FamilyLines]:
    """Return the gauges of the quality estimated without labels.

    Parameters
    ----------
    monitor, templates
        The monitor.
    window
        Spelling of the window.
    counts
        Observations of the window in each bin, shape ``(B,)``.
    past
        What labels of the recent past add to the variance.
    """
    estimate = monitor.binner.quality.estimate(counts, past) if monitor.binner and monitor.binner.quality else None
    if estimate is not None:
        families = _estimated(monitor.binner)
        for family, template, value in zip(families, templates.estimates[window], estimate, strict=True):
            yield family, template.render([value])


def reference_quality(binner: Binner | None, labels: dict[str, str]) -> Iterator[FamilyLines]:
    """Return the lines about the quality on the profile's labelled rows, which never change."""
    if binner is None or binner.quality is None:
        return
    is_accuracy = binner.quality.kind == "accuracy"
    overall = f.REFERENCE_ACCURACY_OVERALL if is_accuracy else f.REFERENCE_ERROR_OVERALL
    yield sample_line(overall, binner.quality.overall, **labels)
    bins = [series_prefix(f.REFERENCE_ACCURACY.name, **labels, bin=label) for label in _calibrated_bins(binner)]
    if bins:
        yield f.REFERENCE_ACCURACY, render_lines(bins, binner.quality.table)
        yield sample_line(f.REFERENCE_ESTIMATED_ACCURACY, binner.quality.estimated_overall, **labels)


def _measured(window: WindowQuality) -> tuple[float, ...]:
    """Return the value of each family in `_MEASURED`."""
    return (
        window.labelled,
        window.unlabelled,
        *(window.accuracy or _ABSENT),
        window.calibration_error,
        *(window.absolute_error or _ABSENT),
        window.squared_error,
        window.expected,
    )
