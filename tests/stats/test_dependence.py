"""The noise of values that depend on the values before them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from exporter.profiles.bins import numeric_feature
from exporter.stats.dependence import NoiseRatio, block_sizes, leave_out_divergence, measure_noise
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
