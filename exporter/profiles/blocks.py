"""Score blocks of consecutive training rows, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.features.extract import as_list
from exporter.profiles.bins import feature_bins
from exporter.profiles.columns import Options
from exporter.profiles.profile import (
    FILE,
    GROUPED,
    SHUFFLED,
    TIME,
    UNSORTED,
    Blocks,
    BlockScores,
    Feature,
    NumericFeature,
    Times,
)
from exporter.profiles.sources.base import Column
from exporter.stats.dependence import block_sizes, leave_out_divergence, measure_noise
from exporter.stats.digitize import BinIndices
from exporter.stats.dispersion import measure_dispersion
from exporter.stats.divergence import Floats, Ints

PARTS = 4  # a large block is the sum of so many parts; blocks begin at each part, so they overlap
_GROUPS = 1000  # small blocks are the beginnings of at most so many groups of rows
_MEMORY = 64 * 2**20  # bytes of the counts of all blocks, unless there are `_FEWEST` of each size
_FEWEST, _MOST = 100, 2000  # blocks of each size that are kept, if there are as many

_PENDING = 50_000  # counts of parts that are added at once

Counts = npt.NDArray[np.uint32]


class BlockBuilder:
    """Count blocks of consecutive rows by bin.

    Blocks of each size begin at even distances over all rows, so that they stand for all of them.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    rows
        Number of rows that will be added.

    Attributes
    ----------
    sizes
        Block sizes; none for fewer than 200 rows.
    """

    def __init__(self, targets: Mapping[str, Feature], rows: int) -> None:
        self.sizes = block_sizes(rows)
        bins = sum(len(target.counts) + 2 for target in targets.values())
        most = int(np.clip(_MEMORY / 4 / max(bins * len(self.sizes), 1), _FEWEST, _MOST))
        self._targets = {name: _TargetBlocks(target, self.sizes, rows, most) for name, target in targets.items()}

    def add(self, columns: Mapping[str, Sequence[Any] | Floats]) -> dict[str, BinIndices]:
        """Add the next rows: a column of values for each target, see `exporter.profiles.bins.feature_bins`.

        Returns the bins of the values by target.
        """
        found = {name: feature_bins(target.feature, columns[name]) for name, target in self._targets.items()}
        for name, target in self._targets.items():
            target.add(target.with_extremes(found[name], columns[name]))
        return found

    def indices(self, columns: Mapping[str, Sequence[Any] | Floats]) -> BinIndices:
        """Return the values of all targets as `add_indices` takes them, shape ``(T, n)``."""
        rows = [
            target.with_extremes(feature_bins(target.feature, columns[name]), columns[name])
            for name, target in self._targets.items()
        ]
        return np.array(rows, dtype=np.int16)

    def add_indices(self, indices: BinIndices) -> None:
        """Add the next rows, from `indices`."""
        for row, target in zip(indices, self._targets.values(), strict=True):
            target.add(row)

    @property
    def cuts(self) -> list[int]:
        """The ends of the segments of a group of rows in which `add_counts` takes rows; the last is its size."""
        return next((target.cuts for target in self._targets.values()), [])

    def add_counts(self, name: str, segments: npt.NDArray[np.uint32], rest: Ints) -> None:
        """Add all rows of a target, counted elsewhere by bin.

        Bins are those of the feature, then one of values at the minimum and one of values at the maximum of training.

        Parameters
        ----------
        name
            The target.
        segments
            Counts of the ``G`` complete groups of rows, shape ``(G, len(cuts), bins)``.
        rest
            Counts of the rows after them, shape ``(bins,)``.
        """
        self._targets[name].add_counts(segments, rest)

    def grouped(self) -> list[str]:
        """Return the targets by which the rows are grouped or sorted: the rows of a bin follow one another."""
        return [name for name, target in self._targets.items() if target.is_grouped()]

    def build(self) -> dict[str, BlockScores]:
        """Return the scores by target."""
        return {name: target.scores(self.sizes) for name, target in self._targets.items()}


class _TargetBlocks:
    """The blocks of one target.

    Values at the minimum and at the maximum of training have two bins more: a block that holds all of them is, for the
    other rows, outside their range.
    """

    def __init__(self, target: Feature, sizes: Sequence[int], rows: int, most: int) -> None:
        self.feature = target
        self._bins = len(target.counts) + 2
        self._group = next((size for size in sizes if size * min(_GROUPS, most) >= rows), PARTS)
        self._waiting: npt.NDArray[Any] = np.empty(0, dtype=np.int8)
        self._parts: list[Floats] = []
        self._total = np.zeros(self._bins)
        self._changes = 0  # parts with values of more than one bin, or of another than the part before
        self._last = -1
        self._small: dict[int, list[Counts]] = {size: [] for size in sizes if size < self._group}
        self._large = [
            SuccessiveBlocks(self._bins, block_distance(size, rows, most), np.uint32)
            for size in sizes
            if size >= self._group
        ]

    def add(self, bins: BinIndices) -> None:
        """Add the bins of the next rows, see `with_extremes`."""
        rows: npt.NDArray[Any] = np.concatenate((self._waiting, bins))
        groups = len(rows) // self._group if self._large else 0
        self._waiting = rows[groups * self._group :]
        if groups:
            rows = rows[: groups * self._group]
            for size, kept in self._small.items():
                kept.append(self._count(rows.reshape(groups, -1)[:, :size]).astype(np.uint32))
            self._parts.append(self._count(rows.reshape(groups * PARTS, -1)).astype(np.float64))
        if sum(map(len, self._parts)) * self._bins >= _PENDING:
            self._add_parts()

    @property
    def cuts(self) -> list[int]:
        """See `BlockBuilder.cuts`."""
        return sorted({*self._small, *(self._group * part // PARTS for part in range(1, PARTS + 1))})

    def add_counts(self, segments: npt.NDArray[np.uint32], rest: Ints) -> None:
        """See `BlockBuilder.add_counts`."""
        ends = dict(zip(self.cuts, np.cumsum(segments, axis=1, dtype=np.uint32).swapaxes(0, 1), strict=True))
        for size, kept in self._small.items():
            kept.append(ends[size])
        parts = np.stack([ends[self._group * part // PARTS] for part in range(1, PARTS + 1)], axis=1)
        parts = np.diff(parts.astype(np.float64), axis=1, prepend=0.0)
        self._parts.append(parts.reshape(-1, self._bins))
        self._add_parts()
        self._waiting = np.repeat(np.arange(self._bins, dtype=np.int16), rest)

    def _add_parts(self) -> None:
        parts = np.concatenate(self._parts) if self._parts else np.empty((0, self._bins))
        self._parts = []
        self._total += parts.sum(axis=0)
        if len(parts):
            bins = np.where(np.count_nonzero(parts, axis=1) > 1, -1, parts.argmax(axis=1))
            self._changes += int(((bins == -1) | (np.diff(bins, prepend=self._last) != 0)).sum())
            self._last = int(bins[-1])
        for large in self._large:
            parts = large.add(parts)

    def with_extremes(self, bins: BinIndices, values: Sequence[Any] | Floats) -> BinIndices:
        """Return bins in which the values at the extremes of training have their own."""
        if not isinstance(self.feature, NumericFeature) or not self.feature.edges:
            return bins
        numbers = np.asarray(values, dtype=np.float64)
        edges, top = self.feature.edges, len(self.feature.edges) - 1
        if not len(numbers) or (numbers.min() > edges[0] and numbers.max() < np.nextafter(edges[-1], -np.inf)):
            return bins
        bins = bins.copy()
        first, last = np.flatnonzero(bins == 1), np.flatnonzero(bins == top)
        bins[first[numbers[first] <= edges[0]]] = self._bins - 2
        bins[last[numbers[last] >= np.nextafter(edges[-1], -np.inf)]] = self._bins - 1
        return bins

    def _count(self, blocks: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Return the counts of blocks of bin indices, shape ``(M, n)``, by bin: shape ``(M, bins)``."""
        flat = blocks + self._bins * np.arange(len(blocks))[:, None]
        return np.bincount(flat.ravel(), minlength=flat.shape[0] * self._bins).reshape(-1, self._bins)

    def is_grouped(self) -> bool:
        """Return whether rows of the same bin follow one another, but for a few, and would not in random order."""
        self._add_parts()
        used = int(np.count_nonzero(self._total))
        rows = self._group // PARTS  # in a part
        share = self._total / max(self._total.sum(), 1.0)
        random = self._total.sum() / rows * (1 - (share**rows).sum())  # parts of more than one bin
        return used > 1 and self._changes <= min(3 * used, random / 10)

    def blocks(self) -> list[Counts]:
        """Return the counts of the blocks of each size by bin, shape ``(M, bins)``."""
        self._add_parts()
        kept = [*self._small.values(), *(large.kept for large in self._large)]
        return [np.concatenate(parts) for parts in kept]

    def scores(self, sizes: Sequence[int]) -> BlockScores:
        """Return the scores of the blocks."""
        blocks = [part.astype(np.float64) for part in self.blocks()]
        counts = self._total + np.bincount(self._waiting, minlength=self._bins)
        total = self._frozen(counts)
        frozen = [self._frozen(part) for part in blocks]
        scores = [
            leave_out_divergence(self._frozen(part, counts), total - own)
            for part, own in zip(blocks, frozen, strict=True)
        ]
        noise = measure_noise(scores, sizes, total)
        dispersion = measure_dispersion(frozen, sizes, total, isinstance(self.feature, NumericFeature))
        return BlockScores(
            rounded(noise.quantiles), rounded(noise.effective), noise.dependent, float(f"{dispersion:.4g}")
        )

    def _frozen(self, counts: Floats, total: Floats | None = None) -> Floats:
        """Return counts of shape ``(..., K + 2)`` in the frozen bins.

        With the counts of all rows, an extreme that no other row has is outside their range.
        """
        frozen = counts[..., :-2].copy()
        if isinstance(self.feature, NumericFeature) and self.feature.edges:
            top = len(self.feature.edges) - 1
            for extreme, inside, outside in ((-2, 1, 0), (-1, top, top + 1)):
                alone = False if total is None else counts[..., extreme] == total[extreme]
                frozen[..., inside] += np.where(alone, 0, counts[..., extreme])
                frozen[..., outside] += np.where(alone, counts[..., extreme], 0)
        return frozen


