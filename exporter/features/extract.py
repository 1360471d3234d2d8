"""From what a client sends to columns of scalar features.

A column of numbers is a float64 array in which NaN means missing and an infinity means invalid
(a value of the wrong type, or one that no number can hold): bad data is counted, never refused.
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
    """A column as Python values, whatever it came as."""
    listed: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return listed


def numeric_column(values: Sequence[Any]) -> Floats:
    """Numbers as float64, shape ``(n,)``.

    >>> numeric_column([1, None, 2.5, "3", True, 10**400])
    array([1. , nan, 2.5, inf, inf, inf])
    """
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            pass
    return np.array([_number(value) for value in values], dtype=np.float64)


def numeric_columns(columns: Sequence[Sequence[Any] | npt.NDArray[Any]]) -> Floats:
    """Numbers of several columns of one length as float64, shape ``(columns, n)``; see `numeric_column`."""
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
    """Bin counts of a column of categories.

    A number or a truth value counts as the category that is spelt like it in JSON, if training
    saw that category; otherwise it is a value of the wrong type.

    Parameters
    ----------
    values
        What came, None where nothing did.
    known
        Place of each category that has a bin of its own, ``C`` of them.
    rare
        Further categories that training saw.

    Returns
    -------
    tuple
        Counts of shape ``(C + 3,)``: the categories, other, missing, invalid; and how many
        values were of a category that training never saw.
    """
    size = len(known)
    counts = np.zeros(size + 3)
    unseen = 0.0
    for (kind, value), times in _tally(values).items():
        place = known.get(value) if kind in _SCALARS else None
        if kind is Missing:
            place = size + 1
        elif place is None and (kind is str or (kind in _SCALARS and value in rare)):
            place = size
            unseen += 0.0 if value in rare else times
        elif place is None:
            place = size + 2
        counts[place] += times
    return counts, unseen


def _tally(values: Sequence[Any] | Floats) -> Counter[tuple[type, str]]:
    if isinstance(values, np.ndarray):
        found, times = np.unique(values, return_counts=True)  # one NaN for all
        return Counter(
            {(float, scalar_text(value)) if value == value else (Missing, ""): n  # noqa: PLR0124 (NaN is missing)
             for value, n in zip(found.tolist(), times.tolist(), strict=True)}
        )  # fmt: skip
    if set(map(type, values)) == {str}:
        return Counter({(str, value): times for value, times in Counter(values).items()})
    return Counter((type(value), value if isinstance(value, str) else scalar_text(value)) for value in values)


def scalar_text(value: Any) -> str:
    """A scalar as JSON spells it, the text of a string, and nothing for what is no scalar."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else ""
