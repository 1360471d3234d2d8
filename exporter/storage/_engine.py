"""Open a database, run statements in it, and name what SQLite and PostgreSQL do differently."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import ConfigError, StoreError
from exporter.secret_file import read_secret_file

STATEMENT_SECONDS = 8.0
"""How long one statement may take, and how long a silent server is waited for."""

_timeout: ContextVar[float | None] = ContextVar("statement_timeout", default=None)


@contextlib.contextmanager
def statement_timeout(seconds: float) -> Iterator[None]:
    """Limit how long this block waits for the server, if that is less than its engine allows."""
    token = _timeout.set(seconds)
    try:
        yield
    finally:
        _timeout.reset(token)


def remaining_timeout() -> float | None:
    """Return the limit of the current block; None outside of one."""
    return _timeout.get()


SCHEMA_VERSION = 1
"""The version of the tables: see `exporter.storage._schema`."""
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")


def check_url(url: str) -> sa.URL:
    """Parse and check a database's URL.

    Raises
    ------
    StoreError
        When it is not valid, or the database is not supported.
    """
    expected = "store.url: expected sqlite:///PATH or postgresql://USER@HOST/DATABASE"  # the URL may hold a password
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(expected) from None
    if address.drivername in _POSTGRESQL:
        if not address.database:
            raise StoreError(f"{expected}, got no database")
        return address.set(drivername="postgresql+psycopg")
    if address.drivername != "sqlite":
        raise StoreError(f"{expected}, got {address.drivername}://…")
    if not address.database or address.database == ":memory:":
        raise StoreError(f"{expected}, got {address!r}")
    return address


def check_store(config: StoreConfig) -> None:
    """Check the configuration of the database, without connecting to it.

    Raises
    ------
    StoreError
        When its URL is wrong, or its password cannot be read.
    """
    address = check_url(config.url)
    if config.password_file is None:
        return
    if not is_shared(address):
        raise StoreError("store.password_file: needs a postgresql:// URL; SQLite has no password")
    if address.password:
        raise StoreError("store.password_file: store.url has a password already; remove it there")
    try:
        read_secret_file(config.password_file, "store.password_file")
    except ConfigError as error:
        raise StoreError(str(error)) from None


def shown_url(url: str) -> str:
    """Return a URL for messages: without its password, and without its query, which may hold one."""
    try:
        address = check_url(url)
    except StoreError:
        return "store.url"
    return address.set(drivername=address.get_backend_name(), query={}).render_as_string(hide_password=True)


def is_shared(database: sa.URL | sa.Engine | sa.Connection) -> bool:
    """Return whether several exporters may write to this database at the same time."""
    name = database.get_backend_name() if isinstance(database, sa.URL) else database.dialect.name
    return name == "postgresql"


_T = TypeVar("_T")


class Transactions(Protocol):
    """What reads and writes the database for the modules behind the store, which it is.

    Attributes
    ----------
    is_shared : bool
        Whether other exporters write into the database, too.
    replica : str
        The name of this exporter among them.
    """

    is_shared: bool
    replica: str

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """Open a connection that sees one state of the database, beside the writer."""

    def write(self, call: Callable[[sa.Connection], _T], adds: int | None = None) -> _T:
        """Run a call in the writer's thread, in a transaction, and wait for its result."""

    def report_failure(self) -> None:
        """Count a failure that the database does not know of."""


class FlatRows(NamedTuple):
    """Rows to insert: the names and values of columns that are the same in all, then those of each row, one by one."""

    table: str
    shared_names: tuple[str, ...]
    shared: tuple[Any, ...]
    names: tuple[str, ...]
    values: list[Any]


