"""Which type an input is of, from what stands in the training data."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.features.extract import numeric_column
from exporter.features.text import split_words
from exporter.features.timestamp import unix_seconds
from exporter.stats.divergence import Floats

Column = Any
"""``n`` values of one column: a list, or an array whose first axis has that length."""

_SAMPLE = 1000
"""Strings and lists of one column that are looked at closely."""
_LABELS = 50
"""Class labels are few whole numbers, and categories few strings."""


class ColumnTypeInference:
    """What was seen of one column, of which it may be known that it holds nothing but numbers."""

    def __init__(self, numbers: bool = False) -> None:
        self._types: set[type] = {float} if numbers else set()
        self._array = False
        self._strings: list[str] = []
        self._lengths: set[int] = set()
        self._fractions = False
        self._numbers: Floats = np.empty(0)

    def add(self, values: Column) -> None:
        """Look at some of the values."""
        if isinstance(values, np.ndarray) and values.ndim > 1:
            self._types.add(list)
            self._lengths.add(values.shape[1] if values.ndim == 2 else -1)
            return
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            self._types.add(float)
            self._add_numbers(values.astype(np.float64))
            return
        types = set(map(type, values)) - {type(None)}
        self._types |= types
        if types and types <= {int, float}:
            self._add_numbers(numeric_column(list(values)))
        if str in types and len(self._strings) < _SAMPLE:
            strings = (value for value in values if isinstance(value, str))
            self._strings += [value[:1000] for value, _ in zip(strings, range(_SAMPLE), strict=False)]
        if list in types:
            self._lengths |= {_flat_length(value) for value in values[:_SAMPLE] if isinstance(value, list)}

    def _add_numbers(self, numbers: Floats) -> None:
        if self._fractions or len(self._numbers) > _LABELS:
            return
        finite = numbers[np.isfinite(numbers)]
        self._fractions = bool((finite != np.round(finite)).any())
        self._numbers = np.unique(np.concatenate((self._numbers, finite)))

    def type(self) -> str:
        """The type of input that fits best."""
        if self._types <= {int, float}:
            return "numeric"
        if self._types == {bool}:
            return "boolean"
        if self._types <= {list, bytes}:
            vectors = self._types == {list} and len(self._lengths) == 1 and min(self._lengths) > 0
            return "embedding" if vectors else "image"
        if self._types <= {list, str} and self._strings and all(map(_is_image, self._strings)):
            return "image"
        if self._types == {str}:
            if np.isfinite([unix_seconds(value) for value in self._strings]).all():
                return "timestamp"
            return "text" if self._are_texts() else "categorical"
        return "categorical"

    def output_type(self) -> str:
        """The type of a prediction: numbers are a regression's where they have fractions, or are many."""
        regression = self.type() == "numeric" and (self._fractions or len(self._numbers) > _LABELS)
        return "numeric" if regression else "categorical"

    def _are_texts(self) -> bool:
        """Whether most strings are of many words, and more than a few of them differ."""
        strings = self._strings
        distinct = len(set(strings))
        if distinct <= _LABELS and 2 * distinct <= len(strings):
            return False
        if max(map(len, strings)) < 10:
            return False
        counts = np.bincount(split_words(strings).texts, minlength=len(strings))
        spaced = np.array([len(value.split()) for value in strings])
        # Scripts without spaces have a word for each character: there it takes more of them.
        return bool(np.mean((spaced >= 4) | (counts >= np.maximum(10, 4 * spaced))) > 0.5)


def _is_image(text: str) -> bool:
    return text.startswith("data:image/")


def _flat_length(value: list[Any]) -> int:
    """Length of a list of numbers, −1 of any other."""
    return len(value) if value and all(type(item) in {int, float} for item in value) else -1
