"""Measure how much a model learns from the corrections that the review page puts first, compared with random ones.

``python benchmarks/review_order_study.py`` takes about 15 minutes and writes the table between the marks of
``docs/review.md``; ``--quick`` prints it from few repetitions. Data are those that scikit-learn ships. In each
repetition a first model is trained on some rows, users' corrections come from others, a reviewer decides them in some
order, a second model is trained on the first rows and the accepted corrections, and both are evaluated on rows that
nobody has seen. Vectors and order are the exporter's, in one ranking.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study_tables
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from exporter.features.similarity import InputEncoder
from exporter.stats.review_order import informative_order

PAGE = Path(__file__).parents[1] / "docs" / "review.md"
INFORMATIVE, RANDOM = 200, 300
Rng = np.random.Generator


class Data(NamedTuple):
    """Rows of the first training, of users' predictions, and of the evaluation, each with their labels.

    ``readable`` is false for predictions whose label no reviewer can tell.
    """

    first: np.ndarray
    first_labels: np.ndarray
    live: np.ndarray
    live_labels: np.ndarray
    readable: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Case(NamedTuple):
    """Data of a repetition, whether only mistakes are corrected, and by how much the two numbers of labels shrink."""

    name: str
    draw: Callable[[Rng], Data]
    mistakes: bool
    shrink: int = 1


def split(rows: np.ndarray, labels: np.ndarray, first: int, test: int, rng: Rng) -> Data:
    """Split rows at random."""
    seed = int(rng.integers(2**31))
    one, rest, one_labels, rest_labels = train_test_split(
        rows, labels, train_size=first, random_state=seed, stratify=labels
    )
    live, last, live_labels, last_labels = train_test_split(rest, rest_labels, test_size=test, random_state=seed)
    return Data(one, one_labels, live, live_labels, np.ones(len(live), bool), last, last_labels)


def digits(first: int, test: int, rng: Rng) -> Data:
    """Return the digits as in the demo, grey values from 0 to 16."""
    rows, labels = load_digits(return_X_y=True)
    return split(rows, labels, first, test, rng)


def dark(data: Data) -> Data:
    """Let the camera go dark after the first training, as in the demo."""
    light = np.repeat(np.where(np.arange(8) < 4, 1.0, 0.1), 8)
    return data._replace(live=np.round(data.live * light), test=np.round(data.test * light))


def repeated(data: Data, count: int, rng: Rng) -> Data:
    """Let users send some images much more often than others."""
    weights = 1 / np.arange(1, len(data.live) + 1)
    index = rng.choice(len(data.live), count, p=rng.permutation(weights) / weights.sum())
    return data._replace(live=data.live[index], live_labels=data.live_labels[index], readable=data.readable[index])


def spoilt(data: Data, rng: Rng) -> Data:
    """Replace a tenth of the images by noise, which no reviewer can label."""
    noise = rng.random(len(data.live)) < 0.1
    live = data.live.copy()
    live[noise] = rng.integers(0, 17, (int(noise.sum()), live.shape[1]))
    return data._replace(live=live, readable=~noise)


CASES = (
    Case("dark digits, corrections", lambda rng: dark(digits(700, 400, rng)), True),
    Case(
        "dark digits, corrections, some images often",
        lambda rng: repeated(dark(digits(700, 400, rng)), 5000, rng),
        True,
    ),
    Case("dark digits, corrections, a tenth unreadable", lambda rng: spoilt(dark(digits(700, 400, rng)), rng), True),
    Case("digits, samples after a small first training", lambda rng: digits(150, 600, rng), False),
    Case("the same, some images often", lambda rng: repeated(digits(150, 600, rng), 3000, rng), False),
    Case("the same, a tenth unreadable", lambda rng: spoilt(digits(150, 600, rng), rng), False),
    Case(
        "breast cancer, samples, a tenth of the labels",
        lambda rng: split(*load_breast_cancer(return_X_y=True), 20, 250, rng),
        False,
        10,
    ),
)


def model() -> Any:
    """Return the demo's classifier."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def as_inputs(row: np.ndarray) -> dict[str, Any]:
    """Return a row as a client sends it: an image, or numbers."""
    if len(row) == 64:
        return {"image": row.reshape(8, 8).tolist()}
    return {f"f{index}": value for index, value in enumerate(row.tolist())}


def orders(data: Data, pool: np.ndarray, fitted: Any, case: Case, rng: Rng) -> dict[str, np.ndarray]:
    """Return the rows that a reviewer decides by the name of the order."""
    scores = fitted.predict_proba(data.live[pool])
    doubt = 1.01 - scores.max(1)
    few, many = INFORMATIVE // case.shrink, RANDOM // case.shrink
    shuffled = rng.permutation(pool)
    inputs = [as_inputs(row) for row in data.live[pool]]
    encoder = InputEncoder(inputs[:1000], {})
    vectors = encoder.encode(inputs)
    kinds = np.unique(np.column_stack([scores.argmax(1), data.live_labels[pool]]), axis=0, return_inverse=True)[1]
    chosen = informative_order(vectors, doubt, kinds.ravel(), vectors[:0], few)
    return {
        "random": shuffled[:many],
        "fewer random": shuffled[:few],
        "confident": pool[np.argsort(doubt, kind="stable")[:few]],
        "unsure": pool[np.argsort(-doubt, kind="stable")[:few]],
        "informative": pool[[row for row, _ in chosen]],
    }


def accuracies(case: Case, seed: int) -> dict[str, float]:
    """Return the accuracy of the second model by the order of the review, and of the first model."""
    rng = np.random.default_rng(seed)
    data = case.draw(rng)
    fitted = model().fit(data.first, data.first_labels)
    wrong = fitted.predict(data.live) != data.live_labels
    pool = rng.permutation(np.flatnonzero(wrong) if case.mistakes else np.arange(len(data.live)))
    result = {"before": float((fitted.predict(data.test) == data.test_labels).mean()), "pool": float(len(pool))}
    for name, rows in orders(data, pool, fitted, case, rng).items():
        accepted = rows[data.readable[rows]]
        accepted = accepted[np.unique(data.live[accepted], axis=0, return_index=True)[1]]  # as the demo trains
        second = model().fit(
            np.concatenate([data.first, data.live[accepted]]),
            np.concatenate([data.first_labels, data.live_labels[accepted]]),
        )
        result[name] = float((second.predict(data.test) == data.test_labels).mean())
    return result


def line(case: Case, repetitions: int) -> str:
    """Return a row of the table."""
    runs = [accuracies(case, seed) for seed in range(repetitions)]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    gains = np.array([run["informative"] - run["random"] for run in runs]) * 100
    half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    cells = [case.name, f"{mean['pool']:,.0f}"]
    cells += [
        f"{100 * mean[name]:.1f}%"
        for name in ("before", "fewer random", "random", "confident", "unsure", "informative")
    ]
    return f"| {' | '.join(cells)} | {gains.mean():+.1f} ({gains.mean() - half:+.1f} to {gains.mean() + half:+.1f}) |"


def main() -> None:
    """Print the table, and write it into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="print the table from 5 repetitions")
    parser.add_argument("--repetitions", type=int, default=50)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    few, many = INFORMATIVE, RANDOM
    lines = [
        f"| corrections | pending | before | {few} at random | {many} at random | {few} most confident | "
        f"{few} least confident | {few} most informative | gain over {many} at random |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in CASES:
        lines.append(line(case, 5 if options.quick else options.repetitions))
        print(lines[-1], flush=True)
    if not options.quick:
        study_tables.write(PAGE, {"review order": "\n".join(lines)})


if __name__ == "__main__":
    main()
