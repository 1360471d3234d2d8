"""A window read out: one row of sums to what the gauges say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.config import DISTANCES
from exporter.monitoring.binner import Binner, Sums
from exporter.stats.divergence import Floats, Reference, ratio


@dataclass(frozen=True)
class WindowStats:
    """One window of the targets, arrays of shape ``(T,)``; NaN where there is nothing to say.

    Attributes
    ----------
    counts
        Observations in each bin, shape ``(B,)``.
    kl, noise
        Against training.
    recent_kl, recent_noise
        Against the longest window before this one.
    js, ks, psi, wasserstein
        Against training, where the configuration asks for them; see `exporter.stats.distances`.
    together
        How differently features go together, and the noise floor of that, shape ``(2,)``.
    """

    counts: Floats
    observations: Floats
    mean: Floats
    stddev: Floats
    min: Floats
    max: Floats
    missing: Floats
    invalid: Floats
    unseen: Floats
    shift: Floats
    kl: Floats
    noise: Floats
    recent_kl: Floats
    recent_noise: Floats
    js: Floats
    ks: Floats
    psi: Floats
    wasserstein: Floats
    multivariate: Floats


def compute(binner: Binner, wanted: Sequence[str], row: Floats, lows: Floats, earlier: Floats) -> WindowStats:
    """What the gauges say of a window.

    Parameters
    ----------
    binner
        Where the sums lie.
    wanted
        The distances that the configuration asks for.
    row, lows
        Sums and minima of the window.
    earlier
        Sums of the longest window before it.
    """
    sums: Sums = binner.split(row)
    observations = np.add.reduceat(sums.counts, binner.starts) if binner.bins else np.empty(0)
    there = observations > 0
    smallest, largest = lows[: len(there)], -lows[len(there) :]
    offset = ratio(sums.first, sums.valid)
    variance = np.maximum(ratio(sums.second, sums.valid) - offset**2, 0.0)
    with np.errstate(over="ignore"):
        mean, stddev = binner.centre + offset * binner.scale, np.sqrt(variance) * binner.scale
    before = binner.split(earlier).counts
    recent = Reference.from_counts(before, binner.sizes, binner.quantiles)
    known = there & (recent.rows > 0)
    smallest = np.where(np.isfinite(smallest), smallest, np.nan)
    largest = np.where(np.isfinite(largest), largest, np.nan)
    distances = dict.fromkeys(DISTANCES, np.full(len(there), np.nan))
    for name in wanted:
        if name == "wasserstein":
            distance = binner.distances.wasserstein(sums.counts, offset, smallest, largest)
            distances[name] = np.where(binner.stddev > 0, distance, np.nan)
        else:
            distances[name] = np.where(there, getattr(binner.distances, name)(sums.counts), np.nan)
    return WindowStats(
        counts=sums.counts,
        observations=np.where(there, observations, np.nan),
        mean=mean,
        stddev=np.where(smallest == largest, 0.0, stddev),  # exact for a value that is stuck
        min=smallest,
        max=largest,
        missing=ratio(sums.counts[binner.missing], observations),
        invalid=ratio(sums.counts[binner.invalid], observations),
        unseen=ratio(sums.unseen, observations),
        shift=np.where(binner.stddev > 0, offset, np.nan),
        kl=np.where(there, binner.reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(there, binner.reference.noise(observations), np.nan),
        recent_kl=np.where(known, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(known, recent.noise(observations), np.nan),
        **distances,
        multivariate=np.array(binner.multivariate_drift(row)),
    )
