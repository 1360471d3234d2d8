"""``model-exporter dataset evaluate``: a candidate's predictions against the labels of a release."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.examples import put_examples, sample
from support.flights import CARRIERS, rows, write_model
from support.processes import run_command
from support.servers import Served

EXAMPLE: dict[str, Any] = {
    "id": "1", "prediction_id": None, "model": "flights", "version": "3", "inputs": None, "label": "late",
    "prediction": "on time", "confidence": 0.9, "user_label": "late", "user": None, "reviewer": None, "reviewed": None,
    "predicted": None, "source": "user", "revision": 1,
}  # fmt: skip


def write_release(path: Path, examples: list[dict[str, Any]]) -> Path:
    """Write a release as ``dataset export`` does."""
    lines = [json.dumps({**EXAMPLE, "id": str(number), **one}) for number, one in enumerate(examples, 1)]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_csv(path: Path, predictions: dict[Any, Any]) -> Path:
    """Write a candidate's predictions by the id of the example."""
    path.write_text("id,prediction\n" + "".join(f"{key},{value}\n" for key, value in predictions.items()))
    return path


def evaluate(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_command("dataset", "evaluate", *map(str, arguments))


def document(folder: Path, *arguments: Any) -> Any:
    """Return the evaluation as JSON; the command succeeds."""
    result = evaluate(*arguments, "-o", folder / "evaluation.json")
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "evaluation.json").read_text())


def test_accuracy_classes_and_the_difference_from_the_current_model(tmp_path: Path) -> None:
    """Each figure is that of the labels, with Wilson's interval; the p-value is McNemar's."""
    release = write_release(
        tmp_path / "release.jsonl.gz",
        [*({"label": "late"} for _ in range(60)), *({"label": "on time", "source": "sample"} for _ in range(40))],
    )
    # Of the 60 mistakes of the current model 48 are right now, and of the 40 others 2 are wrong.
    predictions = {n: "late" if n <= 48 or n > 98 else "on time" for n in range(1, 101)}
    found = document(tmp_path, release, write_csv(tmp_path / "new.csv", predictions))
    assert (found["task"], found["examples"], found["predictions"]["rows"]) == ("classification", 100, 100)
    assert found["accuracy"]["value"] == 0.86
    assert (round(found["accuracy"]["lower"], 4), round(found["accuracy"]["upper"], 4)) == (0.7786, 0.9147)
    assert found["current_accuracy"]["value"] == 0.4
    assert found["difference"]["value"] == pytest.approx(0.46)
    assert found["difference"]["lower"] < 0.46 < found["difference"]["upper"]
    assert found["difference"]["p_value"] < 1e-9
    late, on_time = found["classes"]
    assert (late["label"], late["examples"], late["predicted"]) == ("late", 60, 50)
    assert (late["recall"]["value"], late["precision"]["value"]) == (0.8, 0.96)
    assert (on_time["recall"]["value"], on_time["precision"]["value"]) == (0.95, 0.76)
    assert {name: one["accuracy"]["value"] for name, one in found["sources"].items()} == {"user": 0.8, "sample": 0.95}
    assert found["sources"]["sample"]["current_accuracy"]["value"] == 1.0
    assert found["slices"] is None
    assert found["remarks"][0].startswith("60 of the examples are corrections")


@pytest.mark.parametrize(
    ("condition", "status"),
    [("--at-least=0.8", 0), ("--at-least=0.81", 3), ("--margin=0.1", 0), ("--margin=0.01", 3)],
)
def test_conditions_decide_the_exit_status(tmp_path: Path, condition: str, status: int) -> None:
    """A margin needs an interval that excludes a worse candidate, not only a difference that is not significant."""
    examples = [{"prediction": "late" if number <= 170 else "on time"} for number in range(1, 201)]
    release = write_release(tmp_path / "release.jsonl", examples)
    predictions = {n: "late" if n <= 160 else "on time" for n in range(1, 201)}  # 80 %, before 85 %
    result = evaluate(release, write_csv(tmp_path / "new.csv", predictions), condition)
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines()[-1].endswith(": yes" if status == 0 else ": no")


