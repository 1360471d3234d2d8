"""The number of drifted features, with one budget of false alarms for all of them."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from support.batches import observe
from support.blocks import with_ratios

from exporter.config import FeatureConfig, ModelConfig
from exporter.metrics.models import ModelsCollector, window_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.feature_budget import FeatureBudget
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile
from exporter.stats.dependence import NoiseRatio
from exporter.stats.divergence import Reference, chi2_quantiles
from exporter.wire.events import Prediction

RNG = np.random.default_rng(4)
NAMES = [f"x{index:02d}" for index in range(30)]
PROFILE = Profile(
    "p",
    5000,
    dict.fromkeys(NAMES, "numeric"),
    {name: numeric_feature(RNG.normal(size=5000)) for name in NAMES},
    prediction=numeric_feature(RNG.normal(size=5000)),
)
ONE = NoiseRatio.of_independent_values(1)


def monitor_of(profile: Profile = PROFILE, **settings: object) -> ModelMonitor:
    config = msgspec.convert({"name": "m", **settings}, ModelConfig)
    return ModelMonitor(config, "1", Binner(profile))


def feed(monitor: ModelMonitor, rows: int, shifted: int = 0, now: float = 0.0, shift: float = 1.5) -> None:
    """Feed rows in which the first features are shifted, in standard deviations."""
    values = np.random.default_rng(5).normal(size=(rows, len(NAMES)))
    values[:, :shifted] += shift
    inputs = [dict(zip(NAMES, row, strict=True)) for row in values.tolist()]
    observe(monitor, [Prediction("m", prediction=5.0)] * rows, inputs, now)


def count(monitor: ModelMonitor, window: str = "5m", now: float = 1.0) -> tuple[float, float]:
    assert monitor.noise
    return FeatureBudget(monitor.config, NAMES).count(monitor.noise, window, monitor.read(now)[window])


def test_features_that_have_drifted_are_counted() -> None:
    """Predictions, here far from training, are none; without drift the number is 0."""
    for shifted in (0, 1, 7):
        monitor = monitor_of()
        feed(monitor, 200, shifted)
        assert count(monitor) == (shifted, 30)
        assert count(monitor, "1h") == (shifted, 30)


def test_a_feature_below_its_threshold_is_not_counted() -> None:
    """A small change of many values is significant, but the threshold says that it does not matter."""
    settings = {"features": {"x00": {"alerts": {"ModelFeatureDrift": 50.0}}}}
    monitor = monitor_of(**settings)
    feed(monitor, 3000, 3)
    assert count(monitor) == (2, 30)
    monitor = monitor_of(alerts={"ModelFeatureDrift": 50.0})
    feed(monitor, 3000, 3)
    assert count(monitor) == (0, 30)


def test_few_values_are_not_compared() -> None:
    """With fewer than 20 values there is no number, as there is none without values."""
    monitor = monitor_of()
    assert np.isnan(count(monitor)).all()
    feed(monitor, 19, 30)
    assert np.isnan(count(monitor)).all()
    feed(monitor, 1, 30)
    assert count(monitor)[1] == 30


def test_a_smaller_budget_needs_more_evidence() -> None:
    """Of 30 features, a small change is found in 50 values at an alarm an hour, and none at one in 10 years."""
    found = {}
    for interval in ("1h", "30d", "3650d"):
        monitor = monitor_of(drift_false_alarm_interval=interval)
        feed(monitor, 50, 1, shift=1.0)
        found[interval] = count(monitor)[0]
    assert found["1h"] == 1
    assert found["3650d"] == 0


def test_values_that_depend_on_each_other_are_less_evidence() -> None:
    """What is a change of independent values is none where the noise floor is five times as high.

    100 such values tell as much as 20 independent ones; fewer are not compared.
    """
    monitor, dependent = monitor_of(), monitor_of(with_ratios(PROFILE, [20, 80, 320], {"x00": [5.0, 5.0, 5.0]}))
    for one in (monitor, dependent):
        feed(one, 99, 2)
    assert (count(monitor), count(dependent)) == ((2, 30), (1, 29))
    for one in (monitor, dependent):
        feed(one, 1, 2)
    assert (count(monitor), count(dependent)) == ((2, 30), (1, 30))


def test_a_new_configuration_has_a_new_budget() -> None:
    """The metrics follow a reload without a new version, and the values of the window stay."""
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(PROFILE)}, {})
    monitor = monitors.get("m", "1", 0.0)
    collector = ModelsCollector()
    feed(monitor, 200, 2, time.monotonic())

    def drifted() -> list[str]:
        lines = [text for family, text in collector.collect(monitors) if family.name == "model_features_drifted"]
        return b"".join(lines).decode().splitlines()

    assert 'model_features_drifted{model="m",version="1",window="5m"} 2.0' in drifted()
    high = FeatureConfig(alerts={"ModelFeatureDrift": 50.0})
    monitor.reconfigure(msgspec.structs.replace(monitor.config, features={"x00": high}))
    assert 'model_features_drifted{model="m",version="1",window="5m"} 1.0' in drifted()


def test_a_run_of_a_batch_is_counted_once_a_day() -> None:
    """Its window has no length; it needs less evidence than a window that is looked at all the time."""
    monitor = ModelMonitor(ModelConfig("m"), "1", Binner(PROFILE), {"run": 1.0})
    feed(monitor, 100, 3)
    lines = {family.name: text.decode() for family, text in window_lines(monitor, 0.0)}
    assert lines["model_features_drifted"].strip() == 'model_features_drifted{model="m",version="1",window="run"} 3.0'
    assert lines["model_features_compared"].strip().endswith(" 30.0")


@pytest.mark.parametrize("observed", [20, 50, 200])
def test_p_values_are_probabilities(observed: int) -> None:
    """Without drift, about 1 in 1,000 is below 0.001; fewer in small windows, where scores have few values."""
    rng = np.random.default_rng(observed)
    below, total = 0, 0
    for _ in range(20):
        training = np.bincount(np.minimum((rng.random(5000) * 20).astype(int), 19), minlength=24).astype(float)
        reference = Reference.from_counts(training, [24], chi2_quantiles(19))
        floors = NoiseFloors(reference, ONE, ONE, ONE)
        live = rng.multinomial(observed, [0.05] * 20 + [0.0] * 4, 10_000).astype(float)
        p = floors.p_values(reference.kl_divergence(live), live.sum(axis=1, keepdims=True))
        below, total = below + int((p < 1e-3).sum()), total + p.size
    assert 0 < below / total < 3e-3


def test_scores_of_dependent_values_have_a_longer_tail() -> None:
    """At its floor a score has a p-value of 1 %, at three times its floor a larger one than of independent values.

    The tail is longer still where the 99 % quantile is further from the mean.
    """
    counts = np.full(20, 500.0)
    reference = Reference.from_counts(counts, [20], chi2_quantiles(19))
    one, two, six = (NoiseRatio(np.array([20.0]), np.array([[value]])) for value in (1.0, 2.0, 6.0))
    observed = np.array([1000.0])
    far = []
    for ratio, inflation in ((one, one), (two, two), (six, two)):
        floors = NoiseFloors(reference, ratio, inflation, one)
        floor = floors.training(observed)
        assert floors.p_values(floor, observed) == pytest.approx(0.01, rel=0.05)
        far.append(float(floors.p_values(3 * floor, observed)[0]))
    assert far[0] < far[1] / 1e6 < far[2] / 1e6
    assert far[1] < far[2]


def test_a_constant_of_training_is_no_discovery_by_itself() -> None:
    """It has no noise, and a score that only its few training rows cause."""
    reference = Reference.from_counts(np.array([0.0, 20, 0, 0]), [4], np.zeros(4))
    floors = NoiseFloors(reference, ONE, ONE, ONE)
    for observed in (20.0, 1e3, 1e6):
        live = np.array([0.0, observed, 0, 0])
        assert floors.p_values(reference.kl_divergence(live), np.array([observed]))[0] > 1e-5
    assert floors.p_values(reference.kl_divergence(np.array([30.0, 0, 0, 0])), np.array([30.0]))[0] < 1e-9
