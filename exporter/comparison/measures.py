"""The counters of versions in periods, and their measures, compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from exporter.config import MARGINS, PROMOTED_WITHOUT
from exporter.errors import CompareError, NoPairError
from exporter.monitoring.shadow_answers import PairCounts
from exporter.stats import intervals, sequential
from exporter.stats.divergence import Floats
from exporter.stats.intervals import (
    CONFIDENCE,
    Difference,
    Estimate,
    Interval,
    difference,
    divergence,
    excludes_zero,
    from_band,
)
from exporter.stats.multiple_tests import holm
from exporter.stats.quality import IntervalEstimate
from exporter.stats.sequential import COMMON, LARGE, RARE, Part, Sums
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
        Accuracy, or the mean absolute error of a regression, with its 95% band; None without an estimate.
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
        One of `KINDS`; ``accuracy`` or ``mean_absolute_error`` only where labels or estimates of them are there.
    before, after
        The estimates; None where there is no data.
    difference
        None unless both sides have an estimate that could differ.
    significant
        Whether the difference is statistically significant among all measures of the comparison.
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
        return "better" if self.difference.value * KINDS[self.name].good > 0 else "worse"


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


def percent(value: float) -> str:
    """
    >>> percent(0.0314), percent(0.00043), percent(1)
    ('3.1%', '0.043%', '100.0%')
    >>> percent(-0.0), percent(-0.00000000001)
    ('0.0%', '0.0%')
    """
    return f"{_percent(value)}%"


def _percent(value: float) -> str:
    size = abs(100 * value)
    if size < 5e-7:
        return "0.0"  # and not -0.0
    return f"{100 * value:.1f}" if size >= 1 else f"{100 * value:.2g}"


def _plain(value: float) -> str:
    return f"{round(value, 9) + 0.0:.3g}"  # and neither -0 nor the last digits of a difference of equal numbers


class Kind(NamedTuple):
    """All that one kind of measure is.

    Attributes
    ----------
    good
        1 where more is better, -1 where less is.
    title, less, more, of
        Its name, the words for less and more of it, and what it is a part of.
    unknown
        Why it has no difference where one side has no estimate.
    measure
        Computes it for one side; None for the quality, of which both sides decide how it is computed.
    expected
        Of a share, its expected size.
    number, suffix, unit
        The format of a number, and what follows a value and a difference.
    """

    name: str
    good: int
    title: str
    less: str
    more: str
    of: str
    unknown: str
    measure: Callable[[Counts, Method], _Measured] | None = None
    expected: Floats = RARE
    number: Callable[[float], str] = _percent
    suffix: str = "%"
    unit: str = " points"

    def value(self, value: float) -> str:
        """Return a value as text."""
        return f"{self.number(value)}{self.suffix}"

    def interval(self, interval: Interval) -> str:
        """Return both ends of an interval as text."""
        return f"{self.number(interval.low)} to {self.number(interval.high)}"

    def change(self, difference: Difference) -> str:
        """Return a difference and its interval as text, with the sign of both."""
        sign = "+" if difference.value > 0 else ""
        return f"{sign}{self.number(difference.value)}{self.unit} ({self.interval(difference.interval)})"


_NO_QUALITY = "one side has neither enough labels nor an estimate"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "error_ratio", -1, "error ratio", "fails less often", "fails more often", " of requests",
            "there are no requests", lambda counts, method: _share(method, counts.errors, counts.requests),
        ),
        Kind(
            "latency_p95_seconds", -1, "p95 latency", "is faster", "is slower", " at the 95th percentile",
            "predictions came without duration_seconds", _latency, number=_plain, suffix=" s", unit=" s",
        ),
        Kind(
            "confident_ratio", 1, "confident ratio", "is confident less often", "is confident more often",
            " of predictions", "there are no predictions",
            lambda counts, method: _share(method, counts.confident, counts.attempts), COMMON,
        ),
        Kind(
            "correction_ratio", -1, "correction ratio", "is corrected less often", "is corrected more often",
            " of confident predictions", "no feedback came in that time, or no prediction was confident",
            lambda counts, method: _share(method, counts.corrections, counts.confident),
        ),
        Kind(
            "accuracy", 1, "accuracy", "is right less often", "is right more often", " of predictions", _NO_QUALITY
        ),
        Kind(
            "mean_absolute_error", -1, "mean absolute error", "has smaller errors", "has larger errors", "",
            _NO_QUALITY, number=_plain, suffix="", unit="",
        ),
        Kind(
            "worst_drift_nats", -1, "worst feature drift", "gets inputs nearer to its training data",
            "gets inputs further from its training data", "",
            "no feature with a training profile was observed on both sides", _drift,
            number=_plain, suffix=" nats", unit=" nats",
        ),
    )
}  # fmt: skip
"""By name."""


def compare(before: Counts, after: Counts, method: Method = FIXED) -> list[Measure]:
    """Return all measures of two sides; the method decides together which differences are significant."""
    measures = [_compare_measure(kind, kind.measure, before, after, method) for kind in KINDS.values() if kind.measure]
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


def _compare_measure(
    kind: Kind, measure: Callable[[Counts, Method], _Measured], before: Counts, after: Counts, method: Method
) -> Measure:
    sides = measure(before, method), measure(after, method)
    old, new = (side.estimate for side in sides)
    if kind.name == "correction_ratio" and not before.feedback and not after.feedback:
        old = new = None  # without feedback, a lack of corrections means nothing
    names = tuple(side.feature for side in sides if side.feature)
    change = _subtract(kind, *sides, method) if old and new else None
    observations = (sides[0].observations, sides[1].observations)
    features = (names[0], names[1]) if len(names) == len(sides) else None
    return Measure(kind.name, old, new, change, significant=False, observations=observations, features=features)


def _subtract(kind: Kind, before: _Measured, after: _Measured, method: Method) -> Difference | None:
    old, new = before.estimate, after.estimate
    if old is None or new is None:
        return None
    if kind.name == "confident_ratio" and old.value == new.value == 1:
        return None  # as of a model without confidences: every prediction is confident
    if before.part and after.part:
        return method.share_difference(before.part, after.part, kind.expected)
    if kind.name == "latency_p95_seconds":
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
    return Measure(name, old, new, change, significant=False, observations=observations, basis=basis)


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


def titles(comparison: Comparison) -> tuple[str, str]:
    """Return the names of the sides: their versions if these differ, else their periods."""
    if comparison.before.version != comparison.after.version:
        return f"Version {comparison.before.version}", f"Version {comparison.after.version}"
    return (
        f"The period from {utc_time(comparison.before.period.start)}",
        f"The period from {utc_time(comparison.after.period.start)}",
    )


def title(measure: Measure) -> str:
    """Return the title of a measure; of quality, with whether it is measured or estimated."""
    name = KINDS[measure.name].title
    return f"{measure.basis} {name}" if measure.basis else name


def summary(comparison: Comparison) -> str:
    """Return one line about all measures: which differences are proven, and which are not."""
    before, after = titles(comparison)
    named: dict[str, list[str]] = {}
    for measure in comparison.measures:
        named.setdefault(measure.verdict, []).append(title(measure))
    proven = [f"{verdict} in {_and(named[verdict])}" for verdict in ("worse", "better") if verdict in named]
    than = before[0].lower() + before[1:] + (", if requests are independent" if comparison.sequential else "")
    nothing = "no difference is proven" if comparison.measures else "only answers to the same requests"
    parts = [f"{after} compared with {than}: {', '.join(proven) or nothing}"]
    parts += [f"not proven: {_and(named['not proven'])}"] if proven and "not proven" in named else []
    parts += [f"not compared: {_and(named['unknown'])}"] if "unknown" in named else []
    same = comparison.same_requests
    return "; ".join(parts) + "." + (f" {same_requests_sentence(same, comparison.sequential)}" if same else "")


def same_requests_sentence(same: SameRequests, sequential: bool) -> str:
    """Say how often the answers of two versions to the same requests differ."""
    ratio = same.disagreement(sequential)
    interval = KINDS["error_ratio"].interval(ratio.interval())
    text = (
        f"Of {same.pairs:,.0f} requests that both answered, {percent(ratio.value)} ({interval}) got different answers"
    )
    if mean := same.mean_difference(sequential):
        low, high = map(_plain, mean.interval())
        text += f"; the mean absolute difference is {_plain(mean.value)} ({low} to {high})"
    return f"{text}."


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def minutes(seconds: float) -> str:
    """
    >>> minutes(480), minutes(5400)
    ('8 minutes', '1.5 hours')
    """
    return f"{seconds / 60:.3g} minutes" if seconds < 3600 else f"{seconds / 3600:.3g} hours"


def sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each measure."""
    return [sentence(comparison, measure) for measure in comparison.measures]


