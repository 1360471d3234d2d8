"""Windows outlive the process: a snapshot of every version's rings in the store.

Counters are not kept: they start at zero, as Prometheus expects of a new process.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
import zlib
from collections.abc import Callable
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from exporter.errors import StoreError
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.stats.divergence import Floats
from exporter.storage import Store
from exporter.storage.window_snapshots import forget_others, load_snapshots, save_snapshot

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Time between snapshots: what a killed process loses of its windows."""
MAX_BYTES = 32 * 2**20
"""A larger snapshot, compressed, is not kept."""


class Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Rings as bytes.

    Attributes
    ----------
    fingerprint
        Of the profile and the windows: rings of others do not fit.
    wall
        Unix time at which it was made.
    time
        The rings' own time then, in seconds.
    idle
        Seconds since the version was last used.
    rings
        Of each ring its ticks (int64), sums and minima (float64).
    """

    fingerprint: str
    wall: float
    time: float
    idle: float
    rings: list[tuple[bytes, bytes, bytes]]


def fingerprint(monitor: ModelMonitor) -> str:
    """What decides the meaning of a monitor's rings, as SHA-256; empty without a profile."""
    binner, segments = monitor.binner, monitor.segments
    if binner is None:
        return ""
    profile = binner.profile.hash or binner.profile.digest()
    watched = [segments.source, *segments.names] if segments else []
    return hashlib.sha256(
        msgspec.json.encode([profile, list(monitor.windows.items()), binner.names, binner.width, watched])
    ).hexdigest()


def encode(monitor: ModelMonitor, now: float, wall: float) -> bytes:
    """A monitor's rings at the monotonic time ``now``, the Unix time ``wall``."""
    own, rings = monitor.saved(now)
    parts = [(ticks.tobytes(), sums.tobytes(), lows.tobytes()) for ticks, sums, lows in rings]
    snapshot = Snapshot(fingerprint(monitor), wall, own, now - monitor.last_used, parts)
    return zlib.compress(msgspec.msgpack.encode(snapshot), 1)


def decode(data: bytes) -> Snapshot:
    """A snapshot.

    Raises
    ------
    ValueError
        When it is none.
    """
    try:
        snapshot = msgspec.msgpack.decode(zlib.decompress(data), type=Snapshot)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from None
    if not all(map(math.isfinite, (snapshot.wall, snapshot.time, snapshot.idle))):
        raise ValueError("its times are no numbers")
    return snapshot


class SnapshotSaver:
    """Keeps the windows of all versions in the store, from a thread of its own.

    Parameters
    ----------
    store
        Its writer's thread writes.
    monitors
        Gives the monitors of now.
    seconds
        Time between two snapshots.
    """

    def __init__(self, store: Store, monitors: Callable[[], MonitorRegistry], seconds: float = SECONDS) -> None:
        self._store = store
        self._monitors = monitors
        self._seconds = seconds
        self._kept: WeakKeyDictionary[ModelMonitor, int] = WeakKeyDictionary()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to keep."""
        self._thread.start()

    def close(self) -> None:
        """Keep for the last time, and end."""
        self._closing.set()
        self._thread.join(10.0)
        self.save(time.monotonic(), time.time())

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            self.save(time.monotonic(), time.time())

    def save(self, now: float, wall: float) -> None:
        """Keep what changed since the last time, and forget versions that are no more."""
        monitors = [monitor for monitor in self._monitors() if monitor.binner]
        try:
            for monitor in monitors:
                seen = monitor.counters.attempts
                if self._kept.get(monitor, 0) != seen:
                    self._keep(monitor.config.name, monitor.version, encode(monitor, now, wall))
                    self._kept[monitor] = seen
            forget_others(self._store, {(monitor.config.name, monitor.version) for monitor in monitors})
        except StoreError as error:
            log.warning("windows are not kept: %s", error)
        except Exception:  # nor must any other mistake end the thread
            log.exception("windows are not kept")

    def _keep(self, model: str, version: str, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            log.warning("windows of model %r version %r are not kept: %d bytes", model, version, len(data))
            return
        save_snapshot(self._store, model, version, data)


def restore(store: Store, monitors: MonitorRegistry, now: float, wall: float) -> None:
    """Go on with the windows that the store holds, the last used first.

    A snapshot that cannot be read, or of another profile or other windows, is not used; nor is one
    whose version finds no place. A clock that went back since counts as no time passed.

    Parameters
    ----------
    store
        What an older process kept them in.
    monitors
        Monitors of the configuration, still empty.
    now, wall
        Monotonic and Unix time in seconds.
    """
    try:
        rows = load_snapshots(store)
    except StoreError as error:
        log.warning("windows begin empty: %s", error)
        return
    found: list[tuple[float, ModelMonitor]] = []
    for model, version, data in rows:
        if model not in monitors.models:
            continue
        monitor = ModelMonitor(monitors.models[model], version, monitors.binner(model, version))
        try:
            idle = _resume(monitor, decode(data), now, wall)
        except ValueError as error:
            log.warning(
                "windows of model %r version %r begin empty: the snapshot is damaged: %s", model, version, error
            )
            continue
        if idle is None:
            log.info("windows of model %r version %r begin empty: its profile or windows changed", model, version)
        elif idle < 2 * max(monitor.windows.values()):
            found.append((idle, monitor))
    for idle, monitor in sorted(found, key=lambda pair: pair[0]):
        monitor.last_used = now - idle
        monitors.put(monitor)


def _resume(monitor: ModelMonitor, snapshot: Snapshot, now: float, wall: float) -> float | None:
    """Seconds since the version was last used; None when the snapshot is of other rings."""
    if fingerprint(monitor) != snapshot.fingerprint:
        return None
    passed = max(wall - snapshot.wall, 0.0)
    rings = []
    for ring, (ticks, sums, lows) in zip(monitor.all_rings(), snapshot.rings, strict=True):
        places = np.frombuffer(ticks, np.int64) if ticks else np.empty(0, np.int64)
        rings.append((places, _floats(sums, len(places), ring.shape[0]), _floats(lows, len(places), ring.shape[1])))
    monitor.restore(now, snapshot.time + passed, rings)
    return snapshot.idle + passed


def _floats(data: bytes, rows: int, width: int) -> Floats:
    return np.frombuffer(data).reshape(rows, width) if data else np.empty((rows, width))
