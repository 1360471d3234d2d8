"""The noise floors of live scores, raised where values depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from exporter.profiles.correlation import Copula
from exporter.profiles.profile import Profile
from exporter.stats.dependence import SIZES, LiveDependence, NoiseRatio
from exporter.stats.divergence import Floats, Reference
from exporter.stats.multiple_tests import tail_probability, tail_ratio, tail_shape

LEAST_VALUES = 20
"""Independent values from which on a score has a p-value. That of fewer is not known far beyond the noise floor."""


UNKNOWN_RATIO = 6.0
"""How much noisier scores are assumed to be than those of independent values, while dependence is not known.

A correlation of 0.9 between successive values makes them 3 to 4 times as noisy, bursts of 50 values up to 6 times.
"""


@dataclass(frozen=True)
class NoiseFloors:
    """The noise floors of ``T`` targets.

    Each is the larger of two: that of independent values, see `Reference.noise`, and that of values which depend on
    each other as in training. Only this class multiplies the one by the ratio of the two, so every score has the same.

    Attributes
    ----------
    reference
        Training distribution of the targets.
    ratio
        How many times higher the floor of each target is than that of independent values, by the number of values.
    inflation
        How many values of each target tell as much as one independent value, by the number of values.
    rows
        The ratio of the floor of the correlation of features, by the number of rows; it has one row.
    doubt
        How many times noisier than independent values those of each target are at least assumed to be in p-values,
        shape ``(T,)``: where training says nothing of their dependence, it is the dispersion of live values, infinite
        until it is known.
    learned
        Indices of the targets whose dependence was learned from live values.
    """

    reference: Reference
    ratio: NoiseRatio
    inflation: NoiseRatio
    rows: NoiseRatio
    doubt: Floats
    learned: frozenset[int] = frozenset()

    @classmethod
    def from_profile(
        cls, profile: Profile, names: Sequence[str], reference: Reference, copula: Copula | None
    ) -> NoiseFloors:
        """Return the floors of targets by their names, and that of the correlation of features."""
        ratio = inflation = NoiseRatio.of_independent_values(len(names))
        rows = NoiseRatio.of_independent_values(1)
        if blocks := profile.blocks:
            ratio = blocks.noise_ratio(names, reference)
            sizes = np.array(blocks.sizes, dtype=np.float64)
            known = [blocks.targets.get(name) for name in names]
            effective = np.array([scores.effective if scores and scores.dependent else sizes for scores in known])
            inflation = NoiseRatio(sizes, sizes / np.clip(effective.reshape(len(names), len(sizes)), 1.0, sizes))
            if copula and profile.correlation and blocks.correlation and blocks.correlation.dependent:
                sizes = np.array(blocks.correlation.sizes, dtype=np.float64)
                floor = copula.noise(sizes, len(profile.correlation.features))
                rows = NoiseRatio(sizes, np.fmax(np.array(blocks.correlation.quantiles) / floor, 1.0)[None])
        return cls(reference, ratio, inflation, rows, np.ones(len(names)))

    def with_live(
        self, live: Mapping[int, LiveDependence], dispersion: Mapping[int, float] = MappingProxyType({})
    ) -> NoiseFloors:
        """Return the floors with the dependence of live values, by the index of the target, instead of training's."""
        doubt = self.doubt.copy()
        doubt[[*dispersion]] = [*dispersion.values()]
        if not live:
            return replace(self, doubt=doubt)
        ratio = _replace(self.ratio, {index: dependence.ratio for index, dependence in live.items()})
        inflation = _replace(self.inflation, {index: dependence.inflation for index, dependence in live.items()})
        return replace(self, ratio=ratio, inflation=inflation, doubt=doubt, learned=frozenset(live))

    def training(self, observed: Floats, reference: Reference | None = None) -> Floats:
        """Return the floor of the divergence of ``observed`` values from training, shape ``(..., T)``.

        ``reference`` is the training distribution of the hours of the values; that of all training values when None.
        """
        ratio = self.ratio.at(observed)
        return (reference or self.reference).noise(observed, ratio, ratio)

    def recent(self, observed: Floats, earlier: Reference) -> Floats:
        """Return the floor of the divergence of ``observed`` values from an ``earlier`` window, shape ``(T,)``.

        The values of both sides depend on each other.
        """
        return earlier.noise(observed, self.ratio.at(observed), self.ratio.at(earlier.rows))

    def p_values(
        self,
        score: Floats,
        observed: Floats,
        earlier: Reference | None = None,
    ) -> Floats:
        """Return the probability that a score is exceeded without drift.

        The score is compared with the χ² distribution, times a factor, that has the 99% quantile of scores without
        drift. For independent values it has K′ − 1 degrees of freedom. Values that depend on each other have a longer
        tail, and so fewer: as many as fit the quantile and the mean, but at most those of scores in which one
        direction has all that dependence adds to the mean (Satterthwaite 1946).

        Parameters
        ----------
        score, observed
            Divergence from training in nats, and number of values, shape ``(..., T)``.
        earlier
            An earlier window from which the score is the divergence, in place of training; see `recent`.

        Returns
        -------
        ndarray
            Shape ``(..., T)``; NaN where there is less to tell than from `LEAST_VALUES` independent values, or no
            training values.
        """
        reference = earlier or self.reference
        degrees = np.maximum(reference.degrees, 1)  # a constant has no noise, but the number of its rows is finite
        known = (self.effective(observed) >= LEAST_VALUES) & (reference.rows > 0)
        if earlier:
            known &= self.effective(earlier.rows) >= LEAST_VALUES
        count = np.where(known, observed, LEAST_VALUES)
        ratio, inflation = self.ratio.at(count), self.inflation.at(count)
        independent = tail_ratio(np.sqrt(2 / (9 * degrees)))
        one_direction = np.sqrt(2 / 9 * (1 + (inflation - 1) * degrees) / (inflation * degrees))
        shape = np.maximum(tail_shape(independent * np.maximum(ratio / inflation, 1.0)), one_direction)
        of_rows = self.ratio.at(earlier.rows) if earlier else ratio
        doubt = self.doubt if earlier else np.minimum(self.doubt, UNKNOWN_RATIO)  # a run has no time to wait
        unit = reference.noise_unit(count, np.maximum(ratio, doubt), np.maximum(of_rows, doubt))
        floor = unit * degrees * independent
        return tail_probability(np.where(known, score / floor * tail_ratio(shape), np.nan), shape)

    def effective(self, observed: Floats) -> Floats:
        """Return how many independent values tell as much as ``observed`` values, shape ``(T,)``."""
        return observed / self.inflation.at(observed)


def _replace(known: NoiseRatio, live: Mapping[int, Floats]) -> NoiseRatio:
    """Return a ratio with other rows, given for `SIZES`."""
    sizes = np.union1d(known.sizes, SIZES)
    ratio = known.at(np.repeat(sizes[:, None], len(known.ratio), axis=1)).T
    ratio[list(live)] = (
        NoiseRatio(SIZES, np.stack(list(live.values()))).at(np.repeat(sizes[:, None], len(live), axis=1)).T
    )
    return NoiseRatio(sizes, ratio)
