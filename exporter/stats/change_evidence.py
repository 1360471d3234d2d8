"""Evidence of a small, lasting change of a distribution, which accumulates over time.

Pure numpy, over the frozen bins of `exporter.stats.divergence.Reference`. The method is a mixture of Shiryaev-Roberts
e-detectors (Shin, Ramdas, Rinaldo, *E-detectors*, New England Journal of Statistics in Data Science 2, 2024): for each
of a few alternatives, the likelihood ratio against the least favourable distribution that the reference does not rule
out.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Reference

SIZES = (0.1, 0.3, 0.6)
"""Sizes of the changes that are looked for, in standard deviations beyond what the reference's own error explains.

The largest is not one of shares of bins: a session may repeat a rare value so often.
"""
SIGMAS = 4.0
"""Standard errors by which the reference may be wrong: about 3 in 100,000 for each alternative."""
MOST_ROWS = 10_000
"""More reference values do not make it more sensitive: they would find differences too small to matter."""
HEADROOM = 6.0
"""How far the evidence of an alternative rises above the limit, in nats: it soon falls again when a change is gone."""
_MOST_EXTREME = 4.0  # a larger score means that most values lie in one bin; then single bins show a change better
_LEAST_INFORMATION = 1e-4  # nats a value; the ratios of other alternatives are nearly 1, whatever the values
_LEAST_WEIGHT = 1e-9  # less than that of any alternative in use
_LARGEST = 60.0  # nats of one update; exp of it is far from the largest float, and of its negative far from 0


class ChangeEvidence:
    """Accumulate evidence that ``F`` features no longer have their reference distribution.

    For each alternative ``j`` of a feature, an update with the counts ``c`` is

    ``M_j ← (M_j + 1) · exp(Σ c·r_j / D)``

    and the evidence is ``ln Σ w_j·M_j``, where the weights ``w`` add up to 1. The log-likelihood ratios ``r_j`` are
    such that the factor has an expectation of at most 1 under every distribution within `SIGMAS` standard errors of the
    reference. So ``Σ w·M`` less the number of updates is a supermartingale, and the mean number of updates until the
    evidence first exceeds ``limit`` is at least ``exp(limit)``, however often it is looked at.

    The alternatives, in both directions and in each of their `SIZES`, are:

    - the share of each bin, against the rest of the feature. The least favourable share is a limit of Byar's
      interval around that of the reference;
    - where bins are ordered, the location and the spread: probabilities ``∝ q·exp(±λ·s)``. The scores ``s`` are the
      first two orthonormal polynomials of the rank (Neyman, *"Smooth" test for goodness of fit*, 1937). The expectation
      of ``exp(±λ·s)`` is at most that in the reference and its error by Bernstein's inequality.

    Parameters
    ----------
    reference
        The reference, with ``B`` bins of all features.
    ordered
        Whether a feature's bins, except for its last two (missing and invalid), are ordered; shape ``(F,)``.
    dispersion
        ``D``, at least 1: the factor by which dependence inflates the variance of a sum of many values; shape ``(F,)``
        or one for all. It divides the log-likelihood ratios and the number of reference values.

    Attributes
    ----------
    size
        Length of the state ``M``, which is 0 at the beginning.

    Examples
    --------
    >>> reference = Reference.from_counts(np.array([0.0, 2500, 2500, 2500, 2500, 0, 0, 0]), [8])
    >>> detector = ChangeEvidence(reference, np.array([True]))
    >>> state = np.zeros(detector.size)
    >>> for _ in range(1000):
    ...     detector.update(state, np.array([0.0, 5, 5, 5, 5, 0, 0, 0]), limit=13.2)
    >>> detector.read(state).round().tolist()
    [1.0]
    >>> for _ in range(100):
    ...     detector.update(state, np.array([0.0, 4, 4, 5, 7, 0, 0, 0]), limit=13.2)
    >>> detector.read(state).round().tolist()
    [20.0]
    """

    def __init__(
        self,
        reference: Reference,
        ordered: npt.NDArray[np.bool_],
        dispersion: npt.ArrayLike = 1.0,
    ) -> None:
        self._starts, self._owner = reference.starts, reference.owner
        features = len(reference.starts)
        divisor = np.broadcast_to(np.asarray(dispersion, dtype=np.float64), (features,))
        self._known = reference.rows > 0
        rows = np.minimum(np.maximum(reference.rows, 1.0), MOST_ROWS) / divisor
        scores = rank_scores(reference)
        use = ordered & (np.maximum.reduceat(np.abs(scores).max(axis=0), self._starts) <= _MOST_EXTREME)
        self._ratios = _tilts(reference, np.where(use[self._owner], scores, 0.0), rows) / divisor[self._owner]
        inside, outside, information = _bin_ratios(reference, rows)
        self._inside, self._outside = inside / divisor[self._owner], outside / divisor[self._owner]
        useful = information > _LEAST_INFORMATION
        alternatives = np.maximum(np.add.reduceat(useful.sum(axis=0), self._starts), 1)
        self._weight = np.tile(np.where(use, 0.5 / len(self._ratios), 0.0), (len(self._ratios), 1))
        self._bin_weight = useful * (np.where(use, 0.5, 1.0) / alternatives)[self._owner]
        self._split = len(self._ratios) * features
        self.size = self._split + self._inside.size

    def update(self, state: Floats, counts: Floats, limit: float) -> None:
        """Update the state with the counts of a sub-window. Features without values stay as they are.

        Parameters
        ----------
        state
            ``M``, shape ``(size,)``; changed in place.
        counts
            Values in each bin, shape ``(B,)``.
        limit
            Evidence at which a feature has changed, in nats. No ``w·M`` exceeds ``exp(limit + HEADROOM)``.
        """
        observed = np.add.reduceat(counts, self._starts)
        active = (observed > 0) & self._known
        added = np.add.reduceat(self._ratios * counts, self._starts, axis=1)
        shapes, bins = self._views(state)
        by_bin = self._inside * counts
        by_bin += self._outside * (observed[self._owner] - counts)
        for part, nats, weight, chosen in (
            (shapes, added, self._weight, active),
            (bins, by_bin, self._bin_weight, active[self._owner]),
        ):
            factor = np.exp(np.clip(nats, -_LARGEST, _LARGEST))
            np.multiply(part + 1, factor, out=part, where=chosen)
            np.minimum(part, math.exp(limit + HEADROOM) / np.maximum(weight, _LEAST_WEIGHT), out=part)

    def reset(self, state: Floats, features: npt.NDArray[np.bool_]) -> None:
        """Begin anew for some features, shape ``(F,)``; the state is changed in place."""
        shapes, bins = self._views(state)
        shapes[:, features] = 0.0
        bins[:, features[self._owner]] = 0.0

    def read(self, state: Floats) -> Floats:
        """Return the evidence in nats, at least 0, shape ``(F,)``; NaN before the first values."""
        shapes, bins = self._views(state)
        of_bins = np.add.reduceat(np.einsum("ij,ij->j", self._bin_weight, bins), self._starts)
        total = np.einsum("ij,ij->j", self._weight, shapes) + of_bins
        with np.errstate(divide="ignore"):
            return np.where(total > 0, np.maximum(np.log(total), 0.0), np.nan)

    def _views(self, state: Floats) -> tuple[Floats, Floats]:
        return state[: self._split].reshape(len(self._ratios), -1), state[self._split :].reshape(self._inside.shape)


def rank_scores(reference: Reference) -> Floats:
    """Return the scores of location and spread, shape ``(2, B)``: uncorrelated, with mean 0 and variance 1."""
    q, starts, owner = reference.probability.copy(), reference.starts, reference.owner
    last = np.append(starts[1:], len(q)) - 1
    q[last], q[last - 1] = 0.0, 0.0  # invalid and missing values have no rank
    q /= np.add.reduceat(q, starts)[owner]
    before = np.cumsum(q) - q
    rank = before - before[starts][owner] + q / 2
    location = _standardized(rank - 0.5, q, reference)
    spread = _standardized(location**2, q, reference)
    overlap = np.add.reduceat(q * location * spread, starts)[owner]
    scores = np.stack((location, _standardized(spread - overlap * location, q, reference)))
    scores[:, last] = scores[:, last - 1] = 0.0
    return scores


def _standardized(values: Floats, q: Floats, reference: Reference) -> Floats:
    """Return values with mean 0 and variance 1 in each feature; 0 where all values are the same."""
    centred = values - np.add.reduceat(q * values, reference.starts)[reference.owner]
    variance = np.add.reduceat(q * centred**2, reference.starts)
    scale = np.zeros_like(variance)
    np.divide(1.0, np.sqrt(variance), out=scale, where=variance > 1e-12)
    return np.asarray(centred * scale[reference.owner])


def _tilts(reference: Reference, scores: Floats, rows: Floats) -> Floats:
    """Return the log-likelihood ratio of a value in each bin, for each score, size and direction; shape ``(12, B)``."""
    exponents = np.concatenate([sign * size * scores for size in SIZES for sign in (1, -1)])
    tilt, starts = np.exp(np.clip(exponents, -_MOST_EXTREME, _MOST_EXTREME)), reference.starts
    mean = np.add.reduceat(tilt * reference.probability, starts, axis=1)
    variance = np.add.reduceat(tilt**2 * reference.probability, starts, axis=1) - mean**2
    largest = np.maximum.reduceat(tilt, starts, axis=1) - mean
    error = SIGMAS * np.sqrt(np.maximum(variance, 0.0) / rows) + SIGMAS**2 / 6 * largest / rows
    return np.asarray(np.log(tilt) - np.log(mean + error)[:, reference.owner])


def _bin_ratios(reference: Reference, rows: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the log-likelihood ratios of a value in a bin and of one outside it, and the mean of both; ``(4, B)``."""
    n, owner = rows[reference.owner], reference.owner
    counts = reference.probability * (reference.rows + reference.prior)[owner] - 0.5
    count = np.clip(counts / np.maximum(reference.rows, 1.0)[owner], 0.0, 1.0) * n
    (least, most), (least_outside, most_outside) = _poisson_limits(count), _poisson_limits(n - count)
    more = [_bernoulli_ratios(np.minimum(most, n - least_outside) / n, size) for size in SIZES[:2]]
    fewer = [_bernoulli_ratios(np.minimum(most_outside, n - least) / n, size) for size in SIZES[:2]]
    inside = np.stack([rising for rising, _, _ in more] + [falling for _, falling, _ in fewer])
    outside = np.stack([falling for _, falling, _ in more] + [rising for rising, _, _ in fewer])
    return inside, outside, np.stack([information for *_, information in more + fewer])


