"""Dependence of live values, measured by the counts of successive sub-windows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from exporter.stats.dependence import SIZES, measure_dependence
from exporter.stats.divergence import Floats

EDGES = norm.ppf(np.arange(1, 20) / 20)
PROBABILITY = np.array([0.05] * 20 + [1e-4] * 2)  # the last two bins are empty: missing and invalid values


def counts_of(values: Floats) -> Floats:
    """The counts of 120 sub-windows."""
    bins = EDGES.searchsorted(values).reshape(120, -1)
    return np.stack([np.bincount(part, minlength=len(PROBABILITY)) for part in bins]).astype(np.float64)


def autoregressive(phi: float, rng: np.random.Generator, size: int) -> Floats:
    noise = rng.normal(size=size + 500)
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)[500:])


@pytest.mark.parametrize("rate", [1, 4, 20])
def test_independent_values_are_not_called_dependent(rate: int) -> None:
    """Also if they change once: at most one time in fifty. A ramp of three standard deviations looks a little so."""
    rng = np.random.default_rng(rate)
    found = 0
    for _ in range(50):
        values = rng.normal(size=120 * rate)
        for changed in (values, values + 2 * (np.arange(len(values)) > len(values) / 3)):
            dependence = measure_dependence(counts_of(changed), PROBABILITY)
            assert dependence is not None
            found += dependence.dependent
        ramp = measure_dependence(counts_of(values + np.linspace(0, 3, len(values))), PROBABILITY)
        assert ramp is not None
        assert ramp.ratio.max() < 6
    assert found <= 2


@pytest.mark.parametrize("bins", [2, 3, 20])
@pytest.mark.parametrize("length", [5, 10, 20, 60])
def test_a_fault_is_not_called_dependence(bins: int, length: int) -> None:
    """Whatever its length, and however few bins there are; at most one time in fifty."""
    rng = np.random.default_rng(5)
    probability, faulty = np.full(bins, 1 / bins), np.arange(1, bins + 1) / (bins * (bins + 1) / 2)
    found = 0
    for _ in range(50):
        counts = rng.multinomial(100, probability, 120)
        begin = int(rng.integers(0, 120 - length))
        counts[begin : begin + length] = rng.multinomial(100, faulty, length)
        dependence = measure_dependence(counts.astype(np.float64), probability)
        found += dependence is not None and dependence.dependent
    assert found <= 1


def test_a_fault_does_not_hide_dependence() -> None:
    """The median ratio of dependent values is within a half of that without the fault, for a shift of any size."""
    rng = np.random.default_rng(6)
    ratios = []
    for _ in range(20):
        values = autoregressive(0.9, rng, 2400)
        fault = (np.arange(2400) >= 1000) & (np.arange(2400) < 1400)
        found = [measure_dependence(counts_of(values + shift * fault), PROBABILITY) for shift in (0, 1, 2, 4)]
        ratios.append([dependence.ratio[2] if dependence else np.nan for dependence in found])
    without, *faulty = np.median(ratios, axis=0)
    assert without > 2
    assert all(0.8 < ratio / without < 1.5 for ratio in faulty)


def test_rare_values_are_not_called_dependent() -> None:
    """A category that comes once in three hundred times makes large differences by chance."""
    rng = np.random.default_rng(3)
    probability = np.array([0.6, 0.39, *([0.0033] * 3), 1e-4])
    found = 0
    for _ in range(50):
        bins = rng.choice(6, p=probability / probability.sum(), size=(120, 5))
        counts = np.stack([np.bincount(part, minlength=6) for part in bins]).astype(np.float64)
        dependence = measure_dependence(counts, probability)
        found += dependence is not None and dependence.dependent
    assert found <= 2


@pytest.mark.parametrize(("phi", "lowest", "highest"), [(0.5, 1.0, 2.5), (0.9, 2.0, 7.0), (0.97, 4.0, 20.0)])
def test_the_ratio_grows_with_the_correlation(phi: float, lowest: float, highest: float) -> None:
    rng = np.random.default_rng(1)
    found = [measure_dependence(counts_of(autoregressive(phi, rng, 12_000)), PROBABILITY) for _ in range(20)]
    ratio = np.median([dependence.ratio for dependence in found if dependence], axis=0)
    assert lowest <= ratio[0] <= highest
    assert (np.diff(ratio) <= 1e-9).all()


def test_repeated_values_tell_as_much_as_one() -> None:
    """Where each value comes fifty times, a thousand of them tell as much as about twenty."""
    rng = np.random.default_rng(2)
    dependence = measure_dependence(counts_of(rng.normal(size=240).repeat(50)), PROBABILITY)
    assert dependence is not None
    assert 25 < dependence.inflation[SIZES.searchsorted(1280)] < 100
    assert (dependence.inflation <= SIZES).all()


@pytest.mark.parametrize("other", range(20))
def test_few_values_of_which_one_differs_prove_nothing(other: int) -> None:
    """Of 20 sub-windows with a value each, one has the value that is the more frequent one in training."""
    counts = np.zeros((20, 5))
    counts[:, 0] = 1
    counts[other] = (0, 1, 0, 0, 0)
    dependence = measure_dependence(counts, np.array([0.44, 0.55, 0.004, 0.003, 0.003]))
    assert dependence is None or not dependence.dependent


def test_a_past_that_tells_nothing() -> None:
    """Nothing is known from few sub-windows, from none, or of a constant; empty ones do not count."""
    counts = counts_of(np.random.default_rng(4).normal(size=1200))
    assert measure_dependence(counts[:19], PROBABILITY) is None
    assert measure_dependence(counts[:0], PROBABILITY) is None
    assert measure_dependence(np.where(np.arange(120)[:, None] < 19, counts, 0.0), PROBABILITY) is None
    constant = np.zeros_like(counts)
    constant[:, 3] = 10
    assert measure_dependence(constant, PROBABILITY) is None
