"""Snapshots of every version's windows in the store, so that they survive a restart.

Counters have no snapshot: they start at zero, as Prometheus expects of a new process.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from exporter.errors import StoreError
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.ring import Ring
from exporter.monitoring.scheduler import Task
from exporter.monitoring.snapshot_encoding import pack, unpack
from exporter.monitoring.window_quality import WIDTH
from exporter.monitoring.windows import RingRows
from exporter.stats.divergence import Floats
from exporter.storage import ReplicaLease, Store

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Seconds between snapshots: at most so much of the windows is lost when the process is killed."""
MAX_BYTES = 32 * 2**20
"""Largest compressed snapshot that is saved."""
SPARE_BYTES = 64 * 2**20
"""What a snapshot may have beyond the rings: its evidence, or the larger rings of an earlier profile."""
MAX_SECONDS = 1e12
"""Largest time in a snapshot: the numbers of sub-windows then fit into 64 bits."""


_RingBytes = tuple[bytes, bytes, bytes]


class Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The rings of a monitor as bytes.

    Attributes
    ----------
    fingerprint
        See `fingerprint`: rings with another one do not fit.
    unix_time
        Unix time of the snapshot in seconds.
    ring_time
        The rings' time at the snapshot, in seconds.
    idle
        Seconds since the version was last used.
    rings
        Ticks (int64), sums and minima (float64) of each ring.
    quality_fingerprint
        See `quality_fingerprint`; empty in a snapshot without rings of the quality.
    quality
        The rings of the quality, as in ``rings``.
    evidence
        The state of the evidence of slow change, and the counts that it does not have yet; empty in a snapshot without.
    """

    fingerprint: str
    unix_time: float
    ring_time: float
    idle: float
    rings: list[_RingBytes]
    quality_fingerprint: str = ""
    quality: list[_RingBytes] = []
    evidence: tuple[bytes, bytes] = (b"", b"")


def fingerprint(monitor: ModelMonitor) -> str:
    """Return the SHA-256 of what decides the meaning of a monitor's rings; empty without a profile."""
    binner, segments = monitor.binner, monitor.segments
    if binner is None:
        return ""
    segmentation = [segments.source, *segments.names] if segments else []
    return _sha256(
        [binner.profile.known_hash(), list(monitor.windows.items()), binner.names, binner.width, segmentation]
    )


def quality_fingerprint(monitor: ModelMonitor) -> str:
    """Return the SHA-256 of what decides the meaning of a monitor's rings of the quality."""
    profile = monitor.binner.profile.known_hash() if monitor.binner else None  # it has the expected accuracy
    lengths = {name: ring.step for name, ring in monitor.quality.rings.items()}
    return _sha256([profile, monitor.quality.scorer.task, list(lengths.items()), WIDTH])


