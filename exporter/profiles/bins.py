"""Frozen bins of one column of training data: equal-frequency bins of numbers, and the most frequent categories."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.features.base import as_list, category_bins, scalar_text
from exporter.profiles.profile import MAX_RARE, CategoricalFeature, Feature, NumericFeature
from exporter.stats.divergence import BinIndices, Floats, Ints, bin_indices

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
        cells = self._before.searchsorted(ranks)
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


def numeric_feature(column: Floats, bins: int = 20) -> NumericFeature:
    """Return the bins of a column of numbers; NaN is missing, an infinity is invalid."""
    missing, finite = int(np.isnan(column).sum()), column[np.isfinite(column)]
    finite += 0.0  # no negative zero
    cells = ValueCounts(*np.unique(finite, return_counts=True))
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


def feature_bins(feature: Feature, values: Sequence[Any] | Floats) -> BinIndices:
    """Return the bin of each of ``n`` values of a feature, shape ``(n,)``, in the order of its counts.

    The values are an array of numbers, in which NaN is missing and an infinity is invalid, or a list of categories.

    >>> from exporter.profiles.profile import NumericFeature
    >>> feature_bins(NumericFeature((0.0, 1.0), (0, 1, 0, 0, 0)), np.array([-1, 0.5, 9, np.nan, np.inf])).tolist()
    [0, 1, 2, 3, 4]
    """
    if isinstance(feature, CategoricalFeature):
        known = {name: index for index, name in enumerate(feature.categories)}
        return category_bins(values, known, feature.rare).astype(np.int16)
    numbers = np.asarray(values, dtype=np.float64)
    if feature.precision:
        with np.errstate(over="ignore"):
            single = numbers.astype(np.float32).astype(np.float64)
        numbers = np.where(np.isinf(single), numbers, single)
    bins: BinIndices = bin_indices(np.array(feature.edges)[:, None], numbers[None])[0]
    if len(feature.edges) + 4 > np.iinfo(bins.dtype).max:  # two more than there are bins, which callers may use
        bins = bins.astype(np.int16)
    finite = np.isfinite(numbers)
    if not finite.all():
        bins[~finite] = len(feature.edges) + 2
        bins[np.isnan(numbers)] = len(feature.edges) + 1
    return bins


MAX_CATEGORIES = 100_000
"""Most distinct categories of an input that are counted in one pass."""
MAX_CATEGORY = 500
"""Longest category in characters. A longer one is counted in ``other``, so that a profile stays small."""
_SCALARS = frozenset({str, bool, int, float})
_LEAST_SAMPLED = 8  # values of the sample in a cell
_CELLS = 64  # cells for each bin, so that bins made of whole cells have nearly equal counts


class RowSample:
    """A random sample of rows, the same however the rows are divided into batches and partitions.

    It has the rows whose numbers have the lowest hashes.

    Parameters
    ----------
    size
        Most rows of the sample.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._limit = np.uint64(2**64 - 1)
        self._parts: list[tuple[npt.NDArray[np.uint64], Ints, list[npt.NDArray[Any]]]] = []
        self._held = 0

    def choose(self, numbers: Ints) -> Ints:
        """Return the positions of those of some rows, given by their numbers, that may be in the sample."""
        return np.flatnonzero(_hashes(numbers) <= self._limit)

    def add(self, numbers: Ints, columns: list[npt.NDArray[Any]]) -> None:
        """Add rows that were chosen: their numbers, and columns whose last axis has that length."""
        self._extend([(_hashes(numbers), numbers, columns)])

    def merge(self, later: RowSample) -> None:
        """Add the sample of other rows."""
        self._extend(later._parts)

    def _extend(self, parts: Iterable[tuple[npt.NDArray[np.uint64], Ints, list[npt.NDArray[Any]]]]) -> None:
        self._parts += [part for part in parts if len(part[0])]
        self._held = sum(len(part[0]) for part in self._parts)
        if self._held > 2 * self.size:
            self._thin()

    def _thin(self) -> None:
        hashes, numbers = (np.concatenate([part[index] for part in self._parts]) for index in (0, 1))
        columns = [np.concatenate(parts, axis=-1) for parts in zip(*(part[2] for part in self._parts), strict=True)]
        kept = np.arange(len(hashes))
        if len(hashes) > self.size:
            kept = np.argpartition(hashes, self.size - 1)[: self.size]
            self._limit = hashes[kept].max()
        kept = kept[np.argsort(numbers[kept])]
        self._parts = [(hashes[kept], numbers[kept], [column[..., kept] for column in columns])]
        self._held = len(kept)

    def columns(self) -> list[npt.NDArray[Any]]:
        """Return the columns of the sample, in the order of the rows; none without rows."""
        if self._parts:
            self._thin()
        return self._parts[0][2] if self._parts else []


