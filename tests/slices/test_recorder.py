"""Bins of predictions: recorded as they are counted, stored in blocks on both databases, deleted with predictions."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from support.batches import count, stored_batch
from support.flights import events, rows, write_model
from support.rows import training
from support.servers import Served

from exporter.config import ModelConfig
from exporter.features.base import numeric_column
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.bins import feature_bins
from exporter.profiles.builder import build_file
from exporter.profiles.profile import NumericFeature, load
from exporter.slices import population
from exporter.slices.population import BinRecorder, read_population
from exporter.storage import Store
from exporter.storage._database import bin_codes
from exporter.storage._predictions import BlockFilter, delete_old_blocks
from exporter.wire.events import Prediction


@pytest.fixture(scope="module")
def binner(tmp_path_factory: pytest.TempPathFactory) -> Binner:
    """The bins of flights, without a redacted input."""
    folder = tmp_path_factory.mktemp("profile")
    write_model(folder)
    return Binner(load(folder / "flights.json"), redacted=("pilot",))


def record(bins: BinRecorder, binner: Binner, sent: list[dict[str, Any]], received: float) -> None:
    """Count predictions, and record their bins."""
    codes = count(binner, [event["inputs"] for event in sent], [], with_bins=True).bins
    predictions = [
        Prediction(e["model"], e["id"], e["version"], prediction=e["prediction"], confidence=e["confidence"])
        for e in sent
    ]
    for version in sorted({event["version"] for event in sent}):
        chosen = [i for i, event in enumerate(sent) if event["version"] == version]
        confident = [sent[i]["confidence"] > 0.8 for i in chosen]
        monitor = ModelMonitor(ModelConfig(name="flights"), version, binner)
        batch = stored_batch([predictions[i] for i in chosen], confident, [b"{}"] * len(chosen), received)
        bins.add(monitor, batch, codes[:, chosen], received)


def test_codes_are_the_bins_that_are_counted(tmp_path: Path) -> None:
    """For inputs of every type, the codes add up to the counts, and so do those of parts."""
    given: list[dict[str, Any]] = training(300)
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, given)))
    binner = Binner(build_file(tmp_path / "all.jsonl", name="all"))
    given[3] = {"amount": "much", "country": 7}
    given[4] = {}
    row, _, codes, _ = count(binner, given, [], with_bins=True)
    counts = binner.split(row).counts
    parts = binner.counts_of_parts(codes, np.arange(len(given)) % 3, 3)
    assert parts.sum(axis=0).tolist() == counts.tolist()
    assert binner.split(count(binner, given[::3], [])[0]).counts.tolist() == parts[0].tolist()
    for index in range(len(binner.names)):
        start, size = binner.starts[index], binner.sizes[index]
        assert np.bincount(codes[index], minlength=size).tolist() == counts[start : start + size].tolist()
    assert codes[binner.names.index("country"), 4] == binner.sizes[binner.names.index("country")] - 2


def test_what_is_recorded_is_read_again(store: Store, binner: Binner) -> None:
    """Bins, confidence and identifiers come back as they were, by version, and not before their time."""
    bins, sent = BinRecorder(store), [*events(50), *events(30, prefix="g", version="2")]
    record(bins, binner, sent, 1000.0)
    assert "pilot" not in binner.target_names
    last = bins.flush()
    assert last is not None
    last.result(10)
    found = read_population(store.bins, binner, BlockFilter("flights", binner.layout, None, 0.0))
    assert (found.rows, found.truncated) == (80, False)
    assert read_population(store.bins, binner, BlockFilter("flights", binner.layout, "2", 0.0)).rows == 30
    assert read_population(store.bins, binner, BlockFilter("flights", binner.layout, None, 1000.1)).rows == 0
    assert read_population(store.bins, binner, BlockFilter("other", binner.layout, None, 0.0)).rows == 0
    position = found.find([event["id"] for event in sent])
    assert sorted(position.tolist()) == list(range(80))
    for name in ("carrier", "distance"):
        target = binner.targets[binner.target_names.index(name)]
        values = [sent[i]["inputs"][name] for i in position]
        expected = feature_bins(target, numeric_column(values) if isinstance(target, NumericFeature) else values)
        assert found.codes[binner.target_names.index(name)].tolist() == expected.tolist()
    confidence = feature_bins(binner.targets[-1], np.array([sent[i]["confidence"] for i in position]))
    assert found.codes[-1].tolist() == confidence.tolist()
    assert found.confident.tolist() == [sent[i]["confidence"] > 0.8 for i in position]
    assert found.find([]).tolist() == [-1] * 80
    assert (found.find(["nobody"]) == -1).all()


def test_the_newest_are_read_where_there_are_too_many(
    store: Store, binner: Binner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit in memory is left out, the oldest first, and the population says so."""
    bins = BinRecorder(store)
    for number in range(5):
        record(bins, binner, events(40, prefix=f"{number}-"), 1000.0 + number)
        flushed = bins.flush()
        assert flushed is not None
        flushed.result(10)
    monkeypatch.setattr(population, "READ_ROWS", 100)
    found = read_population(store.bins, binner, BlockFilter("flights", binner.layout, None, 0.0))
    assert (found.rows, found.truncated, found.times.min()) == (80, True, 1003.0)


