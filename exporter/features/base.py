"""The interface of an input type."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints

Missing = type(None)
_NUMBERS = frozenset({float, int, Missing})
_SCALARS = frozenset({str, bool, int, float})


def as_list(values: Sequence[Any] | npt.NDArray[Any]) -> Sequence[Any]:
    """Return a column as Python values."""
    result: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return result


def numeric_column(values: Sequence[Any]) -> Floats:
    """Return numbers as float64, shape ``(n,)``.

    >>> numeric_column([1, None, 2.5, "3", True, 10**400])
    array([1. , nan, 2.5, inf, inf, inf])
    """
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            pass
    return np.array([_number(value) for value in values], dtype=np.float64)


def confidence_column(values: Sequence[Any], percent: bool) -> Floats:
    """Return confidences, shape ``(n,)``; a text that holds a number is that number.

    Parameters
    ----------
    values
        The values, None where there is none.
    percent
        Whether they are in percent, with or without a percent sign.

    >>> confidence_column([93, "93%", "50,5", None, "high"], percent=True)
    array([0.93 , 0.93 , 0.505,   nan,   inf])
    """
    numbers = [_parsed(value, percent) if type(value) is str else value for value in values]
    return numeric_column(numbers) / (100 if percent else 1)


def _parsed(text: str, percent: bool) -> float | str:
    try:
        return float(text.strip().removesuffix("%").replace(",", ".") if percent else text)
    except ValueError:
        return text


def numeric_columns(columns: Sequence[Sequence[Any] | npt.NDArray[Any]]) -> Floats:
    """Return the numbers of columns of equal length as float64, shape ``(columns, n)``; see `numeric_column`."""
    kinds = {values.dtype.kind if isinstance(values, np.ndarray) and values.ndim == 1 else "" for values in columns}
    if kinds <= {"i", "u", "f"}:
        return np.array(columns, dtype=np.float64)
    if kinds == {""} and set(map(type, itertools.chain.from_iterable(columns))) <= _NUMBERS:
        try:
            return np.array(columns, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([numeric_column(as_list(values)) for values in columns])


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) is float or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.inf


def category_bins(values: Sequence[Any] | Floats, known: Mapping[str, int], rare: frozenset[str]) -> Ints:
    """Return the bin of each of ``n`` categories, shape ``(n,)``.

    A number or a boolean counts as the category with its JSON text, if the training data have it; otherwise it has the
    wrong type.

    Parameters
    ----------
    values
        The values, None where an event has none.
    known
        Index of each of the ``C`` categories that have their own bin; after them come other, missing and invalid.
    rare
        Further categories of the training data.

    Examples
    --------
    >>> category_bins(["NL", "FR", None, 7, []], {"NL": 0, "DE": 1}, frozenset()).tolist()
    [0, 2, 3, 4, 4]
    """
    if isinstance(values, np.ndarray):
        distinct, places = np.unique(values, return_inverse=True)
        return category_bins(distinct.tolist(), known, rare)[places]
    kinds = set(map(type, values)) - {Missing}
    # Equal values of one type are the same category; of several types, as 1 and True, they may not be.
    is_plain = len(kinds) == 1 and kinds <= {str, bool, int}
    cells: Sequence[Any] = values if is_plain else list(map(_cell, values))
    of_cell = {cell: _category_bin(_cell(cell) if is_plain else cell, known, rare) for cell in set(cells)}
    return np.fromiter(map(of_cell.__getitem__, cells), dtype=np.intp, count=len(cells))


def _category_bin(cell: tuple[type, str], known: Mapping[str, int], rare: frozenset[str]) -> int:
    (kind, value), size = cell, len(known)
    if kind is Missing:
        return size + 1
    index = known.get(value) if kind in _SCALARS else None
    if index is None:
        index = size if kind is str or (kind in _SCALARS and value in rare) else size + 2
    return index


def _cell(value: Any) -> tuple[type, str]:
    return (Missing, "") if is_missing(value) else (type(value), scalar_text(value))


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def scalar_text(value: Any) -> str:
    """Return the text of a string, the JSON text of another scalar, and an empty text for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else ""


CellKind = Literal["number", "truth", "moment", "text"]
"""What a cell of a CSV file is read as: a number, true or false, a time, or the text itself."""
Shown = Literal["picture", "text", "value"]
Compared = Literal["array", "text", "number", "category"]
FEW_VALUES = 50
"""Class labels are at most this many whole numbers, and categories at most this many strings."""