def sentence(comparison: Comparison, measure: Measure) -> str:
    """Say how a measure differs between the sides, and whether that is significant."""
    kind, (_, after) = KINDS[measure.name], titles(comparison)
    subject = title(measure).capitalize()
    if measure.before is None or measure.after is None or measure.difference is None:
        return f"{subject}: not compared, {_why_unknown(comparison, measure)}."
    old, new = kind.value(measure.before.value), kind.value(measure.after.value)
    if measure.features:
        old, new = (f"{value} in {name}" for value, name in zip((old, new), measure.features, strict=True))
    size = f"the difference of {kind.change(measure.difference)}"
    if measure.significant:
        verb = kind.more if measure.difference.value > 0 else kind.less
        verb += {"measured": " by its labels", "estimated": " as estimated", None: ""}[measure.basis]
        return f"{after} {verb}: {new}{kind.of} against {old}; {size} is statistically significant."
    doubt = _doubt(comparison, measure, measure.difference.interval)
    return f"{subject}: no significant difference, {new}{kind.of} against {old}; {size} {doubt}."


def _why_unknown(comparison: Comparison, measure: Measure) -> str:
    has_both = measure.before and measure.after
    if measure.name == "worst_drift_nats" and (comparison.before.counts.changed or comparison.after.counts.changed):
        return "the training profile changed meanwhile"
    if has_both and measure.name == "confident_ratio":
        return "every prediction was confident"
    if has_both and comparison.sequential:
        if measure.basis == "estimated":
            return "an estimate without labels can be compared at one chosen moment only"
        return f"each side needs {LARGE} observations"
    return KINDS[measure.name].unknown


