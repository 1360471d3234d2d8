"""Score blocks of consecutive training rows, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.profiles.bins import feature_bins
from exporter.profiles.profile import (
    BlockScores,
    Feature,
    NumericFeature,
)
from exporter.stats.dependence import (
    BlockNoise,
    block_sizes,
    extrapolated,
    leave_out_divergence,
    measure_dispersion,
    measure_noise,
)
from exporter.stats.divergence import BinIndices, Floats

PARTS = 4  # a large block is the sum of so many parts; blocks begin at each part, so they overlap
_GROUPS = 1000  # small blocks are the beginnings of at most so many groups of rows
_MEMORY = 64 * 2**20  # bytes of the counts of all blocks, unless there are `_FEWEST` of each size
_FEWEST, _MOST = 100, 2000  # blocks of each size that are kept, if there are as many

Counts = npt.NDArray[np.uint32]


class AlignedRows:
    """Rows in groups that begin at multiples of their size, in whatever parts the rows come.

    Parameters
    ----------
    size
        Rows of a group.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._head: npt.NDArray[Any] | None = None  # the rows before the first group, if it has begun
        self._held: npt.NDArray[Any] | None = None  # those of a group that is not complete
        self._first = 0

    def add(self, rows: npt.NDArray[Any], first: int) -> list[npt.NDArray[Any]]:
        """Add the next rows, on the last axis, given the number of the first; return those of complete groups."""
        if self._held is None:
            self._held, self._first = rows[..., :0], first
        if self._head is None:
            before = -self._first % self._size - self._held.shape[-1]
            self._held = np.concatenate((self._held, rows[..., :before]), axis=-1)
            if rows.shape[-1] < before:
                return []
            self._head, self._held, rows = self._held, self._held[..., :0], rows[..., before:]
        found, held = [], self._held.shape[-1]
        if held:  # complete the group that has begun
            missing = self._size - held
            self._held = np.concatenate((self._held, rows[..., :missing]), axis=-1)
            if rows.shape[-1] < missing:
                return []
            found, rows = [self._held], rows[..., missing:]
        complete = rows.shape[-1] // self._size * self._size
        self._held = rows[..., complete:].copy()
        return [*found, rows[..., :complete]] if complete else found

    def merge(self, later: AlignedRows) -> list[npt.NDArray[Any]]:
        """Add the rows that follow; return those of groups that are complete now."""
        if later._held is None:
            return []
        found = self.add(later._held if later._head is None else later._head, later._first)
        if later._head is not None:
            self._held = later._held
        return found

    def rest(self) -> npt.NDArray[Any]:
        """Return the rows after the last complete group."""
        return np.empty(0, dtype=np.int16) if self._held is None else self._held


