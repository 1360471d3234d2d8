"""Infer the type of an input from the values in the training data."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.features.base import FEW_VALUES, ColumnSample
from exporter.features.extract import numeric_column
from exporter.features.types import infer_type
from exporter.stats.divergence import Floats

Column = Any
"""``n`` values of one column: a list, or an array whose first axis has that length."""

_SAMPLE = 1000
"""Number of strings of a column, and of lists of a batch, that are inspected."""


class ColumnTypeInference:
    """Collect what decides the type of a column.

    Parameters
    ----------
    numbers
        Whether the column is known to hold only numbers.
    """

    def __init__(self, numbers: bool = False) -> None:
        self._sample = ColumnSample(types={float} if numbers else set())
        self._fractions = False
        self._numbers: Floats = np.empty(0)

    def add(self, values: Column) -> None:
        """Inspect some of the values."""
        sample = self._sample
        if isinstance(values, np.ndarray) and values.ndim > 1:
            sample.types.add(list)
            sample.lengths.add(values.shape[1] if values.ndim == 2 else -1)
            return
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            sample.types.add(float)
            self._add_numbers(values.astype(np.float64))
            return
        types = set(map(type, values)) - {type(None)}
        sample.types |= types
        if types and types <= {int, float}:
            self._add_numbers(numeric_column(list(values)))
        if str in types and len(sample.strings) < _SAMPLE:
            strings = (value for value in values if isinstance(value, str))
            sample.strings += [value[:1000] for value, _ in zip(strings, range(_SAMPLE), strict=False)]
        if list in types:
            sample.lengths |= {_flat_length(value) for value in values[:_SAMPLE] if isinstance(value, list)}

    def _add_numbers(self, numbers: Floats) -> None:
        if self._fractions or len(self._numbers) > FEW_VALUES:
            return
        finite = numbers[np.isfinite(numbers)]
        self._fractions = bool((finite != np.round(finite)).any())
        self._numbers = np.unique(np.concatenate((self._numbers, finite)))

    def type(self) -> str:
        """Return the name of the input type that fits best."""
        return infer_type(self._sample)

    def output_type(self) -> str:
        """Return the type of a prediction: numeric, a regression, where numbers have fractions or are many."""
        regression = self.type() == "numeric" and (self._fractions or len(self._numbers) > FEW_VALUES)
        return "numeric" if regression else "categorical"


def _flat_length(value: list[Any]) -> int:
    """Return the length of a list of numbers, −1 for any other list."""
    return len(value) if value and all(type(item) in {int, float} for item in value) else -1
