"""Three exporters behind a balancer, one real Prometheus: their counters add up to the pooled data's divergence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from support.batches import count
from support.blocks import with_ratios
from support.paths import ROOT
from support.postgres import Postgres
from support.programs import prometheus, quickened_rules, scraping
from support.servers import Served, ask, eventually, write_config

from exporter.monitoring.binner import Binner
from exporter.profiles.profile import load, save
from exporter.server.application import Exporter, ready

RATIOS = [2.0, 3.0, 4.0, 5.0]
FEATURE = 'model="credit",version="3",feature="age"'


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[list[Served], str]]:
    """Three exporters, and the Prometheus that scrapes them."""
    with ExitStack() as stack:
        servers = []
        for name in ("a", "b", "c"):
            (tmp_path / name).mkdir()
            write_config(tmp_path / name)
            profile = load(tmp_path / name / "credit.json")
            save(with_ratios(profile, [20, 40, 80, 160], {"age": RATIOS}), tmp_path / name / "credit.json")
            servers.append(Served(tmp_path / name).start())
            stack.callback(servers[-1].stop)
        quickened_rules(ROOT / "prometheus/rules", tmp_path / "rules")
        yield servers, stack.enter_context(prometheus(tmp_path, scraping(*servers))).url


def test_the_recorded_divergence_is_that_of_the_pooled_data(replicas: tuple[list[Served], str]) -> None:
    """However the traffic is distributed, though one replica restarts and one serves a newer version."""
    servers, prometheus = replicas
    binner = Binner(load(servers[0].folder / "credit.json"))
    rng = np.random.default_rng(11)
    pooled: list[float] = []

    def send(server: Served, count: int, mean: float, version: str = "3") -> None:
        ages = rng.normal(mean, 8, count).round().tolist()
        events = [{"model": "credit", "version": version, "inputs": {"age": age}} for age in ages]
        assert server.post("/v1/predictions", events).status == 202
        if version == "3":
            pooled.extend(ages)

    def recorded(what: str = "kl_divergence") -> float | None:
        text = f"model_version_feature:{what}:increase1h{{{FEATURE}}}"
        result: list[Any] = ask(f"{prometheus}/api/v1/query?query={quote(text)}").json["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def expected() -> float:
        row, *_ = count(binner, [{"age": age} for age in pooled], [])
        return float(binner.reference.kl_divergence(binner.split(row).counts)[binner.names.index("age")])

    def agrees() -> bool:
        value = recorded()
        return value is not None and abs(value / expected() - 1) < 0.05

    send(servers[0], 10, 40)
    eventually(recorded)
    for server, number, mean in zip(servers, (1500, 300, 60), (40, 60, 75), strict=True):
        send(server, number, mean)  # the counters of the last two begin with this: a first value is not lost
    send(servers[2], 2000, 30, version="4")  # a replica that is a version ahead
    eventually(agrees)
    alone = servers[2].samples("model_feature_kl_divergence")[f'model_feature_kl_divergence{{{FEATURE},window="1h"}}']
    assert abs(alone / expected() - 1) > 0.2  # each replica by itself tells another story
    floor = binner.profile_noise.training(np.full(len(binner.targets), float(len(pooled))))[binner.names.index("age")]
    assert recorded("kl_divergence_noise") == pytest.approx(floor, rel=0.05)
    servers[0].stop()
    servers[0].start()
    send(servers[0], 800, 25)
    eventually(agrees)


def test_a_second_exporter_with_the_same_name_has_a_warning(postgres: Postgres, tmp_path: Path) -> None:
    """Readiness and metrics tell of it, and it accepts events nevertheless; the first one has no warning."""
    path = write_config(tmp_path, {"models": [{"name": "m"}], "store": {"url": postgres.url(), "replica": "a"}})
    first, second = Exporter(path), Exporter(path)
    try:
        start = time.monotonic()
        for seconds in (30.0, 60.0, 90.0):
            for exporter in (first, second):
                exporter.snapshots.save(start + seconds, time.time() + seconds)
        answer = ready(second)
        assert answer.status == 200
        assert b"warning: windows are not saved: another exporter has the same store.replica" in answer.body
        assert second.registry.get_sample_value("model_exporter_store_errors_total")
        assert ready(first).body == b"model-exporter is ready.\n"
        assert first.registry.get_sample_value("model_exporter_store_errors_total") == 0
    finally:
        first.close()
        second.close()
