"""Search for slices on request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from exporter.config import StoreConfig
from exporter.errors import ExporterError, SlicesError, StoreError
from exporter.metrics.comparisons import slice_lines
from exporter.metrics.lines import FamilyLines
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry, serving
from exporter.scheduler import RefreshedMetrics
from exporter.slices.explain import Explanation, SliceQuery, document, explain
from exporter.slices.population import BinRecorder
from exporter.slices.search import MIN_MARKED
from exporter.storage import Store
from exporter.validation import preview

FLUSH_SECONDS = 1.0
"""How long a search waits until the bins of the last predictions are on disk."""


class Slices:
    """Searches for slices in what is stored, one search at a time: each may take 350 MiB.

    Parameters
    ----------
    store
        The predictions, corrections and labels.
    monitors
        Returns the current monitors.
    bins
        Holds the bins of the last predictions.
    config
        The configuration of the store.
    """

    def __init__(
        self, store: Store, monitors: Callable[[], MonitorRegistry], bins: BinRecorder, config: StoreConfig
    ) -> None:
        self._store = store
        self._monitors = monitors
        self._bins = bins
        self._inputs = config.inputs
        self._lock = threading.Lock()

    def explain(self, query: SliceQuery) -> tuple[Explanation, Binner]:
        """Search for slices; return them with the binner that knows the names of their bins.

        Raises
        ------
        SlicesError
            When there is no profile, or no inputs are stored.
        StoreError
            When the database cannot be read.
        """
        binner = self.binner(query.model, query.version)
        if binner is None:
            raise SlicesError(
                f"{preview(query.model)} has no profile, and slices are combinations of its bins: "
                "make one with 'model-exporter profile', and name it in the configuration"
            )
        if self._inputs == "none":
            raise SlicesError("store.inputs is none, and slices need stored inputs: set it to all, or to sampled:0.1")
        with self._lock:
            if (last := self._bins.flush()) is not None:
                with contextlib.suppress(TimeoutError, CancelledError, StoreError):
                    last.result(FLUSH_SECONDS)
            return explain(self._store, binner, query), binner

    def of_corrections(self, model: str, since: float) -> list[dict[str, Any]]:
        """Return the slices of a model's corrections since a Unix time in seconds, as in ``GET /v1/slices``.

        Raises
        ------
        SlicesError, StoreError
            As for `explain`.
        """
        explanation, binner = self.explain(SliceQuery(model, None, "corrections", since))
        watched = self._monitors().models[model].segment_by
        slices: list[dict[str, Any]] = document(explanation, binner, watched)["slices"]
        return slices

    def profile_hash(self, model: str) -> str | None:
        """Return the hash of the profile of a model's version that serves; None without one."""
        binner = self.binner(model, None)
        return binner.profile.known_hash() if binner else None

    def binner(self, model: str, version: str | None) -> Binner | None:
        """Return the binner of a version, or of the newest version that serves."""
        monitors = self._monitors()
        if version is None:
            found = serving(monitors.of_model(model).values())
            version = found[-1].version if found else ""
        return monitors.binner(model, version) or (None if version else monitors.nearest_binner(model))


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
        super().__init__("slices", "slices are not searched for the metrics", REFRESH_SECONDS, busy_share=BUSY_SHARE)
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
