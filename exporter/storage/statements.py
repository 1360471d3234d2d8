"""Statements that run for every word: compiled once, as SQLAlchemy takes longer for one than the database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

Values = Mapping[str, Any]


class Prepared:
    """A statement as the text of each kind of database, made at its first use.

    Values go to the driver, and come from it, as they are: SQLite's booleans are numbers.

    Parameters
    ----------
    statement
        Its parameters are ``bindparam``; an INSERT needs none.
    columns
        Of an INSERT: what is written.
    """

    def __init__(self, statement: sa.sql.ClauseElement, columns: Collection[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._made: dict[str, tuple[str, Callable[[Values], Any]]] = {}

    def __call__(self, connection: sa.Connection, values: Values) -> Any:
        """Run it with values by name; the driver's cursor."""
        text, given = self._text(connection.dialect)
        driver: Any = connection.connection.dbapi_connection
        try:
            return driver.execute(text, given(values))
        except connection.dialect.loaded_dbapi.Error as error:
            raise _failed(connection, text, error) from None

    def many(self, connection: sa.Connection, several: Sequence[Values]) -> None:
        """Run it with each of several values, in one go."""
        text, given = self._text(connection.dialect)
        if several:
            with driver_of(connection, text) as driver, contextlib.closing(driver.cursor()) as cursor:
                cursor.executemany(text, [given(values) for values in several])

    def first(self, connection: sa.Connection, several: Sequence[Values]) -> list[Values | None]:
        """The first row for each of several values; asked in one go, where each question is a way to a server."""
        if len(several) < 2 or connection.dialect.name == "sqlite":
            return [_first_of(self(connection, values)) for values in several]
        text, given = self._text(connection.dialect)
        with driver_of(connection, text) as driver, driver.cursor() as cursor:
            cursor.executemany(text, [given(values) for values in several], returning=True)
            found = [_named(cursor)]
            while cursor.nextset():
                found.append(_named(cursor))
            return found

    def _text(self, dialect: sa.Dialect) -> tuple[str, Callable[[Values], Any]]:
        """The statement, and what makes its parameters of values by name."""
        if dialect.name not in self._made:
            columns = None if self._columns is None else list(self._columns)
            made: Any = self._statement.compile(dialect=dialect, column_keys=columns)
            fixed = {name: value for name, value in made.params.items() if value is not None}
            self._made[dialect.name] = str(made), _given(made.positiontup if made.positional else None, fixed)
        return self._made[dialect.name]


def _given(places: list[str] | None, fixed: dict[str, Any]) -> Callable[[Values], Any]:
    if places is None:
        return lambda values: {**fixed, **values}
    if len(places) < 2:
        return lambda values: [{**fixed, **values}[name] for name in places]
    in_order = itemgetter(*places)
    return (lambda values: in_order({**fixed, **values})) if fixed else in_order


def _first_of(cursor: Any) -> Values | None:
    found = _named(cursor)
    cursor.close()
    return found


def _named(cursor: Any) -> Values | None:
    row = cursor.fetchone()
    return row and dict(zip([column[0] for column in cursor.description], row, strict=True))


@contextlib.contextmanager
def driver_of(connection: sa.Connection, text: str) -> Iterator[Any]:
    """The driver's own connection, for what SQLAlchemy has no word for; errors are SQLAlchemy's all the same."""
    driver: Any = connection.connection.dbapi_connection
    try:
        yield driver
    except connection.dialect.loaded_dbapi.Error as error:
        raise _failed(connection, text, error) from None


def _failed(connection: sa.Connection, text: str, error: Exception) -> sa.exc.DBAPIError:
    closed = bool(getattr(connection.connection.dbapi_connection, "closed", False))
    if closed:
        connection.invalidate(error)
    return sa.exc.DBAPIError(text, None, error, connection_invalidated=closed)
