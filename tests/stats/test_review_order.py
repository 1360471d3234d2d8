"""The order in which corrections teach most."""

from __future__ import annotations

import numpy as np

from exporter.stats.review_order import informative_order

NOTHING = np.empty((0, 8), np.int8)


def blobs(*sizes: int, spread: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Points around a corner each, and the number of their corner."""
    rng = np.random.default_rng(1)
    points = [np.eye(8)[corner] * 100 + rng.normal(0, spread, (size, 8)) for corner, size in enumerate(sizes)]
    return np.rint(np.vstack(points)).clip(-127, 127).astype(np.int8), np.repeat(np.arange(len(sizes)), sizes)


def order(vectors: np.ndarray, doubt: object = 0.5, decided: np.ndarray = NOTHING, most: int = 1000) -> list[int]:
    """Rows in order, none of them alike."""
    kinds = np.arange(len(vectors))
    chosen = informative_order(vectors, np.broadcast_to(doubt, len(vectors)).astype(float), kinds, decided, most)
    return [row for row, _ in chosen]


def test_each_cluster_comes_once_before_any_comes_twice() -> None:
    """However many corrections a cluster has, the first of every other one comes before its second."""
    vectors, corner = blobs(60, 5, 30, 10)
    rows = order(vectors)
    assert sorted(rows) == list(range(len(vectors)))
    assert sorted(corner[rows[:4]]) == [0, 1, 2, 3]


def test_equal_inputs_are_one_card_and_other_labels_another() -> None:
    """One correction stands for those with the same inputs, unless its prediction or label is another."""
    vectors = np.repeat(blobs(1, 1)[0], [7, 3], axis=0)
    kinds = np.array([0] * 5 + [1] * 2 + [0] * 3)
    chosen = informative_order(vectors, np.full(10, 0.5), kinds, NOTHING, 1000)
    groups = sorted(sorted([row, *alike.tolist()]) for row, alike in chosen)
    assert groups == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
    assert {kinds[row] for row, _ in chosen[:2]} == {0}, "the same inputs with another label come last"


def test_doubtful_corrections_in_dense_regions_come_first() -> None:
    """Among equals the doubtful one comes first; one that is like no other comes later, however doubtful."""
    vectors, _ = blobs(50, 50)
    outlier = np.full((1, 8), -90, np.int8)
    doubt = np.full(101, 0.3)
    doubt[[7, 100]] = 0.9
    assert order(np.vstack([vectors, outlier]), doubt)[0] == 7


def test_what_is_like_a_decided_correction_comes_last() -> None:
    """A cluster in which a reviewer decided yesterday waits for those in which nobody did."""
    vectors, corner = blobs(20, 20, 20)
    rows = order(vectors, decided=vectors[corner == 1][:3])
    assert 1 not in corner[rows[:2]]


def test_the_order_is_the_same_each_time_and_ends_where_it_should() -> None:
    """It depends on the corrections alone; no correction, one, or equal ones are no special case."""
    vectors, _ = blobs(40, 40)
    assert order(vectors) == order(vectors)
    assert len(order(vectors, most=10)) == 10
    assert (order(NOTHING), order(vectors[:1]), len(order(np.zeros((5, 8), np.int8)))) == ([], [0], 5)
