"""``model-exporter ingest --label-column``: the quality of a batch, measured with labels and estimated without."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import csv, parquet
from support.labelled_rows import partly_unsure, with_outcomes
from support.processes import Run
from support.servers import Served, eventually, serving

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

COLUMNS = {"prediction_column": "prediction", "confidence_column": "confidence", "label_column": "outcome"}
OUTPUTS = ("--prediction-column=prediction", "--confidence-column=confidence", "--id-column=id")
LABELS = "--label-column=outcome"


def scores(rows: int, seed: int, confidence: float = 4.0) -> pa.Table:
    """What a classifier scored, with labels for nine of ten rows."""
    rng = np.random.default_rng(seed)
    columns = {
        "id": [f"r-{number}" for number in range(rows)],
        "age": rng.integers(18, 90, rows),
        "prediction": rng.choice(["yes", "no"], rows),
        "confidence": rng.beta(confidence, 1, rows),
    }
    return with_outcomes(pa.table(columns), seed)


def prices(rows: int, seed: int) -> pa.Table:
    """What a regression predicted, and the prices: their error grows with the age."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(0, 100, rows)
    price = 1000 + 10 * age
    return pa.table({"age": age, "prediction": price + rng.normal(0, 1 + age / 10), "outcome": price})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles with and without labels, and tonight's scores in several formats."""
    folder = tmp_path_factory.mktemp("quality")
    parquet.write_table(scores(3000, 1), folder / "training.parquet")
    parquet.write_table(prices(3000, 1), folder / "prices-training.parquet")
    training = folder / "training.parquet"
    save(build_file(training, name="loans", **COLUMNS, ignore=["id"]), folder / "loans.json")
    plain: dict[str, Any] = COLUMNS | {"label_column": None}
    save(build_file(training, name="loans", **plain, ignore=["id", "outcome"]), folder / "plain.json")
    regression: dict[str, Any] = COLUMNS | {"confidence_column": None}
    save(build_file(folder / "prices-training.parquet", name="prices", **regression), folder / "prices.json")
    table = scores(2500, 2, confidence=2.5)
    parquet.write_table(table, folder / "tonight.parquet")
    csv.write_csv(table, folder / "tonight.csv")
    lines = b"\n".join(map(msgspec.json.encode, table.to_pylist()))
    (folder / "tonight.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "exporter.yml").write_text(yaml.safe_dump({"models": [{"name": "loans", "profile": "loans.json"}]}))
    return folder


@pytest.fixture
def ingest(run: Run) -> Run:
    """Runs the command."""
    return partial(run, "ingest")


def of_run(path: Path) -> dict[str, float]:
    """The values of a run by metric, of those that have no labels but the model, the version and the window."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.labels.keys() <= {"model", "version", "window"}
    }


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl.gz"])
def test_the_measured_and_the_estimated_accuracy_of_a_run(
    folder: Path, tmp_path: Path, ingest: Run, ending: str
) -> None:
    """The labels of a run give its accuracy, its confidences an estimate; both are metrics, and in the report."""
    metrics = tmp_path / "a.prom"
    flags = (f"--profile={folder / 'loans.json'}", *OUTPUTS, LABELS, f"--textfile={metrics}")
    out, err = ingest(folder / f"tonight.{ending}", *flags)
    assert err == ""
    rows = [row for row in scores(2500, 2, confidence=2.5).to_pylist() if row["outcome"]]
    right = np.mean([row["outcome"] == row["prediction"] for row in rows])
    values = of_run(metrics)
    assert values["model_window_labelled_predictions"] == 2250
    assert values["model_window_unlabelled_predictions"] == 250
    assert values["model_accuracy"] == pytest.approx(right)
    assert values["model_accuracy_lower"] < right < values["model_accuracy_upper"]
    assert 0 < values["model_calibration_error"] < 0.2
    assert values["model_estimated_accuracy_lower"] < right < values["model_estimated_accuracy_upper"]
    assert abs(values["model_estimated_accuracy"] - right) < abs(values["model_reference_accuracy_overall"] - right) / 2
    assert values["model_labelled_estimated_accuracy"] == pytest.approx(values["model_estimated_accuracy"], abs=0.01)
    assert not any(name.endswith("_total") for name in values)
    table = out.partition("quality with intervals of 95%:\n")[2].splitlines()
    figures = {re.split("  +", line.strip())[0]: line for line in table}
    assert list(figures)[:3] == ["accuracy, measured", "accuracy, estimated", "accuracy in the profile"]
    lower, upper = values["model_accuracy_lower"], values["model_accuracy_upper"]
    measured = f"{100 * right:.1f}%  {100 * lower:.1f} to {100 * upper:.1f}%  on 2,250 labels"
    assert figures["accuracy, measured"].endswith(measured)
    assert figures["accuracy, estimated"].endswith("without labels")
    assert figures["accuracy in the profile"].endswith("on 2,700 labelled rows")


def test_rows_without_a_confidence_have_no_estimate(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """The report says what measured and what estimated accuracies are compared with, where these are of other rows."""
    training, run, profile = tmp_path / "training.parquet", tmp_path / "run.parquet", tmp_path / "profile.json"
    parquet.write_table(partly_unsure(scores(3000, 1)), training)
    parquet.write_table(partly_unsure(scores(3000, 2)), run)
    save(build_file(training, name="loans", **COLUMNS, ignore=["id"]), profile)
    metrics = tmp_path / "a.prom"
    out = ingest(run, f"--profile={profile}", *OUTPUTS, LABELS, f"--textfile={metrics}").out
    values = of_run(metrics)
    overall, estimated = values["model_reference_accuracy_overall"], values["model_reference_estimated_accuracy"]
    assert values["model_accuracy_lower"] < overall < values["model_accuracy_upper"] < estimated
    assert values["model_estimated_accuracy_lower"] < estimated < values["model_estimated_accuracy_upper"]
    lines = [" ".join(line.split()) for line in out.splitlines() if "accuracy in the profile" in line]
    assert lines == [
        f"accuracy in the profile {100 * overall:.1f}% on 2,800 labelled rows",
        f"accuracy in the profile {100 * estimated:.1f}% "
        "on the 1,800 of them with a confidence, which alone are estimated",
    ]


def test_the_errors_of_a_regression(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Numbers have a mean absolute error; a label that is no number is left out, and the report says so."""
    table = prices(400, 2)
    lines = ["age,prediction,outcome"]
    lines += [f"{row['age']},{row['prediction']},{row['outcome']}" for row in table.to_pylist()]
    lines[5] = "50,1500,sold"
    lines[9] = "50,1500,"
    path, metrics = tmp_path / "prices.csv", tmp_path / "a.prom"
    path.write_text("\n".join(lines) + "\n")
    flags = ("--prediction-column=prediction", LABELS, f"--profile={folder / 'prices.json'}")
    out, err = ingest(path, *flags, f"--textfile={metrics}")
    assert err == ""
    errors = np.delete(table["prediction"].to_numpy() - table["outcome"].to_numpy(), [4, 8])
    values = of_run(metrics)
    assert values["model_window_labelled_predictions"] == 398
    assert values["model_mean_absolute_error"] == pytest.approx(np.abs(errors).mean())
    assert values["model_root_mean_squared_error"] == pytest.approx(math.sqrt(np.mean(errors**2)))
    assert values["model_mean_absolute_error_lower"] < values["model_mean_absolute_error"]
    assert values["model_estimated_mean_absolute_error"] == pytest.approx(np.abs(errors).mean(), rel=0.15)
    assert "model_accuracy" not in values
    figures = out.partition("quality with intervals of 95%:\n")[2].splitlines()
    assert re.fullmatch(r"  mean absolute error, measured +\d\.\d+ +\d\.\d+ to \d\.\d+  on 398 labels", figures[0])
    assert re.fullmatch(r"  mean absolute error, estimated +\d\.\d+ +\d\.\d+ to \d\.\d+  without labels", figures[1])
    assert figures[3] == "  1 label cannot be compared with the prediction"


def test_no_estimate_has_a_reason(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Where nothing can be estimated, the report says why."""
    no_confidence = ("--prediction-column=prediction", "--id-column=id", "--ignore=outcome")
    out = ingest(folder / "tonight.csv", f"--profile={folder / 'loans.json'}", *no_confidence).out
    assert re.search("accuracy, estimated +–  +no row has a valid confidence$", out, re.M)
    table = scores(2500, 2)
    confidences = [None] * 1500 + table["confidence"].to_pylist()[1500:]
    index = table.column_names.index("confidence")
    csv.write_csv(table.set_column(index, "confidence", pa.array(confidences)), tmp_path / "lacking.csv")
    out = ingest(tmp_path / "lacking.csv", f"--profile={folder / 'loans.json'}", *OUTPUTS, "--ignore=outcome").out
    assert re.search("estimated +–  +too few rows have a valid confidence: less than half the share of", out)
    parquet.write_table(scores(3000, 1).slice(0, 15), tmp_path / "few.parquet")
    save(build_file(tmp_path / "few.parquet", **COLUMNS, ignore=["id"]), tmp_path / "few.json")
    out = ingest(folder / "tonight.csv", f"--profile={tmp_path / 'few.json'}", *OUTPUTS, LABELS).out
    assert re.search(
        "accuracy, estimated +–  +the profile has fewer than 20 labelled rows to estimate it from$", out, re.M
    )
    (tmp_path / "far.csv").write_text("age,prediction\n" + "9999,99999\n" * 30)
    regression = (f"--profile={folder / 'prices.json'}", "--prediction-column=prediction")
    out = ingest(tmp_path / "far.csv", *regression).out
    assert re.search("estimated +–  +more than half of the rows are unlike any labelled row of the profile$", out, re.M)


def test_what_labels_need(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Labels need predictions to be compared with, and an exporter needs identifiers; errors say so."""
    profile = f"--profile={folder / 'loans.json'}"
    err = ingest(folder / "tonight.csv", profile, LABELS, status=2).err
    detail = '--label-column: set --prediction-column, since the label "outcome" is compared with it'
    assert detail in err
    exporter = ("--exporter=http://127.0.0.1:1", "--model=loans", "--prediction-column=prediction", LABELS)
    err = ingest(folder / "tonight.csv", *exporter, status=2).err
    assert "--label-column: set --id-column, since an exporter joins labels" in err
    (tmp_path / "p.jsonl").write_text('{"model": "loans", "inputs": {}}')
    err = ingest(tmp_path / "p.jsonl", profile, *OUTPUTS, LABELS, status=1).err
    assert "remove --model, --version, --type and the names of columns" in err


# --- sent to an exporter ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def exporter(folder: Path) -> Iterator[Served]:
    """An exporter with the model of the profile."""
    with serving(folder) as server:
        yield server


def labelled(exporter: Served, version: str) -> float:
    name = "model_labelled_predictions_total"
    return exporter.samples(name).get(f'{name}{{model="loans",version="{version}"}}', 0)


def test_an_exporter_joins_the_labels_that_are_sent(
    folder: Path, exporter: Served, tmp_path: Path, ingest: Run
) -> None:
    """The exporter measures with the labels of a batch what the command itself measures."""
    file = tmp_path / "tonight.csv"
    file.write_bytes((folder / "tonight.csv").read_bytes())
    flags = (f"--exporter={exporter.url}", "--model=loans", "--version=a", *OUTPUTS, LABELS)
    out, err = ingest(file, *flags)
    assert err == ""
    assert "2,500 rows, 2,500 accepted, 0 rejected" in out
    assert "2,250 labels accepted, 0 rejected" in out
    eventually(lambda: labelled(exporter, "a") == 2250, 30)
    ingest(file, f"--profile={folder / 'loans.json'}", *OUTPUTS, LABELS, f"--textfile={tmp_path / 'a.prom'}")
    values = exporter.samples("model_accuracy")
    local = of_run(tmp_path / "a.prom")["model_accuracy"]
    assert values['model_accuracy{model="loans",version="a",window="1h"}'] == pytest.approx(local)
    file.unlink()
    (tmp_path / "tonight.csv.ingest.json").unlink()
    file.write_bytes((folder / "tonight.csv").read_bytes())
    ingest(file, *flags)
    assert labelled(exporter, "a") == 2250


def test_refused_labels_are_named_and_those_of_refused_rows_not_sent(
    exporter: Served, tmp_path: Path, ingest: Run
) -> None:
    """A row that is refused sends no label; a label that is refused leaves its row counted."""
    lines = ["id,age,prediction,confidence,outcome"]
    lines += [f"b-{number},40,yes,0.9,yes" for number in range(30)]
    lines[3] = "b-2,40,yes,1.9,yes"
    lines[7] = ",40,yes,0.9,yes"
    lines[9] = "b-8,40,yes,0.9,"
    lines[11] = "b-10,40,,0.9,yes"
    (tmp_path / "b.csv").write_text("\n".join(lines) + "\n")
    flags = (f"--exporter={exporter.url}", "--model=loans", "--version=b", *OUTPUTS, LABELS, "--batch-size=10")
    out = ingest(tmp_path / "b.csv", *flags).out
    assert "30 rows, 29 accepted, 1 rejected" in out
    assert "row 7, outcome: the row has no identifier by which its label could be joined" in out
    eventually(lambda: labelled(exporter, "b") == 26, 30)
