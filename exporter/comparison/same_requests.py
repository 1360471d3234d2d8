"""Compare the answers of two versions to the same requests, of which users saw only the first version's."""

from __future__ import annotations

from typing import NamedTuple

from exporter.comparison.counts import Period
from exporter.monitoring.shadow_answers import PairCounts
from exporter.stats import intervals, sequential
from exporter.stats.intervals import Estimate
from exporter.stats.sequential import Sums


class SameRequests(NamedTuple):
    """Requests that two versions answered.

    Attributes
    ----------
    period
        From the first of them to the last.
    pairs, disagreements
        Requests that both answered, and those of them with different answers; pairs are above 0.
    differences
        Of answers that are numbers, the sums of their absolute differences; None if they are classes.
    """

    period: Period
    pairs: float
    disagreements: float
    differences: Sums | None = None

    @classmethod
    def of(cls, counts: PairCounts) -> SameRequests:
        """Return what an exporter counted."""
        period = Period(counts.first, counts.last)
        differences = Sums(counts.absolute, counts.squared, counts.numbers) if counts.numbers else None
        return cls(period, counts.pairs, counts.disagreements, differences)

    def disagreement(self, at_any_time: bool) -> Estimate:
        """Return the share of different answers, with an interval for one look or for any looks."""
        method = sequential.share if at_any_time else intervals.share
        whole = max(round(self.pairs), 1)  # after a reset of a counter, the counts need not be whole
        return method(min(round(self.disagreements), whole), whole)

    def mean_difference(self, at_any_time: bool) -> Estimate | None:
        """Return the mean absolute difference; None for classes, and for any looks with fewer than 100 pairs."""
        if self.differences is None:
            return None
        if not at_any_time:
            return intervals.mean(*self.differences)
        return sequential.mean(self.differences) if self.differences.values >= sequential.LARGE else None
