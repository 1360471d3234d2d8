"""Counters and histograms of a model version, and counters of its segments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints

CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
DELAY_BUCKETS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 259200.0, 604800.0, 1209600.0, 2592000.0)
VERDICTS = ("accepted", "corrected")


class Histogram:
    """A histogram with upper bounds, as in Prometheus.

    >>> histogram = Histogram((0.1, 1.0))
    >>> histogram.observe([0.1, 0.5, 3.0]).tolist()
    [1, 1, 1]
    >>> histogram.cumulative().tolist(), histogram.sum
    ([1.0, 2.0, 3.0], 3.6)
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._bounds = np.array(bounds)
        self.counts = np.zeros(len(bounds) + 1)
        self.sum = 0.0

    def observe(self, values: Sequence[float] | Floats) -> Ints:
        """Add values; return how many are in each bucket, shape ``(bounds + 1,)``."""
        column = np.array(values, dtype=np.float64)
        counts = np.bincount(self._bounds.searchsorted(column), minlength=len(self.counts))
        self.counts += counts
        self.sum += float(column.sum())
        return counts

    def cumulative(self) -> Floats:
        """Return the number of values at or below each bound, then of all values; shape ``(bounds + 1,)``."""
        return np.cumsum(self.counts)


def bucket_quantile(bounds: Sequence[float], counts: Floats, share: float) -> float:
    """Return a quantile as ``histogram_quantile`` of Prometheus does; NaN without values.

    Parameters
    ----------
    bounds
        Upper bounds of the buckets, without infinity.
    counts
        Number of values in each bucket, shape ``(bounds + 1,)``.
    share
        The quantile, 0 to 1.

    >>> bucket_quantile((1.0, 3.0), np.array([10, 10, 0]), 0.75), bucket_quantile((1.0, 3.0), np.array([0, 0, 3]), 0.5)
    (2.0, 3.0)
    """
    reached = np.cumsum(counts)
    if not reached[-1]:
        return math.nan
    rank = share * reached[-1]
    bucket = int(reached.searchsorted(rank))
    if bucket >= len(bounds):
        return bounds[-1]
    start = bounds[bucket - 1] if bucket else 0.0
    below = reached[bucket] - counts[bucket]
    return float(start + (bounds[bucket] - start) * (rank - below) / counts[bucket])


def only_bucket(bounds: Sequence[float], counts: Floats, share: float) -> tuple[float, float] | None:
    """Return the bucket of a quantile if no value is below it; None otherwise.

    Then `bucket_quantile` depends on the bucket alone, and not on the values.

    >>> only_bucket((1.0, 3.0), np.array([0, 20, 0]), 0.75), only_bucket((1.0, 3.0), np.array([10, 10, 0]), 0.75)
    ((1.0, 3.0), None)
    """
    reached = np.cumsum(counts)
    bucket = int(reached.searchsorted(share * reached[-1]))
    if not reached[-1] or bucket >= len(bounds) or reached[bucket] > counts[bucket]:
        return None
    return bounds[bucket - 1] if bucket else 0.0, bounds[bucket]


@dataclass
class Counters:
    """Counters of a model version."""

    requests: Counter[int] = field(default_factory=Counter)
    attempts: int = 0
    confident: int = 0
    corrections: int = 0
    feedback: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(VERDICTS, 0)))
    events: dict[str, float] = field(default_factory=dict)


class SegmentCounters:
    """Counters by segment, shape ``(S,)`` each."""

    def __init__(self, segments: int) -> None:
        self.attempts, self.confident, self.corrections = np.zeros((3, segments))

    def observe(self, segments: Sequence[int] | Ints, confident: Sequence[bool] | npt.NDArray[Any]) -> None:
        """Count a batch, given the index of each event's segment and whether it is confident."""
        if len(self.attempts) and len(segments):
            size = len(self.attempts)
            self.attempts += np.bincount(segments, minlength=size)
            self.confident += np.bincount(segments, weights=confident, minlength=size)
