"""``model-exporter explain``: the slices of a running exporter as a table and as JSON."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from support.flights import events, is_planted, running
from support.processes import Run, run_command
from support.servers import Served, eventually

from exporter.commands import analysis


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected one slice."""
    sent = events(2000, confidence=0.95)
    with running(tmp_path_factory.mktemp("flights"), sent, list(filter(is_planted, sent))) as server:
        eventually(lambda: server.get("/v1/slices?model=flights").json["total"])
        yield server


def explain(server: Served, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_command("explain", f"--exporter={server.url}", *options)


def test_the_table_ends_with_sentences(flights: Served) -> None:
    """It names the bins, and what segment_by would watch."""
    result = explain(flights, "--model=flights", "--since=1h")
    assert result.returncode == 0, result.stderr
    assert "03 MQ" in result.stdout
    assert " of 2,000 confident predictions" in result.stdout.splitlines()[1]
    assert "share   traffic" in result.stdout
    assert "100% of the corrections are where carrier is MQ and dest is ATL" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("segment_by: carrier")


def test_json_is_the_response(flights: Served) -> None:
    """The document is that of the route."""
    document: Any = json.loads(explain(flights, "--model=flights", "--format=json").stdout)
    expected = flights.get("/v1/slices?model=flights").json
    changing = {"since", "until"}
    assert {k: v for k, v in document.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }


def test_nothing_and_errors_are_said(flights: Served) -> None:
    """Without slices there is a sentence; a wrong question has the exporter's answer, a wrong server a reason."""
    result = explain(flights, "--model=flights", "--of=estimated_loss")
    assert "No combination of at most two bins contains significantly more" in result.stdout
    result = explain(flights, "--model=bare")
    assert (result.returncode, '"bare" has no profile' in result.stderr) == (1, True)
    result = explain(flights, "--model=flights", "--since=60")
    expected = "--since: expected a duration such as 6h, or a time such as 2026-11-24T10:00:00Z, got '60'"
    assert (result.returncode, expected in result.stderr) == (2, True)
    result = explain(flights, "--model=flights", "--version=99")
    assert 'no predictions of version "99" with recorded bins of this time; there are some of "1"' in result.stdout


def test_drift_names_what_it_is_compared_with(flights: Served) -> None:
    """Without predictions of the time before, the column and the sentences name the training data."""
    planted = [event | {"id": f"2-{event['id']}", "version": "2"} for event in events(2000) if is_planted(event)]
    assert flights.post("/v1/predictions", planted).status == 202
    asked = "/v1/slices?model=flights&version=2&of=drift"
    eventually(lambda: flights.get(asked).json["total"] == len(planted))
    output = explain(flights, "--model=flights", "--version=2", "--of=drift").stdout
    assert re.search(r"^slice +share +training +ratio", output, re.M), output
    assert re.search(r"of the predictions are where carrier is MQ, .*% in the training data\.$", output, re.M), output


WRONG = (3, 40, 60, 120)
"""Rows of the file whose label is changed, the first row is 0."""


def iris() -> list[dict[str, Any]]:
    """The rows of a file with iris, of whose labels four are wrong."""
    rows, labels = load_iris(return_X_y=True)
    labels[list(WRONG)] = (labels[list(WRONG)] + 1) % 3
    return [
        {"a": a, "b": b, "c": c, "d": d, "kind": f"k{label}", "customer": (17 * number) % 151}
        for number, ((a, b, c, d), label) in enumerate(zip(rows.tolist(), labels.tolist(), strict=True))
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


@pytest.fixture
def suspects(run: Run) -> Run:
    """Runs the command on a file with iris."""
    return partial(run, "suspects", "--label-column=kind")


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz"])
def test_wrong_labels_are_found_by_similar_rows(tmp_path: Path, kind: str, suspects: Run) -> None:
    """Columns that are no inputs can be left out; a file may be compressed."""
    path = tmp_path / f"iris.{kind}"
    if kind == "csv":
        write_csv(path, iris())
    else:
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, iris())).encode()))
    output = tmp_path / "suspects.csv"
    text = suspects(path, "--ignore=customer", f"--output={output}").out
    rows = found(output)
    assert set(WRONG) <= set(rows)
    assert len(rows) < 10
    assert f"150 labels checked, {len(rows)} suspects, 0 rows rejected" in text
    assert text.count("\n") == 2 + len(rows)
    with output.open(newline="") as file:
        first = {int(row["row"]) - 1: row for row in csv.DictReader(file)}[3]
    assert (first["label"], first["likely"]) == ("k1", "k0")
    assert int(first["with_likely"]) > 4 * int(first["with_label"])


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (150, ["--label-column=kin"], 'has no column "kin"; did you mean "kind"?'),
        (3, [], "expected 20 rows or more with a label and inputs"),
        (150, ["--output=/nowhere/x.csv"], "/nowhere/x.csv: cannot be written"),
    ],
)
def test_what_is_wrong_is_explained(tmp_path: Path, rows: int, flags: list[str], message: str, suspects: Run) -> None:
    """A file or an option that cannot be used is an error that says what would be right."""
    assert message in suspects(write_csv(tmp_path / "iris.csv", iris()[:rows]), *flags, status=1).err


def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path, suspects: Run) -> None:
    """The message has the first reason; one class alone has no suspects."""
    path = write_csv(tmp_path / "iris.csv", [row | {"kind": ""} for row in iris()])
    assert "no label was checked; row 1: has no label" in suspects(path, status=1).err
    one_class = write_csv(path, [row | {"kind": "other"} for row in iris()])
    assert "150 labels checked, 0 suspects" in suspects(one_class).out


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suspects: Run) -> None:
    """The bound is named, so that a part of the file can be checked."""
    monkeypatch.setattr(analysis, "MAX_COMPARED", 100)
    text = "expected at most 100 rows whose inputs are compared: check a part of the file"
    assert text in suspects(write_csv(tmp_path / "iris.csv", iris()), status=1).err


def test_labels_are_classes_by_their_text(tmp_path: Path, run: Run) -> None:
    """The numbers 1 and 1.0 are the class 1."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = [
        {"label": 1.0 if number % 2 else 0, "x": float(number % 2) + rng.normal(0, 0.05)} for number in range(60)
    ]
    rows += [{"label": 1, "x": 1.0}] * 10
    rows[0]["label"] = 1
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.csv"
    path.write_text("\n".join(map(json.dumps, rows)))
    run("suspects", path, f"--output={output}")
    assert found(output) == [0]


def test_the_formats_of_standard_input_are_named(run: Run) -> None:
    """Without a format, those that the command takes are named; predictions in the wire format have no label."""
    assert (
        "--format: is required for standard input: csv, parquet, npz or jsonl\n" in run("suspects", "-", status=2).err
    )
