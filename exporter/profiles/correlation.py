"""How numeric features go together, whatever each looks like alone: a Gaussian copula.

A value becomes its normal score, the standard normal quantile of its share in training, through
the frozen bins. What features have in common is then the correlation of their scores; a window is
compared with training by the divergence of one zero-mean normal distribution from another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from exporter.profiles.profile import Correlation, Feature, NumericFeature
from exporter.stats.digitize import BinIndices, bin_indices, pad_edges
from exporter.stats.divergence import NOISE_CONFIDENCE, Floats, chi2_quantile, ratio

MAX_FEATURES = 32
"""Features that are compared: the first of a profile, so that memory and time stay small."""
_FAR = 6.0  # no score is further out: one wild value must not decide the correlation
_SPREAD = 0.25  # variance of the scores below which a feature is nearly constant: one value in more than 90 %
_EMPTY = 0.05  # only complete rows count, so a feature that is often empty would cost too many
_RIDGE = 0.05  # weight of the identity in both matrices: features that copy each other have no inverse
_GROUPS = 20


class Copula:
    """Normal scores of ``d`` features, and the sums that their correlation needs.

    Parameters
    ----------
    features
        The features' frozen bins; each has edges.
    training
        Their correlation in training, as the profile holds it; None while it is measured.

    Attributes
    ----------
    width
        Length ``1 + d + d(d + 1)/2`` of a row of sums.
    """

    def __init__(self, features: Sequence[NumericFeature], training: Correlation | None = None) -> None:
        self._edges = pad_edges([feature.edges for feature in features])
        # By feature and bin, behind one another: where a score starts, from which, and how it rises.
        maps = [_score_map(feature) for feature in features]
        self._low, self._base, self._slope = (pad_edges([own[part] for own in maps]).T.ravel() for part in range(3))
        self._starts = np.arange(0, len(self._base), len(self._edges) + 1)
        self._spread = np.array([_spread(feature) for feature in features])
        self._size = len(features)
        self._pairs = np.triu_indices(self._size)
        self.width = 1 + self._size + len(self._pairs[0])
        self._training = training
        self._reference = np.eye(self._size)
        if training:
            lower = np.tril_indices(self._size, -1)
            self._reference[lower] = self._reference[lower[::-1]] = training.values
        self._whitening: dict[bytes, Floats] = {}

    def sums(self, matrix: Floats, bins: BinIndices | None = None) -> Floats:
        """What a batch adds up to.

        Parameters
        ----------
        matrix
            Values, shape ``(d, n)``; NaN for a missing one, an infinity for an invalid one.
        bins
            How many edges of its feature are at or below each, where that is known already.

        Returns
        -------
        ndarray
            The number of rows that have all values, and over these the sums of the scores and of
            their products in pairs; shape ``(width,)``.
        """
        complete = np.isfinite(matrix).all(axis=0)
        if not complete.all():
            matrix = matrix[:, complete]
            bins = None if bins is None else bins[:, complete]
        return self.added(self.scores(matrix, bins))

    def scores(self, matrix: Floats, bins: BinIndices | None = None, features: slice = slice(None)) -> Floats:
        """Normal scores of values of all or some features, shape ``(d, n)``; that of no finite number says nothing."""
        if bins is None:
            bins = bin_indices(self._edges[:, features], matrix)
        at = bins + self._starts[features, None]
        scores = self._low.take(at)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(matrix, scores, out=scores)
            scores *= self._slope.take(at)
            scores += self._base.take(at)
        np.clip(scores, -_FAR, _FAR, out=scores)
        scores[np.isnan(scores)] = 0.0
        return scores

    def added(self, scores: Floats) -> Floats:
        """What the scores of complete rows add up to; see `sums`."""
        products = scores @ scores.T
        return np.concatenate([[scores.shape[1]], scores.sum(axis=1), products[self._pairs]])

    def correlation(self, sums: Floats) -> tuple[Floats, Floats]:
        """Correlation of the scores, shape ``(d, d)``, and their variance, ``(d,)``; NaN where nothing varies."""
        products = np.empty((self._size, self._size))
        products[self._pairs] = products[self._pairs[::-1]] = ratio(sums[1 + self._size :], sums[0])
        mean = ratio(sums[1 : 1 + self._size], sums[0])
        covariance = products - np.outer(mean, mean)
        variance = np.diag(covariance)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        return ratio(covariance, np.outer(deviation, deviation)), variance

    def drift(self, sums: Floats) -> tuple[float, float]:
        """How differently features go together than in training, and what sampling alone would show.

        ``½ (tr(R₀⁻¹R₁) − d − ln det(R₀⁻¹R₁))`` in nats: KL(N(0, R₁) ‖ N(0, R₀)). ``R₁`` leans on
        training by ``m = d`` rows, and both on the identity by 5 %. Features that barely vary in the
        window are left out: their own drift says that.

        The floor is ``scale · (n/(n+m))² · χ²₀.₉₉(d(d−1)/2)/2 · (1/n + 1/N)``: the likelihood ratio
        of the correlations is nearly χ² (Wilks 1938), for other than normal dependence up to a
        scale (Satorra and Bentler 1994), which was measured in training.

        Returns
        -------
        tuple
            Score and noise floor; NaN where fewer than two rows are complete, or two features vary.
        """
        found, variance = self.correlation(sums)
        observed = sums[0]
        kept = variance > self._spread / 10
        size = int(kept.sum())
        if self._training is None or size < 2 or observed < 2:
            return np.nan, np.nan
        chosen = np.ix_(kept, kept)
        weight = observed / (observed + size)
        white = self._white(kept)
        live = _ridged(weight * found[chosen] + (1 - weight) * self._reference[chosen])
        roots = np.maximum(np.linalg.eigvalsh(white.T @ live @ white), 1e-6)
        score = max(float((roots - 1 - np.log(roots)).sum() / 2), 0.0)
        strayed = chi2_quantile(NOISE_CONFIDENCE, size * (size - 1) // 2) / 2 * (1 / observed + 1 / self._training.rows)
        return score, float(self._training.scale * weight**2 * strayed)

    def _white(self, kept: npt.NDArray[np.bool_]) -> Floats:
        """What turns the training correlation of some features into the identity."""
        key = kept.tobytes()
        white = self._whitening.get(key)
        if white is None:
            if len(self._whitening) >= 16:  # the same few features drop out again and again
                self._whitening.clear()
            values, vectors = np.linalg.eigh(_ridged(self._reference[np.ix_(kept, kept)]))
            white = self._whitening[key] = vectors / np.sqrt(np.maximum(values, _RIDGE / 2))
        return white


class CorrelationBuilder:
    """Measures training data in any number of batches, in bounded memory.

    Rows are dealt to 20 groups in turn. How far the groups stray from the whole, against what a
    normal copula would show, is the scale of the noise floor.

    Parameters
    ----------
    features
        All features of the profile, their bins frozen.
    """

    def __init__(self, features: Mapping[str, Feature]) -> None:
        chosen = {
            name: feature
            for name, feature in features.items()
            if isinstance(feature, NumericFeature) and _is_compared(feature)
        }
        self.names = tuple(chosen)[:MAX_FEATURES]
        self._features = [chosen[name] for name in self.names]
        self._copula = Copula(self._features)
        self._groups = np.zeros((_GROUPS, self._copula.width))
        self._rows = 0
        self._scores: Floats = np.empty((0, 0))

    def add(self, columns: Mapping[str, Floats]) -> None:
        """Take a batch: columns of ``n`` numbers of at least the features in `names`, as `sums` takes them."""
        if len(self.names) < 2:
            return
        chosen = [columns[name] for name in self.names]
        rows = len(chosen[0])
        if self._scores.shape[1] < rows:
            self._scores = np.empty((len(chosen), rows))
        scores = self._scores[:, :rows]
        complete = np.ones(rows, dtype=np.bool_)
        for place, column in enumerate(chosen):
            complete &= np.isfinite(column)
            scores[place] = self._copula.scores(column[None], features=slice(place, place + 1))
        whole = complete.all()
        for group in range(_GROUPS):
            own = slice((group - self._rows) % _GROUPS, None, _GROUPS)
            part = scores[:, own]
            part = np.ascontiguousarray(part) if whole else part.compress(complete[own], axis=1)
            self._groups[group] += self._copula.added(part)
        self._rows += rows

    def done(self) -> Correlation | None:
        """What was measured; None where fewer than two features vary, or too few rows have them."""
        size = len(self.names)
        total = self._groups.sum(axis=0)
        found, _ = self._copula.correlation(total)
        if size < 2 or not np.isfinite(found).all() or total[0] < 2 * size:
            return None
        lower = tuple(np.round(found[np.tril_indices(size, -1)], 6).tolist())
        plain = Correlation(self.names, int(total[0]), 1.0, lower)
        return Correlation(self.names, plain.rows, round(self._scale(plain), 4), lower)

    def _scale(self, plain: Correlation) -> float:
        size = len(self.names)
        groups = next((g for g in (20, 10, 5, 4) if plain.rows / g >= max(50, 4 * size)), 0)
        copula = Copula(self._features, plain)
        excess = []
        for group in range(groups):
            sums = self._groups[group::groups].sum(axis=0)
            score, _ = copula.drift(sums)
            if not np.isnan(score):
                own = 1 / sums[0] - 1 / plain.rows  # the whole holds the group
                expected = (sums[0] / (sums[0] + size)) ** 2 * size * (size - 1) / 4 * own
                excess.append(score / expected)
        return max(1.0, float(np.mean(excess))) if excess else 1.0


def measure_correlation(columns: Mapping[str, Floats], features: Mapping[str, Feature]) -> Correlation | None:
    """How the features of a training set that is in memory go together; see `CorrelationBuilder`.

    >>> from exporter.profiles.bin_edges import numeric_feature
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=2000)
    >>> columns = {"x": x, "copy": np.exp(x), "alone": rng.normal(size=2000)}
    >>> found = measure_correlation(columns, {name: numeric_feature(column) for name, column in columns.items()})
    >>> [abs(round(value, 1)) for value in found.values]
    [1.0, 0.0, 0.0]
    """
    builder = CorrelationBuilder(features)
    builder.add(columns)
    return builder.done()


def restrict_correlation(whole: Correlation, known: Collection[str]) -> Correlation | None:
    """The part of a correlation that is of features among ``known``; None for fewer than two.

    >>> restrict_correlation(Correlation(("a", "b", "c"), 9, 1.0, (0.1, 0.2, 0.3)), {"c", "b"})
    Correlation(features=('b', 'c'), rows=9, scale=1.0, values=(0.3,))
    """
    places = [place for place, name in enumerate(whole.features) if name in known]
    if len(places) < 2:
        return None
    values = tuple(whole.values[i * (i - 1) // 2 + j] for i in places for j in places if j < i)
    return Correlation(tuple(whole.features[place] for place in places), whole.rows, whole.scale, values)


def _score_map(feature: NumericFeature) -> tuple[Floats, Floats, Floats]:
    """For each of the ``E + 1`` bins where its score starts, from which, and how it rises."""
    edges = np.array(feature.edges)
    counts = np.array(feature.counts[1 : len(edges)], dtype=np.float64)
    total = max(counts.sum(), 1.0)
    quantile = NormalDist().inv_cdf
    share = np.concatenate([[0.0], np.cumsum(counts)]) / total
    ends = np.array([quantile(min(max(s, 0.5 / total), 1 - 0.5 / total)) for s in share])
    middles = np.array([quantile(s) if 0 < s < 1 else 0.0 for s in (share[1:] + share[:-1]) / 2])
    alone = np.nextafter(edges[:-1], np.inf) == edges[1:]  # a value with a bin of its own
    with np.errstate(over="ignore"):
        rise = np.nan_to_num(np.where(alone, 0.0, np.diff(ends) / np.diff(edges)), posinf=0.0)
        outside = min(1 / feature.stddev, 1e300) if feature.stddev else 0.0
    low = np.concatenate([edges[:1], edges])
    base = np.concatenate([ends[:1], np.where(alone, middles, ends[:-1]), ends[-1:]])
    return low, base, np.concatenate([[outside], rise, [outside]])


def _spread(feature: NumericFeature) -> float:
    """Variance of the training values' scores, about 1 unless few values share most of the mass."""
    counts = np.array(feature.counts[1 : len(feature.edges)], dtype=np.float64)
    if not counts.sum():
        return 0.0
    share = np.cumsum(counts) / counts.sum() - counts / counts.sum() / 2
    scores = np.array([NormalDist().inv_cdf(s) if 0 < s < 1 else 0.0 for s in share])
    mean = np.average(scores, weights=counts)
    return float(np.average((scores - mean) ** 2, weights=counts))


def _is_compared(feature: NumericFeature) -> bool:
    empty = sum(feature.counts[-2:])
    return empty <= _EMPTY * sum(feature.counts) and _spread(feature) > _SPREAD


def _ridged(correlation: Floats) -> Floats:
    ridged: Floats = (1 - _RIDGE) * correlation + _RIDGE * np.eye(len(correlation))
    return ridged
