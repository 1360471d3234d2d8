"""Windows of features that change with the hour are compared with training values of their hours."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.seasons import START, columns, profile, training

from exporter.comparison.live import compare_live
from exporter.config import ModelConfig, StoreConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector
from exporter.monitoring import snapshots
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.drift_report import target_drifts
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.outcome import Scorer
from exporter.monitoring.prediction_columns import PredictionColumns
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shared_counts import SharedCounts
from exporter.monitoring.window_stats import WindowStats
from exporter.profiles.builder import build_file
from exporter.profiles.profile import Profile
from exporter.profiles.season_record import Season
from exporter.stats.change_evidence import ChangeEvidence
from exporter.stats.divergence import Floats, Reference
from exporter.stats.intervals import divergence
from exporter.storage import Store
from exporter.storage._labels import LabelSums
from exporter.wire.events import Prediction

HOUR = 3600.0
WINDOWS = ("5m", "1h", "1d")


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profile(tmp_path_factory.mktemp("seasonal"), season="day")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The same without a season, and as if its rows were shuffled: its noise floors are those of independent values."""
    return profile(tmp_path_factory.mktemp("plain"), shuffled=True)


def monitor_of(made: Profile, **settings: Any) -> ModelMonitor:
    return ModelMonitor(ModelConfig("m", **{"windows": WINDOWS} | settings), "1", Binner(made))


def feed(monitor: ModelMonitor, now: float, minutes: int, rate: int = 20, shift: float = 0.0, seed: int = 1) -> float:
    """Feed values of the daily cycle, a batch every five minutes from ``now`` on, which is also the Unix time."""
    rng = np.random.default_rng(seed)
    for start in range(0, minutes, 5):
        count = min(5, minutes - start) * rate
        seconds = np.full(count, now + 60 * start)
        rows = columns(rng, seconds)
        rows["income"] = rows["income"] + shift
        monitor.observe_columns(PredictionColumns(count, rows, times=seconds), now + 60 * start)
    return now + 60 * minutes


def reading(monitor: ModelMonitor, window: str, now: float) -> dict[str, Floats]:
    """What a window says of each feature by name: the fields of `WindowStats` of one value each."""
    stats = monitor.read(now)[window]
    assert monitor.binner
    fields = [name for name in WindowStats.__dataclass_fields__ if name not in {"expected", "counts", "multivariate"}]
    return {
        name: np.rec.fromarrays([getattr(stats, field)[index] for field in fields], names=fields)
        for index, name in enumerate(monitor.binner.names)
    }


def alarms(made: Profile, shift: float = 0.0) -> dict[str, float]:
    """The share of the windows of a day, the second, in which income has drifted; and in which its mean has moved."""
    monitor = monitor_of(made)
    now = feed(monitor, START, 1440)
    found: dict[str, list[bool]] = {name: [] for name in (*WINDOWS, "recent", "mean")}
    for part in range(48):
        now = feed(monitor, now, 30, shift=shift, seed=2 + part)
        for window in WINDOWS:
            income = reading(monitor, window, now - 1)["income"]
            found[window].append(bool(income.kl > max(0.3, income.noise)))
            if window == "5m":
                found["recent"].append(bool(income.recent_kl > max(0.3, income.recent_noise)))
            if window == "1h":
                found["mean"].append(bool(abs(income["shift"]) > 0.9))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_a_daily_cycle_raises_no_alarm_and_a_shift_on_top_of_it_does(seasonal: Profile, plain: Profile) -> None:
    """Without a season, windows of an hour fire for much of the day."""
    without, within = alarms(plain), alarms(seasonal)
    assert without["1h"] > 0.3
    assert without["mean"] > 0.1
    assert within == dict.fromkeys(within, 0)
    shifted = alarms(seasonal, shift=1.0)
    assert shifted["5m"] > 0.8
    assert shifted["1h"] > 0.95


def test_the_reference_of_a_window_is_that_of_its_hours(seasonal: Profile) -> None:
    """Of one hour by the formula of the divergence; of two their mixture; other features are unchanged."""
    monitor = monitor_of(seasonal)
    binner = monitor.binner
    assert binner
    assert seasonal.season
    feed(monitor, START + 5 * HOUR, 10)
    index = binner.names.index("income")
    bins = slice(binner.starts[index], binner.starts[index] + binner.sizes[index])
    hours = np.array(seasonal.season.targets["income"].counts, dtype=float)
    own = Reference.from_counts(hours[5], [binner.sizes[index]], binner.quantiles)
    stats = monitor.read(START + 5 * HOUR + 599)["1h"]
    assert stats.kl[index] == pytest.approx(own.kl_divergence(stats.counts[bins])[0], rel=1e-9)
    assert stats.noise[index] == pytest.approx(own.noise(stats.observations[index : index + 1])[0], rel=1e-9)
    age = binner.names.index("age")
    assert stats.kl[age] == binner.reference.kl_divergence(stats.counts)[age]
    assert stats.noise[age] == binner.reference.noise(stats.observations)[age]
    feed(monitor, START + 6 * HOUR, 30)
    day = monitor.read(START + 6 * HOUR + 1799)["1d"]
    expected = day.expected
    q = [(hours[hour] + 0.5) / (hours[hour].sum() + hours.shape[1] / 2) for hour in (5, 6)]
    assert expected.reference.probability[bins] == pytest.approx(q[0] / 4 + q[1] * 3 / 4, rel=1e-9)
    assert day.reference_missing[index] == pytest.approx((q[0] / 4 + q[1] * 3 / 4)[-2:].sum(), rel=1e-9)
    rows = 1 / (1 / 16 / hours[5].sum() + 9 / 16 / hours[6].sum())
    assert expected.reference.rows[index] == pytest.approx(rows)
    assert expected.counts[bins].sum() == pytest.approx(rows)


