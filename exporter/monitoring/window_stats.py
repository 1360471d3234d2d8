"""The statistics of a window, computed from its row of sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporter.config import DISTANCES
from exporter.monitoring.binner import Binner, Sums
from exporter.monitoring.hourly_reference import Expected
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.divergence import Floats, Reference, ratio


@dataclass(frozen=True)
class WindowStats:
    """Statistics of the targets in one window: arrays of shape ``(T,)``, NaN where there are no values.

    Attributes
    ----------
    expected
        What the window is compared with.
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
        Mean less that of training (of the same hours, for targets that change with them), in training standard
        deviations.
    kl, noise
        KL divergence from training in nats, and its noise floor.
    recent_kl, recent_noise
        KL divergence from the longest window before this one, and its noise floor.
    js, ks, psi, wasserstein
        Further distances from training, where the configuration asks for them; see `exporter.stats.distances`.
    multivariate
        Drift of the correlation between features, and its noise floor, shape ``(2,)``.
    """

    expected: Expected
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
    expected, recent = binner.expected(row), _recent_reference(binner, row, earlier)
    comparable = observed & (recent.rows > 0)
    probability = expected.reference.probability
    return WindowStats(
        expected=expected,
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
        shift=np.where(binner.stddev > 0, offset - expected.shift, np.nan),
        kl=np.where(observed, expected.reference.kl_divergence(sums.counts), np.nan),
        noise=np.where(observed, noise.training(observations, expected.reference), np.nan),
        recent_kl=np.where(comparable, recent.kl_divergence(sums.counts), np.nan),
        recent_noise=np.where(comparable, noise.recent(observations, recent), np.nan),
        **{
            name: np.where(observed, distance, np.nan)
            for name, distance in _distances(binner, expected, distances, sums, (smallest, largest)).items()
        },
        multivariate=np.array(binner.multivariate_drift(row)),
    )


def _recent_reference(binner: Binner, row: Floats, earlier: Floats) -> Reference:
    """Return the distribution of an earlier window, as it would have been in the hours of a row of sums."""
    counts = binner.split(earlier).counts
    if not binner.hourly:
        return Reference.from_counts(counts, binner.sizes, binner.quantiles)
    adjusted, error = binner.hourly.adjusted(counts, binner.hours_of(row), binner.hours_of(earlier))
    recent = Reference.from_counts(adjusted, binner.sizes, binner.quantiles)
    return replace(recent, rows=recent.rows / (1 + recent.rows * error))


def _distances(
    binner: Binner,
    expected: Expected,
    names: Sequence[str],
    sums: Sums,
    extremes: tuple[Floats, Floats],
) -> dict[str, Floats]:
    """Return every distance, NaN for those not asked for; ``extremes`` are minimum and maximum."""
    distances = dict.fromkeys(DISTANCES, np.full(len(sums.valid), np.nan))
    if not names:
        return distances
    training = binner.distances(expected)
    for name in names:
        if name == "wasserstein":
            offset = ratio(sums.first, sums.valid) - expected.shift
            distance = training.wasserstein(sums.counts, offset, *extremes)
            distances[name] = np.where(binner.stddev > 0, distance, np.nan)
        else:
            distances[name] = getattr(training, name)(sums.counts)
    return distances
