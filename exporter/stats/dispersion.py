"""Estimate from blocks of values by how much dependence inflates the variance of their sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporter.stats.change_evidence import rank_scores
from exporter.stats.divergence import Floats, Reference

_SIGNIFICANCE = 4.0  # standard errors by which a dispersion must exceed 1, of hundreds that are measured
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
        chance = (1 - 2 / (9 * degrees) + _SIGNIFICANCE * np.sqrt(2 / (9 * degrees))) ** 3
        largest = max(largest, float(np.where(ratio > chance, ratio, 1.0).max()))
    return largest
