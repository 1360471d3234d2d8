from __future__ import annotations

import gzip
import json
import os
import pty
import re
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from support.batches import count
from support.processes import run_command
from support.rows import training
from support.servers import Served, eventually, serving, write_config

from exporter.cli import disable_slow_avx512
from exporter.commands import common
from exporter.commands.common import Progress
from exporter.monitoring.binner import Binner
from exporter.profiles.describe import profile_lines
from exporter.profiles.profile import load

EVERYTHING = {"models": [{"name": "shop", "profile": "shop.json"}, {"name": "other"}]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose model has an input of every type, and its training file ``shop.jsonl``."""
    folder = tmp_path_factory.mktemp("shop")
    rows = [row | {"sells": n % 2 == 0, "sure": n % 100 / 100} for n, row in enumerate(training(600))]
    (folder / "shop.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["profile", str(folder / "shop.jsonl"), "--prediction-column=sells", "--confidence-column=sure"]
    assert run_command(*command).returncode == 0
    write_config(folder, EVERYTHING)
    with serving(folder) as server:
        yield server


def events(rows: list[dict[str, object]], **fields: object) -> list[dict[str, object]]:
    return [
        {"model": "shop", "version": "1", "inputs": row, "prediction": True, "confidence": 0.5} | fields for row in rows
    ]


def test_every_type_is_monitored_end_to_end(shop):
    """A served model has the metrics of every feature of every type, and invalid values are counted, not refused."""
    bad = {
        "review": 7,
        "vector": [1.0],
        "photo": "x" * 1_000_000,
        "ordered": "soon",
        "member": "yes",
        "country": "x" * 10**6,
    }
    answer = shop.post("/v1/predictions", events([*training(40, seed=9), bad]))
    assert (answer.status, answer.json) == (202, {"accepted": 41, "rejected": []})
    # The first image brings its library: on a busy machine a scrape does not wait so long.
    eventually(lambda: shop.samples("model_attempts_total"))
    samples = shop.samples("model_feature_kl_divergence", "model_feature_invalid_ratio")

    def sample(name: str, feature: str) -> float:
        return samples[f'{name}{{model="shop",version="1",feature="{feature}",window="5m"}}']

    for feature in load(shop.folder / "shop.json").features:
        assert np.isfinite(sample("model_feature_kl_divergence", feature))
    for feature in ("review.words", "vector.component_1", "photo.contrast", "ordered.hour", "member"):
        assert sample("model_feature_invalid_ratio", feature) == pytest.approx(1 / 41)


def test_stored_predictions_become_a_profile(shop, run):
    """Stored predictions of a version give a profile with their labels, if any came; invalid values are counted."""
    shop.post("/v1/predictions", events([{"amount": 1, "review": 7}], version="10"))
    shop.post("/v1/predictions", events([{}], model="other"))
    shop.post("/v1/predictions", events(training(50, seed=1), version="9", prediction="sold"))
    output = shop.folder / "production.json"
    options = [f"--config.file={shop.folder / 'exporter.yml'}", "--from-store", "--model=shop", f"--output={output}"]

    of_an_hour = ("profile", *options, "--version=9", "--last=1h")
    eventually(lambda: "50 rows profiled into" in run_command(*of_an_hour).stdout)
    profile = load(output)
    trained = load(shop.folder / "shop.json")
    assert profile.name == "shop"
    assert profile.inputs == trained.inputs
    assert profile.prediction.categories == ("sold",)
    assert profile.confidence.counts[1] == 50
    assert profile.quality is None
    assert profile.features["ordered.age_seconds"].min > 0
    sums = Binner(profile).split(count(Binner(profile), training(50, seed=1), ["sold"] * 50).row)
    assert sums.counts[Binner(profile).missing].sum() == sums.counts[Binner(profile).invalid].sum() == 0
    shop.post("/v1/predictions", events(training(1, seed=2), prediction="sold", id="known"))
    assert shop.post("/v1/labels", [{"prediction_id": "known", "label": "kept"}]).json["accepted"] == 1
    eventually(lambda: run("profile", *options) and load(output).quality)
    everything = load(output)
    assert everything.inputs == trained.inputs
    assert everything.features["review.words"].counts[-1] >= 1
    assert everything.rows > 50


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, 'profile: expected one of TRAINING_FILE, --sql, --from-store or --describe PROFILE'),
        (["a.csv", "--from-store"], 2,
         'profile: expected one of TRAINING_FILE, --sql, --from-store or --describe PROFILE'),
        (["--from-store"], 1, "--model: expected shop or other"),
        (["--from-store", "--model=shopp"], 1, '--model: is not in exporter.yml; did you mean "shop"?'),
        (["--from-store", "--model=shop", "--last=1x"], 2, '--last: expected a duration such as 5m or 1h, got "1x"'),
        (["--from-store", "--model=shop"], 1,
         "store.url: there is no database sqlite:////FOLDER/data/model-exporter.db"),
        (["--from-store", "--model=shop", "--label-column=p"], 2,
         "--from-store: the database has its own columns of prediction, confidence, time and label"),
        (["--describe=a.json"], 1, "a.json: cannot be read: No such file or directory"),
        (["a.csv", "--type=age"], 2, "--type: expected NAME=TYPE such as zip=categorical, got age"),
        (["a.csv", "--type=age=numbr"], 2, '--type: "numbr" is not a valid type; did you mean "numeric"?'),
        (["a.csv", "--label-column=p"], 2,
         '--label-column: set --prediction-column, since the label "p" is compared with it'),
        (["a.csv", "--confidence-percent"], 2,
         "--confidence-percent: needs --confidence-column, which names the column that is in percent"),
        (["a.csv", "--config.file=a.yml"], 2, "--config.file: goes only with --from-store: leave it out"),
        (["a.csv", "--database=duckdb:///a.db"], 2, "--database: goes only with --sql: leave it out"),
        (["--sql=a", "--delimiter=;"], 2, "--delimiter: goes only with TRAINING_FILE: leave it out"),
        (["--sql=a"], 2, "--sql: set --database, or MODEL_EXPORTER_DATABASE, to the URL of its database"),
        (["a.csv", "--last=1d"], 2, "--last: goes only with --from-store: leave it out"),
        (["--from-store", "--delimiter=;"], 2, "--delimiter: goes only with TRAINING_FILE: leave it out"),
        (["--describe=a.json", "--bins=9"], 2, "--bins: --describe only prints a profile: leave out one of them"),
    ],
)  # fmt: skip
def test_invalid_usage_is_explained(tmp_path, monkeypatch, run, options, status, message):
    """Each error on the command line is one line with the valid alternative; the status is 2 unless a file decides."""
    (tmp_path / "exporter.yml").write_text(json.dumps({"models": [{"name": "shop"}, {"name": "other"}]}))
    monkeypatch.chdir(tmp_path)
    error = run("profile", *options, status=status).err.replace(str(tmp_path), "/FOLDER")
    assert error == f"model-exporter: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["exporter.yml"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("folder", "it is a folder"),
        ("a.csv/p.json", "/FOLDER/a.csv is not a folder"),
        ("/proc/p.json", "No such file"),
        (f"{'n' * 300}/p.json", "File name too long"),
    ],
)
def test_a_profile_that_cannot_be_written_is_an_error(tmp_path, run, output, reason):
    """The message says why, and nothing is left behind."""
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    (tmp_path / "folder").mkdir()
    assert f"{output}: cannot be written: {reason}" in run(
        "profile", str(tmp_path / "a.csv"), f"--output={tmp_path / output}", status=1
    ).err.replace(str(tmp_path), "/FOLDER")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "folder"}


def test_a_version_without_stored_predictions_is_an_error(shop, run):
    """A version without stored predictions cannot be profiled."""
    options = [f"--config.file={shop.folder / 'exporter.yml'}", "--from-store", "--model=shop", "--version=none"]
    assert run("profile", *options, status=1).err.endswith(
        "model-exporter.db: shop version none: has no rows to profile\n"
    )


def test_unusual_columns_are_reported(tmp_path, run):
    """The command names constant and empty columns, shares of missing and invalid values, and where ages begin."""
    rows = [{"a": 3, "b": None, "c": "x", "d": n if n else None, "e": n, "t": "2026-01-01"} for n in range(100)]
    rows[5]["e"] = "five"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out, err = run("profile", str(tmp_path / "a.jsonl"), "--type=e=numeric")
    assert out.splitlines() == [
        "a: numeric, 5 bins; always 3",
        "b: numeric, 3 bins; no value at all; 100.0% missing",
        "c: categorical, 1 categories; always x",
        "d: numeric, 24 bins; 1.0% missing",
        "e: numeric, 24 bins; 1.0% invalid",
        next(line for line in out.splitlines() if line.startswith("t.age_seconds: timestamp, 5 bins; always ")),
        "t.hour: timestamp, 5 bins; always 0",
        f"100 rows profiled into {tmp_path / 'a.json'}",
    ]
    assert err.splitlines() == [
        "model-exporter: the age of t is measured from now: set --time-column to the time of a row",
        "model-exporter: warning: d: is an identifier, different in every row: set --ignore=d",
        "model-exporter: warning: 100 rows are few for 20 bins: profile at least 200, or set --bins=10",
    ]
    assert run("profile", str(tmp_path / "a.jsonl"), "--type=e=numeric").out.endswith(
        "a.json, which replaces the file that was there\n"
    )


def test_surprising_interpretations_of_csv_are_reported(tmp_path, run):
    """Codes that look like numbers and texts that may mean a missing value are named, unless the type was given."""
    path = tmp_path / "a.csv"
    path.write_text("zip,country,n\n01234,NL,1\n99999,NA,NA\n")
    notes = [
        "zip: categorical, 2 categories; digits that begin with 0 are read as texts, unless --type says otherwise",
        "country: categorical, 2 categories; NA and the like are read as texts; only an empty cell is missing",
        "n: numeric, 5 bins; always 1; 50.0% missing",
    ]
    assert run("profile", path).out.splitlines()[:3] == notes
    assert run("profile", path, "--type=zip=categorical", "--type=country=categorical").out.splitlines()[:3] == [
        *(line.partition(";")[0] for line in notes[:2]),
        notes[2],
    ]


# --- the picture -----------------------------------------------------------------------------


def test_a_profile_is_described(shop, run):
    """The lines that are printed when it is made, with its name and time."""
    path = shop.folder / "shop.json"
    first, *lines = run("profile", "--describe", path).out.splitlines()
    assert re.fullmatch(r"shop: [\d,]+ rows, made \d{4}-\d\d-\d\d \d\d:\d\d UTC, hash [0-9a-f]{12}", first)
    assert lines == [*profile_lines(load(path))]
    assert {line.partition(":")[0] for line in lines} >= load(path).features.keys()
    assert "member: boolean, 2 categories" in lines


def test_the_quality_on_labelled_rows_is_described(tmp_path, run):
    """The accuracy has a line for each range of confidences; the error names what explains it."""
    rng = np.random.default_rng(0)
    x, sure = rng.normal(size=2000), rng.uniform(0.5, 1, 2000)
    right = rng.random(2000) < sure
    error = rng.normal(size=2000) * (0.1 + abs(x))
    columns = {"x": x, "sure": sure, "kind": ["a"] * 2000, "kind_label": np.where(right, "a", "b")}
    pd.DataFrame({**columns, "price": x, "price_label": x + error}).to_csv(tmp_path / "a.csv", index=False)
    classifier = ["--prediction-column=kind", "--confidence-column=sure", "--label-column=kind_label"]
    regression = ["--prediction-column=price", "--label-column=price_label"]
    others = {"--prediction-column=kind": ["price", "price_label"], "--prediction-column=price": ["kind", "kind_label"]}
    described = []
    for options in (classifier, regression):
        ignored = [f"--ignore={name}" for name in others[options[0]]]
        described.append(run("profile", str(tmp_path / "a.csv"), *options, *ignored).out)
    assert re.search(
        r"\n\(quality\)  accuracy 7\d\.\d% \(7\d\.\d to 7\d\.\d%\) over 2,000 labelled rows\n", described[0]
    )
    lines = re.findall(r"confidence (0\.\d+) to .*: (\d+\.\d)% right of (\d+)", described[0])
    assert len(lines) == 10
    assert sum(int(rows) for *_, rows in lines) == 2000
    assert float(lines[0][1]) < 65 < 85 < float(lines[-1][1])
    assert "\n(quality)  mean absolute error 0." in described[1]
    assert "\n  error expected by: " in described[1]


# --- progress --------------------------------------------------------------------------------


def test_progress_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal one line is drawn again, and is erased at the end."""
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(common, "DRAW_SECONDS", 0)
        with Progress(log=True) as progress:
            progress("values", 0.5, 1_200_000)
        shown = ""
        # The line is erased; a terminal may hand over what was written in parts.
        while not shown.endswith("\r\x1b[K") or shown.count("\x1b[K") < 2:
            shown += os.read(parent, 10_000).decode()
    os.close(parent)
    assert shown == "\r\x1b[Kvalues: 50%, 1,200,000 rows\r\x1b[K"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(("encoding", "advice"), [("utf-16", "UTF-16"), ("latin-1", "WINDOWS-1252")])
def test_text_in_another_encoding_is_refused_with_the_conversion(tmp_path, run, name, encoding, advice):
    """A file that is not UTF-8 is named, with the command that converts it."""
    path = tmp_path / name
    text = "name\nJosé\n" if name == "a.csv" else '{"name": "José"}\n'
    path.write_bytes(text.encode(encoding))
    error = run("profile", path, status=1).err
    assert error.startswith(f"model-exporter: {path}: is not ")
    assert error.endswith(f"convert it, for example with iconv -f {advice} -t UTF-8\n")


@pytest.mark.parametrize(
    ("described", "setting"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: sse2 avx2 avx512f avx512dq\n", "X86_V4"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: sse2 avx2\n", None),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t\t: avx2 avx512f\n", None),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\nflags\t\t: avx2 avx512f\n", None),
        ("CPU architecture: 8\nFeatures\t: asimd sve\n", None),
        (None, None),
    ],
)
def test_numpy_sorts_without_avx512_where_that_is_slow(tmp_path, monkeypatch, described, setting):
    """AVX-512 is disabled only on processors that compress vectors slowly, and not if the user has set the variable."""
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "")
    monkeypatch.delenv("NPY_DISABLE_CPU_FEATURES")
    path = tmp_path / "cpuinfo"
    if described is not None:
        path.write_text(f"processor\t: 0\n{described}\nprocessor\t: 1\n{described}")
    disable_slow_avx512(path)
    assert os.environ.get("NPY_DISABLE_CPU_FEATURES") == setting
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "AVX512_SPR")
    disable_slow_avx512(path)
    assert os.environ["NPY_DISABLE_CPU_FEATURES"] == "AVX512_SPR"


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "npz"])
def test_compressed_files_have_the_same_profile(tmp_path, ending, run):
    """A file with .gz is read as the one in it, and the profile is named as if it were not compressed."""
    table = pa.table({"age": [float(n % 50) for n in range(300)], "country": ["NL", "DE", "FR"] * 100})
    plain = tmp_path / f"loans.{ending}"
    if ending == "csv":
        csv.write_csv(table, plain)
    elif ending == "parquet":
        parquet.write_table(table, plain)
    elif ending == "jsonl":
        plain.write_text("\n".join(map(json.dumps, table.to_pylist())))
    else:
        np.savez(plain, **{name: np.array(table[name].to_pylist()) for name in table.column_names})
    run("profile", plain)
    expected = (tmp_path / "loans.json").read_bytes()
    (tmp_path / "loans.json").unlink()
    compressed = tmp_path / f"loans.{ending}.gz"
    compressed.write_bytes(gzip.compress(plain.read_bytes()))
    assert "300 rows profiled" in run("profile", compressed).out
    profile, from_plain = json.loads((tmp_path / "loans.json").read_text()), json.loads(expected)
    assert {**profile, "created": 0, "hash": 0} == {**from_plain, "created": 0, "hash": 0}


def test_incomplete_compressed_files_are_named(tmp_path, run):
    """A broken or unknown compressed file is an error with its name, and no profile is written."""
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(b"age\n1\n" * 1000)[:30])
    (tmp_path / "table.xls.gz").write_bytes(gzip.compress(b"x"))
    for name, message in (("half.csv.gz", "is not complete gzip: "), ("table.xls.gz", "expected a file that ends in ")):
        assert f"{name}: {message}" in run("profile", str(tmp_path / name), status=1).err
    assert list(tmp_path.glob("*.json")) == []
