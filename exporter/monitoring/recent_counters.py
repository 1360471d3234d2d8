"""Counts of a model version over the windows of its alerts: the last minute, five minutes and hour."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exporter.config.types import DURATION_BUCKETS
from exporter.monitoring.counters import bucket_quantile, only_bucket
from exporter.monitoring.ring import Ring
from exporter.stats.divergence import Ints

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
    """

    requests: int
    error_ratio: float
    latency: float
    latency_bucket: tuple[float, float] | None
    attempts: int
    confident_ratio: float
    corrections: int
    correction_ratio: float


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

    def count_correction(self, now: float) -> None:
        """Count the first correction of a confident prediction."""
        self._outcomes.add(now, [0, 0, 1])

    def read(self, now: float) -> Recent:
        """Return the figures at the monotonic time ``now`` in seconds."""
        requests, errors = self._requests.total(now)
        attempts, confident, corrections = self._outcomes.total(now)
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
        )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
