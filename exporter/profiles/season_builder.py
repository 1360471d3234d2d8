"""Count training rows by hour, and find the features whose distribution changes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import ProfileError
from exporter.profiles.profile import Feature, NumericFeature
from exporter.profiles.row_bins import feature_bins
from exporter.profiles.season_record import HOURS, HourlyValues, Period, Season, cycle_hours
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints
from exporter.stats.season import GROUPS, season_effect
from exporter.validation import preview

MAX_DEVIATION = 1e9
"""The most that a value counts from the mean, in training standard deviations; sums stay exact enough."""
Columns = Mapping[str, Sequence[Any] | Floats]


class SeasonBuilder:
    """Count the values of features, and of other targets, by bin and hour.

    Memory is four tables of the hours and bins, whatever the number of rows.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    period
        ``day`` or ``week``.

    Attributes
    ----------
    scales
        Mean and standard deviation of the numeric targets that have one.
    """

    def __init__(self, targets: Mapping[str, Feature], period: Period) -> None:
        self._targets, self._period = targets, period
        self._hours = HOURS[period]
        self._counts: dict[str, npt.NDArray[np.uint32] | Ints] = {
            name: np.zeros((GROUPS, self._hours, len(target.counts)), dtype=np.uint32)
            for name, target in targets.items()
        }
        self.scales = {
            name: (target.mean or 0.0, target.stddev)
            for name, target in targets.items()
            if isinstance(target, NumericFeature) and target.stddev
        }
        self._sums = {name: np.zeros((2, self._hours)) for name in self.scales}
        self._range = np.inf, -np.inf

    def add(self, columns: Columns, seconds: Floats, known: Mapping[str, BinIndices]) -> None:
        """Add rows: the values by target, the times in Unix seconds, and the bins of those targets that are known.

        Rows without a time are left out.
        """
        timed = np.isfinite(seconds)
        if not timed.any():
            return
        cycle, hour = cycle_hours(seconds[timed], self._hours)
        self._range = min(self._range[0], seconds[timed].min()), max(self._range[1], seconds[timed].max())
        group_hour = cycle % GROUPS * self._hours + hour
        for name, target in self._targets.items():
            bins = known[name] if name in known else feature_bins(target, columns[name])
            counts = self._counts[name]
            index = group_hour * counts.shape[2] + bins[timed]
            counts += np.bincount(index, minlength=counts.size).reshape(counts.shape).astype(np.uint32)
            if name in self._sums:
                mean, stddev = self.scales[name]
                with np.errstate(over="ignore", invalid="ignore"):
                    scaled = (np.asarray(columns[name], dtype=np.float64)[timed] - mean) / stddev
                self._sums[name] += _hourly_sums(scaled, hour, self._hours)

    def add_range(self, first: float, last: float) -> None:
        """Add the first and the last time of rows that are counted elsewhere, in Unix seconds."""
        self._range = first, last

    def add_counts(self, name: str, counts: Ints, sums: Floats) -> None:
        """Add all rows of a target, counted elsewhere.

        Parameters
        ----------
        name
            The target.
        counts
            Number of values in each bin in each hour, the cycles dealt to groups in turn, shape ``(GROUPS, H, K)``.
        sums
            Sum of the valid values in each hour, in standard deviations from the mean, see `scales`; shape ``(H,)``.
        """
        self._counts[name] = counts
        if name in self._sums:
            self._sums[name] = np.stack((counts[..., :-2].sum(axis=(0, 2)), sums))

    def check(self, where: str, column: str) -> None:
        """Check that the times in a column cover enough days or weeks.

        Raises
        ------
        ProfileError
            When they do not. It names the data by ``where``.
        """
        seconds = self._range[1] - self._range[0]
        if seconds < (GROUPS * self._hours - 1) * 3600:  # to the beginning of the last hour
            covered = f"cover {seconds / 86400:.1f} days" if seconds >= 0 else "cannot be read"
            needed = f"--season={self._period} needs the rows of at least {GROUPS} {self._period}s"
            raise ProfileError(f"{where}: {needed}; the times in {preview(column)} {covered}")

    def build(self, where: str, column: str) -> Season | None:
        """Return the values by hour of the targets that change with it; None where none does. Checks first."""
        self.check(where, column)
        found = {
            name: HourlyValues(tuple(map(tuple, counts.sum(axis=0, dtype=np.int64).tolist())), self._shifts(name))
            for name, counts in self._counts.items()
            if season_effect(counts.astype(np.float64)).is_relevant
        }
        return Season(self._period, found) if found else None

    def _shifts(self, name: str) -> tuple[float, ...]:
        if name not in self._sums:
            return ()
        valid, total = self._sums[name]
        shifts = total / np.maximum(valid, 1) - total.sum() / max(valid.sum(), 1)
        return tuple(float(f"{shift:.4g}") for shift in np.where(valid > 0, shifts, 0.0))


def _hourly_sums(values: Floats, hour: Ints, hours: int) -> Floats:
    """Return the number of valid values in each hour, and their sum; shape ``(2, H)``."""
    valid = np.isfinite(values)
    values, hour = np.clip(values[valid], -MAX_DEVIATION, MAX_DEVIATION), hour[valid]
    return np.stack((np.bincount(hour, minlength=hours), np.bincount(hour, values, minlength=hours)))