def test_a_condition_needs_all_predictions(tmp_path: Path) -> None:
    """Who leaves out the difficult examples does not pass; without a condition that is said, and no error."""
    release = write_release(tmp_path / "release.jsonl", [{} for _ in range(10)])
    table = write_csv(tmp_path / "new.csv", {1: "late", 2: "late", 99: "late"})
    result = evaluate(release, table, "--at-least=0.5")
    assert result.returncode == 1
    assert "8 examples have no prediction: a condition needs a prediction of each example" in result.stderr
    result = evaluate(release, table)
    assert result.returncode == 0
    assert "  8 examples without a prediction are left out: 3, 4, 5, 6, 7, 8, 9, 10\n" in result.stdout
    assert "  1 rows are of no example of the release: 99\n" in result.stdout
    assert "release.jsonl: 10 examples, 2 evaluated" in result.stdout


def test_rows_that_repeat_or_contradict_are_said(tmp_path: Path) -> None:
    """The first prediction of an example counts; a contradiction is no valid row, and neither is one without an id."""
    release = write_release(tmp_path / "release.jsonl", [{}, {}, {}])
    table = tmp_path / "new.csv"
    table.write_text("id,prediction\n1,late\n1,late\n2,late\n2,early\n,late\n3,\n")
    found = document(tmp_path, release, table)
    assert (found["examples"], found["accuracy"]["value"]) == (2, 1.0)
    counts = found["predictions"]
    assert (counts["rows"], counts["repeated"], counts["rejected"], counts["missing_ids"]) == (6, 1, 3, ["3"])
    assert counts["rejections"] == [
        'row 4, id: "2" has another prediction in row 3',
        "row 5, id: has no identifier",
        "row 6, prediction: has no prediction",
    ]


def test_classes_that_never_were_and_labels_of_one_class(tmp_path: Path) -> None:
    """A class without examples has a precision and no recall."""
    release = write_release(tmp_path / "release.jsonl", [{} for _ in range(4)])
    table = write_csv(tmp_path / "new.csv", {1: "late", 2: "late", 3: "\x1b[31mnever", 4: "late"})
    result = evaluate(release, table, "-o", tmp_path / "evaluation.json")
    assert "predicted, but no label of the release: �[31mnever" in result.stdout
    late, never = json.loads((tmp_path / "evaluation.json").read_text())["classes"]
    assert (late["recall"]["value"], late["precision"]["value"]) == (0.75, 1.0)
    assert (never["examples"], never["recall"], never["precision"]["value"]) == (0, None, 0.0)


