"""Run calls in the writer's transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from exporter.storage.database_file import DatabaseFile
from exporter.storage.engine import is_retryable, is_shared, is_unavailable

_ATTEMPTS = 3

_T = TypeVar("_T")


class WriteTransactions:
    """Run calls in transactions, one after the other, and check the file of an SQLite database before each.

    Parameters
    ----------
    engine
        The database. SQLite keeps one connection; for PostgreSQL each transaction takes one from the pool, which
        replaces lost ones.

    Attributes
    ----------
    unavailable : bool
        Whether the database could not be reached at the last attempt.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.unavailable = False
        self._connection = None if is_shared(engine) else engine.connect()
        self._file = self._connection and DatabaseFile(Path(engine.url.database or "").resolve(), self._connection)

    @property
    def has_file(self) -> bool:
        """Whether the database is a file of this machine."""
        return self._file is not None

    @property
    def fault(self) -> str | None:
        """Why nothing is written until somebody acts; None where the file of an SQLite database is in order."""
        return self._file.fault if self._file else None

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()

    def run(self, call: Callable[[sa.Connection], _T]) -> _T:
        """Run a call in a transaction and return its result; repeat it when it collided with another exporter's."""
        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            try:
                with self.begin() as connection:
                    result = call(connection)
            except Exception as error:
                if attempts and is_retryable(error):
                    continue
                self.unavailable = is_unavailable(error)
                raise
            self.unavailable = False
            return result

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Begin a transaction, which is committed at the end."""
        if self._connection is None:
            with self._engine.begin() as connection:
                yield connection
        else:
            with self._connection.begin():
                if self._file:
                    self._file.check(self._connection)
                yield self._connection
