"""Intervals that hold at every look: their guarantee by exact enumeration and simulation, and their power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import xlogy
from scipy.stats import binom, dirichlet_multinomial, entropy, multinomial, norm

from exporter.stats.intervals import Difference, excludes_zero
from exporter.stats.sequential import (
    COMMON,
    RARE,
    Part,
    Sums,
    bucket_quantile,
    far_difference,
    mean,
    mean_difference,
    share,
    share_difference,
    worst_divergence,
)

LOOKS = np.unique(np.geomspace(4, 4000, 60).astype(int))


def counted(rng: np.random.Generator, before: float, after: float, split: np.ndarray) -> list[tuple[Part, Part]]:
    """Counts of two versions at each look; ``split`` is the share of requests to the version after between looks."""
    added = np.diff(LOOKS, prepend=0)
    new = rng.binomial(added, split)
    old = added - new
    parts = [np.cumsum(x).tolist() for x in (rng.binomial(old, before), old, rng.binomial(new, after), new)]
    return [(Part(a, b), Part(c, d)) for a, b, c, d in zip(*parts, strict=True) if b and d]


def test_the_capital_of_a_true_claim_is_not_expected_to_grow() -> None:
    """For any two counts of requests and any shares, the mean of 1/p is at most 2: p-values hold for the fewest data.

    The sum is over all outcomes, weighted exactly.
    """
    for n, m in ((1, 1), (3, 20), (30, 30), (40, 2)):
        for truth in (0.001, 0.02, 0.3, 0.8, 0.99):
            for spread in (RARE, COMMON):
                capital = sum(
                    binom.pmf(a, n, truth)
                    * binom.pmf(b, m, truth)
                    / share_difference(Part(a, n), Part(b, m), spread).p_value
                    for a in range(n + 1)
                    for b in range(m + 1)
                )
                assert capital <= 2 + 1e-9


@pytest.mark.parametrize("truth", [0.002, 0.05, 0.7])
@pytest.mark.parametrize("splits", [(0.5,), (0.05, 0.2, 0.5)], ids=["constant", "ramp"])
def test_equal_versions_are_rarely_called_different_at_any_look(truth: float, splits: tuple[float, ...]) -> None:
    """Of 120 pairs of equal versions, at most 5% are ever called different, whatever the share of the new version."""
    rng = np.random.default_rng(7)
    split = np.array(splits)[np.minimum(np.arange(len(LOOKS)) * len(splits) // len(LOOKS), len(splits) - 1)]
    wrong = sum(
        any(
            share_difference(*parts, COMMON if truth > 0.5 else RARE).p_value <= 0.05
            for parts in counted(rng, truth, truth, split)
        )
        for _ in range(120)
    )
    assert wrong <= 6


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.03), (0.05, 0.02), (0.8, 0.7)])
def test_the_true_difference_is_inside_at_every_look(before: float, after: float) -> None:
    """The interval of a difference, and of either share, holds the truth at all looks in 95% of runs."""
    rng = np.random.default_rng(8)
    outside = 0
    for _ in range(40):
        for old, new in counted(rng, before, after, np.full(len(LOOKS), 0.3))[::4]:
            change = share_difference(old, new, COMMON if before > 0.5 else RARE).interval
            one = share(*new).interval()
            if not (change.low <= after - before <= change.high and one.low <= after <= one.high):
                outside += 1
                break
    assert outside <= 4


@given(
    st.integers(0, 300), st.integers(1, 300), st.integers(0, 300), st.integers(1, 300), st.sampled_from([RARE, COMMON])
)
def test_the_p_value_agrees_with_the_interval(a: int, n: int, b: int, m: int, spread: np.ndarray) -> None:
    """The interval excludes zero exactly where the p-value is below 5%, holds the estimate, and turns around."""
    before, after = Part(min(a, n), n), Part(min(b, m), m)
    result, back = share_difference(before, after, spread), share_difference(after, before, spread)
    assert result.interval.low <= result.value <= result.interval.high
    assert result.interval.low >= -1
    assert result.interval.high <= 1
    assert (result.p_value < 0.05) == excludes_zero(result.interval)
    wider = result.within(0.01)
    assert wider.low <= result.interval.low
    assert wider.high >= result.interval.high
    assert back.interval == pytest.approx((-result.interval.high, -result.interval.low), abs=1e-9)


def test_a_quantile_lies_between_bounds_that_are_proven() -> None:
    """The interval of a quantile is at least a bucket, holds it, and is open above without enough values."""
    few = bucket_quantile([0.1, 0.5, math.inf], [9, 10, 10], 0.95, 0.3).interval()
    assert few == (0.0, math.inf)
    many = bucket_quantile([0.1, 0.5, 1.0, math.inf], [90_000, 98_000, 99_000, 100_000], 0.95, 0.3)
    assert many.interval() == (0.1, 0.5)
    slower = bucket_quantile([0.1, 0.5, 1.0, math.inf], [80_000, 90_000, 99_000, 100_000], 0.95, 0.8)
    assert far_difference(many, slower).interval == (0.0, 0.9)


@pytest.mark.parametrize("kind", ["mean", "drift"])
def test_estimated_variances_hold_from_a_hundred_observations_on(kind: str) -> None:
    """The asymptotic intervals of equal versions hold at every look from 100 observations on in 95% of runs."""
    rng = np.random.default_rng(9)
    training = np.full(12, 1 / 12)
    live = training * np.exp(0.3 * np.linspace(-1, 1, 12))
    live /= live.sum()
    looks = np.unique(np.geomspace(100, 5000, 40).astype(int))
    wrong = 0
    for _ in range(200):
        if kind == "mean":
            values = rng.exponential(1.0, (2, looks[-1]))
            sums = np.cumsum(values, axis=1), np.cumsum(values**2, axis=1)
            changes = (
                mean_difference(*(Sums(sums[0][side, n - 1], sums[1][side, n - 1], n) for side in (0, 1)))
                for n in looks
            )
        else:
            drawn = rng.choice(12, (2, looks[-1]), p=live)
            changes = (
                far_difference(
                    *(
                        worst_divergence([np.bincount(drawn[side, :n], minlength=12).astype(float)], [training], 0.03)
                        for side in (0, 1)
                    )
                )
                for n in looks
            )
        wrong += any(excludes_zero(change.interval) for change in changes)
    assert wrong <= 10


def test_a_real_difference_of_means_and_of_drift_is_found() -> None:
    """Differences that are large beside their errors are proven, in the right direction; a constant has no width."""
    change = mean_difference(Sums(1000.0, 2000.0, 1000.0), Sums(1500.0, 3500.0, 1000.0))
    assert change.interval.low > 0
    assert mean(Sums(200.0, 400.0, 100.0)).interval() == (2.0, 2.0)
    training = np.full(10, 0.1)
    near = worst_divergence([np.full(10, 500.0)], [training], 0.0)
    far = worst_divergence([np.array([4000.0, *[1000 / 9] * 9])], [training], 1.2)
    assert far_difference(near, far).interval.low > 0.5
    assert isinstance(far_difference(near, far), Difference)


# ---- independent computations: each bet played one after another, and integrals that are computed numerically


@pytest.mark.parametrize("values", [100, 1000, 50_000])
def test_the_interval_of_a_mean_is_that_of_a_normal_mixture(values: int) -> None:
    """Its half-width is where the mixture of likelihood ratios over normal effects, integrated numerically, is 1/α."""
    deviation = 1.5

    def mixture(half: float) -> float:
        total = half * values / deviation  # the sum of standardized values
        prior = norm(0, 0.1)

        def integrand(effect: float) -> float:
            return float(math.exp(effect * total - effect**2 * values / 2) * prior.pdf(effect))

        peak = total / (values + 100)
        around = 12 / math.sqrt(values + 100)
        return float(quad(integrand, peak - around, peak + around, epsabs=0, epsrel=1e-10)[0]) - 1 / 0.05

    half = brentq(mixture, 1e-6, 10 * deviation / math.sqrt(values), xtol=1e-12)
    sums = Sums(0.0, values * deviation**2, float(values))
    assert mean(sums).interval() == pytest.approx((-half, half), rel=1e-6)


@pytest.mark.parametrize("counts", [(700.0, 200.0, 100.0), (40.0, 0.0, 60.0), (250.0, 250.0, 250.0, 250.0)])
def test_the_interval_of_a_divergence_is_that_of_a_dirichlet_mixture(counts: tuple[float, ...]) -> None:
    """Its lower end adds what scipy's Dirichlet-multinomial likelihood loses against the best fit of the counts."""
    live, bins, total = np.array(counts), len(counts), sum(counts)
    training = np.arange(1, bins + 1) / sum(range(1, bins + 1))
    share_of = live / total
    score = entropy(share_of, training)
    ways = multinomial.logpmf(live, int(total), share_of) - float(xlogy(live, share_of).sum())
    mixture = dirichlet_multinomial.logpmf(live.astype(int), np.full(bins, 0.5), int(total)) - ways
    regret = float(xlogy(live, share_of).sum()) - mixture
    blend = (live + 0.5) / (total + bins / 2)
    surprise = np.log(blend / training)
    variance = float(np.average(surprise**2, weights=blend) - np.average(surprise, weights=blend) ** 2)
    half = float(np.diff(mean(Sums(0.0, variance * total, total)).within(0.025))[0]) / 2
    low = score - half - (math.log(1 / 0.025) + regret) / total
    result = worst_divergence([live], [training], float(score)).interval()
    assert result == pytest.approx((max(low, 0.0), score + half), rel=1e-9)
