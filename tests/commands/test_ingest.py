"""``model-exporter ingest``: rows of a batch job, counted here or sent to an exporter that runs."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import csv, parquet
from support import scripts
from support.blocks import with_ratios
from support.labelled_rows import with_outcomes
from support.paths import ROOT
from support.processes import ForkedCommand, Run
from support.programs import prometheus, running
from support.servers import Served, ask, eventually, free_port, serving

from exporter.commands.batch import DRIFTED
from exporter.commands.tables import State
from exporter.profiles.builder import build_file
from exporter.profiles.profile import load, save

OUTPUTS = ("--prediction-column=prediction", "--confidence-column=confidence", "--id-column=id")
PUSHGATEWAY = shutil.which("prometheus-pushgateway") or "pushgateway"


def scores(rows: int, shift: float = 0.0, seed: int = 5) -> pa.Table:
    """What a model scored tonight; ``shift`` moves the income by so many standard deviations."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": [f"r-{number}" for number in range(rows)],
            "age": rng.integers(18, 90, rows),
            "income": rng.normal(3000 + 1000 * shift, 1000, rows),
            "country": rng.choice(["NL", "BE", "DE"], rows, p=[0.6, 0.3, 0.1]),
            "prediction": rng.choice(["yes", "no"], rows),
            "confidence": rng.beta(4, 1, rows),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile, a configuration, and tonight's scores in each format."""
    folder = tmp_path_factory.mktemp("batch")
    parquet.write_table(scores(3000, seed=1), folder / "training.parquet")
    outputs = {"prediction_column": "prediction", "confidence_column": "confidence", "ignore": ["id"]}
    save(build_file(folder / "training.parquet", name="loans", **outputs), folder / "loans.json")
    model = {"name": "loans", "profile": "loans.json", "segment_by": "country", "segments": ["NL", "BE"]}
    (folder / "exporter.yml").write_text(yaml.safe_dump({"models": [model, {"name": "bare"}]}))
    write_all(folder, "tonight", scores(2500, shift=2.0))
    write_all(folder, "well", scores(2500))
    return folder


