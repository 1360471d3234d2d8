"""Types of the columns of a CSV file in DuckDB, by the rules of `exporter.profiles.readers.csv_cells`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from exporter.features.types import INPUT_TYPES
from exporter.profiles.engines.expressions import Expression
from exporter.profiles.readers.csv_cells import DECIMAL_COMMA, MISSING, MOMENT, NUMBER

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
