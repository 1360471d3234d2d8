"""The statistics of a window, computed from its row of sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.monitoring.binner import Binner, Sums
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.divergence import Floats, Reference, ratio


@dataclass(frozen=True)
class WindowStats:
    """Statistics of the targets in one window: arrays of shape ``(T,)``, NaN where there are no values.

    Attributes
    ----------
    recent
        Distribution of the longest window before this one.
    counts
        Number of observations in each bin, shape ``(B,)``.
    observations
        Number of observations, missing and invalid ones included.
    mean, stddev, min, max
        Statistics of the valid values.
    missing, invalid, unseen
        Share of the observations that are missing, invalid, or outside the training range or categories.
    reference_missing
        Smoothed training probability of a missing or invalid value.
    shift
        Mean less that of training, in training standard deviations.
    kl, noise
        KL divergence from training in nats, and its noise floor.
    recent_kl, recent_noise
        KL divergence from the longest window before this one, and its noise floor.
    multivariate
        Drift of the correlation between features, and its noise floor, shape ``(2,)``.
    """

    recent: Reference
    counts: Floats
    observations: Floats
    mean: Floats
    stddev: Floats
    min: Floats
    max: Floats
    missing: Floats
    invalid: Floats
    unseen: Floats
    reference_missing: Floats
    shift: Floats
    kl: Floats
    noise: Floats
    recent_kl: Floats
    recent_noise: Floats
    multivariate: Floats


def compute(binner: Binner, noise: NoiseFloors, window: tuple[Floats, Floats, Floats]) -> WindowStats:
    """Compute the statistics of a window.

    Parameters
    ----------
    binner
        Gives the meaning of the sums.
    noise
        The noise floors.
    window
        Sums and minima of the window, and the sums of the longest window before it.
    """
    row, minima, earlier = window
    sums: Sums = binner.split(row)
    observations = np.add.reduceat(sums.counts, binner.starts) if binner.bins else np.empty(0)
    observed = observations > 0
    smallest, largest = minima[: len(observed)], -minima[len(observed) :]
    smallest = np.where(np.isfinite(smallest), smallest, np.nan)
    largest = np.where(np.isfinite(largest), largest, np.nan)
    offset = ratio(sums.first, sums.valid)
    variance = np.maximum(ratio(sums.second, sums.valid) - offset**2, 0.0)
    with np.errstate(over="ignore"):
        mean, stddev = binner.centre + offset * binner.scale, np.sqrt(variance) * binner.scale
    reference = binner.reference
    recent = Reference.from_counts(binner.split(earlier).counts, binner.sizes, binner.quantiles)
    comparable = observed & (recent.rows > 0)
    probability = reference.probability
    return WindowStats(
        recent=recent,
        counts=sums.counts,
        observations=np.where(observed, observations, np.nan),
        mean=mean,
        stddev=np.where(smallest == largest, 0.0, stddev),  # exactly 0 for a constant
        min=smallest,
        max=largest,
        missing=ratio(sums.counts[binner.missing], observations),
        invalid=ratio(sums.counts[binner.invalid], observations),
        unseen=ratio(sums.unseen, observations),
        reference_missing=probability[binner.missing] + probability[binner.invalid],
        shift=np.where(binner.stddev > 0, offset, np.nan),
        kl=np.where(observed, reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(observed, noise.training(observations, reference), np.nan),
        recent_kl=np.where(comparable, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(comparable, noise.recent(observations, recent), np.nan),
        multivariate=np.array(binner.multivariate_drift(row)),
    )