def write_all(folder: Path, name: str, table: pa.Table) -> None:
    parquet.write_table(table, folder / f"{name}.parquet")
    csv.write_csv(table, folder / f"{name}.csv")
    rows = table.to_pylist()
    (folder / f"{name}.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    with gzip.open(folder / f"{name}.csv.gz", "wb") as file:
        file.write((folder / f"{name}.csv").read_bytes())
    np.savez(folder / f"{name}.npz", **{c: np.array(table[c].to_pylist()) for c in table.column_names})
    events = [prediction(row) for row in rows]
    (folder / f"{name}.predictions.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, events)))


def prediction(row: dict[str, Any]) -> dict[str, Any]:
    """A row in the wire format."""
    inputs = {name: row[name] for name in ("age", "income", "country")}
    outputs = {name: row[name] for name in ("id", "prediction", "confidence")}
    return {"model": "loans", "version": "3", "inputs": inputs, **outputs}


@pytest.fixture
def ingest(run: Run) -> Run:
    """Runs the command."""
    return partial(run, "ingest")


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Values by name and labels, model and version left out."""
    return {
        (s.name, tuple((k, v) for k, v in s.labels.items() if k not in {"model", "version"})): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


# --- counted here ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "csv.gz", "npz", "predictions.jsonl"])
def test_every_format_gives_the_same_window(folder: Path, tmp_path: Path, ingest: Run, ending: str) -> None:
    """The gauges of a run are those of its rows, whatever the file format."""
    columns = () if "predictions" in ending else (*OUTPUTS, "--model=loans", "--version=3")
    config = f"--config.file={folder / 'exporter.yml'}"
    target = tmp_path / "out.prom"
    out, err = ingest(
        folder / f"tonight.{ending}", *columns, config, f"--textfile={target}", "--fail-on-drift", status=DRIFTED
    )
    assert err == ""
    assert "2,500 rows, 2,500 accepted, 0 rejected" in out
    assert re.search(r"^  income +\d\.\d+ +0\.\d+ +0\.3  drifted$", out, re.M)
    text = target.read_text()
    assert text.count('model="loans",version="3"') == sum("{" in line for line in text.splitlines())
    values = samples(text)
    table = scores(2500, shift=2.0)
    income = (("feature", "income"), ("window", "run"))
    assert values["model_feature_mean", income] == pytest.approx(np.mean(table["income"].to_numpy()))
    assert values["model_feature_window_observations", income] == 2500
    assert values["model_feature_kl_divergence", income] > 1 > values["model_feature_kl_divergence_noise", income]
    assert values["model_prediction_kl_divergence", (("window", "run"),)] < 0.01
    assert values["model_confidence_kl_divergence", (("window", "run"),)] < 0.1
    assert values["model_multivariate_drift", (("window", "run"),)] < 0.1
    assert values["model_segment_kl_divergence", (("segment", "BE"), ("feature", "income"))] > 1
    assert values["model_batch_rows", ()] == 2500
    assert values["model_batch_rejected_rows", ()] == 0
    confidences = table["confidence"].to_numpy()
    assert values["model_batch_confident_ratio", ()] == pytest.approx(np.mean(confidences >= 0.8))
    assert time.time() - values["model_batch_last_success_timestamp_seconds", ()] < 60
    names = {name for name, _ in values}
    assert not any(name.endswith("_total") or "recent" in name for name in names)


def test_the_report_says_which_noise_is_higher_and_why(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Where values depended on each other in training, a run has the higher noise floor, and its gauges have it."""
    profile = with_ratios(load(folder / "loans.json"), [20, 40, 80], {"income": [5, 5, 5], "(confidence)": [3, 3, 3]})
    save(profile, tmp_path / "loans.json")
    target = tmp_path / "out.prom"
    flags = [*OUTPUTS, "--model=loans", "--version=3", f"--textfile={target}"]
    before = ingest(folder / "well.parquet", *flags, f"--profile={folder / 'loans.json'}").out
    independent = samples(target.read_text())
    out = ingest(folder / "well.parquet", *flags, f"--profile={tmp_path / 'loans.json'}").out
    dependent = samples(target.read_text())
    noise = "model_feature_kl_divergence_noise", (("feature", "income"), ("window", "run"))
    assert dependent[noise] == pytest.approx(5 * independent[noise])
    assert "depend" not in before
    assert re.search(
        r"^  in training, values are autocorrelated, which raises the noise of "
        r"(income, \(confidence\)|\(confidence\), income):\n  2,500 of income have an effective sample size of 500$",
        out,
        re.M,
    )


def test_a_table_as_a_spreadsheet_writes_it(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Semicolons, decimal commas and a confidence in percent count as the same table written plainly does."""
    rows = scores(2500).to_pylist()
    for row in rows:
        row["confidence"] = f"{100 * row['confidence']}%"
    lines = [";".join(map(str, row.values())).replace(".", ",") for row in rows]
    path = tmp_path / "well.csv"
    path.write_text("\n".join([";".join(rows[0]), *lines]) + "\n")
    flags = [*OUTPUTS, f"--profile={folder / 'loans.json'}"]

    def counts(file: Path, *reading: str) -> list[str]:
        metrics = tmp_path / "a.prom"
        ingest(file, *flags, *reading, f"--textfile={metrics}")
        return [line for line in metrics.read_text().splitlines() if "observations" in line or "_mean{" in line]

    expected = counts(folder / "well.csv")
    assert counts(path, "--delimiter=;", "--decimal=,", "--confidence-percent") == expected != []
    assert any("_mean{" in line for line in expected)


def test_standard_input_is_read(folder: Path) -> None:
    """A pipe is read with a given format; without one the error says what is needed."""
    command = [sys.executable, "-m", "exporter.cli", "ingest", "-", f"--profile={folder / 'loans.json'}"]
    data = (folder / "well.parquet").read_bytes()
    result = subprocess.run([*command, "--format=parquet", *OUTPUTS], input=data, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert b"standard input: 2,500 rows, 2,500 accepted" in result.stdout
    assert b"loans version unknown against the profile loans" in result.stdout
    assert result.stderr == b""  # no bar where nobody looks
    result = subprocess.run(command, input=data, capture_output=True, check=False)
    assert result.returncode == 2
    assert b"--format: is required for standard input: csv, parquet, npz, jsonl or predictions" in result.stderr


def test_invalid_rows_are_refused_and_named(tmp_path: Path, folder: Path, ingest: Run) -> None:
    """Rows that the exporter would refuse are refused, the others are counted, and so are invalid values."""
    lines = ["id,age,income,country,prediction,confidence,when"]
    lines += [f"r-{n},41,3000,NL,yes,0.9,2026-11-24T10:00:00Z" for n in range(20)]
    lines[3] = "r-2,41,3000,NL,yes,1.5,2026-11-24T10:00:00Z"
    lines[5] = f"{'x' * 200},41,3000,NL,yes,0.9,2026-11-24T10:00:00Z"
    lines[7] = "r-6,41,3000,NL,yes,sure,2026-11-24T10:00:00Z"
    lines[9] = "r-8,old,,NL,yes,,2026-11-24T10:00:00Z"
    lines[11] = "r-10,41,3000,NL,yes,0.9,yesterday"
    lines[13] = "r-12,41,3000,NL,yes,0.9,9999-12-31T23:59:59-05:00"
    (tmp_path / "s.csv").write_text("\n".join(lines) + "\n")
    target = tmp_path / "out.prom"
    flags = (f"--profile={folder / 'loans.json'}", *OUTPUTS, "--time-column=when", f"--textfile={target}")
    out = ingest(tmp_path / "s.csv", *flags).out
    assert out.splitlines()[:6] == [
        *[line for line in out.splitlines()[:1] if "20 rows, 15 accepted, 5 rejected" in line],
        "  row 3, confidence: expected a number from 0 to 1, got 1.5",
        f'  row 5, id: expected a string of at most 128 characters, got "{"x" * 58}…',
        '  row 7, confidence: expected a number from 0 to 1, got "sure"',
        '  row 11, when: expected an RFC 3339 time such as "2026-11-24T10:00:00Z", got "yesterday"',
        '  row 13, when: expected a year from 1678 to 2261, got "9999-12-31T23:59:59-05:00"',
    ]
    values = samples(target.read_text())
    assert values["model_feature_window_observations", (("feature", "age"), ("window", "run"))] == 15
    assert values["model_feature_invalid_ratio", (("feature", "age"), ("window", "run"))] == 1 / 15
    assert values["model_feature_missing_ratio", (("feature", "income"), ("window", "run"))] == 1 / 15
    assert values["model_batch_rejected_rows", ()] == 5


def test_invalid_predictions_are_refused_and_named(tmp_path: Path, folder: Path, ingest: Run) -> None:
    """Lines of predictions are validated as the exporter does; blank lines are skipped."""
    good = json.dumps(prediction(scores(1).to_pylist()[0]))
    other = good.replace('"loans"', '"loan"')
    lines = [good, "", other, "{", good, good.replace("{", '{"code": 999, ', 1), good]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    config = f"--config.file={folder / 'exporter.yml'}"
    out = ingest(tmp_path / "log.jsonl", config).out
    first, *reasons = out.splitlines()
    assert "6 rows, 3 accepted, 3 rejected" in first
    assert reasons[0] == '  row 2, model: no model "loan" is configured; did you mean "loans"?'
    assert reasons[1].startswith("  row 3: the body is not JSON")
    assert reasons[2] == "  row 5, code: expected a whole number of at most 599, got 999"


@pytest.mark.parametrize("wire", [True, False])
def test_what_python_writes_for_json_is_read(tmp_path: Path, folder: Path, ingest: Run, wire: bool) -> None:
    """``NaN`` is a missing value and an infinity an invalid one, in predictions and in tables alike."""
    rows = [{"age": float("nan"), "income": 1.0}, {"age": 41, "income": float("inf")}, {"age": 41, "income": 2}]
    events = [{"model": "loans", "inputs": row} for row in rows] if wire else rows
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    target = tmp_path / "out.prom"
    flags = (f"--profile={folder / 'loans.json'}", f"--textfile={target}")
    ingest(tmp_path / "log.jsonl", *flags)
    values = samples(target.read_text())
    assert values["model_feature_missing_ratio", (("feature", "age"), ("window", "run"))] == 1 / 3
    assert values["model_feature_invalid_ratio", (("feature", "income"), ("window", "run"))] == 1 / 3


def test_columns_that_differ_from_the_profile_are_named(tmp_path: Path, folder: Path, ingest: Run) -> None:
    """Missing and unknown columns are reported, and a missing one counts as missing; no known column is an error."""
    flags = (f"--profile={folder / 'loans.json'}", "--prediction-column=prediction")
    (tmp_path / "s.csv").write_text("age,Income,prediction\n41,3000,yes\n")
    target = tmp_path / "o.prom"
    err = ingest(tmp_path / "s.csv", *flags, f"--textfile={target}").err
    assert 'has no column "income": it counts as missing' in err
    assert 'the profile does not contain "Income": not counted' in err
    values = samples(target.read_text())
    assert values["model_feature_missing_ratio", (("feature", "income"), ("window", "run"))] == 1
    (tmp_path / "s.csv").write_text("Alter,prediction\n41,yes\n")
    err = ingest(tmp_path / "s.csv", *flags, status=1).err
    assert 's.csv: has no column of the model\'s profile, but "Alter"; valid values: age, country, income' in err
    err = ingest(tmp_path / "s.csv", flags[0], "--prediction-column=predicted", status=1).err
    assert 's.csv: has no column "predicted"; did you mean "prediction"?' in err


def broken(folder: Path, tmp_path: Path) -> Iterator[tuple[list[Any], str]]:
    """Commands that fail, and what each says."""
    compressed = (folder / "well.csv.gz").read_bytes()
    (tmp_path / "half.csv.gz").write_bytes(compressed[: len(compressed) // 2])
    yield [tmp_path / "half.csv.gz"], "half.csv.gz: is not complete gzip: "
    (tmp_path / "half.parquet").write_bytes((folder / "well.parquet").read_bytes()[:5000])
    yield [tmp_path / "half.parquet"], "half.parquet: is not PARQUET: "
    (tmp_path / "empty.csv").write_text("")
    yield [tmp_path / "empty.csv"], "empty.csv: is empty"
    (tmp_path / "none.csv").write_text("age,income\n")
    yield [tmp_path / "none.csv"], "none.csv: has no rows"
    (tmp_path / "none.jsonl").write_text("\n\n")
    yield [tmp_path / "none.jsonl"], "none.jsonl: has no rows"
    (tmp_path / "ragged.csv").write_text("age,income\n1,2\n3\n")
    yield [tmp_path / "ragged.csv"], "ragged.csv: is not CSV: "
    cut = (folder / "well.predictions.jsonl").read_bytes()[:-20]
    (tmp_path / "cut.jsonl").write_bytes(cut)
    config = f"--config.file={folder / 'exporter.yml'}"
    yield [tmp_path / "cut.jsonl", config], "cut.jsonl: ends in the middle of row 2500: is it still being written?"
    (tmp_path / "all.csv").write_text("age,confidence\n1,2\n3,4\n")
    yield (
        [tmp_path / "all.csv", "--confidence-column=confidence"],
        ("all.csv: all 2 rows were rejected; row 1, confidence: expected a number from 0 to 1, got 2.0"),
    )
    yield [tmp_path / "gone.csv"], "gone.csv: cannot be read: there is no such file"
    yield [tmp_path], "expected a file that ends in .csv, .parquet, .npz, .jsonl or .ndjson, or --format"
    yield [tmp_path, "--format=csv"], "cannot be read: Is a directory"
    yield [folder / "well.csv", config, "--model=bare"], '--model: "bare" has no profile'
    yield [folder / "well.csv", config], "--model: expected loans or bare"
    yield [folder / "well.csv", config, "--model=loan"], 'no model "loan" is configured; did you mean "loans"?'
    yield (
        [folder / "well.predictions.jsonl", config, "--model=loans"],
        "which name their model, version and inputs themselves",
    )
    yield [folder / "well.csv", f"--textfile={tmp_path}/no/out.prom"], "cannot be written: No such file or directory"


def misused(folder: Path) -> Iterator[tuple[list[Any], str]]:
    """Options that are not valid together, and what the message says."""
    table = folder / "well.csv"
    yield [table, "--type=age"], "--type: expected NAME=TYPE"
    yield [table, "--textfile=out.txt"], "expected a name that ends in .prom"
    yield [table, f"--version={'x' * 129}"], "--version: expected 1 to 128 characters, got 129"
    yield [table, "--exporter=http://127.0.0.1:1"], "--model: is required with --exporter"
    yield [table, "--exporter=http://127.0.0.1:1", "--push=x"], "--push: cannot be used with --exporter"
    for address in ("localhost:9091", "http://h:port", "http://[::1"):
        yield [table, f"--push={address}"], "--push: expected a URL such as http://127.0.0.1:9091, got "
    for address in ("9877", "http://[::1"):
        message = f"--exporter: expected a URL such as http://127.0.0.1:9877, got {address}"
        yield [table, f"--exporter={address}", "--model=m"], message


def test_errors_end_with_a_message(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Each error ends with a message that names it, and status 1, or 2 if the usage is invalid; nothing is counted."""
    failures = [*((1, *failure) for failure in broken(folder, tmp_path)), *((2, *usage) for usage in misused(folder))]
    for expected, arguments, message in failures:
        has_target = any("--config.file" in str(flag) or "--exporter" in str(flag) for flag in arguments)
        flags = [] if has_target else [f"--profile={folder / 'loans.json'}"]
        assert message in ingest(*arguments, *flags, status=expected).err.splitlines()[-1], arguments


def test_a_file_that_changes_meanwhile_is_not_counted(folder: Path, tmp_path: Path) -> None:
    """Rows that another program appends during the read make the run fail, because what was counted is undefined."""
    log, row = tmp_path / "log.jsonl", (folder / "well.predictions.jsonl").read_bytes() + b"\n"
    log.write_bytes(row)
    command = ["ingest", str(log), f"--config.file={folder / 'exporter.yml'}"]
    process = ForkedCommand(command, tmp_path / "output", tmp_path / "errors")
    with log.open("ab", buffering=0) as growing:
        while process.poll() is None:
            growing.write(row[: row.index(b"\n") + 1])
            time.sleep(0.001)
    assert process.wait() == 1
    assert "log.jsonl: changed while it was read, from" in (tmp_path / "errors").read_text()


# --- pushed ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Pushgateway."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Debian's keeps what it has in a file, and would start with what another run left there.
    command = [PUSHGATEWAY, f"--web.listen-address=127.0.0.1:{port}", "--persistence.file="]
    with running(tmp_path_factory.mktemp("gateway"), "pushgateway", command, url):
        yield url


def test_a_run_replaces_the_run_before(folder: Path, gateway: str, ingest: Run) -> None:
    """The Pushgateway has one group per job, model and version, without values of the previous run."""
    profile, push = f"--profile={folder / 'loans.json'}", f"--push={gateway}"
    flags = (profile, push, "--model=a/b c", "--job=nightly")
    ingest(folder / "tonight.csv", *flags, *OUTPUTS)
    name = 'model_confidence_kl_divergence{instance="",job="nightly"'
    assert name in ask(f"{gateway}/metrics").text
    assert f"metrics pushed to {gateway}" in ingest(folder / "well.csv", *flags).out
    text = ask(f"{gateway}/metrics").text
    assert name not in text
    rows = re.findall(r"^model_batch_rows\{(.*nightly.*)\} 2500$", text, re.M)
    assert rows == ['instance="",job="nightly",model="a/b c",version="unknown"']


def test_a_failing_pushgateway_is_an_error(
    folder: Path, gateway: str, ingest: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails with the reason, and the password in the address is not shown."""
    monkeypatch.setattr("exporter.commands.batch.GIVE_UP_SECONDS", 0)
    arguments = (folder / "well.csv", f"--profile={folder / 'loans.json'}")
    address = f"127.0.0.1:{free_port()}"
    err = ingest(*arguments, f"--push=http://me:secret@{address}", status=1).err
    assert f"--push: http://{address} did not accept the metrics: " in err
    assert "refused" in err
    assert "secret" not in err
    assert "did not accept the metrics: 404" in ingest(*arguments, f"--push={gateway}/elsewhere", status=1).err


def test_the_shipped_alerts_fire_for_a_drifted_run(folder: Path, gateway: str, tmp_path: Path, ingest: Run) -> None:
    """The gauges of a drifted run fire the shipped rules; those of a healthy run do not."""
    document = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (scrape,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```$", document, re.M | re.S)
    config = yaml.safe_load(scrape.replace("127.0.0.1:9091", gateway.removeprefix("http://")))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(tmp_path / "rules" / "*.yml")]
    (tmp_path / "rules").mkdir()
    shipped = [ROOT / "prometheus" / "rules" / name for name in ("data.yml", "business.yml", "system.yml")]
    for file in shipped:
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        (tmp_path / "rules" / file.name).write_text(yaml.safe_dump(rules))
    (missing,) = re.findall(r"^```yaml\n(groups:.*?)^```$", document, re.M | re.S)
    (tmp_path / "rules" / "batch.yml").write_text(missing)
    dark = scores(2500, shift=2.0).set_column(1, "age", pa.array([None] * 2500, pa.int64()))
    parquet.write_table(dark, tmp_path / "dark.parquet")

    def push(version: str, file: Path, *flags: str) -> None:
        profile = f"--profile={folder / 'loans.json'}"
        ingest(file, profile, f"--version={version}", *flags, *OUTPUTS)

    def found(query: str) -> list[dict[str, str]]:
        return [one["metric"] for one in ask(f"{url}/api/v1/query?query={quote(query)}").json["data"]["result"]]

    def fired() -> set[tuple[str, str]]:
        return {(series["alertname"], series["version"]) for series in found('ALERTS{version!=""}')}

    alerts = ("ModelFeatureDrift", "ModelFeatureMeanShift", "ModelFeatureMissing", "ModelInputsChanged")
    with prometheus(tmp_path, config, "--query.lookback-delta=5s") as program:
        url = program.url
        push("dark", tmp_path / "dark.parquet", f"--push={gateway}")
        push("well", folder / "well.parquet", f"--push={gateway}", f"--textfile={tmp_path / 'out.prom'}")
        eventually(lambda: fired() >= {(name, "dark") for name in alerts}, 120)
        assert fired() == {(name, "dark") for name in alerts}
        pushed = {series["__name__"] for series in found('{job="model-exporter-batch",version="well"}')}
        rules = ask(f"{url}/api/v1/rules").json["data"]["groups"]
        assert [rule["lastError"] for group in rules for rule in group["rules"] if rule["health"] == "err"] == []
    families = text_string_to_metric_families((tmp_path / "out.prom").read_text())
    assert pushed >= {sample.name for family in families for sample in family.samples}


def test_the_commands_of_the_batch_page(gateway: str, exporter: Served, tmp_path: Path) -> None:
    """The commands of docs/batch.md print the documented output, and end with visible drift."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    first, quality, push, send, label = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    parquet.write_table(scores(3000, seed=1), tmp_path / "training.parquet")
    parquet.write_table(scores(2500, shift=2.0), tmp_path / "scores.parquet")
    install, *commands = first.splitlines(keepends=True)
    assert install.startswith("pip install")
    output = scripts.run("set -e\n" + "".join(commands), tmp_path)
    promised, promised_quality, labelled = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    seconds = r"in \d+\.\d s"
    assert re.sub(seconds, "", output).endswith(re.sub(seconds, "", promised))
    for name, rows in (("training", scores(3000, seed=1)), ("scores", scores(2500, shift=2.0))):
        parquet.write_table(with_outcomes(rows), tmp_path / f"{name}.parquet")
    assert scripts.run(quality, tmp_path).endswith(promised_quality)
    output = scripts.run(push.replace("http://127.0.0.1:9091", gateway), tmp_path)
    (line,) = [line for line in output.splitlines() if 'version="3"' in line and line.startswith("model_feature_kl")]
    assert float(line.rpartition(" ")[2]) > 1
    scripts.run(send.replace("http://127.0.0.1:9877", exporter.url), tmp_path)
    assert attempts(exporter, "3") == 2500
    eventually(lambda: exporter.post("/v1/labels", {"prediction_id": "r-2499", "label": "yes"}).json["joined"])
    rows = "".join(f"r-{n},{'yes' if n % 2 else ''},2026-11-24\n" for n in range(2600))
    (tmp_path / "repaid.csv").write_text(f"loan,repaid,paid_on\n{rows}")
    output = scripts.run(label.replace("label repaid", f"label --exporter {exporter.url} repaid"), tmp_path)
    shapes = [re.sub(r"\n  .*", "", re.sub(r"[\d,.]*\d", "N", text)) for text in (output, labelled)]
    assert shapes[0] == shapes[1]
    assert "1,250 joined their prediction, 50 wait for theirs; of these 1,300, 1 as before\n" in output


def test_the_commands_of_the_crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The commands know the flags of the documented crontab: only the tables are not there."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (crontab,) = re.findall(r"^```crontab\n(.*?)^```$", page, re.M | re.S)
    commands = re.findall(r"flock --nonblock \S+ model-exporter (.*) > \S+$", crontab, re.M)
    assert [command.split()[0] for command in commands] == ["ingest", "label"]
    for command in commands:
        assert f"{command.split()[1]}: cannot be read: there is no such file" in run(*command.split(), status=1).err


# --- sent to an exporter ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def exporter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with the model of the profile."""
    home = tmp_path_factory.mktemp("exporter")
    for name in ("exporter.yml", "loans.json"):
        shutil.copy(folder / name, home)
    with serving(home) as server:
        yield server


def attempts(exporter: Served, version: str) -> float:
    """Predictions of a version that were counted, once none waits any more."""
    eventually(lambda: exporter.samples("model_exporter_queue_length")["model_exporter_queue_length"] == 0, 30)
    return exporter.samples("model_attempts_total").get(f'model_attempts_total{{model="loans",version="{version}"}}', 0)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "npz"])
def test_an_exporter_counts_what_is_sent(
    folder: Path, exporter: Served, tmp_path: Path, ingest: Run, ending: str
) -> None:
    """The exporter's window is the one that the command computes itself; a second run counts nothing twice."""
    file = tmp_path / f"tonight.{ending}"
    shutil.copy(folder / file.name, file)
    flags = (f"--exporter={exporter.url}", "--model=loans", f"--version={ending}", *OUTPUTS)
    out, err = ingest(file, *flags)
    assert err == ""
    assert "2,500 rows, 2,500 accepted, 0 rejected" in out
    here = (f"--profile={folder / 'loans.json'}", f"--textfile={tmp_path / 'o.prom'}")
    ingest(folder / f"tonight.{ending}", *here, *OUTPUTS)
    local = samples((tmp_path / "o.prom").read_text())
    remote = exporter.samples("model_feature_kl_divergence", "model_prediction_kl_divergence", "model_feature_mean")
    labels = f'model="loans",version="{ending}"'
    for feature in ("age", "income", "country"):
        series = f'model_feature_kl_divergence{{{labels},feature="{feature}",window="5m"}}'
        expected = local["model_feature_kl_divergence", (("feature", feature), ("window", "run"))]
        assert remote[series] == pytest.approx(expected)
    series = f'model_prediction_kl_divergence{{{labels},window="5m"}}'
    assert remote[series] == pytest.approx(local["model_prediction_kl_divergence", (("window", "run"),)])
    assert attempts(exporter, ending) == 2500
    assert f"nothing to send: the first 2,500 rows were sent before ({file}.ingest.json)" in ingest(file, *flags).out
    assert attempts(exporter, ending) == 2500


def test_rows_that_the_exporter_refuses_are_named(exporter: Served, tmp_path: Path, ingest: Run) -> None:
    """Refused rows are named by their row in the file and the reason, whichever side refuses them; the others count."""
    lines = [json.dumps(prediction(row) | {"version": "refused"}) for row in scores(30).to_pylist()]
    lines[4] = lines[4].replace('"version": "refused"', '"version": 7')
    lines[12] = "[]"
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    out = ingest(tmp_path / "log.jsonl", f"--exporter={exporter.url}", "--batch-size=10").out
    first, *reasons = out.splitlines()
    assert "30 rows, 28 accepted, 2 rejected" in first
    assert reasons[0] == "  row 5, version: expected a string, got 7; put it in quotes"
    assert reasons[1].startswith("  row 13: expected an object such as")
    assert attempts(exporter, "refused") == 28
    (tmp_path / "bad.csv").write_text("age,confidence\n1,0.5\n3,4\n")
    flags = ("--model=loan", "--confidence-column=confidence", f"--exporter={exporter.url}")
    err = ingest(tmp_path / "bad.csv", *flags, status=1).err
    assert "bad.csv: all 2 rows were rejected; row 2, confidence: expected a number from 0 to 1, got 4.0" in err


@pytest.mark.parametrize("ending", ["parquet", "predictions.jsonl"])
def test_repeated_kills_lose_and_duplicate_nothing(folder: Path, exporter: Served, tmp_path: Path, ending: str) -> None:
    """After each SIGKILL the same command continues, until all rows are counted once."""
    write_all(tmp_path, "many", scores(6000))
    file = tmp_path / f"many.{ending}"
    if ending == "parquet":
        version = "killed"
        flags = ["--model=loans", f"--version={version}", *OUTPUTS]
    else:
        version = "killed as lines"
        file.write_text(file.read_text().replace('"version":"3"', f'"version":"{version}"'))
        flags = []
    command = [sys.executable, "-m", "exporter.cli", "ingest", str(file), f"--exporter={exporter.url}"]
    state = Path(f"{file}.ingest.json")
    kills = 0
    for minimum in (400, 1300, 2500, 2520, 6001):
        with (tmp_path / "log").open("w") as log:
            child = subprocess.Popen([*command, "--batch-size=20", *flags], stdout=log, stderr=log)
            while child.poll() is None and sent(state) < minimum:
                time.sleep(0.0005)
            kills += child.poll() is None
            child.kill()
            child.wait(60)
    assert kills >= 3
    assert child.returncode == 0, (tmp_path / "log").read_text()
    assert "6,000 rows, 6,000 accepted" in (tmp_path / "log").read_text()
    assert attempts(exporter, version) == 6000


def sent(state: Path) -> int:
    return msgspec.json.decode(state.read_bytes(), type=State).rows if state.exists() else 0


def test_appended_lines_are_sent(exporter: Served, tmp_path: Path, ingest: Run) -> None:
    """Lines that were appended are sent, earlier ones are not sent again; a replaced file is sent from the start."""
    log = tmp_path / "log.jsonl"
    rows = [json.dumps(prediction(row) | {"version": "grown"}) + "\n" for row in scores(700).to_pylist()]
    log.write_text("".join(rows[:300]))
    to = f"--exporter={exporter.url}"
    ingest(log, to)
    with log.open("a") as file:
        file.writelines(rows[300:])
    out, err = ingest(log, to)
    assert "the first 300 rows were sent before" in err
    assert "700 rows, 700 accepted" in out
    assert attempts(exporter, "grown") == 700
    log.write_text("".join(rows[100:200]))
    out, err = ingest(log, to)
    assert err == ""
    assert attempts(exporter, "grown") == 800


def test_an_interrupted_last_batch_is_repeated_unchanged(exporter: Served, tmp_path: Path, ingest: Run) -> None:
    """A last, short batch that was counted but not noted before a kill counts once, though the file has grown."""
    log = tmp_path / "log.jsonl"
    rows = [json.dumps(prediction(row) | {"version": "cut"}) + "\n" for row in scores(500).to_pylist()]
    log.write_text("".join(rows[:130]))
    to = f"--exporter={exporter.url}"
    ingest(log, to, "--batch-size=100")
    path = Path(f"{log}.ingest.json")
    state = msgspec.json.decode(path.read_bytes(), type=State)
    state.rows, state.accepted, state.sending, state.done = 100, 100, 130, False
    path.write_bytes(msgspec.json.encode(state))
    with log.open("a") as file:
        file.writelines(rows[130:])
    assert "500 rows, 500 accepted" in ingest(log, to).out
    assert attempts(exporter, "cut") == 500


def test_an_unfinished_run_is_not_continued_elsewhere(
    folder: Path, exporter: Served, tmp_path: Path, ingest: Run
) -> None:
    """The rest of a run is not sent to another version; an invalid state file is refused."""
    file = tmp_path / "s.csv"
    shutil.copy(folder / "well.csv", file)
    flags = (f"--exporter={exporter.url}", "--model=loans", *OUTPUTS)
    ingest(file, *flags, "--version=a")
    path = Path(f"{file}.ingest.json")
    state = msgspec.json.decode(path.read_bytes(), type=State)
    state.rows, state.done = 1000, False
    path.write_bytes(msgspec.json.encode(state))
    err = ingest(file, *flags, "--version=b", status=1).err
    assert f"its first 1,000 rows were sent to {exporter.url} model loans version a: finish it there, or remove" in err
    state.rows = 0
    path.write_bytes(msgspec.json.encode(state))
    err = ingest(file, *flags, "--version=b", status=1).err
    assert f"its first rows may have been sent to {exporter.url} model loans version a: finish it there" in err
    path.write_text("{}")
    assert f"{path}: is not a state file" in ingest(file, *flags, status=1).err


def test_a_run_that_sends_nothing_leaves_no_state(folder: Path, exporter: Served, tmp_path: Path, ingest: Run) -> None:
    """After a wrong column or URL, the command with the right one and for another exporter is a new run."""
    file = tmp_path / "s.csv"
    shutil.copy(folder / "well.csv", file)
    flags = (f"--exporter={exporter.url}", "--model=loans")
    assert "has no column" in ingest(file, *flags, "--prediction-column=predicted", status=1).err
    assert "404" in ingest(file, f"--exporter={exporter.url}/v2", "--model=loans", *OUTPUTS, status=1).err
    assert [*tmp_path.iterdir()] == [file]


def test_an_unreachable_or_unknown_server_is_an_error(
    folder: Path, exporter: Served, gateway: str, tmp_path: Path, ingest: Run
) -> None:
    """The command gives up in time, and at once where a retry is useless."""
    file = tmp_path / "s.csv"
    shutil.copy(folder / "well.csv", file)
    address = f"http://127.0.0.1:{free_port()}"
    flags = ("--model=loans", *OUTPUTS)
    err = ingest(file, f"--exporter={address}", *flags, "--give-up=1s", f"--state={tmp_path / 'a'}", status=1).err
    assert f"{address}: Connection refused, for 1 s; 0 rows are sent" in err
    assert not (tmp_path / "a").exists()
    assert f"{gateway}: 404" in ingest(file, f"--exporter={gateway}", *flags, f"--state={tmp_path / 'b'}", status=1).err


def test_a_full_exporter_is_waited_for(folder: Path, tmp_path: Path, ingest: Run) -> None:
    """Batches that a full queue refuses are sent again after Retry-After, and none is lost or counted twice."""
    config = {"models": [{"name": "loans", "profile": "loans.json"}], "queue": {"capacity": 1}}
    (tmp_path / "exporter.yml").write_text(yaml.safe_dump(config))
    shutil.copy(folder / "loans.json", tmp_path)
    shutil.copy(folder / "well.parquet", tmp_path)
    with serving(tmp_path) as server:
        flags = (f"--exporter={server.url}", "--model=loans", "--version=full", *OUTPUTS)
        out, err = ingest(tmp_path / "well.parquet", *flags)
        assert err == ""
        assert "2,500 rows, 2,500 accepted, 0 rejected" in out
        assert attempts(server, "full") == 2500


def test_a_state_file_that_cannot_be_written_stops_the_run(
    folder: Path, exporter: Served, tmp_path: Path, ingest: Run
) -> None:
    """Without a writable state file nothing is sent; a full disk stops the run."""
    file = tmp_path / "s.csv"
    shutil.copy(folder / "well.csv", file)
    flags = (f"--exporter={exporter.url}", "--model=loans", "--version=unnoted", *OUTPUTS)
    state = tmp_path / "no" / "state"
    err = ingest(file, *flags, f"--state={state}", status=1).err
    assert f"the state file {state} cannot be written: No such file or directory; set another one with --state" in err
    assert attempts(exporter, "unnoted") == 0
    (tmp_path / "full.partial").symlink_to("/dev/full")
    err = ingest(file, *flags, f"--state={tmp_path / 'full'}", status=1).err
    assert "cannot be written: No space left on device" in err
    assert attempts(exporter, "unnoted") == 0
