"""Bins of the numbers in a table, from counts of fine cells.

The cells are of equal width at first, between the extremes. A cell with too many values is divided again between its
own extremes, unless it holds a single value. So edges are values of the table, counts are exact, and neither depends on
how the engine divides its work. The quantiles that engines estimate do depend on it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ibis
import numpy as np

from exporter.errors import ProfileError
from exporter.profiles.bin_edges import ValueCounts, binned_feature
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, batches, count, finite, is_missing, literal, search
from exporter.profiles.profile import NumericFeature
from exporter.stats.divergence import Floats, Ints
from exporter.validation import preview

PARTS = 16
"""A cell of several values holds at most the share of a bin divided by this: the error of an edge's rank."""
_CELLS = 4096
_ROUNDS = 40  # each divides by at least `PARTS`; all finite numbers of 64 bits are told apart after half of them
_CELL_STEPS = 2**15  # in which a cell is counted, so that sums of squares are whole numbers of 64 bits


class _Range(NamedTuple):
    """Numbers from ``low`` to ``high``, to be divided into cells; the last holds the largest number alone."""

    low: float
    high: float
    cells: int

    def position(self, number: Expression) -> Expression:
        """Return the cell of a number, with its position in the cell as fraction."""
        width = self.high - self.low
        scale = 0.5 if math.isinf(width) else 2.0**600 if width < 1e-290 else 1.0
        low, width = self.low * scale, self.high * scale - self.low * scale
        scaled = number if scale == 1 else number * literal(scale)
        return (scaled - literal(low)) * literal(self.cells / width) if width else number * 0.0


class _Extremes(NamedTuple):
    """How many values of a column are finite, missing and invalid, and the extremes of the finite ones."""

    valid: int
    missing: int
    invalid: int
    low: float
    high: float


class _Cells(NamedTuple):
    """Counts of cells, with the least and the largest value, the mean and the standard deviation, ``(C,)`` each."""

    counts: Ints
    low: Floats
    high: Floats
    mean: Floats
    spread: Floats

    def take(self, chosen: Any) -> _Cells:
        return _Cells(*(part[chosen] for part in self))


def numeric_features(
    table: EngineTable, columns: Mapping[str, Expression], bins: int, done: Callable[[], None]
) -> dict[str, NumericFeature]:
    """Return the bins of some columns.

    Parameters
    ----------
    table
        The table.
    columns
        Expressions of numbers by the name of the feature.
    bins
        Number of bins to aim at.
    done
        Called when the bins of one of them are known.
    """
    features = {}
    for name, extremes in _extremes(table, columns).items():
        with table.reading(name):
            features[name] = _feature(table, columns[name], extremes, bins)
        done()
    return features


def _extremes(table: EngineTable, columns: Mapping[str, Expression]) -> dict[str, _Extremes]:
    found = {}
    for names in batches([*columns]):
        queries = {name: _statistics(columns[name], index) for index, name in enumerate(names)}
        together = {key: value for query in queries.values() for key, value in query.items()}
        try:
            row = table.row(table.rows.aggregate(**together))
        except ProfileError as error:
            failures = table.failures({name: table.rows.aggregate(**query) for name, query in queries.items()}, error)
            detail = "; ".join(f"{preview(name)} cannot be read: {text}" for name, text in failures.items())
            raise ProfileError(f"{table.where}: {detail}") from None
        for index, name in enumerate(names):
            valid, missing, invalid, low, high = (row[f"s{part}_{index}"] or 0 for part in range(5))
            found[name] = _Extremes(int(valid), int(missing), int(invalid), float(low), float(high))
    return found


def _statistics(column: Expression, index: int) -> dict[str, Expression]:
    numbers, missing = finite(column), count(is_missing(column))
    parts = numbers.count(), missing, count(numbers.isnull()) - missing, numbers.min(), numbers.max()
    return {f"s{part}_{index}": value for part, value in enumerate(parts)}


