from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, entropy
from support.batches import count

from exporter.monitoring.binner import Binner
from exporter.monitoring.windows import Ring
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.stats.divergence import Reference, chi2_quantiles

COUNT = st.integers(0, 10**9)


@st.composite
def features(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Training and live counts of one to four features."""
    sizes = draw(st.lists(st.integers(3, 30), min_size=1, max_size=4))
    counts = [(st.lists(COUNT, min_size=size, max_size=size)) for size in sizes]
    return [(draw(strategy), draw(strategy)) for strategy in counts]


QUANTILES = chi2_quantiles(59)


def flat(parts: list[list[int]]) -> np.ndarray:
    return np.array([count for part in parts for count in part], dtype=np.float64)


def reference_of(training: list[list[int]]) -> Reference:
    return Reference.from_counts(flat(training), [len(part) for part in training], QUANTILES)


@settings(max_examples=80, deadline=None)
@given(features())
def test_the_divergence_is_the_entropy_of_the_smoothed_shares(pairs):
    """Each feature's score is scipy's relative entropy of p to q to 1e-12, and never negative."""
    score = reference_of([r for r, _ in pairs]).kl_divergence(flat([c for _, c in pairs]))
    assert (score >= 0).all()
    for index, (r, c) in enumerate(pairs):
        bins, rows, n = len(r), sum(r), sum(c)
        q = (np.array(r) + 0.5) / (rows + bins / 2)
        p = (np.array(c) + bins / 2 * q) / (n + bins / 2)
        assert score[index] == pytest.approx(entropy(p, q), rel=1e-12, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(COUNT, min_size=3, max_size=30), st.integers(0, 10**6))
def test_the_divergence_of_the_training_shares_is_zero(training, n):
    """Live counts in the smoothed training proportions score 0, whatever their number, and so do none."""
    reference = reference_of([training])
    assert reference.kl_divergence(reference.probability * n)[0] == pytest.approx(0, abs=1e-13)


@settings(max_examples=80, deadline=None)
@given(st.lists(COUNT, min_size=3, max_size=30).filter(any))
def test_the_training_counts_score_almost_zero(training):
    """Both sides are smoothed, so the training counts score at most K/(2N)."""
    rows, prior = sum(training), len(training) / 2
    score = reference_of([training]).kl_divergence(flat([training]))[0]
    assert 0 <= score <= prior / (rows + prior)
    scaled = [count * 10**6 for count in training]
    assert reference_of([scaled]).kl_divergence(flat([scaled]))[0] < 2e-5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-5, 5), st.none(), st.just("?")), min_size=1, max_size=120),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=20),
)
def test_neither_batches_nor_replicas_matter(values, cuts):
    """Values split into batches and over three replicas add up to the counts, score and floor of one stream."""
    training = numeric_feature(np.random.default_rng(5).normal(size=500))
    binner = Binner(Profile(name="m", rows=500, inputs={"x": "numeric"}, features={"x": training}))
    events = [{"x": value} for value in values]
    replicas = [Ring(3600, binner.width) for _ in range(3)]
    start = turn = 0
    while start < len(events):
        size, replica = cuts[turn % len(cuts)]
        replicas[replica].add(10.0 * turn, count(binner, events[start : start + size], [])[0])
        start, turn = start + size, turn + 1
    pooled = binner.split(np.sum([ring.total(10.0 * turn) for ring in replicas], axis=0)).counts
    all_counts = binner.split(count(binner, events, [])[0]).counts
    assert pooled.tolist() == all_counts.tolist()
    assert all_counts.sum() == len(values)
    assert binner.reference.kl_divergence(pooled).tolist() == binner.reference.kl_divergence(all_counts).tolist()


def test_a_feature_scores_the_same_alone_and_among_others():
    """A feature's score and noise do not depend on its neighbours in the flat array."""
    parts = [[50, 30, 20], [1, 0, 0, 9], [100, 100, 0, 0, 3]]
    live = [[20, 30, 50], [4, 4, 1, 1], [0, 0, 7, 0, 0]]
    together = reference_of(parts)
    observed = np.array([sum(part) for part in live], dtype=float)
    for index, (r, c) in enumerate(zip(parts, live, strict=True)):
        alone = reference_of([r])
        assert together.kl_divergence(flat(live))[index] == pytest.approx(alone.kl_divergence(flat([c]))[0], rel=1e-14)
        assert together.noise(observed)[index] == alone.noise(observed[index : index + 1])[0]


def test_windows_are_scored_at_once():
    """Counts of shape (W, B) give scores of shape (W, F), row by row those of each window."""
    reference = reference_of([[50, 30, 20], [10, 10, 10]])
    windows = np.array([[1.0, 2, 3, 4, 5, 6], [0, 0, 0, 9, 0, 0]])
    scores = reference.kl_divergence(windows)
    assert scores.shape == (2, 2)
    assert scores.tolist() == [reference.kl_divergence(row).tolist() for row in windows]


def test_the_prior_keeps_few_values_near_no_drift():
    """One value in a single training bin scores below 0.3, a hundred far above."""
    reference = reference_of([[500, 300, 200, 0, 0]])
    for index in range(3):
        single, hundred = (reference.kl_divergence(np.eye(5)[index] * n)[0] for n in (1, 100))
        assert single < 0.3
        assert hundred > 0.6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=60), st.integers(1, 10**6))
