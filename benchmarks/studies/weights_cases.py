"""Models whose features' weights are known, for the study of weights: data, and models fitted to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import quality_real
from sklearn import datasets
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Rng = np.random.Generator


class Data(NamedTuple):
    """Features and what is predicted."""

    name: str
    features: pd.DataFrame
    label: np.ndarray
    is_classifier: bool


def simulated(rng: Rng, rows: int) -> Iterator[Data]:
    """Yield data whose features matter alone, together, hardly, or not at all."""

    def normal(count: int) -> pd.DataFrame:
        return pd.DataFrame(rng.normal(size=(rows, count)), columns=[f"x{i}" for i in range(count)])

    x = normal(10)
    yield Data("exclusive or", x, (x.x0 > 0).to_numpy() ^ (x.x1 > 0).to_numpy(), True)
    yield Data("product and line", x, (x.x0 + 1.5 * x.x1 * x.x2 + 0.3 * x.x3).to_numpy(), False)
    yield Data("parity of three", x, (x[["x0", "x1", "x2"]] > 0).sum(axis=1).to_numpy() % 2 == 1, True)
    features, label = datasets.make_friedman1(rows, 10, random_state=0)
    yield Data("Friedman 1", pd.DataFrame(features).add_prefix("x"), label, False)
    features, label = datasets.make_classification(
        rows, 20, n_informative=6, n_redundant=4, n_classes=4, random_state=1
    )
    yield Data("clusters", pd.DataFrame(features).add_prefix("x"), label, True)
    x = normal(12)
    for index in range(4):
        x[f"x{index + 4}"] = x[f"x{index}"] + 0.3 * x[f"x{index + 4}"]
    score = (2 * x.x0 + x.x1 + np.sin(2 * x.x2)).to_numpy()
    yield Data("correlated", x, score, False)
    yield Data("correlated", x, score > 1, True)
    x = normal(30)
    score = x.to_numpy() @ np.concatenate((2.0 ** -np.arange(12), np.zeros(18)))
    yield Data("halving weights", x, score, False)
    yield Data("halving weights", x, score + rng.normal(0, 0.3, rows) > 1, True)


def shipped() -> Iterator[Data]:
    """Yield the larger data sets that scikit-learn ships."""
    for name, load, is_classifier in (
        ("digits", datasets.load_digits, True),
        ("breast cancer", datasets.load_breast_cancer, True),
        ("diabetes", datasets.load_diabetes, False),
    ):
        data = load(as_frame=True)
        yield Data(name, data.data.astype(float), data.target.to_numpy(), is_classifier)


def real() -> Iterator[Data]:
    """Yield the data that packages ship, see `quality_real`; nothing without them."""
    outputs = {"predicted", "positive", "sure", "label", "time"}
    for case in quality_real.cases({**quality_real.REAL, **quality_real.HELD_OUT}):
        frame = pd.concat([case.reference, *case.windows]).reset_index(drop=True)
        features = frame[[column for column in frame if column not in outputs]].astype(float)
        yield Data(case.name, features, frame.label.to_numpy(), case.is_classifier)


def models(is_classifier: bool) -> Iterator[tuple[str, Any]]:
    """Yield models that are not fitted."""
    forest = RandomForestClassifier if is_classifier else RandomForestRegressor
    boosting = HistGradientBoostingClassifier if is_classifier else HistGradientBoostingRegressor
    network = MLPClassifier if is_classifier else MLPRegressor
    line: Any = LogisticRegression(max_iter=300) if is_classifier else LinearRegression()
    yield "forest", make_pipeline(SimpleImputer(), forest(60, min_samples_leaf=3, random_state=0))
    yield "boosting", boosting(max_iter=60, random_state=0)
    yield "linear", make_pipeline(SimpleImputer(), StandardScaler(), line)
    layers = network(hidden_layer_sizes=(32,), max_iter=40, random_state=0)
    yield "network", make_pipeline(SimpleImputer(), StandardScaler(), layers)
