"""Comparisons of how right two versions are: measured with labels, estimated without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.servers import write_config

from exporter.comparison.counts import Counts, Period, Quality, add
from exporter.comparison.measures import MIN_LABELS, Comparison, Measure, Side, compare
from exporter.comparison.report import document, sentence, summary
from exporter.monitoring.shared_time import STEP_SECONDS
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.stats.accuracy import IntervalEstimate
from exporter.wire.events import LabelEvent, Prediction

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
        "Version 2 is right more often by its labels: 90.0 % of predictions against 80"
    )


def test_accuracy_is_estimated_where_one_side_has_too_few_labels() -> None:
    """Estimates are compared by their bands; overlapping ones prove nothing."""
    before = counts(labelled=1000, correct=900, estimated=IntervalEstimate(0.9, 0.88, 0.92))
    after = counts(labelled=MIN_LABELS - 1, correct=0, estimated=IntervalEstimate(0.8, 0.78, 0.82))
    measure = quality_of(before, after)
    assert measure
    assert (measure.basis, measure.verdict, measure.observations) == ("estimated", "worse", (1000, 1000))
    assert said(before, after).startswith(
        "Version 2 is right less often as estimated: 80.0 % of predictions against 90"
    )
    near = counts(estimated=IntervalEstimate(0.89, 0.86, 0.92))
    assert said(before, near).startswith("Estimated accuracy: no significant difference, 89.0 %")


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


def measured(folder: Path, task: str, prediction: Any, label: Any) -> dict[str, Any]:
    """Compare two versions by labels: 36 and 20 of 40 predictions are right, and the others have this label."""
    write_config(folder, {"models": [{"name": "m", "task": task}]})
    exporter = Exporter(folder / "exporter.yml")
    try:
        monitors, clock, begin = exporter.pipeline.monitors, time.monotonic() + 1e6, time.time() - 600
        exporter.shared.add_step(monitors, clock, begin)
        for step in range(4):
            now = begin + (step + 0.5) * STEP_SECONDS
            for version in ("1", "2"):
                names = [f"{version}-{step}-{n}" for n in range(10)]
                at = datetime.fromtimestamp(now, UTC)
                events = [Prediction("m", id=n, version=version, time=at, prediction=prediction) for n in names]
                exporter.pipeline.submit(events, 1)
            assert exporter.pipeline.settle(10)
            exporter.shared.add_step(monitors, clock + (step + 1) * STEP_SECONDS, begin + (step + 1) * STEP_SECONDS)
        assert exporter.store.flush(10)
        labels = [
            LabelEvent(f"{version}-{step}-{n}", prediction if n < right else label)
            for version, right in (("1", 9), ("2", 5))
            for step in range(4)
            for n in range(10)
        ]
        assert exporter.store.record_labels(labels).joined == 80
        answer = create_app(exporter).test_client().get("/v1/compare?model=m&before=1&after=2")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json["measures"][-1]
        return found
    finally:
        exporter.close()


def test_labels_count_for_the_version_that_predicted(tmp_path: Path) -> None:
    """Labels that come after both versions stopped count by the time of their predictions, which the store knows."""
    accuracy = measured(tmp_path, "classification", "a", "b")
    assert (accuracy["name"], accuracy["basis"], accuracy["verdict"]) == ("accuracy", "measured", "worse")
    sides = [(accuracy[side]["value"], accuracy[side]["n"]) for side in ("before", "after")]
    assert sides == [(0.9, 30), (0.5, 30)]  # the shared time begins at the end of the first step


def test_the_task_of_a_model_says_what_its_labels_measure(tmp_path: Path) -> None:
    """The errors of a regression may all be 0 or 1, as the losses of classes are."""
    error = measured(tmp_path, "regression", 2, 3)
    assert (error["name"], error["basis"], error["verdict"]) == ("mean_absolute_error", "measured", "worse")
    assert [error[side]["value"] for side in ("before", "after")] == pytest.approx([0.1, 0.5])
