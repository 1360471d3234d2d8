"""Frozen bins of one column of training data: equal-frequency bins of numbers, and the most frequent categories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from exporter.profiles.profile import MAX_RARE, CategoricalFeature, NumericFeature
from exporter.stats.divergence import Floats, Ints

_EXPANDED = 8_000_000  # up to here all values are summed one by one, which loses the fewest digits


class ValueCounts:
    """Counts of the training values of a column in fine cells: distinct values, or small ranges of values.

    Parameters
    ----------
    starts
        Start of each of ``C`` cells, ascending.
    counts
        Number of values in each, shape ``(C,)``.
    single
        Whether a cell holds a single value, shape ``(C,)``; all do when None.
    top
        The largest value; the last start when None.
    """

    def __init__(
        self, starts: Floats, counts: Ints, single: npt.NDArray[np.bool_] | None = None, top: float | None = None
    ) -> None:
        self.starts = starts
        self._counts, self._single, self._top = counts, single, top
        self._before = np.concatenate(([0], np.cumsum(counts)))
        self.total = int(self._before[-1])

    @property
    def top(self) -> float:
        """The largest value."""
        return float(self.starts[-1]) if self._top is None else self._top

    def edges(self, bins: int) -> tuple[float, ...]:
        """Return the edges of equal-frequency bins that consist of whole cells.

        A value with more than a bin's share of the rows has a bin of its own.

        Parameters
        ----------
        bins
            Number of bins to aim at.

        Examples
        --------
        >>> ValueCounts(np.arange(8.0), np.ones(8, np.intp)).edges(4)[:-1]
        (0.0, 2.0, 4.0, 6.0)
        >>> cells = ValueCounts(np.array([0.0, 1, 2, 3, 4]), np.array([6, 1, 1, 1, 1]))
        >>> [float(round(edge, 6)) for edge in cells.edges(2)]
        [0.0, 0.0, 4.0]
        """
        if not self.total:
            return ()
        share = self.total / bins
        edges = [float(self.starts[0])]
        start = 0
        for value, stop, after in [*self.frequent_values(share), (math.inf, self.total, self.total)]:
            parts = max(1, round((stop - start) / share))
            ranks = start + np.ceil((stop - start) * np.arange(1, parts) / parts).astype(np.intp)
            edges += self.starts_at_ranks(ranks, value)
            if after > stop:
                edges += [value, math.nextafter(value, math.inf)]
            start = after
        edges.append(math.nextafter(self.top, math.inf))
        return tuple(edge for edge in np.unique(edges).tolist() if edge < np.inf)  # JSON has no infinity

    def frequent_values(self, count: float) -> list[tuple[float, int, int]]:
        """Return the values that occur more than ``count`` times, ascending.

        With each value come the number of values below it, and of those not above it.
        """
        frequent = self._counts > count
        cells = np.flatnonzero(frequent if self._single is None else frequent & self._single)
        columns = self.starts[cells], self._before[cells], self._before[cells + 1]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def starts_at_ranks(self, ranks: Ints, limit: float) -> list[float]:
        """Return the start of the first cell with at least each number of values before it, if below a limit."""
        return self._starts_below(self._before.searchsorted(ranks), limit)

    def _starts_below(self, cells: Ints, limit: float) -> list[float]:
        starts: list[float] = self.starts[cells[cells < len(self.starts)]].tolist()
        return [start for start in starts if start < limit]

    def counts_below(self, values: Sequence[float]) -> Ints:
        """Return how many training values are in cells that start below each of the values."""
        return self._before[self.starts.searchsorted(values)]

    def moments(self) -> tuple[float, float]:
        """Return the mean and the population standard deviation; cells must hold single values."""
        if self.total <= _EXPANDED:
            return _moments(np.repeat(self.starts, self._counts))
        scale = _scale(self.starts)
        small = self.starts / scale
        mean = np.average(small, weights=self._counts)
        return float(mean * scale), float(np.sqrt(np.average((small - mean) ** 2, weights=self._counts)) * scale)


class SortedValues(ValueCounts):
    """Training values in ascending order: each is a cell, so nothing needs to be counted."""

    def __init__(self, values: Floats) -> None:
        self.starts = values
        self._top = None
        self.total = len(values)

    def frequent_values(self, count: float) -> list[tuple[float, int, int]]:
        """See `ValueCounts.frequent_values`."""
        candidates = np.unique(self.starts[:: max(int(count), 1)])  # every value that occurs more often is among them
        first, after = self.starts.searchsorted(candidates), self.starts.searchsorted(candidates, side="right")
        frequent = after - first > count
        return list(zip(*(part[frequent].tolist() for part in (candidates, first, after)), strict=True))

    def starts_at_ranks(self, ranks: Ints, limit: float) -> list[float]:
        """See `ValueCounts.starts_at_ranks`."""
        return self._starts_below(self.starts.searchsorted(self.starts[ranks - 1], side="right"), limit)

    def counts_below(self, values: Sequence[float]) -> Ints:
        """See `ValueCounts.counts_below`."""
        return self.starts.searchsorted(values)

    def moments(self) -> tuple[float, float]:
        """See `ValueCounts.moments`; overwrites the values."""
        return _moments(self.starts)


def _scale(ordered: Floats) -> float:
    """Return a scale that keeps the squares of huge values finite."""
    return float(max(abs(ordered[0]), abs(ordered[-1]), 1e-300))


def _moments(ordered: Floats) -> tuple[float, float]:
    """Return mean and standard deviation of values in ascending order, and overwrite the values.

    numpy's pairwise sums lose the fewest digits.
    """
    scale = _scale(ordered)
    ordered /= scale
    mean = ordered.sum() / len(ordered)
    ordered -= mean
    ordered *= ordered
    return float(mean * scale), float(np.sqrt(ordered.sum() / len(ordered)) * scale)


def numeric_feature(column: Floats, bins: int = 20, *, overwrite: bool = False) -> NumericFeature:
    """Return the bins of a column of numbers; NaN is missing, an infinity is invalid. May ``overwrite`` the column."""
    valid = np.isfinite(column)
    all_valid = valid.all()
    missing = 0 if all_valid else int(np.isnan(column).sum())
    finite = column if all_valid else column[valid]
    finite = np.add(finite, 0.0, out=finite if overwrite else None)  # no negative zero
    finite.sort()
    cells = SortedValues(finite) if len(finite) <= _EXPANDED else ValueCounts(*np.unique(finite, return_counts=True))
    return binned_feature(cells, missing, len(column) - missing - len(finite), bins)


def binned_feature(
    cells: ValueCounts, missing: int, invalid: int, bins: int, moments: tuple[float, float] | None = None
) -> NumericFeature:
    """Return the bins of counted numbers; ``moments`` are mean and standard deviation, for cells that are ranges."""
    edges = cells.edges(bins)
    if not edges:
        return NumericFeature((), (0, missing, invalid))
    counts = np.diff(cells.counts_below(edges), prepend=0, append=cells.total)
    low, high = float(cells.starts[0]), cells.top
    mean, stddev = moments or cells.moments()
    return NumericFeature(
        edges=edges,
        counts=(*counts.tolist(), missing, invalid),
        mean=mean,
        stddev=stddev if low < high else 0.0,
        min=low,
        max=high,
    )


def categorical_feature(
    counts: Mapping[str, int], missing: int, invalid: int, top: int = 50, more: int = 0
) -> CategoricalFeature:
    """Return the bins of categories from the count of each, and of ``more`` values of further categories."""
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    frequent, rare = ordered[:top], ordered[top:]
    return CategoricalFeature(
        categories=tuple(frequent),
        counts=(*(counts[name] for name in frequent), sum(counts[name] for name in rare) + more, missing, invalid),
        rare=frozenset(rare[:MAX_RARE]),
    )
