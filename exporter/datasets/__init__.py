"""Training data out of reviewed corrections: formats to stream it in, and frozen releases."""

from __future__ import annotations

from exporter.datasets import csv, jsonl, label_studio, parquet
from exporter.datasets.formats import Format

FORMATS: dict[str, Format] = {one.name: one for one in (jsonl.FORMAT, csv.FORMAT, parquet.FORMAT, label_studio.FORMAT)}
"""Formats of a dataset by name."""

__all__ = ["FORMATS", "Format"]
