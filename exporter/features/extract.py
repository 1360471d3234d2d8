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

from exporter.stats.divergence import Floats

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
        index = known.get(value) if kind in _SCALARS else None
        if kind is Missing:
            index = size + 1
        elif index is None and (kind is str or (kind in _SCALARS and value in rare)):
            index = size
            unseen += 0.0 if value in rare else times
        elif index is None:
            index = size + 2
        counts[index] += times
    return counts, unseen


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


def scalar_text(value: Any) -> str:
    """Return the text of a string, the JSON text of another scalar, and an empty text for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else ""