def _sha256(parts: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def encode(monitor: ModelMonitor, now: float, unix_time: float) -> bytes:
    """Return a snapshot of a monitor's rings at the monotonic time ``now``."""
    ring_time, rings, quality = monitor.dump(now)
    state, counts = monitor.dump_evidence()
    snapshot = Snapshot(
        fingerprint(monitor),
        unix_time,
        ring_time,
        now - monitor.last_used,
        _as_bytes(rings),
        quality_fingerprint(monitor),
        _as_bytes(quality),
        (state.tobytes(), counts.tobytes()),
    )
    return pack(snapshot)


def _as_bytes(rings: Sequence[RingRows]) -> list[_RingBytes]:
    return [(ticks.tobytes(), sums.tobytes(), minima.tobytes()) for ticks, sums, minima in rings]


def decode(data: bytes, monitor: ModelMonitor) -> Snapshot:
    """Return the snapshot in the data.

    Raises
    ------
    ValueError
        When the data are not a snapshot, or one much larger than the monitor's rings, uncompressed.
    """
    rings = *monitor.all_rings(), *monitor.quality.rings.values()
    snapshot = unpack(data, Snapshot, SPARE_BYTES + 2 * sum(ring.nbytes for ring in rings))
    if not all(abs(time) < MAX_SECONDS for time in (snapshot.unix_time, snapshot.ring_time, snapshot.idle)):
        raise ValueError("its times are not possible")
    return snapshot


class SnapshotSaver(Task):
    """Save the windows of all versions in the store.

    Parameters
    ----------
    store
        The store.
    monitors
        Returns the current monitors.
    seconds
        Time between two snapshots.
    is_complete
        Returns whether all models are known. While some are not, as their file is not valid, no snapshot is deleted.

    Attributes
    ----------
    lease : ReplicaLease
        Without it nothing is saved.
    """

    def __init__(
        self,
        store: Store,
        monitors: Callable[[], MonitorRegistry],
        seconds: float = SECONDS,
        is_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__("snapshots", "windows are not saved", seconds, at_once=True)
        self._store = store
        self._monitors = monitors
        self._is_complete = is_complete
        self._saved: WeakKeyDictionary[ModelMonitor, tuple[int, int]] = WeakKeyDictionary()
        self._started = False
        self.lease = ReplicaLease(store)

    def close(self) -> None:
        """Save for the last time."""
        self.save(time.monotonic(), time.time())
        self._logged(self.lease.release)

    def refresh(self) -> None:
        """Save what has changed by now; the first call takes the lease and deletes nothing yet."""
        if self._started:
            self.save(time.monotonic(), time.time())
        else:
            self._started = True
            self._logged(lambda: self.lease.renew(time.monotonic()))

    def save(self, now: float, unix_time: float) -> None:
        """Save the versions that have changed since the last time, and delete those that no longer exist."""
        self._logged(lambda: self._save(now, unix_time))

    def _logged(self, step: Callable[[], object]) -> None:
        try:
            step()
        except StoreError as error:
            log.warning("windows are not saved: %s", error)
        except Exception:  # no other error may end the thread either
            log.exception("windows are not saved")

    def _save(self, now: float, unix_time: float) -> None:
        if not self.lease.renew(now):
            log.info("windows are not saved yet: another process had the name %r until now", self._store.replica)
            return
        monitors = [monitor for monitor in self._monitors() if monitor.binner or monitor.quality.is_labelled]
        for monitor in monitors:
            counted = monitor.counters.attempts, monitor.quality.changes
            if self._saved.get(monitor, (0, 0)) != counted:
                self._save_version(monitor.config.name, monitor.version, encode(monitor, now, unix_time))
                self._saved[monitor] = counted
        live = {(monitor.config.name, monitor.version) for monitor in monitors}
        if self._is_complete():
            self._store.snapshots.delete_others(live)

    def _save_version(self, model: str, version: str, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            log.warning("windows of model %r version %r are not saved: %d bytes", model, version, len(data))
            return
        self._store.snapshots.save(model, version, data)


def restore(
    store: Store,
    monitors: MonitorRegistry,
    now: float,
    unix_time: float,
    *,
    models: Collection[str] | None = None,
) -> None:
    """Restore the windows that the store holds, those of the most recently used versions first.

    A snapshot is ignored if it cannot be read, if its profile or windows are different ones, or if no version may be
    added. If the clock has gone back since the snapshot, no time has passed.

    Parameters
    ----------
    store
        The store.
    monitors
        Monitors of the configuration, still empty where something is restored.
    now, unix_time
        Monotonic and Unix time in seconds.
    models
        The models to restore, instead of all. Only their snapshots are read.
    """
    try:
        rows = store.snapshots.load(models)
    except StoreError as error:
        log.warning("windows start empty: %s", error)
        return
    restored: list[tuple[float, ModelMonitor]] = []
    for model, version, data in rows:
        if model not in monitors.models:
            continue
        monitor = ModelMonitor(monitors.models[model], version, monitors.binner(model, version))
        try:
            idle = restore_version(monitor, decode(data, monitor), now, unix_time)
        except ValueError as error:
            log.warning(
                "windows of model %r version %r start empty: the snapshot is damaged: %s", model, version, error
            )
            continue
        if idle is None:
            log.info("windows of model %r version %r start empty: its profile or windows changed", model, version)
        elif idle < 2 * max(monitor.windows.values()) or monitor.quality.is_labelled:
            restored.append((idle, monitor))
    for idle, monitor in sorted(restored, key=lambda pair: pair[0]):
        monitor.last_used = now - idle
        monitors.put(monitor)


def restore_version(monitor: ModelMonitor, snapshot: Snapshot, now: float, unix_time: float) -> float | None:
    """Restore the rings of a version; return the seconds since it was last used, None for rings that do not fit."""
    is_known = quality_fingerprint(monitor) == snapshot.quality_fingerprint
    if fingerprint(monitor) != snapshot.fingerprint or not (monitor.binner or is_known):
        return None
    rings = _from_bytes(monitor.all_rings(), snapshot.rings)
    quality = _from_bytes(monitor.quality.rings.values(), snapshot.quality) if is_known else []
    passed = max(unix_time - snapshot.unix_time, 0.0)
    monitor.restore(now, snapshot.ring_time + passed, rings, quality)
    if any(snapshot.evidence):
        monitor.restore_evidence(*map(np.frombuffer, snapshot.evidence))
    if quality:
        monitor.quality.until = snapshot.unix_time
    return snapshot.idle + passed


def _from_bytes(rings: Iterable[Ring], saved: Sequence[_RingBytes]) -> list[RingRows]:
    """Return the rows of rings, none of which may be missing."""
    restored: list[RingRows] = []
    for ring, (ticks, sums, minima) in zip(rings, saved, strict=True):
        numbers = np.frombuffer(ticks, np.int64) if ticks else np.empty(0, np.int64)
        restored.append(
            (numbers, _floats(sums, len(numbers), ring.shape[0]), _floats(minima, len(numbers), ring.shape[1]))
        )
    return restored


def _floats(data: bytes, rows: int, width: int) -> Floats:
    return np.frombuffer(data).reshape(rows, width) if data else np.empty((rows, width))
