"""CSV: a row per example, a column per input; cells that a spreadsheet would run as formulas are defused."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from exporter.datasets.examples import Pages
from exporter.datasets.formats import FIELDS, OTHER, Columns, Format

_fields = operator.attrgetter(*FIELDS)
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


def _write(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    columns = Columns(pages, types)
    header = [*FIELDS, *(f"inputs.{name}" for name in columns.names), *([OTHER] if columns.more else [])]
    yield _rows([header])
    for page in pages():
        rows = []
        for example in page:
            inputs = example.inputs or {}
            rest = columns.rest(inputs)
            values = (*_fields(example), *map(inputs.get, columns.names), *([rest] if columns.more else []))
            rows.append([*map(csv_cell, values)])
        yield _rows(rows)


def _rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


FORMAT = Format("csv", "csv", "text/csv; charset=utf-8; header=present", _write)
