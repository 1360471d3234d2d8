"""Noise floors of values that depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from support.batches import observe
from support.blocks import with_ratios

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.windows import WindowStats
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import NumericFeature, Profile
from exporter.stats.divergence import Floats
from exporter.wire.events import Prediction

RNG = np.random.default_rng(1)


def numbers(mean: float, deviation: float) -> NumericFeature:
    return numeric_feature(RNG.normal(mean, deviation, 3000))


PROFILE = Profile(
    "p",
    3000,
    {"age": "numeric", "country": "categorical", "income": "numeric"},
    {"age": numbers(40, 10), "country": categorical_feature({"NL": 2000, "DE": 1000}, 0, 0), "income": numbers(9, 2)},
    prediction=numbers(0, 1),
    confidence=numbers(0.7, 0.05),
)
RATIOS = {"income": [2.0, 4.0, 8.0], "(prediction)": [3.0, 3.0, 3.0], "(confidence)": [1.0, 5.0, 25.0]}
DEPENDENT = with_ratios(PROFILE, [20, 80, 320], RATIOS)
OF_80 = np.array([1.0, 1.0, 4.0, 3.0, 5.0])


def monitor_of(profile: Profile, *redacted: str) -> ModelMonitor:
    config = ModelConfig("m", segment_by="country", segments=("NL", "DE"), windows=("5m", "1h"))
    return ModelMonitor(config, "1", Binner(profile, redacted))


def feed(monitor: ModelMonitor, rows: int, now: float = 0.0) -> None:
    rng = np.random.default_rng(2)
    inputs = [
        {"age": age, "country": "NL", "income": income}
        for age, income in zip(rng.normal(40, 10, rows).tolist(), rng.normal(9, 2, rows).tolist(), strict=True)
    ]
    assert monitor.segments is not None
    events = [Prediction("m", prediction=value, confidence=0.7) for value in rng.normal(size=rows).tolist()]
    observe(monitor, events, inputs, now)


def read(profile: Profile, rows: int, *redacted: str) -> WindowStats:
    monitor = monitor_of(profile, *redacted)
    feed(monitor, rows)
    return monitor.read(0.0)["1h"]


def test_floors_of_dependent_values_are_higher() -> None:
    """The floors of features, predictions and confidences are higher as in training; those of others are as before."""
    for rows, ratio in ((80, OF_80), (40, [1, 1, 8**0.5, 3, 5**0.5]), (5, [1, 1, 2, 3, 1]), (3000, [1, 1, 8, 3, 25])):
        plain, dependent = read(PROFILE, rows), read(DEPENDENT, rows)
        assert dependent.noise == pytest.approx(plain.noise * ratio)
        assert dependent.kl.tolist() == plain.kl.tolist()


def test_a_redacted_input_leaves_the_others_their_ratio() -> None:
    plain, dependent = read(PROFILE, 80, "age"), read(DEPENDENT, 80, "age")
    assert dependent.noise == pytest.approx(plain.noise * OF_80[1:])


def test_floors_of_segments_are_higher() -> None:
    """They depend on the number of values in the segment; one without values has no floor."""
    plain, dependent = monitor_of(PROFILE), monitor_of(DEPENDENT)
    for monitor in (plain, dependent):
        feed(monitor, 80)
    (_, before), (_, after) = plain.read_segments(0.0), dependent.read_segments(0.0)
    assert after[0, :3] == pytest.approx(before[0, :3] * OF_80[:3])
    assert np.isnan(after[1]).all()


def test_both_sides_of_the_recent_floor_are_noisy() -> None:
    """A window of 80 values is compared with 320 before it: (n/(n+m))² χ²/2 (R(80)/80 + R(320)/320)."""

    def recent(profile: Profile) -> Floats:
        monitor = monitor_of(profile)
        feed(monitor, 320)
        feed(monitor, 80, 400.0)
        return monitor.read(400.0)["5m"].recent_noise

    of_320 = np.array([1.0, 1.0, 8.0, 3.0, 25.0])
    expected = (OF_80 / 80 + of_320 / 320) / (1 / 80 + 1 / 320)
    assert recent(DEPENDENT) == pytest.approx(recent(PROFILE) * expected)
