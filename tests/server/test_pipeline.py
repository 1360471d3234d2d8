"""The queue of predictions and the thread that counts them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from support.servers import CONFIG, write_config

from exporter.server.application import Exporter
from exporter.storage._database import predictions

EVENTS = 2000


def test_a_version_for_each_prediction_costs_no_more(tmp_path: Path) -> None:
    """Predictions beyond the limit of versions are counted together, and stored with the version that each has."""
    exporter = Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))
    ingest = exporter.ingest

    def seconds(version: Callable[[int], str]) -> float:
        """Return the processor seconds that it takes to count and store predictions."""
        inputs = {"age": 30, "income": 1e4, "country": "NL"}
        body = json.dumps([{"model": "credit", "version": version(n), "inputs": inputs} for n in range(EVENTS)])
        start = time.process_time()
        assert ingest.predictions(body.encode(), False, None, False).status == 202
        assert exporter.pipeline.settle(60) and exporter.store.flush(60)
        return time.process_time() - start

    try:
        seconds(lambda n: f"known-{n % 20}")
        same = min(seconds(lambda _: "beyond") for _ in range(3))
        different = min(seconds(lambda n, turn=turn: f"{turn}-{n}") for turn in range(3))
        with exporter.store.reading() as connection:
            stored = connection.execute(sa.select(sa.func.count(predictions.c.version.distinct()))).scalar()
        (other,) = (monitor for monitor in exporter.pipeline.monitors if monitor.version == "other")
    finally:
        exporter.close()
    assert different < 5 * same  # 50 times when each version was a batch of its own
    assert stored == 20 + 1 + 3 * EVENTS
    assert other.counters.attempts == 6 * EVENTS


def test_close_ends_every_thread(tmp_path: Path) -> None:
    """No thread of a closed exporter goes on working."""
    before = set(threading.enumerate())
    exporter = Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))
    assert {"aggregator", "tasks"} <= {thread.name for thread in set(threading.enumerate()) - before}
    exporter.close()
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
