"""The tables of metrics in ``docs/metrics.md``, from the declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from exporter.metrics.exporter import SECTION, ExporterMetrics
from exporter.metrics.exposition import GROUPS
from exporter.metrics.lines import Family

_TABLE = re.compile(r"(<!-- metrics: (.*?) -->\n).*?(<!-- /metrics -->)", re.DOTALL)


def metrics(text: str) -> str:
    """Return a document whose tables of metrics, each between two comments, are written again.

    Raises
    ------
    ValueError
        When the document lacks the table of a section.
    """
    tables: dict[str, list[Family]] = {}
    for section, family in _families():
        tables.setdefault(section, []).append(family)
    missing = tables.keys() - {match[2] for match in _TABLE.finditer(text)}
    if missing:
        raise ValueError(f"no table of: {', '.join(sorted(missing))}; expected <!-- metrics: {min(missing)} -->")
    return _TABLE.sub(lambda match: f"{match[1]}\n{_table(tables[match[2]])}\n{match[3]}", text)


def _families() -> Iterator[tuple[str, Family]]:
    for group in GROUPS:
        yield from ((group.section, family) for family in group.families)
    yield from ((SECTION, family) for family in ExporterMetrics(CollectorRegistry()).families)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        registry = CollectorRegistry()
        collector(registry=registry)
        for metric in registry.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            labels = dict.fromkeys(label for sample in metric.samples for label in sample.labels)
            yield "Process", Family(name, metric.type, metric.documentation.rstrip(".") + ".", tuple(sorted(labels)))


def _table(families: list[Family]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join([*family.labels, *(["le"] if family.kind == "histogram" else [])])
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"
