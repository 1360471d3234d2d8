"""The whole of ``/metrics`` in the text format or in OpenMetrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from exporter.metrics.families import FAMILIES
from exporter.metrics.models import FamilyLines, ModelsCollector, review_lines
from exporter.metrics.system import Collector
from exporter.monitoring.registry import MonitorRegistry
from exporter.storage import Store

log = logging.getLogger(__name__)


class _Families:
    """What prometheus_client's encoders take for a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Exposition:
    """Everything there is to scrape.

    Parameters
    ----------
    registry
        The exporter's own metrics; the standard process and Python ones are added to it.
    collectors
        What reads the machine.
    monitors
        Gives the monitors of now.
    store
        Asked for what waits for review.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        collectors: Iterable[Collector],
        monitors: Callable[[], MonitorRegistry],
        store: Store,
    ) -> None:
        self._registry = registry
        self._collectors = list(collectors)
        self._monitors = monitors
        self._store = store
        self._models = ModelsCollector()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def render(self, accept: str = "", names: Collection[str] = ()) -> tuple[bytes, str]:
        """The exposition and its content type.

        Parameters
        ----------
        accept
            The request's ``Accept`` header.
        names
            Only these families or samples, if any are given.
        """
        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        duration = GaugeMetricFamily(
            "model_exporter_collector_duration_seconds", "Time a collector took.", labels=["collector"]
        )
        success = GaugeMetricFamily(
            "model_exporter_collector_success", "Whether a collector succeeded.", labels=["collector"]
        )

        system: list[Metric] = []

        def timed(name: str, read: Callable[[], Iterable[Any]], into: list[Any]) -> None:
            start = time.perf_counter()
            try:
                into.extend(read())
            except Exception as error:
                log.error("collector %s: %s", name, error)
                success.add_metric([name], 0)
            else:
                success.add_metric([name], 1)
            duration.add_metric([name], time.perf_counter() - start)

        samples: list[FamilyLines] = []
        monitors = self._monitors()
        timed(self._models.name, lambda: self._models.collect(monitors), samples)
        timed(
            "store", lambda: review_lines(monitors, self._store), samples
        )  # its own: the models must not fall with it
        for collector in self._collectors:
            timed(collector.name, collector.collect, system)
        models = render_families(samples, openmetrics, names)
        own = encode(_Families(_only([*self._registry.collect(), *system, duration, success], names)))
        end = b"# EOF\n" if openmetrics else b""
        return b"".join((own.removesuffix(end), *models, end)), content_type

    def machine(self) -> dict[str, float]:
        """The machine's gauges that bear no label, by name, without those that cannot be read now."""
        found: dict[str, float] = {}
        for collector in self._collectors:
            try:
                samples = [sample for family in collector.collect() for sample in family.samples]
            except Exception as error:
                log.error("collector %s: %s", collector.name, error)
                continue
            found |= {sample.name: sample.value for sample in samples if not sample.labels}
        return found


def render_families(
    samples: Iterable[FamilyLines], openmetrics: bool = False, names: Collection[str] = ()
) -> Iterator[bytes]:
    """Lines of samples, family by family; only those of ``names``, if any are given."""
    found: dict[str, list[bytes]] = {family.name: [] for family in FAMILIES}
    for family, lines in samples:
        if not names or family.name in names or family.name.removesuffix("_total") in names:
            found[family.name].append(lines)
        elif any(name.startswith(family.name) for name in names):  # one of a histogram's series
            every = lines.split(b"\n")[:-1]
            found[family.name] += [line + b"\n" for line in every if line.split(b"{")[0].decode() in names]
    for family in FAMILIES:
        if any(found[family.name]):
            yield family.header(openmetrics)
            yield from found[family.name]


def _only(families: Iterable[Metric], names: Collection[str]) -> Iterator[Metric]:
    for family in families:
        kept = Metric(family.name, family.documentation, family.type, family.unit)
        kept.samples = [
            sample
            for sample in family.samples
            if not sample.name.endswith("_created") and (not names or sample.name in names or family.name in names)
        ]
        if kept.samples:
            yield kept
