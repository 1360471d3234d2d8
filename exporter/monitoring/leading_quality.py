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
    kind, estimator = kind_of(monitor), monitor.binner.quality if monitor.binner else None
    windows = monitor.read_quality(now)
    most = LABELLED * max(map(_labelled_share, windows.values()), default=0.0)
    found = [(n, measured(w, kind), w.labelled, _labelled_share(w) >= most) for n, w in windows.items()]
    yield from _judged(monitor, "measured", estimator.overall if estimator else math.nan, found, now)
    if estimator:
        past, counted = monitor.read_past_variance(now), monitor.read_counts(now)
        found = [(n, estimator.estimate(c, past), estimator.observed(c), True) for n, c in counted.items()]
        yield from _judged(monitor, "estimated", estimator.estimated_overall, found, now)


def _judged(
    monitor: ModelMonitor,
    basis: Literal["measured", "estimated"],
    reference: float,
    found: Iterable[tuple[str, IntervalEstimate | None, float, bool]],
    now: float,
) -> Iterator[Leading]:
    """Yield figures with what they exceed: by window, the estimate, its labels, and whether these could end `ALERT`."""
    kind = kind_of(monitor)
    limit = reference - monitor.config.threshold(ALERT) if kind == "accuracy" else MOST_ERROR * reference
    is_over = not monitor.recent(now).attempts  # the alert is silent about a version without predictions
    for name, estimate, number, can_end in found:
        if estimate:
            enough = basis == "estimated" or number >= ENOUGH
            end = limit - estimate.upper if kind == "accuracy" else estimate.lower - limit  # of the whole interval
            excess = end / limit if enough and not is_over and end > 0 and limit > 0 else 0.0
            yield Leading(basis, name, estimate, number, limit, excess)
            is_within = estimate.lower >= limit if kind == "accuracy" else estimate.upper <= limit
            is_over = is_over or (enough and can_end and is_within)


def _labelled_share(window: WindowQuality) -> float:
    return window.labelled / max(window.labelled + window.unlabelled, 1.0)
