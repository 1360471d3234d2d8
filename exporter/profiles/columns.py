"""Options of profiling."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exporter.errors import ProfileError
from exporter.features import INPUT_TYPES, infer_type
from exporter.features.base import FEW_VALUES, ColumnSample, InputType, as_list, confidence_column, numeric_column
from exporter.features.scalars import time_seconds, unix_seconds
from exporter.profiles.profile import CONFIDENCE, PREDICTION
from exporter.profiles.sources.base import Batch, Column, take
from exporter.stats.divergence import Floats, Ints
from exporter.validation import preview, suggestion

EXACT = 4_000_000
"""Distinct numbers that are held in memory, over all features; each feature holds at least 10,000."""


class Options(NamedTuple):
    """Options of a profile.

    Attributes
    ----------
    name
        The profile's name; that of the source when None.
    prediction_column, confidence_column
        Columns with the model's prediction for each row and its confidence. Live ones are compared with them. They are
        not features.
    confidence_percent
        Whether the confidence is in percent: 93, or a text such as ``93 %``, is 0.93.
    time_column
        Column with the time at which each row arrived. Ages of timestamps are relative to it, else to the present, and
        rows are in its order, else in that of the file.
    label_column
        Column with the correct label, of rows that the model was not fitted on; needs a prediction column. It is not a
        feature.
    shuffled
        Whether the rows are in random order, which says nothing of how successive values depend on each other.
    ignore
        Columns that are not features, such as identifiers.
    types
        Types of inputs where the inferred type is wrong; a prediction is numeric or categorical.
    expected
        Types of inputs that need not be in the data, for data from production, which may hold values of other types.
    bins, categories
        Number of bins of a number, and of categories with their own bin.
    exact
        See `EXACT`.
    """

    name: str | None = None
    prediction_column: str | None = None
    confidence_column: str | None = None
    confidence_percent: bool = False
    time_column: str | None = None
    label_column: str | None = None
    shuffled: bool = False
    ignore: Sequence[str] = ()
    types: Mapping[str, str] = {}
    expected: Mapping[str, str] = {}
    bins: int = 20
    categories: int = 50
    exact: int = EXACT

    def outputs(self) -> list[str]:
        """Return the columns that are no features."""
        columns = self.prediction_column, self.confidence_column, self.time_column, self.label_column
        return [*filter(None, columns)]

    def known_types(self) -> dict[str, str]:
        """Return the types of columns that are known before any data are read."""
        return {**self.types, **({self.confidence_column: "numeric"} if self.confidence_column else {})}

    def check(self, where: str, columns: Container[str]) -> None:
        """Raise ProfileError, with the name ``where`` of the data, where options and columns do not go together."""
        for name, column in ((PREDICTION, self.prediction_column), (CONFIDENCE, self.confidence_column)):
            if column and name in columns and name not in {*self.outputs(), *self.ignore}:
                detail = f"the column {preview(name)} has the name that profiles give the column {preview(column)}"
                raise ProfileError(f"{where}: {detail}; rename it, or set --ignore={preview(name)}")
        if self.label_column and not self.prediction_column:
            detail = f"set --prediction-column, since the label {preview(self.label_column)} is compared with it"
            raise ProfileError(f"{where}: {detail}")
        for kind in self.types.values():
            if kind not in INPUT_TYPES:
                hint = suggestion(kind, INPUT_TYPES)
                raise ProfileError(f"{where}: {preview(kind)} is not a valid input type; {hint}")


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
        if str in types and (left := _SAMPLE - len(sample.strings)):
            strings = (value for value in values if isinstance(value, str))
            sample.strings += [value[:1000] for value, _ in zip(strings, range(left), strict=False)]
        if list in types:
            sample.lengths |= {_flat_length(value) for value in values[:_SAMPLE] if isinstance(value, list)}

    def _add_numbers(self, numbers: Floats) -> None:
        if self._fractions or len(self._numbers) > FEW_VALUES:
            return
        finite = numbers[np.isfinite(numbers)]
        self._fractions = bool((finite != np.round(finite)).any())
        self._numbers = np.unique(np.concatenate((self._numbers, finite)))

    def merge(self, later: ColumnTypeInference) -> None:
        """Add what is known of the values that follow."""
        own, other = self._sample, later._sample
        own.types |= other.types
        own.lengths |= other.lengths
        own.strings += other.strings[: _SAMPLE - len(own.strings)]
        self._fractions = self._fractions or later._fractions
        self._numbers = np.union1d(self._numbers, later._numbers)

    def type(self) -> str:
        """Return the name of the input type that fits best."""
        return infer_type(self._sample)

    def output_type(self) -> str:
        """Return the type of a prediction: numeric, a regression, where numbers have fractions or are many."""
        regression = INPUT_TYPES[self.type()].is_number and (self._fractions or len(self._numbers) > FEW_VALUES)
        return "numeric" if regression else "categorical"


def _flat_length(value: list[Any]) -> int:
    """Return the length of a list of numbers, −1 for any other list."""
    return len(value) if value and all(type(item) in {int, float} for item in value) else -1


class FeatureColumns:
    """Convert the columns of a batch to those of features and outputs.

    Parameters
    ----------
    options
        How the rows are read.
    output_types
        Types of the prediction and of the confidence by their columns' names.

    Attributes
    ----------
    single_precision
        Numeric columns in which 32-bit numbers were seen.
    """

    def __init__(self, options: Options, output_types: Mapping[str, InputType]) -> None:
        self.options = options
        self._output_types = output_types
        self._now = time.time()
        self.single_precision: set[str] = set()

    def targets(self, batch: Batch, kinds: Mapping[str, InputType]) -> dict[str, Any]:
        """Return the values of a batch by feature, and those of the outputs."""
        found: dict[str, Any] = {}
        for name, kind in kinds.items():
            found |= zip(kind.features(name), self.features(batch, name, kind), strict=True)
        types, options = self._output_types, self.options
        outputs = {PREDICTION: options.prediction_column, CONFIDENCE: options.confidence_column}
        return found | {o: self.features(batch, n, types[n])[0] for o, n in outputs.items() if n}

    def target_rows(self, batch: Batch, kinds: Mapping[str, InputType], rows: Ints) -> dict[str, Any]:
        """Return what `targets` does, for some rows of a batch."""
        part = Batch({name: take(values, rows) for name, values in batch.columns.items()}, len(rows), batch.done)
        return self.targets(part, kinds)

    def column(self, batch: Batch, name: str | None) -> Column:
        """Return a column of a batch, None in each row where it is absent."""
        return batch.columns.get(name or "", (None,) * batch.rows)

    def confidences(self, batch: Batch) -> Floats | None:
        """Return the confidence of each row of a batch; None without such a column."""
        name = self.options.confidence_column
        return self.features(batch, name, self._output_types[name])[0] if name else None

    def times(self, batch: Batch) -> Floats:
        """Return the time of each row of a batch in Unix seconds; empty without a column of times."""
        column = self.options.time_column
        return time_seconds(self.column(batch, column)) if column else np.empty(0)

    def features(self, batch: Batch, name: str, kind: InputType) -> Sequence[Any]:
        """Return the columns of the features of an input, or the column of an output."""
        values = self.column(batch, name)
        if name == self.options.confidence_column:
            values = confidence_column(as_list(values), self.options.confidence_percent)
        if kind.is_number:
            self.note_precision(name, values)
        now: Any = self._now
        if self.options.time_column and kind.follows_time:
            times = as_list(self.column(batch, self.options.time_column))
            now = np.array([unix_seconds(value) for value in times])
        return kind.feature_values(values, now)

    def note_precision(self, name: str, values: Column) -> None:
        """Remember a column of 32-bit numbers."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize < 8:
            self.single_precision.add(name)
