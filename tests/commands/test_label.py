"""``model-exporter label``: a table of true labels, sent to an exporter that runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from support.processes import Run
from support.servers import CONFIG, Served, eventually, serving, write_config

from exporter.commands import batch
from exporter.wire.events import MAX_REJECTED

ROWS = 12_000
BARE = CONFIG["models"][1]["name"]


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with predictions p-0 to p-11999, of which every third is wrong."""
    home = tmp_path_factory.mktemp("exporter")
    write_config(home, CONFIG)
    with serving(home) as server:
        for start in range(0, ROWS, 4000):
            events = [{"id": f"p-{n}", "model": "credit", "prediction": "yes"} for n in range(start, start + 4000)]
            assert server.post("/v1/predictions", events).status == 202
        probe = [{"prediction_id": f"p-{ROWS - 1}", "label": "yes"}]
        eventually(lambda: server.post("/v1/labels", probe).json["joined"])
        yield server


def table(rows: int, **changed: Any) -> pa.Table:
    """Labels of the first predictions, and a column that the command ignores."""
    columns = {
        "prediction_id": [f"p-{n}" for n in range(rows)],
        "label": ["yes" if n % 3 else "no" for n in range(rows)],
        "amount": np.arange(rows) / 7,
    }
    return pa.table(columns | changed)


def write(rows: pa.Table, path: Path) -> Path:
    """Write a table in the format of the file's name."""
    if path.suffix == ".csv":
        csv.write_csv(rows, path)
    elif path.suffix == ".parquet":
        parquet.write_table(rows, path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows.to_pylist()))
    return path


def joined(text: str) -> str:
    """What became of the labels: the last line without the URL."""
    return text.strip().splitlines()[-1].rpartition(": ")[2]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_table_of_labels_is_sent(exporter: Served, tmp_path: Path, run: Run, ending: str) -> None:
    """Each row becomes a label of its prediction, in any format; a second run sends nothing, a new file repeats."""
    path = write(table(ROWS), tmp_path / f"labels.{ending}")
    command = ["label", str(path), f"--exporter={exporter.url}"]
    out = run(*command).out
    assert f"{ROWS:,} rows, {ROWS:,} labels accepted, 0 rejected, 0 rows without a label" in out
    assert joined(out).startswith("12,000 joined their prediction, 0 wait for theirs")
    assert "nothing to send" in run(*command).out
    path.with_name(f"{path.name}.label.json").unlink()
    before = "of these 12,000, 12,000 as before"
    assert joined(run(*command).out) == f"12,000 joined their prediction, 0 wait for theirs; {before}"
    right = exporter.samples()['model_correct_predictions_total{model="credit",version="unknown"}']
    assert right == ROWS * 2 / 3


def test_named_columns_types_and_times(exporter: Served, tmp_path: Path, run: Run) -> None:
    """The columns may have any name; a number with a comma, a time of the label, and rows that have none yet."""
    predictions = [{"id": f"loan-{n}", "model": BARE, "prediction": 2.5} for n in range(4)]
    assert exporter.post("/v1/predictions", predictions).status == 202
    probe = [{"prediction_id": "loan-3", "label": 0}]
    eventually(lambda: exporter.post("/v1/labels", probe).json["joined"])
    path = tmp_path / "repaid.csv"
    time = "2026-11-24T10:00:00Z"
    path.write_text(f"loan;repaid;paid_on\nloan-0;3,5;{time}\nloan-1;;{time}\n;1,5;\nloan-2;1,5;\n")
    flags = ["--id-column=loan", "--label-column=repaid", "--time-column=paid_on", "--delimiter=;", "--decimal=,"]
    out = run("label", path, f"--exporter={exporter.url}", f"--model={BARE}", *flags).out
    assert "4 rows, 2 labels accepted, 1 rejected, 1 row without a label" in out
    assert "row 3, loan: has no identifier" in out
    assert "2 joined their prediction, 0 wait for theirs" in out
    name = BARE.replace("\\", "\\\\").replace('"', '\\"')
    error = exporter.samples()[f'model_absolute_error_total{{model="{name}",version="unknown"}}']
    assert error == 2.5 + 1.0 + 1.0


