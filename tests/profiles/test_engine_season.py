"""Seasons of tables of engines: those of the file's profile, from counts by hour and bin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.seasons import training

from exporter.cli import main
from exporter.errors import ProfileError
from exporter.profiles.builder import build_file
from exporter.profiles.engines.build import build_table
from exporter.profiles.engines.connection import EngineTable, open_file, open_table
from exporter.profiles.options import Options
from exporter.profiles.profile import Profile

OPTIONS: dict[str, Any] = {"prediction_column": "price", "time_column": "at", "season": "day"}


def build(table: EngineTable, **options: Any) -> Profile:
    """The profile of a table, with the options of `Options`."""
    with table:
        return build_table(table, Options(**options), lambda *_: None).profile


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two weeks; some have no time. ``income``, ``meal`` and the price follow the hour of the day."""
    columns = training()
    rng = np.random.default_rng(1)
    columns |= {"price": 2 * columns["income"], "height": columns["age"] + rng.normal(size=len(columns["age"]))}
    columns["income"][:50] = np.nan
    columns["at"] = pa.array(columns["at"], mask=np.arange(len(columns["at"])) % 25 == 0)
    path = tmp_path_factory.mktemp("season") / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_table_has_the_season_of_the_file(rows):
    """The same features change with the hour; counts of categories are exact, those of numbers but for the edges."""
    expected = build_file(rows, **OPTIONS)
    found = build(open_file(rows), **OPTIONS)
    assert found.season
    assert expected.season
    assert [*found.season.targets] == [*expected.season.targets] == ["income", "meal", "(prediction)"]
    assert found.season.targets["meal"] == expected.season.targets["meal"]
    for name, values in expected.season.targets.items():
        counts, others = np.array(found.season.targets[name].counts), np.array(values.counts)
        assert (counts.sum(axis=1) == others.sum(axis=1)).all()
        assert abs(counts - others).sum(axis=0).max() <= 2 * 10_000 / 20 / 16 + 1
        assert found.season.targets[name].shifts == pytest.approx(values.shifts, abs=1e-4)
    assert found.correlation
    assert found.correlation.features == ("age", "height")
    assert found.blocks
    assert expected.blocks
    for name, scores in expected.blocks.targets.items():
        assert found.blocks.targets[name].dependent == scores.dependent
        assert np.allclose(found.blocks.targets[name].quantiles, scores.quantiles, rtol=0.2)
    assert found.blocks.targets["meal"] == expected.blocks.targets["meal"]


def test_postgresql_gives_the_same_season(rows, postgres):
    """Its own times, with an offset, are in the same hours; a period of a week begins on Monday."""
    url = postgres.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE seconds (meal text, price float8, at float8)")
        with connection.cursor().copy("COPY seconds FROM STDIN") as copy:
            for row in pq.read_table(rows, columns=["meal", "price", "at"]).to_pylist():
                copy.write_row([*row.values()])
        connection.execute("CREATE TABLE rows AS SELECT meal, price, to_timestamp(at) AS at FROM seconds")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET timezone = 'America/New_York'")
    expected = build(open_file(rows), **OPTIONS, ignore=["income", "age", "height"])
    found = build(open_table(url, "rows", None), **OPTIONS)
    assert found.season == expected.season
    with pytest.raises(ProfileError, match='rows: --season=week needs the rows of at least 4 weeks; the times in "at"'):
        build(open_table(url, "rows", None), **{**OPTIONS, "season": "week"})


def test_a_season_is_shown_and_needs_times(rows, tmp_path, capsys):
    """The command says what changes with the hour, and refuses times that are none."""
    pq.write_table(pa.table({"x": np.arange(300.0), "at": pa.nulls(300, pa.float64())}), tmp_path / "empty.parquet")
    arguments = ["--engine=duckdb", "--time-column=at", "--season=day", f"--output={tmp_path / 'p.json'}"]
    assert main(["profile", str(rows), "--ignore=age", "--ignore=height", "--ignore=price", *arguments]) == 0
    assert "(season)  income and meal change with the hour of the day" in capsys.readouterr().out
    assert main(["profile", str(tmp_path / "empty.parquet"), *arguments]) == 1
    assert 'at least 4 days; the times in "at" cannot be read' in capsys.readouterr().err
