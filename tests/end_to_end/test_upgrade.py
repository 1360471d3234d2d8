"""What the version before wrote is read by this one: a database, a profile and a snapshot of windows.

The files in ``tests/data/previous_version`` were written by that version: 60 predictions of a model with a profile,
feedback on five, two review decisions, a release, and the gauges of its windows just before it stopped.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import DATA
from support.servers import Served, eventually

from exporter.server.application import Exporter

FOLDER = DATA / "previous_version"
RESPONSES: dict[str, Any] = json.loads((FOLDER / "responses.json").read_text(encoding="utf-8"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of an exporter on a copy of the files."""
    shutil.copy(FOLDER / "credit.json", tmp_path)
    database = tmp_path / "store.db"
    connection = sqlite3.connect(database)
    connection.executescript((FOLDER / "store.sql").read_text(encoding="utf-8"))
    connection.close()
    credit = {
        "name": "credit",
        "profile": "credit.json",
        "redact": ["name"],
        "segment_by": "country",
        "segments": ["NL", "DE"],
        "windows": ["5m", "1h"],
    }
    store = {"url": f"sqlite:///{database}", "retention": "36500d"}
    path = tmp_path / "exporter.yml"
    path.write_text(yaml.safe_dump({"store": store, "models": [credit, {"name": "bare"}]}))
    return path


@pytest.fixture
def upgraded(config: Path) -> Iterator[Served]:
    """This version, on those files."""
    server = Served(config.parent).start()
    yield server
    server.stop()


def test_corrections_decisions_and_releases_are_kept(upgraded: Served) -> None:
    """Every field that the previous version returned has the same value."""
    page = upgraded.get("/v1/corrections?limit=100").json
    earlier = RESPONSES["corrections"]["corrections"]
    kept = [{name: new[name] for name in old} for new, old in zip(page["corrections"], earlier, strict=True)]
    assert {**page, "corrections": kept} == RESPONSES["corrections"]
    assert upgraded.get("/v1/dataset/releases?model=credit").json == RESPONSES["releases"]
    lines = upgraded.get("/v1/dataset?model=credit&format=jsonl").text.splitlines()
    assert [json.loads(line) for line in lines] == RESPONSES["dataset"]
    (release,) = RESPONSES["releases"]["releases"]
    frozen = upgraded.get(f"/v1/dataset/releases/{release['id']}?format=jsonl").text.splitlines()
    assert [json.loads(line)["label"] for line in frozen] == ["no"]


def pending(server: Served) -> set[str]:
    """The predictions whose corrections wait for a review decision."""
    corrections = server.get("/v1/corrections?limit=100&status=pending").json["corrections"]
    return {each["prediction_id"] for each in corrections}


def test_feedback_is_joined_after_the_upgrade(upgraded: Served) -> None:
    """Feedback that arrived first is joined with its prediction, and a stored prediction can still be corrected."""
    assert upgraded.post("/v1/predictions", {"id": "late", "model": "bare", "prediction": "y"}).status == 202
    feedback = {"prediction_id": "p-9", "verdict": "corrected", "label": "no"}
    assert upgraded.post("/v1/feedback", feedback).json["joined"]
    eventually(lambda: pending(upgraded) == {"p-1", "p-9", "late"})


def values(text: str) -> dict[str, float]:
    """The values of an exposition by series."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def test_windows_are_restored(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart a second after the stop shows the same gauges of every window, feature and segment."""
    monkeypatch.chdir(config.parent)
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: RESPONSES["stopped"] + 1)
        exporter = Exporter(config)
    try:
        text = exporter.metrics("", [])[0].decode()
    finally:
        exporter.close()
    expected = values((FOLDER / "metrics.txt").read_text(encoding="utf-8"))
    assert len(expected) > 100
    restored = {series: value for series, value in values(text).items() if series in expected}
    assert restored == pytest.approx(expected, rel=1e-9)
