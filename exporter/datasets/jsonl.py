"""JSON lines: one example per line; releases are stored in this format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.datasets.examples import Pages, encode_lines
from exporter.datasets.formats import Format


def _write(pages: Pages, _: Mapping[str, str]) -> Iterator[bytes]:
    return (encode_lines(page) for page in pages())


FORMAT = Format("jsonl", "jsonl", "application/x-ndjson", _write)
