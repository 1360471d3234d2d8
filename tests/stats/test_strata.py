"""Strata by confidence, and the allocation of labels to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.stats.divergence import Floats
from exporter.stats.strata import MAX_EDGES, MIN_ROWS, PROPORTIONAL, add_edges, allocate, shares, stratum_of

NONE = np.zeros(4)
SIZES = np.array([1000.0, 2000.0, 3000.0, 4000.0])
CLAIMED = np.array([0.2, 0.05, 0.01, 0.0001])
PLAIN = SIZES / SIZES.sum()
CONFIDENCE = st.one_of(st.just(np.nan), st.floats(0, 1), st.sampled_from([0.5, 0.9, 1.0]))


@settings(deadline=None)
@given(st.lists(CONFIDENCE, max_size=300), st.lists(st.floats(0.1, 0.9), max_size=4, unique=True), st.integers(0, 5000))
def test_edges_are_only_added(values: list[float], given_edges: list[float], labels: int) -> None:
    """They ascend, are within bounds, and leave enough predictions on both sides; equal values stay together."""
    confidences, edges = np.array(values, float), sorted(given_edges)
    result = add_edges(edges, confidences, labels)
    assert result == sorted(set(result))
    assert set(edges) <= set(result)
    assert len(result) <= MAX_EDGES
    counts = np.bincount(stratum_of(confidences, result), minlength=len(result) + 2)
    for edge in set(result) - set(edges):
        position = result.index(edge)
        assert min(counts[position : position + 2]) >= MIN_ROWS


def test_more_labels_have_more_strata() -> None:
    """None for a dozen labels, eight for hundreds, however many predictions there are."""
    values = 1 - 0.2 * np.random.default_rng(1).random(5000) ** 3
    assert [len(add_edges([], values, labels)) for labels in (0, 14, 20, 50, 100, 10_000)] == [0, 0, 1, 3, 7, 7]
    assert add_edges([], np.full(1000, 0.9), 100) == []
    assert add_edges([], np.full(1000, np.nan), 100) == []


def test_strata_are_finer_where_confidences_are_low() -> None:
    """The lowest stratum has fewer predictions than an equal part, the highest more."""
    values = 1 - 0.5 * np.random.default_rng(1).random(8000) ** 4
    counts = np.bincount(stratum_of(values, add_edges([], values, 1000)))
    assert counts[0] < 1000 < counts[-1]


def test_without_labels_confidences_are_half_believed() -> None:
    """The unsure get more than their part, but less than if the confidences were right; the sure never almost none."""
    result = shares(SIZES, CLAIMED, NONE, NONE)
    right = PLAIN * np.sqrt(CLAIMED * (1 - CLAIMED))
    right /= right.sum()
    assert result.sum() == pytest.approx(1)
    assert PLAIN[0] < result[0] < right[0]
    assert result[3] > PROPORTIONAL * PLAIN[3]


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [(CLAIMED, 0.25, 0.3), (3 * CLAIMED, 0.2, 0.27), (np.full(4, 0.1), 0.095, 0.13), (CLAIMED[::-1], 0.095, 0.12)],
    ids=["right", "too sure", "says nothing", "reversed"],
)
def test_labels_decide_whether_confidences_are_believed(ratios: Floats, low: float, high: float) -> None:
    """With a thousand labels, the share of the least sure stratum is near the best one, or near its size."""
    decided = 1000 * PLAIN
    assert low < shares(SIZES, CLAIMED, decided, decided * ratios)[0] < high


@pytest.mark.parametrize(
    "claimed", [np.full(4, np.nan), np.zeros(4), np.full(4, 0.1)], ids=["none", "all sure", "all equal"]
)
def test_equal_claims_give_proportional_shares(claimed: Floats) -> None:
    """Also where no prediction has a confidence, or all are entirely sure."""
    assert shares(SIZES, claimed, NONE, NONE) == pytest.approx(PLAIN)
    decided = np.array([5.0, 10.0, 10.0, 5.0])
    assert shares(SIZES, claimed, decided, decided) == pytest.approx(PLAIN)


@settings(deadline=None)
@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50), st.integers(0, 100)), min_size=1, max_size=8),
)
def test_an_allocation_is_as_large_as_can_be(count: int, strata: list[tuple[float, int, int]]) -> None:
    """No stratum gets more than it has; strata without a goal get nothing."""
    goal, labelled, available = (list(column) for column in zip(*strata, strict=True))
    result = allocate(count, np.array(goal), labelled, available)
    possible = [number if share > 0 else 0 for share, number in zip(goal, available, strict=True)]
    assert all(0 <= given <= most for given, most in zip(result, possible, strict=True))
    assert sum(result) == min(count, sum(possible))


def test_an_allocation_makes_up_for_earlier_ones() -> None:
    """All labels together come close to the goal."""
    first = allocate(50, np.full(4, 0.25), [0] * 4, [100] * 4)
    goal = np.array([0.1, 0.2, 0.3, 0.4])
    second = allocate(150, goal, first, [100] * 4)
    assert np.abs(np.add(first, second) - 200 * goal).max() <= 1
