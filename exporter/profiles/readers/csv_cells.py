"""What the columns of a CSV file hold: cells are texts, and only all of a column tell whether they are more."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np

from exporter.features.base import CellKind
from exporter.features.types import INPUT_TYPES

MISSING = ("na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>")
"""Words, in any letter case, that stand for no value among numbers, truth values and moments; else they are texts."""
CODES = "digits that begin with 0 are no numbers, unless --type says so"
"""What is said of a column of such cells."""
WORDS = "NA and the like are texts here, only an empty field is missing"
"""What is said of a column of texts in which such words stand."""
_KINDS: tuple[CellKind, ...] = get_args(CellKind)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOMENT = r"^\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?)?$"
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class CsvColumn:
    """One column: the narrowest of number, truth value, moment and text that all its cells can be.

    Parameters
    ----------
    given
        The type of input that somebody chose: cells that are of another stay texts, and so count as invalid.
    """

    def __init__(self, given: str | None = None) -> None:
        self._given = INPUT_TYPES[given].cells if given in INPUT_TYPES else None
        self._kind: CellKind = self._given or "number"
        self._digits = not self._given
        self._padded = self._words = False
        self._plain = not given

    def add(self, column: Any) -> None:
        """Look at some of the cells, an Arrow array of strings, null where they are empty."""
        from pyarrow import ArrowInvalid

        if self._given:
            return
        trimmed = column
        if self._kind != "number" or not _are_numbers(column):
            self._plain = False
            trimmed, words = _trimmed(column)
            self._words = self._words or words
            for kind in _KINDS[_KINDS.index(self._kind) :]:
                try:
                    _cast(column, trimmed, kind)
                except ArrowInvalid:
                    continue
                self._kind = kind
                break
        if self._digits:
            self._digits = not _some(trimmed, r"\D")
            self._padded = self._padded or _some(trimmed, r"^0\d")

    @property
    def plain(self) -> bool:
        """Whether all cells that were looked at are numbers as they stand."""
        return self._plain and not (self._digits and self._padded)

    @property
    def remark(self) -> str:
        """What its reader might not expect; nothing for most columns."""
        if self._digits and self._padded:
            return CODES
        return WORDS if self._words and self._kind == "text" and not self._given else ""

    def read(self, column: Any) -> Any:
        """Some of the cells as an Arrow array, or as a list where not all are of the kind that was chosen."""
        import pyarrow as pa
        from pyarrow import ArrowInvalid

        kind = "text" if self._digits and self._padded else self._kind
        if kind == "text" or self.plain:
            return column
        if kind == "number":
            try:
                return column.cast(pa.float64())  # most columns need no more
            except ArrowInvalid:
                pass
        trimmed, _ = _trimmed(column)
        try:
            return _cast(column, trimmed, kind)
        except ArrowInvalid:
            return [_single(cell, kind) for cell in trimmed.to_pylist()]


def _trimmed(column: Any) -> tuple[Any, bool]:
    """Cells without spaces around them, null where nothing or a word for a missing value stands; any such word?"""
    import pyarrow as pa
    from pyarrow import compute

    # By hand: turning Python's values into Arrow's imports pandas, a second of work.
    ends = np.cumsum([0, *map(len, MISSING)], dtype=np.int32)
    missing = pa.StringArray.from_buffers(len(MISSING), pa.py_buffer(ends), pa.py_buffer("".join(MISSING).encode()))
    trimmed = compute.utf8_trim_whitespace(column)
    words = compute.is_in(compute.utf8_lower(trimmed), value_set=missing)
    blank = compute.or_(words, compute.invert(compute.binary_length(trimmed).cast(pa.bool_())))
    return compute.if_else(blank, pa.nulls(1, pa.string())[0], trimmed), bool(compute.any(words).as_py())


def _are_numbers(column: Any) -> bool:
    """Whether all cells that are not empty are numbers as they stand, and none the word for no number."""
    import pyarrow as pa
    from pyarrow import compute

    try:
        return not compute.any(compute.is_nan(column.cast(pa.float64()))).as_py()
    except pa.ArrowInvalid:
        return False


def _cast(column: Any, trimmed: Any, kind: str) -> Any:
    """Cells as a kind; raises ArrowInvalid when one of them is none."""
    import pyarrow as pa

    if kind == "text":
        return column
    if kind == "moment":
        if _some(trimmed, _MOMENT, other=True):
            raise pa.ArrowInvalid("a cell is no moment")
        return trimmed
    return trimmed.cast(pa.float64() if kind == "number" else pa.bool_())


def _some(column: Any, pattern: str, other: bool = False) -> bool:
    """Whether a cell matches, or if ``other`` whether one does not."""
    from pyarrow import compute

    found = compute.match_substring_regex(column, pattern)
    return bool(compute.any(compute.invert(found) if other else found).as_py())


def _single(cell: str | None, kind: str) -> Any:
    if cell is None:
        return None
    if kind == "truth":
        return _TRUTHS.get(cell.lower(), cell)
    return float(cell) if _NUMBER.fullmatch(cell) else cell  # a moment may be in Unix seconds
