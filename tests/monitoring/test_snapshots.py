"""Windows over a restart: nothing lost, nothing made up, whatever the clocks did."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import observe
from support.memory import allocating
from support.postgres import Postgres
from support.servers import eventually, serving, write_config

from exporter.config import ModelConfig, StoreConfig
from exporter.monitoring import snapshots
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.snapshots import decode, encode
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.correlation import measure_correlation
from exporter.profiles.profile import Profile
from exporter.scheduler import Scheduler
from exporter.server.tasks.snapshots import SnapshotSaver, restore
from exporter.stats.divergence import Reference
from exporter.storage import Store
from exporter.storage._database import windows
from exporter.wire.events import LabelledPrediction, Prediction

WALL = 1_764_028_790.0  # ten seconds before a midnight in UTC
RNG = np.random.default_rng(20)
COLUMNS = {"x": RNG.normal(size=900), "y": RNG.normal(size=900)}


def binner_of(bins: int = 20) -> Binner:
    features: dict[str, Any] = {name: numeric_feature(values, bins) for name, values in COLUMNS.items()}
    together = measure_correlation(COLUMNS, features)
    features["c"] = categorical_feature({"NL": 5, "DE": 4}, 0, 0)
    inputs = {"x": "numeric", "y": "numeric", "c": "categorical"}
    return Binner(Profile("p", 900, inputs, features, correlation=together))


BINNER = binner_of()


def monitors_of(binner: Binner = BINNER, **settings: Any) -> MonitorRegistry:
    chosen = {"windows": ("5m", "1h"), "segment_by": "c"} | settings
    return MonitorRegistry({"m": ModelConfig("m", **chosen)}, {"m": binner})


def feed(monitors: MonitorRegistry, version: str, now: float, x: float = 0.1, times: int = 1) -> None:
    monitor = monitors.get("m", version, now)
    rows = [{"x": x + step / 9, "y": -x, "c": "DE"} for step in range(times)]
    observe(monitor, [Prediction("m")] * times, rows, now)


def counted(monitors: MonitorRegistry, now: float) -> dict[str, dict[str, float]]:
    """Observations by version and window; those of windows that hold nothing are left out."""
    counts = {m.version: {w: float(r.observations[0]) for w, r in m.read(now).items()} for m in monitors}
    return {version: {w: n for w, n in by_window.items() if n > 0} for version, by_window in counts.items()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path / 'kept.db'}"), lambda _: None)
    yield store
    store.close()


@pytest.fixture
def any_store(database: str) -> Iterator[Store]:
    store = Store(StoreConfig(url=database), lambda _: None)
    yield store
    store.close()


def saved(store: Store) -> list[tuple[str, str]]:
    with store.reading() as connection:
        rows = sa.select(windows.c.model, windows.c.version).where(windows.c.model != "")
        return sorted(map(tuple, connection.execute(rows).all()))


def keep(store: Store, version: str = "1", at: float = 100.0, times: int = 1) -> None:
    """Save the windows of a version that was used 100 seconds after its process began."""
    monitors = monitors_of()
    feed(monitors, version, 100.0, times=times)
    SnapshotSaver(store, lambda: monitors).save(at, WALL)


def put(store: Store, data: bytes) -> None:
    """Store a snapshot of the version 1 as it is."""
    row = {"replica": store.replica, "model": "m", "version": "1", "saved": WALL, "data": data}
    store.write(lambda connection: connection.execute(windows.insert().values(row)))


def test_a_restart_keeps_every_gauge(any_store: Store) -> None:
    """Every gauge of every window is the same before and after, on a machine with another uptime."""
    before = monitors_of()
    for second in range(0, 5000, 250):
        feed(before, "1", 9000.0 + second, x=second / 2000, times=7)
    SnapshotSaver(any_store, lambda: before).save(13_750.0, WALL)
    after = monitors_of()
    restore(any_store, after, 3.0, WALL)
    old, new = before.get("m", "1", 13_750.0), after.get("m", "1", 3.0)
    for window, reading in old.read(13_750.0).items():
        restored = vars(new.read(3.0)[window])
        for field, values in vars(reading).items():
            if isinstance(values, Reference):
                again = vars(restored[field])
                assert all(np.array_equal(again[name], value) for name, value in vars(values).items()), window
            else:
                np.testing.assert_array_equal(restored[field], values, err_msg=f"{window} {field}")
    for values, again in zip(old.read_segments(13_750.0), new.read_segments(3.0), strict=True):
        np.testing.assert_array_equal(again, values)
    assert np.isfinite(new.read(3.0)["1h"].recent_kl[0])
    assert np.isfinite(new.read(3.0)["1h"].multivariate).all()
    assert new.counters.attempts == new.observed.sum() == 0  # counters start at zero


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 2000), st.booleans(), st.floats(-3000, 3000)), min_size=1, max_size=12),
    st.floats(0, 1e6),
)
def test_windows_agree_with_counting_by_hand(steps: list[tuple[float, bool, float]], start: float) -> None:
    """Across pauses, midnights, restarts and clock steps a window contains what its own time says."""
    now, wall, elapsed = start, WALL, 0.0  # elapsed: time as the windows see it
    monitors, times = monitors_of(windows=("5m", "1h", "24h")), []
    feed(monitors, "1", now)
    times.append(elapsed)
    for pause, again, step in steps:
        if again:  # a process ends; the clock steps; the next one starts on another monotonic clock
            monitor = monitors.get("m", "1", now)
            data = encode(monitor, now, wall)
            wall += pause + step
            elapsed += max(pause + step, 0.0)
            now = start / 2 + pause
            fresh = ModelMonitor(monitor.config, "1", BINNER)
            snapshots.restore_version(fresh, decode(data, fresh), now, wall)
            monitors = monitors_of(windows=("5m", "1h", "24h"))
            monitors.put(fresh)
        else:  # it goes on; a step of the wall clock does nothing
            now, elapsed, wall = now + pause, elapsed + pause, wall + pause + step
        feed(monitors, "1", now)
        times.append(elapsed)
        for window, count in counted(monitors, now)["1"].items():
            length = {"5m": 300, "1h": 3600, "24h": 86400}[window]
            ages = [elapsed - time for time in times]
            assert (
                sum(age < length * 59 / 60 - 1e-3 for age in ages) <= count <= sum(age < length + 1e-3 for age in ages)
            )


def test_a_clock_step_back_restores_no_expired_values(store: Store) -> None:
    """Saved at nine and restarted when the clock says eight, values have the age they had at nine, and grow older."""
    keep(store, at=200.0, times=5)
    after = monitors_of()
    restore(store, after, 50.0, WALL - 3600)
    assert counted(after, 50.0) == {"1": {"5m": 5, "1h": 5}}
    assert counted(after, 50.0 + 201) == {"1": {"1h": 5}}
    feed(after, "1", 260.0)
    assert counted(after, 260.0) == {"1": {"5m": 1, "1h": 6}}
    assert counted(after, 50.0 + 3600) == {"1": {"1h": 1}}


def test_values_expire_while_the_process_is_down(store: Store) -> None:
    """After half an hour the short window is empty; after days the version is not restored."""
    keep(store, times=5)
    after, later = monitors_of(), monitors_of()
    restore(store, after, 9.0, WALL + 1800)
    assert counted(after, 9.0) == {"1": {"1h": 5}}
    restore(store, later, 9.0, WALL + 7200)
    assert counted(later, 9.0) == {}


def test_a_new_version_starts_empty_beside_restored_ones(store: Store) -> None:
    """Beyond the limit the most recently used versions are restored, including other; a new version has no past."""
    before = monitors_of(max_versions=3)
    for number in range(5):
        feed(before, f"v{number}", 100.0 + number)
    SnapshotSaver(store, lambda: before).save(110.0, WALL)
    after = monitors_of(max_versions=2)
    restore(store, after, 5.0, WALL)
    assert sorted(counted(after, 5.0)) == ["other", "v1", "v2"]
    assert counted(after, 5.0)["other"] == {"5m": 2, "1h": 2}
    feed(monitors := monitors_of(), "new", 5.0)
    assert counted(monitors, 5.0) == {"new": {"5m": 1, "1h": 1}}


@pytest.mark.parametrize(
    "other",
    [
        monitors_of(binner_of(bins=10)),
        monitors_of(windows=("5m", "2h")),
        monitors_of(windows=("5m", "60m")),
        monitors_of(segments=("DE",)),
        monitors_of(segment_by=None),
        MonitorRegistry({"m": ModelConfig("m")}, {}),
        MonitorRegistry({"n": ModelConfig("n")}, {"n": BINNER}),
    ],
    ids=["profile", "length", "spelling", "segments", "no segments", "no profile", "another model"],
)
def test_windows_of_another_profile_or_other_lengths_start_empty(store: Store, other: MonitorRegistry) -> None:
    """Snapshots with another meaning are not restored."""
    keep(store)
    restore(store, other, 5.0, WALL)
    assert list(other) == []


def test_a_changed_alert_keeps_the_windows(store: Store) -> None:
    """Settings that do not change the meaning of counts keep the windows."""
    keep(store)
    after = monitors_of(alerts={"ModelLatencyHigh": 2.0}, max_versions=3)
    restore(store, after, 5.0, WALL)
    assert counted(after, 5.0) == {"1": {"5m": 1, "1h": 1}}


def test_versions_without_a_profile_are_saved_once_they_have_labels(store: Store) -> None:
    """Their windows hold nothing else; a label of days ago restores a version that was not used since."""
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {})
    monitor = monitors.get("m", "1", 100.0)
    observe(monitor, [Prediction("m", prediction="a")], [], 100.0)
    saver = SnapshotSaver(store, lambda: monitors)
    saver.save(100.0, WALL)
    assert saved(store) == []
    label = LabelledPrediction("m", "1", WALL - 86400, "a", None, None, "a", None, 86400.0)
    monitor.count_labels([label], 100.0, WALL)
    saver.save(100.0, WALL)
    assert saved(store) == [("m", "1")]
    for days, windows_left in ((0, {"1d", "7d"}), (5, {"7d"}), (7, set())):
        after = MonitorRegistry({"m": ModelConfig("m")}, {})
        restore(store, after, 5.0, WALL + days * 86400)
        left = {name for m in after for name, window in m.read_quality(5.0).items() if window.labelled}
        assert left - {"1d"} == windows_left - {"1d"}
    assert list(after) == []


def damaged() -> dict[str, bytes]:
    monitors = monitors_of()
    feed(monitors, "1", 100.0)
    monitor = monitors.get("m", "1", 100.0)
    good = encode(monitor, 100.0, WALL)
    snapshot = decode(good, monitor)

    def packed(**changes: Any) -> bytes:
        return zlib.compress(msgspec.msgpack.encode(msgspec.structs.replace(snapshot, **changes)))

    ticks, sums, lows = snapshot.rings[0]
    rest = snapshot.rings[1:]
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "noise": b"\x78\x9c" + bytes(range(256)),
        "another document": zlib.compress(msgspec.msgpack.encode({"a": 1})),
        "a ring missing": packed(rings=snapshot.rings[1:]),
        "a wide ring": packed(rings=[(ticks, sums + sums, lows), *rest]),
        "odd bytes": packed(rings=[(ticks[:-1], sums, lows), *rest]),
        "no numbers": packed(rings=[(ticks, np.full(len(sums) // 8, np.nan).tobytes(), lows), *rest]),
        "the future": packed(rings=[((np.frombuffer(ticks, np.int64) + 5).tobytes(), sums, lows), *rest]),
        "a time that is none": packed(ring_time=float("nan")),
        "a time beyond 64 bits": packed(ring_time=1e300),
        "a time long ago": packed(unix_time=-1e300),
        "a ring of the quality missing": packed(quality=snapshot.quality[1:]),
        "a ring of the quality too wide": packed(quality=[snapshot.rings[0], *snapshot.quality[1:]]),
    }


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_snapshot_is_logged_and_skipped(store: Store, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Whatever the damage, the version starts empty, the others do not, and the log has a warning."""
    keep(store, "good")
    put(store, damaged()[kind])
    after = monitors_of()
    with caplog.at_level(logging.WARNING):
        restore(store, after, 5.0, WALL)
    assert list(counted(after, 5.0)) == ["good"]
    assert "windows of model 'm' version '1' start empty: the snapshot is damaged: " in caplog.text


