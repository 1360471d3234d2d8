"""``model-exporter suspects``: labels of a training file that may be wrong."""

from __future__ import annotations

import csv
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from exporter.cli import main
from exporter.commands import suspects
from exporter.profiles.sources.base import ROWS

WRONG = (3, 40, 60, 120)
"""Rows of the file whose label is changed, the first row is 0."""


@cache
def scored() -> tuple[Any, Any, Any]:
    """The inputs of iris, labels of which four are wrong, and probabilities by a model that did not see the row."""
    rows, truth = load_iris(return_X_y=True)
    labels = truth.copy()
    labels[list(WRONG)] = (labels[list(WRONG)] + 1) % 3
    scores = cross_val_predict(LogisticRegression(max_iter=500), rows, labels, cv=5, method="predict_proba")
    return rows, labels, scores


def iris() -> list[dict[str, Any]]:
    """The same as rows of a file."""
    rows, labels, scores = scored()
    return [
        {"a": a, "b": b, "c": c, "d": d, "kind": f"k{label}", **{f"p_k{number}": p for number, p in enumerate(score)}}
        for (a, b, c, d), label, score in zip(rows.tolist(), labels.tolist(), scores.tolist(), strict=True)
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def found(path: Path) -> list[int]:
    """The numbers of the rows in a result, counted from 0."""
    with path.open(newline="") as file:
        return [int(row["row"]) - 1 for row in csv.DictReader(file)]


def run(path: Path, *flags: str) -> int:
    return main(["suspects", str(path), "--label-column=kind", *flags])


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz"])
def test_wrong_labels_are_found_by_probabilities(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The changed labels come first, with the class that they had; a file may be compressed."""
    path = tmp_path / f"iris.{kind}"
    if kind == "csv":
        write_csv(path, iris())
    else:
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, iris())).encode()))
    output = tmp_path / "suspects.csv"
    assert run(path, "--probability-prefix=p_", f"--output={output}") == 0
    rows = found(output)
    assert set(rows[: len(WRONG)]) == set(WRONG)
    assert len(rows) < 12
    text = capsys.readouterr().out
    assert f"150 labels checked, {len(rows)} suspects, 0 rows rejected" in text
    assert text.count("\n") == 2 + len(rows)
    with output.open(newline="") as file:
        first = {int(row["row"]) - 1: row for row in csv.DictReader(file)}[3]
    assert (first["label"], first["likely"]) == ("k1", "k0")
    assert float(first["margin"]) < 0 < float(first["self_confidence"]) < 0.5


def test_wrong_labels_are_found_by_similar_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without probabilities the inputs are compared, and columns that are no inputs can be left out."""
    path, output = write_csv(tmp_path / "iris.csv", iris()), tmp_path / "suspects.csv"
    assert run(path, "--ignore=p_k0", "--ignore=p_k1", "--ignore=p_k2", f"--output={output}") == 0
    assert set(WRONG) <= set(found(output))
    assert len(found(output)) < 10
    assert "with_likely" in capsys.readouterr().out


def test_rows_without_a_label_may_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if they fill the first batch that is read."""
    rows = [{name: row[name] for name in ("a", "b", "c", "d", "kind")} for row in iris()]
    path = tmp_path / "iris.parquet"
    pq.write_table(pa.Table.from_pylist([rows[0] | {"kind": None}] * ROWS + rows), path)
    output = tmp_path / "suspects.csv"
    assert run(path, f"--output={output}") == 0
    assert {ROWS + row for row in WRONG} <= set(found(output))
    assert "150 labels checked" in capsys.readouterr().out


def test_rows_that_cannot_be_checked_are_rejected_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing and impossible probabilities, those that do not sum to 1, and labels without a class."""
    rows = iris()
    rows[0]["p_k0"] = float("nan")
    rows[1]["p_k0"] = -0.5
    rows[2] |= {"p_k0": 0.9, "p_k1": 0.5, "p_k2": 0.0}
    rows[3]["kind"] = "other"
    rows[4]["kind"] = ""
    rows[5]["p_k1"] = "high"
    assert run(write_csv(tmp_path / "iris.csv", rows), "--probability-prefix=p_") == 0
    text = capsys.readouterr().out
    assert "144 labels checked" in text
    assert "6 rows rejected" in text
    for number in (1, 2, 6):
        assert f"  row {number}: expected the probability of each class as a number from 0 to 1" in text
    assert "  row 3: expected probabilities that sum to 1, got 1.4" in text
    assert '  row 4: expected a label of k0, k1, k2, got "other"' in text
    assert "  row 5: expected a label of k0, k1, k2, got " in text


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (150, ["--probability-prefix=q_"], 'expected two or more columns that begin with "q_", one for each class'),
        (150, ["--probability-prefix=p_k0"], 'expected two or more columns that begin with "p_k0"'),
        (150, ["--label-column=kin"], 'has no column "kin"; did you mean "kind"?'),
        (3, [], "expected 20 rows or more with a label and inputs"),
        (150, ["--probability-prefix=p_", "--output=/nowhere/x.csv"], "/nowhere/x.csv: cannot be written"),
    ],
)
def test_what_is_wrong_is_explained(
    tmp_path: Path, rows: int, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file or an option that cannot be used is an error that says what would be right."""
    assert run(write_csv(tmp_path / "iris.csv", iris()[:rows]), *flags) == 1
    assert message in capsys.readouterr().err


def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the first reason; one class alone has no suspects."""
    rows = [row | {"kind": "other"} for row in iris()]
    path = write_csv(tmp_path / "iris.csv", rows)
    assert run(path, "--probability-prefix=p_") == 1
    assert "no label was checked; row 1: expected a label of k0, k1, k2" in capsys.readouterr().err
    assert run(path) == 0
    assert "150 labels checked, 0 suspects" in capsys.readouterr().out


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bounds are named, so that a part of the file can be checked."""
    path = write_csv(tmp_path / "iris.csv", iris())
    monkeypatch.setattr(suspects, "MAX_PROBABILITIES", 300)
    assert run(path, "--probability-prefix=p_") == 1
    assert "expected at most 100 rows of 3 classes: check a part of the file" in capsys.readouterr().err
    monkeypatch.setattr(suspects, "MAX_COMPARED", 100)
    assert run(path) == 1
    assert "expected at most 100 rows whose inputs are compared" in capsys.readouterr().err


def test_labels_are_classes_by_their_text(tmp_path: Path) -> None:
    """The numbers 1 and 1.0 are the class 1."""
    rng = np.random.default_rng(1)
    rows = [
        {"label": 1.0 if number % 2 else 0, "p_0": 0.9 - 0.8 * (number % 2), "p_1": 0.1 + 0.8 * (number % 2)}
        for number in rng.permutation(40).tolist()
    ]
    rows[0]["label"] = 1 - rows[0]["label"]
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.csv"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main(["suspects", str(path), "--probability-prefix=p_", f"--output={output}"]) == 0
    assert found(output) == [0]


def test_the_formats_of_standard_input_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a format, those that the command takes are named; predictions in the wire format have no label."""
    assert main(["suspects", "-"]) == 2
    assert "--format: is required for standard input: csv, parquet, npz or jsonl\n" in capsys.readouterr().err
