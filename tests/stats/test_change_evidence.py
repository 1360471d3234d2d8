"""Evidence that accumulates: how often it is wrong, what it finds, and how it falls again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter

from exporter.stats.change_evidence import HEADROOM, SIGMAS, SIZES, ChangeEvidence
from exporter.stats.dependence import extrapolated, measure_dispersion
from exporter.stats.divergence import Floats, Reference

LIMIT = math.log(365 * 1440)
EQUAL = np.full(20, 0.05)


def training(probability: Floats, rows: int, features: int) -> Reference:
    """Return the reference of features whose training counts are just as expected, with four empty bins each."""
    counts = np.concatenate(([0.0], probability * rows, [0.0, 0.0, 0.0]))
    return Reference.from_counts(np.tile(counts, features), [len(counts)] * features)


def ordered(reference: Reference) -> np.ndarray:
    return np.ones(len(reference.starts), dtype=bool)


def begun(reference: Reference) -> tuple[ChangeEvidence, Floats]:
    detector = ChangeEvidence(reference, ordered(reference))
    return detector, np.zeros(detector.size)


def live(probability: Floats, features: int = 1) -> Floats:
    return np.tile(np.concatenate(([0.0], probability, [0.0, 0.0, 0.0])), features)


def shifted(standard_deviations: float) -> Floats:
    """Return the shares of twenty equal bins of a normal distribution after its mean has moved."""
    edges = stats.norm.ppf(np.linspace(0, 1, 21))
    return np.diff(stats.norm.cdf(edges - standard_deviations))


def factors(detector: ChangeEvidence, probability: Floats) -> Floats:
    """Return the expectation of each alternative's factor for one value, by updates with a single value each."""
    expectation = np.zeros(detector.size)
    for place, share in enumerate(probability):
        state = np.zeros(detector.size)
        counts = np.zeros(len(probability))
        counts[place] = 1.0
        detector.update(state, counts, limit=600.0)
        expectation += share * state
    return expectation


@settings(max_examples=50, deadline=None)
@given(
    shares=st.lists(st.integers(0, 300), min_size=2, max_size=12).filter(lambda counts: sum(counts) > 20),
    is_ordered=st.booleans(),
)
def test_no_factor_is_expected_to_exceed_1_without_a_change(shares: list[int], is_ordered: bool) -> None:
    """Under the distribution of training itself every alternative is a supermartingale."""
    counts = np.array([0.0, *shares, 0, 0, 0])
    detector = ChangeEvidence(Reference.from_counts(counts, [len(counts)]), np.array([is_ordered]))
    assert factors(detector, counts / counts.sum()).max() <= 1 + 1e-9


@pytest.mark.parametrize("rows", [200, 1000, 10_000])
def test_no_factor_is_expected_to_exceed_1_where_training_is_a_sample(rows: int) -> None:
    """Training is a sample: values from the true distribution give evidence against it to no alternative."""
    rng = np.random.default_rng(rows)
    worst = []
    for _ in range(200):
        counts = np.concatenate(([0], rng.multinomial(rows, EQUAL), [0, 0, 0])).astype(float)
        detector = ChangeEvidence(Reference.from_counts(counts, [24]), np.array([True]))
        worst.append(factors(detector, live(EQUAL)).max())
    assert np.mean(np.array(worst) > 1 + 1e-9) <= 0.01


def test_the_state_is_the_sum_of_likelihood_ratios_since_every_start() -> None:
    """The recursion of a bin's share is the sum over all starts of binomial likelihood ratios, by scipy."""
    reference = training(EQUAL, 1000, 1)
    detector = ChangeEvidence(reference, np.array([False]))
    n = 50.0
    share = stats.gamma.ppf(stats.norm.cdf(SIGMAS), 50 + 1) / 1000  # Byar's limit is close to the exact one
    higher = share + SIZES[1] * math.sqrt(share * (1 - share))
    seen = [3.0, 9.0, 7.0, 12.0]
    state = np.zeros(detector.size)
    for count in seen:
        detector.update(state, live(np.array([count, *np.full(19, (n - count) / 19)])), limit=600.0)
    ratios = [stats.binom.logpmf(c, n, higher) - stats.binom.logpmf(c, n, share) for c in seen]
    expected = sum(math.exp(sum(ratios[start:])) for start in range(len(ratios)))
    alternatives = state[len(state) - 4 * 24 :].reshape(4, 24)  # more and fewer values in a bin, in two sizes
    assert alternatives[1, 1] == pytest.approx(expected, rel=0.02)


def test_the_mean_time_to_a_false_alarm_is_at_least_that_of_the_limit() -> None:
    """The limit ln(A) is exceeded after A updates or more in the mean, even if training is as wrong as it can be."""
    rng = np.random.default_rng(1)
    features, limit = 400, math.log(100)
    reference = training(EQUAL, 1000, features)
    wrong = SIGMAS / math.sqrt(1000)
    detector = ChangeEvidence(reference, ordered(reference))
    state, first = np.zeros(detector.size), np.full(features, np.inf)
    for minute in range(1, 400):
        detector.update(state, rng.poisson(20 * live(shifted(wrong), features)).astype(float), limit)
        first = np.minimum(first, np.where(detector.read(state) > limit, minute, np.inf))
    assert np.minimum(first, 400).mean() > 100


