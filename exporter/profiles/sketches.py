"""Count the training values of a feature in bounded memory.

Up to a bound, one pass counts exactly. Beyond it the first pass only finds where bins may start, and a second pass
counts the values between: the counts of a profile are exact in either case.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from exporter.features.extract import scalar_text
from exporter.profiles.bin_edges import ValueCounts, binned_feature, categorical_feature
from exporter.profiles.profile import MAX_RARE, CategoricalFeature, NumericFeature
from exporter.stats.divergence import Floats, Ints

MAX_CATEGORIES = 100_000
"""Most distinct categories of an input that are counted in one pass."""
MAX_CATEGORY = 500
"""Longest category in characters. A longer one is counted in ``other``, so that a profile stays small."""
_SCALARS = frozenset({str, bool, int, float})
_CELLS = 64  # cells for each bin, so that bins made of whole cells have nearly equal counts


class QuantileSketch:
    """Quantiles of a stream in bounded memory.

    A full buffer is sorted, and every second value moves to the next level with twice the weight (of a longer buffer
    every fourth with four times the weight, and so on), starting with the first and the last value alternately (Manku,
    Rajagopalan and Lindsay 1998; with a random start it is the KLL sketch of Karnin, Lang and Liberty 2016). It is
    deterministic, so the same data give the same profile. The rank error for ``n`` values is at most
    ``n · log₂(n/size)/size``, and usually far smaller, since errors cancel.

    Parameters
    ----------
    size
        Number of values in a buffer; there are ``log₂(n/size)`` buffers.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._levels: list[Floats] = []
        self._turns: list[int] = []

    def add(self, values: Floats, level: int = 0) -> None:
        """Add values with the weight ``2**level``."""
        while len(self._levels) <= level:
            self._levels.append(np.empty(0))
            self._turns.append(0)
        held = np.concatenate((self._levels[level], values))
        if len(held) < self._size:
            self._levels[level] = held
            return
        up = max((len(held) // self._size).bit_length() - 1, 1)  # skip levels as long as a full buffer remains
        step = 2**up
        even = len(held) // step * step
        held, self._levels[level] = np.sort(held[:even]), held[even:]
        turn, self._turns[level] = self._turns[level], 1 - self._turns[level]
        self.add(held[turn * (step - 1) :: step], level + up)

    def quantiles(self, shares: Floats) -> Floats:
        """Return the quantiles at the given shares."""
        values = np.concatenate(self._levels)
        weights = np.concatenate([np.full(len(held), 2.0**level) for level, held in enumerate(self._levels)])
        order = np.argsort(values, kind="stable")
        ranks = np.cumsum(weights[order])
        quantiles: Floats = values[order][np.minimum(ranks.searchsorted(shares * ranks[-1]), len(values) - 1)]
        return quantiles


class NumericSketch:
    """The values of a column of numbers; NaN is missing, an infinity is invalid.

    Parameters
    ----------
    bins
        Number of bins to aim at.
    most
        Most distinct values that are counted in one pass.

    Attributes
    ----------
    exact
        Whether one pass was enough.
    """

    def __init__(self, bins: int, most: int) -> None:
        self.exact = True
        self.missing = self.invalid = self.valid = 0
        self._bins, self._most = bins, most
        self._distinct: Floats = np.empty(0)
        self._counts: Ints = np.empty(0, dtype=np.intp)
        self._pending: list[Floats] = []
        self._waiting = 0
        self._sketch: QuantileSketch | None = None
        self._low, self._high = math.inf, -math.inf
        self._first = self._second = 0.0
        self._centre, self._scale = 0.0, 1.0

    def add(self, column: Floats) -> None:
        """Add some of the values."""
        finite = column[np.isfinite(column)] + 0.0  # no negative zero
        missing = int(np.isnan(column).sum())
        self.missing += missing
        self.invalid += len(column) - missing - len(finite)
        self.valid += len(finite)
        if not len(finite):
            return
        self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))
        if self._sketch:
            self._sketch.add(finite)
            return
        self._pending.append(finite)
        self._waiting += len(finite)
        if self._waiting > max(self._most, len(self._distinct)):
            self._merge()
        if len(self._distinct) > self._most:
            self.exact, self._sketch = False, QuantileSketch()
            for level in range(int(self._counts.max()).bit_length()):  # a count is a sum of powers of two
                self._sketch.add(self._distinct[(self._counts >> level) & 1 == 1], level)
            self._distinct, self._counts = np.empty(0), np.empty(0, dtype=np.intp)

    def _merge(self) -> None:
        new, counts = np.unique(np.concatenate([np.empty(0), *self._pending]), return_counts=True)
        self._distinct, indices = np.unique(np.concatenate((self._distinct, new)), return_inverse=True)
        totals = np.bincount(indices, weights=np.concatenate((self._counts, counts)), minlength=len(self._distinct))
        self._counts = totals.astype(np.intp)
        self._pending, self._waiting = [], 0

    def start_second_pass(self) -> None:
        """Fix the cells in which the second pass counts."""
        assert self._sketch  # noqa: S101
        points = _CELLS * self._bins
        quantiles = self._sketch.quantiles(np.arange(1, points) / points)
        frequent = quantiles[1:][quantiles[1:] == quantiles[:-1]]  # these values may need a bin of their own
        starts = np.concatenate(([self._low], quantiles, frequent, np.nextafter(frequent, np.inf)))
        self._distinct = np.unique(starts[starts <= self._high])
        self._counts = np.zeros(len(self._distinct), dtype=np.intp)
        self._centre = float(quantiles[len(quantiles) // 2])
        self._scale = max(abs(self._low), abs(self._high))
        if (spread := self._high - self._low) < math.inf:
            self._scale = spread

    def count(self, column: Floats) -> None:
        """Count some of the values in the second pass."""
        finite = np.sort(column[np.isfinite(column)]) + 0.0
        self._counts += np.diff(finite.searchsorted(self._distinct), append=len(finite))
        halves = finite / 2 - self._centre / 2  # the difference of two halves cannot overflow
        shifted = halves / (self._scale / 2)
        self._first += float(shifted.sum())
        self._second += float(shifted @ shifted)

    def feature(self) -> NumericFeature:
        """Return the frozen bins."""
        if self.exact:
            self._merge()
            return binned_feature(ValueCounts(self._distinct, self._counts), self.missing, self.invalid, self._bins)
        single = np.append(self._distinct[1:] == np.nextafter(self._distinct[:-1], np.inf), False)
        offset = self._first / self.valid
        moments = (
            self._centre + offset * self._scale,
            math.sqrt(max(self._second / self.valid - offset**2, 0.0)) * self._scale,
        )
        cells = ValueCounts(self._distinct, self._counts, single, self._high)
        return binned_feature(cells, self.missing, self.invalid, self._bins, moments)


class CategorySketch:
    """The values of a column of categories.

    Parameters
    ----------
    top
        Number of categories with their own bin.
    most
        Most distinct categories that are counted in one pass.

    Attributes
    ----------
    exact
        Whether one pass was enough. Whenever there are more than ``most``, the rarest half is dropped.
    """

    def __init__(self, top: int, most: int = MAX_CATEGORIES) -> None:
        self.exact = True
        self.missing = self.invalid = self.long = 0
        self._top, self._most = top, most
        self._counts: Counter[str] = Counter()
        self._more = 0

    def add(self, labels: Sequence[Any]) -> None:
        """Add some of the values."""
        counts, missing, invalid, long = _count_labels(labels)
        self.missing += missing
        self.invalid += invalid
        self.long += long
        self._counts.update(counts)
        if len(self._counts) > self._most:
            self.exact = False
            self._counts = Counter(dict(self._counts.most_common(self._most // 2)))

    def start_second_pass(self) -> None:
        """Fix the categories that the second pass counts."""
        self._counts = Counter(dict.fromkeys(dict(self._counts.most_common(self._top + MAX_RARE)), 0))

    def count(self, labels: Sequence[Any]) -> None:
        """Count some of the values in the second pass."""
        for name, times in _count_labels(labels)[0].items():
            if name in self._counts:
                self._counts[name] += times
            else:
                self._more += times

    def feature(self) -> CategoricalFeature:
        """Return the frozen bins."""
        return categorical_feature(self._counts, self.missing, self.invalid, self._top, self._more + self.long)


def _count_labels(labels: Sequence[Any]) -> tuple[Counter[str], int, int, int]:
    """Return the count of each category, and how many values are missing, of the wrong type, and too long."""
    types = set(map(type, labels)) - {type(None)}
    if len(types) == 1 and types <= _SCALARS:  # equal values of different types, such as 1 and true, have other texts
        pairs: Iterable[tuple[Any, int]] = Counter(labels).items()
    else:
        pairs = ((value, 1) for value in labels)
    counts: Counter[str] = Counter()
    missing = invalid = 0
    for value, times in pairs:
        if isinstance(value, str | bool | int | float) and value == value:  # noqa: PLR0124 (not NaN)
            counts[scalar_text(value)] += times
        elif value is None or isinstance(value, float):
            missing += times
        else:
            invalid += times
    long = sum(counts.pop(name) for name in [name for name in counts if len(name) > MAX_CATEGORY])
    return counts, missing, invalid, long