def test_rejected_rows_are_named(exporter: Served, tmp_path: Path, run: Run) -> None:
    """By their place in the file; without any accepted label the status is 1."""
    prediction = {"id": "number", "model": BARE, "prediction": 2.5}
    assert exporter.post("/v1/predictions", prediction).status == 202
    eventually(lambda: exporter.post("/v1/labels", {"prediction_id": "number", "label": 2}).json["joined"])
    path = tmp_path / "labels.jsonl"
    path.write_text('{"prediction_id": "early", "label": 1}\n{"prediction_id": "number", "label": "abc"}\n')
    command = ("label", path, f"--exporter={exporter.url}")
    assert "row 2, label: expected a number, as its prediction is, got a string" in run(*command).out
    path.write_text('{"prediction_id": "number", "label": "abc"}\n')
    assert "no label was accepted; row 1, label: expected a number" in run(*command, status=1).err
    path.write_text('{"prediction_id": "number", "label": null}\n')
    assert "no row has a value in label" in run(*command, status=1).err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--label-column=lable"],
            'has no column "lable"; did you mean "label"? --label-column may be "prediction_id", "label", "amount"',
        ),
        (
            ["--id-column=loan"],
            'has no column "loan"; --id-column may be "prediction_id", "label", "amount"',
        ),
        (["--model=kredit"], 'did you mean "credit"?'),
        (["--type=label=nothing"], "--type: "),
        (["--exporter=http://127.0.0.1:1", "--give-up=1s"], "Connection refused"),
    ],
)
def test_what_is_wrong_is_named(exporter: Served, tmp_path: Path, run: Run, flags: list[str], message: str) -> None:
    """The option, the column or the exporter; the status is 2 where the option alone is wrong, otherwise 1."""
    path = write(table(10), tmp_path / "labels.csv")
    status = 2 if flags == ["--type=label=nothing"] else 1
    assert message in run("label", path, f"--exporter={exporter.url}", *flags, status=status).err


def test_an_interrupted_run_continues(exporter: Served, tmp_path: Path) -> None:
    """However often it is killed: in the end every label is there, and none was sent for another prediction."""
    path = write(table(ROWS), tmp_path / "labels.csv")
    state = tmp_path / "labels.csv.label.json"
    command = [sys.executable, "-m", "exporter.cli", "label", str(path), f"--exporter={exporter.url}"]
    command += ["--batch-size=100"]
    kills = 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            before = json.loads(state.read_text())["rows"] if state.exists() else 0
            while child.poll() is None and kills < 3:
                if state.exists() and json.loads(state.read_text())["rows"] > before + 300:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
                time.sleep(0.005)
            out, _ = child.communicate()
        if child.returncode == 0:
            break
    assert kills == 3
    assert f"{ROWS:,} labels accepted" in out


def test_an_interrupt_while_the_port_is_wrong_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Ctrl-C between two refused attempts: nothing was sent, so the command with the right port is a new run."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    path = write(table(10), tmp_path / "labels.csv")
    monkeypatch.setattr(time, "sleep", interrupt)
    run("label", path, "--exporter=http://127.0.0.1:1", status=130)
    assert [*tmp_path.iterdir()] == [path]


def test_labels_after_many_wrong_ones_are_sent(exporter: Served, tmp_path: Path, run: Run) -> None:
    """A request has no more rows than an exporter explains."""
    times = ["2200-01-01T00:00:00Z"] * 1500 + ["2026-11-24T10:00:00Z"]
    path = write(table(1501, time=times), tmp_path / "labels.csv")
    command = ("label", path, f"--exporter={exporter.url}")
    assert "1,501 rows, 1 label accepted, 1,500 rejected" in run(*command, "--time-column=time").out
    run(*command, f"--batch-size={MAX_REJECTED + 1}", status=2)
    refused = run(*command, "--give-up=never", status=2).err
    assert "argument --give-up: expected a duration such as 5m or 1h" in refused


def test_labels_of_unknown_predictions(exporter: Served, tmp_path: Path, run: Run) -> None:
    """The command says that all wait, and names the likely causes; not for a few, or if one has joined."""
    ids = [f"order-{n}" for n in range(batch.FEW + 1)]
    command = ["label", f"--exporter={exporter.url}", "--model=credit"]
    path = write(pa.table({"prediction_id": ids, "label": ["yes"] * len(ids)}), tmp_path / "wrong.csv")
    out, err = run(*command, path)
    assert joined(out) == "0 joined their prediction, 6 wait for theirs"
    for cause in (
        f"Is {exporter.url} (--exporter)",
        'The first is "order-0"',
        "an identifier (id)",
        "--model",
        "retention",
    ):
        assert cause in err
    for few in (ids[1:], [*ids, "p-0"]):
        path = write(pa.table({"prediction_id": few, "label": ["yes"] * len(few)}), tmp_path / f"{len(few)}.csv")
        assert "no label has joined" not in run(*command, path).err
