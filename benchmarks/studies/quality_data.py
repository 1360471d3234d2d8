"""Data for the study of estimated quality: models, labelled rows and windows, and streams whose concept is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

Rng = np.random.Generator


class Case(NamedTuple):
    """A model's labelled reference rows, and windows of live rows with the labels that came later.

    Frames have the features, ``predicted``, ``label``, ``time``, and for a classifier ``positive``, the
    probability of the class 1, and ``sure``, the confidence.
    """

    name: str
    reference: pd.DataFrame
    windows: list[pd.DataFrame]

    @property
    def is_classifier(self) -> bool:
        return "sure" in self.reference


def predictions(model: object, features: pd.DataFrame, label: np.ndarray) -> pd.DataFrame:
    """Return the features with the model's predictions."""
    frame = features.reset_index(drop=True).copy()
    if isinstance(model, HistGradientBoostingClassifier):
        frame["positive"] = model.predict_proba(features)[:, 1]
        frame["predicted"] = (frame.positive > 0.5).astype(int)
        frame["sure"] = np.maximum(frame.positive, 1 - frame.positive)
    else:
        frame["predicted"] = model.predict(features)
    frame["label"], frame["time"] = np.asarray(label), np.arange(len(frame), dtype=float) + 1.7e9
    return frame


def fitted(features: pd.DataFrame, label: np.ndarray, classifier: bool) -> object:
    """Return a model fitted with few, small trees, which take seconds."""
    kind = HistGradientBoostingClassifier if classifier else HistGradientBoostingRegressor
    return kind(max_iter=60, max_leaf_nodes=15, random_state=0).fit(features, label)


def split(name: str, frame: pd.DataFrame, label: str, size: int, classifier: bool, shares=(0.25, 0.6)) -> Case:
    """Fit on the first rows of a frame in time, label the next, and cut the rest into windows of ``size`` rows."""
    first, second = (int(len(frame) * share) for share in shares)
    features = frame.drop(columns=label)
    target = frame[label].to_numpy()
    model = fitted(features[:first], target[:first], classifier)
    scored = predictions(model, features[first:], target[first:])
    reference, live = scored[: second - first], scored[second - first :]
    windows = [live[start : start + size] for start in range(0, len(live) - size + 1, size)]
    return Case(name, reference, windows)


# --- streams whose concept is known --------------------------------------------------------------


def tilted(rng: Rng, frame: pd.DataFrame, size: int, names: list[str]) -> pd.DataFrame:
    """Draw rows with weights that grow or fall with one feature, or with its distance from the median.

    Only the covariates move.
    """
    feature = frame[str(rng.choice(names))]
    rank = (feature if rng.random() < 0.5 else abs(feature - feature.median())).rank(pct=True).fillna(0.5).to_numpy()
    weight = np.exp(rng.uniform(-6, 6) * rank)
    return frame.iloc[rng.choice(len(frame), size, p=weight / weight.sum())]


def relabelled(rng: Rng, frame: pd.DataFrame, size: int) -> pd.DataFrame:
    """Draw rows with another share of the positive class: label shift."""
    share = rng.uniform(0.05, 0.95)
    positive = frame.label == 1
    weight = np.where(positive, share / positive.sum(), (1 - share) / (~positive).sum())
    return frame.iloc[rng.choice(len(frame), size, p=weight / weight.sum())]


def synthetic(rng: Rng, rows: int, classifier: bool, concept: float = 0.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Return inputs and labels; ``concept`` turns the relation between them."""
    x = pd.DataFrame(rng.normal(size=(rows, 6)), columns=list("abcdef"))
    score = 1.5 * np.cos(concept) * x.a + x.b * (x.c > 0) + 1.5 * np.sin(concept) * x.d
    if classifier:
        return x, (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    return x, (score + rng.normal(size=rows) * (0.3 + abs(x.e))).to_numpy()


def simulated(rng: Rng, count: int, size: int, kinds: Sequence[bool] = (True, False)) -> Iterator[Case]:
    """Yield streams with a covariate shift, a label shift and a concept change, of classifiers and regressions."""
    for classifier in kinds:
        kind = "classifier" if classifier else "regression"
        model = fitted(*synthetic(rng, 10_000, classifier), classifier)
        reference = predictions(model, *synthetic(rng, 10_000, classifier))
        pool = predictions(model, *synthetic(rng, 60_000, classifier))
        same = [pool.iloc[rng.choice(len(pool), size)] for _ in range(count)]
        yield Case(f"no change, {kind}", reference, same)
        yield Case(f"covariate shift, {kind}", reference, [tilted(rng, pool, size, ["a", "e"]) for _ in range(count)])
        if classifier:
            yield Case(f"label shift, {kind}", reference, [relabelled(rng, pool, size) for _ in range(count)])
        changes = np.linspace(0.2, 1.2, count)
        changed = [predictions(model, *synthetic(rng, size, classifier, change)) for change in changes]
        yield Case(f"concept change, {kind}", reference, changed)


def resampled(rng: Rng, case: Case, count: int, size: int) -> Case:
    """Return windows of a real data set in which only covariates move: its labelled rows in random order."""
    frame = pd.concat([case.reference, *case.windows])
    frame = frame.sample(min(len(frame), 40_000), random_state=int(rng.integers(2**31)))
    half = len(frame) // 2
    outputs = {"predicted", "positive", "sure", "label", "time"}
    reference = frame[:half].assign(time=np.nan)
    names = [name for name in frame if name not in outputs and frame[name].nunique() > 2]
    return Case(f"{case.name}, resampled", reference, [tilted(rng, frame[half:], size, names) for _ in range(count)])
