"""Compare the label of each row with the labels of the rows that are most similar to it.

Source: C. Northcutt, L. Jiang and I. Chuang, *Confident learning: estimating uncertainty in dataset labels*, Journal of
Artificial Intelligence Research 70, 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints

Vectors = npt.NDArray[np.int8]
"""Inputs as vectors of whole numbers, of shape (n, d); see `exporter.features.similarity`."""
NEIGHBOURS = 20
"""Similar rows that a row is compared with; fewer where there are fewer than four times as many rows."""
MIN_NEIGHBOURS = 5
"""With fewer, labels are not compared."""
MIN_SHARE = 0.5
"""Share of the similar rows that must have the same other label."""
MIN_RATIO = 4
"""That other label must occur so many times as often as the row's own."""
SLACK = 0.1
"""The thresholds of confident learning are lowered by it: a share of so few rows is not exact, and about half of the
wrong labels in a region of one class are below the mean of that class."""
_ROUNDING = 1e-6  # a probability that is equal to the threshold is confident
_DISTANCES = 2**22  # that are held at a time: 16 MiB, and twice that for their order


class UnlikeNeighbours(NamedTuple):
    """Rows whose label may be wrong, the most suspicious first.

    Attributes
    ----------
    rows
        Their numbers, shape ``(m,)``.
    classes
        The class that most similar rows have as their label, shape ``(m,)``.
    other, own
        How many of the similar rows have that label, and the label of the row itself, shape ``(m,)``.
    compared
        With how many similar rows each was compared.
    """

    rows: Ints
    classes: Ints
    other: Ints
    own: Ints
    compared: int


def unlike_neighbours(vectors: Vectors, labels: Ints, classes: int) -> UnlikeNeighbours:
    """Find rows whose label is not that of the rows that are similar to them, with confident learning.

    The probability of a class is its share among the labels of the `NEIGHBOURS` nearest other rows. A row is a suspect
    if it confidently belongs to another class (see `SLACK`), and if its
    neighbours agree as `MIN_SHARE` and `MIN_RATIO` say: where classes overlap, confident learning alone suspects many
    right labels.

    Parameters
    ----------
    vectors
        Inputs of ``n`` rows, see `exporter.features.similarity`. A row whose vector is all zeros says nothing: it is
        neither a suspect nor a neighbour.
    labels
        The class of each row, from 0 to ``classes - 1``, shape ``(n,)``.
    classes
        The number of classes.
    """
    known = np.flatnonzero(vectors.any(axis=1))
    compared = min(NEIGHBOURS, len(known) // 4)
    if compared < MIN_NEIGHBOURS:
        nothing = np.empty(0, np.intp)
        return UnlikeNeighbours(nothing, nothing, nothing, nothing, 0)
    points, classes_of = vectors[known].astype(np.float32), labels[known]
    nearest = np.concatenate(list(_nearest(points, classes_of, compared)))
    own: Ints = (nearest == classes_of[:, None]).sum(axis=1, dtype=np.intp)
    thresholds = _class_thresholds(classes_of, own / compared, classes) - SLACK
    rows: list[Ints] = []
    others: list[Ints] = []
    counts: list[Ints] = []
    step = max(_DISTANCES // classes, 1)
    for start in range(0, len(known), step):
        part = nearest[start : start + step]
        tally = np.zeros((len(part), classes), np.int16)
        np.add.at(tally, (np.arange(len(part))[:, None], part), 1)
        likely = _confident_classes(tally / compared, thresholds)
        count = tally[np.arange(len(part)), likely]
        mine = own[start : start + step]
        agree = (count >= MIN_SHARE * compared) & (count >= MIN_RATIO * mine)
        suspects = np.flatnonzero((likely >= 0) & (likely != classes_of[start : start + step]) & agree)
        rows.append(start + suspects)
        others.append(likely[suspects])
        counts.append(count[suspects].astype(np.intp))
    found, other, with_other = np.concatenate(rows), np.concatenate(others), np.concatenate(counts)
    order = np.lexsort((known[found], own[found] - with_other))
    found = found[order]
    return UnlikeNeighbours(known[found], other[order], with_other[order], own[found], compared)


def _nearest(points: npt.NDArray[np.float32], labels: Ints, count: int) -> Iterator[Ints]:
    """Yield the labels of the nearest other rows, some rows at a time: shape ``(rows, count)``."""
    squares = np.einsum("ij,ij->i", points, points)
    step = max(_DISTANCES // len(points), 1)
    for start in range(0, len(points), step):
        part = points[start : start + step]
        distances = squares - 2 * (part @ points.T)  # without the row's own square, which is the same for all
        distances[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        yield labels[np.argpartition(distances, count, axis=1)[:, :count]]


def _class_thresholds(labels: Ints, self_confidence: Floats, classes: int) -> Floats:
    """Return the probability from which a row confidently belongs to each class: the mean of the rows with that label.

    Parameters
    ----------
    labels
        The class of each row, from 0 to ``classes - 1``, shape ``(n,)``.
    self_confidence
        The probability of that class, shape ``(n,)``.
    classes
        The number of classes ``K``.

    Returns
    -------
    numpy.ndarray
        Shape ``(K,)``; infinite for a class that no row has as its label.
    """
    rows = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, self_confidence, minlength=classes)
    thresholds: Floats = np.divide(total, rows, out=np.full(classes, np.inf), where=rows > 0)
    return thresholds


def _confident_classes(probabilities: Floats, thresholds: Floats) -> Ints:
    """Return the most probable of the classes to which each row confidently belongs; -1 where it does to none.

    Parameters
    ----------
    probabilities
        Of each class, shape ``(n, K)``.
    thresholds
        Of `_class_thresholds`.
    """
    confident = np.where(probabilities >= thresholds - _ROUNDING, probabilities, -1.0)
    classes: Ints = confident.argmax(axis=1)
    return np.where(confident.max(axis=1, initial=-1.0) < 0, -1, classes)
