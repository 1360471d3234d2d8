"""Compute the drift of all replicas together for models with ``metrics: summary``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from exporter.errors import StoreError
from exporter.metrics.lines import FamilyLines
from exporter.metrics.models import ALL_REPLICAS, Window
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.snapshots import decode, restore_version
from exporter.monitoring.windows import WindowStats, compute
from exporter.server.tasks.refreshed import RefreshedMetrics
from exporter.storage import Store

log = logging.getLogger(__name__)

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
