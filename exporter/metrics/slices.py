"""Collect the metrics of slices: where the corrections of a version come from."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.metrics import families as f
from exporter.metrics.lines import FamilyLines, sample_line
from exporter.monitoring.binner import Binner
from exporter.slices.explain import Explanation
from exporter.slices.report import describe

MAX_NAME = 200
"""Characters of the label ``slice``."""


def slice_lines(explanation: Explanation, binner: Binner, version: str) -> Iterator[FamilyLines]:
    """Return the lines of the slices of a version; of slices that are named the same, those of the first one."""
    seen = set()
    for one in explanation.slices:
        name = describe(one.bins, binner)
        name = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        if name in seen:
            continue
        seen.add(name)
        labels = {
            "model": explanation.query.model,
            "version": version,
            "of": explanation.query.of,
            "slice": name,
        }
        yield sample_line(f.SLICE_SHARE, one.share, **labels)
        yield sample_line(f.SLICE_TRAFFIC, one.traffic_share, **labels)
