"""The metrics of the exporter itself, and ``/metrics`` in the text format or in OpenMetrics."""

from __future__ import annotations

import logging
import math
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from exporter.errors import REASONS, WARNINGS
from exporter.metrics import comparisons, models, system
from exporter.metrics.lines import Family, FamilyLines, Key, Metrics, Reading
from exporter.monitoring.counters import Histogram
from exporter.monitoring.registry import MonitorRegistry
from exporter.storage import Store
from exporter.version import revision, version

if TYPE_CHECKING:
    from exporter.storage import Store


SOURCES = ("predictions", "feedback", "labels", "events", "kserve", "exchanges", "logs", "traces")
"""The sources of events: the last part of the route that receives them."""
SECTION = "The exporter itself"
DURATIONS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds of the buckets of requests to the exporter, in seconds."""


class RequestCounts:
    """Requests to the exporter, by route and code; counted in one thread, for a lock costs more than the rest."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, int], list[float]] = {}

    def count(self, route: str, code: int, seconds: float) -> None:
        """Count a request; ``route`` is one of few."""
        cell = self._cells.get((route, code))
        if cell is None:
            cell = self._cells[route, code] = [0.0] * (len(DURATIONS) + 2)
        cell[bisect_left(DURATIONS, seconds)] += 1
        cell[-1] += seconds

    def codes(self) -> dict[Key, float]:
        """Return the number of requests by route and code."""
        return {(route, str(code)): sum(cell[:-1]) for (route, code), cell in list(self._cells.items())}

    def lines(self) -> Iterator[FamilyLines]:
        """Return the lines of all requests."""
        yield from REQUESTS.lines(self)
        durations: dict[str, Histogram] = {}
        for (route, _), cell in list(self._cells.items()):
            histogram = durations.setdefault(route, Histogram(DURATIONS))
            histogram.counts += cell[:-1]
            histogram.sum += cell[-1]
        for route, histogram in durations.items():
            yield from REQUEST_DURATION.lines(histogram, route=route)


REQUESTS = Metrics[RequestCounts](SECTION)


@REQUESTS.counter("route", "code")
def model_exporter_http_requests_total(counts: RequestCounts) -> Reading:
    """Requests by route and response code; 499 if the client went away."""
    return counts.codes()


REQUEST_DURATION = Metrics[Histogram](SECTION, "route")


@REQUEST_DURATION.histogram()
def model_exporter_http_request_duration_seconds(durations: Histogram) -> Histogram:
    """Time from the head of a request to the end of its response."""
    return durations


