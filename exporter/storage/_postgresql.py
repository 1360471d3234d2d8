"""Connections to PostgreSQL; imported only where the configuration names such a database."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.types.string import StrDumper

from exporter.errors import ConfigError
from exporter.secret_file import read_secret_file
from exporter.storage._engine import STATEMENT_SECONDS, remaining_timeout
from exporter.storage._schema import set_postgresql_options, storable

CONNECT_SECONDS = 3
"""How long connecting to PostgreSQL may take."""
LOCK_SECONDS = 5
"""How long an exporter waits for another exporter's transaction."""

_T = TypeVar("_T")


class _Text(StrDumper):
    """Replaces NUL, which PostgreSQL does not accept: looking for such a text must not be an error."""

    def dump(self, obj: str) -> Any:
        """See `psycopg.abc.Dumper.dump`."""
        return super().dump(storable(obj))


class _Connection(psycopg.Connection[Any]):
    """A connection that closes when the server does not answer in time."""

    timeout_seconds = STATEMENT_SECONDS

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """See `psycopg.Connection.wait`."""
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        seconds = min(self.timeout_seconds, remaining_timeout() or self.timeout_seconds)
        deadline = time.monotonic() + seconds
        try:
            state = next(gen)
            while True:
                ready = yield state
                state = gen.send(ready)
                if not ready and time.monotonic() > deadline:
                    self.close()
                    raise psycopg.OperationalError(f"the database did not answer within {seconds:g} s")
        except StopIteration as end:
            result: _T = end.value
            return result


def open_postgresql(address: sa.URL, password_file: str | None, seconds: float) -> sa.Engine:
    """Create the engine; the server is contacted at the first use.

    Parameters
    ----------
    address
        The database's URL.
    password_file
        Holds the password, if the URL does not.
    seconds
        How long one statement may take.
    """
    set_postgresql_options()
    settings = {
        "statement_timeout": f"{seconds:.0f}s",
        "lock_timeout": f"{LOCK_SECONDS}s",
        # The locks of an exporter whose machine is gone are released within a minute.
        "tcp_keepalives_idle": 30,
        "tcp_keepalives_interval": 10,
        "tcp_keepalives_count": 3,
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    # The URL's query takes precedence.
    query = {"application_name": "model-exporter", "connect_timeout": str(CONNECT_SECONDS), **address.query}
    query["options"] = f"{options} {query.get('options', '')}".strip()
    engine = sa.create_engine(
        address.set(query=query), pool_pre_ping=True, pool_size=5, max_overflow=10, pool_timeout=CONNECT_SECONDS
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_: Any, __: Any, args: Any, options: dict[str, Any]) -> _Connection:
        if password_file is not None:  # read for each connection: passwords change while programs run
            try:
                options["password"] = read_secret_file(password_file, "store.password_file")
            except ConfigError as error:
                raise psycopg.OperationalError(str(error)) from None
        if (limit := remaining_timeout()) is not None:
            options["connect_timeout"] = min(int(options["connect_timeout"]), math.ceil(limit))
        connection = _Connection.connect(*args, **options)
        connection.timeout_seconds = seconds
        connection.adapters.register_dumper(str, _Text)
        return connection

    return engine
