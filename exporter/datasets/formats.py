"""The formats of a dataset: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from exporter.datasets.examples import Example, Page, Pages, encode_lines
from exporter.errors import StoreError

MAX_COLUMNS = 1000
"""Inputs with a column of their own, at most: clients choose the names of inputs."""
OTHER = "other_inputs"
"""The column of all other inputs, as JSON text."""
FIELDS = tuple(name for name in Example.__struct_fields__ if name != "inputs")
"""The columns before those of the inputs."""


class Format(NamedTuple):
    """A format in which a dataset is written.

    Attributes
    ----------
    name
        The value of ``format=``.
    suffix
        The suffix of a file's name.
    write
        Takes the examples and the known types of the model's inputs; yields the file in pieces.
    """

    name: str
    suffix: str
    content_type: str
    write: Callable[[Pages, Mapping[str, str]], Iterator[bytes]]


class Columns:
    """The inputs that have a column: those of the profile, then others in the order of a first pass.

    Parameters
    ----------
    pages
        The examples.
    types
        Types of the profile's inputs.
    observe
        Called with the name and value of each input that has a column.
    """

    def __init__(
        self, pages: Pages, types: Mapping[str, str], observe: Callable[[str, Any], None] = lambda *_: None
    ) -> None:
        names = dict.fromkeys(list(types)[:MAX_COLUMNS])
        self.more = False
        inputs = (entry for page in pages() for example in page for entry in (example.inputs or {}).items())
        for name, value in inputs:
            if name in names or len(names) < MAX_COLUMNS:
                names[name] = None
                observe(name, value)
            else:
                self.more = True
        self.names = list(names)
        self._with_column = frozenset(names)

    def rest(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the inputs without a column; None if there are none.

        Raises
        ------
        StoreError
            When there are some, although the first pass found none.
        """
        if inputs.keys() <= self._with_column:
            return None
        if not self.more:
            raise StoreError("a correction was decided while the dataset was read: repeat the request")
        return {name: value for name, value in inputs.items() if name not in self._with_column}


_field_values = operator.attrgetter(*FIELDS)
_FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r\n]").match  # Excel reads the full-width ones, too


def csv_cell(value: Any) -> Any:
    """Return a value as it is written to a cell.

    Text that a spreadsheet would read as a formula gets an apostrophe before it, and so does text that starts with
    apostrophes and then looks like a formula. To restore it, remove one apostrophe from text that starts with one or
    more of them followed by ``=``, ``+``, ``-``, ``@`` or one of their full-width forms, a tab or a line end. Numbers
    stay numbers; nested values become JSON text.

    >>> [csv_cell(value) for value in ("=1+1", "'=1", "＝1", "-", -1, True, None, [1, 2], "it's")]
    ["'=1+1", "''=1", "'＝1", "'-", -1, 'true', None, '[1,2]', "it's"]
    """
    if isinstance(value, str):
        return f"'{value}" if _FORMULA(value) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


