"""Infer the types of the columns of a CSV file from all their cells."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, get_args

import numpy as np

from exporter.features import INPUT_TYPES
from exporter.features.base import CellKind

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
