"""Drift of the dependence between numeric features, by a Gaussian copula.

Each value becomes its normal score: the standard normal quantile of its rank in training, read from the frozen bins.
The dependence between features is the correlation of their scores, whatever the distribution of each feature. A window
is compared with training by the divergence of one zero-mean normal distribution from another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.profiles.blocks import PARTS, AlignedRows, PartSums, block_distance, rounded
from exporter.profiles.profile import Correlation, CorrelationScores, Feature, NumericFeature
from exporter.stats.change_evidence import SIGMAS
from exporter.stats.dependence import block_sizes, noise_of_scores
from exporter.stats.divergence import BinIndices, Floats, bin_indices, pad_edges, ratio
from exporter.stats.multiple_tests import tail_probability

_MAX_SCORE = 6.0  # scores are clipped, so that one extreme value does not decide the correlation
_RIDGE = 0.05  # weight of the identity in both matrices: the correlation of features that are copies has no inverse
_CACHED_WHITENINGS = 16


class Copula:
    """Normal scores of ``d`` features, and the sums from which their correlation is computed.

    Parameters
    ----------
    features
        Frozen bins of the features; each has edges.
    training
        Correlation of the features in training; None while it is measured.
    quantiles
        χ² quantiles by degrees of freedom, see `exporter.stats.divergence.chi2_quantiles`. Only `drift` needs them.

    Attributes
    ----------
    width
        Length ``1 + d + d(d + 1)/2`` of a row of sums.
    """

    def __init__(
        self, features: Sequence[NumericFeature], training: Correlation | None = None, quantiles: Floats | None = None
    ) -> None:
        self._edges = pad_edges([feature.edges for feature in features])
        maps = [score_map(feature) for feature in features]
        self._low, self._base, self._slope = (pad_edges([parts[part] for parts in maps]).T.ravel() for part in range(3))
        self._starts = np.arange(0, len(self._base), len(self._edges) + 1)
        self._variance = np.array([score_variance(feature) for feature in features])
        self._size = len(features)
        self._pairs = np.triu_indices(self._size)
        self.width = 1 + self._size + len(self._pairs[0])
        self._training = training
        self._quantiles = quantiles
        self._reference = np.eye(self._size)
        if training:
            lower = np.tril_indices(self._size, -1)
            self._reference[lower] = self._reference[lower[::-1]] = training.values
        self._whitenings: dict[bytes, Floats] = {}

    def sums(self, matrix: Floats, bins: BinIndices | None = None) -> Floats:
        """Return the row of sums of a batch.

        Parameters
        ----------
        matrix
            Values, shape ``(d, n)``; NaN is missing, an infinity is invalid.
        bins
            Bin indices of the values, where they are known already; see `exporter.stats.divergence.bin_indices`.

        Returns
        -------
        ndarray
            Number of complete rows, the sums of their scores, and the sums of the products of each pair of scores;
            shape ``(width,)``.
        """
        complete = np.isfinite(matrix).all(axis=0)
        if not complete.all():
            matrix = matrix[:, complete]
            bins = None if bins is None else bins[:, complete]
        return self.sum_scores(self.scores(matrix, bins))

    def scores(self, matrix: Floats, bins: BinIndices | None = None, features: slice = slice(None)) -> Floats:
        """Return the normal scores of values of all features, or of a slice of them, shape ``(d, n)``.

        The score of a value that is not finite has no meaning.
        """
        if bins is None:
            bins = bin_indices(self._edges[:, features], matrix)
        indices = bins + self._starts[features, None]
        scores = self._low.take(indices)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(matrix, scores, out=scores)
            scores *= self._slope.take(indices)
            scores += self._base.take(indices)
        np.clip(scores, -_MAX_SCORE, _MAX_SCORE, out=scores)
        scores[np.isnan(scores)] = 0.0
        return scores

    def sum_scores(self, scores: Floats) -> Floats:
        """Return the row of sums of the scores of complete rows, see `sums`."""
        products = scores @ scores.T
        return np.concatenate([[scores.shape[1]], scores.sum(axis=1), products[self._pairs]])

    def correlation(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return the correlation of the scores, shape ``(d, d)``, and their variance, ``(d,)``; NaN if constant."""
        products = np.empty((self._size, self._size))
        products[self._pairs] = products[self._pairs[::-1]] = ratio(sums[1 + self._size :], sums[0])
        mean = ratio(sums[1 : 1 + self._size], sums[0])
        covariance = products - np.outer(mean, mean)
        variance = np.diag(covariance)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        return ratio(covariance, np.outer(deviation, deviation)), variance

    def drift(self, sums: Floats) -> tuple[float, float]:
        """Return the divergence of a window's correlation from training, and its noise floor, in nats.

        The score is that of `score`. The floor is ``scale · (n/(n+m))² · χ²₀.₉₉(d(d−1)/2)/2 · (1/n + 1/N)``: the
        likelihood ratio of two correlations approximately follows a χ² distribution (Wilks 1938), for dependence other
        than normal up to a scale (Satorra and Bentler 1994), which is measured in training.

        Returns
        -------
        tuple
            Score and noise floor; NaN where fewer than two rows are complete, or fewer than two features vary.
        """
        score, varying = self.score(sums)
        return score, np.nan if np.isnan(score) else float(self.noise(sums[0], varying))

    def p_value(self, sums: Floats, inflation: float = 1.0) -> float:
        """Return the probability that chance makes a window's `score` so high; NaN where there is none.

        The score of ``n`` rows is about ``½ Σ (a + b)²`` over the pairs, ``a`` the error of the window and ``b`` that
        of training. ``Σ b²`` is the same for every window, and taken to be as large as it is once in 30,000 times. A χ²
        distribution with the same mean and variance follows (Satterthwaite 1946).

        Parameters
        ----------
        sums
            Of a window, see `sums`.
        inflation
            How many rows tell as much as an independent one.
        """
        score, size = self.score(sums)
        if self._training is None or math.isnan(score):
            return math.nan
        pairs, scale = size * (size - 1) / 2, self._training.scale * inflation
        live, shift = scale / sums[0], scale / self._training.rows * (pairs + SIGMAS * math.sqrt(2 * pairs) + SIGMAS**2)
        mean, variance = (pairs * live + shift) / 2, pairs * live**2 / 2 + shift * live
        score /= (sums[0] / (sums[0] + size)) ** 2 * mean
        return float(tail_probability(np.array([score]), np.array([math.sqrt(variance) / (3 * mean)]))[0])

    def noise(self, rows: Floats, varying: int | None = None) -> Floats:
        """Return the noise floor for numbers of complete independent rows, with all features or so many that vary.

        NaN where the correlation in training or the quantiles are not known.
        """
        if self._training is None or self._quantiles is None:
            return np.full_like(rows, np.nan)
        size = self._size if varying is None else varying
        quantile = self._quantiles[size * (size - 1) // 2]
        floor = self._training.scale * (rows / (rows + size)) ** 2 * quantile / 2 * (1 / rows + 1 / self._training.rows)
        return np.asarray(floor)

    def score(self, sums: Floats) -> tuple[float, int]:
        """Return the divergence of a window's correlation from training in nats, and how many features vary.

        The score is ``½ (tr(R₀⁻¹R₁) − d − ln det(R₀⁻¹R₁))``: KL(N(0, R₁) ‖ N(0, R₀)). ``R₁`` is smoothed towards
        training with the weight of ``m = d`` rows, and both towards the identity by 5%. Features that barely vary in
        the window are left out; their own drift shows that. NaN with fewer than two complete rows or varying features.
        """
        correlation, variance = self.correlation(sums)
        varying = variance > self._variance / 10
        size = int(varying.sum())
        if self._training is None or size < 2 or sums[0] < 2:
            return np.nan, size
        chosen = np.ix_(varying, varying)
        weight = sums[0] / (sums[0] + size)
        whitening = self._whitening(varying)
        live = _ridged(weight * correlation[chosen] + (1 - weight) * self._reference[chosen])
        eigenvalues = np.maximum(np.linalg.eigvalsh(whitening.T @ live @ whitening), 1e-6)
        return max(float((eigenvalues - 1 - np.log(eigenvalues)).sum() / 2), 0.0), size

    def _whitening(self, varying: npt.NDArray[np.bool_]) -> Floats:
        """Return the matrix that turns the training correlation of some features into the identity."""
        key = varying.tobytes()
        whitening = self._whitenings.get(key)
        if whitening is None:
            if len(self._whitenings) >= _CACHED_WHITENINGS:
                self._whitenings.clear()
            values, vectors = np.linalg.eigh(_ridged(self._reference[np.ix_(varying, varying)]))
            whitening = self._whitenings[key] = vectors / np.sqrt(np.maximum(values, _RIDGE / 2))
        return whitening


def restrict_correlation(correlation: Correlation, names: Collection[str]) -> Correlation | None:
    """Return the correlation of those features that are among ``names``; None for fewer than two.

    >>> restrict_correlation(Correlation(("a", "b", "c"), 9, 1.0, (0.1, 0.2, 0.3)), {"c", "b"})
    Correlation(features=('b', 'c'), rows=9, scale=1.0, values=(0.3,))
    """
    indices = [index for index, name in enumerate(correlation.features) if name in names]
    if len(indices) < 2:
        return None
    values = tuple(correlation.values[i * (i - 1) // 2 + j] for i in indices for j in indices if j < i)
    return Correlation(
        tuple(correlation.features[index] for index in indices), correlation.rows, correlation.scale, values
    )


def score_map(feature: NumericFeature) -> tuple[Floats, Floats, Floats]:
    """Return the piecewise linear map from values to scores: start, score there and slope of each of ``E + 1`` bins."""
    edges = np.array(feature.edges)
    counts = np.array(feature.counts[1 : len(edges)], dtype=np.float64)
    total = max(counts.sum(), 1.0)
    quantile = NormalDist().inv_cdf
    share = np.concatenate([[0.0], np.cumsum(counts)]) / total
    ends = np.array([quantile(min(max(s, 0.5 / total), 1 - 0.5 / total)) for s in share])
    middles = np.array([quantile(s) if 0 < s < 1 else 0.0 for s in (share[1:] + share[:-1]) / 2])
    single = np.nextafter(edges[:-1], np.inf) == edges[1:]  # bins that hold a single value
    with np.errstate(over="ignore"):
        slope = np.nan_to_num(np.where(single, 0.0, np.diff(ends) / np.diff(edges)), posinf=0.0)
        outside = min(1 / feature.stddev, 1e300) if feature.stddev else 0.0
    low = np.concatenate([edges[:1], edges])
    base = np.concatenate([ends[:1], np.where(single, middles, ends[:-1]), ends[-1:]])
    return low, base, np.concatenate([[outside], slope, [outside]])


def score_variance(feature: NumericFeature) -> float:
    """Return the variance of the training values' scores: about 1, less where a few values hold most of the mass."""
    counts = np.array(feature.counts[1 : len(feature.edges)], dtype=np.float64)
    if not counts.sum():
        return 0.0
    share = np.cumsum(counts) / counts.sum() - counts / counts.sum() / 2
    scores = np.array([NormalDist().inv_cdf(s) if 0 < s < 1 else 0.0 for s in share])
    mean = np.average(scores, weights=counts)
    return float(np.average((scores - mean) ** 2, weights=counts))


def _ridged(correlation: Floats) -> Floats:
    ridged: Floats = (1 - _RIDGE) * correlation + _RIDGE * np.eye(len(correlation))
    return ridged


MAX_FEATURES = 32
"""Only the first features of a profile are compared, so that memory and time stay small."""
_MIN_VARIANCE = 0.25  # of the scores; below it a feature is nearly constant: one value in more than 90% of the rows
_MAX_EMPTY = 0.05  # share of rows without a value; only complete rows count, so such a feature would cost too many
GROUPS = 20
"""Groups to which rows are dealt."""


class CorrelationBuilder:
    """Measure the correlation of features over any number of batches.

    Rows are dealt to 20 groups in turn. The scale of the noise floor is how much the groups differ from all rows,
    relative to groups of a normal copula.

    Parameters
    ----------
    features
        All features of the profile, their bins frozen.
    ordered_rows
        Number of rows that will be added in the order in which they arrived; 0 if they have no such order.

    Attributes
    ----------
    names
        The features that are compared.
    """

    def __init__(self, features: Mapping[str, Feature], ordered_rows: int = 0) -> None:
        chosen = {
            name: feature
            for name, feature in features.items()
            if isinstance(feature, NumericFeature) and _is_compared(feature)
        }
        self.names = tuple(chosen)[:MAX_FEATURES]
        self._features = [chosen[name] for name in self.names]
        self._copula = Copula(self._features)
        self._groups = np.zeros((GROUPS, self._copula.width), dtype=np.int64)
        fewest = max(_FEWEST_ROWS, 4 * len(self.names), ordered_rows * PARTS // _MOST_PARTS)
        self._sizes = [size for size in block_sizes(ordered_rows) if size >= fewest]
        self._rows = ordered_rows
        self._aligned = AlignedRows(self._sizes[0] // PARTS if self._sizes else ordered_rows + 1)
        self._parts: list[Floats] = []

    def add(
        self, columns: Mapping[str, Floats], bins: Mapping[str, BinIndices] = MappingProxyType({}), first: int = 0
    ) -> None:
        """Add a batch: columns of ``n`` numbers of at least the features in `names`, and the number of its first row.

        Bins of the numbers are found, where they are not given; see `exporter.stats.divergence.bin_indices`.
        """
        if len(self.names) < 2:
            return
        rows = len(columns[self.names[0]])
        scores = np.empty((len(self.names) + 1, rows))  # the last row is 1 where all others have a value
        complete = np.ones(rows, dtype=np.bool_)
        for index, name in enumerate(self.names):
            column, found = columns[name], bins.get(name)
            complete &= np.isfinite(column)
            inner = None if found is None else np.minimum(found, len(self._features[index].edges))[None]
            found_scores = self._copula.scores(column[None], inner, slice(index, index + 1))[0]
            found_scores *= _STEPS
            np.rint(found_scores, out=scores[index])
        scores[-1] = complete
        for group in range(GROUPS):
            self._groups[group] += self._sum(scores[:, (group - first) % GROUPS :: GROUPS]).astype(np.int64)
        if self._sizes:
            self._count(self._aligned.add(scores, first))

    def _sum(self, scores: Floats) -> Floats:
        """Return the row of sums of the complete rows, whole numbers: scores have the unit ``1/_STEPS``."""
        complete = scores[-1] > 0
        scores = np.ascontiguousarray(scores[:-1]) if complete.all() else scores[:-1].compress(complete, axis=1)
        return self._copula.sum_scores(scores)

    def _count(self, complete: list[Floats]) -> None:
        size = self._sizes[0] // PARTS
        for scores in complete:
            self._parts += [self._sum(scores[:, start : start + size]) for start in range(0, scores.shape[1], size)]

    def merge(self, later: CorrelationBuilder) -> None:
        """Add the rows that follow."""
        self._groups += later._groups
        if self._sizes and len(self.names) > 1:
            self._count(self._aligned.merge(later._aligned))
            self._parts += later._parts

    def _scaled(self, sums: npt.NDArray[Any]) -> Floats:
        """Return sums of scores and of their products in the units of `Copula.sums`."""
        size = len(self.names)
        unit = np.concatenate(([1.0], np.full(size, 1 / _STEPS), np.full(size * (size + 1) // 2, _STEPS**-2)))
        return np.asarray(sums * unit)

    def build(self) -> Correlation | None:
        """Return the correlation; None where fewer than two features vary, or too few rows are complete."""
        size = len(self.names)
        if size < 2:
            return None
        sums = self._scaled(self._groups.sum(axis=0))
        correlation, _ = self._copula.correlation(sums)
        rows = int(sums[0])
        if not np.isfinite(correlation).all() or rows < 2 * size:
            return None
        lower = tuple(np.round(correlation[np.tril_indices(size, -1)], 6).tolist())
        unscaled = Correlation(self.names, rows, 1.0, lower)
        return Correlation(self.names, rows, round(self._scale(unscaled), 4), lower)

    def build_blocks(self, training: Correlation) -> CorrelationScores | None:
        """Return the scores of blocks of consecutive rows by the correlation of all; None without blocks."""
        features = len(training.features)
        sizes = np.array(self._sizes, dtype=np.float64)
        degrees = features * (features - 1) // 2
        copula, scores = Copula(self._features, training), []
        parts = PartSums(np.array(self._parts).reshape(-1, copula.width))
        for size in self._sizes:
            distance = block_distance(size, self._rows, _MOST)
            sums = parts.blocks(size * PARTS // self._sizes[0], distance)
            found = np.array([copula.score(row)[0] for row in self._scaled(sums)])
            # A block is part of training, and resembles it more than live rows do.
            scores.append(found[np.isfinite(found)] * (training.rows + size) / (training.rows - size))
        if not scores or not all(map(len, scores)):
            return None
        expected = training.scale * (sizes / (sizes + features)) ** 2 * degrees / 2 * (1 / sizes + 1 / training.rows)
        noise = noise_of_scores(scores, expected, np.sqrt(2 / degrees), sizes, training.rows)
        return CorrelationScores(
            tuple(self._sizes), rounded(noise.quantiles), rounded(noise.effective), noise.dependent
        )

    def _scale(self, training: Correlation) -> float:
        size = len(self.names)
        groups = next((g for g in (20, 10, 5, 4) if training.rows / g >= max(50, 4 * size)), 0)
        copula = Copula(self._features, training)
        excess = []
        for group in range(groups):
            sums = self._scaled(self._groups[group::groups].sum(axis=0))
            score, _ = copula.score(sums)
            if not np.isnan(score) and sums[0] < training.rows:
                difference = 1 / sums[0] - 1 / training.rows  # the group is part of the training rows
                expected = (sums[0] / (sums[0] + size)) ** 2 * size * (size - 1) / 4 * difference
                excess.append(score / expected)
        return max(1.0, float(np.mean(excess))) if excess else 1.0


def measure_correlation(columns: Mapping[str, Floats], features: Mapping[str, Feature]) -> Correlation | None:
    """Return the correlation of the features of a training set that is in memory; see `CorrelationBuilder`.

    >>> from exporter.profiles.bins import numeric_feature
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=2000)
    >>> columns = {"x": x, "copy": np.exp(x), "alone": rng.normal(size=2000)}
    >>> result = measure_correlation(columns, {name: numeric_feature(column) for name, column in columns.items()})
    >>> [abs(round(value, 1)) for value in result.values]
    [1.0, 0.0, 0.0]
    """
    builder = CorrelationBuilder(features)
    builder.add(columns)
    return builder.build()


def _is_compared(feature: NumericFeature) -> bool:
    empty = sum(feature.counts[-2:])
    return empty <= _MAX_EMPTY * sum(feature.counts) and score_variance(feature) > _MIN_VARIANCE


_STEPS = 2.0**14
"""Steps of a score: sums of whole numbers of them are exact, in whatever order."""
_MOST = 100  # blocks of each size that are scored
_MOST_PARTS = 10_000
_FEWEST_ROWS = 50
