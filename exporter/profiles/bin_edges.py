"""One column of training data to frozen bins: equal-frequency ones of numbers, the most frequent categories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from exporter.profiles.profile import MAX_RARE, CategoricalFeature, NumericFeature
from exporter.stats.divergence import Floats, Ints

_EXPANDED = 8_000_000  # values that are written out, so that their sum loses the fewest digits


class ValueCounts:
    """Training values of one column, counted in fine cells: distinct values, or small ranges of them.

    Parameters
    ----------
    starts
        Where each of ``C`` cells begins, ascending.
    counts
        Values in each, shape ``(C,)``.
    single
        Whether a cell holds one value only, shape ``(C,)``; all do when None.
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
        """Edges of equal-frequency bins out of whole cells, a value with more than a bin's share alone in its own.

        Parameters
        ----------
        bins
            Bins to aim at.

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
        for value, stop, after in [*self.heavy(share), (math.inf, self.total, self.total)]:
            parts = max(1, round((stop - start) / share))
            ranks = start + np.ceil((stop - start) * np.arange(1, parts) / parts).astype(np.intp)
            edges += self.cuts(ranks, value)
            if after > stop:
                edges += [value, math.nextafter(value, math.inf)]
            start = after
        edges.append(math.nextafter(self.top, math.inf))
        return tuple(edge for edge in np.unique(edges).tolist() if edge < np.inf)  # JSON has no infinity

    def heavy(self, share: float) -> list[tuple[float, int, int]]:
        """Values that come more often, ascending; how many are below each, and how many not above it."""
        alone = self._counts > share
        places = np.flatnonzero(alone if self._single is None else alone & self._single)
        found = self.starts[places], self._before[places], self._before[places + 1]
        return list(zip(*(part.tolist() for part in found), strict=True))

    def cuts(self, ranks: Ints, limit: float) -> list[float]:
        """Where the first cell begins that has so many values before it, if that is below a limit."""
        return self._starting(self._before.searchsorted(ranks), limit)

    def _starting(self, places: Ints, limit: float) -> list[float]:
        found: list[float] = self.starts[places[places < len(self.starts)]].tolist()
        return [start for start in found if start < limit]

    def below(self, values: Sequence[float]) -> Ints:
        """How many training values are in cells that begin below each of these."""
        return self._before[self.starts.searchsorted(values)]

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation (the population's) of single values."""
        if self.total <= _EXPANDED:
            return _moments(np.repeat(self.starts, self._counts))
        scale = _scale(self.starts)
        small = self.starts / scale
        mean = np.average(small, weights=self._counts)
        return float(mean * scale), float(np.sqrt(np.average((small - mean) ** 2, weights=self._counts)) * scale)


class SortedValues(ValueCounts):
    """Training values in ascending order: cells of one value each, in which nothing needs to be counted."""

    def __init__(self, values: Floats) -> None:
        self.starts = values
        self._top = None
        self.total = len(values)

    def heavy(self, share: float) -> list[tuple[float, int, int]]:
        """See `ValueCounts.heavy`."""
        found = np.unique(self.starts[:: max(int(share), 1)])  # whatever comes more often stands there
        first, after = self.starts.searchsorted(found), self.starts.searchsorted(found, side="right")
        often = after - first > share
        return list(zip(*(part[often].tolist() for part in (found, first, after)), strict=True))

    def cuts(self, ranks: Ints, limit: float) -> list[float]:
        """See `ValueCounts.cuts`."""
        return self._starting(self.starts.searchsorted(self.starts[ranks - 1], side="right"), limit)

    def below(self, values: Sequence[float]) -> Ints:
        """See `ValueCounts.below`."""
        return self.starts.searchsorted(values)

    def moments(self) -> tuple[float, float]:
        """See `ValueCounts.moments`; the values are used up."""
        return _moments(self.starts)


def _scale(ordered: Floats) -> float:
    """What makes the square of a huge value finite."""
    return float(max(abs(ordered[0]), abs(ordered[-1]), 1e-300))


def _moments(ordered: Floats) -> tuple[float, float]:
    """Mean and standard deviation of values in ascending order: numpy's sums of many parts lose the fewest digits.

    The values are used up.
    """
    scale = _scale(ordered)
    ordered /= scale
    mean = ordered.sum() / len(ordered)
    ordered -= mean
    ordered *= ordered
    return float(mean * scale), float(np.sqrt(ordered.sum() / len(ordered)) * scale)


def numeric_feature(column: Floats, bins: int = 20, *, own: bool = False) -> NumericFeature:
    """Freeze one column of numbers; NaN is a missing value, an infinity an invalid one.

    The column is used up where it is the caller's ``own`` and nobody else's.
    """
    valid = np.isfinite(column)
    whole = valid.all()
    missing = 0 if whole else int(np.isnan(column).sum())
    finite = column if whole else column[valid]
    finite = np.add(finite, 0.0, out=finite if own else None)  # no negative zero
    finite.sort()
    cells = SortedValues(finite) if len(finite) <= _EXPANDED else ValueCounts(*np.unique(finite, return_counts=True))
    return binned_feature(cells, missing, len(column) - missing - len(finite), bins)


def binned_feature(
    cells: ValueCounts, missing: int, invalid: int, bins: int, moments: tuple[float, float] | None = None
) -> NumericFeature:
    """Freeze one column of numbers, counted in cells; their mean and deviation are given where cells are ranges."""
    edges = cells.edges(bins)
    if not edges:
        return NumericFeature((), (0, missing, invalid))
    counts = np.diff(cells.below(edges), prepend=0, append=cells.total)
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
    """Freeze one column of categories, given how often each stands in it, and ``more`` values of further ones."""
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    kept, rare = ordered[:top], ordered[top:]
    return CategoricalFeature(
        categories=tuple(kept),
        counts=(*(counts[name] for name in kept), sum(counts[name] for name in rare) + more, missing, invalid),
        rare=frozenset(rare[:MAX_RARE]),
    )
