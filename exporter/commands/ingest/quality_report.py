"""Print the quality of a run: measured with labels, and estimated without them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from exporter.commands.ingest.local import NOW, WINDOW
from exporter.commands.ingest.report import count
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.quality import LEAST_ROWS, QualityEstimator
from exporter.stats.accuracy import IntervalEstimate
from exporter.stats.divergence import Floats

_NAMES = {"accuracy": "accuracy", "absolute_error": "mean absolute error"}
_ABSENCES = {
    "few": f"the profile has fewer than {LEAST_ROWS} labelled rows to estimate it from",
    "empty": "no row has a valid {needed}",
    "unconfident": (
        "too few rows have a valid confidence: their share is less than half of that among the profile's labelled rows"
    ),
    "unsupported": "more than half of the rows are unlike any labelled row of the profile",
    "wide": "the rows are so few, or so unlike the profile's labelled rows, that any accuracy is possible",
}
_Line = tuple[str, str, str, str]


def quality(monitor: ModelMonitor, labelled: int) -> Iterator[str]:
    """Return a table of a run's quality; nothing without labels and without an estimate.

    Parameters
    ----------
    monitor
        The run's.
    labelled
        Number of the run's predictions that have a label.
    """
    window = monitor.read_quality(NOW).get(WINDOW)
    used = int(window.labelled) if window else 0
    lines: list[_Line] = []
    if window:
        for kind, measured in (("accuracy", window.accuracy), ("absolute_error", window.absolute_error)):
            if measured:
                lines.append((f"{_NAMES[kind]}, measured", *_numbers(kind, measured), f"on {count(used, 'label')}"))
    if monitor.binner and (estimator := monitor.binner.quality):
        lines += _estimated(estimator, monitor.read(NOW)[WINDOW].counts)
        lines += _references(estimator)
    if lines:
        yield f"{monitor.config.name} version {monitor.version}, quality with intervals of 95 %:"
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for name, value, interval, note in lines:
            yield f"  {name:{widths[0]}}  {value:>{widths[1]}}  {interval:{widths[2]}}  {note}"
    if labelled > used:
        yield f"  {count(labelled - used, 'label')} cannot be compared with the prediction"


def _estimated(estimator: QualityEstimator, counts: Floats) -> Iterator[_Line]:
    name = f"{_NAMES[estimator.kind]}, estimated"
    if estimate := estimator.estimate(counts):
        yield name, *_numbers(estimator.kind, estimate), "without labels"
    else:
        needed = "confidence" if estimator.kind == "accuracy" else "prediction"
        yield name, "–", "", _ABSENCES[estimator.absence(counts)].format(needed=needed)


def _references(estimator: QualityEstimator) -> Iterator[_Line]:
    """Yield what a measured value is compared with and, where it is of other rows, what an estimate is."""
    name, rows = f"{_NAMES[estimator.kind]} in the profile", count(estimator.rows, "labelled row")
    yield name, *_numbers(estimator.kind, IntervalEstimate(estimator.overall, math.nan, math.nan)), f"on {rows}"
    if estimator.estimated_rows < estimator.rows:
        overall = IntervalEstimate(estimator.estimated_overall, math.nan, math.nan)
        note = f"on the {estimator.estimated_rows:,} of them with a confidence, which alone are estimated"
        yield name, *_numbers(estimator.kind, overall), note


def _numbers(kind: str, estimate: IntervalEstimate) -> tuple[str, str]:
    """Return a figure and its interval, which is empty if it is not known."""
    if kind == "accuracy":
        texts = [f"{100 * number:.1f}" for number in estimate]
        return f"{texts[0]} %", "" if math.isnan(estimate.lower) else f"{texts[1]} to {texts[2]} %"
    texts = [f"{number:.4g}" for number in estimate]
    return texts[0], "" if math.isnan(estimate.lower) else f"{texts[1]} to {texts[2]}"