def test_an_hour_without_training_rows_has_the_reference_of_all(seasonal: Profile) -> None:
    """So has a window of which no hour is known."""
    assert seasonal.season
    income = seasonal.season.targets["income"]
    rare = msgspec.structs.replace(income, counts=(*income.counts[:7], (0,) * 24, *income.counts[8:]))
    binner = Binner(msgspec.structs.replace(seasonal, season=Season("day", {"income": rare})))
    assert binner.hourly
    for hours in (np.eye(24)[7], np.zeros(24)):
        expected = binner.hourly.at(hours)
        assert np.array_equal(expected.reference.probability, binner.reference.probability)
        assert expected.reference.rows.tolist() == binner.reference.rows.tolist()
        assert not expected.shift.any()


def test_an_event_counts_in_the_hour_of_its_own_time(seasonal: Profile) -> None:
    """Predictions that are sent later are compared with the hours in which they were made; others with the present."""
    monitor = monitor_of(seasonal)
    assert monitor.binner
    made = datetime.fromtimestamp(START + 5 * HOUR, UTC)
    events = [Prediction("m", time=made), Prediction("m", time=made), Prediction("m")]
    monitor.observe(events, [{"income": 1.0}] * 3, 100.0, unix_time=START + 23 * HOUR)
    hours = monitor.observed[monitor.binner.bins :]
    assert {hour: int(count) for hour, count in enumerate(hours) if count} == {5: 2, 23: 1}
    monitor.observe([Prediction("m")], [{"income": 1.0}], 100.0, unix_time=np.nan)
    assert monitor.observed[monitor.binner.bins :].sum() == 3


def test_a_window_is_compared_with_the_one_before_as_the_hours_differ(seasonal: Profile, plain: Profile) -> None:
    """Windows of an hour against the day before: without a season every morning is a sudden change."""
    scores = {}
    for name, made in {"plain": plain, "seasonal": seasonal}.items():
        monitor = monitor_of(made, windows=("1h", "1d"))
        now = feed(monitor, START, 1440 + 420)  # to seven o'clock
        income = reading(monitor, "1h", now - 1)["income"]
        scores[name] = float(income.recent_kl)
        assert income.recent_noise < 0.3
    assert scores["plain"] > 0.5
    assert scores["seasonal"] < 0.1


def test_the_evidence_of_a_slow_change_follows_the_hours(seasonal: Profile) -> None:
    """Three days of the cycle are no evidence; half a standard deviation on top of it is, within the next day."""
    monitor = monitor_of(seasonal)
    assert monitor.binner
    index, now = monitor.binner.names.index("income"), START
    for part in range(36):
        now = feed(monitor, now, 120, seed=100 + part)
        assert monitor.read_evidence(now)[index] < LIMIT
    now = feed(monitor, now, 1440, shift=0.7)
    assert monitor.read_evidence(now)[index] > LIMIT


def test_hours_survive_a_restart(seasonal: Profile, tmp_path: Path) -> None:
    """A snapshot has the events by hour of the windows, of the segments, and of the evidence."""
    settings: dict[str, Any] = {"windows": WINDOWS, "segment_by": "meal"}
    registry = MonitorRegistry({"m": ModelConfig("m", **settings)}, {"m": Binner(seasonal)})
    now = START + 9 * HOUR
    monitor = registry.get("m", "1", now)
    feed(monitor, now, 90)
    now += 90 * 60
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path / 'kept.db'}"), lambda _: None)
    try:
        snapshots.SnapshotSaver(store, lambda: registry).save(now, now)
        fresh = MonitorRegistry({"m": ModelConfig("m", **settings)}, {"m": Binner(seasonal)})
        snapshots.restore(store, fresh, now, now)
    finally:
        store.close()
    (restored,) = fresh
    for before, after in zip(monitor.read(now).values(), restored.read(now).values(), strict=True):
        assert np.array_equal(before.kl, after.kl, equal_nan=True)
    for first, second in zip(monitor.read_segments(now), restored.read_segments(now), strict=True):
        assert np.array_equal(first, second, equal_nan=True)
    assert np.array_equal(monitor.read_evidence(now), restored.read_evidence(now), equal_nan=True)


