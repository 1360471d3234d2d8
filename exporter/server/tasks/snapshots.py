"""Save the windows of all versions in the store, and restore them after a restart.

Counters have no snapshot: they start at zero, as Prometheus expects of a new process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from weakref import WeakKeyDictionary

from exporter.errors import StoreError
from exporter.metrics.lines import FamilyLines
from exporter.metrics.models import ALL_REPLICAS, Window
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.snapshots import decode, encode, restore_version
from exporter.monitoring.windows import WindowStats, compute
from exporter.scheduler import RefreshedMetrics, Task
from exporter.storage import ReplicaLease, Store

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Seconds between snapshots: at most so much of the windows is lost when the process is killed."""
MAX_BYTES = 32 * 2**20
"""Largest compressed snapshot that is saved."""


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
                model, version, data = monitor.config.name, monitor.version, encode(monitor, now, unix_time)
                if len(data) > MAX_BYTES:
                    log.warning("windows of model %r version %r are not saved: %d bytes", model, version, len(data))
                else:
                    self._store.snapshots.save(model, version, data)
                self._saved[monitor] = counted
        live = {(monitor.config.name, monitor.version) for monitor in monitors}
        if self._is_complete():
            self._store.snapshots.delete_others(live)


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


REFRESH_SECONDS = 60.0
"""Least time from one refresh of the metrics to the next."""
BUSY_SHARE = 0.05
"""Share of the time in which snapshots are read, at most."""


class ReplicaDrift(RefreshedMetrics):
    """Adds the longest windows of the replicas that share a database, for models with ``metrics: summary``.

    Parameters
    ----------
    store
        Has the snapshots of the other replicas, see `exporter.monitoring.snapshots`.
    monitors
        Returns the current monitors.
    """

    def __init__(self, store: Store, monitors: Callable[[], MonitorRegistry]) -> None:
        failure = "the drift of all replicas together is not computed"
        super().__init__("replicas", failure, REFRESH_SECONDS, busy_share=BUSY_SHARE)
        self._store, self._monitors = store, monitors

    def refresh(self) -> None:
        """Compute the drift of each version that another replica has counted, too."""
        found: dict[tuple[str, str], list[FamilyLines]] = {}
        failure, damaged = "", list[str]()
        for monitor in self._monitors() if self._store.replica else ():
            if self.closing.is_set():
                return
            model, version = monitor.config.name, monitor.version
            if monitor.config.metrics != "summary" or not monitor.binner:
                continue
            unix_time = time.time()
            since = unix_time - max(monitor.windows.values())
            try:
                snapshots = self._store.snapshots.of_other_replicas(model, version, since)
            except StoreError as error:
                failure = str(error)
                continue
            stats, errors = of_all_replicas(monitor, snapshots, time.monotonic(), unix_time)
            damaged += [f"of model {model!r} version {version!r}: {error}" for error in errors]
            if stats:
                lines = ALL_REPLICAS.lines(Window(monitor.binner, stats), model=model, version=version)
                found[model, version] = list(lines)
        if damaged:
            log.warning("%d snapshots of other replicas are ignored, such as one %s", len(damaged), damaged[0])
        self._lines, self._failure = found, failure


def of_all_replicas(
    monitor: ModelMonitor, snapshots: Iterable[bytes], now: float, unix_time: float
) -> tuple[WindowStats | None, list[str]]:
    """Return the statistics of the longest window of a version on this replica and on others.

    Parameters
    ----------
    monitor
        The version on this replica; it has a profile.
    snapshots
        Those of the other replicas. One that is damaged, or has another profile or other windows, does not count.
    now, unix_time
        Monotonic and Unix time in seconds.

    Returns
    -------
    tuple
        The statistics, None if no snapshot counts: minima, maxima and the recent divergence are those of this replica.
        And what is wrong with each damaged snapshot.
    """
    binner, noise = monitor.binner, monitor.noise
    if binner is None or noise is None:
        return None, []
    *_, (window, (own, minima, earlier)) = monitor.read_rows(now).items()
    row, damaged = own, list[str]()
    for data in snapshots:
        other = ModelMonitor(monitor.config, monitor.version, binner)
        try:
            fits = restore_version(other, decode(data, other), now, unix_time) is not None
        except ValueError as error:
            damaged.append(str(error))
            continue
        if fits:
            row = row + other.read_rows(now)[window][0]
    return (None if row is own else compute(binner, noise, (row, minima, earlier))), damaged
