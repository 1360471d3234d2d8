"""The first rows of a table, and the columns that the engine or its driver cannot read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from exporter.errors import ProfileError
from exporter.profiles.engines.columns import has_values, is_time, plain, seconds
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression
from exporter.profiles.options import Options

ROWS = 1000
"""Rows that are read to tell times and long texts from categories, and to find what would alarm for ever."""


class FirstRows(NamedTuple):
    """The first rows of a table.

    Attributes
    ----------
    columns
        The values by column, None for null. Times are RFC 3339 texts, as they are in files.
    unreadable
        What the engine says of a column that it cannot convert to numbers or times, by column.
    """

    columns: dict[str, list[Any]]
    unreadable: dict[str, str]


def read_first_rows(table: EngineTable, options: Options) -> FirstRows:
    """Return the first rows of the columns that are not ignored and whose type an input may have.

    Raises
    ------
    ProfileError
        When the table cannot be read.
    """
    schema = table.rows.schema()
    names = [
        n for n, kind in schema.items() if has_values(kind) and (n in options.outputs() or n not in options.ignore)
    ]
    columns = {name: _readable(table, name).name(name) for name in names}
    unreadable: dict[str, str] = {}
    try:
        rows = _read(table, columns)
    except ProfileError as error:
        queries = {name: table.rows.select(column).limit(ROWS) for name, column in columns.items()}
        unreadable = table.failures(queries, error)
        rows = _read(table, {name: column for name, column in columns.items() if name not in unreadable})
    return FirstRows({n: [*map(_text, v)] if is_time(schema[n]) else v for n, v in rows.items()}, unreadable)


def _readable(table: EngineTable, name: str) -> Expression:
    """Return a column that every driver can read: times in seconds, and decimals as floats, of any number of digits."""
    column = table.rows[name]
    return seconds(table, name) if is_time(column.type()) else plain(column, False).values


def _read(table: EngineTable, columns: dict[str, Expression]) -> dict[str, list[Any]]:
    return table.lists(table.rows.select(*columns.values()).limit(ROWS)) if columns else {}


def _text(time: float | None) -> str | None:
    try:
        return None if time is None else datetime.fromtimestamp(time, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # an infinity, or a year that Python does not have
        return str(time)