@pytest.mark.parametrize("rows", [200, 1000, 10_000])
def test_stable_values_stay_far_below_the_limit(rows: int) -> None:
    """A hundred features for a day, each with a training set of its own."""
    rng = np.random.default_rng(rows)
    counts = np.concatenate([[0, *rng.multinomial(rows, EQUAL), 0, 0, 0] for _ in range(100)]).astype(float)
    reference = Reference.from_counts(counts, [24] * 100)
    detector = ChangeEvidence(reference, ordered(reference))
    state, highest = np.zeros(detector.size), 0.0
    for _ in range(1440):
        detector.update(state, rng.poisson(20 * live(EQUAL, 100)).astype(float), LIMIT)
        highest = max(highest, float(detector.read(state).max()))
    assert highest < LIMIT - 2


@pytest.mark.parametrize(("rows", "shift", "minutes"), [(10_000, 0.25, 60), (10_000, 0.5, 15), (1000, 0.25, 180)])
def test_small_shifts_are_found(rows: int, shift: float, minutes: int) -> None:
    """At 20 values a minute, most features that have moved are found within this many minutes."""
    rng = np.random.default_rng(3)
    detector, state = begun(training(EQUAL, rows, 50))
    for _ in range(200):
        detector.update(state, rng.poisson(20 * live(EQUAL, 50)).astype(float), LIMIT)
    for _ in range(minutes):
        detector.update(state, rng.poisson(20 * live(shifted(shift), 50)).astype(float), LIMIT)
    assert np.mean(detector.read(state) > LIMIT) > 0.75


@pytest.mark.parametrize(
    "share",
    [
        pytest.param([0.0, *np.full(20, 0.045), 0, 0.1, 0], id="missing values"),
        pytest.param([0.0, *np.full(20, 0.0495), 0.01, 0, 0], id="values above the training maximum"),
        pytest.param([0.0, 0.02, *np.full(18, 0.05), 0.08, 0, 0, 0], id="one bin to another"),
        pytest.param([0.0, *(0.05 + 0.02 * np.cos(np.linspace(-np.pi, np.pi, 20))), 0, 0, 0], id="the spread"),
    ],
)
def test_other_small_changes_are_found(share: list[float]) -> None:
    """Also without an order of the bins, which only takes longer."""
    rng = np.random.default_rng(4)
    probability = np.array(share) / np.sum(share)
    for is_ordered, minutes in ((True, 360), (False, 720)):
        reference = training(EQUAL, 10_000, 20)
        detector = ChangeEvidence(reference, np.full(20, is_ordered))
        state, found = np.zeros(detector.size), np.zeros(20, dtype=bool)
        for _ in range(minutes):
            detector.update(state, rng.poisson(20 * np.tile(probability, 20)).astype(float), LIMIT)
            found |= detector.read(state) > LIMIT
        assert found.mean() > 0.75


def test_evidence_falls_below_its_limit_when_the_values_return() -> None:
    """It stops to rise a little above the limit, so a day of change is forgotten within two hours."""
    rng = np.random.default_rng(5)
    detector, state = begun(training(EQUAL, 10_000, 50))
    for _ in range(1440):
        detector.update(state, rng.poisson(20 * live(shifted(0.25), 50)).astype(float), LIMIT)
    assert np.all(detector.read(state) > LIMIT)
    assert detector.read(state).max() <= LIMIT + HEADROOM + 3
    for _ in range(120):
        detector.update(state, rng.poisson(20 * live(EQUAL, 50)).astype(float), LIMIT)
    assert np.all(detector.read(state) < LIMIT)


def test_a_feature_without_values_keeps_its_evidence() -> None:
    """Minutes without values of a feature say nothing about it."""
    detector, state = begun(training(EQUAL, 10_000, 2))
    only_first = np.concatenate((100 * live(shifted(0.5)), np.zeros(24)))
    detector.update(state, only_first, LIMIT)
    before = detector.read(state)
    assert before[0] > 0
    assert np.isnan(before[1])
    for _ in range(100):
        detector.update(state, only_first[::-1].copy(), LIMIT)
    assert detector.read(state)[0] == before[0]


