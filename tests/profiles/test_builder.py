from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support.batches import count

from exporter.errors import ProfileError
from exporter.monitoring.binner import Binner
from exporter.profiles.bins import numeric_feature
from exporter.profiles.builder import Options, build, build_file
from exporter.profiles.profile import load, save
from exporter.profiles.sources.files import FileSource

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
    """The same data in each format gives the same profile as CSV, to the last digit."""
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


def test_types_can_be_given(tmp_path):
    """A code that looks like a number is a category if the type is given."""
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


CONVERT = "convert it, for example with iconv -f WINDOWS-1252 -t UTF-8"
OWN_NAME = "save each column under its own name"
NOT_NPZ = "FILE: is not NPZ: expected what numpy.savez writes"
MISTAKES = [
    ("a.csv", None, "FILE: cannot be read: there is no such file"),
    (
        "a.xlsx",
        b"PK",
        "FILE: expected a file that ends in .csv, .parquet, .npz, .jsonl or .ndjson, and then perhaps in .gz",
    ),
    ("a.csv", b"", "FILE: is empty"),
    ("a.csv", b"a,b\n", "FILE: has no rows to profile"),
    ("a.csv", b"a,b\n1\n", "FILE: is not CSV: CSV parse error: Row #2: Expected 2 columns, got 1: 1"),
    ("a.csv", b"a,b,a\n1,2,3\n", 'FILE: is not CSV: the column "a" is duplicated'),
    ("a.csv", b"a\n\xff\n", f'FILE: is not CSV: the column "a" is not UTF-8; {CONVERT}'),
    ("a.npz", b"", NOT_NPZ),
    ("a.npz", b"text", NOT_NPZ),
    ("a.npz", bare_array(), NOT_NPZ),
    ("a.npz", archive(a=np.arange(3))[:60], NOT_NPZ),
    ("a.npz", archive(a=np.arange(3), b=np.eye(4)[0]),
     "FILE: is not NPZ: its arrays have different lengths: {'a': 3, 'b': 4}"),
    ("a.npz", archive(a=np.eye(2)),
     f"FILE: is not NPZ: the array 'a' has 2 dimensions; {OWN_NAME}, or use --type a=embedding"),
    ("a.npz", archive(a=np.float64(2)), f"FILE: is not NPZ: the array 'a' has 0 dimensions; {OWN_NAME}"),
    ("a.npz", archive(a=np.array([{}])), "FILE: is not NPZ: Array can't be memory-mapped: Python objects in dtype."),
    ("a.npz", archive(), "FILE: has no rows to profile"),
    ("a.jsonl", b"", "FILE: has no rows to profile"),
    ("a.jsonl", b"[1]\n", "FILE: is not JSONL: row 1: expected an object"),
    ("a.jsonl", b'{"a": 1}\n{"a":', "FILE: is not JSONL: row 2: Expecting value: line 1 column 6 (char 5)"),
    ("a.jsonl", b'{"a": nan}\n', "FILE: is not JSONL: row 1: Expecting value: line 1 column 7 (char 6)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES)
def test_a_file_that_cannot_be_profiled_is_an_error(tmp_path, name, content, message):
    """Each error is one line that names the file and the cause."""
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
        ({"prediction_column": "x"}, 'FILE: has no column "x"; valid values: age, country'),
        ({"types": {"ag": "numeric"}}, 'FILE: has no column "ag"; did you mean "age"?'),
        ({"types": {"age": "numbers"}}, 'FILE: "numbers" is not a valid input type; did you mean "numeric"?'),
        ({"types": {"country": "image"}}, 'FILE: no value of the column "country" is an image'),
    ],
)
def test_invalid_options_are_explained(tmp_path, options, message):
    """A missing column, or an impossible type, is named with a suggestion."""
    path = tmp_path / "a.csv"
    path.write_text("age,country\n3,NL\n")
    with pytest.raises(ProfileError) as error:
        build_file(path, **options)
    assert str(error.value).replace(str(path), "FILE") == message