def test_a_regression_has_errors_and_their_paired_difference(tmp_path: Path) -> None:
    """NaN is no prediction, infinity is not valid; numbers are compared, not their text."""
    rng = np.random.default_rng(5)
    labels = rng.normal(50, 10, 300).round(2)
    old = labels + rng.normal(0, 4, 300)
    new = labels + rng.normal(0, 2, 300)
    examples = [{"label": label, "prediction": float(value)} for label, value in zip(labels, old, strict=True)]
    release = write_release(tmp_path / "release.jsonl", examples)
    values = pa.array([*new[:298], np.nan, np.inf])
    pq.write_table(pa.table({"id": range(1, 301), "prediction": values}), tmp_path / "new.parquet")
    found = document(tmp_path, release, tmp_path / "new.parquet")
    errors = np.abs(new - labels)[:298]
    assert (found["task"], found["examples"], "classes" in found) == ("regression", 298, False)
    assert found["mean_absolute_error"]["value"] == pytest.approx(errors.mean())
    assert found["root_mean_squared_error"] == pytest.approx(np.sqrt(np.square(errors).mean()))
    paired = errors - np.abs(old - labels)[:298]
    half = 1.96 * paired.std() / np.sqrt(298)
    expected = {"value": paired.mean(), "lower": paired.mean() - half, "upper": paired.mean() + half}
    assert {name: found["difference"][name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert found["predictions"]["rejections"] == [
        "row 300, prediction: expected a finite number",
        "row 299, prediction: has no prediction",
    ]
    table = write_csv(tmp_path / "all.csv", dict(enumerate(new, 1)))
    assert evaluate(release, table, "--at-most=2", "--margin=0").returncode == 0
    assert evaluate(release, table, "--at-most=1").returncode == 3
    assert (
        "--at-least: cannot be used for a regression; use --at-most" in evaluate(release, table, "--at-least=1").stderr
    )


def test_slices_with_most_errors_need_the_profile(tmp_path: Path) -> None:
    """The slice in which the candidate is wrong is found, with the figures of both models there."""
    write_model(tmp_path)
    columns = rows(1500, 7)
    examples = [
        {"inputs": {name: values[number].item() for name, values in columns.items()}, "prediction": "late"}
        for number in range(1500)
    ]
    release = write_release(tmp_path / "release.jsonl", examples)
    wrong = columns["carrier"] == CARRIERS[3]
    table = write_csv(tmp_path / "new.csv", {n: "on time" if w else "late" for n, w in enumerate(wrong, 1)})
    (found,) = document(tmp_path, release, table, "--profile", tmp_path / "flights.json")["slices"]
    assert found["where"] == {"carrier": "03 MQ"}
    assert (found["examples"], found["accuracy"]["value"]) == (int(wrong.sum()), 0.0)
    assert found["current_accuracy"]["value"] == 1.0


def test_a_release_of_an_exporter(served: Served, tmp_path: Path) -> None:
    """Its examples are read from the exporter; a name that is no release is an error."""
    put_examples(served, [{"label": "no"}, {"label": "maybe"}, sample()])
    made = served.post("/v1/dataset/releases", {"model": "credit", "name": "autumn"}).json
    table = write_csv(tmp_path / "new.csv", {1: "no", 2: "no", 3: "yes"})
    found = document(tmp_path, "autumn", table, f"--url={served.url}")
    assert found["release"] == {
        "id": made["id"], "model": "credit", "sha256": made["sha256"], "name": "autumn", "examples": 3,
    }  # fmt: skip
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    result = evaluate("spring", table, f"--url={served.url}")
    assert (result.returncode, 'there is no release "spring"' in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("release", "table", "message"),
    [
        ("", "id,prediction\n1,a\n", "release.jsonl: has no examples"),
        (
            '{"id": 1}\n',
            "id,prediction\n1,a\n",
            "release.jsonl: line 1: expected an example as dataset export writes it",
        ),
        ("id,label\n1,a\n", "id,prediction\n1,a\n", "release.jsonl: line 1: expected an example"),
        (None, "id,prediction\n", "new.csv: has no rows"),
        (
            None,
            "id,prediction\n7,a\n",
            'no identifier is that of an example; "7" is the first of the table, "1" of the',
        ),
        (None, "id,predicted\n1,a\n", 'new.csv: has no column "prediction"; did you mean "predicted"?'),
        (None, "id,prediction\n1,a,b\n", "new.csv: is not CSV: CSV parse error: Row #2: Expected 2 columns, got 3"),
        (None, "prediction\na\n", 'new.csv: has no column "id"'),
    ],
)
def test_what_cannot_be_evaluated(tmp_path: Path, release: str | None, table: str, message: str) -> None:
    """The error names the file, the row or line, and the column."""
    path = tmp_path / "release.jsonl"
    if release is None:
        write_release(path, [{}, {}])
    else:
        path.write_text(release)
    (tmp_path / "new.csv").write_text(table)
    result = evaluate(path, tmp_path / "new.csv")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_id_twice_and_predictions_of_another_kind(tmp_path: Path) -> None:
    """Files of two releases do not make one; texts do not compare with numbers."""
    release = write_release(tmp_path / "release.jsonl", [{"id": "5"}, {"id": "5"}])
    table = write_csv(tmp_path / "new.csv", {5: "late"})
    assert 'release.jsonl: has two examples with the id "5"' in evaluate(release, table).stderr
    release = write_release(tmp_path / "release.jsonl", [{"label": "late"}])
    result = evaluate(release, write_csv(tmp_path / "new.csv", {1: "late"}), "--task=regression")
    assert "no prediction can be compared with its label; the models' task is regression (--task)" in result.stderr


def test_samples_are_weighted_by_their_strata(tmp_path: Path) -> None:
    """Where few of many predictions were sampled, each sample stands for more of them."""
    low = [{"source": "sample", "confidence": 0.85, "label": "late", "prediction": "late"} for _ in range(40)]
    high = [{"source": "sample", "confidence": 0.99, "label": "late", "prediction": "late"} for _ in range(10)]
    release = write_release(tmp_path / "release.jsonl", [*low, *high, {}])
    strata = {"edges": [0.9], "confident": [100, 1000, 0], "with_feedback": [0, 100, 0], "seen": 1100}
    (tmp_path / "lineage.json").write_text(json.dumps({"lineage": {"sampling": {"3": strata}}}))
    table = write_csv(tmp_path / "new.csv", {n: "late" if n > 20 else "on time" for n in range(1, 52)})
    found = document(tmp_path, release, table, "--lineage", tmp_path / "lineage.json")
    assert found["sources"]["sample"]["accuracy"]["value"] == 0.6
    assert (found["estimated"]["samples"], found["estimated"]["predictions"]) == (50, 1000)
    assert found["estimated"]["accuracy"]["value"] == pytest.approx(0.1 * 0.5 + 0.9)
    assert found["estimated"]["accuracy"]["lower"] < 0.95 < found["estimated"]["accuracy"]["upper"]
    assert found["estimated"]["current_accuracy"]["value"] == 1.0
    assert "estimated by 50 samples" in evaluate(release, table, "--lineage", tmp_path / "lineage.json").stdout
    assert document(tmp_path, release, table)["estimated"] is None
    (tmp_path / "lineage.json").write_text(json.dumps({"lineage": {"sampling": {"3": strata | {"confident": [1]}}}}))
    result = evaluate(release, table, "--lineage", tmp_path / "lineage.json")
    assert (
        "lineage.json: expected what dataset export --lineage writes: expected 3 strata, got 1 and 3" in result.stderr
    )


def test_errors_of_samples_are_weighted_by_their_strata(tmp_path: Path) -> None:
    """The mean of each stratum counts by its size."""
    members = {"source": "sample", "label": 10.5, "prediction": 11.5}
    examples = [members | {"confidence": 0.8} for _ in range(10)] + [members | {"confidence": 0.95} for _ in range(10)]
    release = write_release(tmp_path / "release.jsonl", examples)
    strata = {"edges": [0.9], "confident": [100, 300, 0], "with_feedback": [0, 0, 0], "seen": 400}
    (tmp_path / "lineage.json").write_text(json.dumps({"lineage": {"sampling": {"3": strata}}}))
    table = write_csv(tmp_path / "new.csv", {n: 10.5 + (4 if n <= 10 else 2) for n in range(1, 21)})
    found = document(tmp_path, release, table, "--lineage", tmp_path / "lineage.json")
    assert found["mean_absolute_error"]["value"] == 3.0
    assert found["estimated"]["mean_absolute_error"]["value"] == pytest.approx(0.25 * 4 + 0.75 * 2)
    assert found["estimated"]["current_mean_absolute_error"]["value"] == 1.0


def test_the_lineage_of_a_release_has_plain_fields(served: Served, tmp_path: Path) -> None:
    """An experiment tracker gets a name, a digest, a source, and counts; and the samples have weights."""
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        row = {"edges": [0.95], "confident": [90, 10, 0], "seen": 100}
        values = ("credit", "3", 1.8e9, 1.6e9, 100, json.dumps(row))
        database.execute(
            "INSERT INTO draws (model, version, time, since, confident, strata) VALUES (?,?,?,?,?,?)", values
        )
    put_examples(served, [{"label": "no"}, sample(), sample()])
    made = served.post("/v1/dataset/releases", {"model": "credit", "name": "autumn"}).json
    assert made["lineage"]["sampling"] == {
        "3": {"edges": [0.95], "confident": [90, 10, 0], "with_feedback": [1, 0, 0], "seen": 100}
    }
    files = ["-o", str(tmp_path / "autumn.jsonl"), "--lineage", str(tmp_path / "autumn.json")]
    result = run_command("dataset", "export", "autumn", f"--exporter={served.url}", *files)
    assert result.returncode == 0, result.stderr
    lineage = json.loads((tmp_path / "autumn.json").read_text())
    assert lineage == {
        "name": "autumn",
        "digest": made["id"],
        "source": f"{served.url}/v1/dataset/releases/autumn",
        "source_type": "http",
        "created_at": made["created"],
        "created_by": None,
        "model": "credit",
        "sha256": made["sha256"],
        "examples": 3,
        "bytes": made["bytes"],
        "versions": ["3"],
        "profile": made["lineage"]["profile"],
        "parent": None,
        "exporter_version": made["lineage"]["exporter_version"],
        "lineage": made["lineage"],
    }
    table = write_csv(tmp_path / "new.csv", {1: "no", 2: "yes", 3: "yes"})
    found = document(tmp_path, tmp_path / "autumn.jsonl", table, "--lineage", tmp_path / "autumn.json")
    assert (found["estimated"]["samples"], found["estimated"]["predictions"]) == (2, 99)
    of_exporter = document(tmp_path, "autumn", table, f"--exporter={served.url}")
    assert of_exporter["estimated"] == found["estimated"]
