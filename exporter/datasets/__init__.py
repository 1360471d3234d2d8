"""Training data from reviewed corrections: export formats, and frozen releases."""

from __future__ import annotations

from exporter.datasets import label_studio
from exporter.datasets.formats import CSV, JSON_LINES, PARQUET, Format

FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (JSON_LINES, CSV, PARQUET, label_studio.FORMAT)}
"""The formats of a dataset by name."""

__all__ = ["FORMATS", "Format"]