class ExporterMetrics:
    """Counters and gauges under ``model_exporter_``.

    Parameters
    ----------
    registry
        The registry to which they are added.

    Attributes
    ----------
    families
        What is declared, in the order of the declarations.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.families: list[Family] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            self.families.append(Family(f"model_exporter_{name}_total", "counter", text, labels))
            return Counter(f"model_exporter_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            self.families.append(Family(f"model_exporter_{name}", "gauge", text, labels))
            return Gauge(f"model_exporter_{name}", text, labels, registry=registry)

        refused = f"Events rejected, by reason: {', '.join(REASONS)}."
        looks_wrong = "Requests with events that are accepted, but look wrong, by reason."
        lost = "Accepted events that were lost: the store failed, a reload removed their model, or the process ended."
        self.requests = RequestCounts()
        self.events = counter("events", "Events accepted, by route.", "source")
        self.rejected = counter("events_rejected", refused, "reason")
        self.warnings = counter("event_warnings", looks_wrong, "reason")
        self.dropped = counter("events_dropped", lost)
        self.queue_length = gauge("queue_length", "Events waiting to be counted.")
        self.queue_capacity = gauge("queue_capacity", "Number of events that can wait to be counted.")
        damaged = "Damaged databases and write-ahead logs that were set aside and still exist."
        self.quarantined_files = gauge("store_damaged_files", damaged)
        stored = "Size of the store: predictions, which are deleted to make room, and kept data."
        self.store_bytes = gauge("store_bytes", stored, "part")
        largest = "Maximum size of the store; infinite without store.max_size."
        self.store_max_bytes = gauge("store_max_bytes", largest)
        self.store_up = gauge("store_up", "Whether the last write to the database succeeded.")
        backup = "Unix time of the last backup by the command backup; 0 without one."
        self.last_backup = gauge("last_backup_timestamp_seconds", backup)
        self.store_errors = counter("store_errors", "Failed reads and writes of the store.")
        self.notifications = counter("notifications", "Alerts received from Alertmanager.", "status")
        asked = "Requests for retraining by result; failed attempts are repeated."
        self.retrain_requests = counter("retrain_requests", asked, "status")
        self.reload_successful = gauge("config_last_reload_successful", "Whether the last reload succeeded.")
        reloaded = "Unix time of the last successful reload."
        self.reload_time = gauge("config_last_reload_success_timestamp_seconds", reloaded)
        build = gauge("build_info", "Build information about the exporter.", "version", "revision", "pythonversion")
        build.labels(version(), revision(), platform.python_version()).set(1)
        for source in SOURCES:
            self.events.labels(source)
        for reason in REASONS:
            self.rejected.labels(reason)
        for reason in WARNINGS:
            self.warnings.labels(reason)
        for status in ("firing", "resolved"):
            self.notifications.labels(status)
        for status in ("requested", "delivered", "failed", "abandoned"):
            self.retrain_requests.labels(status)

    def watch_store(self, store: Store) -> None:
        """Report the state of the store, its size and its maximum."""
        size = store.size
        self.store_up.set_function(lambda: not (store.fault or store.writer.transactions.refusal))
        self.last_backup.set_function(store.last_backup)
        self.store_bytes.labels("predictions").set_function(lambda: size.usage.predictions)
        self.store_bytes.labels("kept").set_function(lambda: size.usage.kept)
        self.store_max_bytes.set(math.inf if size.limit is None else size.limit)


LINKS = Metrics[tuple[Iterable[str], str, str]](SECTION)


@LINKS.gauge("model", "external_url", "dashboards_url")
def model_exporter_links_info(links: tuple[Iterable[str], str, str]) -> Reading:
    """Base addresses of links to the exporter and to the dashboards of a model."""
    return {(model, *links[1:]): 1.0 for model in links[0]}


FILES = Metrics[Mapping[str, bool]](SECTION)


@FILES.gauge("file")
def model_exporter_model_file_valid(valid: Mapping[str, bool]) -> Reading:
    """Whether a file of models_folder is valid, and its models are in use."""
    return valid


PAIRING = Metrics[tuple[Mapping[str, int], int]](SECTION)


@PAIRING.counter("side")
def model_exporter_unpaired_total(one: tuple[Mapping[str, int], int]) -> Reading:
    """Logged requests and responses whose counterpart did not arrive."""
    return dict(one[0])


@PAIRING.gauge()
def model_exporter_pairs_waiting(one: tuple[Mapping[str, int], int]) -> Reading:
    """Logged requests and responses that wait for their counterpart."""
    return one[1]


log = logging.getLogger(__name__)

_OPENMETRICS, _TEXT = "application/openmetrics-text", "text/plain"
_UTF8_NAMES = "escaping=allow-utf-8"

COLLECTORS = Metrics[Mapping[str, tuple[float, bool]]](SECTION)


@COLLECTORS.gauge("collector")
def model_exporter_collector_duration_seconds(ran: Mapping[str, tuple[float, bool]]) -> Reading:
    """Duration of a collector's scrape."""
    return {name: seconds for name, (seconds, _) in ran.items()}


@COLLECTORS.gauge("collector")
def model_exporter_collector_success(ran: Mapping[str, tuple[float, bool]]) -> Reading:
    """Whether a collector succeeded."""
    return {name: success for name, (_, success) in ran.items()}


GROUPS = [
    COLLECTORS,
    *(one for names in map(vars, (system, models, comparisons)) for one in names.values() if isinstance(one, Metrics)),
    *(REQUESTS, REQUEST_DURATION, LINKS, FILES, PAIRING),
]
"""All metrics, in the order of the exposition."""
FAMILIES: list[Family] = [family for group in GROUPS for family in group.families]


