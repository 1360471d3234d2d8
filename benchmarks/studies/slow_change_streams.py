"""Streams of values without drift, changes of them, and the bins of many features, for the study of slow change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import drift_streams
import numpy as np
from drift_streams import CASES, SHARES, Rng
from scipy import stats

from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.profile import Feature, NumericFeature
from exporter.stats.divergence import Floats, Reference, bin_indices, pad_edges

DAY = 1440  # minutes
Below = Callable[[Floats], Floats]


class Stream(NamedTuple):
    """Values without drift.

    Attributes
    ----------
    draw
        Draws ``n`` successive training values.
    below
        The probability of a value below each of some numbers, for independent values.
    minutes
        Returns values of shape ``(minutes, n, F)`` minute by minute, for dependent values.
    dispersion
        By which factor dependence inflates the variance of a long sum.
    """

    draw: Callable[[Rng, int], Floats]
    below: Below | None = None
    minutes: Callable[[Rng, int, int, int], Iterator[Floats]] | None = None
    dispersion: float = 1.0


def autoregressive(phi: float) -> Stream:
    """Return normal values, each correlated with the one before by ``phi``; training rows are consecutive, too."""

    def minutes(rng: Rng, count: int, rate: int, features: int) -> Iterator[Floats]:
        values = rng.normal(size=(1, features))
        for _ in range(count):
            values = drift_streams.continued(phi, values[-1:], rng.normal(size=(rate, features)))
            yield values

    return Stream(drift_streams.autoregressive(phi).training, None, minutes, (1 + phi) / (1 - phi))


def sessions(shortest: int, longest: int) -> Stream:
    """Return normal values that repeat for the length of a session."""
    lengths = np.arange(shortest, longest + 1)

    def minutes(rng: Rng, count: int, rate: int, features: int) -> Iterator[Floats]:
        value, left = rng.normal(size=features), rng.integers(1, longest + 1, features)
        for _ in range(count):
            values = np.empty((rate, features))
            for row in values:
                ended = left == 0
                value = np.where(ended, rng.normal(size=features), value)
                left = np.where(ended, rng.integers(shortest, longest + 1, features), left) - 1
                row[:] = value
            yield values

    draw = drift_streams.sessions(shortest, longest).training
    return Stream(draw, None, minutes, float((lengths**2).sum() / lengths.sum()))


def season(amplitude: float) -> Stream:
    """Return normal values whose mean follows the time of day; training covers all hours alike."""
    spread = np.sqrt(1 - amplitude**2 / 2)

    def draw(rng: Rng, size: int) -> Floats:
        return spread * rng.normal(size=size) + amplitude * np.sin(2 * np.pi * rng.random(size))

    def minutes(rng: Rng, count: int, rate: int, features: int) -> Iterator[Floats]:
        for minute in range(count):
            yield spread * rng.normal(size=(rate, features)) + amplitude * np.sin(2 * np.pi * minute / DAY)

    return Stream(draw, None, minutes)


STREAMS = {
    "normal": Stream(CASES["normal"].training, stats.norm.cdf),
    "discrete": Stream(CASES["discrete"].training, lambda x: stats.poisson.cdf(np.ceil(x) - 1, 4)),
    "zero-heavy": Stream(CASES["zero-heavy"].training, lambda x: (x > 0) * (0.6 + 0.4 * stats.expon.cdf(x))),
    "categories": Stream(CASES["categories"].training),
    "AR(1) 0.5": autoregressive(0.5),
    "AR(1) 0.9": autoregressive(0.9),
    "AR(1) 0.97": autoregressive(0.97),
    "sessions of 10 to 100": sessions(10, 100),
    "season": season(0.5),
}


class Change(NamedTuple):
    """The stream, what its values are multiplied by and moved by, and the share of values that change."""

    stream: str = "normal"
    factor: float = 1
    shift: float = 0
    share: float = 1


NO_CHANGE = Change()
CHANGES = {
    "mean + 0.1 sd": Change(shift=0.1),
    "mean + 0.25 sd": Change(shift=0.25),
    "mean + 0.5 sd": Change(shift=0.5),
    "mean + 1 sd": Change(shift=1),
    "spread x 1.25": Change(factor=1.25),
    "spread x 0.8": Change(factor=0.8),
    "tail: 5% ten times as large": Change(factor=10, share=0.05),
    "mean + 0.25 sd, zero-heavy": Change("zero-heavy", shift=0.2),
    "mean + 0.25 sd, AR(1) 0.5": Change("AR(1) 0.5", shift=0.25),
    "mean + 0.25 sd, AR(1) 0.9": Change("AR(1) 0.9", shift=0.25),
}


class Features:
    """The bins of many features of one stream, each with a training set of its own.

    ``dispersion`` is what their training sets show of it, shape ``(F,)``.
    """

    def __init__(self, rng: Rng, name: str, rows: int, count: int) -> None:
        self.stream = STREAMS[name]
        made: list[Feature] = []
        dispersion = []
        for _ in range(count):
            training = self.stream.draw(rng, rows)
            names = [str(int(value)) for value in training] if name == "categories" else []
            made.append(categorical_feature(Counter(names), 0, 0) if names else numeric_feature(training, 20))
            blocks = BlockBuilder({"x": made[-1]}, rows)
            blocks.add({"x": names or training})
            dispersion.append(blocks.build()["x"].dispersion)
        self.dispersion = np.array(dispersion)
        sizes = [len(feature.counts) for feature in made]
        self.reference = Reference.from_counts(
            np.concatenate([feature.counts for feature in made]).astype(float), sizes
        )
        self.ordered = np.full(count, name != "categories")
        self._made = made
        self._edges = pad_edges([feature.edges for feature in made if isinstance(feature, NumericFeature)])

    def probabilities(self, change: Change = NO_CHANGE) -> Floats:
        """Return the probability of each bin for independent values."""
        parts = []
        for feature in self._made:
            if isinstance(feature, NumericFeature):
                assert self.stream.below
                edges, share = np.array(feature.edges), change.share
                changed = self.stream.below((edges - change.shift) / change.factor)
                below = share * changed + (1 - share) * self.stream.below(edges)
                parts.append([*np.diff([0.0, *below, 1.0]), 0.0, 0.0])
            else:
                known = [SHARES[int(name)] for name in feature.categories]
                parts.append([*known, max(1 - sum(known), 0.0), 0.0, 0.0])
        return np.concatenate(parts)

    def counts(self, values: Floats) -> Floats:
        """Return the counts of the values of a minute, shape ``(n, F)``."""
        places = bin_indices(self._edges, values.T) + self.reference.starts[:, None]
        return np.bincount(places.ravel(), minlength=len(self.reference.probability)).astype(float)

    def minutes(self, rng: Rng, rate: float, count: int, change: Change = NO_CHANGE) -> Iterator[Floats]:
        """Return the counts of each minute; all values of a stream that depend on each other change."""
        if self.stream.minutes:
            values = self.stream.minutes(rng, count, int(rate), len(self._made))
            yield from (self.counts(change.factor * part + change.shift) for part in values)
        else:
            mean = rate * self.probabilities(change)
            yield from (rng.poisson(mean).astype(float) for _ in range(count))
