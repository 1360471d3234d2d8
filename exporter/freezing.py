"""One column of training data to frozen bins: equal-frequency ones of numbers, the most frequent categories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.drift import Floats, Ints
from exporter.profile import MAX_RARE, CategoricalFeature, NumericFeature

_EXPANDED = 8_000_000  # values that are written out, so that their sum loses the fewest digits


class Cells(NamedTuple):
    """Training values of one column, counted in fine cells: distinct values, or small ranges of them.

    Attributes
    ----------
    starts
        Where each of ``C`` cells begins, ascending.
    counts
        Values in each, shape ``(C,)``.
    single
        Whether a cell holds one value only, shape ``(C,)``.
    top
        The largest value.
    """

    starts: Floats
    counts: Ints
    single: npt.NDArray[np.bool_]
    top: float

    @classmethod
    def of(cls, distinct: Floats, counts: Ints) -> Cells:
        """A cell for each distinct value."""
        return cls(distinct, counts, np.ones(len(distinct), dtype=bool), distinct[-1] if len(distinct) else math.nan)

    def edges(self, bins: int) -> tuple[float, ...]:
        """Edges of equal-frequency bins out of whole cells, a value with more than a bin's share alone in its own.

        Parameters
        ----------
        bins
            Bins to aim at.

        Examples
        --------
        >>> Cells.of(np.arange(8.0), np.ones(8, np.intp)).edges(4)[:-1]
        (0.0, 2.0, 4.0, 6.0)
        >>> cells = Cells.of(np.array([0.0, 1, 2, 3, 4]), np.array([6, 1, 1, 1, 1]))
        >>> [float(round(edge, 6)) for edge in cells.edges(2)]
        [0.0, 0.0, 4.0]
        """
        if not len(self.starts):
            return ()
        share = self.counts.sum() / bins
        edges = [float(self.starts[0])]
        alone = np.flatnonzero(self.single & (self.counts > share))
        start = 0
        for stop in [*alone.tolist(), len(self.starts)]:
            between, mass = self.starts[start:stop], np.cumsum(self.counts[start:stop])
            if len(between):
                parts = max(1, round(mass[-1] / share))
                cuts = np.searchsorted(mass, mass[-1] * np.arange(1, parts) / parts) + 1
                edges += between[cuts[cuts < len(between)]].tolist()
            if stop < len(self.starts):
                edges += [float(self.starts[stop]), math.nextafter(self.starts[stop], math.inf)]
            start = stop + 1
        edges.append(math.nextafter(self.top, math.inf))
        return tuple(edge for edge in np.unique(edges).tolist() if edge < np.inf)  # JSON has no infinity

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation (the population's) of single values."""
        scale = float(max(abs(self.starts[0]), abs(self.top), 1e-300))
        small = self.starts / scale  # so that the square of a huge value stays finite
        if self.counts.sum() <= _EXPANDED:
            small = np.repeat(small, self.counts)  # numpy's sums of many parts lose the fewest digits
            return float(small.mean() * scale), float(small.std() * scale)
        mean = np.average(small, weights=self.counts)
        return float(mean * scale), float(np.sqrt(np.average((small - mean) ** 2, weights=self.counts)) * scale)


def numeric_feature(column: Floats, bins: int = 20) -> NumericFeature:
    """Freeze one column of numbers; NaN is a missing value, an infinity an invalid one."""
    finite = column[np.isfinite(column)] + 0.0  # no negative zero
    missing = int(np.isnan(column).sum())
    cells = Cells.of(*np.unique(finite, return_counts=True))
    return counted_feature(cells, missing, len(column) - missing - len(finite), bins)


def counted_feature(
    cells: Cells, missing: int, invalid: int, bins: int, moments: tuple[float, float] | None = None
) -> NumericFeature:
    """Freeze one column of numbers, counted in cells; their mean and deviation are given where cells are ranges."""
    edges = cells.edges(bins)
    if not edges:
        return NumericFeature((), (0, missing, invalid))
    before = np.concatenate(([0], np.cumsum(cells.counts)))
    counts = np.diff(before[cells.starts.searchsorted(edges)], prepend=0, append=before[-1])
    mean, stddev = moments or cells.moments()
    low, high = float(cells.starts[0]), float(cells.top)
    return NumericFeature(
        edges=edges,
        counts=(*counts.astype(int).tolist(), missing, invalid),
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
