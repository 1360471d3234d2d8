"""Choose the figure that represents the quality of a version from all measured and estimated windows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import WindowQuality
from exporter.monitoring.registry import serving
from exporter.stats.quality import IntervalEstimate

Kind = Literal["accuracy", "absolute_error"]
ALERT = "ModelAccuracyLow"
ENOUGH = 20
"""Labels that `ALERT` needs to evaluate a measured accuracy or error, as its rules have it."""
MOST_ERROR = 1.5
"""Error, in errors on the profile's labelled rows, above which `ALERT` becomes pending, as its rule has it."""
LABELLED = 0.5
"""A measured window ends `ALERT` only if its share of labels is at least so much of that of any other window."""


class Leading(NamedTuple):
    """The quality in a window.

    Attributes
    ----------
    basis
        Whether it is measured with labels or estimated without.
    window
        The window's spelling.
    estimate
        The accuracy or mean absolute error.
    number
        Labels, or predictions of an estimate.
    limit
        The threshold of `ALERT`; NaN without labelled rows in the profile.
    excess
        How far the whole interval is beyond the threshold, relative to it; 0 when it is not, and when a shorter window
        of the same basis shows that this is over.
    """

    basis: Literal["measured", "estimated"]
    window: str
    estimate: IntervalEstimate
    number: float
    limit: float
    excess: float


def kind_of(monitor: ModelMonitor) -> Kind:
    """Return how the quality of a model is measured."""
    if monitor.binner and monitor.binner.quality:
        return monitor.binner.quality.kind
    quality = monitor.quality
    is_number = quality.scorer.task == "regression" or (quality.scorer.task is None and quality.absolute_error > 0)
    return "absolute_error" if is_number else "accuracy"


def measured(window: WindowQuality | None, kind: Kind) -> IntervalEstimate | None:
    """Return the measured quality of a window; None without labels."""
    if window is None:
        return None
    return window.accuracy if kind == "accuracy" else window.absolute_error


def leading_quality(versions: Iterable[ModelMonitor], now: float) -> dict[str, Leading | None]:
    """Return the figure that leads of each version of a model; None without labels and estimates.

    It is the worst of those for which `ALERT` becomes pending. If there is none, it is that of the shortest window with
    at least `ENOUGH` labels, else of the shortest with an estimate for as many predictions, else of the longest. All
    versions that serve have the same window, if there is one in which each of them has enough.

    Parameters
    ----------
    versions
        The monitors of the model.
    now
        Monotonic time in seconds.
    """
    monitors = list(versions)
    known = {monitor.version: list(_figures(monitor, now)) for monitor in monitors}
    found = {version: _leading(figures) for version, figures in known.items()}
    together = [monitor.version for monitor in serving(monitors) if found[monitor.version]]
    enough = Counter(figure[:2] for version in together for figure in known[version] if figure.number >= ENOUGH)
    shared = [window for window, number in enough.items() if number == len(together)]
    worst = max(filter(None, found.values()), key=lambda figure: figure.excess, default=None)
    if worst and worst.excess:
        shared = [window for window in shared if window == worst[:2]]
    for version in together if shared else ():
        found[version] = next(figure for figure in known[version] if figure[:2] == shared[0])
    return found


def _leading(known: list[Leading]) -> Leading | None:
    beyond = [figure for figure in known if figure.excess > 0]
    if beyond:
        return max(beyond, key=lambda figure: figure.excess)
    enough = [figure for figure in known if figure.number >= ENOUGH]
    few = [figure for figure in known if figure.basis == "measured"] or known
    return enough[0] if enough else few[-1] if few else None


def _figures(monitor: ModelMonitor, now: float) -> Iterator[Leading]:
    """Yield the measured figures, then the estimated ones, the shortest window first."""
    is_used = monitor.recent(now).attempts > 0  # the alert is silent about a version without predictions
    for figures in (_measured_figures(monitor, now), _estimated_figures(monitor, now)):
        is_over = not is_used
        for figure, can_end in figures:
            yield figure._replace(excess=0.0) if is_over else figure
            is_over = is_over or can_end


def _measured_figures(monitor: ModelMonitor, now: float) -> Iterator[tuple[Leading, bool]]:
    """Yield the measured figures, and whether each shows that what is beyond the threshold is over."""
    kind, estimator = kind_of(monitor), monitor.binner.quality if monitor.binner else None
    limit = _limit(monitor, estimator.overall if estimator else math.nan)
    windows = monitor.read_quality(now)
    most = max(map(_labelled_share, windows.values()), default=0.0)
    for name, window in windows.items():
        if found := measured(window, kind):
            enough = window.labelled >= ENOUGH
            excess = _excess(kind, found, limit) if enough else 0.0
            can_end = enough and _is_within(kind, found, limit) and _labelled_share(window) >= LABELLED * most
            yield Leading("measured", name, found, window.labelled, limit, excess), can_end


def _estimated_figures(monitor: ModelMonitor, now: float) -> Iterator[tuple[Leading, bool]]:
    """Yield the estimated figures, and whether each shows that what is beyond the threshold is over."""
    if (estimator := monitor.binner.quality if monitor.binner else None) is None:
        return
    kind, limit = kind_of(monitor), _limit(monitor, estimator.estimated_overall)
    past = monitor.read_past_variance(now)
    for name, counts in monitor.read_counts(now).items():
        if found := estimator.estimate(counts, past):
            figure = Leading("estimated", name, found, estimator.observed(counts), limit, _excess(kind, found, limit))
            yield figure, _is_within(kind, found, limit)


def _labelled_share(window: WindowQuality) -> float:
    known = window.labelled + window.unlabelled
    return window.labelled / known if known else 0.0


def _limit(monitor: ModelMonitor, reference: float) -> float:
    """Return the threshold of `ALERT`, given the quality on the profile's labelled rows."""
    return reference - monitor.config.threshold(ALERT) if kind_of(monitor) == "accuracy" else MOST_ERROR * reference


def _excess(kind: Kind, estimate: IntervalEstimate, limit: float) -> float:
    """Return how far the whole interval is beyond a threshold, relative to it; 0 when it is not."""
    end = limit - estimate.upper if kind == "accuracy" else estimate.lower - limit
    return end / limit if end > 0 and limit > 0 else 0.0


def _is_within(kind: Kind, estimate: IntervalEstimate, limit: float) -> bool:
    """Return whether the whole interval is within a threshold."""
    return estimate.lower >= limit if kind == "accuracy" else estimate.upper <= limit
