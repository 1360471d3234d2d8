"""A scrape of 10,000 and 100,000 series, against prometheus_client's generate_latest of as many."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from timing import median_seconds, profile, report

from exporter.binning import Layout
from exporter.config import ModelConfig, StoreConfig
from exporter.events import Prediction
from exporter.metrics import Exposition
from exporter.monitors import Monitors
from exporter.store import Store


def peer(series: int) -> CollectorRegistry:
    """As many gauges of prometheus_client."""
    registry = CollectorRegistry()
    gauge = Gauge("model_feature_mean", "Mean.", ["model", "version", "feature", "window"], registry=registry)
    for number in range(series):
        gauge.labels("m", "3", f"f{number}", "5m").set(number / 7)
    return registry


def measure(features: int) -> None:
    """Print the figures of one model with so many features."""
    rng = np.random.default_rng(2)
    monitors = Monitors({"m": ModelConfig(name="m")}, {"m": Layout(profile(features, 2000))})
    rows = [{f"f{number}": value for number, value in enumerate(row)} for row in rng.normal(size=(50, features))]
    events = [Prediction(model="m", version="3", confidence=0.9)] * len(rows)
    monitor = monitors.get("m", "3", time.monotonic())
    monitor.observe(events, rows, time.monotonic())
    with TemporaryDirectory() as folder:
        store = Store(StoreConfig(url=f"sqlite:///{Path(folder) / 'bench.db'}"), lambda _: None)
        exposition = Exposition(CollectorRegistry(auto_describe=False), [], lambda: monitors, store)
        series = sum(not line.startswith(b"#") for line in exposition.render()[0].splitlines())

        def changed() -> None:
            monitor.observe(events[:1], rows[:1], time.monotonic())
            exposition.render()

        registry = peer(series)
        other = 1e3 * median_seconds(lambda: generate_latest(registry), 5)
        for what, call in (("warm", exposition.render), ("after a change", changed)):
            report(f"scrape of {series:,} series, {what}", 1e3 * median_seconds(call), "ms", "generate_latest", other)
        store.close()


def main() -> None:
    """Print the figures."""
    measure(160)
    measure(1600)


if __name__ == "__main__":
    main()
