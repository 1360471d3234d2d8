"""Collect the comparison of each model's newest version with the version before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from exporter.comparison.decision import WORDS, decide
from exporter.comparison.measures import VERDICTS, Comparison, Measure
from exporter.metrics import families as f
from exporter.metrics.lines import FamilyLines, sample_line


def comparison_lines(comparison: Comparison, margins: Mapping[str, float]) -> Iterator[FamilyLines]:
    """Return the lines of a comparison; unknown values and infinite bounds have no line.

    Parameters
    ----------
    comparison
        Scrapes look at it again and again: one of `exporter.comparison.measures.at_every_look`.
    margins
        The margins that the configuration sets.
    """
    labels = {
        "model": comparison.model,
        "before": comparison.before.version,
        "after": comparison.after.version,
    }
    period = comparison.after.period
    for family, value in zip(f.COMPARISON_PERIOD, (period.start, period.end), strict=True):
        yield sample_line(family, value, **labels)
    if comparison.shared_seconds is not None:
        yield sample_line(f.COMPARISON_SHARED, comparison.shared_seconds, **labels)
    yield sample_line(f.COMPARISON_DECISION, WORDS[decide(comparison, margins).word], **labels)
    for measure in comparison.measures:
        yield from _measure(measure, labels | {"measure": measure.name})


def _measure(measure: Measure, labels: dict[str, str]) -> Iterator[FamilyLines]:
    sides = zip(("before", "after"), (measure.before, measure.after), measure.observations, strict=True)
    for side, estimate, observations in sides:
        if estimate is not None:
            yield sample_line(f.COMPARISON_VALUE, estimate.value, **labels, side=side)
            yield sample_line(f.COMPARISON_OBSERVATIONS, observations, **labels, side=side)
    if measure.difference is None:
        return
    yield sample_line(f.COMPARISON_VERDICT, VERDICTS[measure.verdict], **labels)
    numbers = measure.difference.value, *measure.difference.interval
    for family, value in zip(f.COMPARISON_DIFFERENCE, numbers, strict=True):
        if math.isfinite(value):
            yield sample_line(family, value, **labels)
