"""Find predictions by their identifiers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from exporter.storage.packed_inputs import unpack
from exporter.storage.schema import predictions
from exporter.storage.statements import CompiledStatement, Values

COPIED = ("model", "version", "time", "prediction", "confidence", "confident", "inputs", "packed", "segment")
"""What is read of a prediction for its feedback; its inputs are returned as text."""

_first, _last = sa.func.min(predictions.c.day), sa.func.max(predictions.c.day)
# Each in a subquery of its own: both in one query would read the whole index.
_day_range = CompiledStatement(sa.select(sa.select(_first).scalar_subquery(), sa.select(_last).scalar_subquery()))


def stored_days(connection: sa.Connection) -> Sequence[int]:
    """Return the days from which there may be predictions, the last one first."""
    first, last = _day_range.execute(connection, {}).fetchone()
    return () if first is None else range(last, first - 1, -1)


def find_predictions(
    connection: sa.Connection, wanted: Sequence[tuple[str, str | None]], days: Sequence[int]
) -> Sequence[Values | None]:
    """Return `COPIED` of the first prediction of each identifier.

    Parameters
    ----------
    connection
        To read with.
    wanted
        Identifiers, each with its model; None for any model.
    days
        See `stored_days`: the index is ordered by day.
    """
    if not days:
        return [None] * len(wanted)
    count = 1 << (len(days) - 1).bit_length()  # a power of two, so that there are few different statements
    parameters = dict(zip(_day_names(count), itertools.chain(days, itertools.repeat(days[-1]))))  # noqa: B905 (endless)
    values = [parameters | {"id": id_, "given_model": model} for id_, model in wanted]
    found = _first_prediction(count).first_rows(connection, values)
    return [row and {**row, "inputs": unpack(connection, row)} for row in found]


def is_given_model(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return whether a column is the parameter ``given_model``, or that is NULL."""
    model = sa.bindparam("given_model", type_=sa.Text)
    return model.is_(None) | (column == model)


@functools.cache
def _day_names(days: int) -> list[str]:
    return [f"day{number}" for number in range(days)]


@functools.cache
def _first_prediction(days: int) -> CompiledStatement:
    is_stored_day = predictions.c.day.in_([sa.bindparam(name, type_=sa.Integer) for name in _day_names(days)])
    is_wanted = (predictions.c.id == sa.bindparam("id")) & is_given_model(predictions.c.model)
    query = sa.select(*(predictions.c[name] for name in COPIED)).where(is_stored_day, is_wanted)
    # Ordered by day, too: by seq alone, PostgreSQL might read the whole table in that order.
    return CompiledStatement(query.order_by(predictions.c.day, predictions.c.seq).limit(1))
