"""Read training files in batches."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, is_vector
from exporter.features.base import CellKind
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.profiles.sources import (
    ROWS,
    Batch,
    Column,
    ColumnarFile,
    Source,
    is_gzip,
    path_of,
    plain_copy,
    to_columns,
    without_gz,
)
from exporter.validation import any_of, preview, similar_file

MISSING = ("na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>")
"""Cells, in any letter case, that mean no value in columns of numbers, booleans and times; else they are texts."""
CODES = "digits that begin with 0 are read as texts, unless --type says otherwise"
"""The remark on a column of such cells."""
WORDS = "NA and the like are read as texts; only an empty cell is missing"
"""The remark on a column of texts that has such cells."""
_KINDS: tuple[CellKind, ...] = get_args(CellKind)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MOMENT = r"^\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?)?$"
DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+([eE][+-]?\d+)?\s*)$"
_DELIMITERS = {";": '";"', "\t": "tab", "|": '"|"'}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class CsvColumn:
    """One column, read as the narrowest of number, boolean, time and text that fits all its cells.

    Parameters
    ----------
    given
        The input type that was chosen. Cells that do not fit it stay texts, which count as invalid.
    decimal
        The decimal point of numbers, ``.`` or ``,``. With ``,`` both are read.
    """

    def __init__(self, given: str | None = None, decimal: str = ".") -> None:
        self._given = INPUT_TYPES[given].cells if given in INPUT_TYPES else None
        self._kind: CellKind = self._given or "number"
        self._digits = not self._given
        self._padded = self._words = False
        self._decimal = decimal
        self._plain = not given and decimal == "."

    def add(self, column: Any) -> None:
        """Inspect some of the cells: an Arrow array of strings, null where they are empty."""
        from pyarrow import ArrowInvalid

        if self._given:
            return
        trimmed = column
        if self._kind != "number" or not _are_numbers(self._with_points(column)):
            self._plain = False
            trimmed, words = _trimmed(column)
            self._words = self._words or words
            for kind in _KINDS[_KINDS.index(self._kind) :]:
                try:
                    self._cast(column, trimmed, kind)
                except ArrowInvalid:
                    continue
                self._kind = kind
                break
        if self._digits:
            self._digits = not _any_matches(trimmed, r"\D")
            self._padded = self._padded or _any_matches(trimmed, r"^0\d")

    @property
    def plain(self) -> bool:
        """Whether all inspected cells are numbers that need no cleaning."""
        return self._plain and not (self._digits and self._padded)

    @property
    def remark(self) -> str:
        """A remark on how the column is read, if that may surprise; else empty."""
        if self._digits and self._padded:
            return CODES
        return WORDS if self._words and self._kind == "text" and not self._given else ""

    def read(self, column: Any) -> Any:
        """Return cells as an Arrow array, or as a list where not all are of the chosen kind."""
        import pyarrow as pa
        from pyarrow import ArrowInvalid

        kind = "text" if self._digits and self._padded else self._kind
        if kind == "text" or self.plain:
            return column
        if kind == "number":
            try:
                return self._with_points(column).cast(pa.float64())  # most columns need no more
            except ArrowInvalid:
                pass
        trimmed, _ = _trimmed(column)
        try:
            return self._cast(column, trimmed, kind)
        except ArrowInvalid:
            return [_single(cell, kind) for cell in self._with_points(trimmed).to_pylist()]

    def _cast(self, column: Any, trimmed: Any, kind: str) -> Any:
        return _cast(column, self._with_points(trimmed) if kind == "number" else trimmed, kind)

    def _with_points(self, column: Any) -> Any:
        """Return cells with a point in decimal numbers."""
        from pyarrow import compute

        if self._decimal == ".":
            return column
        return compute.replace_substring_regex(column, DECIMAL_COMMA, r"\1.\2")


def delimiter_in(names: Collection[str]) -> str | None:
    """Return the delimiter, as ``--delimiter`` takes it, of a file that was read as one column; None for others.

    >>> delimiter_in(["age;income"]), delimiter_in(["age\\tincome"]), delimiter_in(["age;x", "income"])
    ('";"', 'tab', None)
    """
    name = next(iter(names), "")
    return next((text for delimiter, text in _DELIMITERS.items() if len(names) == 1 and delimiter in name), None)


def _trimmed(column: Any) -> tuple[Any, bool]:
    """Return stripped cells, null where they are empty or mean no value, and whether any is such a word."""
    import pyarrow as pa
    from pyarrow import compute

    # Built from buffers, since pyarrow.array imports pandas, which takes a second.
    ends = np.cumsum([0, *map(len, MISSING)], dtype=np.int32)
    missing = pa.StringArray.from_buffers(len(MISSING), pa.py_buffer(ends), pa.py_buffer("".join(MISSING).encode()))
    trimmed = compute.utf8_trim_whitespace(column)
    words = compute.is_in(compute.utf8_lower(trimmed), value_set=missing)
    blank = compute.or_(words, compute.invert(compute.binary_length(trimmed).cast(pa.bool_())))
    return compute.if_else(blank, pa.nulls(1, pa.string())[0], trimmed), bool(compute.any(words).as_py())


def _are_numbers(column: Any) -> bool:
    """Return whether all cells that are not empty are numbers, and none is NaN."""
    import pyarrow as pa
    from pyarrow import compute

    try:
        return not compute.any(compute.is_nan(column.cast(pa.float64()))).as_py()
    except pa.ArrowInvalid:
        return False


def _cast(column: Any, trimmed: Any, kind: str) -> Any:
    """Return cells as a kind; raise ArrowInvalid if one of them is not of that kind."""
    import pyarrow as pa

    if kind == "text":
        return column
    if kind == "moment":
        if _any_matches(trimmed, MOMENT, other=True):
            raise pa.ArrowInvalid("a cell is not a time")
        return trimmed
    return trimmed.cast(pa.float64() if kind == "number" else pa.bool_())


def _any_matches(column: Any, pattern: str, other: bool = False) -> bool:
    """Return whether any cell matches, or with ``other`` whether any does not."""
    from pyarrow import compute

    matches = compute.match_substring_regex(column, pattern)
    return bool(compute.any(compute.invert(matches) if other else matches).as_py())


def _single(cell: str | None, kind: str) -> Any:
    if cell is None:
        return None
    if kind == "truth":
        return _TRUTHS.get(cell.lower(), cell)
    return float(cell) if NUMBER.fullmatch(cell) else cell  # a time may be in Unix seconds


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
                columns = zip(batch.schema.names, batch.columns, strict=True)
                yield Batch(arrow_columns(columns, codes), batch.num_rows, read / meta.num_rows)

    def _keeps_digits(self, field: Any) -> bool:
        """Return whether a column has whole numbers that were chosen to be categories."""
        from pyarrow import types

        return self._types.get(field.name) == "categorical" and bool(types.is_integer(field.type))


def check_unique_names(names: list[str]) -> None:
    """Raise ValueError if two columns have the same name."""
    if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"the column {preview(duplicates[0])} is duplicated")


def arrow_columns(columns: Iterable[tuple[str, Any]], codes: Collection[str]) -> dict[str, Column]:
    """Return columns of Arrow with their names; the whole numbers that are ``codes`` keep all their digits."""
    return {name: column.to_pylist() if name in codes else as_arrays(column) for name, column in columns}


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


class Npz(ColumnarFile):
    """An NPZ file. Its arrays are read from an unpacked copy, which lasts as long as this object."""

    def __init__(self, path: Path, types: Mapping[str, str], block: int) -> None:
        super().__init__(path, types, block)
        if not zipfile.is_zipfile(path):
            raise ValueError("expected what numpy.savez writes")
        folder = tempfile.TemporaryDirectory()
        weakref.finalize(self, folder.cleanup)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(archive.namelist()):
                file, name = Path(folder.name) / str(number), member.removesuffix(".npy")
                with archive.open(member) as packed, file.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                self._arrays[name] = array = np.load(file, mmap_mode="r")
                if not array.shape or (array.ndim == 2 and not is_vector(types.get(name))):
                    hint = f", or use --type {name}=embedding" if array.shape else ""
                    wanted = f"save each column under its own name{hint}"
                    raise ValueError(f"the array {name!r} has {array.ndim} dimensions; {wanted}")
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its arrays have different lengths: {lengths}")
        self._rows = next(iter(lengths.values()), 0)

    def columns(self) -> tuple[dict[str, bool], int]:
        """Return `Source.columns`, and the number of rows."""
        return {n: array.ndim == 1 and array.dtype.kind in "iuf" for n, array in self._arrays.items()}, self._rows

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        return ((name, np.array(self._arrays[name])) for name in names)

    def batches(self, names: Collection[str] | None) -> Iterator[Batch]:
        """See `Source.batches`."""
        widest = max((array[:1].nbytes for array in self._arrays.values()), default=1)
        rows = min(max(self._block // max(widest, 1), 1), ROWS)
        for start in range(0, self._rows, rows):
            parts = {name: array[start : start + rows] for name, array in self._arrays.items()}
            columns = {name: _values(part) for name, part in parts.items() if names is None or name in names}
            stop = min(start + rows, self._rows)
            yield Batch(columns, stop - start, stop / self._rows)


def _values(part: npt.NDArray[Any]) -> Column:
    """Return a copy of an array as a column; times are texts."""
    if part.dtype.kind == "M":
        return [None if text == "NaT" else text for text in np.datetime_as_string(part).tolist()]
    return np.array(part) if part.dtype.kind in "iuf" else part.tolist()


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
                columns, self.rows = self._table.columns()
            elif self._kind == "csv":
                cells = self._inferred()
                columns = {name: column.plain for name, column in cells.items()} if self.rows else {}
            return columns

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        with self._file_errors():
            yield from self._table.read_columns(names)

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

    @cached_property
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
    ".parquet": lambda source, names: source._table.batches(names),
    ".npz": lambda source, names: source._table.batches(names),
    ".jsonl": FileSource._jsonl,
    ".ndjson": FileSource._jsonl,
}