def test_a_segment_is_compared_with_the_hours_of_its_own_events(seasonal: Profile) -> None:
    """Lunch at noon and snacks at night: each like training at its time, whichever events the other segment has."""
    monitor = monitor_of(seasonal, segment_by="meal", segments=("lunch", "snack"))
    rng = np.random.default_rng(6)
    for hour in (2, 12):
        rows = columns(rng, np.full(300, START + hour * HOUR))
        times = np.full(300, START + hour * HOUR)
        kept = np.array(rows["meal"]) == {2: "snack", 12: "lunch"}[hour]
        chosen = {name: np.array(values)[kept].tolist() for name, values in rows.items()}
        monitor.observe_columns(PredictionColumns(int(kept.sum()), chosen, times=times[kept]), START + 12 * HOUR)
    scores, floors = monitor.read_segments(START + 12 * HOUR)
    assert monitor.binner
    income = monitor.binner.names.index("income")
    assert (scores[:2, income] < np.maximum(floors[:2, income], 0.3)).all()
    assert np.isnan(scores[2]).all()


def test_versions_are_compared_with_training_of_their_hours(seasonal: Profile) -> None:
    """The comparison of two versions that served in one hour: neither has drifted."""
    registry = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(seasonal)})
    shared, now = SharedCounts(), START + 6 * HOUR
    rng = np.random.default_rng(7)
    for _ in range(10):
        for version in ("1", "2"):
            rows = columns(rng, np.full(200, now))
            events = [
                dict(zip(rows, row, strict=True))
                for row in zip(*(np.array(column).tolist() for column in rows.values()), strict=True)
            ]
            registry.get("m", version, now).observe([Prediction("m")] * 200, events, now, unix_time=now)
        now += 15
        shared.add_step(registry, now, now)
    found = compare_live(shared, lambda *_: LabelSums(0, 0, 0, 0), lambda *_: Scorer(None), "m")
    scores = [
        divergence(*feature).value for side in (found.before, found.after) for feature in side.counts.features.values()
    ]
    assert len(scores) == 6
    assert max(scores) < 0.1


def families(made: Profile, minutes: int = 10) -> bytes:
    registry = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(made)})
    feed(registry.get("m", "1", START), START, minutes)
    return b"".join(render_families(ModelsCollector().collect(registry)))


def test_a_season_adds_no_series(seasonal: Profile, plain: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training side of the series is that of the last hour by the clock, for all replicas alike."""
    monkeypatch.setattr("exporter.metrics.models.time.time", lambda: START + 6.25 * HOUR)
    texts = [families(made).decode() for made in (seasonal, plain)]
    names = [{line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")} for text in texts]
    assert {name for name in names[0] ^ names[1] if "noise_ratio" not in name and "model_info" not in name} == set()
    assert seasonal.season
    hours = np.array(seasonal.season.targets["income"].counts, dtype=float)
    q = [(hours[hour] + 0.5) / (hours[hour].sum() + hours.shape[1] / 2) for hour in (5, 6)]
    found = [
        float(line.rpartition(" ")[2])
        for line in texts[0].splitlines()
        if line.startswith('model_feature_reference_probability{model="m",version="1",feature="income"')
    ]
    assert found == pytest.approx(0.75 * q[0] + 0.25 * q[1], rel=1e-6)


def test_the_report_of_a_window_has_the_training_of_its_hours(seasonal: Profile) -> None:
    """Its shares, its mean, and the season of those features that have one."""
    monitor = monitor_of(seasonal)
    now = feed(monitor, START + 6 * HOUR, 50, rate=100)
    drifts = {drift.name: drift for drift in target_drifts(monitor, monitor.read(now - 1)["1h"])}
    assert {name: drift.season for name, drift in drifts.items()} == {"income": "day", "meal": "day", "age": None}
    assert {drift.status for drift in drifts.values()} <= {"same", "slight"}
    income = drifts["income"]
    assert income.trained_mean == pytest.approx(np.sqrt(2), abs=0.2)
    assert income.mean - income.trained_mean == pytest.approx(0, abs=0.2)
    trained, live = income.trained / income.trained.sum(), income.live / income.live.sum()
    assert abs(trained - live).sum() / 2 < 0.15


def test_the_evidence_takes_an_hour_as_known_from_few_rows(tmp_path: Path) -> None:
    """Within an hour the mean moves on: values that lie nearly half-way to the next hour are no evidence."""
    path = tmp_path / "training.npz"
    np.savez(path, **training(56, 100_000))
    binner = Binner(build_file(path, time_column="at", season="day"))
    assert binner.hourly
    hour, later = (binner.hourly.at(np.eye(24)[place]).reference for place in (0, 1))
    detectors = binner.change_evidence_of(hour), ChangeEvidence(hour, np.array([True, False, True]))
    found = []
    for detector in detectors:
        state = np.zeros(detector.size)
        for _ in range(100):
            detector.update(state, 100 * (0.55 * hour.probability + 0.45 * later.probability), LIMIT)
        found.append(float(detector.read(state)[binner.names.index("income")]))
    assert found[0] < LIMIT / 2
    assert found[1] > LIMIT
