"""Noise floors that are learned from live traffic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from support.batches import observe
from support.blocks import with_ratios

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.windows import WindowStats
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import NumericFeature, Profile
from exporter.stats.divergence import Floats
from exporter.wire.events import Prediction

PER_MINUTE = 10
VALUES = numeric_feature(np.random.default_rng(1).normal(size=10_000))
PROFILE = Profile("p", 10_000, {"x": "numeric"}, {"x": VALUES})


def dependent(minutes: int, seed: int = 1) -> Floats:
    """Values with a correlation of 0.97, shape ``(minutes, PER_MINUTE)``."""
    noise = np.random.default_rng(seed).normal(size=minutes * PER_MINUTE + 1000)
    return np.asarray(lfilter([np.sqrt(1 - 0.97**2)], [1, -0.97], noise)[1000:].reshape(minutes, -1))


def independent(minutes: int, seed: int = 1, rate: int = PER_MINUTE) -> Floats:
    return np.random.default_rng(seed).normal(size=(minutes, rate))


class Live:
    """A model version that counts the values of each minute, and learns after it."""

    def __init__(self, profile: Profile = PROFILE, learner: NoiseLearner | None = None) -> None:
        self.monitor = ModelMonitor(ModelConfig("m", windows=("5m", "1h")), "1", Binner(profile))
        self.learner = learner or NoiseLearner(lambda: MonitorRegistry({}, {}))
        self.now = 0.0

    def feed(self, values: Floats) -> float:
        """Return the share of minutes in which the last five are above the threshold and the noise floor."""
        alarms = 0
        for minute in values:
            self.now += 60.0
            observe(
                self.monitor, [Prediction("m")] * len(minute), [{"x": value} for value in minute.tolist()], self.now
            )
            stats = self.monitor.read(self.now + 1)["5m"]
            alarms += bool(stats.kl[0] > max(0.3, stats.noise[0]))
            self.learner.learn(self.monitor, self.now + 2)
        return alarms / len(values)

    @property
    def ratio(self) -> float:
        """The ratio of the floor of fifty values."""
        noise = self.monitor.noise
        assert noise is not None
        return float(noise.ratio.at(np.array([50.0]))[0])


def test_dependent_values_no_longer_raise_false_alarms() -> None:
    """In the first hours most windows do; a change is still seen in the long window."""
    live = Live()
    assert live.ratio == 1
    assert live.feed(dependent(20)) > 0.3
    live.feed(dependent(100, seed=2))
    assert live.ratio > 3
    assert live.feed(dependent(300, seed=3)) < 0.05
    live.feed(dependent(60, seed=4) + 2)
    stats = live.monitor.read(live.now)["1h"]
    assert stats.kl[0] > max(0.3, stats.noise[0])


def test_long_sessions_leave_it_unknown_how_much_values_depend_on_each_other() -> None:
    """A version whose training rows show nothing waits; independent values are known after an hour."""
    for values, known in ((np.repeat(independent(8, rate=2), 15, axis=0), False), (independent(60), True)):
        live = Live()
        live.feed(values)
        assert np.isfinite(live.monitor.noise.doubt[0]) == known


def test_a_change_of_independent_values_is_not_learned() -> None:
    """Neither one after healthy hours, nor one from the beginning, nor a slow one."""
    live = Live()
    assert live.feed(independent(150)) < 0.03
    assert live.feed(independent(150, seed=2) + 1.5) > 0.95
    assert live.ratio == 1
    assert Live().feed(independent(200) + 1.5) > 0.9
    live = Live()
    live.feed(independent(400) + np.linspace(0, 3, 400)[:, None])
    assert live.ratio < 1.3


@pytest.mark.parametrize("start", [0, 30, 150])
@pytest.mark.parametrize(("minutes", "shift"), [(10, 1.0), (10, 2.0), (20, 4.0), (60, 2.0)])
def test_a_fault_that_ends_is_not_learned(start: int, minutes: int, shift: float) -> None:
    """The alert fires as long as the fault lasts, and a second fault is seen as well as the first."""
    live = Live()
    live.feed(independent(start + 3, seed=2, rate=60) + np.repeat([0.0, shift], [start, 3])[:, None])
    assert live.feed(independent(minutes - 3, seed=4, rate=60) + shift) > 0.5
    highest = 1.0
    for minute in independent(150, seed=5, rate=60):
        live.feed(minute[None])
        highest = max(highest, live.ratio)
    assert highest < 1.3


def test_a_fault_hides_no_dependence() -> None:
    """Where values depend on each other, the floor after a fault is about that without the fault."""
    healthy, faulty = Live(), Live()
    shift = np.where((np.arange(300) >= 150) & (np.arange(300) < 170), 4.0, 0.0)
    healthy.feed(dependent(300))
    faulty.feed(dependent(300) + shift[:, None])
    assert healthy.ratio > 3
    assert 0.6 < faulty.ratio / healthy.ratio < 1.6


def test_a_fault_that_comes_and_goes_is_not_learned() -> None:
    """Its windows drift for more than a tenth of the time, so nothing is learned, nor soon after them."""
    live = Live()
    live.feed(independent(150))
    faulty = independent(240, seed=2)
    broken = np.arange(240) // 10 % 3 == 0
    faulty[broken] = 2.5
    alarms = live.feed(faulty)
    assert live.ratio == 1
    assert alarms > 0.3


def test_weak_dependence_stays_learned() -> None:
    """It is not proven in each minute, but the floor, and the limit of the evidence, do not change to and fro."""
    noise = np.random.default_rng(2).normal(size=400 * 20)
    values = lfilter([np.sqrt(1 - 0.5**2)], [1, -0.5], noise).reshape(400, 20)
    live, learned = Live(), []
    for minute in values:
        live.feed(minute[None])
        assert live.monitor.noise
        learned.append(bool(live.monitor.noise.learned))
    assert learned[-1]
    assert np.count_nonzero(np.diff(learned)) == 1


def test_dependence_that_ends_is_forgotten_after_a_day() -> None:
    live = Live()
    live.feed(dependent(130))
    live.feed(independent(130, seed=5))
    assert live.ratio > 1
    live.now += 86_400
    live.feed(independent(130, seed=6))
    assert live.ratio == 1


def test_what_training_knows_is_not_learned_again() -> None:
    live = Live(with_ratios(PROFILE, [20, 40, 80], {"x": [2.0, 2.0, 2.0]}))
    live.feed(dependent(150))
    assert live.ratio == 2
    assert live.monitor.noise is not None
    assert not live.monitor.noise.learned


def test_a_model_without_a_profile_learns_nothing() -> None:
    monitor = ModelMonitor(ModelConfig("m"), "1", None)
    NoiseLearner(lambda: MonitorRegistry({}, {})).learn(monitor, 0.0)
    assert monitor.noise is None


RNG = np.random.default_rng(1)


def numbers(mean: float, deviation: float) -> NumericFeature:
    return numeric_feature(RNG.normal(mean, deviation, 3000))


MIXED = Profile(
    "p",
    3000,
    {"age": "numeric", "country": "categorical", "income": "numeric"},
    {"age": numbers(40, 10), "country": categorical_feature({"NL": 2000, "DE": 1000}, 0, 0), "income": numbers(9, 2)},
    prediction=numbers(0, 1),
    confidence=numbers(0.7, 0.05),
)
RATIOS = {"income": [2.0, 4.0, 8.0], "(prediction)": [3.0, 3.0, 3.0], "(confidence)": [1.0, 5.0, 25.0]}
DEPENDENT = with_ratios(MIXED, [20, 80, 320], RATIOS)
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
        plain, dependent = read(MIXED, rows), read(DEPENDENT, rows)
        assert dependent.noise == pytest.approx(plain.noise * ratio)
        assert dependent.kl.tolist() == plain.kl.tolist()


def test_a_redacted_input_leaves_the_others_their_ratio() -> None:
    plain, dependent = read(MIXED, 80, "age"), read(DEPENDENT, 80, "age")
    assert dependent.noise == pytest.approx(plain.noise * OF_80[1:])


def test_floors_of_segments_are_higher() -> None:
    """They depend on the number of values in the segment; one without values has no floor."""
    plain, dependent = monitor_of(MIXED), monitor_of(DEPENDENT)
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
    assert recent(DEPENDENT) == pytest.approx(recent(MIXED) * expected)
