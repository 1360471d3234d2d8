"""Read training files in batches."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import weakref
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from exporter.errors import ProfileError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.profiles.sources.base import (
    Batch,
    Column,
    Source,
    is_gzip,
    path_of,
    plain_copy,
    to_columns,
    without_gz,
)
from exporter.profiles.sources.csv_cells import CsvColumn, delimiter_in
from exporter.profiles.sources.npz import Npz
from exporter.profiles.sources.parquet import Parquet, as_arrays, check_unique_names
from exporter.validation import any_of, preview, similar_file

# Errors of pyarrow (its own derive from these), numpy, zipfile and msgspec for a file that is not what its name says.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    NotImplementedError,
    RecursionError,
    zipfile.BadZipFile,
    msgspec.MsgspecError,
)

_CONVERT = "convert it, for example with iconv -f {} -t UTF-8"


class FileSource(Source):
    """A CSV, Parquet, NPZ or JSON lines file, plain or compressed with gzip.

    Parameters
    ----------
    path
        The file.
    types
        Input types that were chosen, by column. They decide how the cells of a CSV file are read, and which arrays of
        an NPZ file may have two dimensions, a vector in each row.
    block
        Bytes of a batch.
    kind
        ``csv``, ``parquet``, ``npz`` or ``jsonl``; the suffix of the file when None.
    where
        Name of the source in messages; its path when None.
    others
        Chosen type of all columns that are not in ``types``.
    delimiter, decimal
        What separates the cells of a CSV file, and the decimal point of its numbers, ``.`` or ``,``.

    Raises
    ------
    ProfileError
        When there is no such file or it has another suffix; while reading, when it does not have that format.
    """

    def __init__(
        self,
        path: Path,
        types: Mapping[str, str] | None = None,
        block: int = 8 * 2**20,
        *,
        kind: str | None = None,
        where: str | None = None,
        others: str | None = None,
        delimiter: str = ",",
        decimal: str = ".",
    ) -> None:
        plain = without_gz(path)
        self.where, self.name, self.remarks = where or str(path), plain.stem, {}
        self._path = path
        self._kind = kind or plain.suffix[1:].lower()
        self.reads_columns = self._kind in _TABLES
        reader = _READERS.get(f".{self._kind}")
        if reader is None:
            raise ProfileError(f"{path}: expected a file that ends in {any_of(_READERS)}, and then perhaps in .gz")
        if not path.is_file():
            reason = "it is a folder" if path.is_dir() else f"there is no such file{similar_file(path)}"
            raise ProfileError(f"{path}: cannot be read: {reason}")
        self._decompress()
        self._types = types or {}
        self._others = others
        self._delimiter, self._decimal = delimiter, decimal
        self.cells_are_texts = self._kind == "csv"
        self._block = block
        self._read = reader
        self._csv_block = max(block // 8, 100)  # pyarrow reads many blocks ahead
        self._cells: dict[str, CsvColumn] | None = None

    def _decompress(self) -> None:
        """Read a compressed file from a decompressed copy, which lasts as long as this source."""
        try:
            with self._path.open("rb") as stream:
                if not is_gzip(stream):
                    return
                copy = plain_copy(stream)
        except (ValueError, OSError) as error:
            raise ProfileError(f"{self.where}: {getattr(error, 'strerror', None) or error}") from None
        weakref.finalize(self, copy.close)
        self._path = path_of(copy)

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:
        """See `Source.batches`."""
        with self._file_errors():
            yield from self._read(self, names)

    def columns(self) -> dict[str, bool]:
        """See `Source.columns`."""
        with self._file_errors():
            columns: dict[str, bool] = {}
            if self.reads_columns:
                columns, self.rows = self._table().columns()
            elif self._kind == "csv":
                cells = self._inferred()
                columns = {name: column.plain for name, column in cells.items()} if self.rows else {}
            return columns

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        with self._file_errors():
            yield from self._table().read_columns(names)

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Turn errors about the file into one message."""
        try:
            yield
        except OSError as error:
            raise ProfileError(f"{self.where}: cannot be read: {error.strerror or error}") from None
        except _MALFORMED as error:
            if problem := self._not_text():
                raise ProfileError(f"{self.where}: {problem}") from None
            text = " ".join(str(error).split())[:500]  # pyarrow may quote several lines of the file
            delimiter = self._other_delimiter()
            hint = f"; set --delimiter={delimiter}" if delimiter else ""
            if self._kind in {"csv", "jsonl"} and re.search("utf-?8", text, re.IGNORECASE):
                hint = f"; {_CONVERT.format('WINDOWS-1252')}"
            raise ProfileError(f"{self.where}: is not {self._kind.upper()}: {text}{hint}") from None

    def _not_text(self) -> str | None:
        """Return what is wrong with an empty CSV file, or with text in UTF-16, of which readers quote the bytes."""
        with self._path.open("rb") as file:
            start = file.read(2)
        if self._kind == "csv" and not start:
            return "is empty"
        if self._kind in {"csv", "jsonl"} and start in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            return f"is not text in UTF-8: {_CONVERT.format('UTF-16')}"
        return None

    def _other_delimiter(self) -> str | None:
        """Return the delimiter of a CSV file whose header has another one than it was read with."""
        if self._kind != "csv":
            return None
        with self._path.open(encoding="utf-8", errors="replace") as file:
            return delimiter_in(file.readline(10_000).split(self._delimiter))

    def _csv(self, names: Collection[str] | None) -> Iterator[Batch]:
        readers = self._inferred()
        for table, done in self._csv_texts(names):
            columns = {
                name: as_arrays(readers[name].read(column.combine_chunks()))
                for name, column in zip(table.column_names, table.columns, strict=True)
                if names is None or name in names
            }
            yield Batch(columns, table.num_rows, done)

    def _inferred(self) -> dict[str, CsvColumn]:
        if self._cells is None:
            self._cells = self._csv_given() or self._csv_inferred()
            self.remarks = {name: cells.remark for name, cells in self._cells.items() if cells.remark}
        return self._cells

    def _csv_given(self) -> dict[str, CsvColumn]:
        """Return the columns if the types of all of them were chosen; else nothing."""
        names: list[str] = (
            next((table.column_names for table, _ in self._csv_texts()), []) if self._types or self._others else []
        )
        types = {name: self._types.get(name, self._others) for name in names}
        return {} if None in types.values() else {name: CsvColumn(kind, self._decimal) for name, kind in types.items()}

    def _csv_inferred(self) -> dict[str, CsvColumn]:
        """Return the columns after inspecting all rows: only the last one tells whether all are numbers."""
        cells: dict[str, CsvColumn] = {}
        self.rows = 0
        for table, _ in self._csv_texts():
            self.rows += table.num_rows
            for name, column in zip(table.column_names, table.columns, strict=True):
                cells.setdefault(name, CsvColumn(self._types.get(name), self._decimal)).add(column.combine_chunks())
        return cells

    def _csv_texts(self, names: Collection[str] | None = None) -> Iterator[tuple[Any, float]]:
        """Yield tables of strings, or of numbers where columns are known to hold only numbers, and the share read."""
        given = 0
        while True:
            before = 0
            try:
                for table, done in self._csv_blocks(names):
                    before += table.num_rows
                    if before > given:
                        yield table.slice(max(given - before + table.num_rows, 0)), done
                        given = before
            except ValueError as error:
                if "straddl" not in str(error) or self._csv_block >= 2**30:
                    raise
                self._csv_block *= 8  # a row was longer than a block: read again, and skip what was yielded
            else:
                return

    def _csv_blocks(self, wanted: Collection[str] | None) -> Iterator[tuple[Any, float]]:
        import pyarrow as pa
        from pyarrow import csv

        size = self._path.stat().st_size
        options = {
            "read_options": csv.ReadOptions(block_size=self._csv_block),
            "parse_options": csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
        }
        with csv.open_csv(self._path, **options) as reader:
            names = reader.schema.names
        check_unique_names(names)
        chosen = [name for name in names if wanted is None or name in wanted] or names[
            :1
        ]  # one column gives the number of rows
        plain = {name for name, cells in (self._cells or {}).items() if cells.plain}
        convert = csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=[""],
            include_columns=chosen,
            column_types={name: pa.float64() if name in plain else pa.binary() for name in names},
        )
        # The reader's thread may outlive it: with a file of Python's, it would abort an interpreter that exits.
        with pa.OSFile(str(self._path)) as file, csv.open_csv(file, convert_options=convert, **options) as reader:
            for batch in reader:
                read = zip(chosen, batch.columns, strict=True)
                columns = [column if name in plain else _decoded(name, column) for name, column in read]
                yield pa.table(columns, names=chosen), min(file.tell() / size, 1.0)

    def _table(self) -> Parquet | Npz:
        return _TABLES[self._kind](self._path, self._types, self._block)

    def _jsonl(self, _: Collection[str] | None) -> Iterator[Batch]:
        decoder = msgspec.json.Decoder(dict[str, Any])
        size = self._path.stat().st_size
        before = 0
        with self._path.open("rb") as file:
            while lines := file.readlines(self._block):
                try:
                    rows = decoder.decode_lines(b"".join(lines))
                except msgspec.MsgspecError:
                    rows = [_row(line, before + number) for number, line in enumerate(filter(bytes.strip, lines), 1)]
                before += len(rows)
                if rows:
                    yield Batch(to_columns(rows), len(rows), file.tell() / size)


def _row(line: bytes, number: int) -> dict[str, Any]:
    """Decode one line of JSON, or of what Python writes instead: NaN is missing, an infinity becomes its text."""
    try:
        document = sanitize(json.loads(line, parse_int=parse_integer))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"row {number}: {error}") from None
    if not isinstance(document, dict):
        raise TypeError(f"row {number}: expected an object")
    return document


def _decoded(name: str, column: Any) -> Any:
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        raise ValueError(f"the column {preview(name)} is not UTF-8") from None


_TABLES: dict[str, type[Parquet] | type[Npz]] = {"parquet": Parquet, "npz": Npz}
_READERS: dict[str, Callable[[FileSource, Collection[str] | None], Iterator[Batch]]] = {
    ".csv": FileSource._csv,
    ".parquet": lambda source, names: source._table().batches(names),
    ".npz": lambda source, names: source._table().batches(names),
    ".jsonl": FileSource._jsonl,
    ".ndjson": FileSource._jsonl,
}
