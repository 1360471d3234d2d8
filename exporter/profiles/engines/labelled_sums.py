"""Sums over the labelled rows of a table, computed by its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, literal, search
from exporter.profiles.engines.sums import exact_sums
from exporter.stats.divergence import Floats, Ints
from exporter.stats.labelled_bins import FOLDS, LabelledBins, Moments


class Values(NamedTuple):
    """A number for each row.

    Attributes
    ----------
    rows
        The rows, with their ``number`` and their bins.
    bound
        A number that no absolute value exceeds.
    """

    rows: Expression
    bound: float


class TableBins(LabelledBins[Values]):
    """Labelled rows of a table.

    Parameters
    ----------
    table
        The table.
    rows
        Its labelled rows, each with its position ``row``, the bins of the targets ``b0`` and so on, and a ``number``.
    sizes, number, timed
        See `LabelledBins`.
    """

    def __init__(self, table: EngineTable, rows: Expression, sizes: Sequence[int], number: int, timed: int) -> None:
        super().__init__(sizes, number, timed)
        self._table, self._rows = table, rows

    def values(self, largest: float) -> Values:
        """Return the numbers of the rows, of which ``largest`` is the largest absolute value."""
        return Values(self._rows, largest)

    def by_bin(self, target: int, values: Values) -> tuple[Floats, Floats]:
        """See `LabelledBins.by_bin`."""
        rows = values.rows
        fold = (rows.row * float(FOLDS) / float(max(self.rows, 1))).floor().cast("int16")
        found = exact_sums(self._table, rows.mutate(bin=rows[f"b{target}"], fold=fold), ["bin", "fold"], values.bound)
        counts, sums = np.zeros((2, self.sizes[target], FOLDS))
        counts[found["bin"], found["fold"]] = found["n"]
        sums[found["bin"], found["fold"]] = found["sum"]
        return counts, sums

    def pairs(self, one: int, other: int) -> tuple[Ints, Ints, Floats]:
        """See `LabelledBins.pairs`."""
        keys = [f"b{one}", f"b{other}"]
        found = self._table.columns(self._rows.group_by(keys).aggregate(n=self._rows.count()))
        return found[keys[0]], found[keys[1]], found["n"].astype(np.float64)

    def by_period(self, starts: Ints, values: Values) -> tuple[Floats, Floats]:
        """See `LabelledBins.by_period`."""
        sums, squares = np.zeros((2, len(starts) - 1))
        for total, part in ((sums, values), (squares, self.squares(values))):
            period = search(part.rows.row, starts[1:-1].tolist(), range(len(starts) - 1)).cast("int16")
            rows = part.rows.mutate(period=period).filter(part.rows.row < int(starts[-1]))
            found = exact_sums(self._table, rows, ["period"], part.bound)
            total[found["period"]] = found["sum"]
        rows = np.diff(starts)
        return sums / rows, np.maximum(squares - sums**2 / rows, 0.0) / (rows - 1)

    def moments(self, values: Values) -> Moments:
        """See `LabelledBins.moments`."""
        number = values.rows.number
        found = self._table.row(values.rows.aggregate(low=number.min(), high=number.max()))
        if not self.rows or found["low"] == found["high"]:
            return Moments(found["low"] or 0.0, 0.0)
        mean = self._mean(values)
        return Moments(mean, self._mean(self.squares(self.less(values, mean, {}))))

    def less(self, values: Values, mean: float, effects: Mapping[int, Floats]) -> Values:
        """See `LabelledBins.less`. Values less effects are kept, since they are read many times."""
        numbers, bound = values.rows.number - literal(mean), values.bound + abs(mean)
        for target, effect in effects.items():
            cuts = [index + 0.5 for index in range(len(effect) - 1)]
            numbers -= search(values.rows[f"b{target}"], cuts, [*map(literal, effect.tolist())])
            bound += float(abs(effect).max())
        rows = values.rows.mutate(number=numbers)
        return Values(self._table.kept(rows) if effects else rows, bound)

    def squares(self, values: Values) -> Values:
        """See `LabelledBins.squares`."""
        return Values(values.rows.mutate(number=values.rows.number * values.rows.number), values.bound**2)

    def _mean(self, values: Values) -> float:
        found = exact_sums(self._table, values.rows.mutate(all=values.rows.row * 0), ["all"], values.bound)
        return float(found["sum"][0]) / self.rows
