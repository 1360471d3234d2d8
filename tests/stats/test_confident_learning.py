"""Confident learning against the definition of its authors, and labels that differ from those of similar rows."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab import filter as filters
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.stats import neighbours
from exporter.stats.confident_learning import confident_joint, find_suspects
from exporter.stats.neighbours import unlike_neighbours


def slow_joint(labels: list[int], probabilities: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The confident joint as equations 1 and 2 of the paper define it, one row after another."""
    count = probabilities.shape[1]
    thresholds = []
    for class_ in range(count):
        own = [row[class_] for row, label in zip(probabilities, labels, strict=True) if label == class_]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    joint, classes = np.zeros((count, count), int), []
    for row, label in zip(probabilities, labels, strict=True):
        confident = [class_ for class_ in range(count) if row[class_] >= thresholds[class_] - 1e-6]
        best = max(confident, key=lambda class_: row[class_], default=-1)
        classes.append(best)
        if best >= 0:
            joint[label][best] += 1
    return joint, classes


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_confident_joint_is_that_of_the_paper(classes: int, rows: int, seed: int) -> None:
    """Counts and confident classes are those of the slow definition, also where a class has no row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    probabilities = rng.dirichlet(np.full(classes, 0.5), rows)
    joint, expected = confident_joint(labels, probabilities), slow_joint(labels.tolist(), probabilities)
    np.testing.assert_array_equal(joint.counts, expected[0])
    assert joint.classes.tolist() == expected[1]


@pytest.mark.parametrize("seed", range(5))
def test_suspects_are_those_of_cleanlab(seed: int) -> None:
    """The rows off the diagonal, in the order of their margins, are those that the authors' library finds."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 300)
    labels = np.where(rng.random(300) < 0.1, rng.integers(0, 4, 300), truth)
    probabilities = rng.dirichlet(np.full(4, 0.4), 300) + 1.5 * np.eye(4)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = filters.find_label_issues(
        labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    found = find_suspects(labels, probabilities)
    assert len(found.rows) > 5
    assert found.rows.tolist() == expected.tolist()


def test_the_surest_suspect_comes_first() -> None:
    """Two wrong labels of twelve are found, the one with the larger margin first."""
    labels = np.array([0] * 6 + [1] * 6)
    probabilities = np.array([[0.9, 0.1]] * 5 + [[0.06, 0.94]] + [[0.1, 0.9]] * 5 + [[0.97, 0.03]])
    found = find_suspects(labels, probabilities)
    assert found.rows.tolist() == [11, 5]
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.self_confidence, [0.03, 0.06])
    np.testing.assert_allclose(found.margin, [-0.94, -0.88])


def test_no_rows_and_one_class_have_no_suspects() -> None:
    """Without rows, or with one class alone, no label can be wrong."""
    assert not len(find_suspects(np.empty(0, np.intp), np.empty((0, 3))).rows)
    assert not len(find_suspects(np.zeros(9, np.intp), np.ones((9, 1))).rows)


def blobs(rows: int, wrong: int, classes: int = 4, spread: float = 8.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors around a corner for each class, their labels, and which of them are wrong."""
    rng = np.random.default_rng(1)
    truth = np.arange(rows) % classes
    vectors = np.eye(16)[truth] * 80 + rng.normal(0, spread, (rows, 16))
    planted = rng.choice(rows, wrong, replace=False)
    labels = truth.copy()
    labels[planted] = (labels[planted] + 1) % classes
    return np.rint(vectors).clip(-127, 127).astype(np.int8), labels, np.sort(planted)


def test_a_label_unlike_those_of_its_neighbours_is_a_suspect() -> None:
    """Most planted labels are found and no other one, with the class and the number of its neighbours."""
    vectors, labels, planted = blobs(200, 8)
    found = unlike_neighbours(vectors, labels, 4)
    assert len(found.rows) >= 6
    assert set(found.rows) <= set(planted)
    np.testing.assert_array_equal(found.classes, (labels[found.rows] - 1) % 4)
    assert found.compared == 20
    for row, other, own in zip(found.rows, found.other, found.own, strict=True):
        distances = ((vectors.astype(int) - vectors[row].astype(int)) ** 2).sum(axis=1)
        nearest = labels[np.argsort(distances, kind="stable")[1:21]]
        assert other == (nearest == (labels[row] - 1) % 4).sum()
        assert own == (nearest == labels[row]).sum()


def test_memory_is_bounded_by_looking_at_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suspects are the same, however few distances are held at a time."""
    vectors, labels, _ = blobs(200, 8)
    expected = unlike_neighbours(vectors, labels, 4)
    monkeypatch.setattr(neighbours, "_DISTANCES", 700)
    for one, other in zip(unlike_neighbours(vectors, labels, 4)[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [0, 1, 3, 19])
def test_few_rows_are_not_compared(rows: int) -> None:
    """With fewer than twenty rows there are no suspects, and nothing fails."""
    vectors, labels, _ = blobs(rows, min(rows, 2))
    found = unlike_neighbours(vectors, labels, 4)
    assert (len(found.rows), found.compared) == (0, 0)


def test_rows_without_inputs_are_neither_suspects_nor_neighbours() -> None:
    """Rows without any input have the same vector; they do not make each other, or other rows, suspects."""
    vectors, labels, planted = blobs(200, 8)
    empty = np.zeros((100, 16), np.int8)
    found = unlike_neighbours(np.vstack([empty, vectors]), np.concatenate([np.arange(100) % 4, labels]), 4)
    assert len(found.rows) >= 6
    assert set(found.rows) <= set(planted + 100)
    assert not len(unlike_neighbours(empty, np.arange(100) % 4, 4).rows)


def test_labels_that_inputs_do_not_tell_have_few_suspects() -> None:
    """Where labels have nothing to do with the inputs, hardly any is a suspect."""
    rng = np.random.default_rng(2)
    vectors = rng.integers(-90, 90, (2000, 16)).astype(np.int8)
    for classes in (2, 5, 10):
        assert len(unlike_neighbours(vectors, rng.integers(0, classes, 2000), classes).rows) <= 20


def test_one_class_alone_and_a_class_of_its_own_for_each_row() -> None:
    """Neither has suspects."""
    vectors, labels, _ = blobs(200, 0)
    assert not len(unlike_neighbours(vectors, np.zeros_like(labels), 1).rows)
    assert not len(unlike_neighbours(vectors, np.arange(200), 200).rows)


def test_most_labels_of_a_class_are_wrong() -> None:
    """Where reviewers accepted whatever users sent, the check cannot know better; it suspects no other class."""
    vectors, labels, _ = blobs(200, 0)
    rows = np.flatnonzero(labels == 1)
    labels[rows[:45]] = 2
    assert set(unlike_neighbours(vectors, labels, 4).rows) <= set(rows[45:])