def in_sample(first: int, rows: int, share: float) -> npt.NDArray[np.bool_]:
    """Return which of some rows, given the number of the first, are in a random share of all."""
    return _hashes(np.arange(first, first + rows)) < np.uint64(int(share * 2**64))


def _hashes(numbers: Ints) -> npt.NDArray[np.uint64]:
    """Return a hash of each number: SplitMix64 (Steele, Lea and Flood 2014)."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


class ExactMoments:
    """Mean and standard deviation of numbers from sums of whole numbers, which no order of the values changes.

    Parameters
    ----------
    centre, scale
        A number near the values, and about how far they are from it.
    """

    def __init__(self, centre: float, scale: float) -> None:
        self._centre, self._scale = centre, scale
        self._count = self._first = self._second = 0

    def add(self, values: Floats) -> None:
        """Add finite values."""
        halves = values / 2 - self._centre / 2  # the difference of two halves cannot overflow
        with np.errstate(over="ignore"):
            shifted = halves / (self._scale / 2)
        near = np.abs(shifted) < 2.0**10
        if not near.all():
            far = [int(Fraction(half) / Fraction(self._scale) * 2**11) for half in halves[~near].tolist()]
            self._first += sum(far) << 20
            self._second += sum(value * value for value in far) << 6
            shifted = shifted[near]
        self._count += len(values)
        self._first += int(np.rint(shifted * 2.0**30).astype(np.int64).sum())
        self._second += int(np.rint(shifted * shifted * 2.0**26).astype(np.int64).sum())

    def merge(self, later: ExactMoments) -> None:
        """Add the sums of other values, with the same centre and scale."""
        self._count += later._count
        self._first += later._first
        self._second += later._second

    def read(self) -> tuple[float, float]:
        """Return the mean and the population standard deviation."""
        unit = self._count << 30
        variance = (self._second * (unit << 4) - self._first**2) if self._count else 0
        shift, stddev = (
            Fraction(total, max(unit, 1)) * Fraction(self._scale)
            for total in (self._first, math.isqrt(max(variance, 0)))
        )
        return self._centre + float(shift), float(stddev)


class NumericSketch:
    """The values of a column of numbers; NaN is missing, an infinity is invalid.

    All distinct values are counted, if they are few. If they are many, a sample of the rows says where bins may start,
    and `NumericCounts` count the values between in a second pass.

    Parameters
    ----------
    bins
        Number of bins to aim at.
    most
        Most distinct values that are counted in one pass.

    """

    def __init__(self, bins: int, most: int) -> None:
        self.exact = True
        self.missing = self.invalid = 0
        self._bins, self._most = bins, most
        self._distinct: Floats = np.empty(0)
        self._counts: Ints = np.empty(0, dtype=np.intp)
        self._pending: list[Floats] = []
        self._waiting = 0
        self._low, self._high = math.inf, -math.inf

    def add(self, column: Floats) -> None:
        """Add some of the values."""
        finite = column[np.isfinite(column)] + 0.0  # no negative zero
        missing = int(np.isnan(column).sum())
        self.missing += missing
        self.invalid += len(column) - missing - len(finite)
        if not len(finite):
            return
        self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))
        if self.exact:
            self._pending.append(finite)
            self._waiting += len(finite)
            if self._waiting > max(self._most, len(self._distinct)):
                self._count_distinct()

    def _count_distinct(self, *others: tuple[Floats, Ints]) -> None:
        new = np.unique(np.concatenate([np.empty(0), *self._pending]), return_counts=True)
        parts = [(self._distinct, self._counts), new, *others]
        values, indices = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        totals = np.bincount(indices, np.concatenate([part[1] for part in parts]), len(values))
        self.exact = self.exact and len(values) <= self._most
        self._distinct, self._counts = (
            values[: len(values) * self.exact],
            totals[: len(values) * self.exact].astype(int),
        )
        self._pending, self._waiting = [], 0

    def merge(self, later: NumericSketch) -> None:
        """Add the values of another sketch."""
        self.missing += later.missing
        self.invalid += later.invalid
        self._low, self._high = min(self._low, later._low), max(self._high, later._high)
        self.exact = self.exact and later.exact
        self._pending += later._pending
        self._count_distinct((later._distinct, later._counts))

    def finish(self, sample: Floats) -> NumericFeature | NumericCounts:
        """Return the frozen bins, or, with too many distinct values, counts between those of a sample."""
        if self.exact:
            self._count_distinct()
        if not self.exact:
            return NumericCounts(sample, (self._low, self._high), self.missing, self.invalid, self._bins)
        return binned_feature(ValueCounts(self._distinct, self._counts), self.missing, self.invalid, self._bins)


class NumericCounts:
    """Counts of the values of a column between some of them; see `NumericSketch`."""

    def __init__(self, sample: Floats, ends: tuple[float, float], missing: int, invalid: int, bins: int) -> None:
        low, self._high = ends
        self._others = missing, invalid, bins
        sample = np.sort(sample[np.isfinite(sample)]) + 0.0
        points = min(_CELLS * bins, max(len(sample) // _LEAST_SAMPLED, 2))
        ranks = (np.arange(1, points) * len(sample)) // points
        quantiles = sample[ranks] if len(sample) else sample
        frequent = quantiles[1:][quantiles[1:] == quantiles[:-1]]  # these values may need a bin of their own
        starts = np.concatenate(([low], quantiles, frequent, np.nextafter(frequent, np.inf)))
        self._starts = np.unique(starts[starts <= self._high])
        self._counts = np.zeros(len(self._starts), dtype=np.intp)
        centre = float(quantiles[len(quantiles) // 2]) if len(quantiles) else low
        spread = float((np.abs(sample / 2 - centre / 2) / len(sample)).sum() * 2) if len(sample) else 0.0
        self._moments = ExactMoments(centre, spread if 0 < spread < math.inf else max(abs(low), abs(self._high)))

    def add(self, column: Floats) -> None:
        """Add some of the values."""
        finite = np.sort(column[np.isfinite(column)]) + 0.0
        self._counts += np.diff(finite.searchsorted(self._starts), append=len(finite))
        self._moments.add(finite)

    def merge(self, later: NumericCounts) -> None:
        """Add the counts of other values."""
        self._counts += later._counts
        self._moments.merge(later._moments)

    def feature(self) -> NumericFeature:
        """Return the frozen bins."""
        single = np.append(self._starts[1:] == np.nextafter(self._starts[:-1], np.inf), False)
        cells = ValueCounts(self._starts, self._counts, single, self._high)
        return binned_feature(cells, *self._others, self._moments.read())


class CategorySketch:
    """The values of a column of categories.

    All categories are counted, if they are few. If they are many, `CategoryCounts` count those that are most frequent
    in a sample of the rows, in a second pass.

    Parameters
    ----------
    top
        Number of categories with their own bin.
    most
        Most distinct categories that are counted in one pass.
    """

    def __init__(self, top: int, most: int = MAX_CATEGORIES) -> None:
        self.exact = True
        self.missing = self.invalid = self.long = 0
        self._top, self._most = top, most
        self._counts: Counter[str] = Counter()

    def add(self, labels: Sequence[Any]) -> None:
        """Add some of the values."""
        counts, missing, invalid, long = _count_labels(labels)
        self.missing += missing
        self.invalid += invalid
        self.long += long
        self._limit(counts)

    def _limit(self, counts: Counter[str]) -> None:
        if self.exact:
            self._counts.update(counts)
            if len(self._counts) > self._most:
                self.exact, self._counts = False, Counter()

    def merge(self, later: CategorySketch) -> None:
        """Add the values of another sketch."""
        self.missing += later.missing
        self.invalid += later.invalid
        self.long += later.long
        self.exact = self.exact and later.exact
        self._counts = self._counts if self.exact else Counter()
        self._limit(later._counts)

    def finish(self, sample: Sequence[Any] | npt.NDArray[Any]) -> CategoricalFeature | CategoryCounts:
        """Return the frozen bins, or, with too many categories, counts of those that a sample has most often."""
        if self.exact:
            return categorical_feature(self._counts, self.missing, self.invalid, self._top, self.long)
        counts = _count_labels(as_list(sample))[0]
        chosen = sorted(counts, key=lambda name: (-counts[name], name))[: self._top + MAX_RARE]
        return CategoryCounts(chosen, self.missing, self.invalid, self._top, self.long)


class CategoryCounts:
    """Counts of some categories of a column; see `CategorySketch`."""

    def __init__(self, categories: Sequence[str], missing: int, invalid: int, top: int, more: int) -> None:
        self._counts = Counter(dict.fromkeys(categories, 0))
        self._others, self._long, self._more = (missing, invalid, top), more, 0

    def add(self, labels: Sequence[Any]) -> None:
        """Add some of the values."""
        for name, times in _count_labels(labels)[0].items():
            if name in self._counts:
                self._counts[name] += times
            else:
                self._more += times

    def merge(self, later: CategoryCounts) -> None:
        """Add the counts of other values."""
        self._counts.update(later._counts)
        self._more += later._more

    def feature(self) -> CategoricalFeature:
        """Return the frozen bins."""
        return categorical_feature(self._counts, *self._others, self._more + self._long)


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