def test_blocks_are_deleted_with_their_predictions(store: Store, binner: Binner) -> None:
    """A block stays as long as one of its predictions may be stored."""
    bins = BinRecorder(store)
    for received in (1000.0, 2000.0, 3000.0):
        record(bins, binner, events(10, prefix=f"{received}-"), received)
        flushed = bins.flush()
        assert flushed is not None
        flushed.result(10)
    predictions = [Prediction("flights", f"p{received}") for received in (2000, 3000)]
    for prediction, received in zip(predictions, (2000.0, 3000.0), strict=True):
        store.add(stored_batch([prediction], [True], [b"{}"], received))
    assert store.flush(10)
    store.write(lambda connection: delete_old_blocks(connection, 100))
    with store.reading() as connection:
        assert connection.execute(sa.select(bin_codes.c.last).order_by(bin_codes.c.last)).scalars().all() == [
            2000,
            3000,
        ]


class SlowStore:
    """A store that never finishes."""

    def __init__(self) -> None:
        self.blocks = 0

    def add_bins(self, _: Any) -> Future[None]:
        self.blocks += 1
        return Future()


def test_memory_is_bounded_while_the_store_is_slow(binner: Binner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full blocks wait for the disk up to a limit, and further ones are dropped; an old block is not kept back."""
    monkeypatch.setattr(population, "BLOCK_ROWS", 10)
    slow: Any = SlowStore()
    bins = BinRecorder(slow)
    for number in range(40):
        record(bins, binner, events(10, prefix=f"{number}-"), 1000.0)
    assert slow.blocks == population.MAX_WAITING
    young: Any = SlowStore()
    bins = BinRecorder(young)
    record(bins, binner, events(5), time.time())
    bins.flush(60)
    assert young.blocks == 0
    bins.flush()
    assert young.blocks == 1
    record(bins, binner, events(5), time.time())
    monkeypatch.setattr(population, "MAX_BYTES", 0)
    record(bins, binner, events(5), time.time())
    assert young.blocks == 2


def test_redact_removes_bins_of_what_is_redacted_now(tmp_path: Path) -> None:
    """Bins that were recorded when less was redacted are counted, and then deleted."""
    path = write_model(tmp_path, url=f"sqlite:///{tmp_path}/store.db")
    server = Served(tmp_path).start()
    assert server.post("/v1/predictions", events(40)).status == 202
    server.stop()
    config = yaml.safe_load(path.read_text())
    command = [sys.executable, "-m", "exporter.cli", "redact", f"--config.file={path}"]

    def redact(*flags: str) -> str:
        return subprocess.run([*command, *flags], check=True, capture_output=True, text=True).stdout

    def blocks() -> int:
        with sqlite3.connect(tmp_path / "store.db") as connection:
            return int(connection.execute("SELECT count(*) FROM bin_codes").fetchone()[0])

    assert blocks() == 1
    assert "bins of flights" not in redact()
    config["models"][0]["redact"] = ["pilot", "carrier"]
    path.write_text(yaml.safe_dump(config))
    text = redact("--dry-run")
    assert "bins of flights: 40 predictions contain redacted inputs" in text
    assert blocks() == 1
    assert "bins of flights: 40 predictions removed" in redact()
    assert blocks() == 0


def test_the_training_rows_have_the_redacted_input() -> None:
    """Otherwise the tests above would show nothing."""
    assert "pilot" in rows(1, 0)
