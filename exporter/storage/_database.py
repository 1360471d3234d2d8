"""Open a database, and do what SQLite and PostgreSQL do differently."""

from __future__ import annotations

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.storage import _sqlite
from exporter.storage._engine import STATEMENT_SECONDS, Backend, check_store, check_url, is_shared


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
