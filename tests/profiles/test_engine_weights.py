"""Weights of the features in tables of engines, compared with those of the file's profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporter.profiles.builder import build_file
from exporter.profiles.engines.build import build_table
from exporter.profiles.engines.connection import EngineTable, open_file, open_table
from exporter.profiles.options import Options
from exporter.profiles.profile import Profile

ROWS = 4_000
OUTPUT = {"prediction_column": "predicted"}


def build(table: EngineTable) -> Profile:
    """The profile of a table of predictions."""
    with table:
        return build_table(table, Options(**OUTPUT), lambda *_: None).profile


def weights(profile: Profile) -> dict[str, float]:
    """The weight of each feature."""
    assert profile.weights
    return {name: feature.weight for name, feature in profile.weights.features.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions that depend on ``used`` and ``country``, but not on ``idle``; some rows have none."""
    rng = np.random.default_rng(0)
    used, idle = rng.normal(size=(2, ROWS))
    country = rng.choice(["NL", "DE", "FR"], ROWS)
    predicted = pa.array(used + (country == "DE"), mask=np.arange(ROWS) % 50 == 0)
    path = tmp_path_factory.mktemp("weights") / "rows.parquet"
    pq.write_table(pa.table({"used": used, "idle": idle, "country": country, "predicted": predicted}), path)
    return path


def test_a_table_has_the_weights_of_the_file(rows, postgres):
    """All rows of a small table are read, but in another order, which changes weights by 0.02 at random."""
    expected = build_file(rows, **OUTPUT)
    found = build(open_file(rows))
    assert expected.weights
    assert found.weights
    assert found.weights.rows == expected.weights.rows == ROWS * 49 // 50
    assert weights(found) == pytest.approx(weights(expected), abs=0.06)
    assert found.weights.fidelity == pytest.approx(expected.weights.fidelity, abs=0.06)
    assert found.weights.features["idle"].is_hardly_used
    with psycopg.connect(url := postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE rows (used float8, idle float8, country text, predicted float8)")
        with connection.cursor().copy("COPY rows FROM STDIN") as copy:
            for row in pq.read_table(rows).to_pylist():
                copy.write_row([*row.values()])
        other = build(open_table(url, "rows", None))
    assert weights(other) == pytest.approx(weights(expected), abs=0.06)


@pytest.mark.parametrize("repeated", [1, 4])
def test_a_large_table_is_learned_from_some_rows(rows, tmp_path, monkeypatch, repeated):
    """As many rows are read as from a file, also where most rows are equal, and the same each time."""
    monkeypatch.setattr("exporter.profiles.weights_builder._ROWS", 2000)
    pq.write_table(pa.concat_tables([pq.read_table(rows)] * repeated), tmp_path / "rows.parquet")
    found = build(open_file(tmp_path / "rows.parquet"))
    assert found.weights
    assert 1850 < found.weights.rows < 2100
    assert weights(found) == pytest.approx(weights(build_file(rows, **OUTPUT)), abs=0.06)
    assert build(open_file(tmp_path / "rows.parquet")).weights == found.weights
