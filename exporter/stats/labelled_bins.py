"""Learn from labelled rows in frozen bins which targets go with a value; pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints, ratio
from exporter.stats.quality import shrinkage_rows, shrunken_means, variance_between

FOLDS = 5
_SMALLEST_GAIN = 0.002
"""A component must explain this share of the variance of the loss, by cross-validation."""
_ROUNDS = 10
_PERIODS, _LEAST_PERIODS = 20, 5
_LEAST_IN_PERIOD = 30


class Effects(NamedTuple):
    """The effect of each bin of a target on an expected value.

    Attributes
    ----------
    rows
        Number of labelled rows in each of the target's ``K`` bins.
    values
        What the bin adds, shape ``(K,)``; weighted by the rows, the mean is 0.
    """

    rows: Floats
    values: Floats


class Moments(NamedTuple):
    """Mean and variance of values. The variance is exactly 0 where all values are the same."""

    mean: float
    variance: float


class LabelledBins:
    """Labelled rows in bins. Values have a number for each row, shape ``(n,)``.

    Parameters
    ----------
    bins
        Bin of each of ``n`` rows within each of ``T`` targets, shape ``(T, n)``. Rows are in the order of time, where
        it is known.
    sizes
        Number of bins of each target.
    timed
        How many of the rows, the first ones, have a time.
    """

    def __init__(self, bins: BinIndices, sizes: Sequence[int], timed: int = 0) -> None:
        self._bins, self.sizes, self.rows = bins, sizes, bins.shape[1]
        self._folds: Ints = np.arange(self.rows, dtype=np.intp) * FOLDS // max(self.rows, 1)
        number = min(_PERIODS, timed // _LEAST_IN_PERIOD)
        self._periods: Ints = np.linspace(0, timed, number + 1 if number >= _LEAST_PERIODS else 1).astype(np.intp)

    def by_bin(self, target: int, values: Floats) -> tuple[Floats, Floats]:
        """Return the number of rows in each bin of a target and each of `FOLDS` parts of the rows, and their sum.

        Shapes ``(K, FOLDS)``.
        """
        key = self._bins[target] * np.intp(FOLDS) + self._folds
        size = self.sizes[target] * FOLDS
        rows, sums = np.bincount(key, minlength=size), np.bincount(key, values, size)
        return rows.reshape(-1, FOLDS).astype(np.float64), sums.reshape(-1, FOLDS).astype(np.float64, copy=False)

    def pairs(self, one: int, other: int) -> tuple[Ints, Ints, Floats]:
        """Return the bins of two targets in which rows are together, and the number of these rows."""
        size = self.sizes[other]
        keys, rows = np.unique(self._bins[one] * np.intp(size) + self._bins[other], return_counts=True)
        return keys // size, keys % size, rows.astype(np.float64)

    def by_period(self, starts: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Return the mean of the rows from each start to the next one, and their sample variance."""
        parts = [values[start:stop] for start, stop in pairwise(starts)]
        return np.array([part.mean() for part in parts]), np.array([part.var(ddof=1) for part in parts])

    def moments(self, values: Floats) -> Moments:
        """Return the mean and the variance."""
        if not len(values) or values.min() == values.max():
            return Moments(float(values[0]) if len(values) else 0.0, 0.0)
        return Moments(float(values.mean()), float(values.var()))

    def less(self, values: Floats, mean: float, effects: Mapping[int, Floats]) -> Floats:
        """Return the values less a mean, and less the effects of each row's bins by target."""
        total = values - mean
        for target, effect in effects.items():
            total -= effect[self._bins[target]]
        return total

    def explaining(self, values: Floats, most: int) -> list[int]:
        """Return the targets whose bins together explain the values best, the best first.

        Targets are added one at a time, while the added one explains enough of rows that it was not fitted on: those of
        another fifth of the time.

        Parameters
        ----------
        values
            The values.
        most
            Most targets to return.
        """
        mean, variance = self.moments(values)
        least = _SMALLEST_GAIN * variance * self.rows
        rest = self.less(values, mean, {})
        chosen: list[int] = []
        while variance and len(chosen) < min(most, len(self.sizes)):
            gains = [-np.inf if t in chosen else self._gain(t, rest, variance) for t in range(len(self.sizes))]
            best = int(np.argmax(gains))
            if not gains[best] > least:
                break
            chosen.append(best)
            rest = self.remaining(values, chosen, self.fit(values, chosen))
            variance = self.moments(rest).variance
        return chosen

    def _gain(self, target: int, values: Floats, variance: float) -> float:
        """Return how much of the squares of values the bins of a target explain, by cross-validation."""
        rows, sums = self.by_bin(target, values)
        ridge = shrinkage_rows(sums.sum(axis=1), rows.sum(axis=1), variance)
        expected = (sums.sum(axis=1, keepdims=True) - sums) / (rows.sum(axis=1, keepdims=True) - rows + ridge)
        return float((2 * expected * sums - expected**2 * rows).sum())

    def fit(self, values: Floats, targets: Sequence[int]) -> list[Effects]:
        """Return the effects of the bins of some targets, whose sum is nearest to the values; by backfitting.

        Source: T. Hastie and R. Tibshirani, *Generalized additive models*, 1986. Each effect is shrunk, see
        `shrunken_means`.
        """
        mean, variance = self.moments(values)
        found = [self.by_bin(target, values) for target in targets]
        rows = [part.sum(axis=1) for part, _ in found]
        sums = [part.sum(axis=1) - mean * size for (_, part), size in zip(found, rows, strict=True)]
        pairs = {}
        for (i, one), (j, other) in combinations(enumerate(targets), 2):
            left, right, together = self.pairs(one, other)
            pairs[i, j], pairs[j, i] = (left, right, together), (right, left, together)
        effects = [np.zeros(len(part)) for part in rows]

        def fitted(index: int) -> Floats:
            """Return the sum of the effects of the other targets over the rows of each bin."""
            total = np.zeros(len(rows[index]))
            for other, effect in enumerate(effects):
                if other != index:
                    own, theirs, together = pairs[index, other]
                    total += np.bincount(own, together * effect[theirs], len(total))
            return total

        for _ in range(_ROUNDS if len(targets) > 1 else 1):
            for index, size in enumerate(rows):
                explained = sum(
                    float(effect @ (2 * part - count * effect - fitted(other)))
                    for other, (effect, part, count) in enumerate(zip(effects, sums, rows, strict=True))
                )
                rest = max(variance - explained / self.rows, 0.0)
                means = shrunken_means(sums[index] - fitted(index), size, rest)
                effects[index] = np.where(size > 0, means - (means @ size) / self.rows, 0.0)
        return [Effects(*part) for part in zip(rows, effects, strict=True)]

    def remaining(self, values: Floats, targets: Sequence[int], effects: Sequence[Effects]) -> Floats:
        """Return the values less their mean and less the effects of the bins of some targets."""
        by_target = {target: effect.values for target, effect in zip(targets, effects, strict=True)}
        return self.less(values, self.moments(values).mean, by_target)

    def associated(self, residuals: Floats, most: int) -> dict[int, Effects]:
        """Return the targets whose bins go with residuals beyond chance, with the mean residual of each bin.

        Of those whose χ² exceeds its mean by three standard deviations, the ones that explain most are returned.

        Parameters
        ----------
        residuals
            What remains of values.
        most
            Most targets to return.
        """
        mean, variance = self.moments(residuals)
        if not variance:
            return {}
        found: dict[int, Effects] = {}
        for target in range(len(self.sizes)):
            rows, sums = (part.sum(axis=1) for part in self.by_bin(target, residuals))
            sums = sums - mean * rows
            degrees = max(int((rows > 0).sum()) - 1, 1)
            if np.nansum(ratio(sums**2, rows)) / variance <= degrees + 3 * np.sqrt(2 * degrees):
                continue
            means = shrunken_means(sums, rows, variance)
            found[target] = Effects(rows, np.where(rows > 0, means, 0.0))
        best = sorted(found, key=lambda t: -float(found[t].rows @ found[t].values ** 2))[:most]
        return {target: found[target] for target in best}

    def variance_between(self, residuals: Floats) -> float:
        """Return the variance of the mean residual from one period to another, see `variance_between`.

        The rows with a time are divided into 20 periods of equally many rows, fewer where a period would have less than
        30 rows. With fewer than five periods it is 0.
        """
        if len(self._periods) < 2:
            return 0.0
        means, variances = self.by_period(self._periods, residuals)
        return variance_between(means, variances / np.diff(self._periods))
