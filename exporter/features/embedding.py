"""Embeddings: vectors of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from exporter.features.base import ColumnSample, InputType
from exporter.features.image import number_array
from exporter.stats.divergence import Floats, Ints

COMPONENTS = 4
"""Number of principal directions that a profile keeps."""
MAX_DIMENSION = 4096
"""Longest vector. A longer one is invalid, since its covariance would take too much memory."""
_LARGEST = 1e100  # squares of larger numbers are not finite


class EmbeddingState(msgspec.Struct, frozen=True, tag_field="type", tag="embedding"):
    """State of an embedding in the profile.

    Attributes
    ----------
    centroid
        Mean of the training vectors.
    directions
        Unit vectors along which the training vectors vary most, in descending order.
    """

    centroid: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]


def vectors(values: Sequence[Any], dimension: int) -> tuple[Ints, Floats]:
    """Return the indices of the values that are vectors of that length, and their matrix, ``(m, dimension)``."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        values = values.tolist()
    indices = [index for index, value in enumerate(values) if isinstance(value, list) and 0 < len(value) == dimension]
    chosen = [values[index] for index in indices]
    matrix = _matrix(chosen, dimension)
    if matrix is None:  # at least one vector is invalid: convert them one by one
        rows = [_matrix([value], dimension) for value in chosen]
        indices = [index for index, row in zip(indices, rows, strict=True) if row is not None]
        matrix = np.concatenate([np.empty((0, dimension)), *(row for row in rows if row is not None)])
    return np.array(indices, dtype=np.intp), matrix


def _matrix(values: list[Any], dimension: int) -> Floats | None:
    if not values:
        return np.empty((0, dimension))
    array = number_array(values)
    if array is None or array.ndim != 2:
        return None
    return array if np.abs(array).max() < _LARGEST else None  # NaN is not smaller


class EmbeddingLearner:
    """Learn the centroid and the principal directions of the training vectors that have the most common length."""

    def __init__(self) -> None:
        self._dimension = 0
        self._rows = 0
        self._origin = self._sum = np.empty(0)
        self._products = np.empty((0, 0))
        self._state: EmbeddingState | None = None

    def learn(self, values: Sequence[Any]) -> None:
        """Add some of the training values."""
        self._state = None
        if isinstance(values, np.ndarray) and values.ndim == 2:
            values = values.tolist()
        if not self._dimension:
            lengths = Counter(len(v) for v in values if isinstance(v, list) and 0 < len(v) <= MAX_DIMENSION)
            self._dimension = lengths.most_common(1)[0][0] if lengths else 0
        _, matrix = vectors(values, self._dimension)
        if not self._dimension or not len(matrix):
            return
        if not self._rows:  # sums about one of the vectors lose fewer digits
            self._origin = matrix[0]
            self._sum = np.zeros(self._dimension)
            self._products = np.zeros((self._dimension, self._dimension))
        shifted = matrix - self._origin
        self._rows += len(matrix)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def merge(self, later: EmbeddingLearner) -> None:
        """Add other vectors; none of another length than those before."""
        if not self._rows:
            self.__dict__.update(later.__dict__)
        elif later._rows and later._dimension == self._dimension:
            moved = later._origin - self._origin
            across = np.outer(moved, later._sum)
            self._products += later._products + across + across.T + later._rows * np.outer(moved, moved)
            self._sum += later._sum + later._rows * moved
            self._rows += later._rows
            self._state = None

    def state(self) -> EmbeddingState:
        """Return the state that the profile keeps, rounded to nine digits."""
        if self._state is None:
            self._state = self._decompose()
        return self._state

    def _decompose(self) -> EmbeddingState:
        offset = self._sum / max(self._rows, 1)
        covariance = self._products / max(self._rows, 1) - np.outer(offset, offset)
        _, axes = np.linalg.eigh(covariance)
        directions = axes.T[::-1][:COMPONENTS]
        return EmbeddingState(
            tuple(float(f"{number:.9g}") for number in self._origin + offset),
            tuple(tuple(np.round(row * _sign(row), 9).tolist()) for row in directions),
        )

    def input_type(self) -> Embedding:
        """Return the type that measures the training vectors: the same as for live ones."""
        return Embedding(self.state())


def _sign(direction: Floats) -> float:
    """Return the sign of the largest component; the sign of a principal direction is arbitrary."""
    return float(np.sign(direction[np.abs(direction).argmax()])) or 1.0


class Embedding(InputType):
    """A vector: its norm, its distance from the training centroid, and its components along principal directions."""

    type = "embedding"
    noun = "an embedding"
    is_vector = True
    compared_as = "array"
    learner = EmbeddingLearner

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types == {list} and len(sample.lengths) == 1 and min(sample.lengths) > 0

    @classmethod
    def accepts_state(cls, state: Any) -> bool:
        """See `InputType.accepts_state`."""
        if not isinstance(state, EmbeddingState):
            return False
        dimension = len(state.centroid)
        return dimension > 0 and all(len(row) == dimension for row in state.directions)

    @classmethod
    def from_state(cls, state: Any) -> Embedding:
        """See `InputType.from_state`."""
        return cls(state)

    def __init__(self, state: EmbeddingState) -> None:
        self._centroid = np.array(state.centroid)
        self._directions = np.array(state.directions).reshape(len(state.directions), len(state.centroid))
        components = (f"component_{number}" for number in range(1, len(self._directions) + 1))
        self.statistics = ("norm", "centroid_distance", *components)

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        columns = np.full((len(self.statistics), len(values)), np.inf)
        if not isinstance(values, np.ndarray):
            columns[:, [index for index, value in enumerate(values) if value is None]] = np.nan
        indices, matrix = vectors(values, len(self._centroid))
        centred = matrix - self._centroid
        norms = np.linalg.norm(matrix, axis=1), np.linalg.norm(centred, axis=1)
        columns[:, indices] = np.stack([*norms, *(centred @ self._directions.T).T])
        return columns
