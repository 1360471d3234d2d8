"""Whether a distribution changes with the hour of the day or of the week, and by how much.

Pure numpy, over counts of successive cycles (days or weeks) in the same bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import Floats

GROUPS = 4
"""Groups into which cycles are dealt in turn; as many cycles are needed at least."""
SIGNIFICANCE = 0.001
LEAST_DIVERGENCE = 0.005
"""Least mean divergence of an hour from all hours, in nats: that of a shift by a tenth of a standard deviation."""
_ROTATIONS = 9999


class SeasonEffect(NamedTuple):
    """The change of a distribution with the hour.

    Attributes
    ----------
    divergence
        Mean divergence of the distribution of an hour from that of all hours, in nats. Chance adds nothing to it.
    p_value
        Probability of as large a divergence where the hour does not matter.
    """

    divergence: float
    p_value: float

    @property
    def is_relevant(self) -> bool:
        """Whether the change is significant, and large enough to matter."""
        return self.p_value <= SIGNIFICANCE and self.divergence >= LEAST_DIVERGENCE


def season_effect(counts: Floats) -> SeasonEffect:
    """Return how much a distribution changes with the hour.

    The deviations of the hours from their mean are compared between groups of cycles: a season is the same in all of
    them, chance is not. Half the sum of their products is the divergence of χ², which is about the divergence in nats.
    In the permutation test, the hours of each group are rotated at random. This keeps what successive values have in
    common, so values that depend on each other show no season, as they would in a test of independent values.

    Parameters
    ----------
    counts
        Number of values in each bin in each hour of each group of cycles, shape ``(G, H, K)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> day = np.array([[0.5, 0.5]] * 12 + [[0.3, 0.7]] * 12)
    >>> season_effect(rng.multinomial(200, day, size=(4, 24)).astype(float)).is_relevant
    True
    >>> season_effect(rng.multinomial(200, [0.4, 0.6], size=(4, 24)).astype(float)).is_relevant
    False
    """
    groups, hours, _ = counts.shape
    counts = counts[:, :, counts.any(axis=(0, 1))]
    observed = counts.sum(axis=2, keepdims=True)
    by_group = observed.sum(axis=1, keepdims=True)
    if counts.shape[2] < 2 or not by_group.all():
        return SeasonEffect(0.0, 1.0)
    share = counts.sum(axis=(0, 1)) / counts.sum()
    expected = observed * (counts.sum(axis=1, keepdims=True) / by_group)
    hourly = np.maximum(observed.sum(axis=0), 1.0)
    # An hour counts as often as all groups have it, also in a group that has few values of it.
    weight = np.sqrt(hourly / hourly.sum())
    deviation = weight * (counts - expected) / np.maximum(observed, 1.0) / np.sqrt(share)
    flat = deviation.reshape(groups, -1)
    products = np.array([flat @ np.roll(deviation, -hour, axis=1).reshape(groups, -1).T for hour in range(hours)])
    pairs = np.triu_indices(groups, 1)

    def divergence(rotation: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Floats:
        """Return half the mean product of the groups, after rotations of shape ``(R, G)``; shape ``(R,)``."""
        turned = (rotation[:, pairs[1]] - rotation[:, pairs[0]]) % hours
        return np.asarray(products[turned, pairs[0], pairs[1]].mean(axis=1) / 2)

    found = float(divergence(np.zeros((1, groups), dtype=np.int64))[0])
    by_chance = divergence(np.random.default_rng(0).integers(hours, size=(_ROTATIONS, groups)))
    return SeasonEffect(found, float(1 + (by_chance >= found).sum()) / (1 + _ROTATIONS))


class OtherHours:
    """The other values at the hours of blocks of values.

    Parameters
    ----------
    hours
        Counts of each of ``M`` blocks by hour, shape ``(M, H)``.
    by_hour
        Counts of all values by hour, shape ``(H,)``.

    Examples
    --------
    >>> other = OtherHours(np.array([[4.0, 0.0]]), np.array([14.0, 100.0]))
    >>> other.values(np.array([[1.0, 3.0]]), np.array([[8.0, 6.0], [50.0, 50.0]])).round(9).tolist()
    [[7.0, 3.0]]
    """

    def __init__(self, hours: Floats, by_hour: Floats) -> None:
        rest = by_hour - hours
        counted = np.where(rest > 0, hours, 0.0)
        weight = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1.0)
        self._factor = weight / np.maximum(rest, 1.0)
        self._own = (self._factor * hours).sum(axis=1, keepdims=True) / hours.sum(axis=1, keepdims=True)
        self._error = (weight * self._factor).sum(axis=1, keepdims=True)

    def values(self, blocks: Floats, by_hour: Floats) -> Floats:
        """Return the counts of other values by bin, as many as are as exact as they are.

        The distribution is the mixture of those of the hours, weighted by the values that a block has in each. The
        block is left out of it; of a block of several hours only its sum is known, which is taken out of all of them
        alike.

        Parameters
        ----------
        blocks, by_hour
            Counts of the blocks, shape ``(M, K)``, and of all values by hour, ``(H, K)``.

        Returns
        -------
        ndarray
            Shape ``(M, K)``. It adds up to ``1 / Σ w²/N`` with the weights ``w`` and the other values ``N`` of each
            hour. An hour without other values is left out; a block that has only such hours is compared with the other
            values of all hours.
        """
        share = np.maximum(self._factor @ by_hour - self._own * blocks, 0.0)
        total = self._error * share.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(share, total, out=by_hour.sum(axis=0) - blocks, where=total > 0))


def relative_noise(others: Floats, total: Floats, size: int) -> Floats:
    """Return the noise of a block compared with all other values, relative to that compared with ``others``.

    Parameters
    ----------
    others
        See `OtherHours.values`, shape ``(M, K)``.
    total
        Counts of all values, shape ``(K,)``.
    size
        Number of values of a block.

    Returns
    -------
    ndarray
        Shape ``(M,)``.
    """
    degrees = np.maximum((others > 0).sum(axis=1) - 1, 1)
    noise = degrees * (1 / size + 1 / others.sum(axis=1))
    return np.asarray(max(int((total > 0).sum()) - 1, 1) * (1 / size + 1 / (total.sum() - size)) / noise)
