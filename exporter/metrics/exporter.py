"""The metrics of the exporter itself."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric

from exporter.errors import REASONS, WARNINGS
from exporter.storage.size import StoreSize

SOURCES = ("predictions", "feedback", "events", "kserve", "infer", "exchanges", "logs", "traces")
"""The sources of events: the last part of the route that receives them."""


class ExporterMetrics:
    """Counters and gauges under ``model_exporter_``.

    Parameters
    ----------
    registry
        The registry to which they are added.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "model_exporter_"
        self.events = Counter(f"{prefix}events", "Events accepted, by route.", ["source"], registry=registry)
        self.rejected = Counter(
            f"{prefix}events_rejected", "Events rejected, by reason.", ["reason"], registry=registry
        )
        self.warnings = Counter(
            f"{prefix}event_warnings",
            "Requests with events that are accepted, but look wrong, by reason.",
            ["reason"],
            registry=registry,
        )
        self.dropped = Counter(
            f"{prefix}events_dropped", "Accepted events that were lost or could not be stored.", registry=registry
        )
        self.queue_length = Gauge(f"{prefix}queue_length", "Events waiting to be counted.", registry=registry)
        self.queue_capacity = Gauge(
            f"{prefix}queue_capacity", "Number of events that can wait to be counted.", registry=registry
        )
        self.quarantined_files = Gauge(
            f"{prefix}store_damaged_files",
            "Damaged databases and write-ahead logs that were set aside and still exist.",
            registry=registry,
        )
        self.store_bytes = Gauge(
            f"{prefix}store_bytes",
            "Size of the store: predictions, which are deleted to make room, and what is kept.",
            ["part"],
            registry=registry,
        )
        self.store_max_bytes = Gauge(
            f"{prefix}store_max_bytes", "Maximum size of the store; infinite without store.max_size.", registry=registry
        )
        self.store_errors = Counter(f"{prefix}store_errors", "Failed reads and writes of the store.", registry=registry)
        self.notifications = Counter(
            f"{prefix}notifications", "Alerts received from Alertmanager.", ["status"], registry=registry
        )
        self.reload_successful = Gauge(
            f"{prefix}config_last_reload_successful", "Whether the last reload succeeded.", registry=registry
        )
        self.reload_time = Gauge(
            f"{prefix}config_last_reload_success_timestamp_seconds",
            "Unix time of the last successful reload.",
            registry=registry,
        )
        build = Gauge(
            f"{prefix}build_info",
            "Build information about the exporter.",
            ["version", "pythonversion"],
            registry=registry,
        )
        build.labels(version("model-exporter"), platform.python_version()).set(1)
        for source in SOURCES:
            self.events.labels(source)
        for reason in REASONS:
            self.rejected.labels(reason)
        for reason in WARNINGS:
            self.warnings.labels(reason)
        for status in ("firing", "resolved"):
            self.notifications.labels(status)

    def watch_size(self, size: StoreSize) -> None:
        """Report the size of the store, and its maximum."""
        self.store_bytes.labels("predictions").set_function(lambda: size.usage.predictions)
        self.store_bytes.labels("kept").set_function(lambda: size.usage.kept)
        self.store_max_bytes.set(math.inf if size.limit is None else size.limit)


class LinksCollector:
    """Collects the addresses that links in alerts and dashboards begin with, for each model.

    Parameters
    ----------
    links
        Returns the models, the address of the exporter and that of the dashboards.
    """

    def __init__(self, links: Callable[[], tuple[Iterable[str], str, str]]) -> None:
        self._links = links

    def collect(self) -> Iterator[Metric]:
        """Return the metric."""
        models, external_url, dashboards_url = self._links()
        family = GaugeMetricFamily(
            "model_exporter_links_info",
            "Addresses that links to the exporter and to the dashboards of a model begin with.",
            labels=["model", "external_url", "dashboards_url"],
        )
        for model in models:
            family.add_metric([model, external_url, dashboards_url], 1)
        yield family
