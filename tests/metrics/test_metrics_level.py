"""The series of a model by its setting ``metrics``."""

from __future__ import annotations

import re
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
from exporter.stats.dependence import SIZES, LiveDependence
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


VALUES = numeric_feature(np.random.default_rng(1).normal(size=1000))
PROFILE = Profile("p", 1000, {"age": "numeric", "income": "numeric"}, {"age": VALUES, "income": VALUES})
NOISE = re.compile(rb"^model_\w*noise_ratio.*$", re.M)


def registry(profile: Profile) -> MonitorRegistry:
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(profile)})
    now = time.monotonic()
    observe(monitors.get("m", "1", now), [Prediction("m")], [{"age": 0.0}], now)
    return monitors


def test_only_dependent_features_have_noise_ratios() -> None:
    """One series for each size, with the sizes as numbers beside them; the pushed metrics have the same."""
    monitors = registry(with_ratios(PROFILE, [20, 40, 80], {"income": [1.5, 2.25, 4.0]}))
    expected = [
        *(f'feature_noise_ratio{{model="m",version="1",feature="income",source="training",observations="{size}"}}'
          for size in (20, 40, 80)),
        *(f'noise_ratio_observations{{model="m",version="1",observations="{size}"}}' for size in (20, 40, 80)),
    ]  # fmt: skip
    for collected in (ModelsCollector().collect(monitors), window_lines(monitors.get("m", "1", 0.0), 0.0)):
        text = b"".join(render_families(collected))
        samples = dict(line.decode().removeprefix("model_").rsplit(" ", 1) for line in NOISE.findall(text))
        assert list(samples) == expected
        assert list(map(float, samples.values())) == pytest.approx([1.5, 2.25, 4.0, 20.0, 40.0, 80.0])


def test_independent_training_adds_no_series() -> None:
    for profile in (PROFILE, with_ratios(PROFILE, [20, 40, 80], {})):
        assert not NOISE.findall(b"".join(render_families(ModelsCollector().collect(registry(profile)))))


def test_what_was_learned_from_live_values_is_exported() -> None:
    """From the next scrape on, at sizes up to 10,240; what training knows stays."""
    monitors = registry(with_ratios(PROFILE, [20, 40, 80], {"income": [1.5, 2.25, 4.0]}))
    monitor = monitors.get("m", "1", 0.0)
    collector = ModelsCollector()

    def samples() -> dict[str, float]:
        text = b"".join(render_families(collector.collect(monitors)))
        return {name: float(value) for name, value in (line.decode().split(" ") for line in NOISE.findall(text))}

    before = samples()
    assert monitor.binner is not None
    live = LiveDependence(np.full(len(SIZES), 3.0), np.full(len(SIZES), 2.0), dependent=True)
    monitor.noise = monitor.binner.profile_noise.with_live({0: live})
    after = samples()
    assert after == pytest.approx(after | before)
    of_age = [name for name in after if 'feature="age",source="live"' in name]
    assert [after[name] for name in of_age] == pytest.approx([3.0] * len(SIZES))
    assert len(after) == 3 * len(SIZES)
