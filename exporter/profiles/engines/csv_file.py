"""Types of the columns of a CSV file in DuckDB, by the rules of `exporter.profiles.readers.csv_cells`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from exporter.features.types import INPUT_TYPES
from exporter.profiles.engines.expressions import Expression
from exporter.profiles.readers.csv_cells import MISSING, MOMENT, NUMBER

_TYPES = {"number": "float64", "truth": "boolean", "moment": "timestamp"}
_PATTERNS = {
    "number": f"^({NUMBER.pattern}|[+-]?(?i:inf|infinity))$",
    "truth": "^(?i:true|false)$",
    "moment": MOMENT,
}


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
    values = {name: _value(rows[name]) for name in rows.columns}
    numbers = {name: _with_points(value) if decimal == "," else value for name, value in values.items()}
    facts: dict[str, Any] = {}
    for index, name in enumerate(rows.columns):
        for kind, pattern in _PATTERNS.items():
            cells = numbers[name] if kind == "number" else values[name]
            facts[f"{kind}{index}"] = cells.re_search(pattern).all()
        facts[f"digits{index}"] = values[name].re_search(r"^\d+$").all() & values[name].re_search(r"^0\d").any()
    (fits,) = rows.aggregate(**facts).to_pyarrow().to_pylist()
    typed = {}
    for index, name in enumerate(rows.columns):
        chosen = INPUT_TYPES[given[name]].cells if given.get(name) in INPUT_TYPES else None
        kinds = [kind for kind in _PATTERNS if fits[f"{kind}{index}"] is not False and chosen in {None, kind}]
        if kinds and not (fits[f"digits{index}"] and chosen is None):
            cells = numbers[name] if kinds[0] == "number" else values[name]
            typed[name] = cells.cast(_TYPES[kinds[0]])
    return rows.mutate(**typed) if typed else rows


def _value(column: Expression) -> Expression:
    """Return trimmed cells, null where they mean no value."""
    trimmed = column.strip()
    return ibis.ifelse(trimmed.lower().isin([*MISSING, ""]), ibis.null("string"), trimmed)


def _with_points(column: Expression) -> Expression:
    return column.re_replace(r"^([+-]?\d*),(\d+([eE][+-]?\d+)?)$", r"\1.\2")
