"""Search for slices: the bins, and pairs of bins, that hold more than their share of the marked rows.

The search is that of SliceLine (Sagadeeva and Boehm, SIGMOD 2021) with another score. A pair holds no more marked rows
than either of its bins, which bounds how much it can stand out: bins that cannot lead anywhere are left out, and so are
pairs by the counts of a sample. What remains is counted exactly, and tested.

All bins and pairs with enough rows count as tests, whether they were left out or not. The list is not redundant: after
a slice is found, the next ones are judged on the rows that it does not hold, and a pair must hold more than its share
of each of its bins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from exporter.monitoring.binner import Binner
from exporter.stats.divergence import Floats, Ints
from exporter.stats.multiple_tests import block_design_effect, clustered_upper_tail, likelihood_ratio, upper_tail

LEVEL = 0.05
"""Probability at most that any slice of the list is false."""
MIN_ROWS, MIN_MARKED = 20, 5
"""Rows, and marked rows, that a slice has at least."""
MIN_RATIO = 1.2
"""How many times its share of all rows a slice holds at least, unless the caller wants another ratio."""
SAMPLE = 100_000
"""Rows of which the sizes of pairs are estimated."""
MAX_FEATURES, MAX_BINS = 60, 200
"""Features of which pairs are searched, and bins of each, those that stand out most."""
MAX_CANDIDATES = 1000
"""Slices that are counted exactly."""
_PARENT_LEVEL = 0.01
_DEVIATIONS = 2.0  # by which a sample's counts may be off where a pair is left out

Bins = tuple[tuple[int, int], ...]


class Slice(NamedTuple):
    """Rows in one bin, or in a bin of each of two features.

    Attributes
    ----------
    bins
        One or two pairs of a feature and the index of its bin.
    size, marked
        Numbers of rows, and of marked rows.
    q_value
        p-value times the number of tests, at most 1; of the rows that the slices before it do not hold.
    """

    bins: Bins
    size: int
    marked: int
    q_value: float


class Found(NamedTuple):
    """The slices, the first stands out most; the number of tests; and features of which no pairs were searched."""

    slices: list[Slice]
    tests: int
    left_out: int


def search(
    codes: Codes,
    marked: npt.NDArray[np.bool_],
    limit: int,
    dependence: Dependence | None = None,
    ratio: float = MIN_RATIO,
) -> Found:
    """Find the slices that hold more than their share of the marked rows.

    Parameters
    ----------
    codes
        Bin of each feature in each row, shape ``(F, n)``.
    marked
        Whether each row is marked, shape ``(n,)``.
    limit
        Slices at most.
    dependence
        Which rows depend on each other.
    ratio
        How many times its share of all rows a slice holds at least.
    """
    rows, total = len(marked), int(np.count_nonzero(marked))
    if not total or total == rows or not len(codes):
        return Found([], 0, 0)
    return _Search(codes, marked, total, dependence, ratio).run(limit)


class _Search:
    def __init__(
        self, codes: Codes, marked: npt.NDArray[np.bool_], total: int, dependence: Dependence | None, ratio: float
    ) -> None:
        self._ratio = ratio
        self._codes, self._rows, self._total = codes, len(marked), total
        self._marked_rows: Ints = np.flatnonzero(marked)
        self._marked_codes = np.ascontiguousarray(codes[:, self._marked_rows])
        self._dependence = dependence
        self._all, self._marked = BinRows(codes), BinRows(self._marked_codes)

    def run(self, limit: int) -> Found:
        sizes = [_counts(row) for row in self._codes]
        marked = [np.bincount(row, minlength=len(size)) for row, size in zip(self._marked_codes, sizes, strict=True)]
        supported = np.array([np.count_nonzero(size >= MIN_ROWS) for size in sizes])
        tests = int(supported.sum() + (supported.sum() ** 2 - np.square(supported).sum()) // 2)
        self._tests, self._bins = max(tests, 1), int(supported.sum())
        self._least = math.log(self._tests / LEVEL) / 3  # a slice may stand out more once another is taken out
        candidates: list[Bins] = [
            ((feature, int(index)),)
            for feature in range(len(sizes))
            for index in np.flatnonzero((sizes[feature] >= MIN_ROWS) & (marked[feature] >= MIN_MARKED))
            if self._score(marked[feature][index], sizes[feature][index]) >= self._least
        ]
        chosen = self._promising(sizes, marked)
        candidates += self._pairs(chosen)
        left_out = int(np.count_nonzero(supported)) - len(chosen)
        return Found(self._choose(candidates, limit), tests, max(left_out, 0) if len(chosen) == MAX_FEATURES else 0)

    def _score(self, marked: Floats | Ints, size: Floats | Ints) -> Floats:
        return likelihood_ratio(marked, size, self._total, self._rows)

    def _promising(self, sizes: Sequence[Ints], marked: Sequence[Ints]) -> list[_Column]:
        """Return the features whose pairs are searched, with the bins whose pairs may be significant."""
        generator = np.random.default_rng(0)
        sample = _sample(generator, np.arange(self._rows), SAMPLE)
        of_marked = _sample(generator, np.arange(self._total), SAMPLE)
        self._scale, self._marked_scale = self._rows / len(sample), self._total / len(of_marked)
        columns: list[tuple[float, int, Ints]] = []
        for feature, (size, marks) in enumerate(zip(sizes, marked, strict=True)):
            best = self._score(marks, np.maximum(marks, MIN_ROWS))
            bins = np.flatnonzero((size >= MIN_ROWS) & (marks >= MIN_MARKED) & (best >= self._least))
            if len(bins):
                bins = np.sort(bins[np.argsort(-marks[bins], kind="stable")[:MAX_BINS]])
                columns.append((float(self._score(marks, np.maximum(size, 1)).max()), feature, bins))
        columns.sort(key=lambda column: (-column[0], column[1]))
        result = []
        for _, feature, bins in columns[:MAX_FEATURES]:
            codes = np.zeros(len(sizes[feature]), dtype=np.intp)
            codes[bins] = np.arange(1, len(bins) + 1)
            result.append(
                _Column(
                    feature, bins, codes[self._codes[feature][sample]], codes[self._marked_codes[feature][of_marked]]
                )
            )
        return sorted(result, key=lambda column: column.feature)

    def _pairs(self, columns: Sequence[_Column]) -> list[Bins]:
        """Return the pairs of bins that stand out most by the counts of a sample, ordered by their bins."""
        found = [self._cells(first, second) for first, second in itertools.combinations(columns, 2)]
        if not found:
            return []
        bins, marked, size = (np.concatenate(parts) for parts in zip(*found, strict=True))
        score = self._score(marked, np.maximum(size, marked))
        best = np.flatnonzero(score >= self._least)
        best = np.sort(best[np.argsort(-score[best], kind="stable")[:MAX_CANDIDATES]])
        return [((first, one), (second, other)) for first, one, second, other in bins[best].tolist()]

    def _cells(self, first: _Column, second: _Column) -> tuple[Ints, Floats, Floats]:
        """Return the pairs of bins of two features that may hold more than their share.

        Returns
        -------
        tuple
            Feature, bin, feature and bin of ``P`` pairs, shape ``(P, 4)``; estimates of the marked rows that each
            holds, and of all its rows, shape ``(P,)``.
        """
        width = len(second.bins) + 1
        shape = (len(first.bins) + 1, width)
        cells = shape[0] * width
        marked = np.bincount(first.marked * width + second.marked, minlength=cells).reshape(shape)[1:, 1:]
        size = np.bincount(first.sampled * width + second.sampled, minlength=cells).reshape(shape)[1:, 1:]
        most = _bound(marked, self._marked_scale, 1) * (self._rows / self._total)
        kept = np.nonzero(
            (most > self._ratio * _bound(size, self._scale, -1)) & (marked * self._marked_scale >= MIN_MARKED)
        )
        one, other = first.bins[kept[0]], second.bins[kept[1]]
        bins = np.stack([np.full_like(one, first.feature), one, np.full_like(other, second.feature), other], axis=1)
        return bins, np.multiply(marked[kept], self._marked_scale), np.multiply(size[kept] + 0.5, self._scale)

    def _choose(self, candidates: list[Bins], limit: int) -> list[Slice]:
        """Take the slice that stands out most, then the next one among the rows that it does not hold, and so on."""
        sizes = np.array([count(self._all.of(bins)) for bins in candidates], dtype=np.float64)
        marked = np.array([count(self._marked.of(bins)) for bins in candidates], dtype=np.float64)
        rest = _Rest(pack(np.ones(self._rows, np.bool_)), pack(np.ones(self._total, np.bool_)), self._rows, self._total)
        result: list[Slice] = []
        size_now, open_ = sizes.copy(), sizes >= MIN_ROWS
        while len(result) < limit and open_.any() and rest.total:
            picked = self._best(candidates, rest, size_now, open_)
            if picked is None:
                break
            index, q_value = picked
            bins = candidates[index]
            share = marked[index] / self._total * self._rows / sizes[index]
            open_[index] = False
            if share < self._ratio:
                continue
            result.append(Slice(bins, int(sizes[index]), int(marked[index]), q_value))
            taken = rest.without(self._all.of(bins), self._marked.of(bins))
            size_now = np.maximum(size_now - (rest.rows - taken.rows), 0)  # at least so many are left
            rest = taken
        return result

    def _best(
        self, candidates: list[Bins], rest: _Rest, size_now: Floats, open_: npt.NDArray[np.bool_]
    ) -> tuple[int, float] | None:
        """Return the slice that stands out most in the rest, and its q-value; None if none is significant."""
        marked = np.array(
            [count(self._marked.of(c) & rest.marked) if o else 0 for c, o in zip(candidates, open_, strict=True)],
            dtype=np.float64,
        )
        open_ &= marked >= MIN_MARKED
        exact = np.zeros(len(candidates), np.bool_)
        score = np.where(open_, likelihood_ratio(marked, np.maximum(size_now, marked), rest.total, rest.rows), 0.0)
        tried = np.zeros(len(candidates), np.bool_)
        while True:
            index = int(np.where(tried, 0.0, score).argmax())
            if tried[index] or score[index] < self._least:
                return None
            if not exact[index]:
                size_now[index], exact[index] = count(self._all.of(candidates[index]) & rest.all), True
                score[index] = likelihood_ratio(marked[index], size_now[index], rest.total, rest.rows)
                continue
            tried[index] = True
            if size_now[index] < MIN_ROWS or marked[index] * rest.rows < self._ratio * size_now[index] * rest.total:
                continue
            q_value = self._q_value(candidates[index], rest, int(size_now[index]), int(marked[index]))
            if q_value <= LEVEL and self._exceeds_its_bins(candidates[index], rest, size_now[index], marked[index]):
                return index, q_value

    def _q_value(self, bins: Bins, rest: _Rest, size: int, marked: int) -> float:
        p = upper_tail(marked, size, rest.total, rest.rows)
        if self._dependence and p * self._tests <= LEVEL:
            inside = self._all.of(bins) & rest.all
            p = max(p, self._dependence.upper_tail(inside, rest.all, self._marked_rows))
        return min(p * self._tests, 1.0)

    def _exceeds_its_bins(self, bins: Bins, rest: _Rest, size: float, marked: float) -> bool:
        """Return whether a pair holds more than its share of each of its bins; they may differ from the rest, too."""
        if len(bins) == 1:
            return True
        for parent in bins:
            of_all, of_marked = self._all.of((parent,)) & rest.all, self._marked.of((parent,)) & rest.marked
            p = upper_tail(int(marked), int(size), count(of_marked), count(of_all))
            if p * self._bins > _PARENT_LEVEL:
                return False
        return True


class _Column(NamedTuple):
    """A feature of which pairs are searched; its bins are numbered from 1, all others are 0."""

    feature: int
    bins: Ints
    sampled: Ints
    marked: Ints


class _Rest(NamedTuple):
    """The rows that no slice holds yet, and their numbers."""

    all: Bits
    marked: Bits
    rows: int
    total: int

    def without(self, taken: Bits, marked: Bits) -> _Rest:
        rows, of_marked = self.all & ~taken, self.marked & ~marked
        return _Rest(rows, of_marked, count(rows), count(of_marked))


def _counts(row: Codes) -> Ints:
    """Count in parts: numpy holds the interpreter's lock meanwhile."""
    bins = int(row.max()) + 1
    total = np.zeros(bins, dtype=np.intp)
    for start in range(0, len(row), SAMPLE):
        total += np.bincount(row[start : start + SAMPLE], minlength=bins)
    return total


