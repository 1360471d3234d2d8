"""The tables, how a database is opened, and what SQLite and PostgreSQL do differently."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

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
"""The version of the tables: see `exporter.storage._database`."""
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

    def write(
        self, call: Callable[[sa.Connection], _T], adds: int | None = None, counts: Callable[[_T], Any] = ...
    ) -> _T:
        """Run a call in the writer's thread, in a transaction, and wait for its result."""

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        """Return the rows of a query."""

    def change(self, statement: sa.Update | sa.Delete) -> int:
        """Run a statement in the writer's thread, and return how many rows it has changed."""

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


def storable(text: str) -> str:
    """Replace NUL in a text, which PostgreSQL does not accept."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def json_text(values: Any) -> str:
    """Return values as JSON."""
    return msgspec.json.encode(values).decode()


class JsonTexts(FunctionElement[str]):
    """The texts in a JSON array: one parameter, however many they are."""

    inherit_cache = True


@compiles(JsonTexts)
def _compile(element: JsonTexts, compiler: Any, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"  # noqa: S608 (a parameter)


@compiles(JsonTexts, "postgresql")
def _compile_for_postgresql(element: JsonTexts, compiler: Any, **options: Any) -> str:
    array = compiler.process(element.clauses, **options)
    return f"(SELECT value FROM json_array_elements_text(CAST({array} AS JSON)))"  # noqa: S608


class JsonIds(JsonTexts):
    """The whole numbers in a JSON array."""

    inherit_cache = True


@compiles(JsonIds, "postgresql")
def _compile_ids_for_postgresql(element: JsonIds, compiler: Any, **options: Any) -> str:
    array = compiler.process(element.clauses, **options)
    return f"(SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST({array} AS JSON)))"  # noqa: S608


Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A number that the database assigns; of 64 bits on both, although SQLite calls that INTEGER."""

metadata = sa.MetaData()
_TYPES: Mapping[str, Any] = {
    "key": Key,
    "int": sa.Integer,
    "text": sa.Text,
    "float": sa.Float,
    "bool": sa.Boolean,
    "blob": sa.LargeBinary,
}


_FLAGS = {"*": "primary_key", "^": "index", "~": "unique"}


def _table(name: str, *parts: str | sa.schema.SchemaItem, **options: Any) -> sa.Table:
    """Declare a table whose columns are given as ``name type, name type``.

    Behind a type, ``!`` stands for NOT NULL, ``*`` for the primary key, ``^`` for an index, and ``~`` for UNIQUE.
    """
    items: list[sa.schema.SchemaItem] = []
    for part in parts:
        if isinstance(part, sa.schema.SchemaItem):
            items.append(part)
            continue
        for text in part.split(", "):
            column, kind = text.split()
            flags = kind.lstrip("abcdefghijklmnopqrstuvwxyz")
            given: dict[str, Any] = {name: True for flag, name in _FLAGS.items() if flag in flags}
            nullable = not flags or flags in {"^", "~"}
            items.append(sa.Column(column, _TYPES[kind.removesuffix(flags)], nullable=nullable, **given))
    return sa.Table(name, metadata, *items, **options)


