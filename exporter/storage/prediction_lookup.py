"""Predictions found by their identifier."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from exporter.storage.schema import predictions
from exporter.storage.statements import Prepared, Values

SNAPSHOT = ("model", "version", "time", "prediction", "confidence", "confident", "inputs", "segment")
"""What feedback keeps of its prediction."""

_least, _greatest = sa.func.min(predictions.c.day), sa.func.max(predictions.c.day)
# Each in a query of its own: the least and the greatest of one would read the whole index.
_days = Prepared(sa.select(sa.select(_least).scalar_subquery(), sa.select(_greatest).scalar_subquery()))


def days_of(connection: sa.Connection) -> Sequence[int]:
    """The days that predictions may be of, the last one first."""
    first, last = _days(connection, {}).fetchone()
    return () if first is None else range(last, first - 1, -1)


def find_predictions(
    connection: sa.Connection, wanted: Sequence[tuple[str, str | None]], days: Sequence[int]
) -> Sequence[Values | None]:
    """`SNAPSHOT` of the first prediction of each identifier, looked up day by day.

    Parameters
    ----------
    connection
        To read with.
    wanted
        Identifiers, each with its model; None for any.
    days
        See `days_of`.
    """
    if not days:
        return [None] * len(wanted)
    places = 1 << (len(days) - 1).bit_length()  # few different statements, however many days there are
    among = dict(zip(_names(places), itertools.chain(days, itertools.repeat(days[-1]))))  # noqa: B905 (without end)
    return _first(places).first(connection, [among | {"name": name, "of": model} for name, model in wanted])


def of_model(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether it is the model ``of``, where that is given."""
    given = sa.bindparam("of", type_=sa.Text)
    return given.is_(None) | (column == given)


@functools.cache
def _names(days: int) -> list[str]:
    return [f"day{number}" for number in range(days)]


@functools.cache
def _first(days: int) -> Prepared:
    among = predictions.c.day.in_([sa.bindparam(name, type_=sa.Integer) for name in _names(days)])
    mine = sa.select(*(predictions.c[name] for name in SNAPSHOT)).where(
        among, predictions.c.id == sa.bindparam("name"), of_model(predictions.c.model)
    )
    # Not by seq alone: PostgreSQL could take that for a reason to read the whole table in its order.
    return Prepared(mine.order_by(predictions.c.day, predictions.c.seq).limit(1))
