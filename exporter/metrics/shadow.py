"""Collect the metrics of versions in shadow mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.comparison.same_requests import SameRequests
from exporter.metrics import families as f
from exporter.metrics.lines import Family, FamilyLines, sample_line
from exporter.monitoring.shadow_answers import PairCounts, VersionCounts
from exporter.stats.intervals import Estimate

Counted = Mapping[str, tuple[dict[str, VersionCounts], dict[tuple[str, str], PairCounts]]]
"""By model, the counts of each version and of each pair, see `exporter.monitoring.shadow_answers`."""


def shadow_lines(counted: Counted) -> Iterator[FamilyLines]:
    """Return the lines of what was counted; intervals hold at every look, as scrapes look again and again."""
    for model, (versions, pairs) in counted.items():
        for version, answers in versions.items():
            labels = {"model": model, "version": version}
            yield sample_line(f.SHADOW_ANSWERS, answers.answers, **labels)
            yield sample_line(f.SHADOW_ERRORS, answers.errors, **labels)
            yield sample_line(f.SHADOW_UNPAIRED, answers.unpaired, **labels)
        for (before, after), counts in pairs.items():
            labels = {"model": model, "before": before, "after": after}
            same = SameRequests.of(counts)
            yield sample_line(f.SHADOW_PAIRS, counts.pairs, **labels)
            yield sample_line(f.SHADOW_DISAGREEMENTS, counts.disagreements, **labels)
            if counts.numbers:
                yield sample_line(f.SHADOW_DIFFERENCE, counts.absolute, **labels)
                yield sample_line(f.SHADOW_SQUARED_DIFFERENCE, counts.squared, **labels)
            yield from _estimate(f.SHADOW_RATIO, same.disagreement(at_any_time=True), labels)
            if mean := same.mean_difference(at_any_time=True):
                yield from _estimate(f.SHADOW_MEAN_DIFFERENCE, mean, labels)


def _estimate(families: tuple[Family, ...], estimate: Estimate, labels: Mapping[str, str]) -> Iterator[FamilyLines]:
    for family, value in zip(families, (estimate.value, *estimate.interval()), strict=True):
        yield sample_line(family, value, **labels)
