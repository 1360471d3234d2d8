from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from exporter.binning import Layout
from exporter.errors import ProfileError
from exporter.training import build_file

RNG = np.random.default_rng(11)
ROWS = 400
AGE = RNG.integers(18, 90, ROWS)
INCOME = np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.lognormal(10, 1, ROWS))
COUNTRY = RNG.choice(["NL", "DE", "FR, île"], ROWS, p=[0.6, 0.3, 0.1])
PHOTO = RNG.integers(0, 17, (ROWS, 4, 5))
PREDICTED = RNG.integers(0, 2, ROWS)


def write(folder: Path, kind: str, photos: bool = False) -> Path:
    """The same training data in each format; images where the format can hold them."""
    path = folder / f"training.{kind}"
    income = [None if value != value else value for value in INCOME.tolist()]
    columns = {"age": AGE.tolist(), "income": income, "country": COUNTRY.tolist(), "predicted": PREDICTED.tolist()}
    if photos:
        columns["photo"] = PHOTO.tolist()
    if kind == "csv":
        rows = zip(*columns.values(), strict=True)
        cells = (
            ",".join("" if c is None else f'"{c}"' if isinstance(c, str) else repr(c) for c in row) for row in rows
        )
        path.write_text(",".join(columns) + "\n" + "\n".join(cells) + "\n")
    elif kind == "parquet":
        parquet.write_table(pa.table(columns), path)
    elif kind == "npz":
        arrays = {"age": AGE, "income": INCOME, "country": COUNTRY, "predicted": PREDICTED}
        np.savez(path, **arrays, **({"photo": PHOTO} if photos else {}))
    else:
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("kind", ["parquet", "npz", "jsonl", "ndjson"])
def test_all_formats_give_the_same_profile(tmp_path, kind):
    """The same data gives the same profile as CSV, to the last digit, in each format."""
    expected = build_file(write(tmp_path, "csv"), prediction_column="predicted")
    assert build_file(write(tmp_path, kind), prediction_column="predicted") == expected
    assert expected.inputs == {"age": "numeric", "income": "numeric", "country": "categorical"}
    assert expected.rows == ROWS
    assert expected.name == "training"


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_images_are_the_same_in_all_formats_that_hold_them(tmp_path, kind):
    """Nested arrays are images, and give the statistics that the arrays of an NPZ file give."""
    expected = build_file(write(tmp_path, "npz", photos=True), ignore=["predicted"])
    assert build_file(write(tmp_path, kind, photos=True), ignore=["predicted"]) == expected
    assert expected.inputs["photo"] == "image"
    assert expected.features["photo.intensity_mean"].mean == pytest.approx(PHOTO.mean())


def test_the_profile_is_that_of_the_data(tmp_path):
    """Counts, moments and missing values are those of the columns."""
    profile = build_file(write(tmp_path, "parquet"), name="credit", prediction_column="predicted", bins=10)
    assert profile.name == "credit"
    assert profile.features["income"].counts[-2] == np.isnan(INCOME).sum()
    assert profile.features["age"].mean == pytest.approx(AGE.mean())
    assert profile.features["age"].stddev == pytest.approx(AGE.std())
    assert profile.features["country"].counts[0] == (COUNTRY == "NL").sum()
    assert profile.prediction.categories == ("0", "1") if PREDICTED.mean() <= 0.5 else ("1", "0")
    assert "predicted" not in profile.features
    assert len(profile.features["income"].counts) == 14