class PartSums:
    """Sums of blocks of successive parts.

    Parameters
    ----------
    parts
        Shape ``(P, width)``; whole numbers, so that differences of their running sums are exact.
    """

    def __init__(self, parts: Floats) -> None:
        self._running = np.concatenate((np.zeros((1, parts.shape[1])), np.cumsum(parts, axis=0)))

    def blocks(self, size: int, distance: int) -> Floats:
        """Return the sums of blocks, shape ``(M, width)``.

        Parameters
        ----------
        size
            Parts of a block, at least `PARTS`.
        distance
            Quarters of a block from the beginning of one to that of the next.
        """
        quarter = size // PARTS
        starts = np.arange(0, (len(self._running) - 1) // quarter - PARTS + 1, distance) * quarter
        return np.asarray(self._running[starts + size] - self._running[starts])


class BlockBuilder:
    """Count blocks of consecutive rows by bin.

    Blocks of each size begin at even distances over all rows, so that they stand for all of them. Small blocks are the
    beginnings of groups of rows; large ones are sums of quarters of groups. Values at the minimum and at the maximum of
    training have two bins more: a block that holds all of them is, for the other rows, outside their range.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    rows
        Number of rows that will be added, by this builder and those that are merged with it.

    Attributes
    ----------
    sizes
        Block sizes; none for fewer than 200 rows.
    """

    def __init__(self, targets: Mapping[str, Feature], rows: int) -> None:
        self.sizes = block_sizes(rows)
        self._targets, self._number = targets, rows
        self._bins = [len(target.counts) + 2 for target in targets.values()]
        self._most = int(np.clip(_MEMORY / 4 / max(sum(self._bins) * len(self.sizes), 1), _FEWEST, _MOST))
        most = min(_GROUPS, self._most)
        self._group = next((size for size in self.sizes if size * most >= rows), rows + PARTS)
        self._small = [size for size in self.sizes if size < self._group]
        self._rows = AlignedRows(self._group)
        self._counts: list[list[list[Counts]]] = [[[] for _ in (*self._small, PARTS)] for _ in targets]

    def add(self, columns: Mapping[str, Sequence[Any] | Floats], first: int = 0) -> dict[str, BinIndices]:
        """Add the next rows: a column of values for each target, and the number of the first row.

        See `exporter.profiles.bins.feature_bins` for the values. Returns their bins by target.
        """
        found = {name: feature_bins(target, columns[name]) for name, target in self._targets.items()}
        self.add_indices(self.indices(columns, found), first)
        return found

    def indices(
        self, columns: Mapping[str, Sequence[Any] | Floats], found: Mapping[str, BinIndices] | None = None
    ) -> BinIndices:
        """Return the values of all targets as `add_indices` takes them, shape ``(T, n)``; some bins may be known."""
        rows = [
            _with_extremes(target, feature_bins(target, columns[name]) if found is None else found[name], columns[name])
            for name, target in self._targets.items()
        ]
        return np.array(rows, dtype=np.int16)

    def add_indices(self, indices: BinIndices, first: int) -> None:
        """Add the next rows, from `indices`, and the number of the first."""
        self._count(self._rows.add(indices, first))

    def merge(self, later: BlockBuilder) -> None:
        """Add the rows that follow."""
        self._count(self._rows.merge(later._rows))
        for own, others in zip(self._counts, later._counts, strict=True):
            for kept, other in zip(own, others, strict=True):
                kept.extend(other)

    def _count(self, complete: list[BinIndices]) -> None:
        for indices in complete:
            self._count_groups(indices)

    def _count_groups(self, indices: BinIndices) -> None:
        groups = indices.shape[-1] // self._group
        for row, bins, (*small, parts) in zip(indices, self._bins, self._counts, strict=True):
            for size, kept in zip(self._small, small, strict=True):
                kept.append(_count(row.reshape(groups, -1)[:, :size], bins))
            parts.append(_count(row.reshape(groups * PARTS, -1), bins))

    def _parts(self, target: int) -> Floats:
        parts = self._counts[target][-1]
        return np.concatenate([np.empty((0, self._bins[target])), *parts])

    def grouped(self) -> list[str]:
        """Return the targets by which the rows are grouped or sorted.

        The rows of a bin follow one another, but for a few, and would not in random order.
        """
        found = []
        for index, name in enumerate(self._targets):
            parts = self._parts(index)
            total, rows = parts.sum(axis=0), self._group // PARTS
            used = int(np.count_nonzero(total))
            bins = np.where(np.count_nonzero(parts, axis=1) > 1, -1, parts.argmax(axis=1) if len(parts) else 0)
            changes = int(((bins == -1) | (np.diff(bins, prepend=-1) != 0)).sum())
            share = total / max(total.sum(), 1.0)
            random = total.sum() / rows * (1 - (share**rows).sum())  # parts of more than one bin
            if used > 1 and changes <= min(3 * used, random / 10):
                found.append(name)
        return found

    def build(self) -> dict[str, BlockScores]:
        """Return the scores by target."""
        rest = self._rows.rest()
        measured = [
            self._measure(index, target, rest[index] if rest.ndim > 1 else rest)
            for index, target in enumerate(self._targets.values())
        ]
        dispersion = extrapolated(
            np.array([ratios for _, ratios in measured]).reshape(len(measured), len(self.sizes), 2)
        )
        return {
            name: BlockScores(
                *(rounded(noise.quantiles), rounded(noise.effective)),
                dependent=noise.dependent or found > 1,  # one of them alone is proof
                dispersion=found,
            )
            for name, (noise, _), found in zip(self._targets, measured, rounded(dispersion), strict=True)
        }

    def _measure(self, index: int, target: Feature, rest: BinIndices) -> tuple[BlockNoise, Floats]:
        """Return the noise of a target, and its dispersion by the size of blocks."""
        parts, (*small, _) = self._parts(index), self._counts[index]
        counts = parts.sum(axis=0) + np.bincount(rest, minlength=self._bins[index])
        blocks = [np.concatenate(kept).astype(np.float64) for kept in small]
        part = self._group // PARTS
        sums = PartSums(parts)
        blocks += [
            sums.blocks(size // part, block_distance(size, self._number, self._most))
            for size in self.sizes[len(small) :]
        ]
        total, frozen = _frozen(target, counts), [_frozen(target, block) for block in blocks]
        scores = [
            leave_out_divergence(_frozen(target, block, counts), total - own)
            for block, own in zip(blocks, frozen, strict=True)
        ]
        ratios = measure_dispersion(frozen, total, isinstance(target, NumericFeature))
        return measure_noise(scores, self.sizes, total), ratios


def _count(blocks: npt.NDArray[Any], bins: int) -> Counts:
    """Return the counts of blocks of bin indices, shape ``(M, n)``, by bin: shape ``(M, bins)``."""
    flat = blocks + bins * np.arange(len(blocks))[:, None]
    return np.bincount(flat.ravel(), minlength=len(blocks) * bins).reshape(-1, bins).astype(np.uint32)


def _with_extremes(target: Feature, bins: BinIndices, values: Sequence[Any] | Floats) -> BinIndices:
    """Return bins in which the values at the extremes of training have their own."""
    if not isinstance(target, NumericFeature) or not target.edges:
        return bins
    numbers = np.asarray(values, dtype=np.float64)
    edges, top = target.edges, len(target.edges) - 1
    if not len(numbers) or (numbers.min() > edges[0] and numbers.max() < np.nextafter(edges[-1], -np.inf)):
        return bins
    bins = bins.copy()
    first, last = np.flatnonzero(bins == 1), np.flatnonzero(bins == top)
    bins[first[numbers[first] <= edges[0]]] = len(target.counts)
    bins[last[numbers[last] >= np.nextafter(edges[-1], -np.inf)]] = len(target.counts) + 1
    return bins


def _frozen(target: Feature, counts: Floats, total: Floats | None = None) -> Floats:
    """Return counts of shape ``(..., K + 2)`` in the frozen bins.

    With the counts of all rows, an extreme that no other row has is outside their range.
    """
    frozen = counts[..., :-2].copy()
    if isinstance(target, NumericFeature) and target.edges:
        top = len(target.edges) - 1
        for extreme, inside, outside in ((-2, 1, 0), (-1, top, top + 1)):
            alone = False if total is None else counts[..., extreme] == total[extreme]
            frozen[..., inside] += np.where(alone, 0, counts[..., extreme])
            frozen[..., outside] += np.where(alone, counts[..., extreme], 0)
    return frozen


def block_distance(size: int, rows: int, most: int) -> int:
    """Return the distance of blocks in parts, so that at most ``most`` are kept."""
    starts = rows * PARTS // size - PARTS + 1
    return max(-(-starts // most), 1)


def rounded(values: Floats) -> tuple[float, ...]:
    """Return numbers with four significant digits."""
    return tuple(float(f"{value:.4g}") for value in values)
