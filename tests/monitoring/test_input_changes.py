"""Inputs that have changed abruptly, with one budget of false alarms for all of them."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from support.batches import observe

from exporter.config import ModelConfig
from exporter.metrics.models import ModelsCollector, window_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import InputChanges
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import TIME, Blocks, Profile
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
    values = np.random.default_rng([5, abs(int(now))]).normal(size=(rows, len(NAMES)))
    values[:, :shifted] += shift
    inputs = [dict(zip(NAMES, row, strict=True)) for row in values.tolist()]
    observe(monitor, [Prediction("m", prediction=5.0)] * rows, inputs, now)


HOUR = 3600.0
ORDERED = msgspec.structs.replace(PROFILE, blocks=Blocks(TIME))


def changed(monitor: ModelMonitor, now: float, window: str = "5m") -> list[str]:
    """The inputs that have changed in a window."""
    changes = InputChanges(monitor.binner, monitor.config.window_seconds().items(), 365 * 86400.0)
    score = changes.score(monitor.noise, window, monitor.read(now)[window])
    return [name for name, value in zip(NAMES, score, strict=True) if not np.isnan(value)]


def after_an_hour(profile: Profile = ORDERED, shift: float = 0.0) -> ModelMonitor:
    """A version that has had healthy values for an hour."""
    monitor = monitor_of(profile)
    for minute in range(60):
        feed(monitor, 10, len(NAMES), 60.0 * minute, shift)
    return monitor


def test_inputs_that_change_are_found_among_all() -> None:
    """A change of one of 30 is found in five minutes of 100 values; without one there is none."""
    for shifted in (0, 1, 7):
        monitor = after_an_hour()
        feed(monitor, 100, shifted, HOUR + 290, shift=3.0)
        assert changed(monitor, HOUR + 300) == NAMES[:shifted]


def test_values_that_return_to_those_of_training_are_no_change() -> None:
    """They differ from the hour before, which was wrong, but not from training."""
    monitor = after_an_hour(shift=3.0)
    assert changed(monitor, HOUR, "1h") == []
    feed(monitor, 100, 0, HOUR + 290)
    assert changed(monitor, HOUR + 300) == []


def test_a_model_that_has_drifted_for_long_still_finds_a_change() -> None:
    """Training is far away all the time; what counts is the hour before."""
    monitor = after_an_hour(shift=3.0)
    feed(monitor, 100, 30, HOUR + 290, shift=3.0)
    assert changed(monitor, HOUR + 300) == []
    monitor = after_an_hour(shift=3.0)
    feed(monitor, 100, 2, HOUR + 290, shift=-3.0)
    assert set(NAMES[:2]) <= set(changed(monitor, HOUR + 300))


def test_few_values_tell_nothing() -> None:
    """Fewer than 20 on either side are not compared, but values far out of the range of training are obvious."""
    monitor = after_an_hour()
    feed(monitor, 19, 30, HOUR + 299, shift=9.0)
    assert len(changed(monitor, HOUR + 300)) in {0, 30}  # the window may hold values of the hour
    for number, shift, found in ((500, 9.0, []), (500, 30.0, NAMES[:2]), (19, 30.0, [])):
        new = monitor_of()
        feed(new, number, 2, 0.0, shift)
        assert changed(new, 1.0) == found


def test_values_whose_dependence_is_not_known_need_more() -> None:
    """Rows of training without an order may be shuffled: nothing is said until half an hour of live values is known.

    For the rest of the first day, a change of a standard deviation waits, a dark camera not.
    """
    unordered = msgspec.structs.replace(PROFILE, blocks=None)
    for shift, found in ((0.7, False), (9.0, True)):
        monitor = after_an_hour(unordered)
        learner = NoiseLearner(lambda: MonitorRegistry({}, {}))
        learner.learn(monitor, HOUR)
        feed(monitor, 100, 30, HOUR + 290, shift=shift)
        assert bool(changed(monitor, HOUR + 300)) is found
        monitor.noise = monitor.binner.profile_noise
        assert changed(monitor, HOUR + 300) == []


def test_a_new_configuration_has_a_new_budget() -> None:
    """The metrics follow a reload without a new version, and the values of the window stay."""
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(ORDERED)})
    now = time.monotonic()
    monitor = monitors.get("m", "1", now - HOUR)
    for minute in range(60):
        feed(monitor, 10, 0, now - HOUR - 300 + 60.0 * minute)
    feed(monitor, 100, 1, now - 1, shift=2.0)
    collector = ModelsCollector()

    def lines() -> list[str]:
        found = [
            text for family, text in collector.collect(monitors) if family.name == "model_feature_change_kl_divergence"
        ]
        return b"".join(found).decode().splitlines()

    assert [line for line in lines() if 'feature="x00"' in line and 'window="5m"' in line]
    assert not [line for line in lines() if 'feature="x01"' in line]


def test_a_run_of_a_batch_is_compared_with_training() -> None:
    """Its window has no time before; it is looked at once a day, and needs less evidence than other windows."""
    monitor = ModelMonitor(ModelConfig("m"), "1", Binner(PROFILE), {"run": 1.0})
    feed(monitor, 300, 3)
    lines = {family.name: text.decode() for family, text in window_lines(monitor, 0.0)}
    found = lines["model_feature_change_kl_divergence"].splitlines()
    assert [line.partition(" ")[0] for line in found] == [
        f'model_feature_change_kl_divergence{{model="m",version="1",feature="x0{index}",window="run"}}'
        for index in range(3)
    ]


@pytest.mark.parametrize("observed", [20, 50, 200])
def test_p_values_are_probabilities(observed: int) -> None:
    """Without drift, about 1 in 1,000 is below 0.001; fewer in small windows, where scores have few values."""
    rng = np.random.default_rng(observed)
    below, total = 0, 0
    for _ in range(20):
        training = np.bincount(np.minimum((rng.random(5000) * 20).astype(int), 19), minlength=24).astype(float)
        reference = Reference.from_counts(training, [24], chi2_quantiles(19))
        floors = NoiseFloors(reference, ONE, ONE, ONE, np.ones(1))
        live = rng.multinomial(observed, [0.05] * 20 + [0.0] * 4, 10_000).astype(float)
        p = floors.p_values(reference.kl_divergence(live), live.sum(axis=1, keepdims=True))
        below, total = below + int((p < 1e-3).sum()), total + p.size
    assert 0 < below / total < 3e-3


def test_scores_of_dependent_values_have_a_longer_tail() -> None:
    """At its floor a score has a p-value of 1%, at three times its floor a larger one than of independent values.

    The tail is longer still where the 99% quantile is further from the mean.
    """
    counts = np.full(20, 500.0)
    reference = Reference.from_counts(counts, [20], chi2_quantiles(19))
    one, two, six = (NoiseRatio(np.array([20.0]), np.array([[value]])) for value in (1.0, 2.0, 6.0))
    observed = np.array([1000.0])
    far = []
    for ratio, inflation in ((one, one), (two, two), (six, two)):
        floors = NoiseFloors(reference, ratio, inflation, one, np.ones(len(reference.rows)))
        floor = floors.training(observed)
        assert floors.p_values(floor, observed) == pytest.approx(0.01, rel=0.05)
        far.append(float(floors.p_values(3 * floor, observed)[0]))
    assert far[0] < far[1] / 1e6 < far[2] / 1e6
    assert far[1] < far[2]


def test_a_constant_of_training_is_no_discovery_by_itself() -> None:
    """It has no noise, and a score that only its few training rows cause."""
    reference = Reference.from_counts(np.array([0.0, 20, 0, 0]), [4], np.zeros(4))
    floors = NoiseFloors(reference, ONE, ONE, ONE, np.ones(1))
    for observed in (20.0, 1e3, 1e6):
        live = np.array([0.0, observed, 0, 0])
        assert floors.p_values(reference.kl_divergence(live), np.array([observed]))[0] > 1e-5
    assert floors.p_values(reference.kl_divergence(np.array([30.0, 0, 0, 0])), np.array([30.0]))[0] < 1e-9
