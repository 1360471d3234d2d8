"""Shares of bins within their targets, for several targets at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporter.stats.divergence import Floats, Ints


class BinShares:
    """Read the shares of the bins of some targets from the counts of all targets.

    Parameters
    ----------
    bins
        Indices of each target's bins among all bins.
    """

    def __init__(self, bins: Sequence[range]) -> None:
        sizes = [len(part) for part in bins]
        self.starts: Ints = np.cumsum([0, *sizes[:-1]], dtype=np.intp)[: len(bins)]
        self._owner = np.repeat(np.arange(len(bins)), sizes)
        self._indices: Ints = np.array([index for part in bins for index in part], dtype=np.intp)

    def read(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the share of each bin within its target, and the number of values of each target."""
        chosen = counts[self._indices]
        totals = self.sums(chosen)
        return chosen / np.maximum(totals, 1e-300)[self._owner], totals

    def sums(self, values: Floats) -> Floats:
        """Return the sum over the bins of each target."""
        return np.add.reduceat(values, self.starts) if len(self.starts) else np.empty(0)
