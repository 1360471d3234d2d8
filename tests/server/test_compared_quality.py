"""Comparisons of how right two versions are: measured with labels, estimated without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from exporter.comparison.measures import (
    MIN_LABELS,
    Comparison,
    Counts,
    Measure,
    Period,
    Quality,
    Side,
    add,
    compare,
    document,
    sentence,
    summary,
)
from exporter.stats.quality import IntervalEstimate

PERIOD = Period(0, 3600)


def counts(attempts: float = 1000, **quality: Any) -> Counts:
    return Counts(attempts, 0, attempts, attempts, 0, 0, (), (), {}, (), Quality(**quality))


def quality_of(before: Counts, after: Counts) -> Measure | None:
    found = [measure for measure in compare(before, after) if measure.basis]
    return found[0] if found else None


def said(before: Counts, after: Counts) -> str:
    comparison = Comparison("m", Side("1", PERIOD, before), Side("2", PERIOD, after), compare(before, after), 3600)
    measure = next(measure for measure in comparison.measures if measure.basis)
    if measure.verdict in {"better", "worse"}:
        assert f"{measure.verdict} in {measure.basis} {measure.name.replace('_', ' ')}" in summary(comparison)
    assert document(comparison)["measures"][-1]["basis"] == measure.basis
    return sentence(comparison, measure)


def test_accuracy_is_measured_where_both_sides_have_labels() -> None:
    """With labels on both sides their shares are compared, whatever the estimates say."""
    before = counts(labelled=1000, correct=800, estimated=IntervalEstimate(0.99, 0.98, 1.0))
    after = counts(labelled=500, correct=450, estimated=IntervalEstimate(0.5, 0.4, 0.6))
    measure = quality_of(before, after)
    assert measure
    assert (measure.name, measure.basis, measure.verdict, measure.observations) == (
        "accuracy", "measured", "better", (1000, 500),
    )  # fmt: skip
    assert measure.difference
    assert measure.difference.value == pytest.approx(0.1)
    assert said(before, after).startswith(
        "Version 2 is right more often by its labels: 90.0% of predictions against 80"
    )


def test_accuracy_is_estimated_where_one_side_has_too_few_labels() -> None:
    """Estimates are compared by their bands; overlapping ones prove nothing."""
    before = counts(labelled=1000, correct=900, estimated=IntervalEstimate(0.9, 0.88, 0.92))
    after = counts(labelled=MIN_LABELS - 1, correct=0, estimated=IntervalEstimate(0.8, 0.78, 0.82))
    measure = quality_of(before, after)
    assert measure
    assert (measure.basis, measure.verdict, measure.observations) == ("estimated", "worse", (1000, 1000))
    assert said(before, after).startswith("Version 2 is right less often as estimated: 80.0% of predictions against 90")
    near = counts(estimated=IntervalEstimate(0.89, 0.86, 0.92))
    assert said(before, near).startswith("Estimated accuracy: no significant difference, 89.0%")


def test_errors_of_numbers_are_compared_by_their_mean() -> None:
    """A regression has a mean absolute error, of which less is better."""
    before = counts(labelled=400, absolute_error=800.0, squared_error=2000.0, regression=True)
    after = counts(labelled=400, absolute_error=400.0, squared_error=500.0, regression=True)
    measure = quality_of(before, after)
    assert measure
    assert (measure.name, measure.verdict) == ("mean_absolute_error", "better")
    assert said(before, after).startswith(
        "Version 2 has smaller errors by its labels: 1 against 2; the difference of -1 ("
    )


@pytest.mark.parametrize(
    ("after", "verdict"), [(counts(), None), (counts(estimated=IntervalEstimate(0.9, 0.8, 1.0)), "unknown")]
)
def test_what_is_not_known_is_not_compared(after: Counts, verdict: str | None) -> None:
    """Without labels and estimates nothing is said; with those of one side, that the other has none."""
    measure = quality_of(counts(), after)
    assert (measure and measure.verdict) == verdict
    if verdict:
        assert said(counts(), after) == (
            "Estimated accuracy: not compared, one side has neither enough labels nor an estimate."
        )


def test_stretches_of_time_are_added() -> None:
    """Counts of labels are summed, and estimates averaged by the number of predictions."""
    parts: Sequence[Counts] = (
        counts(300, labelled=10, correct=5, estimated=IntervalEstimate(0.9, 0.8, 1.0)),
        counts(100, labelled=20, correct=9, estimated=IntervalEstimate(0.5, 0.4, 0.6)),
        counts(0),
    )
    quality = add(parts).quality
    assert quality[:2] == (30, 14)
    assert quality.estimated == pytest.approx((0.8, 0.7, 0.9))
