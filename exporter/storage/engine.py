"""The database behind ``store.url``: SQLite in a file, or PostgreSQL that several exporters share.

Every wait is bounded: for a connection, for a lock, and for a server that hangs.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import ConfigError, StoreError
from exporter.secret_file import read_secret_file
from exporter.storage.timeout import STATEMENT_SECONDS

LOCK_SECONDS = 10
"""How long SQLite waits for another connection's transaction."""
IDLE_TRANSACTION_SECONDS = 10
"""PostgreSQL ends a writer's transaction that is idle for this long, as other writers wait for it."""
_PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",
    "journal_size_limit": 64 * 2**20,
    "wal_autocheckpoint": 4000,  # pages: those of an index change often, and a checkpoint copies each once
}
_DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WRITER_LOCK = 0x6D6F64656C  # the exporters' advisory lock: calls take it alone, groups of predictions share it

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
    if is_shared(address):
        from exporter.storage.postgresql import open_postgresql  # only here: its driver takes 9 MiB

        return open_postgresql(address, config.password_file, seconds)
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _: Any) -> None:
        for name, value in _PRAGMAS.items():
            _set_pragma(connection, f"{name}={value}")

    return engine


def _set_pragma(connection: sqlite3.Connection, pragma: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").close()
            return
        except sqlite3.OperationalError as error:
            # If several connections switch a new file to write-ahead logging, all but one fail without waiting.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def is_shared(database: sa.URL | sa.Engine | sa.Connection) -> bool:
    """Return whether several exporters may write to this database at the same time."""
    name = database.get_backend_name() if isinstance(database, sa.URL) else database.dialect.name
    return name == "postgresql"


def write_alone(connection: sa.Connection) -> None:
    """Exclude other exporters' writes until the end of this transaction; SQLite has one writer anyway.

    What the transaction reads stays true until it is committed, and code need not know how many exporters there are.
    """
    if is_shared(connection):
        _lock(connection, "pg_advisory_xact_lock")


def write_beside(connection: sa.Connection) -> int | None:
    """Exclude other exporters' `write_alone` until the end of this transaction; others may add predictions.

    On SQLite, nothing else writes from here on, not even ``redact``: its driver would begin the transaction only with
    the first statement that writes, and what was read before need not be true any more.

    Returns
    -------
    int or None
        The transaction's number for `was_committed`; None for SQLite, whose commits are never uncertain.
    """
    if is_shared(connection):
        return _lock(connection, "pg_advisory_xact_lock_shared")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    return None


def _lock(connection: sa.Connection, function: str) -> int:
    set_timeout = f"set_config('idle_in_transaction_session_timeout', '{IDLE_TRANSACTION_SECONDS}s', true)"
    row = connection.exec_driver_sql(f"SELECT txid_current(), {set_timeout}, {function}({_WRITER_LOCK})").one()
    return int(row[0])


def was_committed(connection: sa.Connection, transaction: int) -> bool:
    """Return whether a transaction was committed whose connection was lost before the server confirmed it.

    Raises
    ------
    StoreError
        While the transaction is still in progress.
    """
    status = connection.execute(sa.select(sa.func.txid_status(transaction))).scalar()
    if status == "in progress":
        raise StoreError("the previous transaction has not ended yet")
    return status == "committed"


def is_unavailable(error: BaseException) -> bool:
    """Return whether the database could not be reached, so that another statement would fail, too."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.TimeoutError)
    if error.connection_invalidated or _state(error.orig) == "55P03":  # lock_not_available
        return True
    return _state(error.orig) is None and any(kind.__name__ == "OperationalError" for kind in type(error.orig).__mro__)


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite found its file damaged."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return isinstance(cause, sqlite3.DatabaseError) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE_CODES


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
