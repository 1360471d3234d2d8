"""Training data out of reviewed corrections: formats to stream it in, and frozen releases."""

from __future__ import annotations

from exporter.dataset import jsonl, label_studio, parquet, spreadsheet
from exporter.dataset.base import Format

FORMATS: dict[str, Format] = {
    one.name: one for one in (jsonl.FORMAT, spreadsheet.FORMAT, parquet.FORMAT, label_studio.FORMAT)
}
"""Formats of a dataset by name."""

__all__ = ["FORMATS", "Format"]