# --- batches, types and what is odd ----------------------------------------------------------


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "jsonl"])
def test_data_that_do_not_fit_are_counted_exactly(tmp_path, kind):
    """With more distinct values than fit in memory, a further pass counts exactly, in each format."""
    path = write(tmp_path, kind)
    profile = build(FileSource(path, block=2000), Options(exact=100, bins=5))
    income = np.sort(INCOME[np.isfinite(INCOME)])
    feature = profile.features["income"]
    assert np.diff(income.searchsorted(feature.edges)).tolist() == list(feature.counts[1:-3])
    assert feature.mean == pytest.approx(income.mean())
    assert profile.features["country"] == build_file(path).features["country"]
    other = build(FileSource(write(tmp_path, "csv")), Options(exact=100, bins=5)).features["income"]
    assert (feature.edges, feature.counts) == (other.edges, other.counts)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_columns_that_are_read_alone_are_binned_exactly(tmp_path, kind):
    """Numeric columns are read one at a time: those that fit alone need no sketch, however many there are."""
    rng = np.random.default_rng(3)
    columns = {
        "plain": rng.normal(size=12_000),
        "single": rng.normal(size=12_000).astype(np.float32),
        "gaps": np.where(rng.random(12_000) < 0.1, np.nan, rng.lognormal(size=12_000)),
        "wild": np.where(rng.random(12_000) < 0.1, np.inf, rng.normal(size=12_000)),
        "whole": rng.integers(-(10**9), 10**9, 12_000),
    }
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, **columns, nulls=columns["gaps"])
    else:
        nulls = pa.array(columns["gaps"], from_pandas=True)
        parquet.write_table(pa.table({**columns, "nulls": nulls}), path, row_group_size=5000)
    features = build_file(path, exact=12_000).features
    for name, values in columns.items():
        exact = numeric_feature(values.astype(np.float64))
        assert features[name] == (msgspec.structs.replace(exact, precision="single") if name == "single" else exact)
    assert features["nulls"] == features["gaps"]
    assert build_file(path, exact=11_999).features["plain"] != features["plain"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_unselected_columns_are_not_read(tmp_path, kind):
    """Selected columns are the same as among all; without any only the rows are counted."""
    source = FileSource(write(tmp_path, kind), block=2000)
    all_batches = list(source.batches())
    some = list(source.batches({"income", "country"}))
    assert [batch.columns.keys() for batch in some] == [{"income", "country"}] * len(some)
    for name in ("income", "country"):
        alone, together = (
            np.concatenate([batch.columns[name] for batch in batches]) for batches in (some, all_batches)
        )
        np.testing.assert_array_equal(alone, together)
    none = list(source.batches(set()))
    assert sum(batch.rows for batch in none) == ROWS
    assert not any(batch.columns for batch in none)


def test_a_csv_column_is_of_one_type_to_its_last_row(tmp_path):
    """A column with a late text is text from its first row; spaces around numbers are ignored."""
    path = tmp_path / "a.csv"
    path.write_text("code,flag,size\n" + "7,true, 1.5\n" * 2000 + "x7,false,2 \n,,\n")
    profile = build(FileSource(path, block=200), Options())
    assert profile.inputs == {"code": "categorical", "flag": "boolean", "size": "numeric"}
    assert profile.features["code"].categories == ("7", "x7")
    assert profile.features["flag"].counts == (2000, 1, 0, 1, 0)
    assert profile.features["size"].max == 2.0


def test_long_and_broken_rows_of_csv(tmp_path):
    """A text of megabytes, and one with line breaks in it, are one row each, wherever they stand."""
    path = tmp_path / "a.csv"
    path.write_text("n,t\n" + '1,"two\nlines"\n' * 500 + "2," + "y" * 3_000_000 + "\n")
    feature = build(FileSource(path, block=4000), Options()).features["t"]
    assert feature.categories == ("two\nlines",)
    assert feature.counts == (500, 1, 0, 0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, None], "numeric"),
        ([None, None], "numeric"),
        ([True, False, None], "boolean"),
        ([True, 1], "categorical"),
        (["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00", None], "timestamp"),
        (["2026-01-02", "2026-01-03"], "timestamp"),
        (["2026-01-02", "tomorrow"], "categorical"),
        (["NL", "DE"], "categorical"),
        (["sold as seen on the day"] * 5 + ["returned to the shop later"] * 5, "categorical"),
        ([f"row {n} of a text with many words" for n in range(9)], "text"),
        ([f"第{n}条评论说这个商品非常好用" for n in range(9)], "text"),
        ([f"8f14e45f-ceea-467f-a{n:03d}-c9f0f895fb98" for n in range(99)], "categorical"),
        ([[0.1, 0.2], [1, 2], None], "embedding"),
        ([[[1, 2], [3, 4]]], "image"),
        (["a", 1, [2]], "categorical"),
    ],
)
def test_types_are_inferred(tmp_path, values, kind):
    """Each column gets the type of its values."""
    path = lines(tmp_path / "a.jsonl", [{"x": value} for value in values])
    assert build_file(path).inputs == {"x": kind}


