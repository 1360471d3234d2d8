"""Counters and histograms of a model version, and counters of its segments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.config import DURATION_BUCKETS, OTHER_SEGMENT, ModelConfig
from exporter.features.base import as_list, scalar_text
from exporter.monitoring.binner import Binner
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.windows import Ring
from exporter.profiles.profile import CategoricalFeature, Profile
from exporter.stats.divergence import Floats, Ints
from exporter.wire.events import VERDICTS

MINUTE, FIVE_MINUTES, HOUR = 60.0, 300.0, 3600.0


@dataclass(frozen=True)
class Recent:
    """The figures that alerts evaluate. A ratio or quantile of nothing is NaN.

    Attributes
    ----------
    requests, error_ratio
        Requests of the last minute, and the share that failed with a 5xx code.
    latency
        95th percentile of the duration of requests over five minutes, in seconds.
    latency_bucket
        Between which bounds it lies, if no request was faster than its bucket: then nothing more is known of it.
    attempts, confident_ratio
        Predictions of the last hour, and the share that was confident.
    corrections, correction_ratio
        Corrections of confident predictions in the last hour, and their share of the confident predictions.
    history
        Predictions of each of the 19 periods of three minutes before the present one, the oldest first.
    """

    requests: int
    error_ratio: float
    latency: float
    latency_bucket: tuple[float, float] | None
    attempts: int
    confident_ratio: float
    corrections: int
    correction_ratio: float
    history: list[float]


class RecentCounters:
    """Counters of the last minute, five minutes and hour; the caller holds the monitor's lock.

    They take 9 KiB, whatever the traffic.
    """

    def __init__(self) -> None:
        self._requests = Ring(MINUTE, 2)
        self._durations = Ring(FIVE_MINUTES, len(DURATION_BUCKETS) + 1)
        self._outcomes = Ring(HOUR, 3)

    def count_predictions(self, now: float, total: int, errors: int, confident: int) -> None:
        """Count predictions at the monotonic time ``now`` in seconds."""
        self._requests.add(now, [total, errors])
        self._outcomes.add(now, [total, confident, 0])

    def count_durations(self, now: float, counts: Ints) -> None:
        """Count durations by bucket, shape ``(buckets + 1,)``."""
        self._durations.add(now, counts)

    def count_correction(self, now: float, number: int = 1) -> None:
        """Count the first correction of a confident prediction; -1 withdraws it."""
        self._outcomes.add(now, [0, 0, number])

    def read(self, now: float) -> Recent:
        """Return the figures at the monotonic time ``now`` in seconds."""
        requests, errors = self._requests.total(now)
        attempts, confident, corrections = np.maximum(self._outcomes.total(now), 0)
        durations = self._durations.total(now)
        return Recent(
            requests=int(requests),
            error_ratio=_ratio(errors, requests),
            latency=bucket_quantile(DURATION_BUCKETS, durations, 0.95),
            latency_bucket=only_bucket(DURATION_BUCKETS, durations, 0.95),
            attempts=int(attempts),
            confident_ratio=_ratio(confident, attempts),
            corrections=int(corrections),
            correction_ratio=_ratio(corrections, confident),
            history=self._outcomes.parts(now, 20)[:0:-1, 0].tolist(),
        )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
DELAY_BUCKETS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 259200.0, 604800.0, 1209600.0, 2592000.0)


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
    withdrawn: int = 0
    feedback: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(VERDICTS, 0)))
    events: dict[str, float] = field(default_factory=dict)
    evaluations: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    scores: dict[str, tuple[float, int]] = field(default_factory=dict)


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


DEFAULT_SEGMENTS = 8
"""Number of segments where the configuration names none: the most frequent categories in training."""


class Segments:
    """The segments of a model.

    Parameters
    ----------
    source
        The categorical input whose values are the segments.
    values
        Values that have a segment of their own.

    Examples
    --------
    >>> segments = Segments("country", ["NL", "DE"])
    >>> segments.names
    ('NL', 'DE', 'other')
    >>> segments.indices_of(["DE", "XX", None]).tolist()
    [1, 2, 2]
    """

    def __init__(self, source: str, values: Sequence[str]) -> None:
        self.source = source
        self.names = (*values, OTHER_SEGMENT)
        self._indices = {name: index for index, name in enumerate(values)}
        self._other = len(values)

    @classmethod
    def from_config(cls, config: ModelConfig, profile: Profile) -> Segments | None:
        """Return the segments of a model's configuration; None without ``segment_by``."""
        if config.segment_by is None:
            return None
        feature = profile.features[config.segment_by]
        categories = feature.categories if isinstance(feature, CategoricalFeature) else ()
        frequent = [name for name in categories if 0 < len(name) <= 128 and name != OTHER_SEGMENT]
        return cls(config.segment_by, config.segments or frequent[:DEFAULT_SEGMENTS])

    def indices_of(self, values: Sequence[Any] | Floats) -> Ints:
        """Return the index of each segment in a column of the input ``source``, shape ``(n,)``.

        >>> Segments("country", ["NL"]).indices_of(["NL", None, "BE"]).tolist()
        [0, 1, 1]
        """
        texts = (value if isinstance(value, str) else scalar_text(value) for value in as_list(values))
        return np.fromiter((self._indices.get(text, self._other) for text in texts), dtype=np.intp, count=len(values))

    def index_of_name(self, name: str | None) -> int:
        """Return the index of a stored segment; one that is no longer configured is ``other``."""
        return self._indices.get(name or "", self._other)


def segment_divergences(
    binner: Binner, noise: NoiseFloors, segments: Segments, counts: Floats
) -> tuple[Floats, Floats]:
    """Return the divergence of each segment from all training data, and its noise floor.

    Parameters
    ----------
    binner
        Gives the meaning of the counts.
    noise
        The noise floors.
    segments
        The segments.
    counts
        Counts by segment and bin, shape ``(S · B,)``.

    Returns
    -------
    tuple
        Two arrays of shape ``(S, T)``, NaN where nothing was observed.
    """
    counts, reference = counts.reshape(len(segments.names), -1), binner.reference
    observations = np.add.reduceat(counts, reference.starts, axis=1)
    observed = observations > 0
    return (
        np.where(observed, reference.kl_divergence(counts), np.nan),
        np.where(observed, noise.training(observations, reference), np.nan),
    )
