"""The accuracy of confident predictions, estimated from feedback and reviewed samples."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from exporter.stats.quality import (
    LabelledBins,
    calibrated,
    calibration_error_by_chance,
    estimate_accuracy,
    isotonic,
    shrunken_means,
    wilson,
)

RNG = np.random.default_rng(3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=30))
def test_isotonic_regression_equals_that_of_scikit_learn(pairs):
    """Pooling adjacent violators gives the weighted least squares solution, whatever the values."""
    values, weights = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values, sample_weight=weights)
    np.testing.assert_allclose(isotonic(values, weights), expected, atol=1e-9)


def test_bins_without_rows_have_the_accuracy_of_a_neighbour():
    """Outside the labelled range the outermost accuracy holds; without any rows nothing is known."""
    table = calibrated(np.array([0.0, 10, 0, 10, 0]), np.array([0.0, 9, 0, 5, 0]))
    assert table.tolist() == [0.7] * 5  # the confidence is reversed, so it says nothing
    assert np.isnan(calibrated(np.zeros(3), np.zeros(3))).all()


def test_differences_by_chance_are_shrunk_away():
    """Means of bins without a difference become 0; true differences between large bins remain."""
    rows = np.full(20, 400.0)
    noise = RNG.normal(size=20) * np.sqrt(rows) * 0.9
    noise -= noise.mean()
    assert abs(shrunken_means(noise, rows, 1.0)).max() < 0.05
    true = np.linspace(-1, 1, 20)
    np.testing.assert_allclose(shrunken_means(true * rows, rows, 1.0), true, atol=0.02)


def labelled(columns: list[np.ndarray], bins: int) -> LabelledBins:
    return LabelledBins(np.array(columns, dtype=np.int16), [bins] * len(columns))


def test_the_targets_that_explain_a_value_are_found_in_order_of_their_weight():
    """Targets without a relation are never chosen, and a copy of a chosen one adds nothing."""
    a, b, none = RNG.integers(0, 8, (3, 4000))
    values = 3.0 * a + 1.0 * b + RNG.normal(size=4000)
    rows = labelled([none, b, a, a], 8)
    assert rows.explaining(values, 4) == [2, 1]
    assert rows.explaining(values, 1) == [2]
    assert rows.explaining(RNG.normal(size=4000), 4) == []
    assert rows.explaining(np.ones(4000), 4) == []


def test_effects_of_dependent_targets_are_told_apart():
    """Backfitting gives each target its own effect, although the targets depend on each other."""
    a = RNG.integers(0, 4, 20_000)
    b = np.where(RNG.random(20_000) < 0.6, a, RNG.integers(0, 4, 20_000))
    effects = labelled([a, b], 4).fit(1.0 * a - 0.5 * b + RNG.normal(size=20_000) * 0.1, [0, 1])
    np.testing.assert_allclose(np.diff(effects[0].values), 1.0, atol=0.03)
    np.testing.assert_allclose(np.diff(effects[1].values), -0.5, atol=0.03)
    for effect in effects:
        assert effect.values @ effect.rows == pytest.approx(0, abs=1e-6)


def test_only_targets_beyond_chance_are_associated_with_residuals():
    """Of 200 targets without a relation almost none is taken for one."""
    columns = [*RNG.integers(0, 20, (200, 2000))]
    residuals = RNG.normal(size=2000) + 0.5 * (columns[7] < 5)
    found = labelled(columns, 20).associated(residuals, 20)
    assert 7 in found
    assert len(found) <= 4
    assert next(iter(found)) == 7
    assert labelled(columns, 20).associated(np.zeros(2000), 20) == {}


def test_what_explains_only_one_part_of_the_time_is_not_chosen():
    """A target that merely tells the last fifth of the rows from the others says nothing of rows to come."""
    period = np.minimum(np.arange(5000) // 500, 8)
    values = 2.0 * (period == 8) + RNG.normal(size=5000)
    assert labelled([period], 10).explaining(values, 4) == []
    assert labelled([RNG.permutation(period)], 10).explaining(values, 4) == []
    shuffled = RNG.permutation(5000)
    assert labelled([period[shuffled]], 10).explaining(values[shuffled], 4) == [0]


def variance_between(residuals: np.ndarray, timed: int) -> float:
    """The variance between the periods of the first ``timed`` rows."""
    return LabelledBins(np.empty((0, len(residuals)), dtype=np.int16), [], timed).variance_between(residuals)


def test_periods_that_drift_apart_have_a_larger_variance_than_independent_ones():
    """A later period differs more where the difference grows with the distance in time."""
    drifting = np.repeat(np.linspace(-1, 1, 20), 200)
    independent = np.repeat(RNG.permutation(np.linspace(-1, 1, 20)), 200)
    noise = RNG.normal(size=4000) * 0.1
    assert variance_between(independent + noise, 4000) < 0.6
    assert variance_between(drifting + noise, 4000) > 1.5


def test_few_or_untimed_rows_have_no_periods():
    """Without the times of at least 150 rows, nothing is said of the difference between periods."""
    residuals = np.repeat([0.0, 1.0], 70)
    assert variance_between(residuals, 140) == 0
    assert variance_between(np.repeat([0.0, 1.0], 700), 0) == 0
    assert variance_between(np.repeat([0.0, 1.0], 700), 1400) == pytest.approx(5 / 19 + 18 / 19)


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
