"""The counters of a version of a model in a period."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from exporter.errors import CompareError, NoPairError
from exporter.monitoring.shadow_answers import PairCounts
from exporter.stats import intervals, sequential
from exporter.stats.divergence import Floats
from exporter.stats.intervals import Estimate
from exporter.stats.quality import IntervalEstimate
from exporter.stats.sequential import Sums
from exporter.validation import preview, suggestion


class Period(NamedTuple):
    """A period in Unix seconds."""

    start: float
    end: float

    def __str__(self) -> str:
        """Return both ends in UTC."""
        return f"{utc_time(self.start)} to {utc_time(self.end)}"


class Feature(NamedTuple):
    """Observations of a feature by bin, and the training probabilities of the bins, both of shape ``(K,)``."""

    counts: Floats
    probability: Floats


class Quality(NamedTuple):
    """The quality of a version's predictions: measured with labels, and estimated without them.

    Attributes
    ----------
    labelled
        Predictions whose label is known.
    correct
        Those of them that were right; of a classifier.
    absolute_error, squared_error
        Sums of their errors, in the label's unit; of a regression.
    regression
        Whether the model predicts numbers, so that its errors are measured.
    estimated
        Accuracy, or the mean absolute error of a regression, with its 95 % band; None without an estimate.
    """

    labelled: float = 0.0
    correct: float = 0.0
    absolute_error: float = 0.0
    squared_error: float = 0.0
    regression: bool = False
    estimated: IntervalEstimate | None = None


class Counts(NamedTuple):
    """The counters of one version in one period, summed over all replicas.

    Attributes
    ----------
    bounds, durations
        Upper bounds of the latency buckets, the last infinite, and the requests at or below each.
    feedback
        Feedback from users, of either verdict.
    features
        Features with observations, by name.
    changed
        Features whose training profile changed within the period: their bins cannot be added.
    quality
        How good the predictions were.
    """

    requests: float
    errors: float
    attempts: float
    confident: float
    corrections: float
    feedback: float
    bounds: tuple[float, ...]
    durations: tuple[float, ...]
    features: dict[str, Feature]
    changed: tuple[str, ...]
    quality: Quality = Quality()


def utc_time(seconds: float) -> str:
    """
    >>> utc_time(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def add(parts: Sequence[Counts]) -> Counts:
    """Return the counts of several periods together; at least one."""
    bounds = sorted({bound for part in parts for bound in part.bounds})
    durations = [sum(_at_most(part, bound) for part in parts) for bound in bounds]
    changed = {name for part in parts for name in part.changed}
    features: dict[str, Feature] = {}
    for part in parts:
        for name, feature in part.features.items():
            other = features.get(name)
            if other is None:
                features[name] = feature
            elif np.array_equal(other.probability, feature.probability):
                features[name] = Feature(other.counts + feature.counts, feature.probability)
            else:
                changed.add(name)
    return Counts(
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
        attempts=sum(part.attempts for part in parts),
        confident=sum(part.confident for part in parts),
        corrections=sum(part.corrections for part in parts),
        feedback=sum(part.feedback for part in parts),
        bounds=tuple(bounds),
        durations=tuple(durations),
        features={name: feature for name, feature in features.items() if name not in changed},
        changed=tuple(sorted(changed)),
        quality=_add_quality(parts),
    )


def _add_quality(parts: Sequence[Counts]) -> Quality:
    """Return the quality of several periods together; estimates are averaged by the number of predictions."""
    estimated = [(part.attempts, part.quality.estimated) for part in parts if part.quality.estimated and part.attempts]
    weights = [attempts for attempts, _ in estimated]
    numbers = zip(*(estimate for _, estimate in estimated), strict=True)
    return Quality(
        labelled=sum(part.quality.labelled for part in parts),
        correct=sum(part.quality.correct for part in parts),
        absolute_error=sum(part.quality.absolute_error for part in parts),
        squared_error=sum(part.quality.squared_error for part in parts),
        regression=any(part.quality.regression for part in parts),
        estimated=IntervalEstimate(*(float(np.average(list(n), weights=weights)) for n in numbers))
        if estimated
        else None,
    )


def _at_most(counts: Counts, bound: float) -> float:
    """Return the requests that took at most as long as a bound."""
    return max((d for b, d in zip(counts.bounds, counts.durations, strict=True) if b <= bound), default=0.0)


def choose(model: str, names: Sequence[str], before: str | None = None, after: str | None = None) -> tuple[str, str]:
    """Return the version to compare with, and the version to judge.

    Parameters
    ----------
    model
        The model's name.
    names
        Its versions in the order in which they appeared.
    before, after
        The versions that were asked for. By default ``after`` is the one that appeared last, and ``before`` the one
        that appeared last before it.

    Raises
    ------
    CompareError
        When a version is not known.
    NoPairError
        When there are not two.

    Examples
    --------
    >>> choose("digits", ["1", "3", "2"]), choose("digits", ["1", "3", "2"], after="3")
    (('3', '2'), ('1', '3'))
    """
    if not names:
        raise CompareError(f"no version of {preview(model)} has served yet")
    for name in (before, after):
        if name is not None and name not in names:
            raise CompareError(f"version {preview(name)} of {preview(model)} is not known; {suggestion(name, names)}")
    if after is None:
        after = next((name for name in reversed(names) if name != before), None)
    if before is None and after is not None:
        index = names.index(after)
        before = names[index - 1] if index else None
    if before is None or after is None:
        known = ", ".join(map(preview, names))
        raise NoPairError(f"there is no other version of {preview(model)} to compare with: only {known} is known")
    if before == after:
        raise NoPairError(f"before and after are the same version {preview(after)}")
    return before, after


def never_together(model: str, before: str, after: str, where: str = "") -> NoPairError:
    """Return the error for two versions that never served at the same time."""
    versions = f"{preview(before)} and {preview(after)} of {preview(model)}"
    return NoPairError(f"versions {versions} never served at the same time{where}")


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
