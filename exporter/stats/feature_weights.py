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

from exporter.stats.divergence import BinIndices, Floats, Ints
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
_DEVIATIONS = 2.0  # of chance, in an upper bound
_PAIR_DEVIATIONS = 3.0
_LEAST_FIDELITY = 0.8
_OF_CLASSES = 2 / np.pi  # share of the variance of classes that a sum of effects explains, see `changed_share`
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
        shares, upper = changed_share(shares, fidelity), changed_share(upper, fidelity)
    follows = fidelity >= _LEAST_FIDELITY * (_OF_CLASSES if classes else 1)
    return FeatureWeights(
        shares.clip(0, 1), np.maximum(shares, upper).clip(0, 1) if follows else np.ones(len(bins)), max(fidelity, 0.0)
    )


def changed_share(shares: Floats, explained: float) -> Floats:
    """Return the share of classes that change if a part of the score is exchanged, relative to exchanging all of it.

    For two equally frequent classes, by whether a normal score is above its mean. If a part has a share ``v`` of the
    variance of the score, classes change ``2·arccos(1 − v)/π`` times as often as where the whole score is exchanged. A
    sum of effects explains ``2/π`` of the variance of such classes; where it explains more, so does each part.

    Parameters
    ----------
    shares
        Share of the variance of the classes that each part explains.
    explained
        Share that all parts explain.

    Examples
    --------
    >>> changed_share(np.array([0.0, 0.001, 0.01, 0.1, 2 / np.pi, 1.0]), 0.5).round(3).tolist()
    [0.0, 0.036, 0.113, 0.362, 1.0, 1.0]
    >>> changed_share(np.array([0.1]), 1.0).round(3).tolist()
    [0.287]
    """
    score = shares / max(explained, _OF_CLASSES)
    return np.asarray(2 / np.pi * np.arccos(1 - score.clip(0, 1)), dtype=np.float64)


class _Component:
    """The effect of a feature, or of a pair of features, on the answers.

    Parameters
    ----------
    features
        One or two features.
    codes
        For each of them, the code of each bin. Codes add up to the cell of a row.
    size
        Number of cells.
    rows
        Bins of the rows on which it is fitted, by feature.
    outputs
        Number of the answers' outputs ``C``.

    Attributes
    ----------
    effect
        What each cell adds, shape ``(C, size)``.
    """

    def __init__(
        self, features: Sequence[int], codes: Sequence[Ints], size: int, rows: Sequence[BinIndices], outputs: int
    ) -> None:
        self.features, self._codes = features, codes
        self.effect = np.zeros((outputs, size))
        self._cells = self.cells(rows)
        self._counts = np.bincount(self._cells, minlength=size).astype(np.float64)

    def cells(self, rows: Sequence[BinIndices]) -> Ints:
        """Return the cell of each row, by the bins of all features."""
        first, *others = (codes[rows[feature]] for feature, codes in zip(self.features, self._codes, strict=True))
        return first + others[0] if others else first

    def answers(self, rows: Sequence[BinIndices] | None = None) -> Floats:
        """Return what it adds to the answers of some rows, or of those on which it is fitted, shape ``(C, n)``."""
        return self.effect.take(self._cells if rows is None else self.cells(rows), axis=1)

    def fit(self, rest: Floats, variance: float) -> None:
        """Make a step towards the effect that explains most of the rest, shrunk as far as chance explains it.

        Parameters
        ----------
        rest
            What remains of the answers, shape ``(C, n)``; the step is subtracted from it.
        variance
            Its variance, summed over the outputs.
        """
        size, counts = len(self._counts), self._counts
        sums = np.array([np.bincount(self._cells, values, size) for values in rest]) + self.effect * counts
        target = sums / (counts + shrinkage_rows(np.sqrt((sums**2).sum(axis=0)), counts, variance))
        target -= np.where(counts > 0, (target @ counts)[:, None] / len(self._cells), 0.0)
        step = _STEP * (target - self.effect)
        if step.any():
            self.effect += step
            rest -= step.take(self._cells, axis=1)


class _Surrogate:
    """The sum of what features and pairs of features add, fitted to answers with mean 0; see `measure_weights`.

    Source: Y. Lou et al., *Accurate intelligible models with pairwise interactions*, KDD 2013. It is fitted in small
    steps, as by H. Nori et al., *InterpretML: a unified framework for machine learning interpretability*, 2019.
    """

    def __init__(self, bins: BinIndices, sizes: Sequence[int], answers: Floats) -> None:
        self._rows: list[BinIndices] = list(bins)
        self._answers, self._rest = answers, answers.copy()
        self._squares = float((answers**2).sum())
        outputs, count = answers.shape
        self._components = [
            _Component((feature,), (np.arange(size),), size, self._rows, outputs) for feature, size in enumerate(sizes)
        ]
        self._fit()
        groups = [_group(row, size) for row, size in zip(bins, sizes, strict=True)]
        contrasts = [_contrasts(codes[row]) for codes, row in zip(groups, bins, strict=True)]
        shares, chance = _pair_shares(contrasts, self._rest, self._squares / count)
        self._alone = np.array([self._share_alone(contrast) for contrast in contrasts])
        self._of_pairs = shares.max(axis=0, initial=0.0) + _DEVIATIONS * chance
        least = max(_LEAST_PAIR, _PAIR_DEVIATIONS * chance)
        order = np.argsort(-np.tril(shares), axis=None)[:_MOST_PAIRS]
        pairs = [(a, b) for a, b in (divmod(int(index), len(groups)) for index in order) if shares[a, b] > least]
        self._components += [
            _Component((a, b), (groups[a] * _GROUPS, groups[b]), _GROUPS**2, self._rows, outputs) for a, b in pairs
        ]
        if pairs:
            self._fit()

    def _fit(self) -> None:
        """Continue to fit the components by backfitting. Those without an effect have a turn in some rounds only."""
        before = float((self._rest**2).sum())
        for number in range(_ROUNDS):
            for component in self._components:
                if number % _ALL_COMPONENTS == 0 or component.effect.any():
                    component.fit(self._rest, before / self._rest.shape[1])
            after = float((self._rest**2).sum())
            if before - after < _CONVERGED * self._squares:
                break
            before = after

    def answers(self, rows: Sequence[BinIndices]) -> Floats:
        """Return the surrogate's answers, shape ``(C, n)``."""
        fitted: Floats = np.sum([component.answers(rows) for component in self._components], axis=0)
        return fitted

    def shares(self) -> Floats:
        """Return half of the mean square by which answers change where a feature is exchanged, over their variance."""
        order = np.random.default_rng(0).permutation(len(self._rows[0]))
        changes = np.zeros(len(self._rows))
        for feature, row in enumerate(self._rows):
            rows = [*self._rows]
            rows[feature] = row[order]
            components = [each for each in self._components if feature in each.features and each.effect.any()]
            change = sum(component.answers(rows) - component.answers() for component in components)
            changes[feature] = np.square(change).sum()
        return changes / (2 * self._squares)

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
    """Return the share of the answers' variance that each pair of features explains, from the residuals.

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
