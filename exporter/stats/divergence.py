"""Divergence between a training and a live distribution, and what sampling alone would show.

Pure numpy. Distributions are counts over frozen bins; many features lie behind one another in
one flat array of ``B`` bins, so that a thousand of them cost a few vector operations.
"""

from __future__ import annotations

import functools
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
"""Share of samples without drift whose score stays below the noise floor."""


@dataclass(frozen=True)
class Reference:
    """The training side of ``F`` features in ``B`` bins, with all that does not change.

    Attributes
    ----------
    starts
        First bin of each feature, shape ``(F,)``.
    owner
        Feature of each bin, shape ``(B,)``.
    rows
        Training values of each feature, shape ``(F,)``.
    prior
        Weight ``m = K/2`` of the prior, in observations, shape ``(F,)``.
    probability
        Smoothed training probability ``q``, shape ``(B,)``.
    quantile
        χ² quantile of each feature's noise floor, shape ``(F,)``.
    """

    starts: Ints
    owner: Ints
    rows: Floats
    prior: Floats
    probability: Floats
    quantile: Floats

    @classmethod
    def of(cls, counts: Floats, sizes: Sequence[int]) -> Reference:
        """Freeze training counts.

        Parameters
        ----------
        counts
            Values in each bin, shape ``(B,)``.
        sizes
            Number of bins ``K`` of each feature, shape ``(F,)``; they add up to ``B``.
        """
        bins = np.asarray(sizes, dtype=np.intp)
        starts = np.cumsum(bins) - bins
        owner = np.repeat(np.arange(len(bins)), bins)
        rows = np.add.reduceat(counts, starts)
        filled = np.add.reduceat((counts > 0).astype(np.float64), starts)
        quantile = np.array([chi2_quantile(NOISE_CONFIDENCE, int(k) - 1) for k in filled])
        probability = (counts + 0.5) / (rows + bins / 2)[owner]
        return cls(starts, owner, rows, bins / 2, probability, quantile)

    def kl_divergence(self, counts: Floats) -> Floats:
        """KL(live ‖ training) in nats, the live side smoothed towards training.

        With ``q = (r + ½)/(N + K/2)`` and ``p = (c + m·q)/(n + m)``, ``m = K/2``, the score is
        ``Σ p ln(p/q)``: never negative, 0 for no observations, and near the plain divergence
        when there are many.

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
        >>> reference = Reference.of(np.array([50.0, 30.0, 20.0]), [3])
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
        """The live probability ``p`` of each bin, see `kl_divergence`; a new array of shape ``(..., B)``."""
        observed = np.add.reduceat(counts, self.starts, axis=-1)
        share = counts + (self.prior[self.owner] * self.probability)
        share /= (observed + self.prior)[..., self.owner]
        return share

    def noise(self, observed: Floats) -> Floats:
        """What sampling alone exceeds with a probability of 1 %.

        ``(n/(n+m))² · χ²₀.₉₉(K′−1)/2 · (1/n + 1/N)``: twice the divergence of a sample from its
        own distribution is nearly χ² over the sample's size (Wilks 1938), the first factor is
        the shrinkage of the prior.

        Parameters
        ----------
        observed
            Live observations ``n`` of each feature, shape ``(..., F)``.

        Returns
        -------
        ndarray
            Shape ``(..., F)``; 0 where nothing was observed.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            shrinkage = (observed / (observed + self.prior)) ** 2
            floor = shrinkage * self.quantile / 2 * (1 / observed + 1 / self.rows)
        return np.where((observed > 0) & (self.rows > 0), floor, 0.0)


@functools.lru_cache(maxsize=4096)
def chi2_quantile(probability: float, degrees: int) -> float:
    """Quantile of the χ² distribution, without scipy's weight on the serving path.

    Newton's method on the regularized incomplete gamma function, from the start of Wilson and
    Hilferty (1931).

    >>> from scipy.stats import chi2
    >>> bool(max(abs(chi2_quantile(0.99, k) / chi2.ppf(0.99, k) - 1) for k in (1, 2, 19, 55, 300, 2000)) < 1e-9)
    True
    """
    if degrees <= 0:
        return 0.0
    half = degrees / 2
    spread = 2 / (9 * degrees)
    normal = NormalDist().inv_cdf(probability)
    x = max(degrees * (1 - spread + normal * math.sqrt(spread)) ** 3, 1e-8) / 2
    for _ in range(50):
        density = math.exp((half - 1) * math.log(x) - x - math.lgamma(half))
        step = (_gamma_p(half, x) - probability) / density
        x = max(x - step, x / 2)
        if abs(step) < 1e-13 * x:
            break
    return 2 * x


def _gamma_p(shape: float, x: float) -> float:
    """Regularized lower incomplete gamma function, by its power series."""
    term = total = 1 / shape
    n = shape
    while abs(term) > 1e-17 * total:
        n += 1
        term *= x / n
        total += term
    return total * math.exp(shape * math.log(x) - x - math.lgamma(shape))


def ratio(part: Any, whole: Any) -> Floats:
    """``part / whole``, NaN where the whole is zero."""
    there = np.asarray(whole) > 0
    found: Floats = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=found, where=there)
    return found
