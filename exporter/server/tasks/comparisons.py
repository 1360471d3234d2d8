"""Comparisons of versions: on request, and of each model once a minute for ``/metrics``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from exporter.comparison.measures import Comparison, SameRequests, at_every_look, choose, shadow_only
from exporter.errors import CompareError, ExporterError
from exporter.metrics.comparisons import comparison_lines
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shadow_answers import ShadowAnswers
from exporter.scheduler import RefreshedMetrics

if TYPE_CHECKING:
    from exporter.prometheus import Prometheus

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""Least time from one refresh of the metrics to the next, and the age up to which a comparison is not repeated."""
BUSY_SHARE = 0.05
"""Share of the time in which comparisons for the metrics are computed, at most."""
BUDGET_SECONDS = 20.0
"""Time of a refresh; the next one begins with the models whose comparison is the oldest."""
NO_PROMETHEUS = "versions are compared by the counts in Prometheus: set its URL as prometheus_url in exporter.yml"


class Comparisons(RefreshedMetrics):
    """Compares versions by what Prometheus has of all replicas.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    prometheus
        Returns the Prometheus to ask; None where none is configured.
    shadow
        Has counted the requests that two versions answered.
    seconds
        Least time from one refresh of the metrics to the next.
    """

    def __init__(
        self,
        monitors: Callable[[], MonitorRegistry],
        prometheus: Callable[[], Prometheus | None],
        *,
        shadow: ShadowAnswers,
        seconds: float = REFRESH_SECONDS,
    ) -> None:
        super().__init__(
            "comparison",
            "versions are not compared",
            seconds,
            lane="prometheus",
            busy_share=BUSY_SHARE,
            budget=BUDGET_SECONDS,
        )
        self._shadow = shadow
        self._monitors = monitors
        self._prometheus = prometheus
        self._latest: dict[str, tuple[float, Comparison]] = {}
        self._looked: dict[str, float] = {}

    def compare(self, model: str, before: str | None = None, after: str | None = None) -> Comparison:
        """Compare two versions of a configured model over the time in which both served, and on the same requests.

        Raises
        ------
        CompareError
            When a version is not known, or they never served at the same time, nor answered the same requests, or no
            Prometheus is configured.
        ExporterError
            When Prometheus cannot be queried.
        """
        try:
            comparison = self._compare_served(model, before, after)
        except CompareError:
            found = self._shadow.pair(model, before, after)
            if found is None:
                raise
            return shadow_only(model, *found[:2], SameRequests.of(found[2]))
        found = self._shadow.pair(model, comparison.before.version, comparison.after.version)
        return comparison._replace(same_requests=found and SameRequests.of(found[2]))

    def _compare_served(self, model: str, before: str | None = None, after: str | None = None) -> Comparison:
        prometheus = self._prometheus()
        if prometheus is None:
            raise CompareError(NO_PROMETHEUS)
        from exporter.comparison.prometheus import compare_shared, default_window, versions

        now = time.time()
        appeared = versions(prometheus, model, now)
        pair = choose(model, list(appeared), before, after)
        at, latest = self._latest.get(model, (0.0, None))
        if latest and time.monotonic() - at < REFRESH_SECONDS and pair == (latest.before.version, latest.after.version):
            return latest
        return compare_shared(prometheus, model, pair, default_window([appeared[version] for version in pair], now))

    def refresh(self) -> None:
        """Compare the two newest versions of each model."""
        models, failure = list(self._monitors().models), ""
        for model in sorted(models, key=lambda model: self._looked.get(model, 0.0)):
            try:
                self._refresh(model)
            except ExporterError as error:
                self._forget(model)
                failure = str(error)
            except Exception:  # an error of one model may not leave old numbers of this one and the others
                log.exception("versions of %r are not compared", model)
                self._forget(model)
                failure = f"versions of {model!r} are not compared; see the exporter's log"
            if self.must_stop():
                break
        for model in self._latest.keys() - set(models):
            self._forget(model)
        self._failure = failure

    def _refresh(self, model: str) -> None:
        started = self._looked[model] = time.monotonic()
        if len(self._monitors().of_model(model)) < 2:
            self._forget(model)
            return
        try:
            comparison = self._compare_served(model)
        except CompareError:
            self._forget(model)
            return
        margins = self._monitors().models[model].release_margins
        self._lines[model] = list(comparison_lines(at_every_look(comparison), margins))
        self._latest[model] = (started, comparison)

    def _forget(self, model: str) -> None:
        self._latest.pop(model, None)
        self._lines.pop(model, None)