class SuccessiveBlocks:
    """Blocks of one size, each the sum of four successive parts.

    Parameters
    ----------
    width
        Number of sums of a part.
    distance
        Number of parts from the beginning of a block that is kept to that of the next.
    dtype
        Type of the sums that are kept.
    """

    def __init__(self, width: int, distance: int, dtype: type[np.uint32 | np.float64]) -> None:
        self.kept: list[npt.NDArray[Any]] = []
        self._dtype = dtype
        self._distance = distance
        self._parts = np.empty((0, width))  # those of blocks that are not complete
        self._first = 0  # number of the first of them
        self._single = np.empty((0, width))  # a part that has no partner yet

    def add(self, parts: Floats) -> Floats:
        """Add the next parts, shape ``(P, width)``, and return the sums of successive pairs: parts of larger blocks."""
        held = np.concatenate((self._parts, parts))
        starts = max(len(held) - PARTS + 1, 0)
        chosen = np.arange(-self._first % self._distance, starts, self._distance)
        if len(chosen):
            blocks = held[chosen]
            for part in range(1, PARTS):
                blocks += held[chosen + part]
            self.kept.append(blocks.astype(self._dtype))
        self._parts, self._first = held[starts:], self._first + starts
        pairs = np.concatenate((self._single, parts))
        even = len(pairs) // 2 * 2
        self._single = pairs[even:]
        return np.asarray(pairs[:even:2] + pairs[1:even:2])


