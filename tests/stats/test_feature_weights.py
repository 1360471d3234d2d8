from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from exporter.stats.feature_weights import FeatureWeights, measure_weights

ROWS = 16_000
BINS = 20


def binned(values: np.ndarray) -> np.ndarray:
    """Equal-frequency bins of each row of values."""
    ranks = values.argsort(axis=1).argsort(axis=1)
    return (ranks * BINS // values.shape[1]).astype(np.int8)


def measured(values: np.ndarray, answer: np.ndarray) -> FeatureWeights:
    """Weights of a regression (numbers, by their ranks), or of a classifier of two classes (booleans)."""
    if answer.dtype == bool:
        return measure_weights(binned(values), [BINS] * len(values), answer[None].astype(float), classes=True)
    ranks = (answer.argsort().argsort() / len(answer))[None]
    return measure_weights(binned(values), [BINS] * len(values), ranks, classes=False)


def exchanged(model: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Weights by the model itself: what exchanging a feature changes, over what exchanging all of them does."""
    rng = np.random.default_rng(1)
    answer = model(values).astype(float)
    others = answer[rng.permutation(len(answer))]
    result = []
    for feature in range(len(values)):
        changed = values.copy()
        changed[feature] = rng.permutation(changed[feature])
        result.append(((model(changed) - answer) ** 2).mean() / ((others - answer) ** 2).mean())
    return np.array(result)


def test_the_weights_are_those_that_the_model_itself_gives() -> None:
    """A sum of a curve, a line and a step."""

    def model(x: np.ndarray) -> np.ndarray:
        return np.sin(2 * x[0]) + 0.5 * x[1] + 0.7 * (x[2] > 1)

    values = np.random.default_rng(0).normal(size=(6, ROWS))
    found = measured(values, model(values))
    assert found.weights == pytest.approx(exchanged(model, values), abs=0.05)
    assert found.fidelity > 0.9
    assert (found.upper[3:] < 0.01).all()
    assert (found.upper >= found.weights).all()


def test_the_weight_in_a_class_is_how_often_the_class_changes() -> None:
    """What decides 1 % of the variance of a score changes 9 % of the classes that the whole score changes."""

    def model(x: np.ndarray) -> np.ndarray:
        return x[0] + 0.8 * x[1] + 0.6 * x[2] + 0.15 * x[3] > 0

    values = np.random.default_rng(0).normal(size=(5, ROWS))
    found = measured(values, model(values))
    assert found.weights == pytest.approx(exchanged(model, values), abs=0.05)
    assert found.weights[3] > 0.05
    assert (found.upper[4:] < 0.05).all()


@pytest.mark.parametrize("classes", [True, False])
def test_a_feature_that_matters_only_together_with_another_one_is_found(classes: bool) -> None:
    """Exclusive or: neither feature alone tells anything of the answer."""

    def model(x: np.ndarray) -> np.ndarray:
        return (x[0] > 0) ^ (x[1] > 0) if classes else np.tanh(4 * x[0] * x[1])

    values = np.random.default_rng(0).normal(size=(8, ROWS))
    found = measured(values, model(values))
    assert (found.weights[:2] > 0.8).all()
    assert (found.upper[2:] < 0.06).all()


def test_nothing_is_ruled_out_where_the_surrogate_does_not_follow_the_model() -> None:
    """Three features that matter only together: no sum of pairs explains the answers."""
    values = np.random.default_rng(0).normal(size=(6, ROWS))
    found = measured(values, (values[:3] > 0).sum(axis=0) % 2 == 1)
    assert found.fidelity < 0.05
    assert (found.upper == 1).all()


def test_of_features_that_are_the_same_none_is_ruled_out() -> None:
    """Both have a weight, whichever the model uses."""
    values = np.random.default_rng(0).normal(size=(4, ROWS))
    values[1] = values[0]
    found = measured(values, values[0] + 0.3 * values[2])
    assert (found.weights[:2] > 0.1).all()
    assert (found.upper[:2] > 0.8).all()
    assert found.upper[3] < 0.01


def test_few_rows_rule_nothing_out() -> None:
    """Chance hides a weight of some percent in 300 rows."""
    values = np.random.default_rng(0).normal(size=(3, 300))
    assert measured(values, values[0] + 0.0).upper[1:].min() > 0.01
    assert measured(values, values[0] > 0).upper[1:].min() > 0.1


def test_many_classes_and_empty_bins() -> None:
    """Answers of four classes; a constant feature, and one with bins that no row is in."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, ROWS))
    bins = binned(values)
    bins[2] = 7
    classes = bins[0] // 5
    answers = (classes == np.arange(4)[:, None]).astype(float)
    found = measure_weights(bins, [BINS, BINS + 9, BINS], answers, classes=True)
    assert found.weights == pytest.approx([1, 0, 0], abs=0.02)
    assert found.fidelity > 0.99
    assert found.upper[2] < 0.05
