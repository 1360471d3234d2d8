"""Refresh the metrics of slices while users correct a version too often."""

from __future__ import annotations

import time
from collections.abc import Callable

from exporter.errors import ExporterError, SlicesError
from exporter.metrics.lines import FamilyLines
from exporter.metrics.refreshed import RefreshedMetrics
from exporter.metrics.slices import slice_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.slices.explain import Explanation
from exporter.slices.query import SliceQuery
from exporter.slices.search import MIN_MARKED

ALERT = "ModelCorrectionRatioHigh"
REFRESH_SECONDS = 60.0
"""Least time from one refresh of the metrics to the next."""
BUSY_SHARE = 0.05
"""Share of the time in which slices are searched for the metrics, at most."""
PERIOD_SECONDS = 3900.0
"""Predictions that are looked at: those of the hour of the alert, and of its five minutes of pending."""
MAX_SLICES = 3
"""Slices of a version that have metrics: their names change with the incident, and each is a series."""


class SliceWatch(RefreshedMetrics):
    """Searches for the slices of the corrections of those versions that users correct too often.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    explain
        Searches for slices.
    """

    def __init__(
        self,
        monitors: Callable[[], MonitorRegistry],
        explain: Callable[[SliceQuery], tuple[Explanation, Binner]],
    ) -> None:
        super().__init__("slices", "slices are not searched for the metrics", REFRESH_SECONDS, BUSY_SHARE)
        self._monitors, self._explain = monitors, explain

    def refresh(self) -> None:
        """Search for the slices of each version that users correct too often."""
        found: dict[tuple[str, str, frozenset[str]], list[FamilyLines]] = {}
        failure = ""
        for monitor in self._monitors():
            if self.closing.is_set():
                return
            if not is_corrected_too_often(monitor, time.monotonic()):
                continue
            model, version = monitor.config.name, monitor.version
            query = SliceQuery(model, version, "corrections", time.time() - PERIOD_SECONDS, MAX_SLICES)
            try:
                found[model, version, monitor.config.redact] = list(slice_lines(*self._explain(query), version))
            except SlicesError:  # no profile, or no stored inputs
                continue
            except ExporterError as error:
                failure = str(error)
        self._lines, self._failure = found, failure

    def is_current(self, key: tuple[str, str, frozenset[str]]) -> bool:
        """Return whether the model redacts what it did then: the names of slices hold values of inputs."""
        model, _, redact = key
        config = self._monitors().models.get(model)
        return config is not None and config.redact == redact


def is_corrected_too_often(monitor: ModelMonitor, now: float) -> bool:
    """Return whether a version's share of corrections in the last hour is above the threshold of its alert.

    ``now`` is a monotonic time in seconds. Fewer corrections than make a slice are not enough.
    """
    recent = monitor.recent(now)
    return recent.corrections >= MIN_MARKED and recent.correction_ratio > monitor.config.threshold(ALERT)
