"""The database behind ``store.url``: SQLite in a file, or PostgreSQL that several exporters share.

Nothing waits for long: not for a connection, not for a lock, not for a server that hangs.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage.password import read_password
from exporter.storage.timeout import STATEMENT_SECONDS

LOCK_SECONDS = 10
"""How long another connection's transaction is waited for in SQLite."""
FROZEN_SECONDS = 10
"""PostgreSQL ends the transaction of a writer that has said nothing for so long: others wait for it."""
_PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "FULL",
    "journal_size_limit": 64 * 2**20,
    "wal_autocheckpoint": 4000,  # pages: those of an index are written again and again, and carried over once
}
_WRITER = 0x6D6F64656C  # the advisory lock of this project: writers are exclusive, predictions share it

_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")


def check_url(url: str) -> sa.URL:
    """The parts of a database's URL.

    Raises
    ------
    StoreError
        When it is none, or of a database that is not supported.
    """
    expected = "store.url: expected sqlite:///PATH or postgresql://USER@HOST/DATABASE"  # the rest may hold a password
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
    """Look at what the configuration says of the database, without asking it.

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
        raise StoreError("store.password_file: store.url has a password already; take it out there")
    read_password(config.password_file)


def shown_url(url: str) -> str:
    """A URL as it may be printed: without its password, and without its query, which may hold one."""
    try:
        address = check_url(url)
    except StoreError:
        return "store.url"
    return address.set(drivername=address.get_backend_name(), query={}).render_as_string(hide_password=True)


def open_engine(config: StoreConfig, seconds: float = STATEMENT_SECONDS) -> sa.Engine:
    """Open the database; an SQLite file's folder is made. PostgreSQL is not asked before the first use.

    Parameters
    ----------
    config
        Where it is.
    seconds
        How long one statement may take on PostgreSQL.

    Raises
    ------
    StoreError
        When it is of a kind that is not supported.
    """
    check_store(config)
    address = check_url(config.url)
    if is_shared(address):
        from exporter.storage.postgresql import open_postgresql  # its driver takes 9 MiB, which SQLite does without

        return open_postgresql(address, config.password_file, seconds)
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _: Any) -> None:
        for name, value in _PRAGMAS.items():
            _set(connection, f"{name}={value}")

    return engine


def _set(connection: sqlite3.Connection, pragma: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").close()
            return
        except sqlite3.OperationalError as error:
            # Of several that turn a new file's journal into a write-ahead log, SQLite lets all but one fail at once.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def is_shared(of: sa.URL | sa.Engine | sa.Connection) -> bool:
    """Whether several exporters may write to that database at the same time."""
    return (of.get_backend_name() if isinstance(of, sa.URL) else of.dialect.name) == "postgresql"


def write_alone(connection: sa.Connection) -> None:
    """Let this transaction be the only one that writes, of all exporters'; SQLite has it so anyway.

    So what it reads stays true until it is committed, and code need not know how many exporters there are.
    """
    if is_shared(connection):
        _lock(connection, "pg_advisory_xact_lock")


def write_beside(connection: sa.Connection) -> int | None:
    """Let no other exporter's `write_alone` come between; others that only add predictions may.

    Returns
    -------
    int or None
        By which `was_committed` knows this transaction, where the server may commit what it cannot say any more.
    """
    return _lock(connection, "pg_advisory_xact_lock_shared") if is_shared(connection) else None


def _lock(connection: sa.Connection, function: str) -> int:
    frozen = f"set_config('idle_in_transaction_session_timeout', '{FROZEN_SECONDS}s', true)"
    row = connection.exec_driver_sql(f"SELECT txid_current(), {frozen}, {function}({_WRITER})").one()
    return int(row[0])


def was_committed(connection: sa.Connection, transaction: int) -> bool:
    """Whether a transaction was committed although its connection was lost before the server said so.

    Raises
    ------
    StoreError
        While the server itself does not know.
    """
    status = connection.execute(sa.select(sa.func.txid_status(transaction))).scalar()
    if status == "in progress":
        raise StoreError("the transaction before has not ended yet")
    return status == "committed"


def is_unavailable(error: BaseException) -> bool:
    """Whether the database itself could not be reached, so that it makes no sense to try something else at once."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.TimeoutError)
    if error.connection_invalidated or _state(error.orig) == "55P03":  # lock_not_available
        return True
    return _state(error.orig) is None and any(kind.__name__ == "OperationalError" for kind in type(error.orig).__mro__)


def is_retryable(error: BaseException) -> bool:
    """Whether the same transaction would probably succeed now: two of them were in each other's way."""
    by_chance = {"40P01", "40001"}  # deadlock_detected, serialization_failure
    return isinstance(error, sa.exc.DBAPIError) and _state(error.orig) in by_chance


def error_message(error: BaseException) -> str:
    """What the driver said, without statement, parameters, and the values in details: these are users' data."""
    cause = getattr(error, "orig", None) or error
    said: str | None = getattr(getattr(cause, "diag", None), "message_primary", None)
    return said or str(cause) or type(error).__name__


def _state(cause: object) -> str | None:
    """The SQLSTATE of an error of PostgreSQL's driver, None where the server gave none; empty for any other error."""
    state: str | None = getattr(cause, "sqlstate", "")
    return state
