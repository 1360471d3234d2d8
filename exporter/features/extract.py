"""Convert the values that clients send to columns of scalar features.

A column of numbers is a float64 array in which NaN is missing and an infinity is invalid: a value of the wrong type, or
one that a float cannot hold. Bad data are counted, never refused.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

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

    >>> confidence_column([93, "93 %", "50,5", None, "high"], percent=True)
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


def category_counts(
    values: Sequence[Any] | Floats, known: Mapping[str, int], rare: frozenset[str]
) -> tuple[Floats, float]:
    """Count a column of categories in bins.

    A number or a boolean counts as the category with its JSON text, if the training data have it; otherwise it has the
    wrong type.

    Parameters
    ----------
    values
        The values, None where an event has none.
    known
        Index of each of the ``C`` categories that have their own bin.
    rare
        Further categories of the training data.

    Returns
    -------
    tuple
        Counts of shape ``(C + 3,)``: the categories, other, missing, invalid; and the number of values whose category
        is not in the training data.
    """
    size = len(known)
    counts = np.zeros(size + 3)
    unseen = 0.0
    for (kind, value), times in _count_values(values).items():
        index = _category_bin(kind, value, known, rare)
        unseen += times if index == size and value not in rare else 0.0
        counts[index] += times
    return counts, unseen


def _category_bin(kind: type, value: str, known: Mapping[str, int], rare: frozenset[str]) -> int:
    """Return the bin of a category, by its type and text; see `category_counts`."""
    size = len(known)
    if kind is Missing:
        return size + 1
    index = known.get(value) if kind in _SCALARS else None
    if index is None:
        index = size if kind is str or (kind in _SCALARS and value in rare) else size + 2
    return index


def category_bins(values: Sequence[Any] | Floats, known: Mapping[str, int], rare: frozenset[str]) -> Ints:
    """Return the bin of each of ``n`` categories, shape ``(n,)``; see `category_counts`.

    >>> category_bins(["NL", "FR", None, 7, []], {"NL": 0, "DE": 1}, frozenset()).tolist()
    [0, 2, 3, 4, 4]
    """
    values = as_list(values)
    if len(types := set(map(type, values)) - {type(None)}) == 1 and types <= {
        str,
        bool,
        int,
    }:  # equal ones are the same
        of_value = {value: _category_bin(*_cell(value), known, rare) for value in set(values)}
        return np.fromiter(map(of_value.__getitem__, values), dtype=np.intp, count=len(values))
    cells = list(map(_cell, values))
    bins = {cell: _category_bin(*cell, known, rare) for cell in set(cells)}
    return np.array([bins[cell] for cell in cells], dtype=np.intp)


def _cell(value: Any) -> tuple[type, str]:
    return (Missing, "") if is_missing(value) else (type(value), scalar_text(value))


def _count_values(values: Sequence[Any] | Floats) -> Counter[tuple[type, str]]:
    """Return how often each value occurs, by its type and text."""
    if isinstance(values, np.ndarray):
        distinct, times = np.unique(values, return_counts=True)  # counts all NaN as one
        return Counter(
            {(float, scalar_text(value)) if value == value else (Missing, ""): n  # noqa: PLR0124 (NaN is missing)
             for value, n in zip(distinct.tolist(), times.tolist(), strict=True)}
        )  # fmt: skip
    if set(map(type, values)) == {str}:
        return Counter({(str, value): times for value, times in Counter(values).items()})
    return Counter((type(value), value if isinstance(value, str) else scalar_text(value)) for value in values)


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