def _write_csv(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    columns = Columns(pages, types)
    header = [*FIELDS, *(f"inputs.{name}" for name in columns.names), *([OTHER] if columns.more else [])]
    yield _rows([header])
    for page in pages():
        rows = []
        for example in page:
            inputs = example.inputs or {}
            rest = columns.rest(inputs)
            values = (*_field_values(example), *map(inputs.get, columns.names), *([rest] if columns.more else []))
            rows.append([*map(csv_cell, values)])
        yield _rows(rows)


def _rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


CSV = Format("csv", "csv", "text/csv; charset=utf-8; header=present", _write_csv)


def _write_lines(pages: Pages, _: Mapping[str, str]) -> Iterator[bytes]:
    return (encode_lines(page) for page in pages())


JSON_LINES = Format("jsonl", "jsonl", "application/x-ndjson", _write_lines)


ROWS = 10_000
"""Rows in a row group, at most."""
GROUP_BYTES = 8 * 2**20
"""Bytes of columns after which a row group ends."""
_LABELS = ("label", "prediction", "user_label")  # of one type, so that they can be compared
_TIMES = ("reviewed", "predicted")
_INT64 = 2**63


class _Buffer(io.RawIOBase):
    """A file that is only written, and whose content is removed as it is sent."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._position += len(self._chunks[-1])
        return len(self._chunks[-1])

    def pop(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


class _Types:
    """Infers the type of each column from all of its values."""

    def __init__(self) -> None:
        self._observed: dict[str, set[str]] = {}

    def observe(self, name: str, value: Any) -> None:
        """Take a value of a column into account."""
        if value is not None:
            type_name = type(value).__name__
            is_too_large = type_name == "int" and not -_INT64 <= value < _INT64
            self._observed.setdefault(name, set()).add("large int" if is_too_large else type_name)

    def infer(self, name: str) -> str:
        """Return ``str``, ``bool``, ``int`` or ``float``; ``json`` for mixed and nested values."""
        types = self._observed.get(name, {"str"})
        if len(types) == 1 and types <= {"str", "bool", "int", "float"}:
            return next(iter(types))
        return "float" if types == {"int", "float"} else "json"


class _Column(NamedTuple):
    """A column: its type, and the function that returns its value of an example."""

    name: str
    type: str
    value: Callable[[Example], Any]

    def field(self) -> Any:
        """Return the column's field in the Arrow schema."""
        import pyarrow as pa  # only here: it is large

        arrow = {
            "str": pa.string(),
            "json": pa.string(),
            "bool": pa.bool_(),
            "int": pa.int64(),
            "float": pa.float64(),
            "time": pa.timestamp("us", "UTC"),
        }
        metadata = {"content": "application/json"} if self.type == "json" else None
        return pa.field(self.name, arrow[self.type], metadata=metadata)


def _columns(inputs: Columns, input_types: _Types, label_type: str) -> list[_Column]:
    """Return the columns of the file."""
    field_types = dict.fromkeys(FIELDS, "str") | {"confidence": "float", "revision": "int"}
    field_types |= dict.fromkeys(_LABELS, label_type) | dict.fromkeys(_TIMES, "time")
    columns = [_Column(name, type_, operator.attrgetter(name)) for name, type_ in field_types.items()]
    columns += [_Column(f"inputs.{name}", input_types.infer(name), _input_getter(name)) for name in inputs.names]
    if inputs.more:
        columns.append(_Column(OTHER, "json", lambda example: inputs.rest(example.inputs or {})))
    return columns


def _input_getter(name: str) -> Callable[[Example], Any]:
    return lambda example: (example.inputs or {}).get(name)


def _write_parquet(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    input_types, label_types = _Types(), _Types()

    def observed_pages() -> Iterator[Page]:
        for page in pages():
            for example in page:
                for name in _LABELS:
                    label_types.observe("", getattr(example, name))
            yield page

    inputs = Columns(observed_pages, types, input_types.observe)
    columns = _columns(inputs, input_types, label_types.infer(""))
    schema = pa.schema([column.field() for column in columns])

    def table(page: Page) -> Any:
        for example in page if not inputs.more else ():
            inputs.rest(example.inputs or {})  # fails if there are inputs that the first pass did not find
        arrays = [
            pa.array([_convert(column.value(example), column.type) for example in page], field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    buffer = _Buffer()
    with pq.ParquetWriter(buffer, schema) as writer:
        group: list[Any] = []
        for page in pages():
            group.append(table(page))  # at once: Python's values take many times as much memory
            if sum(part.num_rows for part in group) >= ROWS or sum(part.nbytes for part in group) >= GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
                yield buffer.pop()
        if group:
            writer.write_table(pa.concat_tables(group))
    yield buffer.pop()


def _convert(value: Any, type_: str) -> Any:
    if value is None:
        return None
    if type_ == "json":
        return msgspec.json.encode(value).decode()
    if type_ == "float":
        return float(value)
    return datetime.fromisoformat(value) if type_ == "time" else value


PARQUET = Format("parquet", "parquet", "application/vnd.apache.parquet", _write_parquet)
