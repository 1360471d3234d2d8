"""p-values of scores, and the false discovery rate over many features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, false_discovery_control

from exporter.stats.multiple_tests import adjusted_p_values, tail_probability, tail_ratio, tail_shape


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 23, 60, 500])
def test_the_probability_agrees_with_scipy_and_is_never_too_small(degrees: int) -> None:
    """At the noise floor within 3%; far beyond it, where the budget's p-values are, it errs on the safe side."""
    shape = np.sqrt(2 / (9 * np.array([float(degrees)])))
    ratios = {}
    for p in (1e-2, 1e-4, 1e-6, 1e-8):
        score = np.array([chi2.isf(p, degrees) / degrees])
        ratios[p] = float(tail_probability(score, shape)[0]) / p
    assert ratios[1e-2] == pytest.approx(1, abs=0.03)
    assert min(ratios.values()) > 0.97
    assert ratios[1e-6] < (5 if degrees < 3 else 2.5)
    if degrees >= 20:
        assert ratios[1e-6] < 1.3
        assert ratios[1e-8] < 1.6


def test_the_shape_follows_from_quantile_and_mean() -> None:
    """Also where the tail is longer than that of any χ² distribution by the approximation: then it is the longest."""
    degrees = np.array([1.0, 5.0, 23.0, 200.0])
    shape = np.sqrt(2 / (9 * degrees))
    assert tail_shape(tail_ratio(shape)) == pytest.approx(shape)
    assert np.isfinite(tail_shape(np.array([1.0, 13.0, 50.0, 1e300]))).all()
    assert tail_shape(np.array([50.0])) == tail_shape(np.array([1e300]))


def test_adjusted_p_values_agree_with_scipy() -> None:
    """In each row; features that are not tested count nowhere."""
    rng = np.random.default_rng(0)
    p = rng.random((5, 40)) ** 4
    expected = false_discovery_control(p, axis=1, method="by")
    assert adjusted_p_values(p) == pytest.approx(expected)
    with_gaps = np.insert(p, [0, 7, 40], np.nan, axis=1)
    adjusted = adjusted_p_values(with_gaps)
    assert np.isnan(adjusted[:, [0, 8, 42]]).all()
    assert adjusted[~np.isnan(with_gaps)] == pytest.approx(expected.ravel())


def test_without_tests_nothing_is_adjusted() -> None:
    """No features, or none with a p-value."""
    assert adjusted_p_values(np.empty(0)).shape == (0,)
    assert np.isnan(adjusted_p_values(np.full(3, np.nan))).all()
    assert adjusted_p_values(np.array([0.2])).tolist() == [0.2]


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_rate_of_false_discoveries_holds(correlation: float) -> None:
    """With 10 of 50 features changed and any correlation, at most 5% of the discoveries are false."""
    rng = np.random.default_rng(1)
    common = rng.standard_normal((4000, 1)) * np.sqrt(correlation)
    normal = common + np.sqrt(1 - correlation) * rng.standard_normal((4000, 50))
    normal[:, :10] += 4
    found = adjusted_p_values(chi2.sf(normal**2, 1)) <= 0.05
    false = found[:, 10:].sum(axis=1) / np.maximum(found.sum(axis=1), 1)
    assert false.mean() <= 0.05
    assert found[:, :10].mean() > 0.5
