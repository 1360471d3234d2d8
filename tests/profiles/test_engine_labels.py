"""Labels in tables of engines: the quality of the file's profile, from aggregates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
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
from exporter.profiles.quality_record import Quality
from exporter.profiles.training_warnings import Columns, warnings

ROWS = 3_000
CLASSIFIER = {"prediction_column": "class", "confidence_column": "sure", "label_column": "truth", "time_column": "at"}
REGRESSION = {"prediction_column": "amount", "label_column": "paid", "time_column": "at"}


def build(table: EngineTable, **options: Any) -> Profile:
    """The profile of a table, with the options of `Options`."""
    with table:
        return build_table(table, Options(**options), lambda *_: None).profile


def quality_of(table: EngineTable, **options: Any) -> Quality:
    """The quality in the profile of a table."""
    found = build(table, **options).quality
    assert found
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of a class and of an amount. Their quality depends on ``kind``, ``level`` and the time."""
    rng = np.random.default_rng(4)
    kind, level, at = rng.choice(["a", "b", "c"], ROWS), rng.integers(0, 4, ROWS), rng.permutation(ROWS)
    sure = np.where(rng.random(ROWS) < 0.1, np.nan, rng.random(ROWS))
    right = rng.random(ROWS) < 0.4 + 0.4 * np.nan_to_num(sure) + 0.2 * (kind == "a") - 0.2 * (at > ROWS / 2)
    classes = rng.integers(0, 3, ROWS)
    truth = [None if n % 20 == 0 else str(v) for n, v in enumerate(np.where(right, classes, 3 - classes))]
    amount = rng.normal(size=ROWS)
    error = rng.normal(size=ROWS) * (0.5 + (kind == "a") + level) * (1 + at / ROWS)
    error[0] = 1e100
    columns = {"kind": kind, "level": level, "class": classes, "sure": sure, "truth": pa.array(truth)}
    columns |= {"amount": amount, "paid": amount + np.where(at % 30 == 0, np.nan, error), "at": at + 1.7e9}
    path = tmp_path_factory.mktemp("labels") / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def near(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether effects are those of the same targets, with the same values where bins are the same."""
    assert [*found] == [*expected]
    return all(
        np.allclose(found[name].rows, effect.rows)
        and np.allclose(found[name].values, effect.values, atol=1e-5)
        and np.allclose(found[name].variances, effect.variances, atol=1e-4)
        for name, effect in expected.items()
    )


def test_a_classifier_has_the_quality_of_the_file(rows):
    """Counts are exact but for the edges of bins; the features that go with the rest are those of the file."""
    expected = build_file(rows, **CLASSIFIER).quality
    found = quality_of(open_file(rows), **CLASSIFIER)
    assert expected
    assert (found.kind, found.rows, found.overall, found.unusable, found.sampled) == (
        "accuracy",
        2850,
        expected.overall,
        0,
        2850,
    )
    assert (found.calibrated_rows, found.calibrated_right) == (expected.calibrated_rows, expected.calibrated_right)
    assert np.abs(np.subtract(found.calibration_right, expected.calibration_right)).max() < 2 * ROWS / 20 / 16
    assert {"kind"} <= {*found.residuals} == {*expected.residuals}
    assert found.residuals["kind"].values == pytest.approx(expected.residuals["kind"].values, abs=1e-3)
    assert found.between_periods == pytest.approx(expected.between_periods, rel=0.02)
    assert found.between_periods > 0.005


def test_a_regression_has_the_quality_of_the_file(rows):
    """Components and their variances are those of the file; an error that no sum can hold is unusable in both."""
    ignored = {"ignore": ["sure", "class", "truth"]}
    expected = build_file(rows, **REGRESSION, **ignored).quality
    found = quality_of(open_file(rows), **REGRESSION, **ignored)
    assert expected
    assert (found.kind, found.rows, found.unusable, found.sampled) == (
        "absolute_error",
        expected.rows,
        1,
        expected.sampled,
    )
    assert {*found.components} == {"level", "kind"}
    assert near(found.components, expected.components)
    assert near(found.residuals, expected.residuals)
    assert found.overall == pytest.approx(expected.overall, rel=1e-5)
    assert found.variance == pytest.approx(expected.variance, rel=1e-5)
    assert found.between_periods == pytest.approx(expected.between_periods, rel=1e-4)
    assert np.abs(np.log(found.large / expected.large)) < 0.05


def test_postgresql_gives_the_same_quality(rows, postgres):
    """Sums are of whole numbers, so engines agree on every digit."""
    url = postgres.url()
    names = ["kind", "level", "class", "truth", "amount", "paid", "at"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE rows (kind text, level int, class int, truth text, amount float8, paid float8, at float8)"
        )
        with connection.cursor().copy("COPY rows FROM STDIN") as copy:
            for row in pq.read_table(rows, columns=names).to_pylist():
                copy.write_row([*row.values()])
    for options in (REGRESSION, {"prediction_column": "class", "label_column": "truth"}):
        ignored = {*names} - {"kind", "level", *options.values()}
        found = quality_of(open_table(url, "rows", None), **options, ignore=[*ignored])
        assert found == quality_of(open_file(rows), **options, ignore=[*ignored, "sure"])


def test_a_large_table_is_learned_from_a_sample(rows, monkeypatch):
    """The sample is the same each time; overall quality and calibration are those of all rows."""
    whole = build_file(rows, **CLASSIFIER).quality
    options = {**CLASSIFIER, "ignore": ["amount", "paid", "level"]}
    assert whole
    monkeypatch.setattr("exporter.profiles.quality_learning._ROWS", 1000)
    found = quality_of(open_file(rows), **options)
    assert 900 < found.sampled < 1100
    assert (found.overall, found.calibrated_right) == (whole.overall, whole.calibrated_right)
    assert quality_of(open_file(rows), **options) == found


@pytest.mark.parametrize(
    ("predicted", "label"),
    [
        ([7, 8, 9, 1], ["7", "8.0", None, "1"]),
        ([7.0, 8.5, 0.1, 1.0], ["7", "8.50", "0.1", None]),
        (["7", "true", "1.5", "x"], [7.0, 1.0, 1.5, np.nan]),
        (["true", "True", "false", None], [True, True, False, True]),
        ([True, False, True, True], [1, 0, 1, 1]),
        ([1, 0, 1, 2], [1.0, 0.5, 1.0, np.inf]),
    ],
)
def test_labels_of_another_type_are_compared_by_their_texts(tmp_path, predicted, label):
    """7 and 7.0 and "7" are one label, as in a file; null and NaN are no label."""
    columns = {"x": np.arange(4.0), "predicted": pa.array(predicted), "label": pa.array(label)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    options = {"prediction_column": "predicted", "label_column": "label", "types": {"predicted": "categorical"}}
    expected = build_file(tmp_path / "rows.parquet", **options).quality
    assert build(open_file(tmp_path / "rows.parquet"), **options).quality == expected


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("i * 7919", "no label equals its prediction: write both in the same way"),
        ("NULL::VARCHAR", "no row has both a prediction and a label that can be compared"),
    ],
)
def test_labels_that_say_nothing_are_explained(monkeypatch, label, message):
    """Any number of different labels stays in the engine; without labels there is no quality, and a warning."""
    read = []

    def measured(table: EngineTable, query: Any, columns: Any = EngineTable.columns) -> dict[str, Any]:
        found: dict[str, Any] = columns(table, query)
        read.extend(map(len, found.values()))
        return found

    monkeypatch.setattr(EngineTable, "columns", measured)
    query = f"SELECT i % 100 / 7 AS x, i % 2 - 5 AS predicted, {label} AS label FROM range(100000) rows(i)"
    table = EngineTable("rows", "rows", ibis.duckdb.connect().sql(query))
    profile = build(table, prediction_column="predicted", label_column="label")
    texts = warnings(profile, {}, Columns("predicted", None, None, "label", [], False), 20)
    assert message in next(text for text in texts if text.startswith("label: "))
    assert max(read) < 25_000