def test_the_memory_that_a_snapshot_takes_is_bounded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is decompressed up to 64 MiB more than twice its windows, and the log says so."""
    put(store, zlib.compress(bytes(2**27), 1))
    after = monitors_of()
    with allocating(2**27 + 2**25):  # zlib joins the parts of its output in the end
        restore(store, after, 5.0, WALL)
    assert counted(after, 5.0) == {}
    assert re.search(r"the snapshot is damaged: it has more than [\d,]+ bytes uncompressed", caplog.text)


def test_the_store_has_snapshots_of_current_versions_only(any_store: Store) -> None:
    """Only changed versions are written again; removed ones are deleted; a huge one is not stored."""
    monitors = monitors_of()
    feed(monitors, "1", 100.0)
    feed(monitors, "2", 100.0)
    saver = SnapshotSaver(any_store, lambda: monitors)
    saver.save(100.0, WALL)
    assert saved(any_store) == [("m", "1"), ("m", "2")]
    with any_store.reading() as connection:
        first = dict(connection.execute(sa.select(windows.c.version, windows.c.data)).all())
    feed(monitors, "2", 200.0)
    saver.save(200.0, WALL + 100)
    with any_store.reading() as connection:
        second = dict(connection.execute(sa.select(windows.c.version, windows.c.data)).all())
    assert second["1"] == first["1"]
    assert second["2"] != first["2"]
    monitors = monitors_of()
    feed(monitors, "3", 300.0)
    saver.save(300.0, WALL + 200)
    assert saved(any_store) == [("m", "3")]


def test_a_snapshot_is_small() -> None:
    """A full day of windows of 500 features takes a few megabytes, compressed."""
    features: dict[str, Any] = {f"f{number}": numeric_feature(COLUMNS["x"]) for number in range(500)}
    binner = Binner(Profile("p", 900, dict.fromkeys(features, "numeric"), features))
    monitor = ModelMonitor(ModelConfig("m", windows=("1h", "24h")), "1", binner)
    for hour in range(48):
        rows = [dict.fromkeys(features, value) for value in RNG.normal(size=20).tolist()]
        observe(monitor, [Prediction("m")] * 20, rows, hour * 3600.0)
    assert len(encode(monitor, 48 * 3600.0, WALL)) < 8 * 2**20


def test_snapshots_are_saved_periodically(store: Store) -> None:
    """After a kill the snapshot is not older than the time between two of them."""
    monitors = monitors_of()
    feed(monitors, "1", 100.0)
    saver = SnapshotSaver(store, lambda: monitors, seconds=0.02)
    scheduler = Scheduler([saver])
    scheduler.start()
    eventually(lambda: saved(store) == [("m", "1")])
    feed(monitors, "2", 100.0)
    scheduler.close()
    saver.close()
    assert saved(store) == [("m", "1"), ("m", "2")]


def test_a_restarted_exporter_restores_its_gauges(tmp_path: Path) -> None:
    """The gauges are there at the first scrape after a restart, before any event; counters start at zero."""
    write_config(tmp_path)
    with serving(tmp_path) as server:
        events = [{"model": "credit", "version": "3", "inputs": {"age": 40 + n, "country": "NL"}} for n in range(30)]
        server.post("/v1/predictions", events)
        names = ("model_feature_kl_divergence", "model_feature_mean", "model_segment_kl_divergence")
        before = server.samples(*names)
        assert before
        server.stop()
        server.start()
        assert server.samples(*names) == pytest.approx(before)
        assert server.samples("model_attempts_total")['model_attempts_total{model="credit",version="3"}'] == 0
        server.post("/v1/predictions", events)
        series = 'model_feature_window_observations{model="credit",version="3",feature="age",window="1h"}'
        eventually(lambda: server.samples("model_feature_window_observations")[series] == 60)


# --- two exporters with the same replica -----------------------------------------------------


class Replica:
    """An exporter on a shared database, as far as it saves windows."""

    def __init__(self, url: str) -> None:
        self.monitors = monitors_of()
        self.failures: list[None] = []
        config = StoreConfig(url=url, replica="a")
        self.store = Store(config, lambda _: None, lambda: self.failures.append(None))
        self.saver = SnapshotSaver(self.store, lambda: self.monitors)

    def save(self, now: float, times: int) -> None:
        feed(self.monitors, "1", now, times=times)
        self.saver.save(now, WALL + now)

    def stored(self) -> float:
        """Return the observations of the snapshot."""
        after = monitors_of()
        with self.store.reading() as connection:
            saved_at = connection.execute(sa.select(windows.c.saved).where(windows.c.model == "m")).scalar()
        assert saved_at is not None
        restore(self.store, after, 1000.0, WALL + 1000.0)
        return counted(after, 1000.0)["1"]["1h"]


@pytest.fixture
def replicas(postgres: Postgres) -> Iterator[tuple[Replica, Replica]]:
    url = postgres.url()
    pair = Replica(url), Replica(url)
    yield pair
    for replica in pair:
        replica.store.close()


def test_two_exporters_with_one_name_do_not_overwrite_each_other(
    replicas: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    """The second one says so in log, metric and state, and saves nothing until the first one has stopped."""
    first, second = replicas
    first.save(0.0, 5)
    for now in (10.0, 40.0, 70.0):
        second.save(now, 100)
        first.save(now + 1, 5)
    assert first.stored() == 20
    assert "'a' is also the name of another exporter (process " in caplog.text
    assert first.saver.lease.holder is None
    assert second.saver.lease.holder
    assert len(second.failures) == 2
    first.saver.lease.release()
    second.save(100.0, 100)
    assert second.saver.lease.holder is None
    assert second.stored() == 400


def test_an_exporter_that_was_killed_is_followed(
    replicas: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    """Its successor waits for a sign of life, without a false alarm, and then saves under the same name."""
    first, second = replicas
    first.save(0.0, 5)
    for now in (10.0, 40.0, 70.0):
        second.save(now, 1)
    assert second.stored() == 5
    second.save(101.0, 1)
    assert second.stored() == 4
    assert not second.failures
    assert "is also the name" not in caplog.text
    caplog.clear()
    first.save(102.0, 5)  # it was not killed, but suspended
    second.save(103.0, 1)
    first.save(104.0, 5)
    assert second.stored() == 5
    assert "is also the name" in caplog.text
