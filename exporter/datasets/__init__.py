"""Training data from reviewed corrections: export formats, and frozen releases."""

from __future__ import annotations

from exporter.datasets import csv, jsonl, label_studio, parquet
from exporter.datasets.formats import Format

FORMATS: dict[str, Format] = {
    format_.name: format_ for format_ in (jsonl.FORMAT, csv.FORMAT, parquet.FORMAT, label_studio.FORMAT)
}
"""The formats of a dataset by name."""

__all__ = ["FORMATS", "Format"]