def _doubt(comparison: Comparison, measure: Measure, interval: Interval) -> str:
    """Say why a difference is not significant."""
    if excludes_zero(interval):
        count = sum(other.difference is not None for other in comparison.measures)
        return f"would be significant on its own, but not as one of {count} comparisons"
    if measure.name == "latency_p95_seconds":
        return "may be due to chance or to the width of the buckets"
    return "may be due to chance"


def document(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON document; infinite and unknown numbers are null."""
    return {
        "model": comparison.model,
        "summary": summary(comparison),
        "before": _side(comparison.before),
        "after": _side(comparison.after),
        "shared_seconds": comparison.shared_seconds,
        "confidence": CONFIDENCE,
        "sequential": comparison.sequential,
        "same_requests": comparison.same_requests and _same_requests(comparison.same_requests, comparison.sequential),
        "measures": [
            _measure(measure, text) for measure, text in zip(comparison.measures, sentences(comparison), strict=True)
        ],
    }


def _measure(measure: Measure, text: str) -> dict[str, Any]:
    difference = measure.difference
    sides = zip(("before", "after"), (measure.before, measure.after), measure.observations, strict=True)
    return {
        "name": measure.name,
        "basis": measure.basis,
        **{
            name: estimate and _interval(estimate.value, estimate.interval()) | {"n": observations}
            for name, estimate, observations in sides
        },
        "difference": difference and _interval(difference.value, difference.interval),
        "p_value": difference and difference.p_value,
        "chance": difference and difference.p_value,
        "features": list(measure.features) if measure.features else None,
        "verdict": measure.verdict,
        "sentence": text,
    }


def _same_requests(same: SameRequests, sequential: bool) -> dict[str, Any]:
    ratio, mean = same.disagreement(sequential), same.mean_difference(sequential)
    return {
        "pairs": same.pairs,
        "disagreements": same.disagreements,
        "from": utc_time(same.period.start),
        "to": utc_time(same.period.end),
        "disagreement_ratio": _interval(ratio.value, ratio.interval()),
        "mean_absolute_difference": mean and _interval(mean.value, mean.interval()),
        "sentence": same_requests_sentence(same, sequential),
    }


def _side(side: Side) -> dict[str, Any]:
    names = ("requests", "errors", "attempts", "confident", "corrections", "feedback")
    return {
        "version": side.version,
        "from": utc_time(side.period.start),
        "to": utc_time(side.period.end),
        **{name: getattr(side.counts, name) for name in names},
    }


def _interval(value: float, interval: Interval) -> dict[str, float | None]:
    numbers = {"value": value, "low": interval.low, "high": interval.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


Word = Literal["promote", "rollback", "wait"]
WORDS: dict[Word, float] = {"rollback": -1.0, "wait": 0.0, "promote": 1.0}
"""The number of each decision in the metrics."""


class Decision(NamedTuple):
    """A decision about the new version, or about one measure of it.

    Attributes
    ----------
    word
        ``rollback`` if it is proven to be worse by more than the margin, ``promote`` if it is proven not to be, else
        ``wait``. Of all measures together: ``rollback`` if one says so, ``promote`` if all that are needed say so.
    reason
        A sentence.
    needed
        Whether this measure must say ``promote``.
    margin
        By how much the new version may be worse.
    """

    word: Word
    reason: str
    needed: bool
    margin: float


class Decisions(NamedTuple):
    """The decision on the new version, and that of each measure by its name."""

    word: Word
    by_measure: dict[str, Decision]

    def reasons(self) -> list[str]:
        """Return a sentence for each measure that the decision comes from."""
        return [
            decision.reason
            for decision in self.by_measure.values()
            if decision.word == self.word and (decision.needed or self.word == "rollback")
        ]


def decide(comparison: Comparison, margins: Mapping[str, float]) -> Decisions:
    """Decide whether the new version may be rolled out.

    Parameters
    ----------
    comparison
        Of `exporter.comparison.measures.at_every_look`.
    margins
        The margins that are set; a measure with one is needed for ``promote`` even if it has no data yet.
    """
    by_measure = {measure.name: _of_measure(measure, margins) for measure in comparison.measures}
    for name in margins.keys() - by_measure.keys():
        reason = f"{KINDS[name].title.capitalize()}: there are no data, and it has a margin."
        by_measure[name] = Decision("wait", reason, needed=True, margin=margins[name])
    needed = [decision.word for decision in by_measure.values() if decision.needed]
    if any(decision.word == "rollback" for decision in by_measure.values()):
        return Decisions("rollback", by_measure)
    return Decisions("promote" if set(needed) == {"promote"} else "wait", by_measure)


def document_with(comparison: Comparison, decisions: Decisions) -> dict[str, Any]:
    """Return the JSON document of a comparison with its decision."""
    result = document(comparison) | {"decision": decisions.word, "reasons": decisions.reasons()}
    for measure in result["measures"]:
        decision = decisions.by_measure[measure["name"]]
        measure |= {"decision": decision.word, "needed": decision.needed, "margin": decision.margin}
    return result


def _of_measure(measure: Measure, margins: Mapping[str, float]) -> Decision:
    name, kind = title(measure).capitalize(), KINDS[measure.name]
    margin = margins.get(measure.name, MARGINS[measure.name])
    allowed = f"the margin of {kind.number(margin)}{kind.unit}"
    if measure.difference is None:
        needed = measure.name in margins
        return Decision("wait", f"{name}: not compared.", needed, margin)
    needed = measure.name in margins or measure.name not in PROMOTED_WITHOUT
    if _worse(measure, measure.difference.within(EACH_LEVEL)).low > margin:
        return Decision("rollback", f"{name}: worse by more than {allowed}.", needed, margin)
    worse = _worse(measure, measure.difference.interval)
    if worse.high < margin:
        return Decision("promote", f"{name}: not worse by more than {allowed}.", needed, margin)
    by = f"worse by {kind.interval(worse)}{kind.unit}"
    return Decision("wait", f"{name}: {by}, which is neither within nor beyond {allowed}.", needed, margin)


def _worse(measure: Measure, interval: Interval) -> Interval:
    """Return by how much the new version is worse, given the interval of its difference."""
    return interval if KINDS[measure.name].good < 0 else Interval(-interval.high, -interval.low)