def block_distance(size: int, rows: int, most: int) -> int:
    """Return the distance of blocks in parts, so that at most ``most`` are kept."""
    starts = rows * PARTS // size - PARTS + 1
    return max(-(-starts // most), 1)


def rounded(values: Floats) -> tuple[float, ...]:
    """Return numbers with four significant digits."""
    return tuple(float(f"{value:.4g}") for value in values)


MEMORY = 256 * 2**20
"""Bytes of the rows that are sorted by time in memory."""
_ROW_BYTES = 40  # of the time, and of what sorting takes
_MAX_LABELS = 1000
_ROWS = 50_000


class RowOrder:
    """Follow the order of the rows through one pass, and count blocks of them.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    rows
        Number of rows.
    options
        Name the column of times and that of labels, or say that the rows are shuffled.
    arriving
        Targets that grow with time in any traffic, such as the age of a time. Rows sorted by them are in order.
    """

    def __init__(self, targets: Mapping[str, Feature], rows: int, options: Options, arriving: Iterable[str]) -> None:
        self._targets, self._rows, self._options = targets, rows, options
        self._arriving = set(arriving)
        self._blocks = BlockBuilder(targets, rows)
        self._labels = _Labels()
        self._latest = {1: -np.inf, -1: -np.inf}  # the last time in either direction
        self._times: Times | None = None
        self.follows = bool(self._blocks.sizes) and not options.shuffled
        """Whether blocks are counted: not for few rows, for shuffled ones, and once a time is before the one before."""
        self.needs_sorting = False

    def add(self, columns: Mapping[str, Any], times: Floats, labels: Column) -> dict[str, BinIndices]:
        """Add a batch: values by target, times in Unix seconds where rows have a time, and labels.

        Returns the bins of the values, where they were needed.
        """
        if not self.follows:
            return {}
        if self._options.time_column:
            self._follow(times)
        elif self._options.label_column:
            self._labels.add(as_list(labels))
        return self._blocks.add(columns) if self.follows else {}

    def _follow(self, times: Floats) -> None:
        for direction in [*self._latest]:
            signed = direction * times
            if not np.isfinite(times).all() or (np.diff(signed, prepend=self._latest[direction]) < 0).any():
                del self._latest[direction]
            elif len(times):
                self._latest[direction] = float(signed[-1])
        if not self._latest:
            self.follows, self.needs_sorting = False, True
        elif len(times):
            self._times = _measure(times, self._times)

    def sort(self, batches: Iterable[tuple[Mapping[str, Any], Floats]]) -> None:
        """Count blocks in the order of time, where the rows are not sorted; see `needs_sorting`.

        Rows without a time are left out.

        Parameters
        ----------
        batches
            Values by target, and times in Unix seconds, of a second pass.
        """
        if self._rows * (_ROW_BYTES + 2 * len(self._targets)) > MEMORY:
            return
        seconds = np.empty(self._rows)
        indices = np.empty((len(self._targets), self._rows), dtype=np.int16)
        start = 0
        for columns, times in batches:
            part = slice(start, start + len(times))
            seconds[part], indices[:, part] = times, self._blocks.indices(columns)
            start = part.stop
        order = np.argsort(seconds, kind="stable")
        order = order[np.isfinite(seconds[order])]
        self._times = _measure(seconds[order], None, len(seconds) - len(order)) if len(order) else None
        blocks = BlockBuilder(self._targets, len(order))
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            blocks.add_indices(indices[:, rows])
        self._blocks, self.follows = blocks, True

    def build(self) -> Blocks:
        """Return the scores of the blocks."""
        options = self._options
        if options.shuffled:
            return Blocks(SHUFFLED)
        if self.needs_sorting and not self.follows:
            return Blocks(UNSORTED, options.time_column)
        if options.time_column:
            blocks, times = self._blocks, self._times
            return Blocks(TIME, options.time_column, tuple(blocks.sizes), blocks.build(), times=times)
        grouped = [name for name in self._blocks.grouped() if not self._arrives(name)]
        if self._labels.are_grouped():
            grouped.insert(0, options.label_column or "")
        if grouped:
            return Blocks(GROUPED, grouped[0])
        return Blocks(FILE, None, tuple(self._blocks.sizes), self._blocks.build())

    def _arrives(self, name: str) -> bool:
        """Return whether rows sorted by a target are in the order of arrival: by a time, or by an identifier."""
        target = self._targets[name]
        if name in self._arriving or not isinstance(target, NumericFeature) or target.min is None or target.max is None:
            return name in self._arriving
        whole = target.min.is_integer() and target.max.is_integer()
        return whole and target.max - target.min + 1 >= self._rows


class _Labels:
    """Whether rows are grouped by a column that is not among the targets."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._last: Any = None
        self._changes = self._rows = 0

    def add(self, values: Sequence[Any]) -> None:
        if len(self._seen) > _MAX_LABELS:
            return
        texts = [str(value) for value in values]
        self._changes += sum(one != other for one, other in zip([self._last, *texts], texts, strict=False))
        self._rows += len(texts)
        self._last = texts[-1] if texts else self._last
        self._seen.update(texts)

    def are_grouped(self) -> bool:
        distinct = len(self._seen)
        return 1 < distinct <= _MAX_LABELS and self._changes <= 2 * distinct and self._rows > 20 * distinct


def _measure(seconds: Floats, before: Times | None, unreadable: int = 0) -> Times:
    """Return the range of some times, at least one, together with that of those before."""
    both = [before.earliest, before.latest] if before else []
    return Times(unreadable, min([float(seconds.min()), *both]), max([float(seconds.max()), *both]))
