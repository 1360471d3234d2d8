"""Sliding windows as rings of sub-window sums.

A window of an hour is 60 sub-windows of a minute, each a row of sums; the window is the sum of
the rows that are young enough. A row says which sub-window it holds, so idle hours need no
clearing, and time is monotonic, so neither midnight nor a stepped clock matters.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats

Ticks = npt.NDArray[np.int64]

SLOTS = 60
"""Sub-windows of a window: a window reaches back between 59/60 and 60/60 of its length."""


class Ring:
    """Sums and minima of the last ``reach`` windows.

    Memory is ``(reach · 60 + 1) · (width + lows) · 8`` bytes, whatever the traffic.

    Parameters
    ----------
    seconds
        Length of the window.
    width
        Number of sums in a row.
    lows
        Number of minima in a row.
    reach
        How many windows back `total` can look; 1 holds the window itself.
    """

    def __init__(self, seconds: float, width: int, lows: int = 0, reach: int = 1) -> None:
        self.step = seconds / SLOTS
        self._ticks = np.full(SLOTS * reach + 1, np.iinfo(np.int64).min // 2, dtype=np.int64)
        self._sums = np.zeros((len(self._ticks), width))
        self._lows = np.full((len(self._ticks), lows), np.inf)

    def add(self, now: float, sums: Floats, lows: Floats | None = None) -> None:
        """Add a row of sums, and lower the minima, at the monotonic time ``now`` in seconds."""
        tick = int(now // self.step)
        row = tick % len(self._ticks)
        if self._ticks[row] != tick:
            self._ticks[row] = tick
            self._sums[row] = 0
            self._lows[row] = np.inf
        self._sums[row] += sums
        if lows is not None:
            np.minimum(self._lows[row], lows, out=self._lows[row])

    def _rows(self, now: float, skip: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which rows lie in the window that ended when a window of ``skip`` seconds before ``now`` began."""
        last = now // self.step
        if skip:  # no row may hold anything that lies in that shorter window, too
            step = skip / SLOTS
            last = (now // step - SLOTS + 1) * step / self.step
            last = math.floor(last + 1e-9) - 1  # a boundary that both share is not always exact
        age = int(last) - self._ticks
        rows: np.ndarray[tuple[int], np.dtype[np.bool_]] = (age >= 0) & (age < SLOTS)
        return rows

    def total(self, now: float, skip: float = 0.0) -> Floats:
        """Sums of the window that ends ``now``, or where one of ``skip`` seconds begins; shape ``(width,)``."""
        return np.asarray(self._rows(now, skip).astype(np.float64) @ self._sums)  # a product copies no rows

    def lows(self, now: float) -> Floats:
        """Minima of the window that ends ``now``, shape ``(lows,)``; infinite where nothing came."""
        return np.asarray(np.min(self._lows, axis=0, where=self._rows(now, 0.0)[:, None], initial=np.inf))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sums and of minima in a row."""
        return self._sums.shape[1], self._lows.shape[1]

    def saved(self, now: float) -> tuple[Ticks, Floats, Floats]:
        """Which sub-windows are within reach, their sums and their minima; copies."""
        tick = int(now // self.step)
        rows = (self._ticks <= tick) & (self._ticks > tick - len(self._ticks))
        return self._ticks[rows], self._sums[rows], self._lows[rows]

    def restore(self, now: float, ticks: Ticks, sums: Floats, lows: Floats) -> None:
        """Put back what `saved` gave; ``now`` is at or after the time of that.

        Raises
        ------
        ValueError
            When it is of another ring, or of a time to come: then nothing is changed.
        """
        if sums.shape != (len(ticks), self._sums.shape[1]) or lows.shape != (len(ticks), self._lows.shape[1]):
            raise ValueError("it is of another size")
        if not np.isfinite(sums).all() or np.isnan(lows).any():
            raise ValueError("it holds no numbers")
        tick = int(now // self.step)
        if (ticks > tick).any():
            raise ValueError("it is of a time to come")
        fresh = ticks > tick - len(self._ticks)
        places = ticks[fresh] % len(self._ticks)
        self._ticks[places], self._sums[places], self._lows[places] = ticks[fresh], sums[fresh], lows[fresh]
