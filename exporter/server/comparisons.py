"""Comparisons of versions: on request, and of each model once a minute for ``/metrics``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from exporter.comparison.live import compare_live
from exporter.comparison.measures import Comparison
from exporter.comparison.versions import choose
from exporter.errors import CompareError, ExporterError
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shared_counts import SharedCounts

if TYPE_CHECKING:
    from exporter.prometheus_api import Prometheus

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""Least time from one refresh of the metrics to the next."""
BUSY_SHARE = 0.05
"""Share of the time in which comparisons for the metrics are computed, at most."""


class Comparisons:
    """Compares versions by what this exporter counted, or by what Prometheus has of all replicas.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    shared
        What this exporter counted while versions served at the same time.
    prometheus
        Returns the Prometheus to ask; None where none is configured.
    """

    def __init__(
        self, monitors: Callable[[], MonitorRegistry], shared: SharedCounts, prometheus: Callable[[], Prometheus | None]
    ) -> None:
        self._monitors = monitors
        self._shared = shared
        self._prometheus = prometheus
        self._latest: dict[str, tuple[float, Comparison]] = {}
        self._failure: ExporterError | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="comparison", daemon=True)

    def start(self) -> None:
        """Start the thread that refreshes the metrics."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, which may still wait for Prometheus."""
        self._closing.set()
        self._thread.join(1.0)

    def compare(self, model: str, before: str | None = None, after: str | None = None) -> Comparison:
        """Compare two versions of a configured model over the time in which both served.

        Raises
        ------
        CompareError
            When a version is not known, or they never served at the same time.
        ExporterError
            When Prometheus is configured, and cannot be queried.
        """
        prometheus = self._prometheus()
        if prometheus is None:
            return compare_live(self._shared, model, before, after)
        from exporter.comparison.prometheus import compare_shared, default_window, versions

        now = time.time()
        appeared = versions(prometheus, model, now)
        pair = choose(model, list(appeared), before, after)
        at, latest = self._latest.get(model, (0.0, None))
        if latest and time.monotonic() - at < REFRESH_SECONDS and pair == (latest.before.version, latest.after.version):
            return latest
        return compare_shared(prometheus, model, pair, default_window([appeared[version] for version in pair], now))

    def latest(self) -> list[Comparison]:
        """Return the comparison of each model that has one, as of the last refresh.

        Raises
        ------
        ExporterError
            When the last refresh failed.
        """
        if self._failure:
            raise self._failure
        return [comparison for _, comparison in list(self._latest.values())]

    def refresh(self) -> None:
        """Compare the two versions of each model that appeared last."""
        models, failure = list(self._monitors().models), None
        for model in models:
            if len(self._shared.versions(model)) < 2:
                self._latest.pop(model, None)
                continue
            started = time.monotonic()
            try:
                self._latest[model] = (started, self.compare(model))
            except CompareError:
                self._latest.pop(model, None)
            except ExporterError as error:
                self._latest.pop(model, None)
                failure = error
            if self._closing.is_set():
                return
        for model in self._latest.keys() - set(models):
            del self._latest[model]
        self._failure = failure

    def _run(self) -> None:
        pause = REFRESH_SECONDS
        while not self._closing.wait(pause):
            started = time.monotonic()
            try:
                self.refresh()
            except Exception:  # no error may end the thread
                log.exception("versions are not compared")
            pause = max(REFRESH_SECONDS, (time.monotonic() - started) * (1 / BUSY_SHARE - 1))
