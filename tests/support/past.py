"""A real Prometheus with a past of known samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.programs import prometheus
from support.promtool import promtool

Points = list[tuple[int, float]]
"""Samples of a series: Unix time and value."""


def openmetrics(series: dict[str, Points]) -> str:
    """Return an OpenMetrics document; the series of a family follow one another, as the format requires."""
    lines, family = [], ""
    for name in sorted(series):
        stem = name.partition("{")[0]
        kind = "counter" if stem.endswith("_total") else "gauge"
        if stem != family:
            lines.append(f"# TYPE {stem.removesuffix('_total')} {kind}")
            family = stem
        lines += [f"{name} {value} {at}" for at, value in series[name]]
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def prometheus_of(folder: Path, series: dict[str, Points]) -> Iterator[str]:
    """The URL of a Prometheus that has these series and scrapes nothing."""
    (folder / "past.txt").write_text(openmetrics(series))
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "past.txt", folder / "tsdb")
    with prometheus(folder, {}) as program:
        yield program.url
