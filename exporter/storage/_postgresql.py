"""Connections to PostgreSQL; imported only where the configuration names such a database."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg.types.string import StrDumper

from exporter.errors import ConfigError, StoreError
from exporter.secret_file import read_secret_file
from exporter.storage._database import STATEMENT_SECONDS, FlatRows, driver_connection, remaining_timeout

CONNECT_SECONDS = 3
"""How long connecting to PostgreSQL may take."""
LOCK_SECONDS = 5
"""How long an exporter waits for another exporter's transaction."""

IDLE_TRANSACTION_SECONDS = 10
"""PostgreSQL ends a writer's transaction that is idle for this long, as other writers wait for it."""
_WRITER_LOCK = 0x6D6F64656C  # the exporters' advisory lock: calls take it alone, groups of predictions share it
_COMMAND_LOCK = 0x72656461  # the advisory lock of a command that redacts or archives
_UPDATED = 500  # rows in one statement: their JSON is in memory

NUMBERED_TOGETHER = 10_000
LOCKED = " ORDER BY l.id FOR UPDATE OF l"
# The first prediction alone: a client may have sent a million with one identifier.
FIRST_PREDICTIONS = """
    SELECT {found} FROM json_array_elements_text(CAST(:ids AS json)) AS wanted(value)
    CROSS JOIN LATERAL (
        SELECT q.day FROM predictions q
        WHERE q.day = ANY(ARRAY(SELECT CAST(value AS integer) FROM json_array_elements_text(CAST(:days AS json))))
            AND q.id = wanted.value {of_model}
        ORDER BY q.day LIMIT 1
    ) first
    CROSS JOIN LATERAL (
        SELECT * FROM predictions q WHERE q.day = first.day AND q.id = wanted.value {of_model}
        ORDER BY q.seq LIMIT 1
    ) p
    LEFT JOIN LATERAL (
        SELECT * FROM labels WHERE day = p.day AND prediction_id = p.id AND model = p.model LIMIT 1
    ) l ON true
"""
STORED_LABELS = """
    SELECT {stored} FROM json_array_elements_text(CAST(:ids AS json)) AS wanted(value) CROSS JOIN labels l
    WHERE l.day = ANY(ARRAY(SELECT CAST(value AS integer) FROM json_array_elements_text(CAST(:days AS json))))
        AND l.prediction_id = wanted.value
"""

_T = TypeVar("_T")


class _Text(StrDumper):
    """Replaces NUL, which PostgreSQL does not accept: looking for such a text must not be an error."""

    def dump(self, obj: str) -> Any:
        """See `psycopg.abc.Dumper.dump`."""
        return super().dump(obj.replace("\0", "\ufffd"))


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


def open_engine(address: sa.URL, password_file: str | None, seconds: float) -> sa.Engine:
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


def write_alone(connection: sa.Connection) -> None:
    """See `Backend`."""
    _lock(connection, "pg_advisory_xact_lock")


def write_beside(connection: sa.Connection) -> int | None:
    """See `Backend`."""
    return _lock(connection, "pg_advisory_xact_lock_shared")


def _lock(connection: sa.Connection, function: str) -> int:
    set_timeout = f"set_config('idle_in_transaction_session_timeout', '{IDLE_TRANSACTION_SECONDS}s', true)"
    row = connection.exec_driver_sql(f"SELECT txid_current(), {set_timeout}, {function}({_WRITER_LOCK})").one()
    return int(row[0])


def was_committed(connection: sa.Connection, transaction: int) -> bool:
    """See `Backend`.

    Raises
    ------
    StoreError
        While the transaction is still in progress.
    """
    status = connection.execute(sa.select(sa.func.txid_status(transaction))).scalar()
    if status == "in progress":
        raise StoreError("the previous transaction has not ended yet")
    return status == "committed"


@contextlib.contextmanager
def exclusive(engine: sa.Engine) -> Iterator[sa.Connection]:
    """See `Backend`.

    Raises
    ------
    StoreError
        When the database has another encoding than UTF8.
    """
    with engine.begin() as connection:
        write_alone(connection)
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise StoreError(f"store.url: expected a database with the encoding UTF8, got {encoding}")
        yield connection


@contextlib.contextmanager
def lock_commands(connection: sa.Connection) -> Iterator[bool]:
    """See `Backend`; the lock ends with the connection."""
    is_free = connection.execute(sa.select(sa.func.pg_try_advisory_lock(_COMMAND_LOCK))).scalar()
    connection.rollback()
    yield bool(is_free)


def insert_rows(connection: sa.Connection, rows: FlatRows) -> None:
    """See `Backend`: with COPY, a row takes 9 µs of processor time; with SQLAlchemy's INSERT 34 µs."""
    if not rows.values:
        return
    columns, width = ", ".join((*rows.shared_names, *rows.names)), len(rows.names)
    text = f"COPY {rows.table} ({columns}) FROM STDIN"
    with driver_connection(connection, text) as driver, driver.cursor() as cursor:
        cursor.adapters.register_dumper(str, StrDumper)  # psycopg's own, in C
        with cursor.copy(text) as copy:
            for start in range(0, len(rows.values), width):
                copy.write_row((*rows.shared, *rows.values[start : start + width]))


def update_rows(connection: sa.Connection, table: str, names: Sequence[str], rows: Sequence[Any]) -> None:
    """See `Backend`: a row takes 18 µs of processor time; with a statement for each, in one round trip, 39 µs."""
    values = ", ".join(f"{name} = new.{name}" for name in names)
    text = (
        f"UPDATE {table} SET {values} "  # noqa: S608 (constant names)
        f"FROM json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json)) AS new WHERE {table}.id = new.id"
    )
    for start in range(0, len(rows), _UPDATED):
        with index_scans(connection):
            part = msgspec.json.encode(rows[start : start + _UPDATED]).decode()
            connection.execute(sa.text(text), {"rows": part})


@contextlib.contextmanager
def index_scans(connection: sa.Connection) -> Iterator[None]:
    """See `Backend`: its plan of a prepared statement stays while the table grows."""
    for value in ("off", "on"):
        settings = (f"set_config('enable_{kind}', '{value}', true)" for kind in _OTHER_SCANS)
        connection.exec_driver_sql(f"SELECT {', '.join(settings)}")
        if value == "off":
            yield


_OTHER_SCANS = ("seqscan", "bitmapscan", "hashjoin", "mergejoin")


def measure(
    connection: sa.Connection, estimate: float, deletable: Sequence[str], kept: Sequence[str]
) -> tuple[float, float]:
    """See `Backend`: files of tables do not shrink, so an estimate from the rows may be less."""
    sizes = []
    for names in (deletable, kept):
        total = sum((sa.func.pg_total_relation_size(name) for name in names), start=sa.literal(0))
        sizes.append(float(connection.execute(sa.select(total)).scalar() or 0))
    return min(sizes[0], estimate), sizes[1]


def stored_bytes(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """See `Backend`."""
    return sa.func.pg_column_size(column)


def purge(connection: sa.Connection, tables: Sequence[str]) -> bool:
    """See `Backend`: the server overwrites old rows as it reuses their space."""
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    for table in tables:
        connection.exec_driver_sql(f"VACUUM {table}")
    return True
