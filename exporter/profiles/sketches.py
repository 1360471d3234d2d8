"""Training values of one feature counted in bounded memory.

What is exact in one pass stays so. Past a bound the first pass only finds where bins may begin,
and a second one counts what lies between: the counts of a profile are exact in any case.
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
"""Distinct categories of one input that are counted in one pass."""
MAX_CATEGORY = 500
"""Characters of a category; a longer one is counted in ``other``, so that a profile stays small."""
_SCALARS = frozenset({str, bool, int, float})
_CELLS = 64  # cells for each bin, so that bins of whole cells are of nearly equal frequency


class QuantileSketch:
    """Quantiles of a stream in bounded memory.

    Full buffers are sorted and every second value goes on with twice the weight, or of a long one every fourth with
    four times the weight and so on, first and last taken in turn (Manku, Rajagopalan and Lindsay 1998; with random
    turns it is the KLL sketch of Karnin, Lang and Liberty 2016). Without chance the same data give the same profile.
    Of ``n`` values a rank is wrong by at most ``n · log₂(n/size)/size``, and far less as errors cancel.

    Parameters
    ----------
    size
        Values in a buffer; there are ``log₂(n/size)`` buffers.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._levels: list[Floats] = []
        self._turns: list[int] = []

    def add(self, values: Floats, level: int = 0) -> None:
        """Take in values, each standing for ``2**level`` of them."""
        while len(self._levels) <= level:
            self._levels.append(np.empty(0))
            self._turns.append(0)
        held = np.concatenate((self._levels[level], values))
        if len(held) < self._size:
            self._levels[level] = held
            return
        up = max((len(held) // self._size).bit_length() - 1, 1)  # as many levels at once as leave a full buffer
        step = 2**up
        even = len(held) // step * step
        held, self._levels[level] = np.sort(held[:even]), held[even:]
        turn, self._turns[level] = self._turns[level], 1 - self._turns[level]
        self.add(held[turn * (step - 1) :: step], level + up)

    def quantiles(self, shares: Floats) -> Floats:
        """Values at shares of the ranks."""
        values = np.concatenate(self._levels)
        weights = np.concatenate([np.full(len(held), 2.0**level) for level, held in enumerate(self._levels)])
        order = np.argsort(values, kind="stable")
        ranks = np.cumsum(weights[order])
        found: Floats = values[order][np.minimum(ranks.searchsorted(shares * ranks[-1]), len(values) - 1)]
        return found


class NumericSketch:
    """One column of numbers: NaN is a missing value, an infinity an invalid one.

    Parameters
    ----------
    bins
        Bins to aim at.
    most
        Distinct values that are counted exactly in one pass.

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
        """Take in some of the values."""
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
        self._distinct, places = np.unique(np.concatenate((self._distinct, new)), return_inverse=True)
        totals = np.bincount(places, weights=np.concatenate((self._counts, counts)), minlength=len(self._distinct))
        self._counts = totals.astype(np.intp)
        self._pending, self._waiting = [], 0

    def again(self) -> None:
        """Turn to the second pass: fix the cells to count in."""
        assert self._sketch  # noqa: S101
        points = _CELLS * self._bins
        found = self._sketch.quantiles(np.arange(1, points) / points)
        heavy = found[1:][found[1:] == found[:-1]]  # what is found twice may deserve a bin of its own
        starts = np.concatenate(([self._low], found, heavy, np.nextafter(heavy, np.inf)))
        self._distinct = np.unique(starts[starts <= self._high])
        self._counts = np.zeros(len(self._distinct), dtype=np.intp)
        self._centre = float(found[len(found) // 2])
        self._scale = max(abs(self._low), abs(self._high))
        if (spread := self._high - self._low) < math.inf:
            self._scale = spread

    def count(self, column: Floats) -> None:
        """Count some of the values in the second pass."""
        finite = np.sort(column[np.isfinite(column)]) + 0.0
        self._counts += np.diff(finite.searchsorted(self._distinct), append=len(finite))
        halves = finite / 2 - self._centre / 2  # no difference of two finite numbers is too large by half
        shifted = halves / (self._scale / 2)
        self._first += float(shifted.sum())
        self._second += float(shifted @ shifted)

    def feature(self) -> NumericFeature:
        """The frozen bins."""
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
    """One column of categories.

    Parameters
    ----------
    top
        Categories with a bin of their own.
    most
        Distinct categories that are counted in one pass.

    Attributes
    ----------
    exact
        Whether one pass was enough. Past ``most`` the rarest half is forgotten, again and again.
    """

    def __init__(self, top: int, most: int = MAX_CATEGORIES) -> None:
        self.exact = True
        self.missing = self.invalid = self.long = 0
        self._top, self._most = top, most
        self._tally: Counter[str] = Counter()
        self._more = 0

    def add(self, labels: Sequence[Any]) -> None:
        """Take in some of the values."""
        tally, missing, invalid, long = _tallied(labels)
        self.missing += missing
        self.invalid += invalid
        self.long += long
        self._tally.update(tally)
        if len(self._tally) > self._most:
            self.exact = False
            self._tally = Counter(dict(self._tally.most_common(self._most // 2)))

    def again(self) -> None:
        """Turn to the second pass: fix the categories to count."""
        self._tally = Counter(dict.fromkeys(dict(self._tally.most_common(self._top + MAX_RARE)), 0))

    def count(self, labels: Sequence[Any]) -> None:
        """Count some of the values in the second pass."""
        for name, times in _tallied(labels)[0].items():
            if name in self._tally:
                self._tally[name] += times
            else:
                self._more += times

    def feature(self) -> CategoricalFeature:
        """The frozen bins."""
        return categorical_feature(self._tally, self.missing, self.invalid, self._top, self._more + self.long)


def _tallied(labels: Sequence[Any]) -> tuple[Counter[str], int, int, int]:
    """How often each category came; how many were missing, of the wrong type, and too long."""
    types = set(map(type, labels)) - {type(None)}
    if len(types) == 1 and types <= _SCALARS:  # values of several types may be equal and spelt differently
        counted: Iterable[tuple[Any, int]] = Counter(labels).items()
    else:
        counted = ((value, 1) for value in labels)
    tally: Counter[str] = Counter()
    missing = invalid = 0
    for value, times in counted:
        if isinstance(value, str | bool | int | float) and value == value:  # noqa: PLR0124 (not NaN)
            tally[scalar_text(value)] += times
        elif value is None or isinstance(value, float):
            missing += times
        else:
            invalid += times
    long = sum(tally.pop(name) for name in [name for name in tally if len(name) > MAX_CATEGORY])
    return tally, missing, invalid, long
