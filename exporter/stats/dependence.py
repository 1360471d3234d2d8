"""Noise of values that depend on the values before them.

Successive values of real traffic resemble each other: users come in sessions, sensors drift. A window of them differs
more from training than one of independent values. How much more is measured in training: blocks of consecutive rows are
scored like windows, each against all other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exporter.stats.change_evidence import rank_scores
from exporter.stats.divergence import NOISE_CONFIDENCE, Floats, Ints, Reference

_NULL_BLOCKS = 100  # blocks of independent values to which the blocks of training are compared
_NULL_VALUES = 10  # values for each bin, from which on the formula of the mean holds
_MIN_BLOCKS = 100  # with fewer, the 99 % quantile is beyond the largest score
_SIGNIFICANCE = 3.0  # standard errors


@dataclass(frozen=True)
class BlockNoise:
    """The noise of one feature, by the scores of blocks of consecutive training rows.

    Attributes
    ----------
    quantiles
        The 99 % quantile of the scores in nats, for each of ``S`` block sizes.
    effective
        How many independent values differ from training as much as a block does, for each size.
    dependent
        Whether the scores prove that successive values depend on each other.
    """

    quantiles: Floats
    effective: Floats
    dependent: bool


def block_sizes(rows: int) -> list[int]:
    """Return the block sizes for a training set: 20, 40, 80, and so on up to a tenth of the rows.

    >>> block_sizes(1000), block_sizes(100)
    ([20, 40, 80], [])
    """
    sizes = []
    size = 20
    while size * 10 <= rows:
        sizes.append(size)
        size *= 2
    return sizes


def leave_out_divergence(blocks: Floats, others: Floats) -> Floats:
    """Return KL(block ‖ other rows) in nats, smoothed like `Reference.kl_divergence`.

    The block is left out of the reference. Otherwise it would resemble the reference more than a live window does.

    Parameters
    ----------
    blocks, others
        Counts of each of ``M`` blocks, and of all other rows, shape ``(M, K)``.

    Returns
    -------
    ndarray
        Shape ``(M,)``.
    """
    prior = blocks.shape[1] / 2
    q = (others + 0.5) / (others.sum(axis=1, keepdims=True) + prior)
    p = (blocks + prior * q) / (blocks.sum(axis=1, keepdims=True) + prior)
    return np.asarray(np.maximum((p * np.log(p / q)).sum(axis=1), 0.0))


def measure_noise(scores: Sequence[Floats], sizes: Sequence[int], total: Floats) -> BlockNoise:
    """Return what the scores of blocks tell.

    The quantile of ``m`` blocks is taken at the rank ``0.99 (m + 1)``, which a new block exceeds in 1 of 100 cases
    (Weibull 1939). Blocks that overlap, or depend on each other, count for less than their number. From fewer than 100
    the quantile is the mean times the ratio of quantile and mean of the largest size that has 100.

    Parameters
    ----------
    scores
        `leave_out_divergence` of the blocks of each of ``S`` sizes.
    sizes
        Number of rows of a block.
    total
        Counts of all rows, shape ``(K,)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bins = np.repeat(rng.integers(4, size=2000), 5)  # each value comes five times
    >>> counts = np.stack([np.bincount(block, minlength=4) for block in bins.reshape(-1, 80)]).astype(float)
    >>> total = counts.sum(axis=0)
    >>> noise = measure_noise([leave_out_divergence(counts, total - counts)], [80], total)
    >>> noise.dependent, int(noise.effective[0].round())
    (True, 18)
    """
    rows, degrees = float(total.sum()), int((total > 0).sum()) - 1
    if degrees < 1 or not len(sizes):
        return BlockNoise(np.zeros(len(sizes)), np.array(sizes, dtype=np.float64), False)
    n = np.array(sizes, dtype=np.float64)
    mean, deviation = _independent_scores(n, total)
    return noise_of_scores(scores, mean, deviation, n, rows)


def noise_of_scores(
    scores: Sequence[Floats], expected: Floats, deviation: Floats | float, sizes: Floats, rows: float
) -> BlockNoise:
    """Return what the scores of blocks tell; see `measure_noise`.

    Parameters
    ----------
    scores
        Scores of the blocks of each of ``S`` sizes.
    expected
        Mean score of blocks of independent rows, shape ``(S,)``.
    deviation
        Standard deviation of their scores over the mean, of each size or of all.
    sizes
        Number of rows of a block, shape ``(S,)``.
    rows
        Number of all rows.
    """
    means = np.array([part.mean() for part in scores])
    inflation = means / expected
    blocks = np.minimum(rows / sizes, [len(part) for part in scores])
    errors = deviation * np.sqrt(1 / blocks + 1 / _NULL_BLOCKS)
    largest = max(float(inflation.max()), 1.0)
    quantiles = []
    tail = 1.0
    for size, part, mean in zip(sizes, scores, means, strict=True):
        different = min(rows / max(size / 2, largest), len(part))
        quantile = float(np.quantile(part, min(NOISE_CONFIDENCE * (different + 1) / different, 1.0)))
        if different >= _MIN_BLOCKS or size == sizes[0]:
            tail = max(quantile / max(mean, 1e-300), 1.0)
        quantiles.append(max(quantile, tail * mean) if different < _MIN_BLOCKS else quantile)
    dependent = bool(((inflation - 1) / errors).max() > _SIGNIFICANCE)
    return BlockNoise(np.array(quantiles), sizes / np.maximum(inflation, 1.0), dependent)


def _independent_scores(n: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Return the mean score of blocks of ``n`` independent values of the same distribution, and its relative deviation.

    The mean is about ``(n/(n+m))² (K′ − 1)/2 (1/n + 1/(N − n))``, and twice a score over its factors is about χ²
    distributed. How far that is off for rare values is simulated for small blocks: the more bins, the larger ones.
    """
    rows, prior = float(total.sum()), len(total) / 2
    degrees = int((total > 0).sum()) - 1

    def formula(size: Floats) -> Floats:
        return (size / (size + prior)) ** 2 * degrees / 2 * (1 / size + 1 / (rows - size))

    sizes = n[: int(n.searchsorted(_NULL_VALUES * len(total))) + 1]
    rng = np.random.default_rng(0)
    means, deviations = [], []
    for size in sizes:
        blocks = np.minimum(rng.multinomial(int(size), total / rows, _NULL_BLOCKS), total)
        scores = leave_out_divergence(blocks, total - blocks)
        means.append(scores.mean())
        deviations.append(max(scores.std() / scores.mean(), np.sqrt(2 / degrees)))
    logs = np.log(sizes)
    correction = np.interp(np.log(n), logs, np.array(means) / formula(sizes))
    return np.asarray(formula(n) * correction), np.interp(np.log(n), logs, deviations)


