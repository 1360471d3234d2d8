"""Watch where corrections come from while users correct a version too often: the metrics of its slices."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from exporter.errors import ExporterError, SlicesError
from exporter.metrics.lines import FamilyLines
from exporter.metrics.slices import slice_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.slices.explain import Asked, Explanation
from exporter.slices.search import MIN_HELD

log = logging.getLogger(__name__)

ALERT = "ModelCorrectionRatioHigh"
REFRESH_SECONDS = 60.0
"""Least time from one refresh of the metrics to the next."""
BUSY_SHARE = 0.05
"""Share of the time in which slices are searched for the metrics, at most."""
PERIOD_SECONDS = 3900.0
"""Predictions that are looked at: those of the hour of the alert, and of its five minutes of pending."""
MAX_SLICES = 3
"""Slices of a version that have metrics: their names change with the incident, and each is a series."""


class SliceWatch:
    """Searches for the slices of the corrections of those versions that users correct too often.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    explain
        Searches for slices.
    seconds
        Least time from one refresh of the metrics to the next.
    """

    def __init__(
        self,
        monitors: Callable[[], MonitorRegistry],
        explain: Callable[[Asked], tuple[Explanation, Binner]],
        seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._monitors, self._explain, self._seconds = monitors, explain, seconds
        self._lines: Mapping[tuple[str, str], list[FamilyLines]] = MappingProxyType({})
        self._failure = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slices", daemon=True)

    def start(self) -> None:
        """Start the thread that refreshes the metrics."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """End the thread, within a time if it searches at the moment."""
        self._closing.set()
        self._thread.join(timeout)

    def lines(self) -> list[FamilyLines]:
        """Return the lines of ``/metrics``, as of the last refresh.

        Raises
        ------
        ExporterError
            When the last refresh failed.
        """
        if self._failure:
            raise ExporterError(self._failure)
        return [line for lines in self._lines.values() for line in lines]

    def refresh(self) -> None:
        """Search for the slices of each version that users correct too often."""
        found: dict[tuple[str, str], list[FamilyLines]] = {}
        failure = ""
        for monitor in self._monitors():
            if self._closing.is_set():
                return
            if not is_corrected_too_often(monitor, time.monotonic()):
                continue
            model, version = monitor.config.name, monitor.version
            asked = Asked(model, version, "corrections", time.time() - PERIOD_SECONDS, MAX_SLICES)
            try:
                found[model, version] = list(slice_lines(*self._explain(asked), version))
            except SlicesError:  # no profile, or no stored inputs
                continue
            except ExporterError as error:
                failure = str(error)
        self._lines, self._failure = found, failure

    def _run(self) -> None:
        pause = self._seconds
        while not self._closing.wait(pause):
            started = time.monotonic()
            try:
                self.refresh()
            except Exception:  # no error may end the thread, nor leave old numbers
                log.exception("slices are not searched for the metrics")
                self._failure = "slices are not searched for the metrics; see the exporter's log"
            pause = max(self._seconds, (time.monotonic() - started) * (1 / BUSY_SHARE - 1))


def is_corrected_too_often(monitor: ModelMonitor, now: float) -> bool:
    """Return whether a version's share of corrections in the last hour is above the threshold of its alert.

    ``now`` is a monotonic time in seconds. Fewer corrections than make a slice are not enough.
    """
    recent = monitor.recent(now)
    return recent.corrections >= MIN_HELD and recent.correction_ratio > monitor.config.threshold(ALERT)