def test_the_noise_floor_is_the_formula(training, n):
    """(n/(n+m))² · χ²₀.₉₉(K′−1)/2 · (1/n + 1/N) with scipy's quantile, K′ the bins with training mass."""
    rows, m = sum(training), len(training) / 2
    noise = reference_of([training]).noise(np.array([float(n)]))[0]
    filled = sum(count > 0 for count in training)
    if rows == 0:
        assert noise == 0
    else:
        quantile = chi2.ppf(0.99, filled - 1) if filled > 1 else 0.0
        assert noise == pytest.approx((n / (n + m)) ** 2 * quantile / 2 * (1 / n + 1 / rows), rel=1e-9)


def test_without_observations_there_is_no_noise_floor():
    """Without observations, or without training rows, the floor is zero."""
    assert reference_of([[5, 5, 5]]).noise(np.array([0.0])).tolist() == [0.0]
    assert reference_of([[0, 0, 0]]).noise(np.array([7.0])).tolist() == [0.0]


def test_windows_without_drift_rarely_exceed_the_floor():
    """Windows without drift exceed their noise floor in at most 3.5%, a shift of one deviation nearly always."""
    rng = np.random.default_rng(1)
    edges = np.quantile(rng.normal(size=2000), np.arange(1, 20) / 20)
    training = np.bincount(edges.searchsorted(rng.normal(size=2000)), minlength=20)
    reference = reference_of([training.tolist()])

    def passing(shift: float) -> float:
        samples = edges.searchsorted(rng.normal(shift, size=(400, 100)))
        counts = np.array([np.bincount(row, minlength=20) for row in samples], dtype=float)
        return float((reference.kl_divergence(counts)[:, 0] > reference.noise(np.array([100.0]))[0]).mean())

    assert passing(0) <= 0.035
    assert passing(1) > 0.95


def test_the_quantiles_are_those_at_99_percent():
    """The χ² quantiles are scipy's at 99% from 1 to 5,000 degrees of freedom, and 0 for none."""
    degrees = [*range(1, 60), 100, 333, 1000, 5000]
    array = chi2_quantiles(5000)
    np.testing.assert_allclose(array[degrees], chi2.ppf(0.99, degrees), rtol=1e-11)
    assert array[0] == 0


def test_a_reference_without_quantiles_has_no_noise_floor():
    """Scores need no quantiles; without them the noise floor is not a number."""
    reference = Reference.from_counts(np.array([5.0, 5.0]), [2])
    assert np.isfinite(reference.kl_divergence(np.array([3.0, 1.0]))).all()
    assert np.isnan(reference.noise(np.array([4.0]))).all()