@dataclass(frozen=True)
class NoiseRatio:
    """How many times higher the noise floor is than that of independent values, by the number of values.

    Attributes
    ----------
    sizes
        Numbers of values for which the ratio is known, ascending, shape ``(S,)``.
    ratio
        The ratio of each of ``F`` features, at least 1, shape ``(F, S)``.
    """

    sizes: Floats
    ratio: Floats

    @classmethod
    def of_independent_values(cls, features: int) -> NoiseRatio:
        """Return the ratio 1 for each feature."""
        return cls(np.empty(0), np.ones((features, 0)))

    @classmethod
    def from_quantiles(cls, sizes: Floats, quantiles: Floats, reference: Reference) -> NoiseRatio:
        """Return the ratio of block quantiles, shape ``(F, S)``, NaN for independent values, to the noise floor."""
        floor = np.stack([reference.noise(np.full(len(reference.rows), size)) for size in sizes], axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(floor > 0, quantiles / floor, 1.0)
        return cls(sizes, np.fmax(ratio, 1.0))

    def at(self, observed: Floats) -> Floats:
        """Return the ratio for a number of values.

        It is interpolated between the sizes, linearly in the logarithms, and constant below and above them: far beyond
        the time over which values depend on each other, twice as many values are twice as precise.

        Parameters
        ----------
        observed
            Number of values of each feature, shape ``(..., F)``.

        Returns
        -------
        ndarray
            Shape ``(..., F)``.

        Examples
        --------
        >>> ratio = NoiseRatio(np.array([20.0, 80.0]), np.array([[1.0, 4.0]]))
        >>> ratio.at(np.array([[5.0], [40.0], [900.0]])).round(9).tolist()
        [[1.0], [2.0], [4.0]]
        """
        if not len(self.sizes):
            return np.ones_like(observed)
        knots, logs, slopes, features = self._segments
        with np.errstate(divide="ignore"):
            log_observed = np.clip(np.log(observed), knots[0], knots[-1])
        left = knots[1:].searchsorted(log_observed)
        return np.asarray(np.exp(logs[features, left] + (log_observed - knots[left]) * slopes[features, left]))

    @cached_property
    def _segments(self) -> tuple[Floats, Floats, Floats, Ints]:
        """The logarithms of sizes and ratios, the slope from each size to the next, and the indices of the features."""
        knots, logs = np.log(self.sizes), np.log(self.ratio)
        slopes = np.diff(logs, axis=1, append=logs[:, -1:]) / np.diff(knots, append=np.inf)
        return knots, logs, slopes, np.arange(len(logs))


_DISPERSION_SIGNIFICANCE = 4.0  # standard errors by which a dispersion must exceed 1, of hundreds that are measured
_LEAST_VARIANCE = 1e-9


def measure_dispersion(
    blocks: Sequence[Floats],
    sizes: Sequence[int],
    total: Floats,
    ordered: bool,
) -> float:
    """Return the dispersion of a feature by blocks of consecutive reference values: at least 1.

    It is the largest ratio of the variance between blocks to that of independent values, over the sizes of blocks and
    over the statistics that `exporter.stats.change_evidence.ChangeEvidence` watches. A ratio that independent values
    may well have counts as 1.

    Parameters
    ----------
    blocks
        Counts of ``M`` blocks by bin for each size, shape ``(M, K)``.
    sizes
        Number of values of a block.
    total
        Counts of all values, shape ``(K,)``.
    ordered
        See `exporter.stats.change_evidence.ChangeEvidence`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bins = np.repeat(rng.integers(4, size=2000), 5)  # each value comes five times
    >>> counts = np.stack([np.bincount(block, minlength=4) for block in bins.reshape(-1, 50)]).astype(float)
    >>> 4 < measure_dispersion([counts], [50], counts.sum(axis=0), ordered=False) < 6
    True
    """
    rows, used = float(total.sum()), total > 0
    share = total[used] / max(rows, 1.0)
    absent = 1 - share
    moments = [(share * absent, share * absent * (absent**3 + share**3))]
    scores = np.empty((0, len(share)))
    if ordered and len(share):
        scores = rank_scores(Reference.from_counts(total, [len(total)]))[:, used]
        scores = scores - (scores @ share)[:, None]
        moments.append((scores**2 @ share, scores**4 @ share))
    variance, fourth = np.concatenate(moments, axis=1)
    varying = variance > _LEAST_VARIANCE
    if not varying.any():
        return 1.0
    variance, fourth = variance[varying], fourth[varying]
    largest = 1.0
    for counts, size in zip(blocks, sizes, strict=True):
        deviation, expected = counts[:, used] - size * share, size * (1 - size / rows) * variance
        squares = np.concatenate(((deviation**2).mean(axis=0), ((deviation @ scores.T) ** 2).mean(axis=0)))[varying]
        ratio = squares / np.maximum(expected, _LEAST_VARIANCE)
        # The ratio of so many independent blocks is about χ²(degrees)/degrees; its cube root is nearly normal.
        degrees = min(rows / size, len(counts)) / (1 + (fourth / variance**2 - 3) / size / 2)
        chance = (1 - 2 / (9 * degrees) + _DISPERSION_SIGNIFICANCE * np.sqrt(2 / (9 * degrees))) ** 3
        largest = max(largest, float(np.where(ratio > chance, ratio, 1.0).max()))
    return largest
