"""The metrics of two versions side by side: the comparison, and versions in shadow mode; and of slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.comparison.measures import VERDICTS, WORDS, Comparison, Measure, SameRequests, decide
from exporter.metrics.lines import FamilyLines, Interval, Metrics, Reading
from exporter.monitoring.binner import Binner
from exporter.monitoring.shadow_answers import PairCounts, VersionCounts
from exporter.slices.explain import ExplainedSlice, Explanation, describe
from exporter.stats.intervals import Estimate

MAX_NAME = 200
"""Characters of the label ``slice``."""
Counted = Mapping[str, tuple[dict[str, VersionCounts], dict[tuple[str, str], PairCounts]]]
"""By model, the counts of each version and of each pair, see `exporter.monitoring.shadow_answers`."""
_VERSIONS = ("model", "before", "after")
_COMPARISON, _SHADOW = "Comparison of versions", "Shadow answers"

COMPARISON = Metrics[tuple[Comparison, Mapping[str, float]]](_COMPARISON, *_VERSIONS)


@COMPARISON.gauge()
def model_comparison_start_timestamp_seconds(one: tuple[Comparison, Mapping[str, float]]) -> Reading:
    """Start of the overlap period, in Unix time."""
    return one[0].after.period.start


@COMPARISON.gauge()
def model_comparison_end_timestamp_seconds(one: tuple[Comparison, Mapping[str, float]]) -> Reading:
    """End of the overlap period, in Unix time."""
    return one[0].after.period.end


@COMPARISON.gauge()
def model_comparison_shared_seconds(one: tuple[Comparison, Mapping[str, float]]) -> Reading:
    """Length of the overlap period, without gaps."""
    return one[0].shared_seconds


@COMPARISON.gauge()
def model_comparison_decision(one: tuple[Comparison, Mapping[str, float]]) -> Reading:
    """Whether the version after may be promoted (1) or must be rolled back (-1), or not yet (0)."""
    return WORDS[decide(*one).word]


SIDE = Metrics[tuple[Estimate, float]](_COMPARISON, *_VERSIONS, "measure", "side")


@SIDE.gauge()
def model_comparison_value(one: tuple[Estimate, float]) -> Reading:
    """A measure of a version in the overlap period, in seconds, in nats or as a share."""
    return one[0].value


@SIDE.gauge()
def model_comparison_observations(one: tuple[Estimate, float]) -> Reading:
    """Requests, predictions or values that a measure is computed from."""
    return one[1]


MEASURE = Metrics[Measure](_COMPARISON, *_VERSIONS, "measure")


@MEASURE.gauge()
def model_comparison_verdict(measure: Measure) -> Reading:
    """Whether the version after is better (1) or worse (-1), or neither is proven (0)."""
    return VERDICTS[measure.verdict] if measure.difference else None


@MEASURE.interval()
def model_comparison_difference(measure: Measure) -> Interval:
    """Measure of the candidate (after) minus measure of the baseline (before)."""
    return (measure.difference.value, *measure.difference.interval) if measure.difference else None


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


@SLICE.gauge()
def model_slice_share(one: ExplainedSlice) -> Reading:
    """Share of the last hour's corrections in a slice."""
    return one.share


@SLICE.gauge()
def model_slice_traffic_share(one: ExplainedSlice) -> Reading:
    """Share of the last hour's predictions in a slice."""
    return one.traffic_share


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


@ANSWERS.counter()
def model_shadow_predictions_total(counts: VersionCounts) -> Reading:
    """Predictions of a version in shadow mode."""
    return counts.answers


@ANSWERS.counter()
def model_shadow_errors_total(counts: VersionCounts) -> Reading:
    """Predictions in shadow mode with a 5xx code."""
    return counts.errors


@ANSWERS.counter()
def model_shadow_unpaired_total(counts: VersionCounts) -> Reading:
    """Predictions in shadow mode without another version's prediction for the same request."""
    return counts.unpaired


PAIR = Metrics[PairCounts](_SHADOW, *_VERSIONS)


@PAIR.counter()
def model_shadow_pairs_total(pair: PairCounts) -> Reading:
    """Requests that two versions answered, one of them in shadow mode."""
    return pair.pairs


@PAIR.counter()
def model_shadow_disagreements_total(pair: PairCounts) -> Reading:
    """Requests to which the two versions gave different answers."""
    return pair.disagreements


@PAIR.counter()
def model_shadow_absolute_difference_total(pair: PairCounts) -> Reading:
    """Sum of the absolute differences of the answers of two versions; only for numbers."""
    return pair.absolute if pair.numbers else None


@PAIR.counter()
def model_shadow_squared_difference_total(pair: PairCounts) -> Reading:
    """Sum of the squared differences of the answers of two versions; only for numbers."""
    return pair.squared if pair.numbers else None


@PAIR.interval()
def model_shadow_disagreement_ratio(pair: PairCounts) -> Interval:
    """Share of the requests to which two versions gave different answers, with an anytime-valid interval."""
    return _with_interval(SameRequests.of(pair).disagreement(at_any_time=True))


@PAIR.interval()
def model_shadow_mean_absolute_difference(pair: PairCounts) -> Interval:
    """Mean absolute difference of the answers of two versions from 100 pairs on, with an anytime-valid interval."""
    return _with_interval(SameRequests.of(pair).mean_difference(at_any_time=True))


def _with_interval(estimate: Estimate | None) -> Interval:
    return (estimate.value, *estimate.interval()) if estimate else None


def shadow_lines(counted: Counted) -> Iterator[FamilyLines]:
    """Return the lines of what was counted; intervals hold at every look, as scrapes look again and again."""
    for model, (versions, pairs) in counted.items():
        for version, answers in versions.items():
            yield from ANSWERS.lines(answers, model=model, version=version)
        for (before, after), counts in pairs.items():
            yield from PAIR.lines(counts, model=model, before=before, after=after)
