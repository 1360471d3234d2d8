"""Options of profiling."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from exporter.errors import ProfileError
from exporter.features.types import INPUT_TYPES
from exporter.profiles.quality_record import CONFIDENCE, PREDICTION
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
