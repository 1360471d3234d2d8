"""Columns of scalar features, the prediction and the confidence from batches of training rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.base import InputType
from exporter.features.categorical import Categorical
from exporter.features.extract import as_list, confidence_column
from exporter.features.timestamp import unix_seconds
from exporter.profiles.options import Options
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
from exporter.profiles.readers.base import Batch, take
from exporter.profiles.row_order import time_seconds
from exporter.profiles.type_inference import Column
from exporter.stats.divergence import Floats, Ints


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
        self._options = options
        self._output_types = output_types
        self._now = time.time()
        self.single_precision: set[str] = set()

    def targets(self, batch: Batch, kinds: Mapping[str, InputType]) -> dict[str, Any]:
        """Return the values of a batch by feature, and those of the outputs."""
        found: dict[str, Any] = {}
        for name, kind in kinds.items():
            found |= zip(kind.features(name), self.features(batch, name, kind), strict=True)
        types, options = self._output_types, self._options
        outputs = {PREDICTION: options.prediction_column, CONFIDENCE: options.confidence_column}
        return found | {o: self.features(batch, n, types[n])[0] for o, n in outputs.items() if n}

    def target_rows(self, batch: Batch, kinds: Mapping[str, InputType], rows: Ints) -> dict[str, Any]:
        """Return what `targets` does, for some rows of a batch."""
        part = Batch({name: take(values, rows) for name, values in batch.columns.items()}, len(rows), batch.done)
        return self.targets(part, kinds)

    def column(self, batch: Batch, name: str | None) -> Column:
        """Return a column of a batch, None in each row where it is absent."""
        return batch.columns.get(name or "", (None,) * batch.rows)

    def times(self, batch: Batch) -> Floats:
        """Return the time of each row of a batch in Unix seconds; empty without a column of times."""
        column = self._options.time_column
        return time_seconds(self.column(batch, column)) if column else np.empty(0)

    def features(self, batch: Batch, name: str, kind: InputType) -> Sequence[Any]:
        """Return the columns of the features of an input, or the column of an output."""
        values = self.column(batch, name)
        if name == self._options.confidence_column:
            values = confidence_column(as_list(values), self._options.confidence_percent)
        if kind.type != "numeric":
            values = as_list(values)
        else:
            self.note_precision(name, values)
        if isinstance(kind, Categorical):
            return [kind.labels(values)]
        now: Any = self._now
        if self._options.time_column and kind.type == "timestamp":
            times = as_list(self.column(batch, self._options.time_column))
            now = np.array([unix_seconds(value) for value in times])
        return list(kind.columns(values, now))

    def note_precision(self, name: str, values: Column) -> None:
        """Remember a column of 32-bit numbers."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize < 8:
            self.single_precision.add(name)
