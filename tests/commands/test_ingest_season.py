"""Batches of features that change with the hour of the day."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.seasons import START, columns, profile
from support.servers import Served, write_config

from exporter.cli import main
from exporter.profiles.profile_file import save

SAME_HOURS = "compared with training values of the same hours of the day: "
SIX = START + 6.5 * 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile with a season, and 500 rows of six o'clock: as a table, and as predictions with and without a time."""
    folder = tmp_path_factory.mktemp("season")
    save(profile(folder, season="day"), folder / "loans.json")
    rows = columns(np.random.default_rng(4), np.full(500, SIX))
    np.savez(folder / "rows.npz", at=np.full(500, SIX), **rows)
    lists = {name: np.array(values).tolist() for name, values in rows.items()}
    events: list[dict[str, Any]] = [
        {"model": "loans", "inputs": dict(zip(lists, row, strict=True))} for row in zip(*lists.values(), strict=True)
    ]
    (folder / "untimed.ndjson").write_text("\n".join(map(json.dumps, events)))
    at = {"time": datetime.fromtimestamp(SIX, UTC).isoformat()}
    (folder / "timed.ndjson").write_text("\n".join(json.dumps(event | at) for event in events))
    return folder


@pytest.mark.parametrize(
    ("arguments", "timed"),
    [
        (["rows.npz", "--time-column=at"], True),
        (["rows.npz", "--ignore=at"], False),
        (["timed.ndjson", "--format=predictions"], True),
        (["untimed.ndjson", "--format=predictions"], False),
    ],
)
def test_rows_with_a_time_are_compared_with_training_of_their_hours(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], timed: bool
) -> None:
    """Without a time they are compared with all hours, and a run of six o'clock has drifted."""
    name, *options = arguments
    assert main(["ingest", str(folder / name), f"--profile={folder / 'loans.json'}", *options]) == 0
    out = capsys.readouterr().out
    assert (SAME_HOURS in out) == timed
    (income,) = (line for line in out.splitlines() if line.split()[:1] == ["income"])
    assert ("drifted" in income) != timed


def test_stored_predictions_have_a_season(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile of the predictions in the database, by the times of their arrival."""
    server = Served(write_config(tmp_path, {"models": [{"name": "loans"}]}).parent).start()
    try:
        seconds = time.time() - np.arange(0, 5 * 86400, 120.0)
        rows = {name: np.array(v).tolist() for name, v in columns(np.random.default_rng(5), seconds).items()}
        times = [datetime.fromtimestamp(at, UTC).isoformat() for at in seconds]
        events = [
            {"model": "loans", "time": at, "inputs": dict(zip(rows, row, strict=True))}
            for at, row in zip(times, zip(*rows.values(), strict=True), strict=True)
        ]
        assert server.post("/v1/predictions", events).status == 202
    finally:
        server.stop()
    with sqlite3.connect(tmp_path / "data" / "model-exporter.db") as database:
        database.execute("UPDATE predictions SET received = time")  # as if they had arrived over five days
    config = f"--config.file={tmp_path / 'exporter.yml'}"
    assert main(["profile", "--from-store", config, "--season=day", f"--output={tmp_path / 'loans.json'}"]) == 0
    assert "(season)  income and meal change with the hour of the day" in capsys.readouterr().out