def test_training_data_sent_as_requests_does_not_drift(tmp_path):
    """Rows of the training file, as a client would send them, score next to nothing and are never unseen."""
    path = write(tmp_path, "jsonl", photos=True)
    layout = Layout(build_file(path, prediction_column="predicted"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    row, _, unknown = layout.count(rows, [row.pop("predicted") for row in rows])
    sums = layout.split(row)
    assert sums.counts.tolist() == [count for target in layout.targets for count in target.counts]
    assert layout.reference.kl_divergence(sums.counts).max() < 0.01
    assert not sums.unseen.any()
    assert unknown == 0


def test_types_can_be_given(tmp_path):
    """A code that looks like a number is a category where the caller says so."""
    path = tmp_path / "a.csv"
    path.write_text("code,flag\n3,true\n3,false\n7,true\n")
    profile = build_file(path, types={"code": "categorical"})
    assert profile.features["code"].categories == ("3", "7")
    assert profile.features["flag"].categories == ("true", "false")


def test_a_column_of_mixed_types_is_categorical_and_counts_what_is_invalid(tmp_path):
    """Where a number column holds texts, the inferred type is a category; given as numeric, texts are invalid."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"x": "one"}\n{}\n{"x": [1]}\n')
    assert build_file(path).features["x"].counts[-2:] == (1, 1)
    assert build_file(path, types={"x": "numeric"}).features["x"].counts[-2:] == (1, 2)


def test_files_of_images_in_a_column(tmp_path):
    """Bytes of image files in Parquet are images; as base64 text they are where the type is given."""
    raw = []
    for image in RNG.integers(0, 256, (3, 4, 4)).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        raw.append(file.getvalue())
    parquet.write_table(pa.table({"photo": raw}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"photo": [base64.b64encode(r).decode() for r in raw]}), tmp_path / "b.parquet")
    profile = build_file(tmp_path / "a.parquet", name="p")
    assert profile.inputs == {"photo": "image"}
    assert build_file(tmp_path / "b.parquet", name="p", types={"photo": "image"}) == profile


def test_predictions_of_a_regression_are_numeric(tmp_path):
    """A prediction with fractions, or of many values, has numeric bins; class labels have categories."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(200.0), price=np.arange(200) / 7, label=np.arange(200) % 10, count=np.arange(200))
    kinds = {
        name: type(build_file(path, prediction_column=name).prediction).__name__ for name in ("price", "label", "count")
    }
    assert kinds == {"price": "NumericFeature", "label": "CategoricalFeature", "count": "NumericFeature"}


def archive(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def bare_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


OWN_NAME = "save each column under its own name"
NOT_NPZ = "FILE: is not NPZ: expected what numpy.savez writes"
MISTAKES = [
    ("a.csv", None, "FILE: cannot be read: there is no such file"),
    ("a.xlsx", b"PK", "FILE: expected a file that ends in .csv, .parquet, .npz, .jsonl or .ndjson"),
    ("a.csv", b"", "FILE: is not CSV: Empty CSV file"),
    ("a.csv", b"a,b\n", "FILE: has no rows to profile"),
    ("a.csv", b"a,b\n1\n", "FILE: is not CSV: CSV parse error: Expected 2 columns, got 1: 1"),
    ("a.csv", b"a,b,a\n1,2,3\n", 'FILE: is not CSV: the column "a" stands twice'),
    ("a.csv", b"a\n\xff\n", 'FILE: is not CSV: the column "a" is not UTF-8'),
    ("a.npz", b"", NOT_NPZ),
    ("a.npz", b"text", NOT_NPZ),
    ("a.npz", bare_array(), NOT_NPZ),
    ("a.npz", archive(a=np.arange(3))[:60], NOT_NPZ),
    ("a.npz", archive(a=np.arange(3), b=np.eye(4)[0]),
     "FILE: is not NPZ: its arrays have different lengths: {'a': 3, 'b': 4}"),
    ("a.npz", archive(a=np.eye(2)), f"FILE: is not NPZ: the array 'a' has 2 dimensions; {OWN_NAME}"),
    ("a.npz", archive(a=np.float64(2)), f"FILE: is not NPZ: the array 'a' has 0 dimensions; {OWN_NAME}"),
    ("a.npz", archive(a=np.array([{}])), "FILE: is not NPZ: Object arrays cannot be loaded when allow_pickle=False"),
    ("a.npz", archive(), "FILE: has no rows to profile"),
    ("a.jsonl", b"", "FILE: has no rows to profile"),
    ("a.jsonl", b"[1]\n", "FILE: is not JSONL: Expected `object`, got `array` - at `$[0]`"),
    ("a.jsonl", b'{"a": 1}\n{"a":', "FILE: is not JSONL: Input data was truncated"),
    ("a.jsonl", b'{"a": NaN}\n', "FILE: is not JSONL: JSON is malformed: invalid character (byte 6)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES)
def test_a_file_that_cannot_be_profiled_says_why(tmp_path, name, content, message):
    """Each mistake gives one line that names the file and what is wrong with it."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProfileError) as error:
        build_file(path)
    assert str(error.value).replace(str(path), "FILE") == message


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b""), ("a.parquet", b"PAR1xxxxPAR1"), ("a.npz", archive(a=np.arange(3))[:-30]), ("a.jsonl", b"\xff"),
     ("a.jsonl", b'{"a":' + b"[" * 5000)],
)  # fmt: skip
def test_a_broken_file_is_refused(tmp_path, name, content):
    """Whatever a library raises for a broken file is one message about that file."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=f"^{path}: is not {path.suffix[1:].upper()}: "):
        build_file(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ["agee"]}, 'FILE: has no column "agee"; did you mean "age"?'),
        ({"prediction_column": "x"}, 'FILE: has no column "x"; known are: age, country'),
        ({"types": {"ag": "numeric"}}, 'FILE: has no column "ag"; did you mean "age"?'),
        ({"types": {"age": "numbers"}}, 'FILE: "numbers" is no type of an input; did you mean "numeric"?'),
        ({"types": {"country": "image"}}, 'FILE: no value of the column "country" is an image'),
    ],
)
def test_a_wrong_option_says_what_would_be_right(tmp_path, options, message):
    """A column that is not there, or a type that cannot be, is named with what was probably meant."""
    path = tmp_path / "a.csv"
    path.write_text("age,country\n3,NL\n")
    with pytest.raises(ProfileError) as error:
        build_file(path, **options)
    assert str(error.value).replace(str(path), "FILE") == message
