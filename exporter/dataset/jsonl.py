"""JSON lines: one example a line, the form in which releases are frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.dataset.base import Format
from exporter.dataset.examples import Pages, lines


def _write(pages: Pages, _: Mapping[str, str]) -> Iterator[bytes]:
    return (lines(page) for page in pages())


FORMAT = Format("jsonl", "jsonl", "application/x-ndjson", _write)
