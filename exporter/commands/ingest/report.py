"""Print the report of a run: rows, rejected rows, and a table of drift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from exporter.commands.ingest.local import NOW, WINDOW
from exporter.commands.ingest.table import Refused, count, reasons
from exporter.monitoring.drift_report import TargetDrift, target_drifts
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.quality import LEAST_ROWS, QualityEstimator
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate

MAX_FEATURES = 10
"""Features in the table, the worst first."""
_STATUSES = {
    "drifted": "drifted",
    "slight": "above its noise",
    "few": "too few rows",
    "same": "",
    "empty": "no value",
}


def row_lines(where: str, total: int, accepted: int, refused: Refused, seconds: float) -> Iterator[str]:
    """Return how many rows there were, and what was wrong with the first that were rejected."""
    yield f"{where}: {count(total, 'row')}, {accepted:,} accepted, {total - accepted:,} rejected, in {seconds:.1f} s"
    yield from reasons(refused)


def label_lines(accepted: int, refused: Refused) -> Iterator[str]:
    """Return how many labels an exporter accepted, and what was wrong with the first that were rejected."""
    yield f"{count(accepted, 'label')} accepted, {refused.count:,} rejected"
    yield from reasons(refused)


def drift_lines(monitor: ModelMonitor) -> Iterator[str]:
    """Return a table of a run's features, the worst first."""
    reading = monitor.read(NOW)[WINDOW]
    drifts = target_drifts(monitor, reading)
    profile = monitor.binner.profile.name if monitor.binner else ""
    yield f"{monitor.config.name} version {monitor.version} against the profile {profile}, divergences in nats:"
    table = [("feature", "divergence", "noise", "threshold", "")]
    table += [
        (change.name, _score(change.score), _score(change.noise), f"{change.threshold:g}", _status(change))
        for change in drifts[:MAX_FEATURES]
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *numbers, status in table:
        cells = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:4], strict=True))]
        yield f"  {'  '.join([*cells, status])}".rstrip()
    if len(drifts) > MAX_FEATURES:
        yield f"  and {count(len(drifts) - MAX_FEATURES, 'feature')} below these"
    yield from _dependence([change for change in drifts[:MAX_FEATURES] if change.is_dependent])
    score, noise = reading.multivariate.tolist()
    if score > noise:
        yield f"  the features are related differently than in training: {score:.3g}, above its noise of {noise:.3g}"


def _dependence(drifts: Sequence[TargetDrift]) -> Iterator[str]:
    """Say which noise floors are higher than those of independent values, and why."""
    if drifts:
        names = ", ".join(change.name for change in drifts)
        yield f"  in training, values depend on those before them, which raises the noise of {names}:"
        least = min(drifts, key=lambda change: change.effective / change.observations)
        yield f"  {least.observations:,} of {least.name} tell as much as {least.effective:,.0f} independent ones"


def drifted(monitor: ModelMonitor) -> list[str]:
    """Return the names of drifted targets, for which alerts such as ModelFeatureDrift would fire."""
    reading = monitor.read(NOW)[WINDOW]
    names = [change.name for change in target_drifts(monitor, reading) if change.status == "drifted"]
    return names + (["(together)"] if reading.multivariate[0] > reading.multivariate[1] else [])


def _status(change: TargetDrift) -> str:
    status = _STATUSES[change.status]
    return f"{status}, hardly used" if change.status == "drifted" and change.is_hardly_used else status


def _score(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


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


def quality_lines(monitor: ModelMonitor, labelled: int) -> Iterator[str]:
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
