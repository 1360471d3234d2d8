"""Compare versions by what this exporter counted while both served."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from exporter.comparison.counts import Counts, Feature, Period, Quality
from exporter.comparison.measures import Comparison, Side, compare
from exporter.comparison.versions import choose, never_together
from exporter.config import Task
from exporter.config.types import DURATION_BUCKETS
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import TOTALS
from exporter.monitoring.outcome import Scorer
from exporter.monitoring.shared_counts import SharedCounts
from exporter.stats.divergence import Floats
from exporter.storage import LabelSums

Labels = Callable[[str, str, Period], LabelSums]
"""Takes a model, a version and a period; returns sums over the predictions in the period whose label is known."""


Scorers = Callable[[str, str], Scorer]
"""Takes a model and a version; returns what compares its predictions with labels."""


def compare_live(
    shared: SharedCounts,
    labels: Labels,
    scorers: Scorers,
    model: str,
    *,
    before: str | None = None,
    after: str | None = None,
) -> Comparison:
    """Compare two versions over the time in which both served.

    Labels count where their prediction was made between the first and the last moment at which both served.

    Raises
    ------
    CompareError
        When a version is not known, or they never served at the same time.
    """
    before, after = choose(model, shared.versions(model), before, after)
    totals = shared.totals(model, before, after)
    if totals is None:
        raise never_together(model, before, after, " since this exporter counts them, or for less than 30 seconds")
    period = Period(totals.start, totals.end)
    sides = []
    for version, binner, row in (totals.before, totals.after):
        counts = _counts(binner, row)
        quality = _quality(labels(model, version, period), scorers(model, version).task, binner, row)
        sides.append(Side(version, period, counts._replace(quality=quality)))
    return Comparison(model, sides[0], sides[1], compare(sides[0].counts, sides[1].counts), totals.seconds)


def _counts(binner: Binner | None, totals: Floats) -> Counts:
    """Return the counts in an array of `ModelMonitor.totals`."""
    buckets = len(TOTALS) + len(DURATION_BUCKETS) + 1
    counters: dict[str, Any] = dict(zip(TOTALS, totals[: len(TOTALS)].tolist(), strict=True))
    return Counts(
        **counters,
        bounds=(*DURATION_BUCKETS, math.inf),
        durations=tuple(itertools.accumulate(totals[len(TOTALS) : buckets].tolist())),
        features=_features(binner, totals[buckets:]) if binner else {},
        changed=(),
    )


def _features(binner: Binner, observed: Floats) -> dict[str, Feature]:
    features, probability = {}, binner.reference.probability
    for name, start, size in zip(binner.names, binner.starts, binner.sizes, strict=False):
        counts = observed[start : start + size]
        if counts.sum() >= 1:
            features[name] = Feature(counts, probability[start : start + size])
    return features


def _quality(sums: LabelSums, task: Task | None, binner: Binner | None, totals: Floats) -> Quality:
    estimator = binner.quality if binner else None
    observed = totals[len(TOTALS) + len(DURATION_BUCKETS) + 1 :]
    return Quality(
        sums.labelled,
        sums.correct,
        sums.loss,
        sums.squared_loss,
        # The losses of classes are 0 and 1, which are their own squares.
        regression=task == "regression" if task else sums.loss != sums.squared_loss,
        estimated=estimator.estimate(observed[: binner.bins]) if estimator and binner else None,
    )
