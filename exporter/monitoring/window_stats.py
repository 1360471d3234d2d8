"""The statistics of a window, computed from its row of sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.config import DISTANCES
from exporter.monitoring.binner import Binner, Sums
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.divergence import Floats, Reference, ratio


@dataclass(frozen=True)
class WindowStats:
    """Statistics of the targets in one window: arrays of shape ``(T,)``, NaN where there are no values.

    Attributes
    ----------
    counts
        Number of observations in each bin, shape ``(B,)``.
    observations
        Number of observations, missing and invalid ones included.
    mean, stddev, min, max
        Statistics of the valid values.
    missing, invalid, unseen
        Share of the observations that are missing, invalid, or outside the training range or categories.
    shift
        Mean less the training mean, in training standard deviations.
    kl, noise
        KL divergence from training in nats, and its noise floor.
    recent_kl, recent_noise
        KL divergence from the longest window before this one, and its noise floor.
    js, ks, psi, wasserstein
        Further distances from training, where the configuration asks for them; see `exporter.stats.distances`.
    multivariate
        Drift of the correlation between features, and its noise floor, shape ``(2,)``.
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


def compute(
    binner: Binner, noise: NoiseFloors, distances: Sequence[str], window: tuple[Floats, Floats, Floats]
) -> WindowStats:
    """Compute the statistics of a window.

    Parameters
    ----------
    binner
        Gives the meaning of the sums.
    noise
        The noise floors.
    distances
        The distances that the configuration asks for.
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
    recent = Reference.from_counts(binner.split(earlier).counts, binner.sizes, binner.quantiles)
    comparable = observed & (recent.rows > 0)
    return WindowStats(
        counts=sums.counts,
        observations=np.where(observed, observations, np.nan),
        mean=mean,
        stddev=np.where(smallest == largest, 0.0, stddev),  # exactly 0 for a constant
        min=smallest,
        max=largest,
        missing=ratio(sums.counts[binner.missing], observations),
        invalid=ratio(sums.counts[binner.invalid], observations),
        unseen=ratio(sums.unseen, observations),
        shift=np.where(binner.stddev > 0, offset, np.nan),
        kl=np.where(observed, binner.reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(observed, noise.training(observations), np.nan),
        recent_kl=np.where(comparable, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(comparable, noise.recent(observations, recent), np.nan),
        **_distances(binner, distances, sums, observed, (offset, smallest, largest)),
        multivariate=np.array(binner.multivariate_drift(row)),
    )


def _distances(
    binner: Binner,
    names: Sequence[str],
    sums: Sums,
    observed: npt.NDArray[np.bool_],
    statistics: tuple[Floats, Floats, Floats],
) -> dict[str, Floats]:
    """Return every distance, NaN for those not asked for; ``statistics`` are shift, minimum and maximum."""
    distances = dict.fromkeys(DISTANCES, np.full(len(observed), np.nan))
    for name in names:
        if name == "wasserstein":
            distance = binner.distances.wasserstein(sums.counts, *statistics)
            distances[name] = np.where(binner.stddev > 0, distance, np.nan)
        else:
            distances[name] = np.where(observed, getattr(binner.distances, name)(sums.counts), np.nan)
    return distances