@dataclass
class ColumnSample:
    """A summary of a column of training data, from which its input type is inferred.

    Attributes
    ----------
    types
        Python types of the values; numbers of an array are ``float``, missing values are left out.
    strings
        The first strings, cut to 1,000 characters each.
    lengths
        Lengths of the first lists; -1 for a list that holds something else than numbers.
    """

    types: set[type] = field(default_factory=set)
    strings: list[str] = field(default_factory=list)
    lengths: set[int] = field(default_factory=set)


class InputType:
    """A type of input.

    Attributes
    ----------
    type
        Its name in profiles and in the configuration.
    noun
        What a message calls a value of this type.
    statistics
        Names of the scalar features of an input; a feature is called by the input's name, a dot and this name. Empty
        where the input itself is the feature.
    categorical
        Whether values are categories. Such a type has labels and no columns of numbers.
    cells
        How the cells of a CSV file are read; None where the column's content decides.
    is_number
        Whether a value is a number that is its own feature, so that columns of numbers need no conversion.
    is_vector
        Whether a value is a flat list of numbers.
    follows_time
        Whether features are measured from the time of arrival, and so grow with time in any traffic.
    shown_as
        How a value is shown to people.
    compared_as
        How alike two values are, see `exporter.features.similarity`; None where that is not compared.
    learner
        Learns the state of the type from the training data; None for types that learn nothing.
    """

    type: ClassVar[str]
    noun: ClassVar[str]
    statistics: tuple[str, ...] = ()
    categorical: ClassVar[bool] = False
    cells: ClassVar[CellKind | None] = None
    is_number: ClassVar[bool] = False
    is_vector: ClassVar[bool] = False
    follows_time: ClassVar[bool] = False
    shown_as: ClassVar[Shown] = "value"
    compared_as: ClassVar[Compared | None] = None
    learner: ClassVar[Any] = None

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """Return whether a column of training data is of this type, unless an earlier type recognizes it."""
        raise NotImplementedError

    @classmethod
    def accepts_state(cls, state: Any) -> bool:
        """Return whether the type can work with what it learned in training; most types learn nothing, None."""
        return state is None

    @classmethod
    def from_state(cls, state: Any) -> InputType:  # noqa: ARG003
        """Return the type with what it learned in training."""
        return cls()

    def features(self, name: str) -> list[str]:
        """Return the names of the scalar features of an input."""
        return [f"{name}.{statistic}" for statistic in self.statistics] or [name]

    def labels(self, values: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
        """Return the values as categories, for a type that is ``categorical``; a value that is no scalar is invalid."""
        return values

    def feature_values(self, values: Sequence[Any] | Floats, now: float | Floats) -> list[Any]:
        """Return the values of each scalar feature: its categories, or a column of numbers, see `columns`."""
        return [self.labels(as_list(values))] if self.categorical else list(self.columns(as_list(values), now))

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:
        """Return the columns of the scalar features. Bad values raise nothing.

        Parameters
        ----------
        values
            ``n`` decoded values, None where an event has none.
        now
            Unix time in seconds at which they arrived: one for all, or one each.

        Returns
        -------
        ndarray
            Shape ``(features, n)``; NaN is missing, an infinity is invalid.
        """
        raise NotImplementedError


def label_json(value: Any) -> str | None:
    """Encode a label or a prediction as the stored JSON text; None stays None."""
    return None if value is None else msgspec.json.encode(value).decode()


def label_spellings(stored: str) -> set[str]:
    """Return the stored labels that are the same label as a stored one: as in profiles, 7, 7.0 and "7" are.

    >>> sorted(label_spellings("7")), label_spellings('"yes"')
    (['"7"', '7', '7.0'], {'"yes"'})
    >>> sorted(label_spellings("-0.0"))
    ['"0"', '-0.0', '0', '0.0']
    """
    try:
        text = scalar_text(msgspec.json.decode(stored))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # an older version, or another program, wrote it
        return {stored}
    spellings = {stored, msgspec.json.encode(text).decode()}
    with contextlib.suppress(msgspec.MsgspecError, ValueError, OverflowError):
        value = msgspec.json.decode(text, type=int | float | bool)
        numbers = (value, float(value), -float(value)) if type(value) is int else (value,)  # the last one for -0.0
        spellings |= {msgspec.json.encode(same).decode() for same in numbers if scalar_text(same) == text}
    return spellings


def decode_label(text: str | None) -> Any:
    """Decode a stored label or prediction; None if it cannot be read."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
