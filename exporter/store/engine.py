"""The database behind ``store.url``: SQLite in a file, or PostgreSQL that several exporters share.

Nothing waits for long: not for a connection, not for a lock, not for a server that hangs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.types.string import StrDumper

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.store.schema import storable

PATIENCE_SECONDS = 8.0
"""How long one statement may take, or a server that says nothing may be waited for."""
CONNECT_SECONDS = 3
"""How long a connection to PostgreSQL may take."""
LOCK_SECONDS = 5
"""How long one exporter waits for another one's transaction."""
FROZEN_SECONDS = 10
"""PostgreSQL ends the transaction of a writer that has said nothing for so long: others wait for it."""
_WRITER = 0x6D6F64656C  # the advisory lock of this project: writers are exclusive, predictions share it

_patience: ContextVar[float | None] = ContextVar("patience", default=None)
_T = TypeVar("_T")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait for the server at most so long in this block, if that is shorter than what its engine allows."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


class _Text(StrDumper):
    """PostgreSQL takes no NUL in a text, and what was only looked for must not be an error."""

    def dump(self, obj: str) -> Any:
        """See `psycopg.abc.Dumper.dump`."""
        return super().dump(storable(obj))


class _Connection(psycopg.Connection[Any]):
    """One that gives up on a server that says nothing, and is closed then."""

    patience = PATIENCE_SECONDS

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """See `psycopg.Connection.wait`."""
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        seconds = min(self.patience, _patience.get() or self.patience)
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
            answer: _T = end.value
            return answer


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


def read_password(path: str) -> str:
    """The password in a file; a line's end after it does not belong to it.

    Raises
    ------
    StoreError
        When it cannot be read, or there is none in it.
    """
    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise StoreError(f"store.password_file: {path}: cannot be read: {detail}") from None
    if not password:
        raise StoreError(f"store.password_file: {path}: is empty; expected the password")
    return password


def open_engine(config: StoreConfig, seconds: float = PATIENCE_SECONDS) -> sa.Engine:
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
        return _open_postgresql(address, config.password_file, seconds)
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": 10, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _open_postgresql(address: sa.URL, password_file: str | None, seconds: float) -> sa.Engine:
    settings = {
        "statement_timeout": f"{seconds:.0f}s",
        "lock_timeout": f"{LOCK_SECONDS}s",
        # An exporter's machine that is gone leaves its locks no longer than a minute.
        "tcp_keepalives_idle": 30,
        "tcp_keepalives_interval": 10,
        "tcp_keepalives_count": 3,
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    # What the URL's query says wins.
    query = {"application_name": "model-exporter", "connect_timeout": str(CONNECT_SECONDS), **address.query}
    query["options"] = f"{options} {query.get('options', '')}".strip()
    engine = sa.create_engine(
        address.set(query=query),
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=10,
        pool_timeout=CONNECT_SECONDS,
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_: Any, __: Any, args: Any, options: dict[str, Any]) -> _Connection:
        if password_file is not None:  # read anew each time: passwords are changed while programs run
            try:
                options["password"] = read_password(password_file)
            except StoreError as error:
                raise psycopg.OperationalError(str(error)) from None
        if (allowed := _patience.get()) is not None:
            options["connect_timeout"] = min(int(options["connect_timeout"]), math.ceil(allowed))
        connection = _Connection.connect(*args, **options)
        connection.patience = seconds
        connection.adapters.register_dumper(str, _Text)
        return connection

    return engine


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


def is_out(error: BaseException) -> bool:
    """Whether the database itself could not be reached, so that it makes no sense to try something else at once."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.TimeoutError)
    gone = error.connection_invalidated or isinstance(error.orig, psycopg.errors.LockNotAvailable)
    return gone or (isinstance(error.orig, psycopg.OperationalError) and error.orig.sqlstate is None)


def is_chance(error: BaseException) -> bool:
    """Whether the same transaction would probably succeed now: two of them were in each other's way."""
    by_chance = psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, by_chance)


def reason(error: BaseException) -> str:
    """What the driver said, without statement, parameters, and the values in details: these are users' data."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        return cause.diag.message_primary
    return str(cause) or type(error).__name__
