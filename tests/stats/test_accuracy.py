"""The accuracy of confident predictions, estimated from feedback and reviewed samples."""

from __future__ import annotations

import random

import numpy as np
import pytest

from exporter.stats.quality import calibration_error_by_chance, estimate_accuracy, wilson


def test_the_interval_covers_the_truth() -> None:
    """Of 2,000 samples of 50 from a model with 95% accuracy, the nominal share of intervals covers it."""
    rng = random.Random(11)
    population, corrected = 10_000, 100  # the users found 100 of the mistakes
    wrong = 400
    truth = 1 - (corrected + wrong) / population
    hits = 0
    for _ in range(2000):
        right = sum(rng.random() >= wrong / (population - corrected) for _ in range(50))
        estimate = estimate_accuracy(population, corrected, 0, 50, right)
        hits += estimate.lower <= truth <= estimate.upper
    assert 0.92 < hits / 2000 < 0.99


def test_the_interval_at_its_ends() -> None:
    """With all right or all wrong, all known or none known, the interval stays within 0 to 1."""
    assert wilson(10, 10).upper == pytest.approx(1.0)
    assert wilson(0, 10).lower == pytest.approx(0.0)
    assert estimate_accuracy(5, 10, 7, 3, 3) == pytest.approx((0.7, 0.7, 0.7))
    assert estimate_accuracy(0, 0, 0, 4, 2)[0] == 0.5


def test_without_feedback_it_is_wilsons_interval() -> None:
    """Nothing is known but the sample."""
    for right in (0, 20, 50):
        assert estimate_accuracy(1000, 0, 0, 50, right) == pytest.approx(wilson(right, 50))


def test_an_interval_ends_exactly_at_nothing_and_everything() -> None:
    """Rounding leaves no 4e-17 as the lower end."""
    assert [wilson(0, n).lower for n in range(1, 600)] == [0.0] * 599
    assert [wilson(n, n).upper for n in range(1, 600)] == [1.0] * 599


@pytest.mark.parametrize("labels", [5, 40, 1000])
def test_the_calibration_error_of_a_calibrated_model(labels: int) -> None:
    """The mean of many simulated windows is what chance is said to make of it."""
    rng = np.random.default_rng(3)
    errors, expected = [], []
    for _ in range(2000):
        confidences = rng.uniform(0.5, 1.0, labels)
        right = rng.random(labels) < confidences
        bins = np.minimum((confidences * 10).astype(int), 9)
        rows, sums, hits = (np.bincount(bins, weights, 10) for weights in (np.ones(labels), confidences, right))
        errors.append(np.abs(hits - sums).sum() / labels)
        expected.append(calibration_error_by_chance(rows.tolist(), sums.tolist()))
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.02)


def test_chance_does_nothing_to_certain_predictions() -> None:
    """A confidence of 0 or 1 that is exact is never wrong."""
    assert calibration_error_by_chance([4, 0, 7], [0.0, 0.0, 7.0]) == 0
