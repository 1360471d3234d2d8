"""Profiles of data that are read in parts, each by a state of its own, as the partitions of a cluster are."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from exporter.profiles.builder import Options, build
from exporter.profiles.profile import Profile
from exporter.profiles.sources import Batch, Source, take
from exporter.profiles.sources.files import FileSource

ROWS = 20_011
OUTPUTS = {"prediction_column": "predicted", "confidence_column": "sure", "label_column": "label"}


class InParts(Source):
    """The rows of a file in parts that are not of equal size, each cut into batches of its own."""

    def __init__(self, path: Path, parts: int, batch: int) -> None:
        self._file = FileSource(path)
        self.where, self.name, self._parts, self._batch = self._file.where, self._file.name, parts, batch

    def columns(self) -> dict[str, bool]:
        found = dict(self._file.columns())
        self.rows = self._file.rows
        return found

    def run(self, state: Any, title: str, names: Any, progress: Any) -> Any:
        (whole,) = _joined(self._file.batches(names))
        packed = pickle.dumps(state)
        cuts = [0, *np.sort(np.random.default_rng(1).integers(1, whole.rows, self._parts - 1)).tolist(), whole.rows]
        states = []
        for start, stop in itertools.pairwise(cuts):
            one = pickle.loads(packed)
            for first in range(start, stop, self._batch):
                rows = np.arange(first, min(first + self._batch, stop))
                one.add(Batch({n: take(v, rows) for n, v in whole.columns.items()}, len(rows), 0.0), first)
            states.append(pickle.loads(pickle.dumps(one)))
        merged, *later = states
        for one in later:
            merged.merge(one)
        progress(title, 1.0, whole.rows)
        return merged


def _joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    parts = list(batches)
    columns = {
        name: np.concatenate([part.columns[name] for part in parts])
        if isinstance(values, np.ndarray)
        else [value for part in parts for value in part.columns[name]]
        for name, values in parts[0].columns.items()
    }
    yield Batch(columns, sum(part.rows for part in parts), 1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dependent numbers, codes, texts, times, and a classifier's outputs with labels."""
    rng = np.random.default_rng(0)
    walk = np.convolve(rng.normal(size=ROWS + 40), np.ones(40), "valid")[:ROWS]
    sure = rng.uniform(0.5, 1, ROWS)
    right = rng.random(ROWS) < sure - np.where(walk > 3, 0.3, 0)
    words = np.array(["the red fox", "a blue hen sings", "seven grey cats are here", "no"])
    columns = {
        "walk": walk,
        "income": np.where(rng.random(ROWS) < 0.1, np.nan, rng.lognormal(size=ROWS)),
        "related": walk + rng.normal(size=ROWS),
        "rooms": rng.integers(0, 7, ROWS),
        "code": [f"c{number}" for number in rng.geometric(0.1, ROWS)],
        "review": [" ".join(rng.choice(words, 3)) for _ in range(ROWS)],
        "at": np.arange(ROWS) * 60.0 + 1.7e9,
        "predicted": np.where(walk > 0, "yes", "no"),
        "sure": sure,
        "label": np.where((walk > 0) == right, "yes", "no"),
    }
    found = tmp_path_factory.mktemp("parts") / "training.parquet"
    parquet.write_table(pa.table(columns), found)
    return found


@pytest.mark.parametrize("exact", [10**9, 10_000], ids=["exact", "sampled"])
@pytest.mark.parametrize("time_column", [None, "at"])
def test_parts_give_the_profile_of_the_whole(path: Path, exact: int, time_column: str | None) -> None:
    """All statistics are equal to the last digit, however the rows are divided into parts and batches."""
    options = Options(time_column=time_column, ignore=() if time_column else ("at",), exact=exact, **OUTPUTS)
    profiles: list[Profile] = [build(InParts(path, parts, batch), options) for parts, batch in ((1, 9999), (9, 777))]
    assert profiles[0] == profiles[1]
    (one, _) = profiles
    assert one.blocks.sizes
    assert one.blocks.targets["walk"].dependent
    assert one.blocks.correlation
    assert one.quality.residuals
    if exact > ROWS:
        assert one == build(FileSource(path), options)


def test_parts_that_are_not_in_the_order_of_time_are_sorted(path: Path, tmp_path: Path) -> None:
    """Rows whose times go back between two parts are sorted as a whole."""
    table = parquet.read_table(path)
    parquet.write_table(pa.concat_tables([table.slice(9000), table.slice(0, 9000)]), tmp_path / "turned.parquet")
    options = Options(time_column="at", **OUTPUTS)
    turned = build(InParts(tmp_path / "turned.parquet", 5, 1000), options)
    assert turned.blocks.targets == build(FileSource(path), options).blocks.targets
