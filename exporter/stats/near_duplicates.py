"""Find rows that are equal to one of a set of rows, or nearly so, by hashing them into the cells of a grid.

The cells are so wide that each of the ``n`` rows of the set touches few of them with its tolerance. Each row of the set
is entered in all cells that it touches, so that a near row is found in the one cell in which it lies itself (Bentley,
Stanat and Williams, *The complexity of finding fixed-radius near neighbors*, 1977). What is found is compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints

ENTRIES = 4.0
"""Cells in which a row is entered, on average, at most about so many."""
MOST_ENTRIES = 16
"""Cells for each row above which the numbers at whose edges most rows lie are left out of the hash."""
MAX_CANDIDATES = 1000
"""Rows of one cell with which a row is compared."""
_NUMBERS = 2**21  # compared at a time
_FAR = 1e9  # further away, a tolerance is below the precision of numbers


class Rows(NamedTuple):
    """Some rows.

    Attributes
    ----------
    numbers
        In units in which the tolerance is the same for all, shape ``(F, n)``; those that are not finite are equal to
        those of the same kind alone.
    keys
        What must be equal, negative for what no row of the set has, shape ``(K, n)``.
    """

    numbers: Floats
    keys: Ints

    @property
    def size(self) -> int:
        """The number ``n`` of rows."""
        return int(self.keys.shape[1])


class NearRows:
    """A set of rows in which near ones are looked up.

    Parameters
    ----------
    rows
        The set.
    tolerance
        How far each number of a near row may be.

    Attributes
    ----------
    truncated
        Rows that were compared with only `MAX_CANDIDATES` of their cell so far.

    Examples
    --------
    >>> rows = Rows(np.array([[0.0, 5.0, 5.0]]), np.array([[0, 0, 1]]))
    >>> near = NearRows(rows, 0.01)
    >>> found = near.pairs(Rows(np.array([[5.005, 0.02]]), np.array([[1, 0]])))
    >>> [(here.tolist(), there.tolist()) for here, there in found]
    [([0], [2])]
    """

    def __init__(self, rows: Rows, tolerance: float) -> None:
        self.truncated = 0
        self._tolerance = tolerance * (1 + 1e-9)
        self._keys = _with_kinds(rows)
        self._numbers = np.ascontiguousarray(_finite(rows.numbers).T)
        features = len(rows.numbers)
        rng = np.random.default_rng(7)  # the same offsets of the grid each time
        self._width = 2 * tolerance / (ENTRIES ** (1 / max(features, 1)) - 1)
        self._pairs_at_once = max(_NUMBERS // max(features, 1), 1)
        self._offsets = rng.random((features, 1))
        self._factors = rng.integers(1, 2**63, features, dtype=np.uint64) | np.uint64(1)
        self._key_factors = rng.integers(1, 2**63, len(self._keys), dtype=np.uint64) | np.uint64(1)
        hashes, entered = self._enter(rows)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._entered = hashes[order], entered[order]

    def pairs(self, rows: Rows) -> Iterator[tuple[Ints, Ints]]:
        """Yield the indices of near pairs: of the row here, and of that in the set, two arrays of shape ``(p,)``."""
        keys, numbers = _with_kinds(rows), _finite(rows.numbers)
        hashes = self._hash(self._cells(numbers), keys)
        first = np.searchsorted(self._hashes, hashes, "left")
        number = np.searchsorted(self._hashes, hashes, "right") - first
        self.truncated += int(np.count_nonzero(number > MAX_CANDIDATES))
        number = np.minimum(number, MAX_CANDIDATES)
        candidates = np.flatnonzero(number)
        ends = np.cumsum(number[candidates])
        start = 0
        while start < len(candidates):
            before = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, before + self._pairs_at_once, "right")), start + 1)
            chosen = candidates[start:stop]
            here = np.repeat(chosen, number[chosen])
            steps = np.arange(len(here)) - np.repeat(ends[start:stop] - number[chosen] - before, number[chosen])
            there = self._entered[first[here] + steps]
            near = (self._keys[:, there] == keys[:, here]).all(axis=0)
            here, there = here[near], there[near]
            near = (np.abs(self._numbers[there] - numbers[:, here].T) <= self._tolerance).all(axis=1)
            yield here[near], there[near]
            start = stop

    def _cells(self, numbers: Floats) -> npt.NDArray[np.int64]:
        cells = np.floor(np.clip(numbers, -_FAR, _FAR) / self._width + self._offsets)
        result: npt.NDArray[np.int64] = cells.astype(np.int64)
        return result

    def _hash(self, cells: npt.NDArray[np.int64], keys: Ints) -> npt.NDArray[np.uint64]:
        result = np.zeros(keys.shape[1], np.uint64)
        for values, factors in ((cells, self._factors), (keys, self._key_factors)):
            for row, factor in zip(values, factors, strict=True):
                result += row.astype(np.uint64) * factor
        return result

    def _enter(self, rows: Rows) -> tuple[npt.NDArray[np.uint64], Ints]:
        """Return the hash of each cell that a row touches, and the row's index."""
        numbers = _finite(rows.numbers)
        low, high = self._cells(numbers - self._tolerance), self._cells(numbers + self._tolerance)
        spans = high - low
        while spans.size and np.prod(spans + 1.0, axis=0).sum() > MOST_ENTRIES * max(rows.size, 1):
            worst = int(spans.mean(axis=1).argmax())
            self._factors[worst], spans[worst] = 0, 0
        hashes, entered = self._hash(low, self._keys), np.arange(rows.size)
        for span, factor in zip(spans, self._factors, strict=True):
            touching = [(hashes, entered)]
            for step in range(1, int(span.max(initial=0)) + 1):
                more = span[entered] >= step
                touching.append((hashes[more] + np.uint64(step * int(factor) % 2**64), entered[more]))
            hashes, entered = (np.concatenate(parts) for parts in zip(*touching, strict=True))
        return hashes, entered


def _finite(numbers: Floats) -> Floats:
    return np.where(np.isfinite(numbers), numbers, 0.0)


def _with_kinds(rows: Rows) -> Ints:
    """Return the keys, and for each number whether it is missing or infinite."""
    kinds = np.where(np.isnan(rows.numbers), 1, np.where(np.isinf(rows.numbers), 2, 0))
    return np.concatenate((rows.keys, kinds.astype(np.intp)))
