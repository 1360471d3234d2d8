"""The series of a model by its setting ``metrics``."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from support.batches import observe
from support.blocks import with_ratios

from exporter.config import ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector, window_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.wire.events import Prediction

AGES = numeric_feature(np.r_[np.random.default_rng(1).normal(size=900), np.full(100, np.nan)])
BINNER = Binner(
    with_ratios(
        Profile("p", 1000, dict.fromkeys(("age", "income"), "numeric"), dict.fromkeys(("age", "income"), AGES)),
        [20, 40],
        {"income": [1.5, 2.25]},
    )
)
FULL = ModelConfig("m")
SUMMARY = msgspec.structs.replace(FULL, metrics="summary")
WITH_BINS = (
    "model_feature_observations_total{",
    "model_feature_reference_probability{",
    "model_feature_noise_ratio{",
    "model_noise_ratio_observations{",
)


@pytest.fixture
def monitors(monkeypatch: pytest.MonkeyPatch) -> MonitorRegistry:
    """A model that has counted 30 predictions, at a time that stands still."""
    now = time.monotonic()
    monkeypatch.setattr("exporter.metrics.models.time.monotonic", lambda: now)
    monitors = MonitorRegistry({"m": FULL}, {"m": BINNER})
    observe(monitors.get("m", "1", now), [Prediction("m")] * 30, [{"age": 0.5}] * 30, now)
    return monitors


def samples(monitors: MonitorRegistry) -> list[str]:
    text = b"".join(render_families(ModelsCollector().collect(monitors))).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_summary_leaves_out_the_series_of_bins_alone(monitors: MonitorRegistry) -> None:
    """A reload changes the level, and loses no counts: all other samples are the same."""
    full = samples(monitors)
    assert {line.partition("{")[0] + "{" for line in full} > set(WITH_BINS)
    summary = MonitorRegistry({"m": SUMMARY}, {"m": BINNER})
    summary.adopt(monitors)
    assert samples(summary) == [line for line in full if not line.startswith(WITH_BINS)]
    again = MonitorRegistry({"m": FULL}, {"m": BINNER})
    again.adopt(summary)
    assert samples(again) == full


def test_what_ingest_pushes_follows_the_level(monitors: MonitorRegistry) -> None:
    monitor = monitors.get("m", "1", 0.0)
    full = b"".join(render_families(window_lines(monitor, time.monotonic())))
    monitor.reconfigure(SUMMARY)
    summary = b"".join(render_families(window_lines(monitor, time.monotonic())))
    assert b"bin=" in full
    assert b"bin=" not in summary
    assert b"model_feature_kl_divergence{" in summary


def test_the_missing_share_of_training_is_that_of_its_bins(monitors: MonitorRegistry) -> None:
    """Missing and invalid together, as ModelFeatureMissing compares them."""
    values = dict(line.rsplit(" ", 1) for line in samples(monitors))
    of_bins = [
        float(value)
        for series, value in values.items()
        if series.startswith('model_feature_reference_probability{model="m",version="1",feature="age"')
        and series.endswith((' missing"}', ' invalid"}'))
    ]
    share = float(values['model_feature_reference_missing_ratio{model="m",version="1",feature="age",window="5m"}'])
    assert len(of_bins) == 2
    assert share == pytest.approx(sum(of_bins))
    assert share == pytest.approx(0.1, abs=0.002)