class Backend(Protocol):
    """What SQLite and PostgreSQL do differently: the modules `_sqlite` and `_postgresql`.

    Attributes
    ----------
    FIRST_PREDICTIONS, STORED_LABELS, LOCKED : str
        Queries of labels by the identifiers of predictions; and what locks the rows of the second one.
    NUMBERED_TOGETHER : int
        Predictions that may be numbered in another order than their inputs.
    """

    FIRST_PREDICTIONS: str
    STORED_LABELS: str
    LOCKED: str
    NUMBERED_TOGETHER: int

    def open_engine(self, address: sa.URL, password_file: str | None, seconds: float, /) -> sa.Engine:
        """See `open_engine`."""

    def write_alone(self, connection: sa.Connection, /) -> None:
        """See `write_alone`."""

    def write_beside(self, connection: sa.Connection, /) -> int | None:
        """See `write_beside`."""

    def was_committed(self, connection: sa.Connection, transaction: int, /) -> bool:
        """Return whether a transaction was committed whose connection was lost before the server confirmed it."""

    def exclusive(self, engine: sa.Engine, /) -> AbstractContextManager[sa.Connection]:
        """Open a transaction, changes of tables included, during which no other exporter writes."""

    def lock_commands(self, connection: sa.Connection, /) -> AbstractContextManager[bool]:
        """Keep other commands away that redact or archive; give whether none is running."""

    def insert_rows(self, connection: sa.Connection, rows: FlatRows, /) -> None:
        """Insert rows with the fastest statement of the database; texts are `storable`."""

    def update_rows(self, connection: sa.Connection, table: str, names: Sequence[str], rows: Sequence[Any], /) -> None:
        """Update columns of the rows with some identifiers, from structures with these attributes."""

    def index_scans(self, connection: sa.Connection, /) -> AbstractContextManager[None]:
        """Let each identifier be looked up in the index."""

    def measure(
        self, connection: sa.Connection, estimate: float, deletable: Sequence[str], kept: Sequence[str], /
    ) -> tuple[float, float]:
        """Return the bytes of the tables from which is deleted, of which there is an estimate, and of all others."""

    def stored_bytes(self, column: sa.ColumnElement[Any], /) -> sa.ColumnElement[int]:
        """Return the bytes that a value takes, in SQL."""

    def purge(self, connection: sa.Connection, tables: Sequence[str], /) -> bool:
        """Free the space of removed texts, so that no file holds a copy; return whether that was possible."""


def open_engine(config: StoreConfig, seconds: float = STATEMENT_SECONDS) -> sa.Engine:
    """Open the database. The folder of an SQLite file is created; PostgreSQL is contacted at the first use.

    Parameters
    ----------
    config
        Its URL and password file.
    seconds
        How long one statement may take on PostgreSQL.

    Raises
    ------
    StoreError
        When it is not supported.
    """
    check_store(config)
    address = check_url(config.url)
    return backend(address).open_engine(address, config.password_file, seconds)


def backend(database: sa.URL | sa.Engine | sa.Connection) -> Backend:
    """Return what a database does in its own way."""
    if is_shared(database):
        from exporter.storage import _postgresql  # only here: its driver takes 9 MiB

        return _postgresql
    from exporter.storage import _sqlite  # which imports this module

    return _sqlite


def write_alone(connection: sa.Connection) -> None:
    """Exclude other exporters' writes until the end of this transaction; SQLite has one writer anyway.

    What the transaction reads stays true until it is committed, and code need not know how many exporters there are.
    """
    backend(connection).write_alone(connection)


def write_beside(connection: sa.Connection) -> int | None:
    """Exclude other exporters' `write_alone` until the end of this transaction; others may add predictions.

    On SQLite, nothing else writes from here on, not even ``redact``: its driver would begin the transaction only with
    the first statement that writes, and what was read before need not be true any more.

    Returns
    -------
    int or None
        The transaction's number for `Backend.was_committed`; None for SQLite, whose commits are never uncertain.
    """
    return backend(connection).write_beside(connection)


def is_unavailable(error: BaseException) -> bool:
    """Return whether the database could not be reached, so that another statement would fail, too."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.TimeoutError)
    if error.connection_invalidated or _state(error.orig) == "55P03":  # lock_not_available
        return True
    return _state(error.orig) is None and any(kind.__name__ == "OperationalError" for kind in type(error.orig).__mro__)


def is_retryable(error: BaseException) -> bool:
    """Return whether the same transaction would probably succeed now: it collided with another one."""
    collisions = {"40P01", "40001"}  # deadlock_detected, serialization_failure
    return isinstance(error, sa.exc.DBAPIError) and _state(error.orig) in collisions


def error_message(error: BaseException) -> str:
    """Return the driver's message without statement, parameters and details, which hold users' data."""
    cause = getattr(error, "orig", None) or error
    primary: str | None = getattr(getattr(cause, "diag", None), "message_primary", None)
    return primary or str(cause) or type(error).__name__


def _state(cause: object) -> str | None:
    """Return the SQLSTATE of a PostgreSQL driver's error, None if the server gave none; empty for any other error."""
    state: str | None = getattr(cause, "sqlstate", "")
    return state


Values = Mapping[str, Any]


