"""The noise of values that depend on the values before them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from exporter.profiles.bins import numeric_feature
from exporter.stats.dependence import (
    SIZES,
    NoiseRatio,
    block_sizes,
    leave_out_divergence,
    measure_dependence,
    measure_noise,
)
from exporter.stats.divergence import Floats, Reference, chi2_quantiles

ROWS = 10_000


def blocks_of(bins: np.ndarray[tuple[int], np.dtype[np.intp]], size: int, most: int) -> Floats:
    whole = bins[: len(bins) // size * size].reshape(-1, size)
    return np.stack([np.bincount(block, minlength=most) for block in whole]).astype(np.float64)


def noise_of(values: Floats) -> tuple[Reference, NoiseRatio, list[int], list[float], bool]:
    feature = numeric_feature(values.copy(), 20)
    total = np.array(feature.counts, dtype=np.float64)
    bins = np.array(feature.edges).searchsorted(values, side="right")
    sizes = block_sizes(len(values))
    blocks = [blocks_of(bins, size, len(total)) for size in sizes]
    scores = [leave_out_divergence(part, total - part) for part in blocks]
    noise = measure_noise(scores, sizes, total)
    reference = Reference.from_counts(total, [len(total)], chi2_quantiles(len(total) - 1))
    ratio = NoiseRatio.from_quantiles(np.array(sizes, dtype=float), noise.quantiles[None], reference)
    return reference, ratio, sizes, noise.effective.tolist(), noise.dependent


def autoregressive(phi: float, seed: int) -> Floats:
    values = np.random.default_rng(seed).normal(size=ROWS + 1000)
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], values)[1000:])


def test_independent_values_keep_their_floor() -> None:
    """At most one of a hundred features is called dependent, and the quantiles agree with the floor of χ²."""
    found = 0
    for seed in range(100):
        _, ratio, _, effective, dependent = noise_of(np.random.default_rng(seed).normal(size=ROWS))
        found += dependent
        assert ratio.ratio.max() < 1.6
        assert effective[0] > 18
    assert found <= 3


@pytest.mark.parametrize("phi", [0.5, 0.9, 0.97])
def test_dependent_values_exceed_their_floor_once_in_a_hundred_windows(phi: float) -> None:
    """Windows of new values from the same stream exceed the floor of blocks as rarely as a floor of 1% promises."""
    exceeded = []
    for seed in range(8):
        training = autoregressive(phi, seed)
        reference, ratio, _, _, dependent = noise_of(training)
        assert dependent
        edges = np.array(numeric_feature(training.copy(), 20).edges)
        for size in (50, 100, 200):
            live = blocks_of(
                edges.searchsorted(autoregressive(phi, 1000 + seed), side="right"), size, reference.owner.size
            )
            observed = np.array([float(size)])
            floor = reference.noise(observed) * ratio.at(observed)
            exceeded.append(np.mean(reference.kl_divergence(live)[:, 0] > floor[0]))
    assert np.mean(exceeded) < 0.02


def test_effective_number_of_values() -> None:
    """A value that comes five times in a row counts once."""
    values = np.repeat(np.random.default_rng(1).normal(size=ROWS // 5), 5)
    _, _, sizes, effective, dependent = noise_of(values)
    assert dependent
    assert effective[sizes.index(320)] == pytest.approx(320 / 5, rel=0.2)


def test_ratio_between_the_sizes() -> None:
    """The ratio is interpolated between sizes and constant beyond them, for each feature by itself."""
    ratio = NoiseRatio(np.array([20.0, 80.0, 320.0]), np.array([[1.0, 4.0, 4.0], [1.0, 1.0, 16.0]]))
    assert ratio.at(np.array([40.0, 160.0])).tolist() == pytest.approx([2.0, 4.0])
    assert ratio.at(np.array([[0.0, 1e9]]))[0].tolist() == pytest.approx([1.0, 16.0])
    assert NoiseRatio(np.array([20.0]), np.array([[3.0]])).at(np.array([[1.0], [20.0], [99.0]])) == pytest.approx(
        np.full((3, 1), 3.0)
    )
    assert NoiseRatio.of_independent_values(2).at(np.array([5.0, 7.0])).tolist() == [1.0, 1.0]


def test_constant_values_have_no_noise() -> None:
    """A feature with one value, or training sets too small for blocks, prove no dependence."""
    assert not measure_noise([np.zeros(5)], [20], np.array([0.0, 100.0, 0.0])).dependent
    assert not measure_noise([], [], np.array([50.0, 50.0])).dependent


@pytest.mark.parametrize("bins", [200, 1000])
@pytest.mark.parametrize("power", [0, 1])
def test_independent_values_of_many_bins_are_not_dependent(bins: int, power: int) -> None:
    """With as many bins as values in a large block, all equally frequent or most of them rare."""
    share = np.arange(1.0, bins + 1) ** -power
    found = 0
    for seed in range(5):
        values = np.random.default_rng(seed).choice(bins, ROWS, p=share / share.sum())
        total = np.bincount(values, minlength=bins).astype(np.float64)
        sizes = block_sizes(ROWS)
        blocks = [blocks_of(values, size, bins) for size in sizes]
        found += measure_noise([leave_out_divergence(part, total - part) for part in blocks], sizes, total).dependent
        each = np.sort(values)  # rows in the order of their bins
        blocks = [blocks_of(each, size, bins) for size in sizes]
        assert measure_noise([leave_out_divergence(part, total - part) for part in blocks], sizes, total).dependent
    assert found == 0


EDGES = norm.ppf(np.arange(1, 20) / 20)
PROBABILITY = np.array([0.05] * 20 + [1e-4] * 2)  # the last two bins are empty: missing and invalid values


def counts_of(values: Floats) -> Floats:
    """The counts of 120 sub-windows."""
    bins = EDGES.searchsorted(values).reshape(120, -1)
    return np.stack([np.bincount(part, minlength=len(PROBABILITY)) for part in bins]).astype(np.float64)


def live_series(phi: float, rng: np.random.Generator, size: int) -> Floats:
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
        values = live_series(0.9, rng, 2400)
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
    found = [measure_dependence(counts_of(live_series(phi, rng, 12_000)), PROBABILITY) for _ in range(20)]
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
