"""How labels, predictions and other texts are written in the tables, and how they and times are read from them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage._engine import (
    SCHEMA_VERSION,
    backend,
    check_url,
    error_message,
    is_shared,
    open_engine,
    shown_url,
)


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
_TYPES: Mapping[str, Any] = {"key": Key, "int": sa.Integer, "text": sa.Text, "float": sa.Float} | {
    "bool": sa.Boolean,
    "blob": sa.LargeBinary,
}


def _columns(texts: str) -> Iterator[sa.Column[Any]]:
    """Yield columns given as ``name type, name type``; a type ends with ``!`` if the column is never NULL."""
    for text in texts.split(", "):
        name, kind = text.rstrip("!").split()
        yield sa.Column(name, _TYPES[kind], nullable=not text.endswith("!"))


schema_table = sa.Table("schema", metadata, sa.Column("version", sa.Integer, primary_key=True))
predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
    # Clients' identifiers may be random: with the day first, only the index's last part changes and stays in memory.
    *_columns("day int!, id text!, model text!, version text!, time float!, received float!, prediction text"),
    *_columns("confidence float, code int!, duration_seconds float, confident bool!"),
    # Where its inputs are: a row of the table ``inputs``, and the place in it.
    *_columns("block key, place int, segment text"),
    sa.Index("predictions_day_id", "day", "id"),
    sqlite_autoincrement=True,  # the archive ends with a number, so none may be given twice
)
has_inputs = predictions.c.block.is_not(None)
# The JSON of the inputs of predictions of one model that were stored together; see `exporter.storage._predictions`.
inputs = sa.Table(
    "inputs",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    *_columns("model text!, rows int!, data blob!"),
    sqlite_autoincrement=True,
)
# In one row: the number of the last archived prediction, and the day before which predictions are being archived; see
# `exporter.storage._archive`. Nothing beyond the first is deleted for its age.
archived = sa.Table(
    "archived",
    metadata,
    sa.Column("seq", Key, nullable=False, default=0),
    sa.Column("day", sa.Integer, nullable=False, default=0),
)
# Labels that came too late for the archived row of their prediction, or that nothing came for, until they are
# archived, too.
late_labels = sa.Table(
    "late_labels",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
    *_columns("day int, id text!, model text, label text!, label_time float, loss float, received float!"),
    sqlite_autoincrement=True,  # files are named after the numbers, so none may be given twice
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    # Unique together with the prediction's model: two services may both use the identifiers 1, 2, 3.
    sa.Column("prediction_id", sa.Text, index=True),
    *_columns("joined bool!, model text, version text, predicted float, prediction text, confidence float"),
    *_columns("confident bool, inputs text, segment text, verdict text!, label text, user text, comment text"),
    *_columns("created float!, updated float!, counted bool!, status text!, revision int!, reviewed_label text"),
    *_columns("reviewer text, reviewed float"),
    sa.Column("released", sa.Boolean, nullable=False, default=False),
    sa.Column("sampled", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    *_columns("idempotency_key text"),
)
# Feedback that was replaced, and samples for review; the current feedback is in the table of feedback only.
history = sa.Table(
    "feedback_history",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", Key, nullable=False, index=True),
    *_columns("time float!, verdict text!, label text, user text, comment text"),
    sa.Column("idempotency_key", sa.Text, unique=True),
)


decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    sa.Column("feedback_id", Key, nullable=False, index=True),
    *_columns("time float!, reviewer text, status text!, label text, revision int!"),
    sa.Index("decisions_time", "time"),
)
# Accepted corrections whose label may be wrong, and the last check of each model: `exporter.storage._review_suspects`.
suspects = sa.Table(
    "suspects",
    metadata,
    sa.Column("feedback_id", Key, primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    # The correction as it was checked. With a later revision it is a suspect no more, whatever was decided.
    *_columns("revision int!, label text!"),
    # The label of most similar inputs; how many were compared, and how many have that label, and the correction's.
    *_columns("likely text!, compared int!, with_likely int!, with_label int!"),
)
label_checks = sa.Table(
    "label_checks",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    *_columns("time float!"),
    # The last decision, and the last feedback, of any model before the check.
    *_columns("decision key!, newest key!"),
    # How many accepted corrections were checked, and with how many other inputs they were compared.
    *_columns("checked int!, confirmed int!"),
)
windows = sa.Table(
    "windows",
    metadata,
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    *_columns("saved float!, data blob!"),
)
draws = sa.Table(
    "draws",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    *_columns("time float!"),
    # When the oldest prediction that could be drawn was received, and the number of confident predictions.
    *_columns("since float!, confident int!"),
)
bin_codes = sa.Table(
    "bin_codes",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
    *_columns("model text!, version text!"),
    # Of the profile and the inputs whose bins these are: other bins do not compare.
    *_columns("layout text!"),
    # When the first and the last of the predictions were received.
    *_columns("first float!, last float!, rows int!, data blob!"),
    sa.Index("bin_codes_last", "model", "last"),
)
WAITING = -1
"""The day of a label whose prediction has not arrived."""
labels = sa.Table(
    "labels",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=True),
    # The day of the prediction: a label is looked up where its prediction was found.
    *_columns("day int!, prediction_id text!, model text, version text, predicted float, prediction text"),
    *_columns("confidence float, segment text, label text!, loss float, time float!, received float!"),
    sa.Index("labels_day_prediction", "day", "prediction_id"),
    sa.Index("labels_loss", "model", "version", "predicted", "loss"),
)
is_waiting = labels.c.day == sa.literal_column(str(WAITING))
confidence_key = sa.func.coalesce(feedback.c.confidence, sa.literal_column("-1.0"))
"""The confidence to order by: databases sort NULL differently."""
# Labels are in no index: PostgreSQL refuses keys above 2.7 kB.
sa.Index("feedback_queue", *(feedback.c[name] for name in ("verdict", "joined", "status", "model", "created", "id")))
sa.Index(
    "feedback_surest",
    *(feedback.c[name] for name in ("verdict", "joined", "status", "model")),
    confidence_key,
    feedback.c.id,
)
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
is_accepted = feedback.c.status == sa.literal_column(
    "'accepted'"
)  # in the SQL text: with a parameter the index is not used
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
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    *_columns("sha256 text!, examples int!"),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    *_columns("created float!, by text, lineage text!"),
    # The build whose chunks are the release's; and whether its examples are marked as released yet.
    *_columns("build text!, marked bool!"),
)
release_chunks = sa.Table(
    "release_chunks",
    metadata,
    sa.Column("build", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    *_columns("created float!, data blob!"),
)

# Requests for retraining, see `exporter.storage._retraining`.
retrain_requests = sa.Table(
    "retrain_requests",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    *_columns("reason text!, created float!"),
    # Why it was made, as JSON; and the document that is sent, NULL until it is prepared.
    *_columns("context text!, body text"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # When it is sent next; NULL once it is delivered or given up.
    *_columns("next_attempt float, delivered float, error text"),
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