class _Families:
    """Metric families in the form of a registry, for prometheus_client's encoders."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Exposition:
    """All metrics of the exporter.

    Parameters
    ----------
    registry
        Metrics of the exporter itself; those of the process and of Python are added to it.
    monitors
        Returns the current monitors.
    store
        The store, for the metrics of review.
    others
        Further collectors by name: each returns lines.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        monitors: Callable[[], MonitorRegistry],
        store: Store,
        others: Mapping[str, Callable[[], Iterable[FamilyLines]]] = MappingProxyType({}),
    ) -> None:
        self._registry = registry
        self._monitors = monitors
        self._store = store
        self._others = others
        self._models = models.ModelsCollector()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def render(self, accept: str = "", names: Collection[str] = ()) -> tuple[bytes, str]:
        """Return the exposition and its content type.

        Parameters
        ----------
        accept
            The request's ``Accept`` header.
        names
            Only these families or samples; all when empty.
        """
        openmetrics = takes_openmetrics(accept)
        # No name needs escaping, but the encoder takes twice as long for a client that does not take UTF-8 in names.
        escaping = _UTF8_NAMES if _UTF8_NAMES in accept.lower() else ""
        encode, content_type = choose_encoder(f"{_OPENMETRICS};version=1.0.0;{escaping}" if openmetrics else "")
        monitors = self._monitors()
        ran: dict[str, tuple[float, bool]] = {}
        lines: list[FamilyLines] = []
        for name, collector in self._all(monitors):
            start = time.perf_counter()
            try:
                lines.extend(collector())
            except Exception as error:
                log.error("collector %s: %s", name, error)
                ran[name] = time.perf_counter() - start, False
            else:
                ran[name] = time.perf_counter() - start, True
        lines.extend(COLLECTORS.lines(ran))
        own = encode(_Families(_select(self._registry.collect(), names)))
        end = b"# EOF\n" if openmetrics else b""
        return b"".join((own.removesuffix(end), *render_families(lines, openmetrics, names), end)), content_type

    def _all(self, monitors: MonitorRegistry) -> Iterator[tuple[str, Callable[[], Iterable[FamilyLines]]]]:
        yield self._models.name, lambda: self._models.collect(monitors)
        # A collector of its own: without the store the metrics of the models are still there.
        yield "store", lambda: models.review_lines(monitors, self._store)
        yield from self._others.items()


def takes_openmetrics(accept: str) -> bool:
    """Return whether an ``Accept`` header prefers OpenMetrics 1 to the text format; `choose_encoder` ignores weights.

    >>> takes_openmetrics('application/openmetrics-text; version="1.0.0"; q=0.5, text/plain;q=0.4')
    True
    >>> [takes_openmetrics(f"{_OPENMETRICS};{rest}") for rest in ("version=2.0.0", "q=0", "q=0.1, text/plain;q=0.9")]
    [False, False, False]
    """
    weights = {_OPENMETRICS: 0.0, _TEXT: 0.0}
    for part in accept.lower().replace(" ", "").split(","):
        media_type, *rest = part.split(";")
        parameters = {name: value.strip('"') for name, _, value in (parameter.partition("=") for parameter in rest)}
        if media_type == _TEXT or (media_type == _OPENMETRICS and parameters.get("version", "1").startswith("1")):
            weights[media_type] = max(weights[media_type], _weight(parameters.get("q", "1")))
    return 0 < weights[_OPENMETRICS] >= weights[_TEXT]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def render_families(
    collected: Iterable[FamilyLines], openmetrics: bool = False, names: Collection[str] = ()
) -> Iterator[bytes]:
    """Render collected lines, family by family; only those of ``names``, unless it is empty."""
    by_family: dict[str, list[bytes]] = {family.name: [] for family in FAMILIES}
    for family, lines in collected:
        if not names or family.name in names or family.name.removesuffix("_total") in names:
            by_family[family.name].append(lines)
        elif any(name.startswith(family.name) for name in names):  # one of a histogram's series
            by_family[family.name] += [
                line + b"\n" for line in lines.split(b"\n")[:-1] if line.split(b"{")[0].decode() in names
            ]
    for family in FAMILIES:
        if any(by_family[family.name]):
            yield family.header(openmetrics)
            yield from by_family[family.name]


def _select(families: Iterable[Metric], names: Collection[str]) -> Iterator[Metric]:
    for family in families:
        selected = Metric(family.name, family.documentation, family.type, family.unit)
        selected.samples = [
            sample
            for sample in family.samples
            if not sample.name.endswith("_created") and (not names or sample.name in names or family.name in names)
        ]
        if selected.samples:
            yield selected
