"""Parquet files, by rows and by columns; and the conversion of Arrow columns."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from exporter.profiles.sources.base import ROWS, Batch, Column, ColumnarFile
from exporter.validation import preview


class Parquet(ColumnarFile):
    """A Parquet file."""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self._path, buffer_size=2**18, pre_buffer=False) as file:
            check_unique_names(file.schema_arrow.names)
            yield file

    def columns(self) -> tuple[dict[str, bool], int]:
        """Return `Source.columns`, and the number of rows."""
        with self._opened() as file:
            fields = file.schema_arrow
            columns = {field.name: is_number(field.type) and not self._keeps_digits(field) for field in fields}
            return columns, file.metadata.num_rows

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        with self._opened() as file:
            buffer = np.empty(file.metadata.num_rows)
            for name in names:
                read = 0
                for batch in file.iter_batches(batch_size=ROWS, columns=[name], use_threads=False):
                    values = as_arrays(batch.column(name))
                    if values.dtype != buffer.dtype:
                        buffer = np.empty(len(buffer), values.dtype)
                    buffer[read : read + len(values)] = values
                    read += len(values)
                yield name, buffer

    def batches(self, names: Collection[str] | None) -> Iterator[Batch]:
        """See `Source.batches`."""
        with self._opened() as file:
            meta = file.metadata
            fields = [field for field in file.schema_arrow if names is None or field.name in names]
            size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
            rows = min(max(self._block * meta.num_rows // max(size, 1), 1), ROWS)
            read, codes = 0, {field.name for field in fields if self._keeps_digits(field)}
            for batch in file.iter_batches(
                batch_size=rows, columns=[field.name for field in fields], use_threads=False
            ):
                read += batch.num_rows
                yield Batch(arrow_columns(batch, codes), batch.num_rows, read / meta.num_rows)

    def _keeps_digits(self, field: Any) -> bool:
        """Return whether a column has whole numbers that were chosen to be categories."""
        from pyarrow import types

        return self._types.get(field.name) == "categorical" and bool(types.is_integer(field.type))


def check_unique_names(names: list[str]) -> None:
    """Raise ValueError if two columns have the same name."""
    if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"the column {preview(duplicates[0])} is duplicated")


def arrow_columns(batch: Any, codes: Collection[str]) -> dict[str, Column]:
    """Return the columns of a batch of Arrow; the whole numbers that are ``codes`` keep all their digits."""
    return {
        name: column.to_pylist() if name in codes else as_arrays(column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def as_arrays(column: Any) -> Column:
    """Return an Arrow array of numbers as a numpy array, any other as Python values; a list as it is."""
    import pyarrow as pa

    if isinstance(column, list):
        return column
    kind = column.type
    if pa.types.is_decimal(kind):
        return _as_array(column.cast(pa.string()).cast(pa.float64()))  # the float nearest to the digits, as in JSON
    if is_number(kind):
        return _as_array(column)
    if pa.types.is_timestamp(kind) and kind.tz:  # as text, the offset of another zone would have no colon
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    values: Column = (column.cast(pa.string()) if pa.types.is_temporal(kind) else column).to_pylist()
    return values


def is_number(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers."""
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _as_array(column: Any) -> np.ndarray[tuple[int], np.dtype[np.floating[Any]]]:
    """Return Arrow's numbers as floats, NaN where they are null.

    Floats of 32 bits and fewer keep their precision, in which live values are then compared. pyarrow's own conversion
    would import pandas, which takes a second.
    """
    size, start = len(column), column.offset
    valid, values = column.buffers()
    dtype = np.dtype(column.type.to_pandas_dtype())
    numbers = np.frombuffer(values or b"", dtype)[start : start + size]
    if dtype.kind != "f":
        numbers = numbers.astype(np.float64)
    if not column.null_count:
        return numbers
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[start : start + size]
    return np.where(bits, numbers, np.nan)
