"""Render ``/metrics`` in the text format or in OpenMetrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from exporter.metrics import comparisons, exporter, models, quality, system
from exporter.metrics.lines import Family, FamilyLines, Metrics, Reading
from exporter.monitoring.registry import MonitorRegistry

if TYPE_CHECKING:
    from exporter.storage import Store

log = logging.getLogger(__name__)

_OPENMETRICS, _TEXT = "application/openmetrics-text", "text/plain"
_UTF8_NAMES = "escaping=allow-utf-8"

COLLECTORS = Metrics[Mapping[str, tuple[float, bool]]](exporter.SECTION)


@COLLECTORS.gauge("collector")
def model_exporter_collector_duration_seconds(ran: Mapping[str, tuple[float, bool]]) -> Reading:
    """Duration of a collector's scrape."""
    return {name: seconds for name, (seconds, _) in ran.items()}


@COLLECTORS.gauge("collector")
def model_exporter_collector_success(ran: Mapping[str, tuple[float, bool]]) -> Reading:
    """Whether a collector succeeded."""
    return {name: success for name, (_, success) in ran.items()}


_MODULES = (system, models, quality, comparisons, exporter)
GROUPS = [
    COLLECTORS,
    *dict.fromkeys(one for module in _MODULES for one in vars(module).values() if isinstance(one, Metrics)),
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
    collectors
        Collectors of the machine's metrics.
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
        collectors: Iterable[system.Collector[Any]],
        monitors: Callable[[], MonitorRegistry],
        store: Store,
        others: Mapping[str, Callable[[], Iterable[FamilyLines]]] = MappingProxyType({}),
    ) -> None:
        self._registry = registry
        self._collectors = list(collectors)
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
        yield "store", lambda: quality.review_lines(monitors, self._store)
        yield from self._others.items()
        yield from ((one.name, one.lines) for one in self._collectors)


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
