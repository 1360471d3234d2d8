"""The counters of versions in periods, and their measures, compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np

from exporter.errors import CompareError, NoPairError
from exporter.monitoring.shadow_answers import PairCounts
from exporter.stats import intervals, sequential
from exporter.stats.divergence import Floats
from exporter.stats.intervals import CONFIDENCE, Difference, Estimate, difference, divergence, from_band
from exporter.stats.multiple_tests import holm
from exporter.stats.quality import IntervalEstimate
from exporter.stats.sequential import COMMON, RARE, Part, Sums
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


MEASURES = 6
"""Measures that a comparison may have; those without data count, too, as they may have some at the next look."""

EACH_LEVEL = (1 - CONFIDENCE) / MEASURES
"""Probability that a measure ever gets a wrong verdict, at most, if one may look at any time."""


class Method(NamedTuple):
    """The functions that estimate, subtract and test each kind of number.

    Attributes
    ----------
    share, share_difference
        Of parts of totals; the difference also takes what is expected of the shares, such as `sequential.RARE`.
    quantile, quantile_difference
        Of a histogram's bounds and cumulative counts.
    worst_divergence, divergence_difference
        Of the most drifted of several features.
    mean, mean_difference, fewest
        Of sums of values, and the values that each side needs.
    significant
        Takes p-values; returns which of them are significant together.
    estimates
        Whether quality that is estimated without labels can be compared.
    """

    share: Callable[[int, int], Estimate]
    share_difference: Callable[[Part, Part, Floats], Difference]
    quantile: Callable[[Sequence[float], Sequence[float], float], Estimate]
    quantile_difference: Callable[[Estimate, Estimate], Difference]
    worst_divergence: Callable[[Sequence[Feature]], Estimate]
    divergence_difference: Callable[[Estimate, Estimate], Difference]
    mean: Callable[[Sums], Estimate]
    mean_difference: Callable[[Sums, Sums], Difference]
    fewest: int
    significant: Callable[[Sequence[float]], list[bool]]
    estimates: bool


def _share_difference(before: Part, after: Part, _: Floats) -> Difference:
    return intervals.difference(intervals.share(*before), intervals.share(*after))


def _worst_divergence(features: Sequence[Feature]) -> Estimate:
    return intervals.largest([intervals.divergence(*feature) for feature in features])


def _mean_difference(before: Sums, after: Sums) -> Difference:
    return intervals.difference(intervals.mean(*before), intervals.mean(*after))


def _quantile(bounds: Sequence[float], counts: Sequence[float], share_below: float) -> Estimate:
    value = intervals.bucket_quantile(bounds, counts, share_below).value
    return sequential.bucket_quantile(bounds, counts, share_below, value)


def _worst_divergence_at_any_time(features: Sequence[Feature]) -> Estimate:
    counts, probability = zip(*features, strict=True)
    return sequential.worst_divergence(counts, probability, _worst_divergence(features).value)


FIXED = Method(
    share=intervals.share,
    share_difference=_share_difference,
    quantile=intervals.bucket_quantile,
    quantile_difference=intervals.conservative_difference,
    worst_divergence=_worst_divergence,
    divergence_difference=intervals.difference,
    mean=lambda sums: intervals.mean(*sums),
    mean_difference=_mean_difference,
    fewest=1,
    significant=holm,
    estimates=True,
)
"""For one look at a moment that was chosen beforehand."""
SEQUENTIAL = Method(
    share=sequential.share,
    share_difference=sequential.share_difference,
    quantile=_quantile,
    quantile_difference=sequential.far_difference,
    worst_divergence=_worst_divergence_at_any_time,
    divergence_difference=sequential.far_difference,
    mean=sequential.mean,
    mean_difference=sequential.mean_difference,
    fewest=sequential.LARGE,
    # Compared with its share of the level: which measures have data changes from look to look.
    significant=lambda p_values: [p_value <= EACH_LEVEL for p_value in p_values],
    estimates=False,
)
"""For any number of looks at any moments."""


MIN_LABELS = 20
"""Labels that each side needs for its measured quality to be compared; with fewer, estimates are."""
Basis = Literal["measured", "estimated"]
Verdict = Literal["better", "worse", "not proven", "unknown"]
VERDICTS: dict[Verdict, float] = {"worse": -1.0, "not proven": 0.0, "better": 1.0}
"""The number of each verdict in the metrics; ``unknown`` has none."""


class Measure(NamedTuple):
    """One number of both sides, compared.

    Attributes
    ----------
    name
        ``error_ratio``, ``latency_p95_seconds``, ``confident_ratio``, ``correction_ratio``, ``worst_drift_nats``, and
        ``accuracy`` or ``mean_absolute_error`` where labels or estimates of them are there.
    before, after
        The estimates; None where there is no data.
    difference
        None unless both sides have an estimate that could differ.
    significant
        Whether the difference is statistically significant among all measures of the comparison.
    good
        1 where more is better, -1 where less is.
    observations
        What each side's estimate is computed from: a number of requests, predictions or values.
    features
        The worst feature of each side, where drift is measured.
    basis
        Whether the quality of the predictions is measured with labels, or estimated without; None for other measures.
    """

    name: str
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    significant: bool
    good: int
    observations: tuple[float, float]
    features: tuple[str, str] | None = None
    basis: Basis | None = None

    @property
    def verdict(self) -> Verdict:
        """``unknown`` where there is nothing to compare, ``not proven`` where the difference is not significant."""
        if self.difference is None:
            return "unknown"
        if not self.significant:
            return "not proven"
        return "better" if self.difference.value * self.good > 0 else "worse"


class Side(NamedTuple):
    """A version in a period, and its counts."""

    version: str
    period: Period
    counts: Counts


class Comparison(NamedTuple):
    """Two versions in a period, or one version in two.

    Attributes
    ----------
    shared_seconds
        Seconds in which both versions served, if both are compared over that time; None for two periods.
    sequential
        Whether the intervals and verdicts hold at every look.
    same_requests
        Requests that both versions answered, users having seen the version before; None without any.
    """

    model: str
    before: Side
    after: Side
    measures: list[Measure]
    shared_seconds: float | None = None
    sequential: bool = False
    same_requests: SameRequests | None = None


class _Measured(NamedTuple):
    """A measure of one side: the estimate, what it is computed from, the counts of a share, and the worst feature."""

    estimate: Estimate | None
    observations: float
    part: Part | None = None
    feature: str | None = None


def _share(method: Method, part: float, total: float) -> _Measured:
    # After a reset of a counter the counts are estimates, which need not be whole.
    whole = round(total)
    if whole <= 0:
        return _Measured(None, total)
    counted = Part(min(round(part), whole), whole)
    return _Measured(method.share(*counted), total, counted)


def _latency(counts: Counts, method: Method) -> _Measured:
    requests = counts.durations[-1] if counts.durations else 0.0
    return _Measured(method.quantile(counts.bounds, counts.durations, 0.95) if requests else None, requests)


def _drift(counts: Counts, method: Method) -> _Measured:
    scores = {name: divergence(*feature).value for name, feature in counts.features.items()}
    if not scores:
        return _Measured(None, 0.0)
    worst = max(scores, key=scores.__getitem__)
    observations = float(counts.features[worst].counts.sum())
    return _Measured(method.worst_divergence(list(counts.features.values())), observations, feature=worst)


class _Rule(NamedTuple):
    """The rule of a measure: how it is computed and compared, and, for a share, its expected size."""

    name: str
    good: int
    measure: Callable[[Counts, Method], _Measured]
    expected: Floats = RARE


_RULES = (
    _Rule("error_ratio", -1, lambda counts, method: _share(method, counts.errors, counts.requests)),
    _Rule("latency_p95_seconds", -1, _latency),
    _Rule("confident_ratio", 1, lambda counts, method: _share(method, counts.confident, counts.attempts), COMMON),
    _Rule("correction_ratio", -1, lambda counts, method: _share(method, counts.corrections, counts.confident)),
    _Rule("worst_drift_nats", -1, _drift),
)
GOOD = {rule.name: rule.good for rule in _RULES} | {"accuracy": 1, "mean_absolute_error": -1}
"""Of each measure, 1 where more is better, -1 where less is."""


def compare(before: Counts, after: Counts, method: Method = FIXED) -> list[Measure]:
    """Return all measures of two sides; the method decides together which differences are significant."""
    measures = [_compare_measure(rule, before, after, method) for rule in _RULES]
    measures += filter(None, [_compare_quality(before, after, method)])
    indices = [index for index, measure in enumerate(measures) if measure.difference]
    p_values = [measure.difference.p_value for measure in measures if measure.difference]
    for index, significant in zip(indices, method.significant(p_values), strict=True):
        measures[index] = measures[index]._replace(significant=significant)
    return measures


def at_every_look(comparison: Comparison) -> Comparison:
    """Return the comparison with intervals and verdicts that hold at every look."""
    measures = compare(comparison.before.counts, comparison.after.counts, SEQUENTIAL)
    return comparison._replace(measures=measures, sequential=True)


def shadow_only(model: str, before: str, after: str, same: SameRequests) -> Comparison:
    """Return the comparison of a version that users see with one that has answered the same requests only."""
    counts = Counts(0, 0, 0, 0, 0, 0, (), (), {}, ())
    sides = Side(before, same.period, counts), Side(after, same.period, counts)
    return Comparison(model, *sides, measures=[], same_requests=same)


def _compare_measure(rule: _Rule, before: Counts, after: Counts, method: Method) -> Measure:
    sides = rule.measure(before, method), rule.measure(after, method)
    old, new = (side.estimate for side in sides)
    if rule.name == "correction_ratio" and not before.feedback and not after.feedback:
        old = new = None  # without feedback, a lack of corrections means nothing
    names = tuple(side.feature for side in sides if side.feature)
    return Measure(
        name=rule.name,
        before=old,
        after=new,
        difference=_subtract(rule, *sides, method) if old and new else None,
        significant=False,
        good=rule.good,
        observations=(sides[0].observations, sides[1].observations),
        features=(names[0], names[1]) if len(names) == len(sides) else None,
    )


def _subtract(rule: _Rule, before: _Measured, after: _Measured, method: Method) -> Difference | None:
    old, new = before.estimate, after.estimate
    if old is None or new is None:
        return None
    if rule.name == "confident_ratio" and old.value == new.value == 1:
        return None  # as of a model without confidences: every prediction is confident
    if before.part and after.part:
        return method.share_difference(before.part, after.part, rule.expected)
    if rule.name == "latency_p95_seconds":
        return method.quantile_difference(old, new)
    few = min(before.observations, after.observations) < method.fewest
    return None if few else method.divergence_difference(old, new)


def _compare_quality(before: Counts, after: Counts, method: Method) -> Measure | None:
    """Compare the measured quality where both sides have labels, else the estimates; None where neither is there."""
    sides = before.quality, after.quality
    regression = any(side.regression for side in sides)
    basis: Basis = "measured" if min(side.labelled for side in sides) >= MIN_LABELS else "estimated"
    if basis == "measured":
        old, new, change = _measured_quality(*sides, method)
        observations = sides[0].labelled, sides[1].labelled
    else:
        old, new = (side.estimated and from_band(*side.estimated) for side in sides)
        change = difference(old, new) if old and new and method.estimates else None
        observations = before.attempts, after.attempts
    if old is None and new is None:
        return None
    name = "mean_absolute_error" if regression else "accuracy"
    return Measure(
        name=name,
        before=old,
        after=new,
        difference=change,
        significant=False,
        good=GOOD[name],
        observations=observations,
        basis=basis,
    )


def _measured_quality(
    before: Quality, after: Quality, method: Method
) -> tuple[Estimate | None, Estimate | None, Difference | None]:
    if before.regression or after.regression:
        old, new = (Sums(side.absolute_error, side.squared_error, side.labelled) for side in (before, after))
        enough = min(old.values, new.values) >= method.fewest
        return method.mean(old), method.mean(new), method.mean_difference(old, new) if enough else None
    left, right = (_share(method, side.correct, side.labelled) for side in (before, after))
    change = method.share_difference(left.part, right.part, COMMON) if left.part and right.part else None
    return left.estimate, right.estimate, change
