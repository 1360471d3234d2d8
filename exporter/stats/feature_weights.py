"""Learn from a model's answers how much they depend on each feature, from frozen bins and without the model.

Pure numpy. A surrogate of the model is fitted: the sum of what the bins of each feature add, and of what the cells of
some pairs of features add. A feature's weight is what the surrogate's answers change by when the feature's values are
exchanged between rows, as in permutation importance (L. Breiman, *Random forests*, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats, Ints
from exporter.stats.quality import shrinkage_rows

_FOLDS = 5  # every fifth row is held out
_STEP = 0.3  # of each fit towards its optimum; features that go together so share what either explains
_ROUNDS = 25
_ALL_COMPONENTS = 4  # of so many rounds, one looks at all components
_CONVERGED = 1e-4  # share of the variance of the answers
_GROUPS = 4  # of a feature's bins, in a pair
_LEAST_PAIR = 0.002  # share of the variance of the answers
_MOST_PAIRS = 30
_PAIR_COST = 1e10  # multiplications
_DEVIATIONS = 2.0  # of chance
_LEAST_FIDELITY = 0.8
_LEAST_SCALE = 1e-3  # below it, a product of contrasts is 0 in nearly all rows


class FeatureWeights(NamedTuple):
    """How much a model's answers depend on each of ``T`` features.

    Attributes
    ----------
    weights
        Share of the variation of the answers that goes with the feature, shape ``(T,)``, from 0 to 1.
    upper
        Upper bound of the weight, shape ``(T,)``: also by what the feature explains alone, even if others explain it
        as well, by its pairs with other features, and by chance. 1 where the surrogate does not follow the model.
    fidelity
        Share of the variance of the answers that the surrogate explains in rows on which it was not fitted.
    """

    weights: Floats
    upper: Floats
    fidelity: float


def measure_weights(bins: BinIndices, sizes: Sequence[int], answers: Floats, *, classes: bool) -> FeatureWeights:
    """Return how much answers depend on each feature.

    Parameters
    ----------
    bins
        Bin of each of ``n`` rows within each of ``T`` features, shape ``(T, n)``.
    sizes
        Number of bins of each feature.
    answers
        What the model answered, shape ``(C, n)``: a number, or for each class whether it is that class.
    classes
        Whether they are classes. The variation of numbers is their variance, that of classes how often those of two
        rows differ, see `changed_share`.
    """
    held = np.arange(bins.shape[1]) % _FOLDS == _FOLDS - 1
    answers = answers - answers[:, ~held].mean(axis=1, keepdims=True)
    surrogate = _Surrogate(bins[:, ~held], sizes, answers[:, ~held])
    rest = answers[:, held] - surrogate.answers(list(bins[:, held]))
    fidelity = 1 - float((rest**2).sum() / (answers[:, held] ** 2).sum())
    shares, upper = surrogate.shares(), surrogate.upper_shares()
    if classes:
        shares, upper = changed_share(shares), changed_share(upper)
    follows = fidelity >= _LEAST_FIDELITY * (2 / np.pi if classes else 1)
    return FeatureWeights(
        shares.clip(0, 1), np.maximum(shares, upper).clip(0, 1) if follows else np.ones(len(bins)), max(fidelity, 0.0)
    )


def changed_share(shares: Floats) -> Floats:
    """Return which share of classes changes where a part of their variance is exchanged, relative to all of it.

    The formula holds for two equally frequent classes, by whether a normal score is above its mean. A part with a share
    ``v`` of the variance of the score explains ``2·v/π`` of the variance of the classes. Where it is exchanged, classes
    change ``2·arccos(1 − v)/π`` times as often as where the whole score is.

    Parameters
    ----------
    shares
        Shares of the variance of the classes that are explained.

    Examples
    --------
    >>> changed_share(np.array([0.0, 0.001, 0.01, 0.1, 2 / np.pi, 1.0])).round(3).tolist()
    [0.0, 0.036, 0.113, 0.361, 1.0, 1.0]
    """
    return np.asarray(2 / np.pi * np.arccos(1 - (shares * np.pi / 2).clip(0, 1)), dtype=np.float64)


class _Component(NamedTuple):
    """A feature, or a pair of features: the code of each bin of each feature; codes add up to a cell."""

    features: tuple[int, ...]
    codes: tuple[Ints, ...]
    size: int

    def cells(self, rows: Sequence[BinIndices]) -> Ints:
        """Return the cell of each row, by the bins of all features."""
        first, *others = (codes[rows[feature]] for feature, codes in zip(self.features, self.codes, strict=True))
        return first + others[0] if others else first


class _Surrogate:
    """The sum of effects of features and pairs, fitted to answers with mean 0; see `measure_weights`.

    Source: Y. Lou et al., *Accurate intelligible models with pairwise interactions*, KDD 2013. It is fitted in small
    steps, as by H. Nori et al., *InterpretML: a unified framework for machine learning interpretability*, 2019.
    """

    def __init__(self, bins: BinIndices, sizes: Sequence[int], answers: Floats) -> None:
        self._rows: list[BinIndices] = list(bins)
        self._answers = answers
        self._squares = float((answers**2).sum())
        self._components = [
            _Component((feature,), (np.arange(size, dtype=np.intp),), size) for feature, size in enumerate(sizes)
        ]
        self._effects = [np.zeros((len(answers), size)) for size in sizes]
        self.rest = answers.copy()
        self._fit()
        groups = [_group(row, size) for row, size in zip(bins, sizes, strict=True)]
        contrasts = [_contrasts(codes[row]) for codes, row in zip(groups, bins, strict=True)]
        self._alone = np.array([self._share_alone(contrast) for contrast in contrasts])
        shares, chance = _pair_shares(contrasts, self.rest, self._squares / bins.shape[1])
        self._of_pairs = shares.max(axis=0, initial=0.0) + _DEVIATIONS * chance
        least = max(_LEAST_PAIR, 1.5 * _DEVIATIONS * chance)
        order = np.argsort(-np.tril(shares), axis=None)[:_MOST_PAIRS]
        pairs = [divmod(int(index), len(groups)) for index in order]
        found = [
            _Component((a, b), (groups[a] * _GROUPS, groups[b]), _GROUPS**2) for a, b in pairs if shares[a, b] > least
        ]
        if found:
            self._components += found
            self._effects += [np.zeros((len(answers), pair.size)) for pair in found]
            self._fit()

    def _fit(self) -> None:
        """Continue to fit the effects of all components by backfitting; each is shrunk as far as chance explains it.

        Components without an effect are looked at in some of the rounds only.
        """
        count = self.rest.shape[1]
        before = float((self.rest**2).sum())
        for number in range(_ROUNDS):
            for index, component in enumerate(self._components):
                effect = self._effects[index]
                if number % _ALL_COMPONENTS and not effect.any():
                    continue
                cells = component.cells(self._rows)
                rows = np.bincount(cells, minlength=component.size).astype(np.float64)
                sums = np.array([np.bincount(cells, values, component.size) for values in self.rest]) + effect * rows
                half = shrinkage_rows(np.sqrt((sums**2).sum(axis=0)), rows, before / count)
                target = sums / (rows + half)
                target -= np.where(rows > 0, (target @ rows)[:, None] / count, 0.0)
                step = _STEP * (target - effect)
                if step.any():
                    self._effects[index] = effect + step
                    self.rest -= step[:, cells]
            after = float((self.rest**2).sum())
            if before - after < _CONVERGED * self._squares:
                break
            before = after

    def answers(self, rows: Sequence[BinIndices]) -> Floats:
        """Return the surrogate's answers, shape ``(C, n)``."""
        fitted = zip(self._components, self._effects, strict=True)
        return np.asarray(sum(effect[:, component.cells(rows)] for component, effect in fitted), dtype=np.float64)

    def shares(self) -> Floats:
        """Return half of the mean square by which answers change where a feature is exchanged, over their variance."""
        order = np.random.default_rng(0).permutation(len(self._rows[0]))
        changes = [0.0] * len(self._rows)
        for feature, row in enumerate(self._rows):
            exchanged = [*self._rows]
            exchanged[feature] = row[order]
            change = sum(
                effect[:, component.cells(exchanged)] - effect[:, component.cells(self._rows)]
                for component, effect in zip(self._components, self._effects, strict=True)
                if feature in component.features
            )
            changes[feature] = float((np.asarray(change) ** 2).sum())
        return np.array(changes) / (2 * self._squares)

    def upper_shares(self) -> Floats:
        """Return the most that each feature explains: alone, or in a pair, with what chance adds."""
        upper: Floats = np.maximum(self._alone, self._of_pairs)
        return upper

    def _share_alone(self, contrasts: npt.NDArray[np.float32]) -> float:
        """Return the share of the variance of the answers that a feature explains alone, and what chance adds."""
        count, degrees = len(contrasts), np.count_nonzero(contrasts.any(axis=0))
        explained = float(((self._answers.astype(np.float32) @ contrasts) ** 2).sum()) / count / self._squares
        return max(explained - degrees / count, 0.0) + _DEVIATIONS * float(np.sqrt(2 * degrees)) / count


