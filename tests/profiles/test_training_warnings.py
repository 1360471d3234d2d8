"""Warnings of what would alarm for ever: each is right, and the flag that it names mends it."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from support.processes import Run

from exporter.cli import main
from exporter.profiles.profile import load

ROWS = 400
FORMATS = ("csv", "jsonl", "parquet")
Write = Callable[[dict[str, Any], str], Path]
Profile = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes columns as a file of a format."""

    def write(columns: dict[str, Any], suffix: str) -> Path:
        path, frame = tmp_path / f"training.{suffix}", pd.DataFrame(columns)
        if suffix == "csv":
            frame.to_csv(path, index=False)
        elif suffix == "parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
        return path

    return write


@pytest.fixture
def profile(capsys: pytest.CaptureFixture[str]) -> Profile:
    """Profiles a file whose order has no meaning; returns the exit status and the warnings."""

    def profile(path: Path, *flags: str) -> tuple[int, list[str]]:
        status = main(["profile", str(path), "--shuffled", *flags])
        lines = capsys.readouterr().err.splitlines()
        prefix = "model-exporter: warning: "
        return status, [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]

    return profile


def _flags(warning: str) -> list[str]:
    """Return the first flag that a warning names, as a shell reads it."""
    flag = re.search(r'--[\w-]+(="[^"]*"|=[^\s,]+)?', warning)
    assert flag, warning
    return shlex.split(flag.group())


def _times(step: dt.timedelta) -> list[str]:
    start = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
    return [(start + step * number).isoformat() for number in range(ROWS)]


def ages() -> np.ndarray:
    return np.random.default_rng(1).integers(18, 90, ROWS)


def _shuffled(numbers: Any) -> np.ndarray:
    return np.random.default_rng(2).permutation(numbers)[:ROWS]