schema_table = _table("schema", "version int*")
predictions = _table(
    "predictions",
    # Clients' identifiers may be random: with the day first, only the index's last part changes and stays in memory.
    "seq key*, day int!, id text!, model text!, version text!, time float!, received float!, prediction text",
    "confidence float, code int!, duration_seconds float, confident bool!",
    # Where its inputs are: a row of the table ``inputs``, and the position in it.
    "block key, position int, segment text, alias text",
    sa.Index("predictions_day_id", "day", "id"),
    sqlite_autoincrement=True,  # the archive ends with a number, so none may be given twice
)
has_inputs = predictions.c.block.is_not(None)
has_alias = predictions.c.alias.is_not(None)
_alias_order = predictions.c.alias, predictions.c.model, predictions.c.id
sa.Index("predictions_alias", *_alias_order, sqlite_where=has_alias, postgresql_where=has_alias)
# The JSON of the inputs of predictions of one model that were stored together; see `exporter.storage._predictions`.
inputs = _table("inputs", "id key*, model text!, rows int!, data blob!", sqlite_autoincrement=True)
# In one row: the number of the last archived prediction, and the day before which predictions are being archived; see
# `exporter.storage._archive`. Nothing beyond the first is deleted for its age.
archived = _table(
    "archived",
    sa.Column("seq", Key, nullable=False, default=0),
    sa.Column("day", sa.Integer, nullable=False, default=0),
)
# Labels that came too late for the archived row of their prediction, or that nothing came for, until they are
# archived, too. Files are named after the numbers, so none may be given twice.
late_labels = _table(
    "late_labels",
    "seq key*, day int, id text!, model text, label text!, label_time float, loss float, received float!",
    sqlite_autoincrement=True,
)
feedback = _table(
    "feedback",
    # The prediction is unique together with its model: two services may both use the identifiers 1, 2, 3.
    "id key*, prediction_id text^, joined bool!, model text, version text, predicted float, prediction text",
    "confidence float, confident bool, inputs text, segment text, verdict text!, label text, user text, comment text",
    "created float!, updated float!, counted bool!, status text!, revision int!, reviewed_label text",
    "reviewer text, reviewed float",
    sa.Column("released", sa.Boolean, nullable=False, default=False),
    sa.Column("sampled", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    "idempotency_key text",
)
# Feedback that was replaced, and samples for review; the current feedback is in the table of feedback only.
history = _table(
    "feedback_history",
    "id key*, feedback_id key!^, time float!, verdict text!, label text, user text, comment text",
    "idempotency_key text~",
)
decisions = _table(
    "decisions",
    "id key*, feedback_id key!^, time float!, reviewer text, status text!, label text, revision int!",
    sa.Index("decisions_time", "time"),
)
# Accepted corrections whose label may be wrong, and the last check of each model: `exporter.storage._review`.
suspects = _table(
    "suspects",
    # The correction as it was checked. With a later revision it is a suspect no more, whatever was decided.
    "feedback_id key*, model text!^, revision int!, label text!",
    # The label of most similar inputs; how many were compared, and how many have that label, and the correction's.
    "likely text!, compared int!, with_likely int!, with_label int!",
)
label_checks = _table(
    "label_checks",
    # The last decision, and the last feedback, of any model before the check.
    "model text*, time float!, decision key!, newest key!",
    # How many accepted corrections were checked, and with how many other inputs they were compared.
    "checked int!, confirmed int!",
)
windows = _table("windows", "replica text*, model text*, version text*, saved float!, data blob!")
# When the oldest prediction that could be drawn was received, and the number of confident predictions.
draws = _table("draws", "model text*, version text*, time float!, since float!, confident int!")
bin_codes = _table(
    "bin_codes",
    # The layout is that of the profile and the inputs whose bins these are: other bins do not compare.
    "seq key*, model text!, version text!, layout text!",
    # When the first and the last of the predictions were received.
    "first float!, last float!, rows int!, data blob!",
    sa.Index("bin_codes_last", "model", "last"),
)
WAITING = -1
"""The day of a label whose prediction has not arrived."""
labels = _table(
    "labels",
    # The day of the prediction: a label is looked up where its prediction was found.
    "id key*, day int!, prediction_id text!, model text, version text, predicted float, prediction text",
    "confidence float, segment text, label text!, loss float, time float!, received float!",
    sa.Index("labels_day_prediction", "day", "prediction_id"),
    sa.Index("labels_loss", "model", "version", "predicted", "loss"),
)
is_waiting = labels.c.day == sa.literal_column(str(WAITING))
confidence_key = sa.func.coalesce(feedback.c.confidence, sa.literal_column("-1.0"))
"""The confidence to order by: databases sort NULL differently."""
# Labels are in no index: PostgreSQL refuses keys above 2.7 kB.
_queue = [feedback.c[name] for name in ("verdict", "joined", "status", "model")]
sa.Index("feedback_queue", *_queue, feedback.c.created, feedback.c.id)
sa.Index("feedback_surest", *_queue, confidence_key, feedback.c.id)
sa.Index(
    "feedback_known",
    *(feedback.c[name] for name in ("model", "version", "confident", "verdict", "status", "created", "predicted")),
)
CORRECTIONS = ("corrected", "rejected")
"""Verdicts that say that the prediction is wrong; only the first has a label for certain."""
is_correction = feedback.c.verdict.in_(map(sa.literal, CORRECTIONS))
has_reviewed_label = feedback.c.reviewed_label.is_not(None)
is_unjoined = ~feedback.c.joined
# Unjoined feedback has a version only if it describes its prediction itself, with model, inputs and prediction.
is_described = is_unjoined & feedback.c.version.is_not(None)
is_released = feedback.c.released == sa.true()
# In the SQL text: with a parameter the index is not used.
is_accepted = feedback.c.status == sa.literal_column("'accepted'")
# Indexes of few rows each: new feedback is only in that of its key, so that little is written with it.
_PARTIAL = {
    "feedback_relabelled": (("model", "version", "confident", "status", "verdict"), has_reviewed_label),
    "feedback_waiting": (("updated", "prediction_id"), is_unjoined),
    "feedback_described": (("model", "status", "created"), is_described),
    "feedback_dataset": (("model", "id"), is_accepted),
    "feedback_released": (("model",), is_released),
    "feedback_key": (("idempotency_key",), feedback.c.idempotency_key.is_not(None)),
}
for _name, (_indexed, _where) in _PARTIAL.items():
    sa.Index(_name, *(feedback.c[name] for name in _indexed), sqlite_where=_where, unique=_name == "feedback_key")
releases = _table(
    "releases",
    "seq int*, id text!~, name text!~, model text!^, sha256 text!, examples int!",
    sa.Column("bytes", sa.BigInteger, nullable=False),
    # The build whose chunks are the release's; and whether its examples are marked as released yet.
    "created float!, by text, lineage text!, build text!, marked bool!",
)
release_chunks = _table("release_chunks", "build text*, number int*, created float!, data blob!")
# Requests for retraining, see `exporter.storage._releases`.
retrain_requests = _table(
    "retrain_requests",
    # Why it was made, as JSON; and the document that is sent, NULL until it is prepared.
    "seq key*, id text!~, model text!^, reason text!, created float!, context text!, body text",
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # When it is sent next; NULL once it is delivered or given up.
    "next_attempt float, delivered float, error text",
)


def _set_postgresql_options() -> None:
    """Set PostgreSQL's options of the tables: its part of SQLAlchemy is not loaded for SQLite."""
    # The space of deleted predictions should be reused soon.
    predictions.dialect_kwargs["postgresql_with"] = {"autovacuum_vacuum_scale_factor": 0.02}
    for index in feedback.indexes:
        if index.name in _PARTIAL:
            index.dialect_kwargs["postgresql_where"] = _PARTIAL[str(index.name)][1]


log = logging.getLogger(__name__)

COMMAND_SECONDS = 3600.0
"""How long one statement of a migration or a command may take: reading a large table takes minutes."""


MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {}
"""The migration to each version from the one before it. It names tables and columns itself, so that later changes of
the tables do not change it, and runs on both databases; new tables are created without it."""


def migrate(config: StoreConfig) -> None:
    """Create the tables, or migrate those of an older version.

    Raises
    ------
    StoreError
        When a newer version of the exporter created the database, or it cannot be opened.
    sqlalchemy.exc.SQLAlchemyError
        When it cannot be read or written.
    """
    engine = open_engine(config, COMMAND_SECONDS)
    try:
        with backend(engine).exclusive(engine) as connection:
            current = stored_version(connection)
            if current is not None and current > SCHEMA_VERSION:
                raise StoreError(
                    f"store.url: the database has schema {current}, newer than this version understands; "
                    f"it knows {SCHEMA_VERSION}: use the newer exporter"
                )
            for version in range((current or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
                log.info("migrating the database from schema %d to %d", version - 1, version)
                MIGRATIONS[version](connection)
            if current is None:
                log.info("%s has no tables yet: creating them, with schema %d", shown_url(config.url), SCHEMA_VERSION)
            if current != SCHEMA_VERSION:
                if is_shared(connection):
                    _set_postgresql_options()
                metadata.create_all(connection)
                connection.execute(schema_table.delete())
                connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
    finally:
        engine.dispose()


def stored_version(connection: sa.Connection) -> int | None:
    """Return the version of the database's schema; None if it has no tables yet."""
    if not sa.inspect(connection).has_table(schema_table.name):
        return None
    return connection.execute(sa.select(sa.func.max(schema_table.c.version))).scalar()


@contextlib.contextmanager
def open_database(config: StoreConfig) -> Iterator[sa.Connection]:
    """Open a database beside the exporters that use it; SQLite overwrites with zeros what is deleted from its file.

    Raises
    ------
    StoreError
        When there is none, it is of another version, another command works on it, or it cannot be read or written.
    """
    address, url = check_url(config.url), shown_url(config.url)
    if not is_shared(address) and not Path(address.database or "").is_file():
        raise StoreError(f"store.url: there is no database {url}")
    engine = open_engine(config, COMMAND_SECONDS)
    try:
        with engine.connect() as connection, backend(connection).lock_commands(connection) as is_free:
            if not is_free:
                running = "another redact or archive command is running on it: wait until it ends"
                raise StoreError(f"store.url: {url}: {running}")
            if (version := stored_version(connection)) != SCHEMA_VERSION:
                hint = "start an exporter of this version once"
                raise StoreError(f"store.url: {url} has schema {version}, expected {SCHEMA_VERSION}: {hint}")
            connection.rollback()
            yield connection
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"store.url: {url}: {error_message(error)}; run the command again to continue") from None
    finally:
        engine.dispose()
