"""Further distances of a live distribution from training, from counts in frozen bins.

Pure numpy, for all features at once, as in `exporter.stats.divergence`. They are computed where the configuration asks
for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from exporter.stats.divergence import Floats, Reference, ratio


class Distances:
    """The training distribution of ``F`` features in ``B`` bins, for all distances.

    A numeric feature with ``E`` edges has a bin below the first, the bins between, a bin above the last, and two bins
    for missing and invalid values. Distances along the axis assume that values are spread evenly over their bin.

    Parameters
    ----------
    reference
        The training distribution.
    counts
        Number of training values in each bin, shape ``(B,)``.
    edges
        Edges of each feature, empty for categories; shape ``(F,)`` of ``(E,)``.
    centre, scale
        Mean and standard deviation of the training values, shape ``(F,)``.

    Examples
    --------
    Training has 50, 30 and 20 values in [0, 1), [1, 2) and [2, 3); the live window 20, 30 and 50.

    >>> training = np.array([0.0, 50, 30, 20, 0, 0, 0])
    >>> live = np.array([0.0, 20, 30, 50, 0, 0, 0])
    >>> reference = Reference.from_counts(training, [7])
    >>> one = Distances(reference, training, [np.arange(4.0)], np.array([1.2]), np.array([1.0]))
    >>> from scipy.spatial.distance import jensenshannon
    >>> from scipy.stats import wasserstein_distance
    >>> q, p = one.reference.probability, one.reference.smoothed(live)
    >>> bool(np.isclose(one.js(live)[0], jensenshannon(p, q) ** 2))
    True
    >>> bool(np.isclose(one.psi(live)[0], ((p - q) * np.log(p / q)).sum()))
    True
    >>> one.ks(live).round(12).tolist()
    [0.3]
    >>> middles = [0.5, 1.5, 2.5]
    >>> exact = wasserstein_distance(middles, middles, [20, 30, 50], [50, 30, 20])
    >>> extremes = np.array([0.0]), np.array([3.0])
    >>> bool(np.isclose(one.wasserstein(live, np.array([0.6]), *extremes)[0], exact))
    True
    """

    def __init__(
        self, reference: Reference, counts: Floats, edges: Sequence[Floats], centre: Floats, scale: Floats
    ) -> None:
        self.reference = reference
        self._centre, self._scale = centre, scale
        self._numbers = np.zeros(len(counts), dtype=bool)
        self._widths = np.zeros(len(counts))
        self._ends = np.full((2, len(edges)), np.nan)  # first and last edge
        for index, (start, values) in enumerate(zip(reference.starts, edges, strict=True)):
            if len(values):
                self._numbers[start : start + len(values) + 1] = True
                scaled = self._scaled(values, index)
                self._widths[start + 1 : start + len(values)] = np.diff(scaled)
                self._ends[:, index] = scaled[0], scaled[-1]
        self._cumulative = self._shares_below(counts)

    def with_training(self, reference: Reference, counts: Floats) -> Distances:
        """Return the distances from another training distribution in the same bins."""
        other = copy(self)
        other.reference, other._cumulative = reference, self._shares_below(counts)
        return other

    def _scaled(self, values: Floats, index: int | slice) -> Floats:
        """Return values in training standard deviations from the training mean, clipped to finite numbers."""
        with np.errstate(over="ignore"):
            shifted = (values - self._centre[index]) / self._scale[index]
        return np.clip(shifted, -1e145, 1e145)

    def _shares_below(self, counts: Floats) -> Floats:
        """Return the share of a feature's numbers in each bin or a lower one; NaN without numbers."""
        starts, owner = self.reference.starts, self.reference.owner
        numbers = np.where(self._numbers, counts, 0.0)
        running = np.cumsum(numbers)
        before = (running - numbers)[starts]
        return ratio(running - before[owner], np.add.reduceat(numbers, starts)[owner])

    def js(self, counts: Floats) -> Floats:
        """Return the Jensen-Shannon divergence in nats, 0 to ln 2 (Lin 1991): ½ KL(p ‖ w) + ½ KL(q ‖ w), w = (p + q)/2.

        ``p`` and ``q`` are smoothed as for `Reference.kl_divergence`. Shape ``(F,)``.
        """
        q, p = self.reference.probability, self.reference.smoothed(counts)
        middle = (p + q) / 2
        parts = p * np.log(p / middle) + q * np.log(q / middle)
        return np.maximum(np.add.reduceat(parts, self.reference.starts) / 2, 0.0)

    def psi(self, counts: Floats) -> Floats:
        """Return the population stability index Σ (p − q) ln(p/q), smoothed in the same way. Shape ``(F,)``."""
        q, p = self.reference.probability, self.reference.smoothed(counts)
        return np.add.reduceat((p - q) * np.log(p / q), self.reference.starts)

    def ks(self, counts: Floats) -> Floats:
        """Return the Kolmogorov-Smirnov statistic: the largest gap between the shares of numbers below an edge.

        It is compared at the edges only, so it is at most the statistic of the values, and equal to it if every value
        has its own bin. There is no smoothing; missing and invalid values are left out. Shape ``(F,)``; NaN without
        live or training numbers, and for categories.
        """
        gaps = np.abs(self._shares_below(counts) - self._cumulative)
        return np.maximum.reduceat(gaps, self.reference.starts)

    def wasserstein(self, counts: Floats, mean: Floats, smallest: Floats, largest: Floats) -> Floats:
        """Return the first Wasserstein distance (earth mover's distance) in training standard deviations.

        It is the area between the two cumulative distributions, which are taken as straight lines within a bin, and
        between the training range and the live extremes. The area where the live distribution is lower, less that where
        it is higher, is the difference of the means, which is known exactly. The areas are corrected by the error of
        the straight lines in it. So the distance is exact for a distribution that only moved in one direction.

        Parameters
        ----------
        counts
            Number of live observations in each bin, shape ``(B,)``.
        mean
            Live mean less the training mean, in training standard deviations, shape ``(F,)``.
        smallest, largest
            Live extremes, shape ``(F,)``.

        Returns
        -------
        ndarray
            Shape ``(F,)``; NaN without live or training numbers, and for categories.
        """
        starts = self.reference.starts
        live = self._shares_below(counts)
        right = live - self._cumulative
        left = np.concatenate([[0.0], right[:-1]])  # a feature's first bin has no width
        up, down = np.abs(left), np.abs(right)
        crossing = (left * right < 0) & (self._widths > 0)
        area = np.where(crossing, (up**2 + down**2) / np.where(crossing, up + down, 1), up + down) / 2
        no_width = self._widths == 0  # NaN there belongs to another feature
        inside = np.add.reduceat(np.where(no_width, 0.0, area * self._widths), starts)
        signed = np.add.reduceat(np.where(no_width, 0.0, (left + right) / 2 * self._widths), starts)
        below = live[starts]
        last = np.append(starts[1:], len(counts)) - 4  # the last bin within the range, of a number
        above = 1 - live[last]
        with np.errstate(invalid="ignore"):  # values outside lie on average halfway to the extreme
            left_over = below * np.maximum(self._ends[0] - self._scaled(smallest, slice(None)), 0) / 2
            right_over = above * np.maximum(self._scaled(largest, slice(None)) - self._ends[1], 0) / 2
        total = inside + left_over + right_over
        shift = right_over - left_over - signed
        corrected = total + (mean - shift) * np.divide(shift, total, out=np.zeros(len(total)), where=total > 0)
        distance: Floats = np.maximum(corrected, np.abs(mean))
        return distance