def update_of_row(table: sa.Table, names: Iterable[str]) -> sa.Update:
    """Return an update of the row with the identifier ``row_id``, to the value ``new_…`` of each column."""
    values: Values = {name: sa.bindparam(f"new_{name}") for name in names}
    return table.update().where(table.c.id == sa.bindparam("row_id")).values(values)


class CompiledStatement:
    """A statement whose SQL text is made once for each kind of database.

    Values go to the driver, and come from it, unconverted: SQLite's booleans are numbers.

    Parameters
    ----------
    statement
        Its parameters are ``bindparam``; an INSERT needs none.
    columns
        For an INSERT, the columns that it writes.
    """

    def __init__(self, statement: sa.sql.ClauseElement, columns: Collection[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, tuple[str, Callable[[Values], Any]]] = {}

    def execute(self, connection: sa.Connection, values: Values) -> Any:
        """Execute it with values by name; return the driver's cursor."""
        text, parameters = self._compile(connection.dialect)
        with driver_connection(connection, text) as driver:
            return driver.execute(text, parameters(values))

    def execute_many(self, connection: sa.Connection, rows: Sequence[Values]) -> None:
        """Execute it with each of several values, in one round trip."""
        text, parameters = self._compile(connection.dialect)
        if rows:
            with driver_connection(connection, text) as driver, contextlib.closing(driver.cursor()) as cursor:
                cursor.executemany(text, [parameters(values) for values in rows])

    def first_rows(self, connection: sa.Connection, rows: Sequence[Values]) -> list[Values | None]:
        """Return the first result row for each of several values, in one round trip to a server."""
        if len(rows) < 2 or connection.dialect.name == "sqlite":
            return [self._first_row(connection, values) for values in rows]
        text, parameters = self._compile(connection.dialect)
        with driver_connection(connection, text) as driver, driver.cursor() as cursor:
            cursor.executemany(text, [parameters(values) for values in rows], returning=True)
            results = [_row(cursor)]
            while cursor.nextset():
                results.append(_row(cursor))
            return results

    def _first_row(self, connection: sa.Connection, values: Values) -> Values | None:
        with contextlib.closing(self.execute(connection, values)) as cursor:
            return _row(cursor)

    def _compile(self, dialect: sa.Dialect) -> tuple[str, Callable[[Values], Any]]:
        """Return the SQL text, and a function that makes its parameters of values by name."""
        if dialect.name not in self._compiled:
            columns = None if self._columns is None else list(self._columns)
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=columns)
            constants = {name: value for name, value in compiled.params.items() if value is not None}
            names = compiled.positiontup if compiled.positional else None
            self._compiled[dialect.name] = str(compiled), _parameters(names, constants)
        return self._compiled[dialect.name]


class CompiledInsert:
    """An INSERT of rows whose identifiers are returned.

    Parameters
    ----------
    table
        The table; its identifier is the column ``id``.
    columns
        The columns that are written.
    """

    def __init__(self, table: sa.Table, columns: Collection[str]) -> None:
        self._plain = CompiledStatement(table.insert(), columns)
        self._returning = CompiledStatement(table.insert().returning(table.c.id), columns)

    def keys(self, connection: sa.Connection, rows: Sequence[Values]) -> list[int]:
        """Insert rows; return their identifiers."""
        if is_shared(connection):
            return [row["id"] for row in self._returning.first_rows(connection, rows) if row]
        return [self._plain.execute(connection, row).lastrowid for row in rows]


def _parameters(names: list[str] | None, constants: dict[str, Any]) -> Callable[[Values], Any]:
    if names is None:
        return lambda values: {**constants, **values}
    if len(names) < 2:
        return lambda values: [{**constants, **values}[name] for name in names]
    in_order = itemgetter(*names)
    return (lambda values: in_order({**constants, **values})) if constants else in_order


def _row(cursor: Any) -> Values | None:
    row = cursor.fetchone()
    return row and dict(zip([column[0] for column in cursor.description], row, strict=True))


@contextlib.contextmanager
def driver_connection(connection: sa.Connection, text: str) -> Iterator[Any]:
    """Give the driver's own connection; errors of the driver become SQLAlchemy's."""
    driver: Any = connection.connection.dbapi_connection
    try:
        yield driver
    except connection.dialect.loaded_dbapi.Error as error:
        closed = bool(getattr(driver, "closed", False))
        if closed:
            connection.invalidate(error)
        raise sa.exc.DBAPIError(text, None, error, connection_invalidated=closed) from None
