"""Labels as numbers in SQL: the error of a regression, and whether a label is within its tolerance."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from exporter.stats.tolerance import ROUNDING, Tolerance


class JsonNumber(FunctionElement[float]):
    """The number in a column of JSON texts; NULL where a text is no number, or one that a double cannot hold."""

    type = sa.Double()
    inherit_cache = True


@compiles(JsonNumber)
def _compile(element: JsonNumber, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    return f"(CASE WHEN {text} GLOB '[-0-9]*' THEN CAST({text} AS REAL) END)"


@compiles(JsonNumber, "postgresql")
def _compile_for_postgresql(element: JsonNumber, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    # The cast fails on anything else, and on numbers beyond the range of a double.
    number = r"^-?[0-9]{1,20}([.][0-9]{1,40})?([eE][-+]?[0-9]{1,2})?$"
    return f"(CASE WHEN {text} ~ '{number}' THEN CAST({text} AS DOUBLE PRECISION) END)"


def label_error(prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    """Return the error of a prediction in SQL: label − prediction, NULL unless both are numbers."""
    return JsonNumber(label) - JsonNumber(prediction)


def is_within_tolerance(
    prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any], tolerance: Tolerance
) -> sa.ColumnElement[bool]:
    """Return in SQL whether a label is within the tolerance of a prediction; false unless both are numbers."""
    size = sa.func.abs(JsonNumber(prediction))
    limit = tolerance.amount + tolerance.share * size  # one of the two is 0
    is_near = sa.func.abs(label_error(prediction, label)) <= limit + ROUNDING * size
    return sa.func.coalesce(is_near, sa.false())
