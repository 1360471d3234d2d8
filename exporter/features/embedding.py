"""Embeddings: vectors of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from exporter.features.base import InputType
from exporter.features.image import are_numbers
from exporter.stats.divergence import Floats, Ints

COMPONENTS = 4
"""Principal directions that a profile keeps."""
MAX_DIMENSION = 4096
"""Longer vectors are invalid: their covariance would cost more memory than one input may."""
_LARGEST = 1e100  # squares of larger numbers are not finite


class EmbeddingState(msgspec.Struct, frozen=True, tag_field="type", tag="embedding"):
    """What a profile remembers of the training vectors.

    Attributes
    ----------
    centroid
        Their mean, of the vectors' length.
    directions
        Unit vectors along which they vary most, the first the most.
    """

    centroid: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]


def vectors(values: Sequence[Any], dimension: int) -> tuple[Ints, Floats]:
    """The values that are vectors of that length: their places, and they, of shape ``(m, dimension)``."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        values = values.tolist()
    places = [place for place, value in enumerate(values) if isinstance(value, list) and 0 < len(value) == dimension]
    chosen = [values[place] for place in places]
    matrix = _matrix(chosen, dimension)
    if matrix is None:  # one of them holds something else: each for itself
        single = [_matrix([value], dimension) for value in chosen]
        places = [place for place, row in zip(places, single, strict=True) if row is not None]
        matrix = np.concatenate([np.empty((0, dimension)), *(row for row in single if row is not None)])
    return np.array(places, dtype=np.intp), matrix


def _matrix(values: list[Any], dimension: int) -> Floats | None:
    if not values:
        return np.empty((0, dimension))
    if not are_numbers(values):
        return None
    try:
        array = np.array(values, dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    if array.ndim != 2:
        return None
    good = np.abs(array).max() < _LARGEST  # not so for NaN
    return array if good else None


class Embedding(InputType):
    """A vector: its length, its distance to the training centroid, its place along the principal directions."""

    type = "embedding"
    noun = "an embedding"

    def __init__(self, state: EmbeddingState) -> None:
        self._centroid = np.array(state.centroid)
        self._directions = np.array(state.directions).reshape(len(state.directions), len(state.centroid))
        components = (f"component_{number}" for number in range(1, len(self._directions) + 1))
        self.statistics = ("norm", "centroid_distance", *components)

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        columns = np.full((len(self.statistics), len(values)), np.inf)
        if not isinstance(values, np.ndarray):
            columns[:, [place for place, value in enumerate(values) if value is None]] = np.nan
        places, matrix = vectors(values, len(self._centroid))
        centred = matrix - self._centroid
        norms = np.linalg.norm(matrix, axis=1), np.linalg.norm(centred, axis=1)
        columns[:, places] = np.stack([*norms, *(centred @ self._directions.T).T])
        return columns


class EmbeddingLearner:
    """Learns the centroid and the principal directions of the training vectors; the commonest length is theirs."""

    def __init__(self) -> None:
        self._dimension = 0
        self._rows = 0
        self._origin = self._sum = np.empty(0)
        self._products = np.empty((0, 0))
        self._state: EmbeddingState | None = None

    def learn(self, values: Sequence[Any]) -> None:
        """Take in some of the training values."""
        self._state = None
        if isinstance(values, np.ndarray) and values.ndim == 2:
            values = values.tolist()
        if not self._dimension:
            lengths = Counter(len(v) for v in values if isinstance(v, list) and 0 < len(v) <= MAX_DIMENSION)
            self._dimension = lengths.most_common(1)[0][0] if lengths else 0
        _, matrix = vectors(values, self._dimension)
        if not self._dimension or not len(matrix):
            return
        if not self._rows:  # sums about a vector of theirs keep their digits
            self._origin = matrix[0]
            self._sum = np.zeros(self._dimension)
            self._products = np.zeros((self._dimension, self._dimension))
        shifted = matrix - self._origin
        self._rows += len(matrix)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def state(self) -> EmbeddingState:
        """What the profile remembers, in nine digits."""
        if self._state is None:
            self._state = self._decomposed()
        return self._state

    def _decomposed(self) -> EmbeddingState:
        offset = self._sum / max(self._rows, 1)
        covariance = self._products / max(self._rows, 1) - np.outer(offset, offset)
        _, axes = np.linalg.eigh(covariance)
        directions = axes.T[::-1][:COMPONENTS]
        return EmbeddingState(
            tuple(float(f"{number:.9g}") for number in self._origin + offset),
            tuple(tuple(np.round(row * _sign(row), 9).tolist()) for row in directions),
        )

    def kind(self) -> Embedding:
        """How the training vectors themselves are measured: as live ones are."""
        return Embedding(self.state())


def _sign(direction: Floats) -> float:
    """A principal direction has no sign of its own: its largest part is made positive."""
    return float(np.sign(direction[np.abs(direction).argmax()])) or 1.0
