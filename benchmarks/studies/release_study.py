"""Measure whether a model that is trained on a release gets better on later rows, or worse.

``python benchmarks/studies/release_study.py`` takes about four minutes and prints the table. Data are those that
scikit-learn ships. A first model learns from a few earlier rows and predicts the traffic. Users correct half of its
mistakes, confirm a fifth of its right predictions, and confirm one of ten mistakes that they do not correct; one
prediction in twenty gets ground truth. In every second table, 15% of the labels are those of other rows, as where
outcomes are uncertain: a mistake is then often noise, not news. The second model learns from the earlier rows together
with a release, and both are judged on later rows.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CORRECTED, CONFIRMED, CONFIRMED_WRONG, LABELLED = 0.5, 0.2, 0.1, 0.05
NOISE = (0.0, 0.15)
REPETITIONS = 30
SETS = {  # how many rows are earlier ones; a third of the others are later ones
    "digits": (load_digits, (60, 120, 250)),
    "breast cancer": (load_breast_cancer, (30, 60, 120)),
    "wine": (load_wine, (20, 40)),
}
MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "random forest": lambda: RandomForestClassifier(60, random_state=0),
}
COLUMNS = ("earlier rows", "corrections", "release", "release, no weights", "release, weights not scaled")


def fit(make: Callable[[], Any], rows: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    """Train a model with weights."""
    model = make()
    name = f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"
    return model.fit(rows, labels, **{name: weights})


def accuracies(
    rows: np.ndarray, labels: np.ndarray, earlier: int, make: Callable[[], Any], rng: np.random.Generator, noise: float
) -> Iterator[float]:
    """Yield the accuracy of each of `COLUMNS` on later rows."""
    labels = np.where(rng.random(len(labels)) < noise, rng.permutation(labels), labels)
    order = rng.permutation(len(rows))
    known, traffic = order[:earlier], order[earlier : earlier + (len(rows) - earlier) * 2 // 3]
    later = order[earlier + len(traffic) :]
    first = fit(make, rows[known], labels[known], np.ones(earlier))
    predicted = first.predict(rows[traffic])
    right = predicted == labels[traffic]
    corrected = ~right & (rng.random(len(traffic)) < CORRECTED)
    confirmed = rng.random(len(traffic)) < np.where(right, CONFIRMED, CONFIRMED_WRONG)
    labelled = ~corrected & (rng.random(len(traffic)) < LABELLED)
    confirmed &= ~corrected & ~labelled
    others = confirmed | labelled
    released = np.where(confirmed, predicted, labels[traffic])
    weight = np.where(corrected, 1.0, (len(traffic) - corrected.sum()) / max(others.sum(), 1))
    chosen = corrected | others
    ones = np.ones(len(traffic))
    variants = (
        (np.zeros_like(corrected), ones),
        (corrected, ones),
        (chosen, weight / weight[chosen].mean() if chosen.any() else ones),
        (chosen, ones),
        (chosen, weight),
    )
    for used, weights in variants:
        model = fit(
            make,
            np.concatenate([rows[known], rows[traffic][used]]),
            np.concatenate([labels[known], released[used]]),
            np.concatenate([np.ones(earlier), weights[used]]),
        )
        yield float((model.predict(rows[later]) == labels[later]).mean())


def main() -> None:
    """Print the mean accuracy of each variant, and its difference to earlier rows alone with the standard error."""
    warnings.simplefilter("ignore")
    print(f"| data, noise, earlier rows, model | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for (name, (load, sizes)), noise in itertools.product(SETS.items(), NOISE):
        rows, labels = load(return_X_y=True)
        for earlier in sizes:
            for model, make in MODELS.items():
                rng = np.random.default_rng(earlier)
                found = (
                    np.array([[*accuracies(rows, labels, earlier, make, rng, noise)] for _ in range(REPETITIONS)]) * 100
                )
                gain = found - found[:, :1]
                error = gain.std(axis=0, ddof=1) / REPETITIONS**0.5
                cells = [f"{found[:, 0].mean():.1f}%"]
                cells += [f"{mean:+.2f} ± {spread:.2f}" for mean, spread in zip(gain.mean(axis=0), error, strict=True)][
                    1:
                ]
                print(f"| {name}, noise {noise:.0%}, {earlier}, {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
