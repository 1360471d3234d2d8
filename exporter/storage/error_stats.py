"""The errors of a regression (label minus prediction) among corrections: their size, and how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.corrections import Filter, conditions, label_column, of_any_label
from exporter.storage.label_numbers import label_error
from exporter.storage.schema import feedback

TAIL = 0.02
"""Share of the errors at each end that may be far from all others."""

_LARGEST = 1e300


class ErrorSummary(NamedTuple):
    """The errors of the corrections that a filter selects, regardless of its prediction, label and error.

    Attributes
    ----------
    corrections
        Those whose prediction and label are numbers.
    mean, mean_absolute
        Of the errors, and of their sizes.
    lowest, highest
        The errors at both ends.
    usual
        Errors between which all but a few lie, `TAIL` at each end.
    """

    corrections: int
    mean: float
    mean_absolute: float
    lowest: float
    highest: float
    usual: tuple[float, float]


def error_summary(connection: sa.Connection, chosen: Filter) -> ErrorSummary | None:
    """Compute the summary of the errors; None without any."""
    errors = _errors(chosen)
    error = errors.c.error
    totals = (sa.func.avg(error), sa.func.avg(sa.func.abs(error)), sa.func.min(error), sa.func.max(error))
    count, *values = connection.execute(sa.select(sa.func.count(error), *totals)).one()
    if not count:
        return None
    skipped = int(TAIL * count)
    ordered = sa.select(error).limit(1).offset(skipped)
    low, high = (connection.execute(ordered.order_by(order)).scalar_one() for order in (error, error.desc()))
    mean, mean_absolute, lowest, highest = map(float, values)
    return ErrorSummary(count, mean, mean_absolute, lowest, highest, (low, high))


def error_histogram(connection: sa.Connection, chosen: Filter, edges: Sequence[float]) -> list[int]:
    """Count the errors below the first edge, from each edge to the next one, and from the last edge on."""
    errors = _errors(chosen)
    index = sa.case(*((errors.c.error < edge, number) for number, edge in enumerate(edges)), else_=len(edges)).label(
        "number"
    )
    counts = [0] * (len(edges) + 1)
    for number, count in connection.execute(sa.select(index, sa.func.count()).group_by(index)):
        counts[number] = count
    return counts


def _errors(chosen: Filter) -> sa.Subquery:
    error: sa.ColumnElement[Any] = label_error(feedback.c.prediction, label_column).label("error")
    errors = sa.select(error).where(*conditions(of_any_label(chosen))).subquery()
    return sa.select(errors.c.error).where(errors.c.error.between(-_LARGEST, _LARGEST)).subquery()
