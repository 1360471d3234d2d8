"""The training distribution that a window is compared with: all values, or those of the hours of its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporter.profiles.season_record import Season
from exporter.stats.divergence import Floats, Ints, Reference

LEAST_ROWS = 20
"""Training values of an hour; one with fewer has the distribution of all hours."""


@dataclass(frozen=True, eq=False)
class Expected:
    """The training side of ``T`` targets.

    Attributes
    ----------
    reference
        The training distribution.
    counts
        Number of training values in each bin, shape ``(B,)``; where they are those of some hours, as many as are as
        exact as the mixture of the hours.
    shift
        Mean of these values less that of all training values, in training standard deviations, shape ``(T,)``.
    has_hours
        Whether they are those of some hours, for targets that change with the hour.
    """

    reference: Reference
    counts: Floats
    shift: Floats
    has_hours: bool = False


class HourlyReference:
    """The training distributions of the targets by hour, for those that change with it.

    Parameters
    ----------
    season
        The values by hour.
    names
        Names of the ``T`` targets.
    overall
        The training side for targets that do not change, and where no hour is known.
    quantiles
        χ² quantiles of the noise floors by degrees of freedom.

    Attributes
    ----------
    hours
        Number ``H`` of hours.
    targets
        Indices of the targets that change with the hour, shape ``(S,)``.
    """

    def __init__(self, season: Season, names: Sequence[str], overall: Expected, quantiles: Floats) -> None:
        self.hours = season.hours
        self._overall, self._quantiles = overall, quantiles
        reference = overall.reference
        self.targets: Ints = np.array([i for i, name in enumerate(names) if name in season.targets], dtype=np.intp)
        self._bins = np.flatnonzero(np.isin(reference.owner, self.targets))
        self._owner = np.searchsorted(self.targets, reference.owner[self._bins])
        values = [season.targets[names[target]] for target in self.targets]
        self._counts = np.concatenate([np.array(v.counts, dtype=np.float64) for v in values], axis=1)
        self._counts[:, overall.counts[self._bins] == 0] = 0  # such as outputs that are missing: they are left out
        self._starts = np.flatnonzero(np.diff(self._owner, prepend=-1))
        rows = np.add.reduceat(self._counts, self._starts, axis=1)
        known = rows >= LEAST_ROWS
        self._counts = np.where(known[:, self._owner], self._counts, overall.counts[self._bins])
        self._rows = np.add.reduceat(self._counts, self._starts, axis=1)
        shifts = np.array([v.shifts or (0.0,) * self.hours for v in values]).T
        self._shifts = np.where(known, shifts, 0.0)
        prior = reference.prior[self.targets]
        self._probability = (self._counts + 0.5) / (self._rows + prior)[:, self._owner]

    @classmethod
    def from_season(
        cls, season: Season | None, names: Sequence[str], overall: Expected, quantiles: Floats
    ) -> HourlyReference | None:
        """Return the distributions by hour; None where none of the targets changes with it."""
        return cls(season, names, overall, quantiles) if season and season.targets.keys() & set(names) else None

    def at(self, hours: Floats) -> Expected:
        """Return the training side of a window, given the number of its events in each hour, shape ``(H,)``.

        The distribution of a target is the mixture of those of the hours, each weighted by the share of the events.
        The mixture is as exact as ``1 / Σ w²/N`` values, with the weights ``w`` and the training values ``N``.
        """
        total = hours.sum()
        if total <= 0:
            return self._overall
        known = hours > 0
        weight, rows_of, counts_of = hours[known] / total, self._rows[known], self._counts[known]
        reference, shift = self._overall.reference, self._overall.shift.copy()
        rows, quantile, degrees = reference.rows.copy(), reference.quantile.copy(), reference.degrees.copy()
        probability, counts = reference.probability.copy(), self._overall.counts.copy()
        rows[self.targets] = 1 / (weight**2 @ (1 / rows_of))
        mixture = weight @ (counts_of / rows_of[:, self._owner])
        counts[self._bins] = mixture * rows[self.targets][self._owner]
        probability[self._bins] = weight @ self._probability[known]
        degrees[self.targets] = np.maximum(np.add.reduceat((mixture > 0).astype(np.intp), self._starts) - 1, 0)
        quantile[self.targets] = self._quantiles[degrees[self.targets]]
        shift[self.targets] = weight @ self._shifts[known]
        changed = replace(reference, rows=rows, probability=probability, quantile=quantile, degrees=degrees)
        return Expected(changed, counts, shift, has_hours=True)

    def adjusted(self, earlier: Floats, hours: Floats, earlier_hours: Floats) -> tuple[Floats, Floats]:
        """Return what an earlier window would have been in the hours of another one.

        Parameters
        ----------
        earlier
            Counts of the earlier window, shape ``(B,)``.
        hours, earlier_hours
            Number of events of the other window, and of the earlier one, in each hour, shape ``(H,)``.

        Returns
        -------
        tuple
            The counts, each changed as in training; and by how much the training's error adds to the variance of a
            share, shape ``(T,)``: it is to be added to ``1/N``.
        """
        error = np.zeros(len(self._overall.shift))
        if hours.sum() <= 0 or earlier_hours.sum() <= 0:
            return earlier, error
        share, earlier_share = hours / hours.sum(), earlier_hours / earlier_hours.sum()
        changed = earlier.copy()
        changed[self._bins] *= (share @ self._probability) / (earlier_share @ self._probability)
        starts, owner = self._overall.reference.starts, self._overall.reference.owner
        before, after = np.add.reduceat(earlier, starts), np.add.reduceat(changed, starts)
        scale = np.divide(before, after, out=np.ones_like(before), where=after > 0)
        error[self.targets] = (share - earlier_share) ** 2 @ (1 / self._rows)
        return np.asarray(changed * scale[owner]), error