def _group(bins: BinIndices, size: int) -> Ints:
    """Return the group of each bin: successive bins that hold about a quarter of the rows."""
    rows = np.bincount(bins, minlength=size)
    middle = (np.cumsum(rows) - rows / 2) / max(len(bins), 1)
    return np.minimum((middle * _GROUPS).astype(np.intp), _GROUPS - 1)


def _contrasts(groups: Ints) -> npt.NDArray[np.float32]:
    """Return numbers whose combinations are the differences of groups, shape ``(n, _GROUPS − 1)``.

    Over the rows, they have mean 0 and variance 1, and are uncorrelated. Where groups are empty, some are always 0.
    """
    rows = np.bincount(groups, minlength=_GROUPS)
    used = np.flatnonzero(rows)
    root = np.sqrt(rows[used] / max(len(groups), 1))
    basis, _ = np.linalg.qr(np.column_stack([root, np.diag(root)[:, 1:]]))
    codes = np.zeros((_GROUPS, _GROUPS - 1), dtype=np.float32)
    codes[used, : len(used) - 1] = basis[:, 1:] / root[:, None]
    return codes[groups]


def _pair_shares(contrasts: Sequence[npt.NDArray[np.float32]], rest: Floats, variance: float) -> tuple[Floats, float]:
    """Return which share of the variance of the answers each pair of features explains, of what remains of them.

    With many features, some of the rows are used.

    Parameters
    ----------
    contrasts
        Those of each feature, see `_contrasts`.
    rest
        What remains of the answers, shape ``(C, n)``.
    variance
        Variance of the answers.

    Returns
    -------
    tuple
        Shares, shape ``(T, T)``, and the standard deviation of a share by chance.
    """
    width = len(contrasts) * (_GROUPS - 1)
    step = int(np.ceil(rest.shape[1] * width**2 / _PAIR_COST))
    part = np.concatenate([contrast[::step] for contrast in contrasts], axis=1)
    remaining = rest[:, ::step].astype(np.float32)
    squares = np.square(part)
    scale = squares.T @ squares
    used = scale > _LEAST_SCALE * len(part)
    explained = sum(np.square((part * values[:, None]).T @ part) for values in remaining)
    chance = float(np.square(remaining).sum()) / len(part)
    excess = np.divide(explained, scale, out=np.zeros_like(scale), where=used) - chance * used
    blocks = (len(contrasts), _GROUPS - 1) * 2
    shares = excess.reshape(blocks).sum(axis=(1, 3), dtype=np.float64) / (len(part) * variance)
    np.fill_diagonal(shares, 0.0)
    return shares.clip(0), np.sqrt(2) * (_GROUPS - 1) * chance / (len(part) * variance)
