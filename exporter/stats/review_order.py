"""Order corrections by how informative they are: doubtful, in a dense region, and unlike earlier ones.

Corrections are chosen one after another. Each is the one with the greatest product of the model's doubt, the square
root of the density, and the distance from all that were chosen or decided before: the density-weighted uncertainty of
Settles and Craven (2008), with the greedy k-centre of Sener and Savarese (2018) for diversity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints

Vectors = npt.NDArray[np.int8]
"""Inputs as vectors of whole numbers, of shape (n, d); see `exporter.features.similarity`."""
_Points = npt.NDArray[np.float32]
REFERENCES = 1000
"""Corrections that all others are compared with, for the density."""
NEAR = 0.15
"""Corrections closer than this part of the median distance are alike. Of scikit-learn's digits, the closest two of
different classes are 0.38 of it apart."""
_CLOSE = 0.05  # quantile of the distances that is the width of the density's kernel
_ROWS = 2048
_TIE = 1e-3  # part of the median distance: the weight decides between corrections without distance


class Chosen(NamedTuple):
    """A correction, and the others that are like it, by their row."""

    row: int
    alike: Ints


def informative_order(vectors: Vectors, doubt: Floats, kinds: Ints, decided: Vectors, most: int) -> list[Chosen]:
    """Choose corrections one after another.

    Parameters
    ----------
    vectors
        The inputs of ``n`` corrections.
    doubt
        How unsure the model was of each, above 0, of shape (n,).
    kinds
        Corrections of different kinds are never alike, of shape (n,): predictions and labels differ.
    decided
        The inputs of corrections that were decided before; shape (m, d).
    most
        How many are chosen at most. Those that are like a chosen one are not chosen.

    Returns
    -------
    list of Chosen
        In order; it ends early when each is chosen or like a chosen one.
    """
    if not len(vectors):
        return []
    points, norms = _floats(vectors)
    # Evenly spaced rather than random, so that the same corrections have the same order.
    references = points[np.unique(np.linspace(0, len(points) - 1, REFERENCES).astype(np.intp))]
    typical, width = _scales(references)
    weight = doubt * np.sqrt(_density(points, references, width))
    apart = _distances_to(points, _floats(decided)[0])
    left = np.ones(len(points), dtype=bool)
    chosen: list[Chosen] = []
    for _ in range(min(most, len(points))):
        score = weight if np.isinf(apart[0]) else weight * (apart + _TIE * typical)
        row = int(np.where(left, score, -1.0).argmax())
        if not left[row]:
            break
        left[row] = False
        distances = np.sqrt(np.maximum(norms + norms[row] - 2 * (points @ points[row]), 0))
        alike = np.flatnonzero(left & (distances <= NEAR * typical) & (kinds == kinds[row]))
        left[alike] = False
        np.minimum(apart, distances, out=apart)
        chosen.append(Chosen(row, alike))
    return chosen


def _floats(vectors: Vectors) -> tuple[_Points, _Points]:
    """Return vectors as 32-bit floats, in which products of whole numbers below 128 are exact; and their squares."""
    points = vectors.astype(np.float32)
    return points, _squares(points)


def _squares(points: _Points) -> _Points:
    result: _Points = np.einsum("ij,ij->i", points, points)
    return result


def _blocks(points: _Points, others: _Points) -> Iterator[_Points]:
    """Yield the distances of all points from others, some rows at a time: shape (rows, m)."""
    squares = _squares(others)
    for start in range(0, len(points), _ROWS):
        part = points[start : start + _ROWS]
        yield np.sqrt(np.maximum(_squares(part)[:, None] + squares - 2 * part @ others.T, 0))


def _scales(references: _Points) -> tuple[float, float]:
    """Return the median distance of two points, and the width of the density's kernel; 1 where all are equal."""
    distances = np.concatenate(list(_blocks(references, references)))
    positive = distances[distances > 0]
    if not len(positive):
        return 1.0, 1.0
    return float(np.median(positive)), float(np.quantile(positive, _CLOSE))


def _density(points: _Points, references: _Points, width: float) -> Floats:
    """Return the mean of a Gaussian kernel over the references, shape (n,)."""
    parts = [np.exp(-0.5 * (block / width) ** 2).mean(axis=1) for block in _blocks(points, references)]
    density: Floats = np.concatenate(parts).astype(np.float64)
    return density


def _distances_to(points: _Points, decided: _Points) -> Floats:
    """Return the distance of each point from the closest that was decided, infinite without any, shape (n,)."""
    if not len(decided):
        return np.full(len(points), np.inf)
    closest: Floats = np.concatenate([block.min(axis=1) for block in _blocks(points, decided)]).astype(np.float64)
    return closest
