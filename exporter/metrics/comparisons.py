"""The metrics of two versions side by side: the comparison, and versions in shadow mode; and of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from exporter.comparison.decision import WORDS, decide
from exporter.comparison.measures import VERDICTS, Comparison, Measure
from exporter.comparison.same_requests import SameRequests
from exporter.metrics.lines import FamilyLines, Metrics
from exporter.monitoring.binner import Binner
from exporter.monitoring.shadow_answers import PairCounts, VersionCounts
from exporter.slices.explain import ExplainedSlice, Explanation
from exporter.slices.report import describe
from exporter.stats.intervals import Estimate

MAX_NAME = 200
"""Characters of the label ``slice``."""
Counted = Mapping[str, tuple[dict[str, VersionCounts], dict[tuple[str, str], PairCounts]]]
"""By model, the counts of each version and of each pair, see `exporter.monitoring.shadow_answers`."""
_VERSIONS = ("model", "before", "after")
_COMPARISON, _SHADOW = "Comparison of versions", "Shadow mode"

COMPARISON = Metrics[tuple[Comparison, Mapping[str, float]]](_COMPARISON, *_VERSIONS)
COMPARISON.gauge(
    "model_comparison_start_timestamp_seconds",
    "Unix time from which both versions served.",
    lambda one: one[0].after.period.start,
)
COMPARISON.gauge(
    "model_comparison_end_timestamp_seconds",
    "Unix time up to which both versions served.",
    lambda one: one[0].after.period.end,
)
COMPARISON.gauge(
    "model_comparison_shared_seconds",
    "Time in which both versions served, without gaps.",
    lambda one: one[0].shared_seconds,
)
COMPARISON.gauge(
    "model_comparison_decision",
    "Whether the version after may be promoted (1) or must be rolled back (-1), or not yet (0).",
    lambda one: WORDS[decide(*one).word],
)

SIDE = Metrics[tuple[Estimate, float]](_COMPARISON, *_VERSIONS, "measure", "side")
SIDE.gauge(
    "model_comparison_value",
    "A measure of a version while both served, in seconds, in nats or as a share.",
    lambda one: one[0].value,
)
SIDE.gauge(
    "model_comparison_observations",
    "Requests, predictions or values that a measure is computed from.",
    lambda one: one[1],
)

MEASURE = Metrics[Measure](_COMPARISON, *_VERSIONS, "measure")
MEASURE.gauge(
    "model_comparison_verdict",
    "Whether the version after is better (1) or worse (-1), or neither is proven (0).",
    lambda measure: VERDICTS[measure.verdict] if measure.difference else None,
)
MEASURE.interval(
    "model_comparison_difference",
    "The measure of the version after, less that of the version before.",
    "the difference, valid at every look",
    lambda measure: (measure.difference.value, *measure.difference.interval) if measure.difference else None,
)


def comparison_lines(comparison: Comparison, margins: Mapping[str, float]) -> Iterator[FamilyLines]:
    """Return the lines of a comparison; unknown values and infinite bounds have no line.

    Parameters
    ----------
    comparison
        Scrapes look at it again and again: one of `exporter.comparison.measures.at_every_look`.
    margins
        The margins that the configuration sets.
    """
    labels = {"model": comparison.model, "before": comparison.before.version, "after": comparison.after.version}
    yield from COMPARISON.lines((comparison, margins), **labels)
    for measure in comparison.measures:
        of = labels | {"measure": measure.name}
        sides = zip(("before", "after"), (measure.before, measure.after), measure.observations, strict=True)
        for side, estimate, observations in sides:
            if estimate is not None:
                yield from SIDE.lines((estimate, observations), **of, side=side)
        yield from MEASURE.lines(measure, **of)


SLICE = Metrics[ExplainedSlice]("Slices of corrections", "model", "version", "of", "slice")
SLICE.gauge(
    "model_slice_share",
    "Share of the corrections of the last hour that a slice contains.",
    lambda one: one.share,
)
SLICE.gauge(
    "model_slice_traffic_share",
    "Share of the predictions of that time that a slice contains.",
    lambda one: one.traffic_share,
)


def slice_lines(explanation: Explanation, binner: Binner, version: str) -> Iterator[FamilyLines]:
    """Return the lines of the slices of a version; of slices that are named the same, those of the first one."""
    seen = set()
    for one in explanation.slices:
        name = describe(one.bins, binner)
        name = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        if name not in seen:
            seen.add(name)
            of = {"model": explanation.query.model, "version": version, "of": explanation.query.of}
            yield from SLICE.lines(one, **of, slice=name)


ANSWERS = Metrics[VersionCounts](_SHADOW, "model", "version")
ANSWERS.counter(
    "model_shadow_predictions_total", "Answers of a version that no user saw.", lambda counts: counts.answers
)
ANSWERS.counter("model_shadow_errors_total", "Answers with a 5xx code that no user saw.", lambda counts: counts.errors)
ANSWERS.counter(
    "model_shadow_unpaired_total",
    "Answers that no user saw, without the answer of another version to the same request.",
    lambda counts: counts.unpaired,
)


class Pair(NamedTuple):
    """Two versions that answered the same requests."""

    counts: PairCounts
    same: SameRequests


def _mean_difference(pair: Pair) -> tuple[float, ...] | None:
    mean = pair.same.mean_difference(at_any_time=True)
    return (mean.value, *mean.interval()) if mean else None


def _of_numbers(read: Callable[[PairCounts], float]) -> Callable[[Pair], float | None]:
    return lambda pair: read(pair.counts) if pair.counts.numbers else None


PAIR = Metrics[Pair](_SHADOW, *_VERSIONS)
PAIR.counter(
    "model_shadow_pairs_total",
    "Requests that a version without users answered, too.",
    lambda pair: pair.counts.pairs,
)
PAIR.counter(
    "model_shadow_disagreements_total",
    "Requests to which the two versions gave different answers.",
    lambda pair: pair.counts.disagreements,
)
PAIR.counter(
    "model_shadow_absolute_difference_total",
    "Sum of the absolute differences of the answers of two versions.",
    _of_numbers(lambda counts: counts.absolute),
)
PAIR.counter(
    "model_shadow_squared_difference_total",
    "Sum of the squared differences of the answers of two versions.",
    _of_numbers(lambda counts: counts.squared),
)
PAIR.interval(
    "model_shadow_disagreement_ratio",
    "Share of the requests to which two versions gave different answers.",
    "the share of different answers, valid at every look",
    lambda pair: ((one := pair.same.disagreement(at_any_time=True)).value, *one.interval()),
)
PAIR.interval(
    "model_shadow_mean_absolute_difference",
    "Mean absolute difference of the answers of two versions.",
    "the mean absolute difference, valid at every look",
    _mean_difference,
)


def shadow_lines(counted: Counted) -> Iterator[FamilyLines]:
    """Return the lines of what was counted; intervals hold at every look, as scrapes look again and again."""
    for model, (versions, pairs) in counted.items():
        for version, answers in versions.items():
            yield from ANSWERS.lines(answers, model=model, version=version)
        for (before, after), counts in pairs.items():
            pair = Pair(counts, SameRequests.of(counts))
            yield from PAIR.lines(pair, model=model, before=before, after=after)
