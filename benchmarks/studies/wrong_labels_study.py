"""Measure how many planted wrong labels are found, and how many labels that are found are wrong.

``python benchmarks/studies/wrong_labels_study.py`` takes about 5 minutes and writes the table between the marks of
``docs/studies/review.md``; ``--quick`` prints it from few repetitions. Data are those that scikit-learn ships. The
first column is what the exporter finds, the other one what cleanlab finds with a cross-validated logistic regression,
which needs ``cleanlab``. It can be installed into a folder of its own: ``pip install --no-deps --target FOLDER
cleanlab==2.9.0 termcolor tqdm``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study_tables
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from exporter.features.similarity import InputEncoder, unlike_neighbours

PAGE = Path(__file__).parents[2] / "docs" / "studies" / "review.md"
SHARE = 0.05
Rng = np.random.Generator


class Labelled(NamedTuple):
    """Rows with their labels, which of them are wrong, and which are checked: the others are compared with."""

    rows: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    checked: np.ndarray


def uniform(labels: np.ndarray, classes: int, rng: Rng) -> np.ndarray:
    """Return another class at random for each label."""
    return (labels + rng.integers(1, classes, len(labels))) % classes


def next_class(labels: np.ndarray, classes: int, _: Rng) -> np.ndarray:
    """Return the class after that of each label: all wrong labels of a class are the same."""
    return (labels + 1) % classes


def planted(
    load: Callable[..., tuple[np.ndarray, np.ndarray]], change: Callable[..., np.ndarray], rng: Rng
) -> Labelled:
    """Return a data set in which `SHARE` of the labels are wrong."""
    rows, labels = load(return_X_y=True)
    wrong = rng.permutation(len(rows)) < round(SHARE * len(rows))
    return Labelled(
        rows, np.where(wrong, change(labels, labels.max() + 1, rng), labels), wrong, np.ones(len(rows), bool)
    )


def corrections(rng: Rng) -> Labelled:
    """Return the corrections of a model of digits whose camera went dark, and what users confirmed.

    Of the corrections, `SHARE` are of predictions that were right; half of the other right predictions are confirmed.
    """
    rows, classes = load_digits(return_X_y=True)
    first, live, first_labels, live_labels = train_test_split(
        rows, classes, train_size=700, test_size=897, random_state=int(rng.integers(2**31)), stratify=classes
    )
    live = np.round(live * np.repeat(np.where(np.arange(8) < 4, 1.0, 0.1), 8))
    predicted = model().fit(first, first_labels).predict(live)
    right = predicted == live_labels
    mistakes, rest = np.flatnonzero(~right), rng.permutation(np.flatnonzero(right))
    number = round(SHARE / (1 - SHARE) * len(mistakes))
    wrong, confirmed = rest[:number], rest[number : number + len(rest) // 2]
    labels = np.concatenate([live_labels[mistakes], uniform(predicted[wrong], 10, rng), predicted[confirmed]])
    part = np.repeat([0, 1, 2], [len(mistakes), number, len(confirmed)])
    return Labelled(live[np.concatenate([mistakes, wrong, confirmed])], labels, part == 1, part < 2)


CASES: dict[str, Callable[[Rng], Labelled]] = {
    "digits, at random": lambda rng: planted(load_digits, uniform, rng),
    "digits, by class": lambda rng: planted(load_digits, next_class, rng),
    "breast cancer": lambda rng: planted(load_breast_cancer, uniform, rng),
    "breast cancer, two features": lambda rng: planted(two_features, uniform, rng),
    "wine, at random": lambda rng: planted(load_wine, uniform, rng),
    "wine, by class": lambda rng: planted(load_wine, next_class, rng),
    "iris, at random": lambda rng: planted(load_iris, uniform, rng),
    "iris, by class": lambda rng: planted(load_iris, next_class, rng),
    "corrections of dark digits": corrections,
}


def two_features(*, return_X_y: bool) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803 (as scikit-learn has it)
    """Return breast cancer with the mean radius and the mean texture alone."""
    rows, labels = load_breast_cancer(return_X_y=return_X_y)
    return rows[:, :2], labels


def model() -> Any:
    """Return the demo's classifier."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def as_inputs(row: np.ndarray) -> dict[str, Any]:
    """Return a row as a client sends it: an image, or numbers."""
    if len(row) == 64:
        return {"image": row.reshape(8, 8).tolist()}
    return {f"f{index}": value for index, value in enumerate(row.tolist())}


def methods(data: Labelled) -> Iterator[tuple[str, Iterable[int]]]:
    """Yield the name of each method and the rows that it finds."""
    inputs = [as_inputs(row) for row in data.rows]
    vectors = InputEncoder(inputs[:1000], {}).encode(inputs)
    yield "exporter", unlike_neighbours(vectors, data.labels, int(data.labels.max()) + 1).rows
    with contextlib.suppress(ImportError):
        from cleanlab.filter import find_label_issues

        scores = cross_val_predict(model(), data.rows, data.labels, cv=5, method="predict_proba")
        yield "cleanlab", np.flatnonzero(find_label_issues(data.labels, scores, n_jobs=1))


def measured(case: Callable[[Rng], Labelled], repetitions: int) -> tuple[int, dict[str, tuple[float, float]]]:
    """Return the number of labels that are checked, and the mean recall and precision by method."""
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(repetitions):
        data = case(np.random.default_rng(seed))
        for name, rows in methods(data):
            found = np.zeros(len(data.rows), bool)
            found[np.asarray(rows, np.intp)] = True
            found &= data.checked
            hits = float((found & data.wrong).sum())
            results.setdefault(name, []).append((hits / data.wrong.sum(), hits / found.sum() if found.any() else 1.0))
    means = {name: np.mean(values, axis=0) for name, values in results.items()}
    return int(data.checked.sum()), {name: (float(recall), float(right)) for name, (recall, right) in means.items()}


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Yield the table."""
    warnings.filterwarnings("ignore")
    body = []
    for name, case in CASES.items():
        number, results = measured(case, 3 if quick else 20)
        cells = [study_tables.percents(results[method], 0) + "%" for method in results]
        body.append([name, study_tables.number(number), *cells, *["–"] * (2 - len(cells))])
    head = ["labels", "number", "found · right", "cleanlab, logistic regression"]
    yield "wrong labels", study_tables.table(head, body)


if __name__ == "__main__":
    study_tables.run(__doc__, PAGE, tables)
