"""Sliding windows as rings of sub-window sums, and their statistics.

A window of an hour consists of 60 sub-windows of a minute, each a row of sums. The window is the sum of its rows that
are recent enough. Each row holds the number of its sub-window, so idle hours need no clearing. Time is monotonic, so
changes of the clock do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.monitoring.binner import Binner, Sums
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.divergence import Floats, Reference, ratio

Ticks = npt.NDArray[np.int64]

SLOTS = 60
"""Number of sub-windows of a window: it reaches back between 59/60 and 60/60 of its length."""


class Ring:
    """Sums and minima of the last ``reach`` windows.

    Memory is ``(reach · 60 + 1) · (width + minima) · 8`` bytes, whatever the traffic.

    Parameters
    ----------
    seconds
        Length of the window.
    width
        Number of sums in a row.
    minima
        Number of minima in a row.
    reach
        Number of windows that are kept; with 1 only the current window.
    """

    def __init__(self, seconds: float, width: int, minima: int = 0, reach: int = 1) -> None:
        self.step = seconds / SLOTS
        self._ticks = np.full(SLOTS * reach + 1, np.iinfo(np.int64).min // 2, dtype=np.int64)
        self._sums = np.zeros((len(self._ticks), width))
        self._minima = np.full((len(self._ticks), minima), np.inf)

    def add(self, now: float, sums: npt.ArrayLike, minima: Floats | None = None) -> None:
        """Add sums and minima at the monotonic time ``now`` in seconds."""
        tick = int(now // self.step)
        row = tick % len(self._ticks)
        if self._ticks[row] != tick:
            self._ticks[row] = tick
            self._sums[row] = 0
            self._minima[row] = np.inf
        self._sums[row] += np.asarray(sums)
        if minima is not None:
            np.minimum(self._minima[row], minima, out=self._minima[row])

    def add_past(self, now: float, times: Floats, sums: Floats) -> None:
        """Add sums at earlier times; those of before the window are left out.

        Parameters
        ----------
        now
            Monotonic time in seconds.
        times
            Time of each of ``n`` rows, by the same clock. A time after ``now`` counts as ``now``.
        sums
            Shape ``(n, width)``.
        """
        last = int(now // self.step)
        # A time long ago may not fit 64 bits; the window does not reach there.
        ticks = np.clip(times // self.step, last - len(self._ticks), last).astype(np.int64)
        order = np.argsort(ticks, kind="stable")
        distinct, starts = np.unique(ticks[order], return_index=True)
        by_tick = np.add.reduceat(sums[order], starts, axis=0) if len(starts) else sums
        rows = distinct % len(self._ticks)
        kept = (distinct > last - len(self._ticks)) & (self._ticks[rows] <= distinct)
        rows, distinct = rows[kept], distinct[kept]
        new = rows[self._ticks[rows] != distinct]
        self._sums[new] = 0
        self._minima[new] = np.inf
        self._ticks[rows] = distinct
        self._sums[rows] += by_tick[kept]

    def _rows(self, now: float, skip: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which rows are in the window that ends where a window of ``skip`` seconds before ``now`` begins."""
        last = now // self.step
        if skip:  # leave out rows that overlap the skipped window
            step = skip / SLOTS
            last = (now // step - SLOTS + 1) * step / self.step
            last = math.floor(last + 1e-9) - 1  # a common boundary may be inexact in floating point
        age = int(last) - self._ticks
        rows: np.ndarray[tuple[int], np.dtype[np.bool_]] = (age >= 0) & (age < SLOTS)
        return rows

    def total(self, now: float, skip: float = 0.0) -> Floats:
        """Return the sums of the window that ends ``now``, or ``skip`` seconds earlier; shape ``(width,)``."""
        return np.asarray(self._rows(now, skip).astype(np.float64) @ self._sums)  # a product copies no rows

    def history(self, now: float, columns: slice) -> Floats:
        """Return some columns of the sums of each complete sub-window that has any, the oldest first; shape ``(W, C)``.

        They reach back ``reach`` windows.
        """
        age = int(now // self.step) - self._ticks
        rows = np.flatnonzero((age > 0) & (age < len(self._ticks)))
        return self._sums[rows[np.argsort(self._ticks[rows])], columns]

    def parts(self, now: float, number: int) -> Floats:
        """Return the sums of parts of the window that ends ``now``, the newest first; shape ``(number, width)``.

        Parameters
        ----------
        now
            Monotonic time in seconds.
        number
            Number of parts of equal length; a divisor of `SLOTS`.
        """
        part = (int(now // self.step) - self._ticks) // (SLOTS // number)
        return np.asarray((part == np.arange(number)[:, None]).astype(np.float64) @ self._sums)

    def minima(self, now: float) -> Floats:
        """Return the minima of the window that ends ``now``, shape ``(minima,)``; infinite without values."""
        return np.asarray(np.min(self._minima, axis=0, where=self._rows(now, 0.0)[:, None], initial=np.inf))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of sums and of minima in a row."""
        return self._sums.shape[1], self._minima.shape[1]

    @property
    def nbytes(self) -> int:
        """The bytes of memory that all rows take."""
        return self._ticks.nbytes + self._sums.nbytes + self._minima.nbytes

    def dump(self, now: float) -> tuple[Ticks, Floats, Floats]:
        """Return copies of the rows that are kept: the numbers of their sub-windows, sums and minima."""
        tick = int(now // self.step)
        rows = (self._ticks <= tick) & (self._ticks > tick - len(self._ticks))
        return self._ticks[rows], self._sums[rows], self._minima[rows]

    def restore(self, now: float, ticks: Ticks, sums: Floats, minima: Floats) -> None:
        """Restore rows from `dump`; ``now`` is not before the time of the dump.

        Raises
        ------
        ValueError
            When the rows do not fit this ring, or are in the future. The ring is then unchanged.
        """
        if sums.shape != (len(ticks), self._sums.shape[1]) or minima.shape != (len(ticks), self._minima.shape[1]):
            raise ValueError("it has another size")
        if not np.isfinite(sums).all() or np.isnan(minima).any():
            raise ValueError("it has values that are not numbers")
        tick = int(now // self.step)
        if (ticks > tick).any():
            raise ValueError("it is from the future")
        recent = ticks > tick - len(self._ticks)
        rows = ticks[recent] % len(self._ticks)
        self._ticks[rows], self._sums[rows], self._minima[rows] = ticks[recent], sums[recent], minima[recent]


class BatchSums(NamedTuple):
    """The sums of a batch for a window: its row of sums, its minima, and the same for each segment.

    The last is the observations in each bin, shape ``(S, B)``.
    """

    row: Floats
    minima: Floats
    by_segment: Floats | None = None


RingRows = tuple[Ticks, Floats, Floats]
"""The rows of a ring, as `Ring.dump` returns them."""


class Windows:
    """The windows of a model version; the caller holds the monitor's lock. Times are monotonic, in seconds.

    Parameters
    ----------
    lengths
        Window lengths in seconds by their spelling, the shortest first.
    width, minima
        Number of sums and of minima of a batch; without sums there are no windows.
    segment_width
        Number of sums of all segments together, which have one window, the longest.
    """

    def __init__(self, lengths: Mapping[str, float], width: int, minima: int, segment_width: int) -> None:
        self._lengths = lengths
        self._rings: dict[str, Ring] = {}
        self._segment_ring: Ring | None = None
        self._offset = 0.0  # the rings' time less the monotonic time: a restart continues the windows
        if width:
            longest = list(lengths)[-1]
            for name, seconds in lengths.items():
                reach = 2 if name == longest else 1  # each window is compared with the longest one before it
                self._rings[name] = Ring(seconds, width, minima, reach)
            if segment_width:
                self._segment_ring = Ring(lengths[longest], segment_width)

    def time(self, now: float) -> float:
        """Return the rings' time."""
        return now + self._offset

    def add(self, now: float, sums: BatchSums) -> None:
        """Add the sums of a batch."""
        for ring in self._rings.values():
            ring.add(self.time(now), sums.row, sums.minima)
        if self._segment_ring and sums.by_segment is not None:
            self._segment_ring.add(self.time(now), sums.by_segment.ravel())

    def read(self, now: float) -> dict[str, tuple[Floats, Floats, Floats]]:
        """Return the sums and minima of each window, and the sums of the longest window before it."""
        if not self._rings:
            return {}
        time, longest = self.time(now), list(self._rings.values())[-1]
        return {
            name: (ring.total(time), ring.minima(time), longest.total(time, skip=self._lengths[name]))
            for name, ring in self._rings.items()
        }

    def history(self, now: float, columns: slice) -> Floats:
        """Return some columns of the sub-windows of the longest window and the one before it; see `Ring.history`."""
        return list(self._rings.values())[-1].history(self.time(now), columns)

    def segment_counts(self, now: float) -> Floats | None:
        """Return the counts by segment in the longest window, shape ``(S · B,)``; None without segments."""
        return self._segment_ring.total(self.time(now)) if self._segment_ring else None

    def rings(self) -> list[Ring]:
        """Return the rings of the inputs' windows, the shortest first, and that of the segments, if there are any."""
        return [*self._rings.values(), *([self._segment_ring] if self._segment_ring else [])]

    def dump(self, time: float) -> list[RingRows]:
        """Return copies of the rows of `rings` at the rings' time."""
        return [ring.dump(time) for ring in self.rings()]

    def restore(self, now: float, time: float, rings: Sequence[RingRows]) -> None:
        """Continue with the windows of an older process; see `ModelMonitor.restore`."""
        for ring, rows in zip(self.rings(), rings, strict=True):
            ring.restore(time, *rows)
        self._offset = time - now


@dataclass(frozen=True)
class WindowStats:
    """Statistics of the targets in one window: arrays of shape ``(T,)``, NaN where there are no values.

    Attributes
    ----------
    recent
        Distribution of the longest window before this one.
    counts
        Number of observations in each bin, shape ``(B,)``.
    observations
        Number of observations, missing and invalid ones included.
    mean, stddev, min, max
        Statistics of the valid values.
    missing, invalid, unseen
        Share of the observations that are missing, invalid, or outside the training range or categories.
    reference_missing
        Smoothed training probability of a missing or invalid value.
    shift
        Mean less that of training, in training standard deviations.
    kl, noise
        KL divergence from training in nats, and its noise floor.
    recent_kl, recent_noise
        KL divergence from the longest window before this one, and its noise floor.
    multivariate
        Drift of the correlation between features, and its noise floor, shape ``(2,)``.
    """

    recent: Reference
    counts: Floats
    observations: Floats
    mean: Floats
    stddev: Floats
    min: Floats
    max: Floats
    missing: Floats
    invalid: Floats
    unseen: Floats
    reference_missing: Floats
    shift: Floats
    kl: Floats
    noise: Floats
    recent_kl: Floats
    recent_noise: Floats
    multivariate: Floats


def compute(binner: Binner, noise: NoiseFloors, window: tuple[Floats, Floats, Floats]) -> WindowStats:
    """Compute the statistics of a window.

    Parameters
    ----------
    binner
        Gives the meaning of the sums.
    noise
        The noise floors.
    window
        Sums and minima of the window, and the sums of the longest window before it.
    """
    row, minima, earlier = window
    sums: Sums = binner.split(row)
    observations = np.add.reduceat(sums.counts, binner.starts) if binner.bins else np.empty(0)
    observed = observations > 0
    smallest, largest = minima[: len(observed)], -minima[len(observed) :]
    smallest = np.where(np.isfinite(smallest), smallest, np.nan)
    largest = np.where(np.isfinite(largest), largest, np.nan)
    offset = ratio(sums.first, sums.valid)
    variance = np.maximum(ratio(sums.second, sums.valid) - offset**2, 0.0)
    with np.errstate(over="ignore"):
        mean, stddev = binner.centre + offset * binner.scale, np.sqrt(variance) * binner.scale
    reference = binner.reference
    recent = Reference.from_counts(binner.split(earlier).counts, binner.sizes, binner.quantiles)
    comparable = observed & (recent.rows > 0)
    probability = reference.probability
    return WindowStats(
        recent=recent,
        counts=sums.counts,
        observations=np.where(observed, observations, np.nan),
        mean=mean,
        stddev=np.where(smallest == largest, 0.0, stddev),  # exactly 0 for a constant
        min=smallest,
        max=largest,
        missing=ratio(sums.counts[binner.missing], observations),
        invalid=ratio(sums.counts[binner.invalid], observations),
        unseen=ratio(sums.unseen, observations),
        reference_missing=probability[binner.missing] + probability[binner.invalid],
        shift=np.where(binner.stddev > 0, offset, np.nan),
        kl=np.where(observed, reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(observed, noise.training(observations, reference), np.nan),
        recent_kl=np.where(comparable, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(comparable, noise.recent(observations, recent), np.nan),
        multivariate=np.array(binner.multivariate_drift(row)),
    )
