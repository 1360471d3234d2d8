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
from exporter.monitoring.counters import DELAY_BUCKETS
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.window_quality import WindowQuality
from exporter.stats.accuracy import Estimate

_ABSENT = Estimate(math.nan, math.nan, math.nan)
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
        self.windows = {
            name: [(family, LineTemplate([series_prefix(family.name, **labels, window=name)])) for family in _MEASURED]
            for name in monitor.quality.rings
        }


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


def _measured(window: WindowQuality) -> tuple[float, ...]:
    """Return the value of each family in `_MEASURED`."""
    return (
        window.labelled,
        window.unlabelled,
        *(window.accuracy or _ABSENT),
        window.calibration_error,
        *(window.absolute_error or _ABSENT),
        window.squared_error,
        window.expected.value if window.expected else math.nan,
    )
