"""Compare the shares of single bins with those of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from exporter.monitoring.binner import Binner
from exporter.slices.search import LEVEL, MIN_RATIO, MIN_ROWS
from exporter.stats.concentration import likelihood_ratio, upper_tail
from exporter.stats.divergence import Ints


class GrownBin(NamedTuple):
    """A bin that holds more of some rows than of the training values.

    Attributes
    ----------
    target, bin_index
        Index of the target, and of its bin.
    size
        Rows in the bin.
    share, training_share
        Of all rows, and of the training values.
    q_value
        p-value times the number of tests, at most 1.
    """

    target: int
    bin_index: int
    size: int
    share: float
    training_share: float
    q_value: float


def grown_bins(binner: Binner, counts: Sequence[Ints], rows: int) -> tuple[list[GrownBin], int]:
    """Find the bins that hold significantly more than their share of the training values.

    Parameters
    ----------
    binner
        Of the profile.
    counts
        Rows in each bin of the first targets.
    rows
        Number of all rows.

    Returns
    -------
    tuple
        The bins, the one that stands out most first, and the number of tests.
    """
    found, tests = [], 0
    for index, live in enumerate(counts):
        trained = np.array(binner.targets[index].counts, dtype=np.int64)
        total = int(trained.sum())
        tested = live + trained >= MIN_ROWS
        tests += int(np.count_nonzero(tested))
        share, before = live / rows, np.maximum(trained, 0.5) / max(total, 1)
        for bin_index in np.flatnonzero(tested & (share > MIN_RATIO * before) & (live > 0)).tolist():
            size, both = int(live[bin_index]), live[bin_index] + trained[bin_index]
            p = upper_tail(size, int(both), rows, rows + total)
            score = float(likelihood_ratio(live[bin_index], both, rows, rows + total))
            shares = float(share[bin_index]), float(before[bin_index])
            found.append((score, GrownBin(index, bin_index, size, *shares, p)))
    found.sort(key=lambda scored: -scored[0])
    significant = [one._replace(q_value=min(one.q_value * tests, 1.0)) for _, one in found]
    return [one for one in significant if one.q_value <= LEVEL], tests