def _sample(generator: np.random.Generator, rows: Ints, most: int) -> Ints:
    return rows if len(rows) <= most else np.sort(generator.choice(rows, most, replace=False))


def _bound(counts: Ints, scale: float, sign: int) -> Floats:
    """Return how many rows there are at most, or at least, where each row of a sample stands for ``scale`` rows."""
    numbers = counts.astype(np.float64)
    if scale > 1:
        half = _DEVIATIONS**2 / 2
        numbers = np.maximum(numbers + half + sign * _DEVIATIONS * np.sqrt(numbers + half / 2), 0.0)
    return numbers * scale


Codes = npt.NDArray[np.unsignedinteger]
Bits = npt.NDArray[np.uint64]

MAX_BYTES = 64 * 2**20
"""Bytes of the sets that are remembered, at most."""


def pack(rows: npt.NDArray[np.bool_]) -> Bits:
    """Return a set of rows as bits, the last word padded with zeros.

    >>> count(pack(np.array([True, False, True])))
    2
    """
    packed = np.zeros(-(-len(rows) // 64) * 8, dtype=np.uint8)
    packed[: -(-len(rows) // 8)] = np.packbits(rows)
    bits: Bits = packed.view(np.uint64)
    return bits


def unpack(bits: Bits, rows: int) -> npt.NDArray[np.bool_]:
    """Return the inverse of `pack`, given the number of rows."""
    return np.unpackbits(bits.view(np.uint8), count=rows).view(np.bool_)


def count(bits: Bits) -> int:
    """Return the number of rows in a set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


class BinRows:
    """The rows of each bin, and of combinations of bins; the sets used last are remembered.

    Parameters
    ----------
    codes
        Bin of each feature in each row, shape ``(F, n)``.
    """

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        size = max(codes.shape[1] // 8, 1)
        self._of_bin = lru_cache(maxsize=max(MAX_BYTES // size, 2))(self._pack)

    def _pack(self, feature: int, bin_index: int) -> Bits:
        return pack(self._codes[feature] == bin_index)

    def of(self, bins: tuple[tuple[int, int], ...]) -> Bits:
        """Return the rows that are in all of these bins, each a feature and the index of its bin."""
        rows: Bits = self._of_bin(*bins[0])
        for feature, bin_index in bins[1:]:
            rows = rows & self._of_bin(feature, bin_index)
        return rows


class Dependence(Protocol):
    """Corrects the p-value of a slice."""

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:
        """Return the p-value, given the rows of a slice and of the population, and the indices of all marked rows."""


class ByUser:
    """The marks of one user depend on each other; see `exporter.stats.multiple_tests.clustered_upper_tail`.

    Parameters
    ----------
    users
        Number of the user of each marked row, shape ``(marked,)``.
    rows
        Number of all rows.
    """

    def __init__(self, users: Ints, rows: int) -> None:
        self._users, self._rows = users, rows

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:
        """See `Dependence`."""
        chosen = unpack(rest, self._rows)[marked_rows]
        of_slice = unpack(inside, self._rows)[marked_rows][chosen]
        return clustered_upper_tail(self._users[chosen], of_slice, count(inside), count(rest))


class ByTime:
    """Predictions of the same time are alike; the marked ones are those of the later of two periods.

    Parameters
    ----------
    blocks
        Number of the block of time of each row, shape ``(n,)``.
    later
        Whether each row is of the later period, shape ``(n,)``.
    """

    def __init__(self, blocks: Ints, later: npt.NDArray[np.bool_]) -> None:
        self._blocks, self._later = blocks, later
        self._is_later = np.zeros(int(blocks.max()) + 1, np.bool_)
        self._is_later[blocks[later]] = True

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:  # noqa: ARG002
        """See `Dependence`: all counts are divided by the design effect of the blocks."""
        of_rest, of_slice = unpack(rest, len(self._blocks)), unpack(inside, len(self._blocks))
        size = len(self._is_later)
        effect = block_design_effect(
            np.bincount(self._blocks[of_slice], minlength=size).astype(np.float64),
            np.bincount(self._blocks[of_rest], minlength=size).astype(np.float64),
            self._is_later,
        )
        held, marked = (int(np.count_nonzero(self._later & chosen)) for chosen in (of_slice, of_rest))
        fewer_held, fewer_marked = math.floor(held / effect), math.ceil(marked / effect)
        others, all_others = (math.ceil(number / effect) for number in (count(inside) - held, count(rest) - marked))
        return upper_tail(fewer_held, fewer_held + others, fewer_marked, fewer_marked + all_others)


class GrownBin(NamedTuple):
    """A bin that holds more of some rows than of the training values.

    Attributes
    ----------
    target, bin_index
        Index of the target, and of its bin.
    size
        Rows in the bin.
    share, training_share
        Of all rows, and of the training values.
    q_value
        p-value times the number of tests, at most 1.
    """

    target: int
    bin_index: int
    size: int
    share: float
    training_share: float
    q_value: float


def grown_bins(binner: Binner, counts: Sequence[Ints], rows: int) -> tuple[list[GrownBin], int]:
    """Find the bins that hold significantly more than their share of the training values.

    Parameters
    ----------
    binner
        Of the profile.
    counts
        Rows in each bin of the first targets.
    rows
        Number of all rows.

    Returns
    -------
    tuple
        The bins, the one that stands out most first, and the number of tests.
    """
    found, tests = [], 0
    for index, live in enumerate(counts):
        trained = np.array(binner.targets[index].counts, dtype=np.int64)
        total = int(trained.sum())
        tested = live + trained >= MIN_ROWS
        tests += int(np.count_nonzero(tested))
        share, before = live / rows, np.maximum(trained, 0.5) / max(total, 1)
        for bin_index in np.flatnonzero(tested & (share > MIN_RATIO * before) & (live > 0)).tolist():
            size, both = int(live[bin_index]), live[bin_index] + trained[bin_index]
            p = upper_tail(size, int(both), rows, rows + total)
            score = float(likelihood_ratio(live[bin_index], both, rows, rows + total))
            shares = float(share[bin_index]), float(before[bin_index])
            found.append((score, GrownBin(index, bin_index, size, *shares, p)))
    found.sort(key=lambda scored: -scored[0])
    significant = [one._replace(q_value=min(one.q_value * tests, 1.0)) for _, one in found]
    return [one for one in significant if one.q_value <= LEVEL], tests
