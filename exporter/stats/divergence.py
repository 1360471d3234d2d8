"""Divergence of a live distribution from training, and the divergence that sampling alone produces.

Pure numpy. A distribution is an array of counts over frozen bins. The bins of all features are stored one after
another in one flat array of ``B`` bins, so that a thousand features cost a few vector operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

NOISE_CONFIDENCE = 0.99
"""Share of samples without drift whose score stays below the noise floor: the confidence of the χ² quantiles."""


def chi2_quantiles(most: int) -> Floats:
    """Return the χ² quantile at `NOISE_CONFIDENCE` for 0 to ``most`` degrees of freedom, shape ``(most + 1,)``.

    Newton's method on the series of the incomplete gamma function, from the approximation of Wilson and Hilferty
    (1931). It is as exact as scipy, which a serving process would have to load for it.

    >>> chi2_quantiles(23)[[0, 1, 23]].round(4).tolist()
    [0.0, 6.6349, 41.6384]
    """
    half = np.arange(1, most + 1) / 2
    log_gamma = np.array([math.lgamma(shape + 1) for shape in half])
    spread = 1 / (9 * half)
    point = half * (1 - spread + NormalDist().inv_cdf(NOISE_CONFIDENCE) * np.sqrt(spread)) ** 3
    for _ in range(6):
        term, total, step = np.ones(most), np.ones(most), 0
        while np.any(term > 1e-17 * total):
            step += 1
            term = term * point / (half + step)
            total += term
        factor = np.exp(half * np.log(point) - point - log_gamma)  # its derivative is half/point of it
        point = point - (factor * total - NOISE_CONFIDENCE) * point / (half * factor)
    return np.concatenate(([0.0], 2 * point))


@dataclass(frozen=True)
class Reference:
    """The reference distribution of ``F`` features in ``B`` bins.

    Attributes
    ----------
    starts
        Index of each feature's first bin, shape ``(F,)``.
    owner
        Index of the feature that each bin belongs to, shape ``(B,)``.
    rows
        Number of training values of each feature, shape ``(F,)``.
    prior
        Weight ``m = K/2`` of the prior, in observations, shape ``(F,)``.
    probability
        Smoothed training probability ``q``, shape ``(B,)``.
    quantile
        χ² quantile in each feature's noise floor, shape ``(F,)``; NaN where it is not known.
    degrees
        Degrees of freedom of that χ² distribution, shape ``(F,)``: the bins with training values, less one.
    """

    starts: Ints
    owner: Ints
    rows: Floats
    prior: Floats
    probability: Floats
    quantile: Floats
    degrees: Ints

    @classmethod
    def from_counts(cls, counts: Floats, sizes: Sequence[int], quantiles: Floats | None = None) -> Reference:
        """Build a reference from the counts of a training set, or of an earlier window.

        Parameters
        ----------
        counts
            Number of values in each bin, shape ``(B,)``.
        sizes
            Number of bins ``K`` of each feature, shape ``(F,)``; they add up to ``B``.
        quantiles
            χ² quantiles at `NOISE_CONFIDENCE` by degrees of freedom, shape ``(D,)`` with ``D`` at least the largest
            ``K``. Only `noise` needs them.
        """
        bins = np.asarray(sizes, dtype=np.intp)
        starts = np.cumsum(bins) - bins
        owner = np.repeat(np.arange(len(bins)), bins)
        rows = np.add.reduceat(counts, starts)
        degrees = np.maximum(np.add.reduceat((counts > 0).astype(np.intp), starts) - 1, 0)
        quantile = np.full(len(bins), np.nan) if quantiles is None else quantiles[degrees]
        probability = (counts + 0.5) / (rows + bins / 2)[owner]
        return cls(starts, owner, rows, bins / 2, probability, quantile, degrees)

    def kl_divergence(self, counts: Floats) -> Floats:
        """Return KL(live ‖ training) in nats, the live distribution smoothed towards training.

        With ``q = (r + ½)/(N + K/2)`` and ``p = (c + m·q)/(n + m)``, ``m = K/2``, the score is
        ``Σ p ln(p/q)``. It is never negative, 0 without observations, and close to the unsmoothed
        divergence for many observations.

        Parameters
        ----------
        counts
            Live observations in each bin, shape ``(..., B)``.

        Returns
        -------
        ndarray
            Shape ``(..., F)``.

        Examples
        --------
        >>> reference = Reference.from_counts(np.array([50.0, 30.0, 20.0]), [3])
        >>> reference.kl_divergence(np.array([20.0, 30.0, 50.0])).round(4).tolist()
        [0.2625]
        >>> from scipy.stats import entropy
        >>> q = (np.array([50, 30, 20]) + 0.5) / 101.5
        >>> p = (np.array([20, 30, 50]) + 1.5 * q) / 101.5
        >>> bool(abs(entropy(p, q) - reference.kl_divergence(np.array([20.0, 30.0, 50.0]))[0]) < 1e-12)
        True
        """
        share = self.smoothed(counts)
        share *= np.log(share / self.probability)
        return np.maximum(np.add.reduceat(share, self.starts, axis=-1), 0.0)

    def smoothed(self, counts: Floats) -> Floats:
        """Return the smoothed live probability ``p`` of each bin as a new array of shape ``(..., B)``.

        See `kl_divergence`.
        """
        observed = np.add.reduceat(counts, self.starts, axis=-1)
        share = counts + (self.prior[self.owner] * self.probability)
        share /= (observed + self.prior)[..., self.owner]
        return share

    def noise(self, observed: Floats, live_ratio: Floats | float = 1.0, rows_ratio: Floats | float = 1.0) -> Floats:
        """Return the noise floor: the divergence that sampling alone exceeds with a probability of 1%.

        The floor is ``(n/(n+m))² · χ²₀.₉₉(K′−1)/2 · (1/n + 1/N)`` in nats, ``K′`` the number of bins with training
        values. Twice the divergence of a sample from its own distribution, times the sample's size, approximately
        follows a χ² distribution (Wilks 1938). The first factor is the shrinkage that the prior causes.

        Parameters
        ----------
        observed
            Live observations ``n`` of each feature, shape ``(..., F)``.
        live_ratio, rows_ratio
            Factors of ``1/n`` and ``1/N``: how many times noisier values are than independent ones, shape ``(..., F)``.

        Returns
        -------
        ndarray
            Shape ``(..., F)``; 0 where nothing was observed.
        """
        with np.errstate(invalid="ignore"):
            floor = self.noise_unit(observed, live_ratio, rows_ratio) * self.quantile
        return np.where((observed > 0) & (self.rows > 0), floor, 0.0)

    def noise_unit(
        self, observed: Floats, live_ratio: Floats | float = 1.0, rows_ratio: Floats | float = 1.0
    ) -> Floats:
        """Return what the divergence of a sample from its own distribution has for each unit of χ², in nats.

        See `noise` for the parameters. It is NaN or infinite where there are no observations or no training values.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            shrinkage = (observed / (observed + self.prior)) ** 2
            return np.asarray(shrinkage / 2 * (live_ratio / observed + rows_ratio / self.rows))


