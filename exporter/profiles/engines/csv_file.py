"""Columns of files in DuckDB: their names, and the types of those of CSV as `exporter.profiles.readers` has them."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis

from exporter.errors import ProfileError
from exporter.features.types import INPUT_TYPES
from exporter.profiles.engines.expressions import Expression
from exporter.profiles.readers.compression import is_gzip, without_gz
from exporter.profiles.readers.csv_cells import DECIMAL_COMMA, MISSING, MOMENT, NUMBER
from exporter.profiles.readers.parquet import check_unique_names
from exporter.validation import is_utf8, preview

_TYPES = {"number": "float64", "truth": "boolean", "moment": "timestamp"}
_PATTERNS = {
    "number": f"^({NUMBER.pattern}|[+-]?(?i:inf|infinity))$",
    "truth": "^(?i:true|false)$",
    "moment": MOMENT,
}

_ERRORS = {
    r"Expected Number of Columns: (\d+) Found: (\d+)": "expected {} fields, got {}",
    r"unterminated quote": "a field in quotes does not end, or goes on after its quote",
    r"Invalid unicode": "is not UTF-8",
    r"Maximum line size of (\d+) bytes exceeded": "is longer than {} bytes",
}


def column_names(path: Path, delimiter: str) -> list[str]:
    """Return the names of the columns of a CSV file, in which an empty one is ``column`` and its index, or of Parquet.

    Raises
    ------
    ProfileError
        When two columns have the same name, or names that differ in the case of letters only: DuckDB would rename one.
    """
    suffix = without_gz(path).suffix.lower()
    if suffix == ".parquet":
        from pyarrow.parquet import read_schema

        names = read_schema(path).names
    else:
        names = _header(path, delimiter) if suffix == ".csv" else []
    try:
        check_unique_names(names)
    except ValueError as error:
        raise ProfileError(f"{path}: is not {suffix[1:].upper()}: {error}") from None
    for name in names:
        if others := [other for other in names if other != name and other.lower() == name.lower()]:
            detail = f"DuckDB cannot tell the columns {preview(name)} and {preview(others[0])} apart: rename one"
            raise ProfileError(f"{path}: {detail}, or leave out --engine")
    return [name or f"column{index}" for index, name in enumerate(names)]


def _header(path: Path, delimiter: str) -> list[str]:
    with path.open("rb") as stream:
        opened = gzip.open if is_gzip(stream) else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = next(filter(None, csv.reader(file, delimiter=delimiter)), [])
    except (csv.Error, EOFError) as error:
        raise ProfileError(f"{path}: is not CSV: the header cannot be read: {error}") from None
    if not all(map(is_utf8, names)):
        raise ProfileError(f"{path}: is not CSV: the header is not UTF-8")
    return names


def csv_error(text: str) -> str | None:
    """Return what an error of DuckDB says of a CSV file, in one line; None for another error."""
    if "CSV Parser state machine" in text:
        return "is not CSV, or its lines end in different ways"
    place = re.search(r"CSV Error on Line: (\d+)\nOriginal Line: ?(.*)", text)
    for pattern, detail in _ERRORS.items():
        if place and (found := re.search(pattern, text)):
            return f"line {place[1]}, {preview(place[2], 40)}: {detail.format(*found.groups())}"
    return None


def with_types(rows: Expression, decimal: str, given: Mapping[str, str]) -> Expression:
    """Return rows whose columns have the first of number, boolean, timestamp and text that fits all their cells.

    Parameters
    ----------
    rows
        Texts, null where a cell is empty.
    decimal
        Decimal point of numbers, ``.`` or ``,``. With ``,`` both are read.
    given
        Input types of columns that were chosen. A column keeps its texts if one of them is not of that type.
    """
    read = {name: _readings(rows[name], decimal) for name in rows.columns}
    facts: dict[str, Any] = {}
    for index, cells in enumerate(read.values()):
        for kind, pattern in _PATTERNS.items():
            facts[f"{kind}{index}"] = cells[kind].re_search(pattern).all()
        facts[f"codes{index}"] = cells["number"].re_search(r"^\d+$").all() & cells["number"].re_search(r"^0\d").any()
    (found,) = rows.aggregate(**facts).to_pyarrow().to_pylist()
    typed = {}
    for index, (name, cells) in enumerate(read.items()):
        chosen = INPUT_TYPES[given[name]].cells if given.get(name) in INPUT_TYPES else None
        fitting = [kind for kind in _PATTERNS if found[f"{kind}{index}"] is not False and chosen in {None, kind}]
        if fitting and (chosen or not found[f"codes{index}"]):
            typed[name] = cells[fitting[0]].cast(_TYPES[fitting[0]])
    return rows.mutate(**typed) if typed else rows


def _readings(column: Expression, decimal: str) -> dict[str, Expression]:
    """Return the cells as each kind reads them: trimmed, null where they mean no value, and numbers with a point."""
    trimmed = column.strip()
    cells = ibis.ifelse(trimmed.lower().isin([*MISSING, ""]), ibis.null("string"), trimmed)
    number = cells.re_replace(DECIMAL_COMMA, r"\1.\2") if decimal == "," else cells
    return {"number": number, "truth": cells, "moment": cells}
