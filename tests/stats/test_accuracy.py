"""The accuracy of confident predictions, estimated from feedback and reviewed samples."""

from __future__ import annotations

import random

import numpy as np
import pytest

from exporter.stats.accuracy import calibration_error_by_chance, estimate_accuracy, wilson


def test_the_interval_covers_the_truth() -> None:
    """Of 2,000 samples of 50 from a model with 95 % accuracy, the nominal share of intervals covers it."""
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


def test_one_stratum_has_wilsons_interval() -> None:
    """Without strata, and with equal strata that all have the same share of right samples."""
    for right in (0, 20, 50):
        assert estimate_accuracy(1000, 0, 0, 50, right) == pytest.approx(wilson(right, 50))
    assert estimate_accuracy([500, 500], 0, 0, [50, 50], [40, 40]) == pytest.approx(wilson(80, 100))


@pytest.mark.parametrize("mistakes", [(0.2, 0.02, 0.001), (0.05, 0.05, 0.05), (0.0, 0.0, 0.05), (0.9, 0.5, 0.3)])
def test_the_interval_of_strata_covers_the_truth(mistakes: tuple[float, ...]) -> None:
    """Whichever stratum the mistakes are in: those with few labels, with many, or all."""
    rng = np.random.default_rng(12)
    sizes, decided = np.array([1000, 3000, 6000]), np.array([60, 70, 70])
    truth = 1 - float(sizes @ mistakes) / sizes.sum()
    hits = 0
    for _ in range(1000):
        right = decided - rng.binomial(decided, mistakes)
        estimate = estimate_accuracy(sizes, 0, 0, decided, right)
        hits += estimate.lower <= truth <= estimate.upper
    assert 0.92 < hits / 1000 < 1


def test_a_stratum_that_nobody_reviewed_widens_the_interval() -> None:
    """In proportion to its size; where it is all that is left, nothing is known."""
    widths = []
    for size in (0, 10, 100, 400):
        estimate = estimate_accuracy([1000 - size, size], 0, 0, [100, 0], [90, 0])
        assert estimate.value == pytest.approx(0.9)
        widths.append(estimate.upper - estimate.lower)
    assert widths == sorted(widths)
    assert widths[1] < 1.02 * widths[0] < 0.3 * widths[3]
    unknown = estimate_accuracy([10, 1000], [10, 0], [9, 0], [5, 0], [5, 0])
    assert unknown.lower < 0.25 < 0.99 < unknown.upper


def test_estimated_sizes_widen_the_interval() -> None:
    """By what the share of each stratum is uncertain, which matters where the strata's accuracies differ."""
    counts = ([50_000, 50_000], 0, 0, [500, 500], [500, 250])
    exact, rough = estimate_accuracy(*counts), estimate_accuracy(*counts, seen=200)
    assert exact == pytest.approx(estimate_accuracy(*counts, seen=100_000))
    assert rough.value == exact.value
    assert rough.upper - rough.lower > 1.5 * (exact.upper - exact.lower)
    same = ([50_000, 50_000], 0, 0, [500, 500], [400, 400])
    assert estimate_accuracy(*same, seen=200) == pytest.approx(estimate_accuracy(*same))


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