def test_a_huge_batch_and_an_empty_reference_give_finite_evidence() -> None:
    """A batch of 100,000 counts at once; a feature that training never had is left out."""
    counts = np.concatenate((live(EQUAL * 10_000), np.zeros(24), [0.0, 0.0, 500.0, 0.0, 0.0, 0.0]))
    detector, state = begun(Reference.from_counts(counts, [24, 24, 6]))
    moved = np.concatenate((100_000 * live(shifted(0.25)), 100 * live(EQUAL), [0.0, 100_000, 0.0, 0.0, 0.0, 0.0]))
    for _ in range(3):
        detector.update(state, moved, LIMIT)
    evidence = detector.read(state)
    assert evidence[[0, 2]] == pytest.approx(LIMIT + HEADROOM, abs=3)
    assert np.isnan(evidence[1])
    same = np.concatenate((100_000 * live(EQUAL), np.zeros(24), [0.0, 0.0, 100_000.0, 0.0, 0.0, 0.0]))
    detector.update(state, same, LIMIT)
    assert np.all(detector.read(state)[[0, 2]] < 3)


def test_a_constant_gives_no_evidence_while_it_is_the_same_and_does_when_it_is_not() -> None:
    """The reference has a single bin with values."""
    detector, state = begun(Reference.from_counts(np.array([0.0, 1000, 0, 0, 0]), [5]))
    for _ in range(2000):
        detector.update(state, np.array([0.0, 20, 0, 0, 0]), LIMIT)
    assert detector.read(state)[0] < 3
    for _ in range(60):
        detector.update(state, np.array([0.0, 18, 2, 0, 0]), LIMIT)
    assert detector.read(state)[0] > LIMIT


def test_the_dispersion_keeps_dependent_values_below_the_limit() -> None:
    """Successive values with a correlation of 0.9 have a dispersion of 19; without it they are taken for a change."""
    rng = np.random.default_rng(7)
    phi, features = 0.9, 50
    reference = training(EQUAL, 10_000, features)
    edges = stats.norm.ppf(np.linspace(0, 1, 21)[1:-1])
    values = lfilter([1], [1, -phi], rng.normal(size=(20 * 720, features)) * math.sqrt(1 - phi**2), axis=0)
    places = 1 + edges.searchsorted(values) + 24 * np.arange(features)
    highest = {}
    for dispersion in (1.0, (1 + phi) / (1 - phi)):
        detector = ChangeEvidence(reference, ordered(reference), dispersion)
        state, highest[dispersion] = np.zeros(detector.size), 0.0
        for minute in places.reshape(720, -1):
            detector.update(state, np.bincount(minute, minlength=24 * features).astype(float), LIMIT)
            highest[dispersion] = max(highest[dispersion], float(detector.read(state).max()))
    assert highest[1.0] > LIMIT
    assert highest[(1 + phi) / (1 - phi)] < LIMIT - 3


def blocks_of(places: np.ndarray, sizes: list[int]) -> list[Floats]:
    """Return the counts of successive blocks of each size."""
    return [
        np.stack([np.bincount(part, minlength=24) for part in places[: len(places) // size * size].reshape(-1, size)])
        for size in sizes
    ]


LONG = np.exp(-1 / 4.0 ** np.arange(1, 6))
"""Correlations of parts of which each is four times as slow as the one before."""


@pytest.mark.parametrize(
    ("phis", "rows", "expected"), [([0.5], 10_000, 3), ([0.9], 10_000, 19), ([0.9], 2000, 19), (LONG, 10_000, 290)]
)
def test_the_dispersion_is_that_of_the_mean_of_many_values(phis: list[float], rows: int, expected: float) -> None:
    """It is (1 + phi)/(1 - phi), also of memory longer than blocks, and of none of several features far less."""
    rng = np.random.default_rng(11)
    edges = stats.norm.ppf(np.linspace(0, 1, 21)[1:-1])
    found = []
    for _ in range(20):
        parts = [lfilter([math.sqrt(1 - phi**2)], [1, -phi], rng.normal(size=2 * rows))[rows:] for phi in phis]
        places = 1 + edges.searchsorted(np.sum(parts, axis=0) / math.sqrt(len(phis)))
        sizes = [20, 40, 80, 160]
        total = np.bincount(places, minlength=24).astype(float)
        found.append(measure_dispersion(blocks_of(places, sizes), total, ordered=True))
    dispersion = extrapolated(np.array(found))
    assert np.median(dispersion) == pytest.approx(expected, rel=0.4)
    assert dispersion.min() > 0.6 * expected


@pytest.mark.parametrize("is_ordered", [True, False])
def test_independent_values_have_a_dispersion_of_1(is_ordered: bool) -> None:
    """Also rare ones, of which blocks hold hardly any."""
    rng = np.random.default_rng(12)
    share = np.array([0.0, 0.9, 0.05, *np.full(18, 0.002), 0.0139, 0.0001, 0.0])
    share /= share.sum()
    found = []
    for _ in range(50):
        places = rng.choice(24, 5000, p=share)
        sizes = [20, 40, 80, 160, 320]
        total = np.bincount(places, minlength=24).astype(float)
        found.append(measure_dispersion(blocks_of(places, sizes), total, is_ordered))
    dispersion = extrapolated(np.array(found))
    assert np.mean(dispersion == 1.0) > 0.8
    assert dispersion.max() < 10
