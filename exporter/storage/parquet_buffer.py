"""A Parquet file that is made in memory, in row groups of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

GROUP_ROWS, GROUP_CHARACTERS = 20_000, 16 * 2**20
"""Rows of a row group, and characters of their inputs and labels, at most."""
ROW_BYTES = 1000
"""Assumed bytes of memory of a row without its inputs, until its row group is written."""


class ParquetBuffer:
    """The Parquet file of the rows of one day.

    Parameters
    ----------
    columns
        A schema of pyarrow.
    """

    def __init__(self, columns: Any) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        self._columns = columns
        self._times = [field.name for field in columns if pa.types.is_timestamp(field.type)]
        self._buffer = pa.BufferOutputStream()
        self._writer = ParquetWriter(self._buffer, columns, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []
        self._characters = 0

    @property
    def size(self) -> int:
        """Bytes in memory: those that are written, and about those that wait for their row group."""
        return int(self._buffer.tell()) + self._characters + ROW_BYTES * len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, whose times are Unix times in seconds; further values are left out."""
        times = {name: row[name] for name in self._times if row.get(name) is not None}
        self._rows.append({**row, **{name: datetime.fromtimestamp(time, UTC) for name, time in times.items()}})
        self._characters += len(row.get("inputs") or "") + len(row.get("label") or "")
        if len(self._rows) == GROUP_ROWS or self._characters > GROUP_CHARACTERS:
            self._flush()

    def content(self) -> Any:
        """Return the whole file."""
        self._flush()
        self._writer.close()
        return self._buffer.getvalue()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._columns))
        self._rows, self._characters = [], 0