def test_times_of_parquet_and_npz_are_timestamps(tmp_path):
    """Dates and times of Parquet and NPZ give the same as their RFC 3339 strings in CSV."""
    moments = np.datetime64("2026-01-01T12:00:00") + np.arange(50) * np.timedelta64(3601, "s")
    seen = [int(moment.astype("datetime64[s]").astype(int)) + 60 for moment in moments]
    parquet.write_table(pa.table({"when": moments, "seen": seen}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", when=moments, seen=seen)
    (tmp_path / "a.csv").write_text("when,seen\n" + "".join(f"{m}Z,{s}\n" for m, s in zip(moments, seen, strict=True)))
    made = [build_file(tmp_path / f"a.{kind}", time_column="seen") for kind in ("parquet", "npz", "csv")]
    assert made[0] == made[1] == made[2]
    assert made[0].inputs == {"when": "timestamp"}
    assert made[0].features["when.age_seconds"].edges[0] == made[0].features["when.age_seconds"].max == 60


def test_matrices_are_embeddings_if_the_type_is_given(tmp_path):
    """A two-dimensional array is an embedding if its type is given, as lists of JSON lines are without."""
    vectors = RNG.normal(size=(60, 3))
    np.savez(tmp_path / "a.npz", v=vectors)
    lines(tmp_path / "a.jsonl", [{"v": vector} for vector in vectors.tolist()])
    assert build_file(tmp_path / "a.npz", types={"v": "embedding"}) == build_file(tmp_path / "a.jsonl")


def test_unusual_columns(tmp_path):
    """Constant, missing, infinite, huge, tiny and integer columns all have bins, and no value is lost."""
    columns = {
        "constant": np.full(100, 3.0),
        "missing": np.full(100, np.nan),
        "infinite": np.where(np.arange(100) < 10, np.inf, np.arange(100.0)),
        "huge": np.linspace(-1, 1, 100) * 1.7e308,
        "tiny": np.arange(100) * 5e-324,
        "big": 2**62 + np.arange(100),
        "small": np.arange(100, dtype=np.uint8),
        "half": np.arange(100, dtype=np.float16),
    }
    np.savez(tmp_path / "a.npz", **columns)
    profile = build_file(tmp_path / "a.npz")
    assert set(profile.inputs.values()) == {"numeric"}
    assert all(sum(feature.counts) == 100 for feature in profile.features.values())
    assert profile.features["constant"].stddev == 0
    assert profile.features["constant"].counts == (0, 100, 0, 0, 0)
    assert profile.features["missing"].counts == (0, 100, 0)
    assert profile.features["infinite"].counts[-1] == 10
    assert profile.features["huge"].stddev == pytest.approx(1.7e308 / 3**0.5, rel=0.02)
    assert len(profile.features["tiny"].counts) == len(profile.features["small"].counts) == 24


def test_confidence_has_bins_and_is_no_feature(tmp_path):
    """The confidence column becomes the profile's confidence, as a number; label and time are no features either."""
    rows = [{"x": 1, "p": "a", "sure": n / 100, "truth": "a", "at": n} for n in range(100)]
    path = lines(tmp_path / "a.jsonl", rows)
    options = {"prediction_column": "p", "confidence_column": "sure", "time_column": "at", "ignore": ["truth"]}
    profile = build_file(path, **options)
    assert profile.inputs == {"x": "numeric"}
    assert profile.confidence.mean == pytest.approx(0.495)
    save(profile, tmp_path / "p.json")
    assert load(tmp_path / "p.json").confidence == profile.confidence
    assert build_file(path).confidence is None


@pytest.mark.parametrize("kind", ["text", "embedding", "timestamp"])
def test_a_type_that_no_value_has_is_refused(tmp_path, kind):
    """A given type that none of the column's values can have is an error."""
    path = lines(tmp_path / "a.jsonl", [{"x": True}] * 3)
    with pytest.raises(ProfileError, match=r'no value of the column "x" is an? '):
        build_file(path, types={"x": kind})


def test_an_invalid_line_is_numbered(tmp_path):
    """A line that is not JSON is refused with its number."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 500 + '{"a": \n')
    with pytest.raises(ProfileError, match="is not JSONL: row 501: "):
        build(FileSource(path, block=1000), Options())


def test_single_precision_training_and_double_live_values_are_the_same(tmp_path):
    """0.1 of a 32-bit training column is the 0.1 that a client writes in JSON, and the one that it widens."""
    values = np.tile(np.array([0.1, 0.2, 0.3, 0.7], dtype=np.float32), 500)
    parquet.write_table(pa.table({"x": pa.array(values)}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", x=values)
    for name in ("a.parquet", "a.npz"):
        binner = Binner(build_file(tmp_path / name))
        for live in ([0.1, 0.2, 0.3, 0.7], [float(value) for value in values[:4]]):
            row, *_ = count(binner, [{"x": value} for value in live * 50], [])
            assert binner.reference.kl_divergence(binner.split(row).counts)[0] < 0.01
            assert binner.split(row).unseen[0] == 0


def test_two_features_of_one_name_are_refused(tmp_path):
    """A column named like a statistic of another is refused, not overwritten."""
    path = lines(tmp_path / "a.jsonl", [{"t": "2026-01-01", "t.hour": n} for n in range(9)])
    with pytest.raises(ProfileError, match=r'two features are called "t.hour"; rename or ignore a column'):
        build_file(path)


def test_a_column_with_the_name_of_an_output_is_refused(tmp_path):
    """The name that a profile gives the predictions, or the confidences, is not that of a feature beside them."""
    path = lines(tmp_path / "a.jsonl", [{"(prediction)": n, "p": "x"} for n in range(9)])
    with pytest.raises(ProfileError, match=r'column "\(prediction\)" has the name that profiles give the column "p"'):
        build_file(path, prediction_column="p")
    assert build_file(path, prediction_column="p", ignore=["(prediction)"]).features == {}


def test_the_type_of_a_prediction_can_be_given(tmp_path):
    """A few integers are classes, unless the type is given as numeric."""
    path = lines(tmp_path / "a.jsonl", [{"x": 1, "p": n % 3} for n in range(30)])
    assert build_file(path, prediction_column="p").prediction.categories == ("0", "1", "2")
    assert build_file(path, prediction_column="p", types={"p": "numeric"}).prediction.mean == 1


def test_missing_and_constant_columns_of_every_type_are_profiled(tmp_path):
    """A column with one value that stands once among nulls is profiled in each type."""
    rows = [{}] * 9 + [
        {"t": "a text of a few words", "v": [1.0, 2.0], "i": [[1, 2], [3, 4]], "m": "2026-01-01", "b": True}
    ]
    profile = build_file(lines(tmp_path / "a.jsonl", rows))
    assert set(profile.inputs.values()) == {"text", "embedding", "image", "timestamp", "boolean"}
    assert {feature.counts[-2] for feature in profile.features.values()} == {9}
    assert {sum(feature.counts) for feature in profile.features.values()} == {10}


def profiled(path: Path, text: str, **options: object):
    path.write_text(text)
    return build(FileSource(path, Options(**options).known_types(), block=1000), Options(**options))


@pytest.mark.parametrize("marker", ["NA", "NULL", "nan", "None", "n/a"])
def test_null_markers_are_missing_among_numbers_and_categories_among_texts(tmp_path, marker):
    """NA in a column of numbers, booleans or times is missing; among texts it is a category."""
    rows = "NL,1,true,2026-01-02\n" * 300 + f"{marker},{marker},{marker},{marker}\n" + "DE,2,false,2026-01-03\n,,,\n"
    profile = profiled(tmp_path / "a.csv", "country,n,b,t\n" + rows)
    assert profile.inputs == {"country": "categorical", "n": "numeric", "b": "boolean", "t": "timestamp"}
    assert sorted(profile.features["country"].categories) == sorted(["NL", "DE", marker])
    assert profile.features["country"].counts[-2:] == (1, 0)
    for name in ("n", "b", "t.hour"):
        assert profile.features[name].counts[-2:] == (2, 0)


def test_digits_with_a_leading_zero_are_codes(tmp_path):
    """Integers with leading zeros are unchanged categories; decimals and plain integers are numbers."""
    rows = "12345,0.5,10,00.5\n" * 300 + "01234,0,0,01.5\n"
    profile = profiled(tmp_path / "a.csv", "zip,share,n,padded\n" + rows)
    assert profile.inputs == {"zip": "categorical", "share": "numeric", "n": "numeric", "padded": "numeric"}
    assert profile.features["zip"].categories == ("12345", "01234")
    given = profiled(tmp_path / "a.csv", "zip,share,n,padded\n" + rows, types={"zip": "numeric", "n": "categorical"})
    assert given.features["zip"].min == 1234
    assert given.features["n"].categories == ("10", "0")


def test_an_invalid_cell_does_not_change_the_type(tmp_path):
    """In a column given as numeric, boolean or time, an invalid cell is counted as such, and all others by the type."""
    rows = (
        "".join(f"{n},true,2026-01-02,{n / 1000}\n" for n in range(300)) + "?,?,?,?\n +5 ,FALSE,1767312000,1\nNA,,,\n"
    )
    types = {"x": "numeric", "b": "boolean", "t": "timestamp"}
    profile = profiled(tmp_path / "a.csv", "x,b,t,sure\n" + rows, types=types, confidence_column="sure")
    assert profile.features["x"].counts[-2:] == profile.features["b"].counts[-2:] == (1, 1)
    assert profile.features["t.hour"].counts[-2:] == profile.confidence.counts[-2:] == (1, 1)
    assert (profile.features["x"].min, profile.features["x"].max) == (0, 299)
    assert profile.features["b"].counts[:2] == (300, 1)
    assert sum(profile.features["t.hour"].counts) == 303
    assert profile.confidence.max == 1
