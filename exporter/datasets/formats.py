"""The type of a format, and the columns of formats that have them."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from exporter.datasets.examples import Example, Pages, encode_lines
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