def ratio(part: Any, whole: Any) -> Floats:
    """Return ``part / whole``, NaN where ``whole`` is not positive."""
    result: Floats = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


BinIndices = npt.NDArray[np.int8] | npt.NDArray[np.int16]

_BLOCK = 32_768  # numbers that stay in the processor's cache while they are compared with each edge
_BUFFER = 512  # size of numpy's buffer: longer rows are compared in place, shorter ones are copied first
_SMALL = np.iinfo(np.int8).max


def pad_edges(edges: Sequence[Sequence[float] | Floats]) -> Floats:
    """Return the edges of ``P`` features as one array of shape ``(E, P)``, padded with infinity."""
    padded = np.full((max(map(len, edges), default=0), len(edges)), np.inf)
    for index, column in enumerate(edges):
        padded[: len(column), index] = column
    return padded


def bin_indices(edges: Floats, matrix: Floats) -> BinIndices:
    """Return how many edges are at or below each number.

    Every number is compared with every edge, which is faster than a search, since no branch depends on the data: for 30
    features of 24 edges it takes 5 ns for each number, `numpy.searchsorted` 25 ns.

    Parameters
    ----------
    edges
        Ascending for each of ``P`` features, shape ``(E, P)``; see `pad_edges`.
    matrix
        Shape ``(P, n)``.

    Returns
    -------
    ndarray
        Shape ``(P, n)``; 0 for NaN.

    Examples
    --------
    >>> bin_indices(pad_edges([[0.0, 1.0], [5.0]]), np.array([[-1.0, 0.0, 7.0], [4.0, np.nan, 5.0]])).tolist()
    [[0, 1, 2], [0, 0, 1]]
    """
    indices: BinIndices = np.zeros(matrix.shape, dtype=np.int8 if len(edges) <= _SMALL else np.int16)
    step = max(_BLOCK // max(matrix.shape[1], 1), 1)
    before = np.setbufsize(_BUFFER) if matrix.shape[1] >= _BUFFER else 0
    for start in range(0, len(matrix), step):
        block, counts = matrix[start : start + step], indices[start : start + step]
        above = np.empty(block.shape, dtype=np.bool_)
        increment = above.view(np.int8)
        for edge in edges[:, start : start + step, None]:
            np.greater_equal(block, edge, out=above)
            counts += increment
    if before:
        np.setbufsize(before)
    return indices