def _feature(table: EngineTable, column: Expression, extremes: _Extremes, bins: int) -> NumericFeature:
    if not extremes.valid:
        return NumericFeature((), (0, extremes.missing, extremes.invalid))
    limit = extremes.valid / bins / PARTS
    ranges = [_Range(extremes.low, extremes.high, max(_CELLS, 4 * PARTS * bins))]
    kept = []
    for _ in range(_ROUNDS):
        cells = _count_cells(table, column, ranges)
        heavy = (cells.counts > limit) & (cells.low < cells.high)
        kept.append(cells.take(~heavy))
        cells = cells.take(heavy)
        if not len(cells.counts):
            break
        parts = np.clip(PARTS * np.ceil(cells.counts / limit), PARTS, _CELLS).astype(int)
        bounds = zip(cells.low.tolist(), cells.high.tolist(), parts.tolist(), strict=True)
        ranges = [_Range(*values) for values in bounds]
    cells = _Cells(*map(np.concatenate, zip(*kept, cells, strict=True)))
    cells = cells.take(np.argsort(cells.low))
    if cells.counts.sum() != extremes.valid:
        raise table.changed()
    values = ValueCounts(cells.low, cells.counts, cells.low == cells.high, float(cells.high[-1]))
    return binned_feature(values, extremes.missing, extremes.invalid, bins, _moments(cells))


def _count_cells(table: EngineTable, column: Expression, ranges: list[_Range]) -> _Cells:
    """Return the cells that hold values, in one pass."""
    starts = np.cumsum([0, *(part.cells + 1 for part in ranges)])  # one more for the largest number
    nowhere = ibis.null("float64")
    rows = table.rows.select(number=finite(column))
    rows = rows.filter(rows.number.notnull())
    cuts: list[float] = []
    leaves: list[Expression] = [nowhere]
    for start, part in zip(starts.tolist(), ranges, strict=False):
        # The largest finite number has none above it; nothing else is there.
        cuts += [part.low, min(math.nextafter(part.high, math.inf), sys.float_info.max)]
        leaves += [part.position(rows.number) + float(start), nowhere]
    if ranges[-1].high == sys.float_info.max:
        leaves[-1] = leaves[-2]
    rows = rows.mutate(position=search(rows.number, cuts, leaves))
    rows = rows.filter(rows.position.notnull())
    rows = rows.mutate(cell=rows.position.floor().cast("int32"))
    rows = rows.mutate(inner=((rows.position - rows.cell) * float(_CELL_STEPS)).floor().cast("int32"))
    found = table.columns(
        rows.group_by("cell").aggregate(
            n=rows.count(),
            low=rows.number.min(),
            high=rows.number.max(),
            first=rows.inner.sum(),
            second=(rows.inner * rows.inner).sum(),
        )
    )
    order = np.argsort(found["cell"])
    found = {name: values[order] for name, values in found.items()}
    low, high, n = found["low"] + 0.0, found["high"] + 0.0, found["n"]
    cell = found["cell"].astype(np.intp)
    index = starts.searchsorted(cell, side="right") - 1
    first, last, parts = np.array(ranges).T[:, index]
    inner = found["first"] / n
    share = np.minimum((cell - starts[index] + (inner + 0.5) / _CELL_STEPS) / parts, 1.0)
    mean = first * (1 - share) + last * share  # their difference may overflow
    spread = np.sqrt(np.maximum(found["second"] / n - inner**2, 0.0)) / _CELL_STEPS / parts * (last / 2 - first / 2) * 2
    single = low == high
    return _Cells(
        n.astype(np.intp), low, high, np.where(single, low, np.clip(mean, low, high)), np.where(single, 0.0, spread)
    )


def _moments(cells: _Cells) -> tuple[float, float]:
    """Return the mean and the standard deviation of all values."""
    scale = float(max(abs(cells.low[0]), abs(cells.high[-1]), 1e-300))  # the squares of huge values stay finite
    means, spreads = cells.mean / scale, cells.spread / scale
    mean = np.average(means, weights=cells.counts)
    return float(mean * scale), float(
        np.sqrt(np.average((means - mean) ** 2 + spreads**2, weights=cells.counts)) * scale
    )
