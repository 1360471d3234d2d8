"""The drift of all replicas together, which replicas with ``metrics: summary`` compute from a shared database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.batches import observe
from support.postgres import Postgres
from support.servers import write_config

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.snapshots import decode, encode, pack
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.server.application import Exporter
from exporter.server.tasks.snapshots import of_all_replicas
from exporter.wire.events import Prediction

VALUES = np.random.default_rng(1).normal(size=1000)
BINNER = Binner(Profile("p", 1000, {"age": "numeric"}, {"age": numeric_feature(VALUES)}))
SUMMARY = ModelConfig("m", metrics="summary")
NOW = 10_000.0


def monitor(values: Any, config: ModelConfig = SUMMARY, now: float = NOW) -> ModelMonitor:
    made = ModelMonitor(config, "1", BINNER)
    observe(made, [Prediction("m")] * len(values), [{"age": float(value)} for value in values], now)
    return made


def test_replicas_together_have_the_score_of_one_that_saw_everything() -> None:
    """Each has too few values to tell anything; what is older than the window no longer counts."""
    values = np.random.default_rng(2).normal(1, 1, 30)
    own, *others = (monitor(values[start : start + 10]) for start in (0, 10, 20))
    unix_time = 1e9
    snapshots = [encode(other, NOW, unix_time) for other in others]
    together, _ = of_all_replicas(own, snapshots, NOW, unix_time)
    whole = monitor(values).read(NOW)["1h"]
    assert together is not None
    assert (together.kl[0], together.noise[0]) == pytest.approx((whole.kl[0], whole.noise[0]))
    assert together.kl[0] > max(together.noise[0], 0.3)
    assert not any((one.read(NOW)["1h"].kl > one.read(NOW)["1h"].noise).any() for one in (own, *others))
    later, _ = of_all_replicas(monitor(values[:10], now=NOW + 4000), snapshots, NOW + 4000, unix_time + 4000)
    assert later is not None
    assert later.observations[0] == 10


def test_a_snapshot_that_does_not_fit_is_left_out() -> None:
    """A damaged one, and one of other windows; without any other, there is no score of several replicas."""
    other_windows = monitor(VALUES[:10], msgspec.structs.replace(SUMMARY, windows=("10m",)))
    own = monitor(VALUES[10:20])
    good = encode(own, NOW, 1e9)
    forged = pack(msgspec.structs.replace(decode(good, own), ring_time=1e300))
    snapshots = [b"damaged", encode(other_windows, NOW, 1e9), forged]
    none, damaged = of_all_replicas(monitor(VALUES[:10]), snapshots, NOW, 1e9)
    assert none is None
    assert damaged == ["its compression is damaged", "its times are not possible"]
    assert of_all_replicas(monitor(VALUES[:10]), [], NOW, 1e9) == (None, [])
    together, _ = of_all_replicas(monitor(VALUES[:10]), [*snapshots, good], NOW, 1e9)
    assert together is not None
    assert together.observations[0] == 20


def test_replicas_that_share_a_database_export_it(postgres: Postgres, tmp_path: Path) -> None:
    """Of the models with ``metrics: summary`` alone."""
    url = postgres.url()
    exporters = []
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            models = [
                {"name": "credit", "profile": "credit.json", "metrics": "summary"},
                {"name": "full", "profile": "credit.json"},
            ]
            config = {"models": models, "store": {"url": url, "replica": name}}
            exporters.append(Exporter(write_config(tmp_path / name, config)))
        for exporter in exporters:
            for model in ("credit", "full"):
                now = time.monotonic()
                events, inputs = [Prediction(model, version="1")] * 40, [{"age": 80.0, "income": 9.0}] * 40
                observe(exporter.pipeline.monitors.get(model, "1", now), events, inputs, now)
            exporter.snapshots.save(time.monotonic(), time.time())
        for exporter in exporters:
            exporter.replicas.refresh()
            lines = b"".join(text for _, text in exporter.replicas.lines()).decode().splitlines()
            series = {line.rsplit(" ", 1)[0] for line in lines}
            labels = '{model="credit",version="1",feature="age"}'
            assert f"model_feature_replicas_kl_divergence{labels}" in series
            assert f"model_feature_replicas_kl_divergence_noise{labels}" in series
            assert not any('model="full"' in line for line in lines)
            assert "model_feature_replicas_kl_divergence" in exporter.exposition.render()[0].decode()
    finally:
        for exporter in exporters:
            exporter.close()
