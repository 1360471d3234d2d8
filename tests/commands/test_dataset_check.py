"""``model-exporter dataset check``: near-duplicates in a release, and examples that are training rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.servers import credit_training, write_config

EXAMPLE: dict[str, Any] = {
    "id": "1", "prediction_id": None, "model": "credit", "version": "3", "inputs": None, "label": "no",
    "prediction": "yes", "confidence": 0.9, "user_label": "no", "user": None, "reviewer": None, "reviewed": None,
    "predicted": None, "source": "user", "revision": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training data (numbers, categories and images) and their profile."""
    folder = tmp_path_factory.mktemp("check")
    write_config(folder)
    np.savez(folder / "training.npz", **credit_training(labels=False))
    return folder


@pytest.fixture(scope="module")
def training(folder: Path) -> list[dict[str, Any]]:
    """The inputs of the training rows."""
    with np.load(folder / "training.npz") as columns:
        names = ("age", "income", "country", "photo")
        return [{name: columns[name][row].tolist() for name in names} for row in range(2000)]


def check(folder: Path, inputs: list[Any], *arguments: str, status: int = 0) -> Any:
    """Check a release of examples with these inputs; return what was found and printed, or the error."""
    lines = [json.dumps({**EXAMPLE, "id": f"e{number}", "inputs": one}) for number, one in enumerate(inputs)]
    (folder / "release.jsonl").write_text("".join(f"{line}\n" for line in lines))
    command = [sys.executable, "-m", "exporter.cli", "dataset", "check", "release.jsonl", "--profile=credit.json"]
    command += ["-o", "found.json", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    if status in {1, 2}:
        return result.stderr
    return json.loads((folder / "found.json").read_text()) | {"printed": result.stdout}


def test_examples_that_are_training_rows_are_found(folder: Path, training: list[dict[str, Any]]) -> None:
    """Numbers may differ by the tolerance; categories and images must be equal."""
    near = training[40] | {"age": training[40]["age"] + 0.1, "income": training[40]["income"] + 100}
    far = training[50] | {"age": training[50]["age"] + 1}
    other = training[60] | {"country": "FR" if training[60]["country"] != "FR" else "NL"}
    photo = training[70] | {"photo": [[0] * 8 for _ in range(8)]}
    missing = training[80] | {"income": None}
    inputs = [training[7], near, far, other, photo, missing, None]
    found = check(folder, inputs, "--training=training.npz")
    assert found["training"]["found"] == [{"id": "e0", "row": 8, "rows": 1}, {"id": "e1", "row": 41, "rows": 1}]
    assert (found["training"]["rows"], found["examples"], found["without_inputs"]) == (2000, 7, 1)
    assert (found["inputs"], found["inputs_left_out"]) == (["age", "country", "income", "photo"], ["name"])
    assert "2 examples are, or nearly are, rows of the training data (training.npz, 2,000 rows)" in found["printed"]
    assert "  e0 (row 8), e1 (row 41)\n" in found["printed"]
    assert check(folder, inputs, "--training=training.npz", "--fail-on-leak", status=3)
    assert check(folder, [far], "--training=training.npz", "--fail-on-leak")["training"]["examples"] == 0


def test_duplicates_within_a_release(folder: Path, training: list[dict[str, Any]]) -> None:
    """An example is named with the first one to which it is nearly equal; no training data are needed."""
    first = training[1]
    again = [first, training[2], first | {"age": first["age"] + 0.05}, first]
    found = check(folder, again)
    assert found["duplicates"]["found"] == [{"id": "e2", "of": "e0"}, {"id": "e3", "of": "e0"}]
    assert (found["training"], found["duplicates"]["other_label"]) == (None, 0)
    assert (
        "2 examples are near-duplicates of an earlier one, 0 with another label\n  e2 (of e0), e3" in found["printed"]
    )
    assert check(folder, again, "--tolerance=0.000001")["duplicates"]["examples"] == 1


def test_many_are_counted_and_some_are_named(folder: Path, training: list[dict[str, Any]]) -> None:
    """What is printed and written is bounded."""
    found = check(folder, training[:1500], "--training=training.npz")
    assert (found["training"]["examples"], len(found["training"]["found"])) == (1500, 1000)
    assert found["printed"].splitlines()[-1].endswith(", and 1,480 more")


def test_a_table_as_csv_is_read_by_the_profile(folder: Path, training: list[dict[str, Any]]) -> None:
    """Columns that the table lacks are not compared, and that is said."""
    rows = [f"{one['age']:g},{one['country']},{one['income']!r}\n" for one in training[:300]]
    (folder / "training.csv").write_text("age,country,income\n" + "".join(rows))
    found = check(folder, training[295:305], "--training=training.csv")
    assert [one["row"] for one in found["training"]["found"]] == [296, 297, 298, 299, 300]
    assert found["inputs_left_out"] == ["name", "photo"]
    assert 'not compared, as one side has none of them: "name", "photo"' in found["printed"]


@pytest.mark.parametrize(
    ("inputs", "table", "message"),
    [
        ([None], "age\n1\n", "release.jsonl: no example has an input of the profile that training.csv has, too"),
        ([], "age\n1\n", "release.jsonl: no example has an input of the profile"),
        ([{"age": 1}], "other\n1\n", "no example has an input of the profile that training.csv has, too"),
        ([{"age": 1}], "age\n", "training.csv: has no rows"),
        ([{"age": 1}], "age,income\n1\n", "training.csv: is not CSV: CSV parse error: Row #2: Expected 2 columns"),
    ],
)
def test_what_cannot_be_checked(folder: Path, inputs: list[Any], table: str, message: str) -> None:
    """The error names the file and what is wrong."""
    (folder / "training.csv").write_text(table)
    assert message in check(folder, inputs, "--training=training.csv", status=1)


def test_options(folder: Path) -> None:
    """A leak needs training data, and a tolerance is a small number."""
    assert "--fail-on-leak: set --training" in check(folder, [], "--fail-on-leak", status=2)
    assert "expected a number above 0 and up to 1, got '2'" in subprocess.run(
        [sys.executable, "-m", "exporter.cli", "dataset", "check", "x", "--profile=p", "--tolerance=2"],
        cwd=folder, capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip
