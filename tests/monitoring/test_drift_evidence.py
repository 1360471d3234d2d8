"""The evidence of slow change of a model version: over minutes, pauses and restarts."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from support.batches import observe

from exporter.config import ModelConfig, StoreConfig
from exporter.metrics.exposition import Exposition
from exporter.monitoring import snapshots
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import evidence_limit, model_evidence
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import IDLE_SECONDS, MonitorRegistry
from exporter.monitoring.snapshots import pack
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.correlation import measure_correlation
from exporter.profiles.profile import FILE, TIME, Blocks, BlockScores, CorrelationScores, Profile
from exporter.storage import Store
from exporter.wire.events import Prediction

RNG = np.random.default_rng(8)
PROFILE = Profile(
    "p",
    10_000,
    {"age": "numeric", "country": "categorical"},
    {
        "age": numeric_feature(RNG.normal(size=10_000)),
        "country": categorical_feature({"NL": 6000, "DE": 3000, "FR": 1000}, 0, 0),
    },
    prediction=numeric_feature(RNG.normal(size=10_000)),
    blocks=Blocks(TIME, "at"),
)
LIMIT = evidence_limit(365 * 86400.0)
BINNER = Binner(PROFILE)


def monitor_of() -> ModelMonitor:
    return ModelMonitor(ModelConfig("m"), "1", BINNER)


STATE = monitor_of().dump_evidence()[0].size


def feed(monitor: ModelMonitor, now: float, count: int = 20, shift: float = 0.0) -> None:
    countries = RNG.choice(["NL", "DE", "FR"], count, p=[0.6, 0.3, 0.1])
    rows = [
        {"age": age, "country": country}
        for age, country in zip(RNG.normal(shift, 1, count).tolist(), countries.tolist(), strict=True)
    ]
    observe(monitor, [Prediction("m", prediction=0.1)] * count, rows, now)


def run(monitor: ModelMonitor, start: float, minutes: int, shift: float = 0.0) -> float:
    """Feed 20 values a minute in two batches, and return the time after the last."""
    for minute in range(minutes):
        for second in (5, 35):
            feed(monitor, start + 60 * minute + second, 10, shift)
    return start + 60 * minutes


def test_a_small_change_is_found_within_an_hour_or_two_and_forgotten_after_it() -> None:
    """A quarter of a standard deviation, which the score of a window never shows; the other feature stays as it is."""
    monitor = monitor_of()
    now = run(monitor, 1000.0, 120)
    assert np.all(monitor.read_evidence(now)[:2] < LIMIT - 3)
    now = run(monitor, now, 120, shift=0.25)
    age, country = monitor.read_evidence(now)[:2]
    assert age > LIMIT
    assert country < LIMIT - 3
    assert max(stats.kl[0] for stats in monitor.read(now).values()) < 0.3
    now = run(monitor, now, 120)
    assert monitor.read_evidence(now)[0] < LIMIT


def test_evidence_is_absent_until_a_minute_has_passed() -> None:
    """Nothing is known before; afterwards a minute without values changes nothing."""
    monitor = monitor_of()
    assert np.isnan(monitor.read_evidence(5.0)).all()
    feed(monitor, 10.0)
    feed(monitor, 60.0)
    assert np.isnan(monitor.read_evidence(64.9)).all()
    after = monitor.read_evidence(70.0)
    assert np.isfinite(after).all()
    assert monitor.read_evidence(7000.0).tolist() == after.tolist()


def test_a_model_without_features_has_no_evidence() -> None:
    """All inputs are redacted, or there is no profile."""
    redacted = msgspec.structs.replace(PROFILE, prediction=None)
    for binner in (None, Binner(redacted, redacted=["age", "country"])):
        monitor = ModelMonitor(ModelConfig("m"), "1", binner)
        observe(monitor, [Prediction("m")], [{"age": 3}], 5.0)
        assert monitor.read_evidence(100.0).shape == (0,)


def test_a_restart_changes_nothing() -> None:
    """The evidence, and the counts of the minute that had begun, continue in the next process."""
    monitor = monitor_of()
    now = run(monitor, 1000.0, 30, shift=0.25)
    feed(monitor, now + 5, 10, 0.25)
    data = snapshots.encode(monitor, now + 6, unix_time=1e9)
    restored = monitor_of()
    snapshots.restore_version(restored, snapshots.decode(data, restored), 50.0, 1e9 + 30)
    assert restored.read_evidence(50.0)[:2] == pytest.approx(monitor.read_evidence(now + 66)[:2])
    assert monitor.read_evidence(now + 66)[0] > 1
    assert not restored.observed.any()  # counters begin at zero


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param((b"12345678", b""), id="another size"),
        pytest.param((np.full(STATE, np.nan).tobytes(), np.zeros(BINNER.bins).tobytes()), id="NaN"),
        pytest.param((np.full(STATE, -1.0).tobytes(), np.zeros(BINNER.bins).tobytes()), id="negative"),
        pytest.param((b"1", b"2"), id="no numbers"),
    ],
)
def test_a_damaged_snapshot_is_refused(evidence: tuple[bytes, bytes]) -> None:
    """It starts empty, as other damaged snapshots do."""
    monitor = monitor_of()
    feed(monitor, 5.0)
    snapshot = snapshots.decode(snapshots.encode(monitor, 6.0, 1e9), monitor)
    damaged = snapshots.decode(pack(msgspec.structs.replace(snapshot, evidence=evidence)), monitor)
    with pytest.raises(ValueError):
        snapshots.restore_version(monitor_of(), damaged, 50.0, 1e9)


def test_gauges_of_features_and_of_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series for each feature and the prediction, until a day without an event; the limit is always there."""
    clock = [100.0]
    monkeypatch.setattr("exporter.metrics.models.time.monotonic", lambda: clock[0])
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": BINNER})
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path / 'x.db'}"), lambda _: None)
    exposition = Exposition(CollectorRegistry(auto_describe=False), lambda: monitors, store)
    feed(monitors.get("m", "3", 100.0), 100.0)

    def series(name: str) -> dict[str, float]:
        lines = [line.rpartition(" ") for line in exposition.render()[0].decode().splitlines()]
        return {
            labels.partition('feature="')[2][:-2]: float(value)
            for labels, _, value in lines
            if labels.startswith(name + "{")
        }

    assert series("model_feature_drift_evidence") == {}
    assert series("model_drift_evidence_limit") == {"": pytest.approx(LIMIT)}
    assert series("model_drift_evidence") == {}
    clock[0] += 61
    assert series("model_feature_drift_evidence").keys() == {"age", "country", "(prediction)"}
    assert series("model_drift_evidence").keys() == {""}
    clock[0] += IDLE_SECONDS
    assert series("model_drift_evidence") == {}
    assert series("model_feature_drift_evidence") == {}
    monitors.get("m", "3", clock[0])
    assert series("model_feature_drift_evidence").keys() == {"age", "country", "(prediction)"}
    store.close()


def test_values_that_depended_on_each_other_in_training_give_less_evidence() -> None:
    """The dispersion of the profile's blocks divides the evidence, so that a small change takes longer to show."""
    scores = BlockScores((0.5,), (20.0,), False, dispersion=19.0)
    blocks = Blocks(TIME, sizes=(20,), targets={"age": scores})
    dependent = Binner(msgspec.structs.replace(PROFILE, blocks=blocks))
    one, other = monitor_of(), ModelMonitor(ModelConfig("m"), "1", dependent)
    for minute in range(60):
        rows = [{"age": age, "country": "NL"} for age in RNG.normal(0.5, 1, 20).tolist()]
        for monitor in (one, other):
            observe(monitor, [Prediction("m")] * 20, rows, 60.0 * minute)
    assert one.read_evidence(3660.0)[0] > LIMIT
    assert other.read_evidence(3660.0)[0] < LIMIT / 2
    assert one.read_evidence(3660.0)[1] == other.read_evidence(3660.0)[1]  # of the country nothing is known


def test_the_evidence_of_a_version_is_the_mean_of_its_targets() -> None:
    """One target alone needs as much more as there are targets; those that are not known count as nothing."""
    assert model_evidence(np.array([20.0, 20.0])) == pytest.approx(20.0)
    assert model_evidence(np.array([20.0, np.nan, np.nan, np.nan])) == pytest.approx(20 - math.log(4))
    assert math.isnan(model_evidence(np.full(3, np.nan)))
    assert model_evidence(np.array([1000.0, 0.0])) == pytest.approx(1000 - math.log(2))


def test_one_of_many_features_reaches_the_limit_and_falls_again() -> None:
    """The evidence of a target may exceed the limit by the logarithm of the number of targets."""
    names = [f"x{index}" for index in range(400)]
    feature = numeric_feature(np.random.default_rng(1).normal(size=2000))
    profile = Profile("p", 2000, dict.fromkeys(names, "numeric"), dict.fromkeys(names, feature), blocks=Blocks(TIME))
    monitor = ModelMonitor(ModelConfig("m"), "1", Binner(profile))
    rng = np.random.default_rng(2)
    for minute in range(90):
        rows = [dict(zip(names, rng.normal(size=400).tolist(), strict=True)) | {"x0": 3.0} for _ in range(20)]
        observe(monitor, [Prediction("m")] * 20, rows, 60.0 * minute)
        if model_evidence(monitor.read_evidence(60.0 * minute)) > LIMIT:
            break
    assert 1 < minute < 20


def unordered() -> ModelMonitor:
    return ModelMonitor(ModelConfig("m"), "1", Binner(msgspec.structs.replace(PROFILE, blocks=Blocks(FILE))))


def hours(monitor: ModelMonitor, now: float, number: int, times: int = 1, shift: float = 0.0) -> float:
    """Feed 120 values each ten minutes, each of them so many times in a row."""
    for tens in range(6 * number):
        ages = np.repeat(RNG.normal(shift, 1, 120 // times), times)
        countries = np.repeat(RNG.choice(["NL", "DE", "FR"], 120 // times, p=[0.6, 0.3, 0.1]), times)
        rows = [{"age": a, "country": c} for a, c in zip(ages.tolist(), countries.tolist(), strict=True)]
        observe(monitor, [Prediction("m", prediction=p) for p in ages.tolist()], rows, now + 600 * tens)
    return now + 3600 * number


def test_evidence_waits_for_a_day_where_training_says_nothing_of_dependence() -> None:
    """Training rows without times may be shuffled. Once live values prove to be independent, all of them count."""
    monitor = unordered()
    now = hours(monitor, 0.0, 24)
    assert np.isnan(monitor.read_evidence(now)).all()
    assert np.isinf(monitor.dispersion).all()
    now = hours(monitor, now, 2)
    assert np.all(monitor.dispersion < 3)
    now = hours(monitor, now, 2, shift=0.4)
    assert monitor.read_evidence(now)[0] > LIMIT


def test_live_values_that_depend_on_each_other_give_less_evidence() -> None:
    """Also if training rows are in order: they may be a part of all rows, far from each other. A restart keeps it."""
    for monitor in (monitor_of(), unordered()):
        now = hours(monitor, 0.0, 27, times=20)
        assert np.all((monitor.dispersion > 8) & (monitor.dispersion < 80))
        assert np.nanmax(monitor.read_evidence(now)) < LIMIT or monitor.binner is BINNER
        restored = ModelMonitor(ModelConfig("m"), "1", monitor.binner)
        data = snapshots.decode(snapshots.encode(monitor, now, 1e9), restored)
        snapshots.restore_version(restored, data, 50.0, 1e9)
        assert restored.dispersion.tolist() == monitor.dispersion.tolist()


def correlated(order: str) -> ModelMonitor:
    """Return the monitor of two features that are the same but for noise."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=5000)
    columns = {"a": x, "b": 0.8 * x + 0.6 * rng.normal(size=5000)}
    features = {name: numeric_feature(column) for name, column in columns.items()}
    found = measure_correlation(columns, features)
    blocks = Blocks(order, "at", correlation=CorrelationScores((160,), (0.1,), (160.0,), False))
    profile = Profile("p", 5000, dict.fromkeys(columns, "numeric"), features, correlation=found, blocks=blocks)
    return ModelMonitor(ModelConfig("m"), "1", Binner(profile))


def feed_pairs(monitor: ModelMonitor, start: float, hours: int, correlation: float) -> float:
    """Feed 200 rows each ten minutes, each feature as in training."""
    for tens in range(6 * hours):
        x, noise = RNG.normal(size=(2, 200))
        other = correlation * x + math.sqrt(1 - correlation**2) * noise
        rows = [{"a": a, "b": b} for a, b in zip(x.tolist(), other.tolist(), strict=True)]
        observe(monitor, [Prediction("m")] * 200, rows, start + 600 * tens)
    return start + 3600 * hours


def test_a_changed_correlation_alone_is_found_after_some_hours() -> None:
    """Each feature is as in training; no single hour decides, and the evidence outlasts a restart."""
    monitor = correlated(TIME)
    now = feed_pairs(monitor, 0.0, 6, 0.8)
    assert model_evidence(monitor.read_evidence(now)) < LIMIT / 2
    now = feed_pairs(monitor, now, 1, 0.0)
    assert model_evidence(monitor.read_evidence(now)) < LIMIT
    now = feed_pairs(monitor, now, 3, 0.0)
    evidence = monitor.read_evidence(now)
    assert model_evidence(evidence) > LIMIT
    assert evidence[:2].max() < LIMIT / 2
    restored = correlated(TIME)
    snapshots.restore_version(restored, snapshots.decode(snapshots.encode(monitor, now, 1e9), restored), 50.0, 1e9)
    assert restored.read_evidence(50.0).tolist() == evidence.tolist()


def test_a_correlation_waits_until_the_dependence_of_rows_is_known() -> None:
    """Training rows without times may be shuffled: live values of its features have to be known for a day."""
    monitor = correlated(FILE)
    now = feed_pairs(monitor, 0.0, 25, 0.0)
    assert np.isnan(monitor.read_evidence(now)[-1])
    now = feed_pairs(monitor, now, 80, 0.0)
    assert model_evidence(monitor.read_evidence(now)) > LIMIT
    assert np.nanmax(monitor.read_evidence(now)[:2]) < LIMIT / 2