BAD: dict[str, tuple[str, Any, str]] = {
    "an index": ("Unnamed: 0", range(ROWS), "is probably the index of a table"),
    "an index that pandas kept": ("__index_level_0__", ages()[::-1], "is probably the index of a table"),
    "numbers in order": ("row", range(7, ROWS + 7), "is an identifier"),
    "numbers of shuffled rows": ("customer", _shuffled(range(2 * ROWS)), "is an identifier"),
    "large numbers": ("accountId", _shuffled(range(10**9, 10**9 + ROWS * 97, 97)), "is an identifier"),
    "texts": ("transaction", [f"T-{n:06}" for n in _shuffled(range(10**5))], "is an identifier"),
    "texts without zeros before the number": ("visitor", [f"v{n}" for n in _shuffled(range(ROWS))], "is an identifier"),
    "texts without a digit": (
        "user_id",
        [f"user-{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(ROWS)],
        "is an id",
    ),
    "a time": ("ordered", _times(dt.timedelta(minutes=7)), "only grows"),
    "the newest first": ("ordered", _times(dt.timedelta(minutes=-7)), "only grows"),
    "Unix seconds": ("seen", time.time() - 1e7 + 60.0 * np.arange(ROWS), "is a time, which only grows"),
    "shuffled milliseconds": ("created_at", _shuffled(1_750_000_000_000 + 977 * np.arange(ROWS)), "is a time"),
    "days as numbers": ("day", [20250100 + n // 20 for n in range(20, ROWS + 20)], "is a time"),
    "a prediction": ("predicted", [f"{n % 3}" for n in range(ROWS)], "is read as an input"),
    "dates in two formats": (
        "on",
        [f"2025-03-{n % 28 + 1:02}" if n % 9 else f"{n % 28 + 1:02}/03/2025" for n in range(ROWS)],
        "contains dates that are not RFC 3339",
    ),
    "dates with points": ("on", [f"{n % 28 + 1:02}.03.2025" for n in range(ROWS)], "contains dates that are not RFC"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("bad", BAD)
def test_a_column_that_alarms_for_ever(write: Write, profile: Profile, suffix: str, bad: str) -> None:
    """Each is told of in one line that begins with the column, and the flag in it mends it; --strict then passes."""
    name, values, reason = BAD[bad]
    path = write({"age": ages(), name: values}, suffix)
    status, (warning,) = profile(path)
    assert status == 0
    assert warning.startswith(f"{name}: {reason}")
    assert len(warning) < 140
    assert profile(path, "--strict", *_flags(warning)) == (0, [])
    assert load(path.with_suffix(".json")).inputs == {"age": "numeric"}


def test_an_index_without_a_name(write: Write, profile: Profile) -> None:
    """The column that `DataFrame.to_csv` adds has no name."""
    path = write({"": range(ROWS), "age": ages()}, "csv")
    (warning,) = profile(path)[1]
    assert warning == 'a column without a name: is probably the index of a table: set --ignore=""'
    assert profile(path, *_flags(warning)) == (0, [])
    assert load(path.with_suffix(".json")).inputs == {"age": "numeric"}


@pytest.mark.parametrize(("delimiter", "flag"), [(";", '--delimiter=";"'), ("\t", "--delimiter=tab"), ("|", '"|"')])
def test_another_delimiter(tmp_path: Path, profile: Profile, delimiter: str, flag: str) -> None:
    """A file that is read as one column of text is told of with its delimiter."""
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{delimiter.join(row)}\n" for row in [("age", "income"), *[("41", "2000")] * ROWS]))
    (warning,) = profile(path)[1]
    assert warning.startswith("all columns are read as one: set ")
    assert warning.endswith(flag)
    assert profile(path, *_flags(warning)) == (0, [])
    assert load(path.with_suffix(".json")).inputs == {"age": "numeric", "income": "numeric"}


def test_errors_name_the_delimiter(tmp_path: Path, run: Run) -> None:
    """Where reading such a file fails, the error names it, too."""
    path = tmp_path / "a.csv"
    path.write_text("age;income\n" + "41;2000,5\n" * ROWS)
    for more in ((), ("--prediction-column=income",)):
        assert run("profile", path, *more, status=1).err.endswith('; set --delimiter=";"\n')
    refused = run("profile", path, "--delimiter=;;", status=2).err
    assert "expected one character such as ; or the word tab, got ';;'" in refused


def test_decimal_commas(write: Write, profile: Profile, tmp_path: Path) -> None:
    """Numbers with decimal commas are told of, in features and outputs, and read with --decimal."""
    prices = [f"{number / 8:.3f}".rstrip("0").rstrip(".").replace(".", ",") for number in range(ROWS)]
    path = tmp_path / "a.csv"
    rows = [f"{price};{price};0,{n % 90 + 10};a, b" for n, price in enumerate(prices)]
    path.write_text("\n".join(["price;predicted;sure;words", *rows]) + "\n")
    flags = ["--delimiter=;", "--prediction-column=predicted", "--confidence-column=sure"]
    warnings = profile(path, *flags)[1]
    assert [warning.partition(":")[0] for warning in warnings] == ["price", "predicted", "sure"]
    assert {tuple(_flags(warning)) for warning in warnings} == {("--decimal=,",)}
    assert profile(path, *flags, "--decimal=,") == (0, [])
    made = load(path.with_suffix(".json"))
    assert made.inputs == {"price": "numeric", "words": "categorical"}
    assert made.features["price"].mean == made.prediction.mean == pytest.approx(np.arange(ROWS).mean() / 8)
    assert (made.confidence.min, made.confidence.max) == (0.1, 0.99)
    for suffix in ("jsonl", "parquet"):
        (warning,) = profile(write({"age": ages(), "price": prices}, suffix))[1]
        assert warning.startswith("price: contains numbers with decimal commas")
        assert profile(tmp_path / f"training.{suffix}", *_flags(warning)) == (0, [])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classes_that_floats_do_not_tell_apart(write: Write, profile: Profile, suffix: str) -> None:
    """Predictions from 2^53 are counted one by one with the flag that the warning names."""
    classes = [2**53 + n % 3 for n in range(ROWS)]
    path = write({"x": np.linspace(0, 1, ROWS) ** 2, "answer": classes}, suffix)
    _, [warning] = profile(path, "--prediction-column=answer")
    assert warning.startswith("answer: has whole numbers from 2^53")
    assert profile(path, "--prediction-column=answer", *_flags(warning)) == (0, [])
    prediction = load(path.with_suffix(".json")).prediction
    assert prediction.categories == tuple(str(2**53 + n) for n in range(3))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("values", [range(50, 50 + ROWS), [f"{n % 101}%" for n in range(ROWS)], ["93%"] * ROWS])
def test_a_confidence_in_percent(write: Write, profile: Profile, suffix: str, values: Sequence[Any]) -> None:
    """A confidence in percent, as numbers or texts, is told of and read with --confidence-percent."""
    confidence = [value % 101 if isinstance(value, int) else value for value in values]
    path = write({"age": ages(), "p": ["yes"] * ROWS, "sure": confidence}, suffix)
    flags = ["--prediction-column=p", "--confidence-column=sure"]
    (warning,) = profile(path, *flags)[1]
    assert warning.startswith("sure: is ")
    assert profile(path, *flags, *_flags(warning)) == (0, [])
    made = load(path.with_suffix(".json")).confidence
    assert 0 <= made.min <= made.max <= 1
    assert made.max >= 0.93
    assert made.counts[-1] == 0


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["high"] * ROWS, 'is text such as "high"'),
        (np.linspace(-4, 5, ROWS), "is not a confidence from 0 to 1, but -4 to 5"),
    ],
)
def test_no_confidence(write: Write, profile: Profile, suffix: str, values: Sequence[Any], reason: str) -> None:
    """A column that cannot be a confidence is told of, and what to set instead."""
    path = write({"age": ages(), "sure": values}, suffix)
    (warning,) = profile(path, "--confidence-column=sure")[1]
    assert warning == f"sure: {reason}: set --ignore=sure instead of --confidence-column"
    assert profile(path, *_flags(warning)) == (0, [])


@pytest.mark.parametrize("values", [np.linspace(0, 1, ROWS), [f"{n / ROWS}" for n in range(ROWS)]])
def test_a_confidence_that_is_right(write: Write, profile: Profile, values: Sequence[Any]) -> None:
    """Numbers from 0 to 1 are right, as texts of JSON and Parquet, too."""
    for suffix in FORMATS:
        path = write({"age": ages(), "sure": values}, suffix)
        assert profile(path, "--confidence-column=sure") == (0, [])
        assert load(path.with_suffix(".json")).confidence.counts[-1] == 0
        flags = ("--confidence-column=sure", "--prediction-column=p")
        of_class = write(
            {"age": ages(), "p": ["no" if float(one) < 0.5 else "yes" for one in values], "sure": values}, suffix
        )
        (warning,) = profile(of_class, *flags)[1]
        assert warning.startswith('sure: is at most 0.5 wherever the prediction is "no", as if it were always the')


def test_few_rows(write: Write, profile: Profile) -> None:
    """Fewer than ten rows for each bin are few, and fewer bins need fewer rows."""
    path = write({"age": ages()[:120]}, "parquet")
    (warning,) = profile(path)[1]
    assert warning == "120 rows are few for 20 bins: profile at least 200, or set --bins=12"
    assert profile(path, *_flags(warning)) == (0, [])
    assert profile(write({"age": ages()[:5]}, "parquet"))[1] == ["5 rows are few for 20 bins: profile at least 200"]
    assert profile(write({"age": ages()[:200]}, "parquet"))[1] == []


def test_strict_fails_and_writes_nothing(write: Write, run: Run) -> None:
    """With --strict a warning is an error; a type that is given says that the column is right as it is."""
    path = write({"age": ages(), "row": range(ROWS)}, "csv")
    assert "csv: a warning with --strict: " in run("profile", path, "--strict", status=1).err.splitlines()[-1]
    assert not path.with_suffix(".json").exists()
    run("profile", path, "--strict", "--type=row=numeric")
    assert path.with_suffix(".json").exists()


def test_times_that_are_right(write: Write, profile: Profile) -> None:
    """A time is right where the time of the row is known, and so is one in no order, such as a date of birth."""
    times = _times(dt.timedelta(minutes=7))
    paths = [write({"ordered": times, "shipped": times, "age": ages()}, suffix) for suffix in FORMATS]
    assert [profile(path, "--time-column=shipped") for path in paths] == [(0, [])] * 3
    born = [f"19{n % 80 + 10}-0{n % 9 + 1}-15" for n in _shuffled(range(ROWS))]
    assert [profile(write({"born": born}, suffix)) for suffix in FORMATS] == [(0, [])] * 3


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_ordinary_columns_are_right(write: Write, profile: Profile, suffix: str, seed: int) -> None:
    """Nothing is said of counts, amounts, codes and texts, in any order."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.integers(18, 90, ROWS),
        "visits": rng.poisson(3, ROWS),
        "clicks": rng.poisson(3000, ROWS),
        "price": np.round(rng.lognormal(3, 1, ROWS), 2),
        "cents": np.round(rng.lognormal(8, 1, ROWS) * 100).astype(int),
        "income": rng.integers(10_000, 200_000, ROWS),
        "sorted_income": np.sort(rng.integers(10_000, 20_000_000, ROWS)),
        "bytes": rng.integers(1e9, 2e9, ROWS),
        "zip": rng.integers(1000, 9999, ROWS),
        "year": rng.integers(1950, 2026, ROWS),
        "bid": rng.uniform(0, 10, ROWS),
        "sku": rng.choice([f"SKU-{number:05}" for number in range(60)], ROWS),
        "answers": rng.choice(["1,2", "3", "1,2,3"], ROWS),
        "amount": rng.choice(["1,234", "5,678,900", "12,000"], ROWS),
        "review": [" ".join(rng.choice(["good", "bad", "never", "again", "10"], 8)) for _ in range(ROWS)],
        "member": rng.random(ROWS) < 0.5,
        "week": np.arange(ROWS) // 7,
    }
    assert profile(write(columns, suffix)) == (0, [])


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "digits"])
def test_real_data_are_right(write: Write, profile: Profile, name: str) -> None:
    """Nothing is said of the inputs that scikit-learn brings, in datasets of at least 200 rows."""
    frame = getattr(datasets, f"load_{name}")(as_frame=True).data
    assert [profile(write(dict(frame), suffix))[1] for suffix in FORMATS] == [[]] * 3


def test_images_and_vectors_are_right(tmp_path: Path, profile: Profile) -> None:
    """Inputs that are no scalars are left alone."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", photo=rng.integers(0, 16, (ROWS, 8, 8)), age=ages(), row=np.arange(ROWS))
    (warning,) = profile(tmp_path / "a.npz")[1]
    assert warning.startswith("row: is an identifier")
    rows = [{"vector": rng.normal(size=6).tolist(), "nested": {"a": 1}} for _ in range(ROWS)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert profile(tmp_path / "b.jsonl") == (0, [])


LABELS = ("--prediction-column=kind", "--label-column=label")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda c: {}, None),
        (lambda c: {"label": [None] * ROWS}, "no row has both a prediction and a label"),
        (lambda c: {"label": np.where(np.arange(ROWS) < 15, c["label"], None)}, "only 15 rows have a label"),
        (lambda c: {"label": c["kind"]}, "every prediction is right"),
        (lambda c: {"label": ["yes"] * ROWS}, "no label equals its prediction"),
        (lambda c: {"sure": np.where(c["label"] == c["kind"], 0.6, 0.9)}, "a higher confidence are wrong more often"),
        (lambda c: {"sure": [0.8] * ROWS}, "the confidence says nothing"),
        (lambda c: {"sure": [None] * ROWS}, "no labelled row has a confidence"),
        (
            lambda c: {"sure": np.where(np.arange(ROWS) < 0.1 * ROWS, None, c["sure"])},
            "10.0% of the labelled rows have no",
        ),
        (lambda c: {"sure": np.where(np.arange(ROWS) < 0.04 * ROWS, None, c["sure"])}, None),
    ],
)
def test_labels_and_confidences_that_say_nothing(write: Write, profile: Profile, change: Any, warning: str) -> None:
    """What makes an estimate of the quality useless is said, with nothing else beside the number of rows."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, ROWS)
    kind = rng.choice(["a", "b"], ROWS)
    label = np.where(rng.random(ROWS) < sure, kind, "c")
    columns = {"age": ages(), "kind": kind, "sure": sure, "label": label}
    columns |= change(columns)
    for suffix in FORMATS:
        found = profile(write(columns, suffix), *LABELS, "--confidence-column=sure")[1]
        found = [text for text in found if "labelled rows are few" not in text]
        assert len(found) == (warning is not None), found
        if warning:
            assert found[0].startswith("label: ")
            assert warning in found[0]


def test_a_release_of_corrections_is_no_traffic(write: Write, profile: Profile) -> None:
    """Its rows are known by the columns that only they have."""
    columns = {
        "age": ages(),
        "prediction_id": [f"p-{row}" for row in range(ROWS)],
        "user_label": ["a", "b"] * (ROWS // 2),
    }
    for suffix in FORMATS:
        found = profile(write(columns, suffix))[1]
        assert (
            "the rows are corrections, which are selected mistakes: profile the predictions of all traffic instead"
            in found
        )


def test_labels_need_a_confidence_and_the_type_of_the_prediction(write: Write, profile: Profile) -> None:
    """A classifier without a confidence cannot be estimated; texts are no labels of a regression."""
    rng = np.random.default_rng(0)
    columns = {"age": ages(), "kind": rng.choice(["a", "b"], ROWS), "label": rng.choice(["a", "b"], ROWS)}
    (_, missing) = profile(write(columns, "csv"), *LABELS)[1]
    assert missing.endswith("cannot be estimated for rows without labels: set --confidence-column")
    prices = rng.lognormal(3, 1, ROWS)
    columns = {"age": ages(), "kind": prices, "label": [*(prices[:-3] + 1), "high", "high", "low"]}
    warnings = profile(write({**columns, "label": list(map(str, columns["label"]))}, "parquet"), *LABELS)[1]
    assert warnings == [
        "label: no row has both a prediction and a label that can be compared with it, so no quality is known"
    ]