def _poisson_limits(counts: Floats) -> tuple[Floats, Floats]:
    """Return the limits of the mean of Poisson counts at `SIGMAS`; by Byar (in Rothman and Boice, 1979).

    >>> [limits.round(2).tolist() for limits in _poisson_limits(np.array([0.0, 10.0]))]
    [[0.0, 1.83], [10.97, 29.66]]
    """
    lower, above = np.maximum(counts, 1e-9), counts + 1
    least = lower * np.maximum(1 - 1 / (9 * lower) - SIGMAS / (3 * np.sqrt(lower)), 0.0) ** 3
    return least, above * (1 - 1 / (9 * above) + SIGMAS / (3 * np.sqrt(above))) ** 3


def _bernoulli_ratios(share: Floats, size: float) -> tuple[Floats, Floats, Floats]:
    """Return the log-likelihood ratios of an event and of its absence, for a probability above ``share``.

    The third array is their mean under that probability, which is the information in a value.
    """
    p = np.clip(share, 1e-9, 1 - 1e-9)
    higher = np.minimum(p + size * np.sqrt(p * (1 - p)), (1 + p) / 2)
    rising, falling = np.log(higher / p), np.log((1 - higher) / (1 - p))
    return rising, falling, higher * rising + (1 - higher) * falling
